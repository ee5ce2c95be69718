"""Commands that look at runs: none of them needs torch."""

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from lesion.cli.application import app
from lesion.errors import InvalidChoice

UNSOUND = 1
"""The exit code of `lesion verify` where something is wrong."""


@app.command
def runs(folder: Path = Path("runs"), /) -> None:
    """List the runs below a directory, newest first.

    Parameters
    ----------
    folder
        The directory; omitted, runs.
    """
    from rich.console import Console

    from lesion.cli.printing import grid_of, say
    from lesion.runs.listing import list_runs
    from lesion.terminal import plain

    console = Console()
    found = list_runs(folder)
    whole = [run for run in found if run.manifest is not None]
    columns: dict[str, list[str]] = {
        "run": [plain(run.name) for run in whole],
        "experiment": [run.manifest.experiment for run in whole if run.manifest],
        "model": [plain(run.manifest.model.name) for run in whole if run.manifest],
        "prompts": [
            plain(f"{run.manifest.prompts.name} ({run.manifest.prompts.rows})")
            for run in whole if run.manifest
        ],
        "units": [f"{run.units}/{run.manifest.prompts.units}" for run in whole if run.manifest],
        "rows": [f"{run.rows:,}" for run in whole],
        "begun": [
            "unknown" if run.created is None else f"{run.created.astimezone():%Y-%m-%d %H:%M}"
            for run in whole
        ],
        "question": [plain(run.question) for run in whole],
    }  # fmt: skip
    if whole:
        numbers = [name in ("units", "rows") for name in columns]
        console.print(grid_of(list(columns), list(columns.values()), numbers=numbers))
    if not found:
        say(console, f"no run below {folder}")
    for run in found:
        if run.wrong is not None:
            say(console, f"damaged: {run.name}: {run.wrong}", style="red")


@app.command
def show(run: str, /) -> None:
    """Print a saved run again.

    Parameters
    ----------
    run
        The directory that a command wrote with --out.
    """
    from rich.console import Console

    from lesion.cli.printing import say_unfinished
    from lesion.runs.run import open_run
    from lesion.terminal import print_run

    opened, console = open_run(run), Console()
    if opened.shards.units:
        print_run(opened, console)
    say_unfinished(opened, console)


@app.command
def verify(run: str, /, *, repair: Annotated[bool, Parameter(negative="")] = False) -> None:
    """Read every byte of a run, and say what is not as it was written; exits with 1 then.

    Parameters
    ----------
    run
        The directory that a command wrote with --out.
    repair
        Keep what proves itself and set the rest aside, to be measured again.
    """
    from rich.console import Console

    from lesion.cli.printing import say
    from lesion.runs.verify import repair as mend
    from lesion.runs.verify import verify as read_all

    console = Console()
    found = mend(run) if repair else read_all(run)
    for done in found.mended:
        say(console, f"mended: {done}")
    for wrong in found.wrong:
        say(console, f"wrong: {wrong.name} {wrong.found}", style="red")
    units = len(found.finished) + len(found.missing)
    say(
        console,
        f"{len(found.finished)} of {units} units are finished and as they were written; "
        f"{found.bytes:,} bytes in {found.files} files were read",
    )
    if found.missing:
        say(console, f"{len(found.missing)} to be measured: repeat the command that wrote the run")
    if found.strays:
        say(console, f"{len(found.strays)} files that no run reads: {', '.join(found.strays)}")
    if not found.sound:
        say(console, f"set aside what is wrong: lesion verify {found.path} --repair")
        sys.exit(UNSOUND)


@app.command
def query(
    run: str,
    sql: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    csv: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Ask a run a question in SQL: a table on a terminal, CSV when piped. It only reads.

    Parameters
    ----------
    run
        The directory that a command wrote with --out.
    sql
        One select over the table rows, whose columns docs/runs.md lists.
    csv
        CSV on a terminal as well.
    """
    from lesion.cli.printing import print_answer
    from lesion.runs.query import table_of
    from lesion.runs.run import open_run

    print_answer(table_of(open_run(run).shards, sql), csv=csv)


@app.command
def export(
    run: str,
    /,
    *,
    csv: Path | None = None,
    parquet: Path | None = None,
    overwrite: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Write the rows of a run to one file, as CSV or Parquet.

    Parameters
    ----------
    run
        The directory that a command wrote with --out.
    csv
        A CSV file; texts that a spreadsheet would calculate begin with an apostrophe.
    parquet
        A Parquet file.
    overwrite
        Replace a file that stands there.
    """
    from rich.console import Console

    from lesion.cli.printing import say, say_unfinished
    from lesion.runs.export import export as write_export
    from lesion.runs.run import open_run

    target = csv or parquet
    if target is None or (csv and parquet):
        found = "neither --csv nor --parquet" if target is None else "both --csv and --parquet"
        rule = "An export is one file of one kind"
        raise InvalidChoice(f"export {run}", found, rule, "Name one file: --csv table.csv")
    opened, console = open_run(run), Console()
    rows = write_export(opened, target, "csv" if csv else "parquet", overwrite=overwrite)
    say(console, f"{rows:,} rows written to {target}")
    say_unfinished(opened, console)


@app.command
def compare(
    one: str,
    other: str,
    /,
    *,
    metric: str = "effect_log_prob",
    csv: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Compare two runs pair by pair: the difference, second − first, with a 95 % interval.

    A table over all blocks on a terminal; CSV with every block when piped.

    Parameters
    ----------
    one
        The directory of the first run.
    other
        The directory of the second.
    metric
        The column that is compared.
    csv
        CSV on a terminal as well.
    """
    import pyarrow as pa
    from rich.console import Console

    from lesion.cli.printing import print_answer, say, say_unfinished
    from lesion.runs.compare import compared
    from lesion.runs.run import open_run

    first, second = open_run(one), open_run(other)
    found = compared(first, second, metric)
    notes = Console(stderr=True)
    for field, mine, theirs in found.differing:
        say(notes, f"{field}: {mine} in the first run, {theirs} in the second")
    if not found.differing:
        say(notes, "the runs differ in nothing that is recorded")
    for opened in (first, second):
        say_unfinished(opened, notes)
    for note in found.notes:
        say(notes, note, style="dim")
    shown = found.table
    if sys.stdout.isatty() and not csv:
        shown = shown[shown["layer"].isna()].drop(columns="layer")
        if len(shown) < len(found.table):
            say(notes, "over all blocks; --csv gives each block", style="dim")
    print_answer(pa.Table.from_pandas(shown, preserve_index=False), csv=csv)
