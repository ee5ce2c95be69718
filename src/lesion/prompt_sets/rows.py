"""One row of a prompt set, and the row that cannot be measured.

A row's fields are `prompt`, `target` or `target_id`, `foil` or `foil_id`, and `group`; every other
field is carried along as it is. A field that is missing, or null, is not given. Text that no table
could keep (half a character, a NUL) makes a row bad, and so does an empty text.
"""

import dataclasses
import json
import numbers
from collections.abc import Iterable
from typing import Any

FIELDS = ("prompt", "target", "target_id", "foil", "foil_id", "group")
LARGEST_ID = 2**63 - 1
SHOWN_CHARACTERS = 40
NESTED = "it is nested too deeply"

_CARRIED = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True)
_WORDS = {str: "text", bool: "a truth value", dict: "an object", list: "a list", type(None): "null"}


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One row of a prompt set as it stands in its file, before any tokenizer has seen it.

    `prompt_id` is the number of the row in its set: from 0, blank rows not counted, bad rows
    counted. `place` is file:line (from 1), file:row of a Parquet file (from 1), or the index in a
    list. Without `target` and `target_id` the model's own clean top token is meant, without `group`
    the row is its own group. `carried` is every other field, as the text of one JSON object with
    sorted keys.
    """

    prompt_id: int
    place: str
    prompt: str
    target: str | None = None
    target_id: int | None = None
    foil: str | None = None
    foil_id: int | None = None
    group: str | None = None
    carried: str | None = None


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be measured, and why, in one line.

    For bytes that are not UTF-8 the place is file:line:byte, the byte counted in the file from 0.
    """

    prompt_id: int
    place: str
    found: str


def row_of(fields: dict[str, Any], prompt_id: int, place: str) -> PromptRow | BadRow:
    """The row that an object of JSON is; the object is used up."""
    try:
        absent = "prompt" not in fields
        names = tuple(fields) if absent else ()
        prompt = _text(fields, "prompt")
        if prompt is None:
            raise ValueError(
                f"it has no prompt ({_named(names)})" if absent else "its prompt is null"
            )
        if prompt.isspace():
            raise ValueError("its prompt is blank")
        target, foil = _text(fields, "target"), _text(fields, "foil")
        target_id = _id(fields, "target", target) if "target_id" in fields else None
        foil_id = _id(fields, "foil", foil) if "foil_id" in fields else None
        group = _group(fields)
        carried = _as_json(fields) if fields else None
    except ValueError as error:
        return BadRow(prompt_id, place, str(error))
    return PromptRow(prompt_id, place, prompt, target, target_id, foil, foil_id, group, carried)


def shown(text: str) -> str:
    """A text from a prompt set as a message shows it: quoted, escaped, and not too long."""
    return repr(text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "…")


def word_for(value: object) -> str:
    """What a value is, in the words of JSON."""
    if isinstance(value, numbers.Number) and not isinstance(value, bool):
        return "a number"
    return _WORDS.get(type(value), f"a {type(value).__name__}")


def columns_named(names: Iterable[str]) -> str:
    """The columns of a file, for a message."""
    return ", ".join(shown(name) for name in names) or "none"


def _text(fields: dict[str, Any], name: str) -> str | None:
    value = fields.pop(name, None)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"its {name} is not text but {word_for(value)}")
    if not value:
        raise ValueError(f"its {name} is empty")
    if "\0" in value:
        raise ValueError(f"its {name} holds a NUL character")
    if not (value.isascii() or _is_whole(value)):
        raise ValueError(f"its {name} holds half a character (a lone surrogate)")
    return value


def _is_whole(text: str) -> bool:
    """Whether every character can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _id(fields: dict[str, Any], name: str, text: str | None) -> int | None:
    value = fields.pop(f"{name}_id")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        told = repr(value) if isinstance(value, float) else word_for(value)
        raise ValueError(f"its {name}_id is not a whole number but {told}")
    token_id = int(value)
    if not 0 <= token_id <= LARGEST_ID:
        raise ValueError(f"its {name}_id is negative or too large for a token id")
    if text is not None:
        raise ValueError(f"it has both {name} and {name}_id")
    return token_id


def _group(fields: dict[str, Any]) -> str | None:
    """A group's name; in files of numbers, groups are numbered."""
    value = fields.get("group")
    if isinstance(value, str | bool) or not isinstance(value, numbers.Integral):
        return _text(fields, "group")
    return _as_json(int(fields.pop("group")))


def _as_json(value: object) -> str:
    try:
        text = _CARRIED.encode(value)
    except RecursionError:
        raise ValueError(NESTED) from None
    except ValueError:
        found = "it holds a number that JSON cannot (NaN, infinity, or of too many digits)"
        raise ValueError(found) from None
    if not (text.isascii() or _is_whole(text)):
        raise ValueError("one of its fields holds half a character (a lone surrogate)")
    return text


def _named(names: tuple[str, ...]) -> str:
    most = 8
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"its fields: {columns_named(names[:most])}{more}"
