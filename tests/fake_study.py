"""A study that measures nothing, so that all around it can be hurt; torch is never imported.

The rows of a unit follow from its number alone. Every measurement is written down where a test can
count it.
"""

import contextlib
import dataclasses
import functools
import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from small_run import manifest, measuring, prompt, row, table

from lesion.prompt_sets.rows import PromptRow
from lesion.prompt_sets.units import Unit
from lesion.runs import local_folder, store
from lesion.runs.disk import Disk
from lesion.runs.manifest import Manifest
from lesion.runs.runner import Here, Job, Measure, Watch, Way, run_units
from lesion.runs.shard import Shard, to_bytes
from lesion.runs.store import claim

UNITS, ROWS = 4, 2
"""Of a study, and of each of its units, unless a test says otherwise."""


def study_manifest(units: int, **changed: object) -> Manifest:
    """The manifest of a study of so many units, one prompt each."""
    asked = manifest().prompts.model_copy(update={"rows": units, "unit_size": 1})
    return manifest(**({"prompts": asked} | changed))


def open_units(units: int, finished: Collection[int] = ()) -> Iterator[Unit]:
    """The units of a study that are not finished."""
    for number in range(units):
        if number not in finished:
            yield Unit(number, (PromptRow(number, f"prompts[{number}]", f"prompt {number}"),))


@functools.cache
def result(unit: int, seed: int = 0, rows: int = ROWS) -> Shard:
    """What is measured of a unit."""
    effects = np.random.default_rng([unit, seed]).normal(size=rows)
    found = [row(layer, 0.5, float(effect), prompt_id=unit) for layer, effect in enumerate(effects)]
    return Shard(unit, table(*found), (prompt(prompt_id=unit),), measuring())


def counted(counts: Path, seconds: float = 0.0) -> Measure:
    """Measuring that writes down, a line each, which units it measured."""

    def measure(unit: Unit, moved: object) -> Shard:
        with counts.open("a", encoding="utf-8") as file:
            file.write(f"{unit.number}\n")
        time.sleep(seconds)
        return result(unit.number)

    return measure


@dataclasses.dataclass(frozen=True)
class FakeJob(Job):
    """Counted measuring in a worker; `deadly` units kill it so many times."""

    counts: str
    deadly: tuple[tuple[int, int], ...] = ()
    seconds: float = 0.0

    def open(self, place: int) -> Measure:
        """As the model is loaded: who does it is written down."""
        measure = counted(Path(self.counts), self.seconds)
        with Path(f"{self.counts}.pids").open("a", encoding="utf-8") as file:
            file.write(f"{os.getpid()}\n")

        def lethal(unit: Unit, moved: object) -> Shard:
            found = measure(unit, moved)
            times = dict(self.deadly).get(unit.number, 0)
            if measured(Path(self.counts)).count(unit.number) <= times:
                os.kill(os.getpid(), 9)
            return found

        return lethal


def measured(counts: Path) -> list[int]:
    """The units that were measured, in order."""
    text = counts.read_text(encoding="utf-8") if counts.exists() else ""
    return [int(line) for line in text.split()]


def conduct(
    path: str | Path,
    units: int,
    counts: str | Path,
    *,
    seconds: float = 0.0,
    way: Way | None = None,
    watch: Watch | None = None,
    asked: Manifest | None = None,
) -> bool:
    """Begin a study or go on with it, to its end; whether it went on."""
    with remembering(), claim(path) as writer:
        goes_on = writer.begin(asked or study_manifest(units))
        run_units(
            writer,
            functools.partial(open_units, units),
            way or Here(counted(Path(counts), seconds)),
            watch or Watch(),
        )
    return goes_on


@contextlib.contextmanager
def using(disk: Disk) -> Iterator[None]:
    """Directories lie on this disk."""
    real = local_folder.Disk
    local_folder.Disk = lambda: disk
    try:
        yield
    finally:
        local_folder.Disk = real


_from_bytes = functools.lru_cache(maxsize=64)(store.from_bytes)
_contents: dict[tuple[Shard, str], bytes] = {}


def _to_bytes(shard: Shard, asked: Manifest) -> bytes:
    key = (shard, asked.model_dump_json())
    if key not in _contents:
        _contents[key] = to_bytes(shard, asked)
    return _contents[key]


@contextlib.contextmanager
def remembering() -> Iterator[None]:
    """Parquet is written and read once for equal contents: the same results in a tenth of the time.

    Both ways are functions of what they are given; what is tried here is what happens in between.
    """
    real = store.to_bytes, store.from_bytes
    store.to_bytes, store.from_bytes = _to_bytes, _from_bytes
    try:
        yield
    finally:
        store.to_bytes, store.from_bytes = real


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def finished_in(run: Path) -> set[int]:
    """The units whose shards have their names."""
    return {int(path.stem) for path in (run / "shards").glob("*.parquet")}


def what_differs(run: Path, whole: dict[str, bytes], *, bad: int = 0) -> str | None:
    """What is not as in the run that nothing happened to; None if nothing is."""
    found = files_in(run)
    aside = {name for name in found if ".bad" in name}
    if len(aside) != bad:
        return f"set aside: {sorted(aside)}"
    found = {name: content for name, content in found.items() if name not in aside}
    if found.keys() != whole.keys():
        return f"other files: {sorted(found.keys() ^ whole.keys())}"
    for name, content in found.items():
        if name != "units.log" and content != whole[name]:
            return f"{name} has other bytes"
    one, other = (_finished_by(log) for log in (found["units.log"], whole["units.log"]))
    return None if one == other else "units.log says something else"


def _finished_by(log: bytes) -> set[tuple[object, ...]]:
    """What a log says of the units; how they were measured is not known after some faults."""
    entries = map(local_folder.entry_of, log.split(b"\n"))
    return {
        (entry.unit, entry.sha256, entry.bytes, entry.rows, entry.nonfinite)
        for entry in entries
        if entry is not None
    }
