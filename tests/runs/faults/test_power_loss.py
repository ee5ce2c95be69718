"""A loss of power: what was not synced is lost, reordered or torn (`faulty_disks.Volatile`).

`kill -9` cannot show this, since the page cache survives the process. Afterwards every unit that
units.log names can be read and is right, and the run resumes. Without syncing, the same losses lose
units that are named.
"""

import contextlib
import dataclasses
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_study import UNITS, conduct, remembering, result, study_manifest, using, what_differs
from faulty_disks import Gone, Volatile, WithoutSync

from lesion.runs.local_folder import LocalFolder
from lesion.runs.store import commit_shard, read_unit

STEPS = 100
"""About as many as a study has that nothing was done of."""


def process(disk: Volatile, run: Path, counts: Path, step: int) -> bool:
    """A process that uses the disk and is gone at a step, or ends before; whether it was gone."""
    disk.stop_at(step)
    try:
        with using(disk), contextlib.suppress(Gone):
            conduct(run, UNITS, counts)
    finally:
        disk.stopped()
    return disk.gone


def lost_units(run: Path) -> list[int]:
    """The units that units.log names and that cannot be read, or are others."""
    folder, key = LocalFolder(run), study_manifest(UNITS).key
    with remembering():
        found = {unit: read_unit(folder, entry, key) for unit, entry in folder.records().items()}
    return [
        unit
        for unit, shard in found.items()
        if isinstance(shard, str) or not shard.table.equals(result(unit).table)
    ]


@dataclasses.dataclass(frozen=True)
class Outage:
    """What a machine finds when it comes up again."""

    run: Path
    struck: int
    named: int
    lost: list[int]


def outage(
    number: int, place: Path, make_disk: Callable[[Path], Volatile], *, times: int, ends: bool
) -> Outage:
    """A study, most often begun; its processes die, and its machine loses its power.

    The power is lost while the last process works, or just after it came to its end.
    """
    rng = random.Random(number)
    at = place / f"{number}-0"
    at.mkdir()
    if number % 3:
        process(Volatile(at), at / "studies" / "run", place / "counts", rng.randrange(40, 70))
    struck = named = 0
    lost: list[int] = []
    for again in range(times):
        disk = make_disk(at)
        run = at / "studies" / "run"
        for _ in range(rng.choice((0, 0, 1, 2))):  # these only die, the machine does not
            process(disk, run, place / "counts", rng.randrange(1, STEPS // 2))
        last = 0 if ends else rng.randrange(1, STEPS // 2)
        struck += process(disk, run, place / "counts", last)
        at = place / f"{number}-{again + 1}"
        disk.lose_power(rng, at)
        run = at / "studies" / "run"
        named += len(LocalFolder(run).records())
        lost += lost_units(run)
    return Outage(run, struck, named, lost)


@pytest.mark.parametrize(
    "outages", [500, pytest.param(5000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
)
def test_what_the_log_names_is_durable(place, whole, outages, record_property):
    struck = named = 0
    for number in itertools.count():
        found = outage(number, place, Volatile, times=1 + number % 2, ends=False)
        assert found.lost == [], f"study {number}"
        conduct(found.run, UNITS, place / "counts")
        # Nothing that has a name was torn: nothing was set aside.
        assert what_differs(found.run, whole) is None, f"study {number}"
        struck += found.struck
        named += found.named
        if struck >= outages:
            break
    record_property("outages", struck)
    record_property("units named", named)
    assert named > outages


@pytest.mark.parametrize("ignored", [("sync", "sync_directory"), ("sync",), ("sync_directory",)])
def test_without_syncing_named_units_are_lost(place, ignored, record_property):
    """The negative control: otherwise the test above would prove nothing."""

    def careless(base: Path) -> Volatile:
        return WithoutSync(base, ignored)

    losing = [
        number for number in range(50) if outage(number, place, careless, times=1, ends=True).lost
    ]
    record_property("losing of 50", len(losing))
    assert len(losing) >= 5


@pytest.mark.parametrize("operation", ["put", "create", "record", "record_all", "move"])
def test_what_returned_is_durable(place, operation):
    """Each write of a folder on its own, against 20 losses."""
    for number in range(20):
        base, after = place / f"before-{number}", place / f"after-{number}"
        base.mkdir()
        folder, entry = LocalFolder(base / "run", disk := Volatile(base)), result(0).record(b"x")
        folder.put("old", b"old")
        match operation:
            case "put":
                folder.put("run.json", b"content")
            case "create":
                folder.create("shards/a", b"content")
            case "record":
                folder.record(entry)
            case "record_all":
                folder.record_all([entry])
            case "move":
                folder.move("old", "shards/new")
        disk.lose_power(random.Random(number), after)
        found = LocalFolder(after / "run")
        assert found.sizes().keys() >= ({"old"} if operation != "move" else set())
        match operation:
            case "put":
                assert found.read("run.json") == b"content"
            case "create":
                assert found.read("shards/a") == b"content"
            case "move":
                assert (found.read("shards/new"), found.sizes()) == (b"old", {})
            case _:
                assert found.records() == {0: entry}


def test_the_shard_of_a_worker_that_died_is_durable_before_it_is_named(place):
    """One worker dies at any step of its commit; another one measures the unit again."""
    asked = study_manifest(UNITS)
    for step in range(1, 20):
        for number in range(5):
            base, after = place / f"{step}-{number}", place / f"after-{step}-{number}"
            base.mkdir()
            disk = Volatile(base)
            disk.stop_at(step)
            with contextlib.suppress(Gone):
                commit_shard(LocalFolder(base / "run", disk), result(0), asked)
            if not disk.gone:
                assert step > 8, "all steps were seen"
                return
            disk.stop_at(0)
            folder = LocalFolder(base / "run", disk)
            folder.record(commit_shard(folder, result(0), asked))
            disk.lose_power(random.Random(number), after)
            if (after / "run").exists():
                assert lost_units(after / "run") == []
    pytest.fail("it never came to its end")
