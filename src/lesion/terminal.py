"""A run as a person reads it in a terminal: what was asked, the clean prediction, the effects.

Prompts and tokens are data: they are shown as text, never as markup, their control characters as
escapes.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lesion.figures import caption
from lesion.runs.manifest import Manifest, PromptRecord
from lesion.runs.run import Run

METRIC = "effect_log_prob"
_CELL_WIDTH = 7
_LOSS, _NEUTRAL, _GAIN = (230, 97, 1), (247, 247, 247), (44, 123, 182)


def plain(text: str) -> str:
    """The text with every control and formatting character shown as an escape."""
    return "".join(
        character if unicodedata.category(character)[0] != "C" else ascii(character)[1:-1]
        for character in text
    )


def quoted(text: str) -> str:
    """The text between quotation marks, on one line."""
    return f"“{plain(text)}”"


def print_run(run: Run, console: Console) -> None:
    """Print a run: its question, the clean prediction, the effects and the means of its sets."""
    console.print(_question(run))
    for table in _effect_tables(run, console.width):
        console.print(table)
    console.print(_means_table(run, console.width))
    for note in _notes(run):
        console.print(note, style="dim")


def print_files(run: Run, folder: Path, console: Console) -> None:
    """Print where a run was written and what each of its pictures shows."""
    console.print(Text.assemble("written to ", (plain(str(folder)), "bold")))
    grid = Table.grid(padding=(0, 2))
    for kind in run.chart_kinds():
        grid.add_row(Text(f"figures/{kind}.png, .html", style="cyan"), caption(kind, METRIC))
    console.print(grid)


def percent(fraction: float) -> str:
    """A share as people write it: 0.2 %, 10 %."""
    return f"{100 * fraction:.3g} %"


def _question(run: Run) -> RenderableType:
    manifest, plan = run.manifest, run.manifest.plan
    model, prompt = manifest.model, manifest.prompts[0]
    sizes = " / ".join(str(size) for size in sorted(set(model.neurons)))
    target = quoted(prompt.target or "")
    if prompt.target_source == "next":
        times = "once" if prompt.predictions == 1 else f"{prompt.predictions} times"
        target = f"the token that follows, {times}"
    if prompt.target_source == "top":
        target += " (none was given: the model's own top token)"
    if prompt.foil is not None:
        target += f"; foil {quoted(prompt.foil)}"
    clean = "   ".join(f"{quoted(token.token)} {token.prob:.1%}" for token in prompt.clean_top)
    rank = plan.get("rank") or ("abs" if plan["site"] == "out" else "value")
    scope = {"each": "each block alone", "all": "all blocks at once", "cumulative": "cumulative"}
    lesions = (
        f"{', '.join(_words(plan['select']))} at site {plan['site']}, ranked by {rank} on the "
        f"{plan.get('rank_on')} run, replaced by {plan['replace']}, {scope[str(plan['scope'])]}"
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    rows = {
        "model": f"{plain(model.name)}: {model.family}, {model.blocks} blocks × {sizes} neurons, "
        f"{model.parameters:,} parameters, {model.dtype} on {model.device}",
        "prompt": quoted(prompt.text),
        "target": f"{target}; {_clean(prompt)}",
        "clean": clean,
        "lesions": lesions,
        "engine": _engine(manifest),
    }
    if not clean:
        del rows["clean"]
    for label, value in rows.items():
        grid.add_row(label, Text(value))
    return grid


def _engine(manifest: Manifest) -> str:
    engine = manifest.engine
    found = f"{engine.name}, {manifest.seconds:.1f} s"
    if engine.name == "reference" and engine.reason.startswith("auto: "):
        found += f"; {engine.reason.removeprefix('auto: ')}"
    check = engine.self_check
    if check is not None:
        found += (
            f"; {check.lesions} lesions measured again by the reference engine in "
            f"{check.seconds:.2g} s, within {check.difference:.1g} nats"
        )
    return found


def _clean(prompt: PromptRecord) -> str:
    if prompt.clean_log_prob is None:
        return "the clean run's logits are not finite"
    if prompt.predictions > 1:
        return f"mean clean log-probability {prompt.clean_log_prob:.3f} nats"
    return (
        f"clean log-probability {prompt.clean_log_prob:.3f} nats, rank {prompt.clean_target_rank}"
    )


def _effect_tables(run: Run, width: int) -> Iterator[RenderableType]:
    """Blocks × fractions of the first selection, coloured by effect, cut to the width."""
    frame = _main_rows(run)
    effects = frame.pivot_table(index="layer", columns="fraction", values=METRIC)
    if effects.empty:
        return
    largest = float(frame[METRIC].abs().max()) or 1.0
    selection = frame["selection"].iloc[0]
    for index, fractions in enumerate(
        _chunks([float(f) for f in effects.columns], (width - 8) // _CELL_WIDTH)
    ):
        tokens = run.manifest.prompts[0].predictions
        title = f"effect on the target's log-probability (nats), {selection}, block × fraction"
        if tokens > 1:
            title += f", mean over {tokens} tokens"
        if index == 0:
            yield Text(title, style="italic")
        table = _table("block", fractions)
        for layer, row in effects.iterrows():
            table.add_row(f"{layer}  ", *(_cell(row[fraction], largest) for fraction in fractions))
        yield table


def _means_table(run: Run, width: int) -> RenderableType:
    """Means over blocks, a row a selection, and the post-activation mass the first one moved."""
    frame = run.frame()
    measured = frame[frame["status"] == "ok"]
    order = list(dict.fromkeys(measured["selection"]))
    if not order:
        return Text("Nothing was measured: no row has status ok.")
    largest = float(measured[METRIC].abs().max()) or 1.0
    fractions = sorted(set(measured["fraction"]))
    tables: list[RenderableType] = []
    for index, chunk in enumerate(_chunks(fractions, (width - 14) // _CELL_WIDTH)):
        blocks = "mean over blocks" if frame["layer"].notna().any() else "all blocks at once"
        title = f"{blocks} (nats), and post-activation mass moved"
        if index == 0:
            tables.append(Text(title, style="italic"))
        table = _table("", chunk)
        for selection in order:
            means = measured[measured["selection"] == selection].groupby("fraction")[METRIC].mean()
            table.add_row(f"{selection}  ", *(_cell(means.get(f), largest) for f in chunk))
        first = measured[measured["selection"] == order[0]]
        removed = first.groupby("fraction")["removed_post"].mean()
        table.add_row("Σ|Δpost|  ", *(_amount(removed.get(f)) for f in chunk), style="dim")
        tables.append(table)
    return Group(*tables)


def _table(corner: str, fractions: Sequence[float]) -> Table:
    """An empty table with one column a fraction, its cells side by side as in a heat map."""
    table = Table(box=None, padding=0)
    table.add_column(f"{corner}  ", style="bold", justify="right", no_wrap=True)
    for fraction in fractions:
        heading = f"{percent(fraction).replace(' ', '')} "
        table.add_column(heading, justify="right", no_wrap=True, min_width=_CELL_WIDTH)
    return table


def _notes(run: Run) -> Iterator[Text]:
    frame = run.frame()
    empty = int((frame["status"] == "empty").sum())
    nonfinite = int((frame["status"] == "nonfinite").sum())
    if empty:
        yield Text(f"{empty} of {len(frame)} rows take no neuron (status empty) and are not drawn.")
    floor = run.manifest.engine.noise_floor
    if floor is not None:
        below = int(frame["below_noise"].fillna(False).sum())
        yield Text(
            f"{below} of {len(frame)} effects are below the noise floor of {floor:.2g} nats "
            f"({run.manifest.model.dtype})."
        )
    if nonfinite:
        yield Text(
            f"{nonfinite} of {len(frame)} rows had a NaN or infinite logit (status nonfinite)."
        )


def _main_rows(run: Run) -> pd.DataFrame:
    frame = run.frame()
    main = frame["selection"] == frame["selection"].iloc[0]
    rows: pd.DataFrame = frame.loc[main & frame["layer"].notna()]
    return rows


def _cell(value: float | None, largest: float) -> Text:
    if value is None or pd.isna(value):
        return Text("· ", style="dim")
    # The square root keeps small effects visible beside one catastrophic block.
    share = min(1.0, abs(value) / largest) ** 0.5
    end = _LOSS if value < 0 else _GAIN
    red, green, blue = (
        round(neutral + (pole - neutral) * share)
        for neutral, pole in zip(_NEUTRAL, end, strict=True)
    )
    digits = f"{value:+.2f}" if abs(value) < 10 else f"{value:+.1f}"
    return Text(f" {digits:>{_CELL_WIDTH - 2}} ", style=f"black on rgb({red},{green},{blue})")


def _amount(value: float | None) -> str:
    return (
        "· "
        if value is None or pd.isna(value)
        else (f"{value:.0f} " if value >= 100 else f"{value:.3g} ")
    )


def _chunks(values: Sequence[float], size: int) -> Iterator[Sequence[float]]:
    size = max(1, size)
    for start in range(0, len(values), size):
        yield values[start : start + size]


def _words(value: object) -> Iterable[str]:
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]
