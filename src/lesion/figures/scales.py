"""Scales the pictures share: the effect axis, fraction colours, dashes, the split in panels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from lesion.figures.table import Table, percent

__all__ = [
    "EffectAxis",
    "Panel",
    "catastrophic_blocks",
    "effect_axis",
    "fraction_color",
    "fraction_labels",
    "panels",
    "series_dash",
    "series_legend",
    "spell_blocks",
    "spell_number",
]

COARSE = 0.1
# a block whose peak is this many times the next one would squash a linear axis
SQUASHES = 4
LEGEND_CHARACTERS = 130
SOLID: list[float] = [1, 0]
DASHES: tuple[list[float], ...] = ([5, 3], [1.5, 2], [8, 3, 2, 3], [2, 5], [12, 4])


@dataclass(frozen=True, eq=False)
class EffectAxis:
    """The y channel of curves, dots and dose; the notes say when a few blocks bend it."""

    scale: alt.Scale
    axis: alt.Axis
    notes: list[str]

    def y(self, field: str = "value") -> alt.Y:
        return alt.Y(f"{field}:Q", scale=self.scale, axis=self.axis)


@dataclass(frozen=True, eq=False)
class Panel:
    """Fractions drawn together; only the first panel carries the legend of the selections."""

    points: pd.DataFrame
    title: str
    height: int
    first: bool


def panels(points: pd.DataFrame) -> tuple[Panel, ...]:
    """Coarse and fine fractions apart, where a frame has both."""
    coarse = points["fraction"] >= COARSE
    if coarse.all() or not coarse.any():
        return (Panel(points, "", height=360, first=True),)
    return tuple(
        Panel(part, f"{name} fractions", height=250, first=first)
        for name, part, first in (
            ("coarse", points[coarse], True),
            ("fine", points[~coarse], False),
        )
    )


def catastrophic_blocks(table: Table) -> tuple[int, ...]:
    """Blocks so far beyond all others that these would be squashed on a linear scale.

    At most a sixth of the blocks (or one) can be far beyond: their smallest peak is at least
    four times the next block's. A peak is the largest distance from the clean run, or from the
    median of all points where the clean run is not at 0.
    """
    if not table.per_block or table.metric.logarithmic:
        return ()
    points = table.points
    center = 0.0 if table.metric.clean_at_zero else points["value"].median()
    peaks = (points["value"] - center).abs().groupby(points["block"]).max()
    sizes = peaks.sort_values(ascending=False)
    for count in range(min(max(1, len(sizes) // 6), len(sizes) - 1), 0, -1):
        if sizes.iloc[count - 1] >= SQUASHES * sizes.iloc[count] > 0:
            return tuple(sorted(int(block) for block in sizes.index[:count]))
    return ()


def spell_blocks(blocks: Sequence[int]) -> str:
    """(0, 3) → "blocks 0, 3"."""
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(str, blocks))}"


def spell_number(value: float) -> str:
    """Three digits, and no power of ten below a million."""
    spelled = f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
    return spelled.replace("-", "−")


def effect_axis(table: Table) -> EffectAxis:
    """Linear, unless a few blocks would squash the others: then symmetric-logarithmic.

    Every value, extremes over draws included, lies strictly inside the domain, and so does the
    clean run where it lies at 0.
    """
    points, metric = table.points, table.metric
    linear_to, notes = None, []
    if metric.logarithmic:
        linear_to = 1.0
    elif metric.clean_at_zero and (blocks := catastrophic_blocks(table)):
        others = points.loc[~points["block"].isin(blocks), "value"]
        linear_to = round_down(float(others.abs().max()) / 5)
        notes.append(
            f"{spell_blocks(blocks)} far beyond the others: "
            f"symlog axis, near-linear within ±{spell_number(linear_to)}"
        )
    low, high = float(points["low"].min()), float(points["high"].max())
    if metric.clean_at_zero:
        low, high = min(low, 0.0), max(high, 0.0)
    bottom, top = bend(low, linear_to), bend(high, linear_to)
    margin = 0.06 * (top - bottom) or 0.5
    domain = (unbend(bottom - margin, linear_to), unbend(top + margin, linear_to))
    if linear_to is None:
        scale = alt.Scale(domain=list(domain), nice=False, zero=False)
        return EffectAxis(scale, alt.Axis(title=metric.axis, tickCount=6), notes)
    scale = alt.Scale(
        type="symlog", constant=linear_to, domain=list(domain), nice=False, zero=False
    )
    ticks = symlog_ticks(domain, linear_to)
    axis = alt.Axis(
        title=metric.axis,
        values=ticks,
        # Vega thins even explicit ticks down to its own count
        tickCount=len(ticks),
        labelOverlap=False,
        labelExpr="format(datum.value, ',~r')",
    )
    return EffectAxis(scale, axis, notes)


def bend(value: float, linear_to: float | None) -> float:
    """Vega's symlog, or the identity."""
    if linear_to is None:
        return value
    return math.copysign(math.log1p(abs(value) / linear_to), value)


def unbend(value: float, linear_to: float | None) -> float:
    if linear_to is None:
        return value
    return math.copysign(math.expm1(abs(value)) * linear_to, value)


def round_down(value: float) -> float:
    """To 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return float(f"{max(step for step in (1, 2, 5) if step * power <= value * 1.0001) * power:.1g}")


def symlog_ticks(domain: tuple[float, float], linear_to: float) -> list[float]:
    """0 and, on either side, 1 and 3 times powers of ten, as far apart as labels need."""
    low, high = (bend(end, linear_to) for end in domain)
    apart = 0.08 * (high - low)
    first = math.floor(math.log10(linear_to))
    last = math.ceil(math.log10(max(-domain[0], domain[1])))
    sizes = [float(f"{step}e{power}") for power in range(first, last + 1) for step in (1, 3)]
    ticks = [0.0] if low <= 0 <= high else []
    for sign in (-1, 1):
        reached = 0.0
        for size in sizes:
            place = bend(size, linear_to)
            if place - reached >= apart and low <= sign * place <= high:
                ticks.append(sign * size)
                reached = place
    return sorted(ticks)


def fraction_labels(points: pd.DataFrame) -> list[str]:
    """Percentages, in ascending order of the fraction."""
    return [percent(fraction) for fraction in sorted(points["fraction"].unique())]


def fraction_color(points: pd.DataFrame) -> alt.Color:
    labels = fraction_labels(points)
    # the pale end of viridis is invisible on white: leave it out
    scheme = alt.SchemeParams(name="viridis", extent=[0, 0.93])
    return alt.Color(
        "percent:O",
        title="fraction",
        scale=alt.Scale(domain=labels, scheme=scheme, reverse=True),
        legend=alt.Legend(symbolLimit=len(labels), columns=1 if len(labels) <= 14 else 2),
    )


def series_dash(table: Table, legend: bool = True, one_solid: bool = True) -> alt.StrokeDash:
    """Controls dashed, each in its own way.

    Args:
        table: whose series are drawn.
        legend: show the legend, where there is more than one series.
        one_solid: dash also what follows the first series of the main selection; without it,
            only colour tells the series of the main selection apart.
    """
    solid = 1 if one_solid else len(table.series) - len(table.controls)
    dashes = [DASHES[number % len(DASHES)] for number in range(len(table.series) - solid)]
    return alt.StrokeDash(
        "series:N",
        scale=alt.Scale(domain=list(table.series), range=[SOLID] * solid + dashes),
        legend=series_legend(table, symbolType="stroke", symbolSize=260) if legend else None,
    )


def series_legend(table: Table, **symbols: Any) -> alt.Legend | None:
    """Above the picture, in as many columns as the labels leave room for."""
    if len(table.series) == 1:
        return None
    longest = max(len(label) for label in table.series)
    return alt.Legend(
        title=None,
        orient="top",
        direction="horizontal",
        columns=max(1, LEGEND_CHARACTERS // (longest + 6)),
        symbolLimit=len(table.series),
        **symbols,
    )
