"""One job in a process of its own: what it leaves in memory touches no other."""

import logging
import multiprocessing
import os
import sys
import threading

from benchmarks.jobs import job_function
from benchmarks.results import Found

log = logging.getLogger("benchmarks")


def run_alone(job: str) -> Found:
    """Run a job; called in the fresh process."""
    quiet()
    return job_function(job)()


def end_with_parent() -> None:
    """Let this process end as soon as the one that started it is gone, even if it was killed.

    The initializer of each pool of the suite: a job that goes on alone would spoil other timings.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a fresh process has been started by another"

    def watch() -> None:
        parent.join()  # it wakes at the end of the pipe that the parent holds open
        os._exit(1)

    threading.Thread(target=watch, name="end with parent", daemon=True).start()


def quiet() -> None:
    """Only the suite's own lines, and nothing asked of a network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
