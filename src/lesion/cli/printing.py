"""Tables and lines as commands print them: every cell is text, whatever it holds.

On a terminal control and formatting characters are shown as escapes, wide tables lose columns and
long ones rows, and a note says so. Piped, a table is CSV (see `lesion.runs.export`).
"""

import os
import sys
from collections.abc import Sequence

import pyarrow as pa
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lesion.runs.export import csv_bytes
from lesion.runs.run import Run
from lesion.terminal import plain

SHOWN_ROWS = 50
_WIDEST = 40
_GAP = 2


def print_answer(table: pa.Table, *, csv: bool) -> None:
    """Print a table on a terminal, CSV where the output is piped or CSV is asked for."""
    if csv or not sys.stdout.isatty():
        print_csv(table)
    else:
        print_table(table, Console())


def say(console: Console, text: str, *, style: str = "") -> None:
    """Print a line that may hold names and texts of others."""
    console.print(Text(plain(text), style=style), soft_wrap=True)


def say_unfinished(run: Run, console: Console) -> None:
    """Say so if not all units of a run are finished."""
    if not run.complete:
        units = f"{len(run.shards.units)} of {run.manifest.prompts.units} units"
        say(console, f"unfinished: {units}; the command that wrote it measures the rest")


def print_table(table: pa.Table, console: Console) -> None:
    """Print as much of a table as a terminal can show."""
    names = [plain(name) for name in table.column_names]
    rows = min(len(table), SHOWN_ROWS)
    columns = [
        [_cell(value) for value in column.slice(0, rows).to_pylist()] for column in table.columns
    ]
    count = _fitting(names, columns, console.width)
    grid = grid_of(names[:count], columns[:count], numbers=_numbers(table)[:count])
    console.print(grid)
    left_out = []
    if rows < len(table):
        left_out.append(f"{rows} of {len(table)} rows")
    if count < len(names):
        left_out.append(f"{count} of {len(names)} columns")
    if left_out:
        console.print(f"shown: {' and '.join(left_out)}; --csv gives all", style="dim")


def print_csv(table: pa.Table) -> None:
    """Write a table as CSV to the standard output; who reads it may stop early."""
    content = csv_bytes(table)
    if sys.stdout.isatty():
        content = "\n".join(map(plain, content.decode().split("\n"))).encode()
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        # Python would flush again when it ends, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def grid_of(
    names: Sequence[str], columns: Sequence[Sequence[str]], *, numbers: Sequence[bool] = ()
) -> Table:
    """A table of cells that are shown as they are; numbers stand at the right."""
    grid = Table(box=None, padding=(0, _GAP, 0, 0), pad_edge=False)
    for index, name in enumerate(names):
        right = index < len(numbers) and numbers[index]
        grid.add_column(
            Text(name), style="bold" if index == 0 else "", justify="right" if right else "left",
            overflow="fold",
        )  # fmt: skip
    for row in zip(*columns, strict=True):
        grid.add_row(*(Text(cell) for cell in row))
    return grid


def _cell(value: object) -> str:
    if value is None:
        return "·"
    text = f"{value:.6g}" if isinstance(value, float) else plain(str(value))
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def _fitting(names: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> int:
    """How many columns fit side by side; one at least."""
    taken = 0
    for index, (name, column) in enumerate(zip(names, columns, strict=True)):
        taken += max(Text(cell).cell_len for cell in (name, *column)) + _GAP
        if taken > width and index:
            return index
    return len(names)


def _numbers(table: pa.Table) -> list[bool]:
    return [
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        for kind in table.schema.types
    ]
