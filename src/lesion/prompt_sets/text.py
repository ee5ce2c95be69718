"""Plain text: one prompt a line, without targets."""

from collections.abc import Iterator
from io import BufferedIOBase

from lesion.prompt_sets.lines import TOO_LONG, bad_byte, numbered_lines
from lesion.prompt_sets.rows import BadRow, PromptRow, row_of


def read_text(file: BufferedIOBase, name: str, first: int = 0) -> Iterator[PromptRow | BadRow]:
    """The lines of a text file as prompts, from row `first` on; blank lines are none.

    Only the line ending is taken off. Spaces at either end stay: a tokenizer tells "his" from
    "his ".
    """
    prompt_id = 0
    for number, offset, line in numbered_lines(file):
        row = _row(line, prompt_id, f"{name}:{number}", offset)
        if row is None:
            continue
        if prompt_id >= first:
            yield row
        prompt_id += 1


def _row(line: bytes | None, prompt_id: int, place: str, offset: int) -> PromptRow | BadRow | None:
    """The row in a line; None in a blank one."""
    if line is None:
        return BadRow(prompt_id, place, TOO_LONG)
    try:
        prompt = line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return BadRow(prompt_id, *bad_byte(place, offset, error))
    if not prompt or prompt.isspace():
        return None
    return row_of({"prompt": prompt}, prompt_id, place)
