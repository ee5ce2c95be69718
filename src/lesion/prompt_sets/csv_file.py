"""CSV after RFC 4180: a header with at least `prompt`, commas, quotes, line ends within quotes.

One bad cell is a bad row. A quote that is not closed where it should be is an error of the whole
file: behind it nobody can tell where the next row begins, and rows would be lost uncounted.
A cell holds at most `csv.field_size_limit()` characters, 131,072 unless somebody has changed it.
"""

import csv
from collections.abc import Iterator
from io import BufferedIOBase

from lesion.errors import PromptSetError
from lesion.prompt_sets.lines import LONGEST_LINE, TOO_LONG, bad_byte, numbered_lines
from lesion.prompt_sets.rows import BadRow, PromptRow, columns_named, row_of, shown

_QUOTES = "A cell with a comma, a quote or a line end stands in quotes, its own quotes doubled"
_HEADER = "A CSV file begins with a header that names the column prompt, and each column once"
_IDS = ("target_id", "foil_id")


def read_csv(file: BufferedIOBase, name: str, first: int = 0) -> Iterator[PromptRow | BadRow]:
    """The rows of a CSV file from number `first` on; an empty cell is a field that is not given.

    Raises:
        PromptSetError: no header that names `prompt`, or a quote that is never closed.
    """
    lines = _Lines(file, name)
    cells_of_rows = csv.reader(lines, strict=True)
    header: list[str] | None = None
    prompt_id = 0
    while True:
        lines.begin_row()
        cells: list[str] | None
        try:
            cells, broken = next(cells_of_rows), ""
        except StopIteration:
            break
        except csv.Error as error:
            if lines.last > lines.first:
                raise _quotes_differ(lines, str(error)) from None
            cells, broken = [], f"it is not CSV ({error})"
        if lines.is_blank:
            continue
        broken_at, broken = lines.bad_byte or (lines.place, broken or lines.too_long)
        if header is None:
            header = _header(cells, name, broken)
            continue
        if not broken and len(cells) != len(header):
            broken = f"it has {len(cells)} cells, the header {len(header)}"
        if prompt_id < first:
            pass
        elif broken:
            yield BadRow(prompt_id, broken_at, broken)
        else:
            yield _row(dict(zip(header, cells, strict=True)), prompt_id, lines.place)
        prompt_id += 1


class _Lines:
    """The lines that the reader asks for, and where the row that it is reading began.

    Bytes that are not UTF-8 pass as surrogates, so that the reader finds the row's end.
    """

    def __init__(self, file: BufferedIOBase, name: str) -> None:
        self.name = name
        self._numbered = numbered_lines(file)
        self.last = 0
        self.begin_row()

    def begin_row(self) -> None:
        self.first, self._bytes = 0, 0
        self.is_blank, self.too_long = False, ""
        self.bad_byte: tuple[str, str] | None = None

    @property
    def place(self) -> str:
        return f"{self.name}:{self.first}"

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        self.last, offset, line = next(self._numbered)
        self.first = self.first or self.last
        begins = self.first == self.last
        if begins and line is None:
            self.too_long = TOO_LONG
            return ""
        self._bytes += LONGEST_LINE if line is None else len(line)
        if line is None or self._bytes > LONGEST_LINE:
            raise _quotes_differ(self, "more than 16 MiB")
        self.is_blank = begins and (not line or line.isspace())
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            if self.bad_byte is None:
                self.bad_byte = bad_byte(f"{self.name}:{self.last}", offset, error)
            return line.decode(errors="surrogateescape")


def _header(cells: list[str], name: str, broken: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    twice = [column for column in names if names.count(column) > 1]
    if broken:
        found, remedy = f"in its header, {broken}", "Write the header anew, in UTF-8"
    elif "prompt" not in names:
        found = f"it has no column prompt (its columns: {columns_named(names)})"
        remedy = "Name the columns in the first line, with commas between them: prompt,target"
    elif twice:
        found, remedy = f"its column {shown(twice[0])} stands there twice", "Rename one of them"
    else:
        return names
    raise PromptSetError(f"prompts {name!r}", found, _HEADER, remedy)


def _row(fields: dict[str, str], prompt_id: int, place: str) -> PromptRow | BadRow:
    given: dict[str, str | int] = {}
    for name, cell in fields.items():
        if name in _IDS and cell.isascii() and cell.isdecimal():
            # Python reads no number of more than 4,300 digits, and no token has one.
            given[name] = int(cell[:30])
        elif cell or name not in ("target", "foil", "group", *_IDS):
            given[name] = cell
    return row_of(given, prompt_id, place)


def _quotes_differ(lines: _Lines, what: str) -> PromptSetError:
    return PromptSetError(
        f"prompts {lines.name!r}",
        f"the quotes do not match in the row that begins at {lines.place} "
        f"(read as far as line {lines.last}: {what})",
        _QUOTES,
        "Close the quote there",
    )
