"""A run as a person reads it in a terminal: what was asked, the clean prediction, the effects.

Prompts and tokens are data: they are shown as text, never as markup, their control characters as
escapes.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from lesion.figures import caption
from lesion.runs.manifest import PromptRecord
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
    means = _means(run)
    if means.empty:
        console.print("Nothing was measured: no row has status ok.")
    else:
        for table in _effect_tables(run, means, console.width):
            console.print(table)
        console.print(_means_table(run, means, console.width))
    for note in _notes(run):
        console.print(note, style="dim")


def print_files(run: Run, folder: str, console: Console, drawn: bool) -> None:
    """Print where a run was written and what each of its pictures shows."""
    console.print(Text.assemble("written to ", (plain(folder), "bold")))
    grid = Table.grid(padding=(0, 2))
    for kind in run.chart_kinds() if drawn else ():
        grid.add_row(Text(f"figures/{kind}.png, .html", style="cyan"), caption(kind, METRIC))
    console.print(grid)


def print_estimate(estimate: Any, console: Console) -> None:
    """Print what a sweep would take."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    prompts = f"{estimate.prompts:,} in {estimate.units:,} units"
    if estimate.predictions != estimate.prompts:
        prompts += f", {estimate.predictions:,} predictions"
    if estimate.bad_rows:
        prompts += f"; {estimate.bad_rows:,} rows cannot be asked and would be left out"
    lesions = f"{estimate.lesions:,}, {estimate.rows:,} rows, about {_bytes(estimate.disk_bytes)}"
    rows = {
        "prompts": prompts,
        "lesions": lesions,
        "engine": f"{estimate.engine} ({plain(estimate.reason)})",
        "operations": f"{estimate.operations / 1e12:,.3g} TFLOP at least",
        "time": f"about {_time(estimate.seconds)} in one process like this",
        "memory": f"about {_bytes(estimate.memory_bytes)} beside the program's own",
    }
    for label, value in rows.items():
        grid.add_row(label, Text(value))
    console.print(grid)
    console.print("Nothing was written. The time is that of some lesions measured just now.",
                  style="dim")  # fmt: skip


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"


def _time(seconds: float) -> str:
    """So many seconds, minutes, hours or days."""
    for unit, size, most in (("s", 1, 120), ("minutes", 60, 120), ("hours", 3600, 72)):
        if seconds < most * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds / 86400:,.3g} days"


def percent(fraction: float) -> str:
    """A share as people write it: 0.2 %, 10 %."""
    return f"{100 * fraction:.3g} %"


def _question(run: Run) -> RenderableType:
    manifest, plan = run.manifest, run.manifest.plan
    model = manifest.model
    sizes = " / ".join(str(size) for size in sorted(set(model.neurons)))
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
        **(_one_prompt(run) if manifest.prompts.rows == 1 else _many_prompts(run)),
        "lesions": lesions,
        "engine": _engine(run),
    }
    if not run.complete:
        done, units = len(run.shards.units), manifest.prompts.units
        rows["unfinished"] = f"{done} of {units} units; the command that began it goes on with it"
    for label, value in rows.items():
        grid.add_row(label, Text(value))
    return grid


def _one_prompt(run: Run) -> dict[str, str]:
    """The prompt, its target and what the clean run thinks, in words."""
    prompt = next((prompt for shard in run.shards for prompt in shard.prompts), None)
    if prompt is None:
        return {"prompt": "not measured yet"}
    target = quoted(prompt.target or "")
    if prompt.target_source == "next":
        times = "once" if prompt.predictions == 1 else f"{prompt.predictions} times"
        target = f"the token that follows, {times}"
    if prompt.target_source == "top":
        target += " (none was given: the model's own top token)"
    if prompt.target_source in ("first", "sum"):
        target += f" ({'its first token' if prompt.target_source == 'first' else 'all its tokens'})"
    if prompt.foil is not None:
        target += f"; foil {quoted(prompt.foil)}"
    found = {"prompt": quoted(prompt.text), "target": f"{target}; {_clean(prompt)}"}
    if prompt.truncated:
        found["prompt"] += f" (cut by {prompt.truncated} tokens at its beginning)"
    if prompt.clean_top:
        tokens = (f"{quoted(token.token)} {token.prob:.1%}" for token in prompt.clean_top)
        found["clean"] = "   ".join(tokens)
    return found


def _many_prompts(run: Run) -> dict[str, str]:
    """How many prompts there are and how well the clean run predicts them, in words."""
    asked = run.manifest.prompts
    counts = run.query(
        "select count(*) as predictions, count(distinct prompt_id) as prompts, "
        'count(distinct "group") as groups, median(clean_log_prob) as middle, '
        "count(*) filter (clean_target_rank = 1) as firsts, "
        "count(*) filter (target_source = 'top') as own from "
        '(select distinct prompt_id, "position", "group", clean_log_prob, clean_target_rank, '
        "target_source from rows)"
    ).iloc[0]
    first = next((prompt.text for shard in run.shards for prompt in shard.prompts), "")
    prompts = f"{plain(asked.name)}: {counts.prompts:,} in {counts.groups:,} groups"
    if asked.limit is not None:
        prompts += f", the first {asked.limit:,} rows"
    if first:
        prompts += f"; the first is {quoted(first)}"
    found = {"prompts": prompts}
    if counts.predictions:
        found["clean"] = (
            f"median log-probability {counts.middle:.3f} nats; the target is the first guess in "
            f"{counts.firsts / counts.predictions:.0%} of {counts.predictions:,} predictions"
        )
    if counts.own:
        found["clean"] += f", of {counts.own:,} by choice: none was given"
    if asked.bad_rows:
        example = asked.bad[0]
        found["left out"] = (
            f"{asked.bad_rows:,} of {asked.rows:,} rows, as {plain(example.place)}: "
            f"{plain(example.found)}"
        )
    return found


def _engine(run: Run) -> str:
    measuring = run.measuring
    if not measuring.engines:
        return "none yet"
    found = f"{measuring.engine}, {measuring.seconds:.1f} s"
    if "reference" in measuring.engines and measuring.reason.startswith("auto: "):
        found += f"; {measuring.reason.removeprefix('auto: ')}"
    check = measuring.self_check
    if check is not None:
        found += (
            f"; {check.lesions} lesions measured again by the reference engine in "
            f"{check.seconds:.2g} s, within {check.difference:.1g} nats"
        )
        if measuring.self_checks > 1:
            found += f", the worst of {measuring.self_checks} such checks"
    return found


def _clean(prompt: PromptRecord) -> str:
    if prompt.clean_log_prob is None:
        return "the clean run's logits are not finite"
    if prompt.predictions > 1:
        return f"mean clean log-probability {prompt.clean_log_prob:.3f} nats"
    return (
        f"clean log-probability {prompt.clean_log_prob:.3f} nats, rank {prompt.clean_target_rank}"
    )


def _means(run: Run) -> pd.DataFrame:
    """Means over predictions and draws, a row a selection × layer × fraction."""
    return run.query(
        "select selection, layer, fraction, avg(effect_log_prob) as effect, "
        "avg(removed_post) as removed from rows where status = 'ok' and "
        "isfinite(effect_log_prob) group by all order by all"
    )


def _selections(run: Run, means: pd.DataFrame) -> list[str]:
    """The selections that were measured: the question first."""
    found = set(means["selection"])
    return [word for word in _words(run.manifest.plan["select"]) if word in found]


def _effect_tables(run: Run, means: pd.DataFrame, width: int) -> Iterator[RenderableType]:
    """Blocks × fractions of the first selection, coloured by effect, cut to the width."""
    selection = _selections(run, means)[0]
    frame = means[(means["selection"] == selection) & means["layer"].notna()]
    if frame.empty:
        return
    effects = frame.pivot_table(index="layer", columns="fraction", values="effect")
    largest = float(frame["effect"].abs().max()) or 1.0
    title = f"effect on the target's log-probability (nats), {selection}, block × fraction"
    yield Text(title + _over(run), style="italic")
    for fractions in _chunks([float(f) for f in effects.columns], (width - 8) // _CELL_WIDTH):
        table = _table("block", fractions)
        for layer, row in effects.iterrows():
            cells = (_cell(row[fraction], largest) for fraction in fractions)
            table.add_row(f"{int(layer)}  ", *cells)  # type: ignore[call-overload]
        yield table


def _over(run: Run) -> str:
    """What the effects are means of, in words."""
    prompts = run.manifest.prompts.rows
    if run.manifest.plan.get("position") == "every":
        predictions = run.query(
            'select count(*) as n from (select distinct prompt_id, "position" from rows)'
        )
        count = int(predictions["n"].iloc[0])
        return f", mean over {count} tokens" if count > 1 else ""
    return f", mean over {prompts - run.manifest.prompts.bad_rows} prompts" if prompts > 1 else ""


def _means_table(run: Run, means: pd.DataFrame, width: int) -> RenderableType:
    """Means over blocks, a row a selection, and the post-activation mass the first one moved."""
    order = _selections(run, means)
    largest = float(means["effect"].abs().max()) or 1.0
    fractions = sorted(set(means["fraction"]))
    blocks = "mean over blocks" if means["layer"].notna().any() else "all blocks at once"
    title = f"{blocks} (nats), and post-activation mass moved"
    tables: list[RenderableType] = [Text(title, style="italic")]
    for chunk in _chunks(fractions, (width - 14) // _CELL_WIDTH):
        table = _table("", chunk)
        for selection in order:
            own = means[means["selection"] == selection].groupby("fraction")["effect"].mean()
            table.add_row(f"{selection}  ", *(_cell(own.get(f), largest) for f in chunk))
        first = means[means["selection"] == order[0]]
        removed = first.groupby("fraction")["removed"].mean()
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
    counts = run.query(
        "select count(*) as total, count(*) filter (status = 'empty') as empty, "
        "count(*) filter (status = 'nonfinite') as nonfinite, "
        "count(*) filter (below_noise) as below from rows"
    ).iloc[0]
    total, empty, nonfinite = (int(counts[word]) for word in ("total", "empty", "nonfinite"))
    if empty:
        yield Text(f"{empty} of {total} rows take no neuron (status empty) and are not drawn.")
    floor = run.measuring.noise_floor
    if floor is not None:
        yield Text(
            f"{int(counts['below'])} of {total} effects are below the noise floor of "
            f"{floor:.2g} nats ({run.manifest.model.dtype})."
        )
    if nonfinite:
        yield Text(f"{nonfinite} of {total} rows had a NaN or infinite logit (status nonfinite).")


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
