"""Contestants in turn: every round runs each once, so that drift of the machine hits all alike."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping

log = logging.getLogger("benchmarks")


def in_turn(contestants: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each run, by contestant; A B C, A B C, …"""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(rounds):
        for name, run in contestants.items():
            seconds[name].append(timed(run))
            log.info("  round %d  %-20s %9.3f s", number + 1, name, seconds[name][-1])
    return seconds


def timed(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median(seconds: list[float]) -> float:
    """The middle one."""
    return statistics.median(seconds)


def first_line(error: BaseException) -> str:
    """An error in one line, with its class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
