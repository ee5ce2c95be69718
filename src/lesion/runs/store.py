"""A run as it is written: claimed by one process, begun or resumed, one shard a finished unit.

    run.json            the manifest, with a checksum of its own; written once
    units.log           a line a finished unit (an object store: commits/, an object a unit)
    shards/000000.parquet …   a unit's table, which proves itself (`runs/shard.py`)
    figures/            pictures, which can be drawn again
    run.lock, tmp/      of the process that writes

A unit is finished when its shard stands under its name and its record is written down. Whatever is
found to be damaged is set aside as `….bad` and measured again; nothing of it is ever served.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lesion.errors import BadShard, RunDamaged, RunDiffers, RunExists, RunNotFound
from lesion.runs.equality import check_same
from lesion.runs.folder import LOCK, Folder, Lock
from lesion.runs.manifest import Manifest, UnitRecord, differences
from lesion.runs.opening import open_folder
from lesion.runs.run_json import MANIFEST, manifest_bytes, read_manifest
from lesion.runs.shard import Shard, bad_shard, from_bytes, shard_name, to_bytes

SHARDS, FIGURES = "shards", "figures"
_WRITTEN = {
    "": re.compile(r"units\.log|run\.json(\.bad\d*)?"),
    SHARDS: re.compile(r"\d{6,}\.parquet(\.bad\d*)?", re.ASCII),
    FIGURES: re.compile(r".+\.(html|png)"),
    "commits": re.compile(r".+\.json"),
}
"""What a run writes, by directory. Nothing else is ever removed."""
_MARKS = {MANIFEST, f"{MANIFEST}.bad", SHARDS, "units.log", "commits", LOCK}
"""One of these stands in the directory of every run that was begun."""
_WORDS = (b'"schema_version"', b'"fingerprint"', b'"checksum"')
"""By these a damaged run.json of ours is told from the one of somebody else."""
_PLACE = "A run is written to a new directory, or over an older run when that is asked for"


class RunWriter:
    """The one writer of a run, from `claim` to the end of the `with` block."""

    def __init__(self, folder: Folder, lock: Lock, manifest: Manifest | None) -> None:
        self.folder = folder
        self.stored = manifest
        """The manifest of the run that stands there; None if there is none."""
        self.finished: dict[int, UnitRecord] = {}
        self._lock = lock
        self._begun: Manifest | None = None

    @property
    def manifest(self) -> Manifest:
        """That of the run that was begun or resumed."""
        assert self._begun is not None, "begin() comes first"
        return self._begun

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()
        if self.stored is None and self._begun is None:
            self.folder.remove_if_empty()

    def begin(self, manifest: Manifest, *, overwrite: bool = False) -> bool:
        """Start a run, or go on with the same one that stands there; whether it goes on.

        Raises:
            RunDiffers: another run stands there, naming the fields; with `overwrite` it is removed.
            RunNotWritable: the disk is full or cannot be written.
        """
        if self.stored is not None and not overwrite:
            _check_same_run(self.folder.path, self.stored, manifest)
            self._begun = self.stored
            self.finished = self._sound_units()
            return True
        if overwrite:
            self._remove_run()
        self.folder.put(MANIFEST, manifest_bytes(manifest))
        self._begun = manifest
        self.finished = self._sound_units()
        return bool(self.finished)

    def commit(self, shard: Shard) -> UnitRecord:
        """Make a unit's shard durable, and write down that it is finished.

        A shard that is there already stays: the first wins, and a second must be equal.

        Raises:
            RunDamaged: the shard that is there says something else.
            RunNotWritable: the disk is full or cannot be written.
        """
        record = commit_shard(self.folder, shard, self.manifest)
        self.add(record)
        return record

    def add(self, record: UnitRecord) -> None:
        """Write down that a unit is finished, whose shard another process made durable."""
        self.folder.record(record)
        self.finished[record.unit] = record

    def set_aside(self, unit: int) -> None:
        """A unit's shard is damaged: it is kept as `….bad`, and the unit is open again."""
        set_aside(self.folder, shard_name(unit))
        self.finished.pop(unit, None)

    def damaged_units(self, units: Iterable[int]) -> list[int]:
        """Those of some finished units whose shards are not what was written; all is read."""
        key = self.manifest.key
        return [
            unit
            for unit in units
            if isinstance(read_unit(self.folder, self.finished[unit], key), str)
        ]

    def _sound_units(self) -> dict[int, UnitRecord]:
        """The finished units, by records and sizes; shards without a record are read.

        A shard of another size than recorded, or one that does not prove itself, is set aside.
        """
        self.folder.sweep()
        records, key = self.folder.records(), self.manifest.key
        found = {}
        for unit, size in stored_units(self.folder):
            record = sound_record(self.folder, unit, size, records.get(unit), key)
            if record is None:
                set_aside(self.folder, shard_name(unit))
            else:
                found[unit] = record
        new = [record for unit, record in found.items() if records.get(unit) is not record]
        if len(new) == 1:
            self.folder.record(new[0])
        elif new:
            self.folder.record_all(list(found.values()))
        return found

    def _remove_run(self) -> None:
        # The manifest first: what is left over of the rest is then no run.
        self.folder.remove(MANIFEST)
        self.stored = None
        for under, ours in _WRITTEN.items():
            for name in self.folder.sizes(under):
                if ours.fullmatch(name):
                    self.folder.remove(f"{under}/{name}" if under else name)


@contextlib.contextmanager
def claim(path: str | Path, *, overwrite: bool = False) -> Iterator[RunWriter]:
    """Be the one who writes a run at a path, whether it is new or stands there.

    Raises:
        RunExists: something else than a run stands there.
        RunInUse: another process writes it.
        RunNotWritable: nothing can be written there.
    """
    folder = open_folder(path)
    before = folder.entries()
    if not _is_free(folder, before) and not before & _MARKS:
        raise _something_else(folder)  # before a lock is written there
    lock = folder.lock()
    with contextlib.ExitStack() as stack:
        stack.callback(lock.release)
        writer = RunWriter(folder, lock, _stored_manifest(folder, before, overwrite))
        stack.pop_all()
    with writer:
        yield writer


def commit_shard(folder: Folder, shard: Shard, manifest: Manifest) -> UnitRecord:
    """Make a shard durable under its name, unless an equal one is there; its record.

    Raises:
        RunDamaged: the one that is there says something else.
    """
    content = to_bytes(shard, manifest)
    from_bytes(content)  # checksums and seal, before anything has its name
    if folder.create(shard_name(shard.unit), content):
        return shard.record(content)
    try:
        there = folder.read(shard_name(shard.unit))
        first, own = from_bytes(there)
    except (BadShard, FileNotFoundError, RunDamaged):
        there, first, own = b"", shard, None
    if own is None or (own.key, first.unit) != (manifest.key, shard.unit):
        # Damaged, or of a worker whose driver was gone before this run was begun.
        set_aside(folder, shard_name(shard.unit))
        return commit_shard(folder, shard, manifest)
    check_same(folder.path, first, shard)
    return dataclasses.replace(first, measuring=shard.measuring).record(there)


def read_unit(folder: Folder, record: UnitRecord, key: str) -> Shard | str:
    """A unit's shard, proven; or what is wrong with it, in words."""
    name = shard_name(record.unit)
    try:
        content = folder.read(name)
        _check_as_recorded(content, record)
        shard, manifest = from_bytes(content)
    except FileNotFoundError:
        return f"{name} is missing"
    except BadShard as error:
        return f"{name}: {error.found}"
    except RunDamaged as error:
        return error.found
    if (manifest.key, shard.unit) != (key, record.unit):
        return f"{name} belongs to another run or unit"
    return dataclasses.replace(shard, measuring=record.measuring)


def _check_as_recorded(content: bytes, record: UnitRecord) -> None:
    if len(content) != record.bytes:
        raise bad_shard(f"it has {len(content)} bytes, and {record.bytes} were written")
    if hashlib.sha256(content).hexdigest() != record.sha256:
        raise bad_shard("it is not what was written (SHA-256)")


def set_aside(folder: Folder, name: str) -> str:
    """Keep a damaged file as `….bad`; the new name."""
    under, _, own = name.rpartition("/")
    taken = folder.sizes(under)
    bad = next(
        new for number in range(len(taken) + 2)
        if (new := f"{own}.bad" if number == 0 else f"{own}.bad{number}") not in taken
    )  # fmt: skip
    new = f"{under}/{bad}" if under else bad
    with contextlib.suppress(FileNotFoundError):
        folder.move(name, new)
    return new


def looks_like_run(folder: Folder) -> bool:
    """Whether any file of a run lies there.

    Raises:
        RunExists: a file stands there.
    """
    return bool(folder.entries() & (_MARKS - {LOCK}))


def rebuilt_manifest(folder: Folder) -> Manifest | None:
    """The manifest that the shards carry; None where no shard proves itself."""
    for name in sorted(folder.sizes(SHARDS)):
        if unit_of(name) is not None:
            with contextlib.suppress(BadShard, FileNotFoundError, RunDamaged):
                return from_bytes(folder.read(f"{SHARDS}/{name}"))[1]
    return None


def _stored_manifest(folder: Folder, before: set[str], overwrite: bool) -> Manifest | None:
    """That of the run that stands there; rebuilt from its shards if run.json is lost or damaged.

    Args:
        before: what stood there before it was locked.

    Raises:
        RunExists: something else than a run stands there, or one of another version that is not to
            be overwritten.
    """
    there = MANIFEST in folder.sizes()
    if there:
        try:
            return read_manifest(folder)
        except RunNotFound as error:
            if overwrite:
                return None
            remedy = "Pass overwrite (--overwrite) to replace it, or choose another directory"
            raise RunExists(f"write to {folder.path}", error.found, _PLACE, remedy) from None
        except RunDamaged:
            pass
    rebuilt = rebuilt_manifest(folder)
    if rebuilt is None and not _is_ours(folder, before):
        raise _something_else(folder)
    if there:
        set_aside(folder, MANIFEST)
    if rebuilt is not None:
        folder.put(MANIFEST, manifest_bytes(rebuilt))
    return rebuilt


def _is_free(folder: Folder, before: set[str]) -> bool:
    """Whether nothing stands there but what is left of a process that was gone at once."""
    return before <= {"tmp"} and folder.sizes("tmp").keys() == set(folder.unfinished())


def _is_ours(folder: Folder, before: set[str]) -> bool:
    """Whether a directory without a sound manifest or shard is nevertheless none of a stranger."""
    if not all(_WRITTEN[SHARDS].fullmatch(name) for name in folder.sizes(SHARDS)):
        return False
    if MANIFEST not in before:
        return _is_free(folder, before) or bool(
            before & {f"{MANIFEST}.bad", LOCK} or folder.records()
        )
    try:
        content = folder.read(MANIFEST)
    except FileNotFoundError:
        return False  # a directory of that name
    except RunDamaged:
        return True
    return not content.strip(b"\0") or any(word in content for word in _WORDS)


def _check_same_run(path: str, old: Manifest, new: Manifest) -> None:
    found = list(differences(old, new))
    if found:
        fields = ", ".join(
            f"{name} was {_short(was)}, is {_short(now)}" for name, was, now in found
        )
        raise RunDiffers(
            f"resume {path}",
            fields,
            "A run is resumed with the plan, model, prompts and versions that it was begun with",
            "Repeat the command that began it, pass overwrite (--overwrite) to start anew, or "
            "another directory",
        )


def stored_units(folder: Folder) -> list[tuple[int, int]]:
    """The units whose shards stand in a run, in order, and the sizes of those."""
    found = ((unit_of(name), size) for name, size in folder.sizes(SHARDS).items())
    return sorted((unit, size) for unit, size in found if unit is not None)


def sound_record(
    folder: Folder, unit: int, size: int, record: UnitRecord | None, key: str
) -> UnitRecord | None:
    """The record of a shard: the one that was written down if it has that size, else its own.

    None for a shard that does not prove itself to be that unit of this run.
    """
    if record is not None and record.bytes == size:
        return record
    try:
        content = folder.read(shard_name(unit))
        shard, manifest = from_bytes(content)
    except (BadShard, FileNotFoundError, RunDamaged):
        return None
    return shard.record(content) if (shard.unit, manifest.key) == (unit, key) else None


def unit_of(name: str) -> int | None:
    """The unit whose shard has a file name; None for other files."""
    number = name.partition(".")[0]
    unit = int(number) if number.isdecimal() else -1
    return unit if unit >= 0 and shard_name(unit) == f"{SHARDS}/{name}" else None


def _something_else(folder: Folder) -> RunExists:
    found = "something else stands there"
    return RunExists(f"write to {folder.path}", found, _PLACE, "Choose another directory")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
