"""A run as a directory: written whole or not at all, read back as it was.

    run.json              the manifest
    shards/000000.parquet the table; one file a unit of work
    figures/              every picture that suits the run, as HTML (offline) and PNG
"""

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import RunExists, RunNotFound
from lesion.figures import save_chart
from lesion.runs.manifest import Manifest

FIGURE_SUFFIXES = (".html", ".png")


def check_free(path: Path, overwrite: bool) -> None:
    """Refuse to write where something stands that is not to be replaced.

    Raises:
        RunExists: a run without `overwrite`, or anything else in any case.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    is_run = (path / "run.json").is_file()
    if is_run and overwrite:
        return
    raise RunExists(
        f"save to {path}",
        "a run stands there already" if is_run else "something else stands there",
        "A run is written to a new directory, or over an older run when that is asked for",
        "Pass overwrite (--overwrite), or another directory" if is_run else "Choose another directory",
    )


def write(
    manifest: Manifest, table: pa.Table, charts: Mapping[str, Any], path: Path, *, overwrite: bool
) -> None:
    """Write a run with its charts by name; the directory appears whole or not at all.

    Raises:
        RunExists: see `check_free`.
    """
    check_free(path, overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        _fill(temporary, manifest, table, charts)
        temporary.chmod(0o777 & ~_umask())
        if path.exists():
            shutil.rmtree(path)
        temporary.replace(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read(folder: Path) -> tuple[Manifest, pa.Table]:
    """The manifest and the table of a run; page checksums are verified.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
    """
    rule = "A run is a directory with run.json and shards/*.parquet"
    try:
        manifest = Manifest.model_validate_json((folder / "run.json").read_bytes())
    except OSError as error:
        found = f"run.json cannot be read ({error.strerror})"
        raise RunNotFound(f"open {folder}", found, rule, "Check the path") from None
    except ValidationError as error:
        found = f"run.json is no manifest of this version ({error.error_count()} differences)"
        remedy = "Open it with the version of lesion that wrote it"
        raise RunNotFound(f"open {folder}", found, rule, remedy) from error
    shards = sorted((folder / "shards").glob("*.parquet"))
    if not shards:
        raise RunNotFound(f"open {folder}", "it has no shards", rule, "Repeat the run")
    tables = [pq.read_table(shard, page_checksum_verification=True) for shard in shards]
    return manifest, pa.concat_tables(tables).cast(SWEEP_SCHEMA)


def _fill(folder: Path, manifest: Manifest, table: pa.Table, charts: Mapping[str, Any]) -> None:
    (folder / "shards").mkdir()
    pq.write_table(table, folder / "shards" / "000000.parquet", write_page_checksum=True)
    (folder / "run.json").write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    if charts:
        (folder / "figures").mkdir()
    for name, chart in charts.items():
        for suffix in FIGURE_SUFFIXES:
            save_chart(chart, folder / "figures" / f"{name}{suffix}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
