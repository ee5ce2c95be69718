"""What is measured: one module a kind of job, each job a function that returns what it found."""

import importlib
from collections.abc import Callable

from benchmarks.results import Found

JOBS = {
    "sweep": "benchmarks.jobs.sweep:sweep_short",
    "sweep-256": "benchmarks.jobs.sweep:sweep_long",
    "memory": "benchmarks.jobs.weight:memory",
    "every-token": "benchmarks.jobs.every_token:every_token",
    "neurons": "benchmarks.jobs.neurons:neurons",
    "overhead": "benchmarks.jobs.overhead:overhead",
    "growth": "benchmarks.jobs.growth:growth",
    "gpu": "benchmarks.jobs.gpu:gpu",
}


def job_function(job: str) -> Callable[[], Found]:
    """What runs a job."""
    module, _, attribute = JOBS[job].partition(":")
    found: Callable[[], Found] = getattr(importlib.import_module(module), attribute)
    return found
