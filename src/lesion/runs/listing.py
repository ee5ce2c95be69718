"""The runs below a directory, as their manifests and records tell: no shard's content is read.

A directory without a sign of a run is passed over; a run that cannot be read whole is listed with
the reason. Links and hidden directories are not followed.
"""

import dataclasses
import datetime
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lesion.errors import RunDamaged, RunError, RunNotFound
from lesion.runs.folder import Folder
from lesion.runs.manifest import Manifest
from lesion.runs.opening import open_folder
from lesion.runs.run_json import MANIFEST, read_manifest
from lesion.runs.shard import shard_name
from lesion.runs.store import SHARDS, sound_record, stored_units

_OLDEST = datetime.datetime.min.replace(tzinfo=datetime.UTC)


@dataclasses.dataclass(frozen=True)
class ListedRun:
    """A run as a list shows it; `units` and `rows` are those that are finished.

    `name` is relative to the directory that was asked about. `wrong` says why the run cannot be
    read whole, None where nothing is known against it: no shard's content was looked at. Without a
    readable run.json there is no `manifest`.
    """

    name: str
    path: Path
    manifest: Manifest | None
    units: int
    rows: int
    wrong: str | None

    @property
    def question(self) -> str:
        """What was asked, in short."""
        plan = {} if self.manifest is None else self.manifest.plan
        words = (_word(plan.get(word)) for word in ("select", "site", "replace", "scope"))
        select, site, replace, scope = words
        return f"{select} at {site}, {replace}, {scope}" if plan else ""

    @property
    def created(self) -> datetime.datetime | None:
        """When it was begun; None where nothing tells."""
        created = None if self.manifest is None else self.manifest.created
        if created is None:
            return None
        return created if created.tzinfo else created.replace(tzinfo=datetime.UTC)


def list_runs(folder: str | Path) -> list[ListedRun]:
    """The runs at and below a directory here, newest first, those without a date last.

    Raises:
        RunNotFound: there is no such directory.
    """
    top = Path(folder)
    if not top.is_dir():
        raise RunNotFound(
            f"list the runs below {folder}",
            "a file stands there" if top.exists() else "there is no such directory",
            "Runs are listed below a directory here; a command writes them below runs",
            "Name the directory: lesion runs DIR",
        )
    found = sorted(_runs_below(top), key=lambda run: run.name)
    return sorted(found, key=lambda run: run.created or _OLDEST, reverse=True)


def _runs_below(top: Path) -> Iterator[ListedRun]:
    for place, below, _ in os.walk(top):
        run = _listed(Path(place), os.path.relpath(place, top))
        if run is not None:
            yield run
            below.clear()
        else:
            below[:] = [name for name in below if not name.startswith(".")]


def _listed(path: Path, name: str) -> ListedRun | None:
    """The run in a directory; None where none is."""
    folder = open_folder(path)
    manifest = None
    try:
        try:
            if not _is_run(folder):
                return None
            manifest = read_manifest(folder)
        except RunNotFound as error:
            if (path / MANIFEST).exists():
                return ListedRun(name, path, None, 0, 0, error.found)
            return ListedRun(name, path, None, 0, 0, "run.json is missing")
        except RunDamaged as error:
            return ListedRun(name, path, None, 0, 0, error.found)
        units, rows, wrong = _finished(folder, manifest)
        return ListedRun(name, path, manifest, units, rows, wrong)
    except (OSError, RunError) as error:
        reason = getattr(error, "found", None) or getattr(error, "strerror", None) or str(error)
        return ListedRun(name, path, manifest, 0, 0, f"it cannot be read ({reason})")


def _finished(folder: Folder, manifest: Manifest) -> tuple[int, int, str | None]:
    """How many units and rows are finished, and what is wrong with the others."""
    records, units, rows, wrong = folder.records(), 0, 0, []
    for unit, size in stored_units(folder):
        record = sound_record(folder, unit, size, records.get(unit), manifest.key)
        if record is None:
            wrong.append(f"{shard_name(unit)} is not what was written")
        else:
            units, rows = units + 1, rows + record.rows
    return units, rows, "; ".join(wrong) or None


def _is_run(folder: Folder) -> bool:
    """Whether there is any sign of a run: its manifest, its log, or a shard."""
    entries = folder.entries()
    if MANIFEST in entries and _is_manifest(folder):
        return True
    return "units.log" in entries or (SHARDS in entries and _has_shard(folder))


def _is_manifest(folder: Folder) -> bool:
    """Other programs call a file run.json as well: one that is whole and not ours is theirs."""
    try:
        words = json.loads(folder.read(MANIFEST))
    except (ValueError, RecursionError):
        return True
    except FileNotFoundError:  # a directory of that name as well
        return False
    return isinstance(words, dict) and bool({"schema_version", "checksum"} & words.keys())


def _has_shard(folder: Folder) -> bool:
    """Whether the footer of any Parquet file says that it is a unit of a run."""
    for unit, _ in stored_units(folder):
        filesystem, (path,) = folder.arrow([shard_name(unit)])
        try:
            if b"lesion.unit" in (pq.read_metadata(path, filesystem=filesystem).metadata or {}):
                return True
        except (pa.ArrowException, OSError):
            continue
    return False


def _word(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
