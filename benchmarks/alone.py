"""One job in a process of its own: what it leaves in memory touches no other."""

import logging
import os
import sys

from benchmarks.jobs import job_function
from benchmarks.results import Found

log = logging.getLogger("benchmarks")


def run_alone(job: str) -> Found:
    """Run a job; called in the fresh process."""
    quiet()
    return job_function(job)()


def quiet() -> None:
    """Only the suite's own lines, and nothing asked of a network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    log.setLevel(logging.INFO)
