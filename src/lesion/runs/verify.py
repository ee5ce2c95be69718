"""Is every byte of a run as it was written? And the repair of what is not.

`verify` reads all and changes nothing:

1. run.json has the content that its manifest and its checksum give;
2. every line of units.log has its checksum, and names a shard that is there;
3. every shard has the size and SHA-256 of its record, the checksums of its pages, and its seal, and
   belongs to this run.

`repair` then keeps what proves itself and sets the rest aside as `….bad`: run.json is rebuilt from
a shard, units.log written again, and the units of bad shards are open: the same command measures
them.
"""

import contextlib
import dataclasses
from pathlib import Path

from lesion.errors import RunDamaged, RunExists, RunNotFound
from lesion.runs.folder import Folder
from lesion.runs.manifest import Manifest, UnitRecord
from lesion.runs.opening import open_folder
from lesion.runs.run_json import MANIFEST, manifest_bytes, read_manifest
from lesion.runs.shard import shard_name
from lesion.runs.store import (
    SHARDS,
    looks_like_run,
    read_unit,
    rebuilt_manifest,
    set_aside,
    sound_record,
    stored_units,
    unit_of,
)

_RECORDS, _UNFINISHED = "units.log", "tmp"


@dataclasses.dataclass(frozen=True)
class WrongFile:
    """A file of a run that is not what was written, and why, in words."""

    name: str
    found: str


@dataclasses.dataclass(frozen=True)
class Verification:
    """What is right and wrong with a run.

    `finished` lists the units whose shards are what was written, `missing` the others of the plan
    (none where run.json is lost: then nobody knows). `bytes` were read in `files` files. `strays`
    are files that no run reads: writes that did not come to their end, what was set aside, and
    what is of somebody else. `mended` says what a repair did.
    """

    path: str
    files: int
    bytes: int
    finished: tuple[int, ...]
    missing: tuple[int, ...]
    wrong: tuple[WrongFile, ...]
    strays: tuple[str, ...]
    mended: tuple[str, ...] = ()

    @property
    def sound(self) -> bool:
        """Whether everything that is there is what was written; units may be missing."""
        return not self.wrong


def verify(path: str | Path) -> Verification:
    """Read every byte of a run, and say what is not as it was written.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
    """
    folder = _folder(path)
    manifest, wrong = _verified_manifest(folder)
    known = manifest or rebuilt_manifest(folder)
    key = known.key if known else ""
    wrong += [WrongFile(_RECORDS, found) for found in _damaged_records(folder)]
    records, stored, finished = _records(folder), dict(stored_units(folder)), []
    for unit, size in stored.items():
        found = _wrong_with(folder, unit, size, records.get(unit), key)
        if found is None:
            finished.append(unit)
        else:
            wrong.append(WrongFile(shard_name(unit), found))
    wrong += [
        WrongFile(shard_name(unit), "is missing, and was finished")
        for unit in sorted(records.keys() - stored.keys())
    ]
    sizes = [size for name, size in folder.sizes().items() if name in (MANIFEST, _RECORDS)]
    return Verification(
        path=folder.path,
        files=len(sizes) + len(stored),
        bytes=sum(sizes) + sum(stored.values()),
        finished=tuple(finished),
        missing=tuple(sorted(set(range(known.prompts.units if known else 0)) - set(finished))),
        wrong=tuple(wrong),
        strays=tuple(_strays(folder)),
    )


def repair(path: str | Path) -> Verification:
    """Keep what proves itself, set the rest aside, and say what is left to be measured.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
        RunInUse: another process writes it.
        RunNotWritable: nothing can be written there.
        RunDamaged: run.json cannot be rebuilt, since no shard proves itself.
    """
    folder = _folder(path)
    lock = folder.lock()
    try:
        mended = [f"{name} removed" for name in folder.sizes(_UNFINISHED)]
        folder.sweep()
        mended += _repair_manifest(folder)
        manifest = read_manifest(folder)
        mended += _repair_units(folder, manifest)
    finally:
        lock.release()
    return dataclasses.replace(verify(path), mended=tuple(mended))


def _folder(path: str | Path) -> Folder:
    folder = open_folder(path)
    with contextlib.suppress(RunExists):  # a file: told below
        if looks_like_run(folder):
            return folder
    rule = "A run is a directory with run.json and shards/*.parquet"
    raise RunNotFound(f"verify {path}", "there is no run", rule, "Check the path")


def _verified_manifest(folder: Folder) -> tuple[Manifest | None, list[WrongFile]]:
    """The manifest, and what is wrong with run.json.

    Raises:
        RunNotFound: a run of another version.
    """
    if MANIFEST not in folder.entries():
        return None, [WrongFile(MANIFEST, "is missing")]
    try:
        manifest = read_manifest(folder)
        if folder.read(MANIFEST) != manifest_bytes(manifest):
            return manifest, [WrongFile(MANIFEST, "says the same, but not as it was written")]
    except RunDamaged as error:
        return None, [WrongFile(MANIFEST, error.found.removeprefix(f"{MANIFEST} "))]
    return manifest, []


def _records(folder: Folder) -> dict[int, UnitRecord]:
    with contextlib.suppress(RunDamaged):
        return folder.records()
    return {}


def _damaged_records(folder: Folder) -> list[str]:
    try:
        return folder.damaged_records()
    except RunDamaged as error:
        return [error.found.removeprefix(f"{_RECORDS} ")]


def _wrong_with(
    folder: Folder, unit: int, size: int, record: UnitRecord | None, key: str
) -> str | None:
    """What is wrong with a shard, in words that follow its name."""
    if record is None:
        proven = sound_record(folder, unit, size, None, key)
        return "has no record" if proven else "has no record and does not prove itself"
    shard = read_unit(folder, record, key)
    return shard.removeprefix(shard_name(unit)).lstrip(": ") if isinstance(shard, str) else None


def _strays(folder: Folder) -> list[str]:
    own = [name for name in folder.sizes() if name.startswith(f"{MANIFEST}.bad")]
    shards = [f"{SHARDS}/{name}" for name in folder.sizes(SHARDS) if unit_of(name) is None]
    return sorted([*own, *shards, *(f"{_UNFINISHED}/{name}" for name in folder.sizes(_UNFINISHED))])


def _repair_manifest(folder: Folder) -> list[str]:
    """Rebuild run.json where it is not as it was written; what was done."""
    manifest, wrong = _verified_manifest(folder)
    if not wrong:
        return []
    rebuilt = manifest or rebuilt_manifest(folder)
    if rebuilt is None:
        raise RunDamaged(
            f"repair {folder.path}",
            f"{MANIFEST} {wrong[0].found}, and no shard proves itself",
            "What a run was stands in run.json and in every shard",
            "Repeat the command that wrote it: it begins anew",
        )
    aside = [set_aside(folder, MANIFEST)] if MANIFEST in folder.entries() else []
    folder.put(MANIFEST, manifest_bytes(rebuilt))
    return [*(f"{MANIFEST} set aside as {name}" for name in aside), f"{MANIFEST} rebuilt"]


def _repair_units(folder: Folder, manifest: Manifest) -> list[str]:
    """Set bad shards aside and write down what is finished; what was done."""
    records, kept, done = _records(folder), {}, []
    for unit, size in stored_units(folder):
        record = records.get(unit)
        if record is None or isinstance(read_unit(folder, record, manifest.key), str):
            record = sound_record(folder, unit, size, None, manifest.key)
        if record is None:
            done.append(f"{shard_name(unit)} set aside as {set_aside(folder, shard_name(unit))}")
        else:
            kept[unit] = record
    if kept != records or _damaged_records(folder):
        folder.record_all(list(kept.values()))
        done.append(f"{_RECORDS} written again: {len(kept)} units are finished")
    return done
