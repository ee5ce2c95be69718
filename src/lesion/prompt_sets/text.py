"""Plain text: one prompt a line, without targets."""

from collections.abc import Iterator
from io import BufferedIOBase

from lesion.prompt_sets.lines import TOO_LONG, bad_byte, numbered_lines
from lesion.prompt_sets.rows import BadRow, PromptRow, row_of


def read_text(file: BufferedIOBase, name: str) -> Iterator[PromptRow | BadRow]:
    """The lines of a text file as prompts; only the line ending is taken off, blank lines are none.

    Spaces at either end stay: a tokenizer tells "his" from "his ".
    """
    prompt_id = 0
    for number, offset, line in numbered_lines(file):
        place = f"{name}:{number}"
        if line is None:
            yield BadRow(prompt_id, place, TOO_LONG)
            prompt_id += 1
            continue
        try:
            prompt = line.removesuffix(b"\n").removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            yield BadRow(prompt_id, *bad_byte(place, offset, error))
            prompt_id += 1
            continue
        if prompt and not prompt.isspace():
            yield row_of({"prompt": prompt}, prompt_id, place)
            prompt_id += 1
