"""kill -9, at random moments and at every I/O step: the run resumes, bit for bit the same.

What was finished is not measured again, and nothing of the dead process stays behind.
"""

import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_study import UNITS, finished_in, measured, what_differs
from fork_server import Ended, ForkServer

DEPTH = 3
SECONDS_A_UNIT = 0.002


class Killing:
    """Studies that are killed, resumed, killed again, and come to their end."""

    def __init__(self, children: ForkServer, place: Path, whole: dict[str, bytes]) -> None:
        self.children, self.place, self.whole = children, place, whole
        self.kills = self.studies = self.stale = self.attempts = 0

    def attempt(self, run: Path, call: str, **arguments: object) -> Ended:
        """One process; what was finished before it began is not measured by it."""
        before, counts = finished_in(run), self.place / f"counts-{self.attempts}"
        self.attempts += 1
        ended = self.children.run(call, path=str(run), units=UNITS, counts=str(counts), **arguments)
        assert before.isdisjoint(measured(counts)), "a finished unit was measured again"
        assert finished_in(run) >= before, "a finished unit is gone"
        assert ended.returncode in (0, -signal.SIGKILL)
        self.kills += ended.returncode != 0
        self.stale += len(self.unfinished(run))
        counts.unlink(missing_ok=True)
        return ended

    def tell(self, record: Callable[[str, object], None]) -> None:
        """What was tried, for the table in docs/reliability.md."""
        for name in ("kills", "studies", "stale"):
            record(name, getattr(self, name))

    def unfinished(self, run: Path) -> list[Path]:
        return list((run / "tmp").glob("*"))

    def end(self, run: Path) -> None:
        """The last process is let live; then all is as if nothing had happened."""
        ended = self.attempt(run, "conduct")
        assert ended.returncode == 0
        assert ended.answer.keys() >= {"goes_on"}, ended.answer
        assert what_differs(run, self.whole) is None
        assert self.unfinished(run) == []
        self.studies += 1

    def at_random(self, rng: random.Random, seconds: float) -> None:
        """Kill up to `DEPTH` processes of a study at moments of the time that it takes."""
        run = self.place / f"run-{self.studies}"
        for _ in range(DEPTH):
            left = (UNITS - len(finished_in(run)) + 1) / (UNITS + 1)
            moment = rng.uniform(0, seconds * left)
            if self.attempt(run, "conduct", kill_after=moment, seconds=SECONDS_A_UNIT).returncode:
                continue
            break
        self.end(run)


@pytest.fixture
def killing(children, place, whole):
    return Killing(children, place, whole)


@pytest.mark.parametrize(
    "kills", [300, pytest.param(3000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_at_random_moments_and_while_resuming(killing, kills, record_property):
    rng = random.Random(4)
    timed = [
        killing.children.run(
            "conduct",
            path=str(killing.place / f"timed-{number}"),
            units=UNITS,
            counts=str(killing.place / "timed"),
            seconds=SECONDS_A_UNIT,
        ).answer["seconds"]
        for number in range(3)
    ]
    while killing.kills < kills:
        killing.at_random(rng, max(timed))
    killing.tell(record_property)
    assert killing.stale > 0, "no write was cut off: nothing was there to be swept"


def test_at_every_step(killing, record_property):
    """One more step each time, until the process comes to its end without being killed."""
    for last in range(1, 1000):
        run = killing.place / f"step-{last}"
        ended = killing.attempt(run, "conduct until", last=last)
        killing.end(run)
        if ended.returncode == 0:
            assert ended.answer == last - 1
            assert killing.kills == last - 1
            killing.tell(record_property)
            return
    pytest.fail("it never came to its end")


@pytest.mark.nightly
def test_at_every_step_and_at_every_step_of_resuming(killing, record_property):
    """All pairs of steps."""
    for first in range(1, 1000):
        for second in range(1, 1000):
            run = killing.place / f"pair-{first}-{second}"
            whole_first = killing.attempt(run, "conduct until", last=first).returncode == 0
            whole_second = killing.attempt(run, "conduct until", last=second).returncode == 0
            killing.end(run)
            if whole_second:
                break
        if whole_first:
            killing.tell(record_property)
            return
    pytest.fail("it never came to its end")
