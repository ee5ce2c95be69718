"""Runs the open units of a run, here or in several processes, and commits each as it is done.

1. The units that are finished stay as they are.
2. Every open unit is measured and committed: by this process, or by workers that hold the model
   (`runs/workers.py`).
3. Then the shards that were finished before are read: one that is not what was written is set
   aside, and its unit is open again.
"""

import dataclasses
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable

from lesion.errors import RunDamaged
from lesion.prompt_sets.units import Unit
from lesion.runs.manifest import UnitRecord
from lesion.runs.shard import Shard
from lesion.runs.store import RunWriter

Moved = Callable[[int, int], object]
"""Called with the numbers of lesions of a unit that are done, and of all of them."""
Measure = Callable[[Unit, Moved | None], Shard]
OpenUnits = Callable[[Collection[int]], Iterable[Unit]]
"""The units of the run but those that are finished."""
TRIES = 3


class Job(ABC):
    """What a worker needs to measure units: frozen, and small enough to be sent. Abstract."""

    @abstractmethod
    def open(self, place: int) -> Measure:
        """Load the model once; `place` numbers the workers from 0, so that each takes its GPU."""


class Watch:
    """Sees a run move; the methods do nothing, and are there to be overridden.

    Attributes:
        units: how many units the run has.
        before: how many were finished before.
        finished: how many are finished now.
        rows: how many rows were measured by this call.
    """

    units = before = finished = rows = 0
    _begun = 0.0

    def __enter__(self) -> "Watch":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing moves any more."""

    def begin(self, units: int, finished: int) -> None:
        """Units are about to be measured."""
        self.units, self.before, self.finished, self.rows = units, finished, finished, 0
        self._begun = time.monotonic()
        self.changed()

    def unit(self, record: UnitRecord) -> None:
        """A unit was committed."""
        self.finished += 1
        self.rows += record.rows
        self.changed()

    @property
    def seconds(self) -> float:
        """Since `begin`."""
        return time.monotonic() - self._begun

    @property
    def remaining_seconds(self) -> float | None:
        """At the rate of the units so far; None before the first."""
        done = self.finished - self.before
        return self.seconds / done * (self.units - self.finished) if done else None

    def changed(self) -> None:
        """Some of the numbers are others now."""

    def lesions(self, done: int, total: int) -> None:
        """So many lesions of the present unit are done; only where this process measures."""


Way = Callable[[RunWriter, Iterable[Unit], Watch], None]
"""How units are measured and committed: here, or by workers."""


def run_units(writer: RunWriter, open_units: OpenUnits, way: Way, watch: Watch) -> None:
    """Measure and commit every unit that is not finished.

    Raises:
        RunDamaged: a shard is not what was written, again and again.
        UnitFailed: a unit's workers died as often as it may be tried.
        LesionError: whatever measuring refuses.
    """
    earlier = sorted(writer.finished)
    for _ in range(TRIES):
        watch.begin(writer.manifest.prompts.units, len(writer.finished))
        way(writer, open_units(writer.finished), watch)
        damaged = writer.damaged_units(earlier)
        if not damaged:
            return
        for unit in damaged:
            writer.set_aside(unit)
    raise RunDamaged(
        f"run in {writer.folder.path}",
        f"units {damaged} were measured {TRIES} times, and their shards do not stay as written",
        "A shard reads back as it was written",
        "Check the disk, or choose another directory",
    )


@dataclasses.dataclass(frozen=True)
class Here:
    """One unit after the other in this process."""

    measure: Measure

    def __call__(self, writer: RunWriter, units: Iterable[Unit], watch: Watch) -> None:
        for unit in units:
            watch.unit(writer.commit(self.measure(unit, watch.lesions)))
