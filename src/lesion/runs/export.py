"""A run's rows as one file, CSV or Parquet: shard by shard, written whole or not at all.

1. Write a file of another name beside the one that is wanted, a shard at a time; every shard is
   compared with its SHA-256 when it is read.
2. Sync it, then give it its name.

CSV is UTF-8 with a header; text stands in quotation marks, nothing stands for null, and lists are
JSON. A text cell that a spreadsheet would take for a formula gets an apostrophe in front; numbers
never do. Parquet has the columns as they are, with checksums of its pages.
"""

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import InvalidChoice, LesionError, RunExists, RunNotWritable
from lesion.runs.run import Run
from lesion.runs.run_json import MANIFEST

Kind = Literal["csv", "parquet"]
FORMULA = r"^[=+\-@\t\r]"
"""How a text begins that a spreadsheet would calculate."""


class _Writer(Protocol):
    def write_table(self, table: pa.Table) -> None: ...
    def close(self) -> None: ...


def export(run: Run, path: str | Path, kind: Kind, *, overwrite: bool = False) -> int:
    """Write the rows of a run to one file; how many there are. One shard at a time is in memory.

    Raises:
        InvalidChoice: the file would lie within a run.
        RunExists: something stands there already and `overwrite` is false, or it is no file.
        RunNotWritable: it cannot be written, or the disk is full.
        RunDamaged: a shard is not what was written; nothing is left behind.
    """
    target = Path(path)
    asked = f"export to {path}"
    _check_place(target, asked, overwrite=overwrite)
    rows = 0
    with _written(target, asked, overwrite=overwrite) as file, _writer(file, kind) as writer:
        for shard in run.shards:
            writer.write_table(csv_table(shard.table) if kind == "csv" else shard.table)
            rows += len(shard.table)
    return rows


def csv_bytes(table: pa.Table) -> bytes:
    """A small table as CSV."""
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(csv_table(table), sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def csv_table(table: pa.Table) -> pa.Table:
    """The table as CSV can hold it: no list, and no text that a spreadsheet would calculate."""
    names = [_guarded(pa.array([name])).to_pylist()[0] for name in table.column_names]
    return pa.table([_csv_column(column) for column in table.columns], names=names)


def _csv_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _guarded(column)
    if column.null_count == len(column) and not pa.types.is_primitive(kind):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    if pa.types.is_nested(kind):
        return pa.chunked_array([[_json(value) for value in column.to_pylist()]], pa.string())
    if pa.types.is_primitive(kind) or pa.types.is_decimal(kind):
        return column
    # Bytes and whatever else a query can make, as text.
    return _guarded(pa.chunked_array([[_text(value) for value in column.to_pylist()]], pa.string()))


def _guarded(column: Any) -> Any:
    mark, nothing = (pa.scalar(text, column.type) for text in ("'", ""))
    marked = pc.binary_join_element_wise(mark, column, nothing)
    return pc.if_else(pc.match_substring_regex(column, FORMULA), marked, column)


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(_words(value), ensure_ascii=False, default=str)


def _words(value: object) -> object:
    """NaN and infinity as words, as in run.json: JSON has no numbers for them."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, dict):
        return {key: _words(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_words(each) for each in value]
    return value


def _text(value: object) -> str | None:
    return None if value is None else str(value)


@contextlib.contextmanager
def _writer(file: IO[bytes], kind: Kind) -> Iterator[_Writer]:
    writer: _Writer
    if kind == "csv":
        writer = pyarrow.csv.CSVWriter(file, csv_table(SWEEP_SCHEMA.empty_table()).schema)
    else:
        writer = pq.ParquetWriter(file, SWEEP_SCHEMA, write_page_checksum=True)
    try:
        yield writer
    finally:
        writer.close()


def _check_place(target: Path, asked: str, *, overwrite: bool) -> None:
    """Refuse a place where nothing may be written.

    Raises:
        InvalidChoice: it lies within a run.
        RunExists: something stands there.
    """
    place = target.resolve()
    if any((folder / MANIFEST).exists() for folder in (place.parent, place.parent.parent)):
        raise InvalidChoice(
            asked,
            "it would lie within a run",
            "A run's directory holds what was measured, and nothing else",
            "Choose a file outside it",
        )
    if target.is_dir():
        raise RunExists(asked, "a directory stands there", _FILE, "Name a file in it")
    if target.exists() and not overwrite:
        raise _taken(asked)


@contextlib.contextmanager
def _written(target: Path, asked: str, *, overwrite: bool) -> Iterator[IO[bytes]]:
    """A file that gets its name when all of it is durable, and is gone if anything fails."""
    # Through a link, what it points to is replaced, and not the link.
    place = target.resolve()
    unfinished = place.with_name(f".{place.name[:200]}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        with unfinished.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if not overwrite and place.exists():
            raise _taken(asked)
        unfinished.replace(place)
    except OSError as error:
        if isinstance(error, LesionError):
            raise
        raise RunNotWritable(
            asked,
            error.strerror or str(error),
            "An export needs a directory that can be written, and room on its disk",
            "Make room, or choose another file",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


_FILE = "An export is written to a new file, or over an older one when that is asked for"


def _taken(asked: str) -> RunExists:
    return RunExists(
        asked, "a file stands there already", _FILE, "Pass --overwrite, or choose another file"
    )
