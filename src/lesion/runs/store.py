"""A run as a directory: written whole or not at all, read back as it was.

run.json              the manifest
shards/000000.parquet the table; one file a unit of work
figures/              every picture that suits the run, as HTML (offline) and PNG
"""

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import RunDamaged, RunExists, RunNotFound, RunNotWritable
from lesion.figures import save_chart
from lesion.runs.manifest import Manifest

FIGURE_SUFFIXES = (".html", ".png")

_IS_RUN = "A run is a directory with run.json and shards/*.parquet"
_PLACE = "A run is written to a new directory, or over an older run when that is asked for"


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to write where something stands that is not to be replaced, or nothing can be written.

    Raises:
        RunExists: a run without `overwrite`, or anything else in any case.
        RunNotWritable: its directory cannot be written.
    """
    place = path.resolve()
    _check_nothing_is_lost(path, place, overwrite)
    parent = next(folder for folder in place.parents if folder.exists())
    if not parent.is_dir():
        found = f"{parent} is a file"
        raise RunExists(f"save to {path}", found, _PLACE, "Choose another directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise _not_writable(path, f"{parent} cannot be written")


def write(
    manifest: Manifest, table: pa.Table, charts: Mapping[str, Any], path: Path, *, overwrite: bool
) -> None:
    """Write a run with its charts by name; the directory appears whole or not at all.

    A link is followed. An older run is moved aside first and removed when the new one stands.

    Raises:
        RunExists, RunNotWritable: see `check_free`; also when the disk is full.
    """
    check_free(path, overwrite)
    place = path.resolve()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as name:
            fresh, old = Path(name) / "fresh", Path(name) / "old"
            fresh.mkdir()
            _fill(fresh, manifest, table, charts)
            _exchange(fresh, place, old)
    except OSError as error:
        raise _not_writable(path, error.strerror or str(error)) from error


def read(folder: Path) -> tuple[Manifest, pa.Table]:
    """The manifest and the table of a run; page checksums are verified.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
        RunDamaged: run.json or a shard is not what was written.
    """
    try:
        manifest = Manifest.model_validate_json((folder / "run.json").read_bytes())
    except OSError as error:
        found = f"run.json cannot be read ({error.strerror})"
        raise RunNotFound(f"open {folder}", found, _IS_RUN, "Check the path") from None
    except ValidationError as error:
        raise _bad_manifest(folder, error) from error
    shards = sorted((folder / "shards").glob("*.parquet"))
    if not shards:
        raise RunNotFound(f"open {folder}", "it has no shards", _IS_RUN, "Repeat the run")
    return manifest, pa.concat_tables([_read_shard(folder, shard) for shard in shards])


def _fill(folder: Path, manifest: Manifest, table: pa.Table, charts: Mapping[str, Any]) -> None:
    (folder / "shards").mkdir()
    pq.write_table(table, folder / "shards" / "000000.parquet", write_page_checksum=True)
    (folder / "run.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if charts:
        (folder / "figures").mkdir()
    for name, chart in charts.items():
        for suffix in FIGURE_SUFFIXES:
            save_chart(chart, folder / "figures" / f"{name}{suffix}")


def _exchange(fresh: Path, place: Path, old: Path) -> None:
    """Put `fresh` in its place and what stood there aside; or leave everything as it was."""
    if not place.exists():
        fresh.rename(place)
        return
    place.rename(old)
    try:
        fresh.rename(place)
    except OSError:
        old.rename(place)
        raise


def _check_nothing_is_lost(path: Path, place: Path, overwrite: bool) -> None:
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    is_run = (place / "run.json").is_file()
    if is_run and overwrite:
        return
    raise RunExists(
        f"save to {path}",
        "a run stands there already" if is_run else "something else stands there",
        _PLACE,
        "Pass overwrite (--overwrite), or another directory"
        if is_run
        else "Choose another directory",
    )


def _bad_manifest(folder: Path, error: ValidationError) -> RunNotFound | RunDamaged:
    if any(problem["type"] == "json_invalid" for problem in error.errors()):
        found = "run.json is damaged (it is no JSON)"
        return RunDamaged(f"open {folder}", found, _IS_RUN, "Repeat the run")
    fields = dict.fromkeys(str(problem["loc"][0]) for problem in error.errors() if problem["loc"])
    found = f"run.json is no manifest of this version (see {', '.join(fields) or 'its form'})"
    remedy = "Open it with the version of lesion that wrote it"
    return RunNotFound(f"open {folder}", found, _IS_RUN, remedy)


def _read_shard(folder: Path, shard: Path) -> pa.Table:
    rule = "Every shard is a Parquet file with the columns of a sweep and matching checksums"
    try:
        return pq.read_table(shard, page_checksum_verification=True).cast(SWEEP_SCHEMA)
    except (pa.ArrowException, OSError, ValueError) as error:
        found = f"{shard.name} is damaged ({str(error).strip().splitlines()[0].rstrip('.')})"
        raise RunDamaged(f"open {folder}", found, rule, "Repeat the run") from error


def _not_writable(path: Path, found: str) -> RunNotWritable:
    remedy = "Choose another directory, or make room"
    return RunNotWritable(f"save to {path}", found, _PLACE, remedy)
