"""Frame → the few rows a picture draws.

1. Rows whose ``status`` is not "ok", and rows whose metric is NaN, are left out and counted.
2. Each selection becomes a series; where a frame mixes sites, rank keys, replacements or scopes,
   these split the series too, so that no mean ever runs over two different experiments.
3. A point is the mean over the draws (and tokens, at position `every`) of one prompt, then the
   mean over prompts, so that every prompt weighs the same however many of its draws were measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lesion.errors import LesionError
from lesion.figures.metrics import METRICS, Metric

__all__ = ["Table", "check_columns", "percent", "repeated_rows", "tabulate", "without_block"]

REQUIRED = (
    *("prompt_id", "prompt", "target", "layer", "fraction", "neurons", "target_rank"),
    *("top_token", "site", "selection", "draw", "rank", "rank_on", "replacement"),
    *("scope", "status"),
)
SCOPES = {
    "each": "each block alone",
    "all": "all blocks at once",
    "cumulative": "blocks 0 … ℓ",
}
# column → how one of its values reads in a series label or in the subtitle
SETTINGS = {
    "rank": "by {}",
    "site": "site {}",
    "replacement": "replacement {}",
    "rank_on": "ranked on the {} run",
    "scope": "{}",
}
PROMPT_CHARACTERS = 60


@dataclass(frozen=True, eq=False)
class Table:
    """One row per series × block × fraction, with the words that go around it.

    Attributes:
        points: columns ``series``, ``selection``, ``fraction``, ``percent``, ``neurons``,
            ``value``, ``low`` and ``high`` (extremes over draws of the mean over prompts),
            ``draws``, ``target_rank`` (mean), ``top_token``, and ``block`` where the picture is
            per block.
        series: labels, those of the main selection first.
        controls: the labels that belong to any other selection.
        scopes: those of the drawn rows.
        facts: lines for the subtitle.
    """

    points: pd.DataFrame
    series: tuple[str, ...]
    controls: tuple[str, ...]
    metric: Metric
    scopes: tuple[str, ...]
    facts: tuple[str, ...]

    @property
    def per_block(self) -> bool:
        return "block" in self.points


def percent(fraction: float) -> str:
    """0.002 → "0.2 %"."""
    return f"{100 * fraction:.6g} %"


def tabulate(frame: pd.DataFrame, metric: str, scope_all: bool, asked: str) -> Table:
    """Reduces a frame to what is drawn.

    Args:
        frame: one row per prompt × layer × fraction × draw.
        metric: a key of ``METRICS``.
        scope_all: draw the rows of scope "all", or those that have a block.
        asked: how the caller's request reads at the head of an error.

    Raises:
        LesionError: no row is left to draw, or a measurement is there twice.
    """
    rows, left_out = drawable(frame, metric, scope_all)
    if rows.empty:
        raise LesionError(
            asked,
            f"no row to draw among {len(frame)} ({', '.join(left_out) or 'the frame is empty'})",
            f'A row is drawn when its status is "ok" and its {metric} is a number',
            "Pass a frame with such rows, or choose another metric",
        )
    main = str(frame["selection"].iloc[0])
    rows = rows.assign(series=series_labels(rows))
    if count := int(repeated_rows(rows).sum()):
        raise LesionError(
            asked,
            f"{count} {row_word(count)} repeat a measurement that the frame already holds",
            "A mean runs over draws and prompts, never over two experiments",
            "Draw one experiment at a time",
        )
    points = average(rows, ["series"] if scope_all else ["series", "block"])
    selection_of = dict(zip(rows["series"], rows["selection"], strict=True))
    ordered = sorted(selection_of, key=lambda label: selection_of[label] != main)
    facts = [prompt_line(rows, points), settings_line(rows, main)]
    if left_out:
        facts.append(f"not drawn: {', '.join(left_out)}")
    return Table(
        points=points,
        series=tuple(ordered),
        controls=tuple(label for label in ordered if selection_of[label] != main),
        metric=METRICS[metric],
        scopes=tuple(rows["scope"].unique()),
        facts=tuple(facts),
    )


def drawable(
    frame: pd.DataFrame, metric: str, scope_all: bool
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The rows to draw, with their metric as ``value``, and a count of each sort left out."""
    value = frame[metric].astype("Float64").to_numpy(dtype=np.float64, na_value=np.nan)
    rows = frame.assign(value=value)
    # 0.1 + 0.2 and 0.3 are one fraction
    rows["fraction"] = rows["fraction"].astype(np.float64).round(12)
    ok = rows["status"] == "ok"
    counted = [
        f"{count} {row_word(count)} {status}"
        for status, count in rows.loc[~ok, "status"].value_counts(sort=False).items()
    ]
    measured = np.isfinite(rows["value"])
    in_scope = without_block(rows) == scope_all
    placed = rows["fraction"].notna()
    for dropped, words in (
        (ok & ~in_scope, "of single blocks" if scope_all else "of scope all"),
        (ok & in_scope & ~placed, "without a fraction"),
        (ok & in_scope & placed & ~measured, f"without {metric}"),
    ):
        if count := int(dropped.sum()):
            counted.append(f"{count} {row_word(count)} {words}")
    rows = rows[ok & in_scope & placed & measured]
    if not scope_all:
        rows = rows.assign(block=rows["layer"].astype(np.int64))
    return rows, tuple(counted)


def check_columns(frame: pd.DataFrame, asked: str, *more: str) -> None:
    """Raises a LesionError that names every column a picture misses."""
    missing = [name for name in (*REQUIRED, *more) if name not in frame]
    if missing:
        raise LesionError(
            asked,
            f"the frame has no column {', '.join(missing)}",
            "A picture needs the columns that a sweep returns",
            "Pass the frame of a sweep, unchanged",
        )


def repeated_rows(rows: pd.DataFrame) -> pd.Series[bool]:
    """Rows that nothing in the frame tells apart from an earlier one, as two equal-sized sets."""
    position = [name for name in ("position",) if name in rows]
    return rows.duplicated(
        ["prompt_id", *position, "layer", "fraction", "selection", "draw", *SETTINGS]
    )


def without_block(rows: pd.DataFrame) -> pd.Series[bool]:
    """Rows that no picture over blocks can place."""
    return (rows["scope"] == "all") | rows["layer"].isna()


def series_labels(rows: pd.DataFrame) -> pd.Series[str]:
    """Selection, settings that differ within the frame, number of draws."""
    labels = rows["selection"].astype(str)
    for column in SETTINGS:
        # a random set has no rank key: a null is not a second setting
        if rows[column].nunique() > 1:
            words_of = {value: f", {spell(column, value)}" for value in rows[column].dropna()}
            labels += rows[column].map(words_of).fillna("").astype(str)
    draws = rows.groupby(labels)["draw"].nunique()
    return labels.map(
        lambda label: f"{label}, mean of {draws[label]} draws" if draws[label] > 1 else label
    )


def average(rows: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """One point per keys × fraction: mean over draws, then over prompts."""
    by = [*keys, "fraction"]
    cells = rows.groupby(by)
    over_draws = rows.groupby([*by, "prompt_id"])["value"].mean()
    by_draw = rows.groupby([*by, "draw"], dropna=False)["value"].mean().groupby(by)
    tokens = cells["top_token"].nunique()
    points = pd.DataFrame(
        {
            "value": over_draws.groupby(by).mean(),
            "low": by_draw.min(),
            "high": by_draw.max(),
            "prompts": cells["prompt_id"].nunique(),
            "draws": cells["draw"].nunique(),
            "selection": cells["selection"].first(),
            "neurons": cells["neurons"].first().astype(np.int64),
            "target_rank": cells["target_rank"].mean(),
            "top_token": cells["top_token"]
            .first()
            .map(lambda token: quoted(str(token)))
            .where(tokens == 1, tokens.astype(str) + " different"),
        }
    ).reset_index()
    return points.assign(percent=points["fraction"].map(percent))


def prompt_line(rows: pd.DataFrame, points: pd.DataFrame) -> str:
    count = int(rows["prompt_id"].nunique())
    if count == 1:
        first = rows.iloc[0]
        positions = rows["position"].nunique() if "position" in rows else 1
        if positions > 1:
            return f"mean over {positions} tokens of {quoted(str(first['prompt']))}"
        return f"{quoted(str(first['prompt']))} → {quoted(str(first['target']))}"
    fewest = int(points["prompts"].min())
    gaps = "" if fewest == count else f" ({fewest} to {count} measured a point)"
    return f"mean over {count} prompts{gaps}"


def settings_line(rows: pd.DataFrame, main: str) -> str:
    """What the whole frame shares, e.g. "top by value · site pre · replacement median"."""
    shared = []
    for column in SETTINGS:
        values = rows[column].dropna().unique()
        # alone, a block sees nothing lesioned before it: the ranking is the same either way
        idle = column == "rank_on" and set(rows["scope"]) == {"each"}
        if len(values) == 1 and not idle:
            shared.append(spell(column, values[0]))
    selections = [str(selection) for selection in rows["selection"].unique()]
    controls = [selection for selection in selections if selection != main]
    if main in selections:
        ranked = shared and shared[0].startswith("by ")
        shared = [f"{main} {shared[0]}", *shared[1:]] if ranked else [main, *shared]
    if controls:
        shared.append(f"controls: {', '.join(controls)}")
    return " · ".join(shared)


def spell(column: str, value: object) -> str:
    return SETTINGS[column].format(SCOPES.get(str(value), value) if column == "scope" else value)


def quoted(text: str) -> str:
    """In quotation marks, on one line; a long text keeps its end, where the lesion is."""
    line = "".join(mark if mark.isprintable() else repr(mark)[1:-1] for mark in text)
    if len(line) > PROMPT_CHARACTERS:
        line = "…" + line[1 - PROMPT_CHARACTERS :]
    return f"“{line}”"


def row_word(count: int) -> str:
    return "row" if count == 1 else "rows"
