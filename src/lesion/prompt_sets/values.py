"""Rows that come as Python values: from a list, from Parquet, from the Hub.

What JSON cannot hold is carried as text: dates, times, decimals, paths, numbers that are not
finite; bytes as base64. Anything else could only be carried by its memory address.
"""

import base64
import datetime
import decimal
import math
import numbers
import pathlib
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from lesion.prompt_sets.rows import FIELDS, NESTED, BadRow, PromptRow, row_of, word_for

_AS_TEXT = (
    datetime.date,
    datetime.time,
    datetime.timedelta,
    decimal.Decimal,
    pathlib.PurePath,
    uuid.UUID,
)


def row_of_value(value: object, prompt_id: int, place: str) -> PromptRow | BadRow:
    """The row that a text, which is a prompt, or a mapping of fields is."""
    if isinstance(value, str):
        return row_of({"prompt": value}, prompt_id, place)
    if not isinstance(value, Mapping):
        return BadRow(prompt_id, place, f"it is neither text nor a mapping but {word_for(value)}")
    fields: dict[str, Any] = {}
    for name, content in value.items():
        if not isinstance(name, str):
            return BadRow(prompt_id, place, f"a field's name is not text but {word_for(name)}")
        try:
            fields[name] = content if name in FIELDS else _carried(content)
        except (TypeError, OverflowError) as error:
            return BadRow(prompt_id, place, f"its field {name!r} cannot be carried ({error})")
        except RecursionError:
            return BadRow(prompt_id, place, NESTED)
    return row_of(fields, prompt_id, place)


def _carried(value: object) -> object:
    """The value as JSON can hold it."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Real):
        return _number(value)
    if isinstance(value, Mapping):
        return {str(name): _carried(content) for name, content in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [_carried(content) for content in value]
    return _as_text(value)


def _number(value: numbers.Real) -> int | float | str:
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return number if math.isfinite(number) else str(number)


def _as_text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return base64.b64encode(value).decode()
    if isinstance(value, _AS_TEXT):
        return str(value)
    raise TypeError(f"JSON has nothing for {word_for(value)}")
