"""Dots: one for every block and fraction, spread within the block by rising fraction."""

from __future__ import annotations

import altair as alt
import pandas as pd

from lesion.figures.scales import (
    EffectAxis,
    Panel,
    effect_axis,
    fraction_color,
    panels,
    series_legend,
)
from lesion.figures.style import (
    Picture,
    block_axis,
    block_numbers,
    block_stripes,
    clean_rule,
    data,
    framed,
    stacked,
    tooltip,
)
from lesion.figures.table import Table

__all__ = ["draw_dots"]

# share of a block's width over which its dots spread, and the margin beyond the outermost dots
SPREAD, MARGIN = 0.76, 0.3
SHAPES = ("circle", "triangle-up", "square", "diamond", "cross", "triangle-down")


def draw_dots(table: Table) -> tuple[Picture, list[str]]:
    """The picture, and what its subtitle has to add."""
    axis = effect_axis(table)
    drawn = [draw_panel(table, panel, axis) for panel in panels(table.points)]
    order = "within a block, fractions rise from left to right"
    return stacked(drawn), [order, *axis.notes]


def draw_panel(table: Table, panel: Panel, axis: EffectAxis) -> alt.LayerChart:
    points = panel.points.assign(place=places(panel.points))
    blocks = block_numbers(table)
    ends = [blocks[0] - SPREAD / 2 - MARGIN, blocks[-1] + SPREAD / 2 + MARGIN]
    x = alt.X(
        "place:Q",
        scale=alt.Scale(domain=ends, nice=False, zero=False),
        axis=block_axis(table),
    )
    control = points["series"].isin(table.controls)
    # full dots for the main selection, hollow ones for its controls
    layers = [
        alt.Chart(data(points[rows], "place"))
        .mark_point(filled=filled, size=size, strokeWidth=1, opacity=1)
        .encode(
            x=x,
            y=axis.y(),
            color=fraction_color(panel.points),
            shape=series_shape(table, legend=panel.first),
            tooltip=tooltip(table),
        )
        for rows, filled, size in ((control, False, 18), (~control, True, 28))
        if rows.any()
    ]
    below = [block_stripes(blocks, ends)]
    if table.metric.clean_at_zero:
        below.append(clean_rule())
    return framed([*below, *layers], table, panel)


def places(points: pd.DataFrame) -> pd.Series[float]:
    """Block, plus an offset that follows from the order of the fractions alone."""
    order = points["fraction"].rank(method="dense")
    return points["block"] + SPREAD * ((order - 0.5) / order.max() - 0.5)


def series_shape(table: Table, legend: bool) -> alt.Shape:
    shapes = [SHAPES[number % len(SHAPES)] for number in range(len(table.series))]
    return alt.Shape(
        "series:N",
        scale=alt.Scale(domain=list(table.series), range=shapes),
        legend=series_legend(table, symbolSize=45) if legend else None,
    )
