"""JSONL: one object a line."""

import json
from collections.abc import Iterator
from io import BufferedIOBase
from typing import Any

from lesion.prompt_sets.lines import TOO_LONG, bad_byte, numbered_lines
from lesion.prompt_sets.rows import NESTED, BadRow, PromptRow, row_of, shown, word_for


def read_jsonl(file: BufferedIOBase, name: str, first: int = 0) -> Iterator[PromptRow | BadRow]:
    """The rows of a JSONL file from number `first` on; blank lines are none."""
    prompt_id = 0
    for number, offset, line in numbered_lines(file):
        if line is not None and (not line or line.isspace()):
            continue
        if prompt_id >= first:
            place = f"{name}:{number}"
            if line is None:
                yield BadRow(prompt_id, place, TOO_LONG)
            else:
                yield _row(line, prompt_id, place, offset)
        prompt_id += 1


def _row(line: bytes, prompt_id: int, place: str, offset: int) -> PromptRow | BadRow:
    try:
        fields = _DECODER.decode(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError as error:
        return BadRow(prompt_id, *bad_byte(place, offset, error))
    except json.JSONDecodeError as error:
        # Some of Python's texts already end with the word that leads to the place.
        what = error.msg.removesuffix(" at")
        found = f"it is not JSON ({what} at character {error.pos + 1})"
    except KeyError as error:
        found = f"the field {shown(error.args[0])} stands in it twice"
    except RecursionError:
        found = NESTED
    except ValueError:
        found = "it holds a number of too many digits"
    else:
        if isinstance(fields, dict):
            return row_of(fields, prompt_id, place)
        found = f"it is not an object but {word_for(fields)}"
    return BadRow(prompt_id, place, found)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of these fields.

    Raises:
        KeyError: one of them stands there twice; which one counts is not for us to say.
    """
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        raise KeyError(next(name for name in names if names.count(name) > 1))
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)
