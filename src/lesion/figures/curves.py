"""Curves: the effect over blocks, one line per fraction, controls dashed."""

from __future__ import annotations

import altair as alt

from lesion.figures.scales import (
    EffectAxis,
    Panel,
    effect_axis,
    fraction_color,
    panels,
    series_dash,
)
from lesion.figures.style import (
    Picture,
    block_axis,
    block_numbers,
    clean_rule,
    data,
    framed,
    stacked,
    tooltip,
)
from lesion.figures.table import Table

__all__ = ["draw_curves"]


def draw_curves(table: Table) -> tuple[Picture, list[str]]:
    """The picture, and what its subtitle has to add."""
    axis = effect_axis(table)
    drawn = [draw_panel(table, panel, axis) for panel in panels(table.points)]
    return stacked(drawn), axis.notes


def draw_panel(table: Table, panel: Panel, axis: EffectAxis) -> alt.LayerChart:
    blocks = block_numbers(table)
    base = alt.Chart(data(panel.points)).encode(
        x=alt.X(
            "block:O",
            scale=alt.Scale(type="point", domain=blocks, padding=0.5),
            axis=block_axis(table),
        ),
        y=axis.y(),
        color=fraction_color(panel.points),
    )
    lines = base.mark_line(strokeWidth=1.5, strokeJoin="round").encode(
        strokeDash=series_dash(table, legend=panel.first),
        opacity=alt.Opacity("series:N", scale=main_over_controls(table, 1, 0.75), legend=None),
    )
    points = base.mark_point(filled=True, opacity=1).encode(
        size=alt.Size("series:N", scale=main_over_controls(table, 20, 8), legend=None),
        tooltip=tooltip(table),
    )
    layers = [lines, points]
    if table.metric.clean_at_zero:
        layers.insert(0, clean_rule())
    return framed(layers, table, panel)


def main_over_controls(table: Table, main: float, control: float) -> alt.Scale:
    sizes = [control if label in table.controls else main for label in table.series]
    # without its type, a scale with a single entry gives that entry no size at all
    return alt.Scale(type="ordinal", domain=list(table.series), range=sizes)
