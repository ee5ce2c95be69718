"""`python -m benchmarks check | run [JOB ...] | report`."""

import argparse
import concurrent.futures
import logging
import multiprocessing
import sys
import time

import torch

from benchmarks.alone import end_with_parent, quiet, run_alone
from benchmarks.check import check
from benchmarks.jobs import JOBS
from benchmarks.report import report
from benchmarks.results import entry_of, write

log = logging.getLogger("benchmarks")


def main() -> int:
    """0 where all went well, 1 where the check found a difference or a job failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("check", help="every contestant agrees on a tiny model")
    running = commands.add_parser("run", help="measure; all jobs unless some are named")
    running.add_argument("jobs", nargs="*", metavar="JOB", help=", ".join(JOBS))
    commands.add_parser("report", help="write docs/benchmarks.md and its picture")
    asked = parser.parse_args()
    quiet()
    if asked.command == "check":
        return 0 if check() else 1
    if asked.command == "report":
        report()
        return 0
    unknown = [job for job in asked.jobs if job not in JOBS]
    if unknown:
        parser.error(f"there is no job {unknown[0]!r}; jobs are {', '.join(JOBS)}")
    return _run(asked.jobs or list(JOBS))


def _run(jobs: list[str]) -> int:
    failed = 0
    for job in jobs:
        if job == "gpu" and not torch.cuda.is_available():
            log.info("gpu: left out, there is none")
            continue
        log.info("%s", job)
        start = time.perf_counter()
        fresh = multiprocessing.get_context("spawn")
        try:
            with concurrent.futures.ProcessPoolExecutor(
                1, mp_context=fresh, initializer=end_with_parent
            ) as pool:
                found = pool.submit(run_alone, job).result()
        except Exception:
            log.exception("%s failed", job)
            failed = 1
            continue
        took = time.perf_counter() - start
        write(entry_of(job, found, took))
        for target in found.targets:
            word = "met   " if target.met else "MISSED"
            log.info("  %s  %s: %s %s", word, target.what, target.value, target.unit)
        log.info("%s: %.0f s", job, took)
    return failed


if __name__ == "__main__":
    sys.exit(main())
