"""Parquet: one row a prompt, read in small batches with its page checksums verified."""

from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lesion.errors import PromptSetError
from lesion.prompt_sets.rows import BadRow, PromptRow, columns_named
from lesion.prompt_sets.values import row_of_value

_ROWS_AT_ONCE = 1024
_BUFFER_BYTES = 2**16
_RULE = "A Parquet file of prompts has a column prompt of text, and each column once"
_UNREADABLE = (pa.ArrowException, OSError, ValueError, MemoryError)


def read_parquet(file: BufferedIOBase, name: str, first: int = 0) -> Iterator[PromptRow | BadRow]:
    """The rows of a Parquet file from number `first` on; a null means that the field is not given.

    Raises:
        PromptSetError: not a Parquet file, without a column `prompt` of text, or damaged.
    """
    prompt_id = 0
    for batch in _batches(file, name):
        if prompt_id + batch.num_rows <= first:
            prompt_id += batch.num_rows
            continue
        for values in _python_rows(batch):
            if prompt_id < first:
                prompt_id += 1
                continue
            place = f"{name}:row {prompt_id + 1}"
            if isinstance(values, str):
                yield BadRow(prompt_id, place, values)
            else:
                yield row_of_value(values, prompt_id, place)
            prompt_id += 1


def _batches(file: BufferedIOBase, name: str) -> Iterator[pa.RecordBatch]:
    try:
        parquet = pq.ParquetFile(
            file, page_checksum_verification=True, pre_buffer=False, buffer_size=_BUFFER_BYTES
        )
        schema = parquet.schema_arrow
    except _UNREADABLE as error:
        found = f"it is not a Parquet file ({_first_line(error)})"
        raise _refused(name, found, "Check the file") from error
    _check_columns(schema, name)
    with parquet:
        try:
            yield from parquet.iter_batches(_ROWS_AT_ONCE, use_threads=False)
        except _UNREADABLE as error:
            found = f"it is damaged ({_first_line(error)})"
            raise _refused(name, found, "Write or fetch it anew") from error


def _check_columns(schema: pa.Schema, name: str) -> None:
    columns = schema.names
    twice = [column for column in columns if columns.count(column) > 1]
    if "prompt" not in columns:
        found = f"it has no column prompt (its columns: {columns_named(columns)})"
    elif twice:
        found = f"its column {twice[0]!r} stands there twice"
    elif not _is_text(schema.field("prompt").type):
        found = f"its column prompt is of type {schema.field('prompt').type}"
    else:
        return
    raise _refused(name, found, "Rename or convert the column")


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _python_rows(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | str]:
    """The rows of a batch in Python; of one that Python cannot hold, what is wrong with it."""
    rows = _converted(batch)
    if isinstance(rows, list):
        yield from rows
        return
    for number in range(batch.num_rows):
        row = _converted(batch.slice(number, 1))
        yield row[0] if isinstance(row, list) else row


def _converted(batch: pa.RecordBatch) -> list[dict[str, Any]] | str:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError as error:
        return f"it holds byte 0x{error.object[error.start]:02x}, which is not UTF-8"
    except (pa.ArrowException, ValueError, OverflowError, LookupError) as error:
        return f"it cannot be read ({_first_line(error)})"
    return rows


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".")


def _refused(name: str, found: str, remedy: str) -> PromptSetError:
    return PromptSetError(f"prompts {name!r}", found, _RULE, remedy)
