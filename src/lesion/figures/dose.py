"""Dose: the effect over the fraction, all blocks lesioned at once, or one thin line per block."""

from __future__ import annotations

import altair as alt
import pandas as pd

from lesion.figures.scales import COARSE, EffectAxis, effect_axis, series_dash, series_legend
from lesion.figures.style import WIDTH, Picture, clean_rule, data, tooltip
from lesion.figures.table import Table

__all__ = ["draw_dose"]

# Okabe and Ito's colours, those dark enough for a line on white first
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LOG_TICKS = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
HEIGHT = 380


def draw_dose(table: Table) -> tuple[Picture, list[str]]:
    """The picture, and what its subtitle has to add."""
    axis = effect_axis(table)
    notes = list(axis.notes)
    lines: list[alt.Chart] = [clean_rule()] if table.metric.clean_at_zero else []
    if table.per_block:
        lines += block_lines(table, axis)
    else:
        if (table.points["draws"] > 1).any():
            lines.append(draw_band(table, axis))
            notes.append("band: smallest to largest of the draws")
        lines += series_lines(table, axis)
    return alt.LayerChart(layer=lines, width=WIDTH, height=HEIGHT), notes


def series_lines(table: Table, axis: EffectAxis) -> list[alt.Chart]:
    base = alt.Chart(data(table.points)).encode(
        x=fraction_x(table.points), y=axis.y(), color=series_color(table)
    )
    return [
        base.mark_line(strokeWidth=2, strokeJoin="round").encode(
            strokeDash=series_dash(table, one_solid=False)
        ),
        base.mark_point(filled=True, size=30, opacity=1).encode(tooltip=tooltip(table)),
    ]


def draw_band(table: Table, axis: EffectAxis) -> alt.Chart:
    """Extremes over the draws of a random selection."""
    drawn = table.points[table.points["draws"] > 1]
    band: alt.Chart = (
        alt.Chart(data(drawn, "low", "high"))
        .mark_area(opacity=0.18)
        .encode(
            x=fraction_x(table.points),
            y=axis.y("low"),
            y2=alt.Y2("high:Q"),
            color=series_color(table),
        )
    )
    return band


def block_lines(table: Table, axis: EffectAxis) -> list[alt.Chart]:
    base = alt.Chart(data(table.points)).encode(
        x=fraction_x(table.points),
        y=axis.y(),
        color=alt.Color(
            "block:Q",
            title="block",
            scale=alt.Scale(scheme=alt.SchemeParams(name="viridis", extent=[0, 0.93])),
            legend=alt.Legend(format="d", tickMinStep=1),
        ),
        detail=[alt.Detail("block:N"), alt.Detail("series:N")],
    )
    return [
        base.mark_line(strokeWidth=1, strokeJoin="round").encode(strokeDash=series_dash(table)),
        base.mark_point(filled=True, size=14, opacity=1).encode(tooltip=tooltip(table)),
    ]


def series_color(table: Table) -> alt.Color:
    """Same domain and title as the dashes, so that both share one legend."""
    colors = [PALETTE[number % len(PALETTE)] for number in range(len(table.series))]
    return alt.Color(
        "series:N",
        scale=alt.Scale(domain=list(table.series), range=colors),
        legend=series_legend(
            table,
            symbolType="stroke",
            symbolSize=260,
            symbolOpacity=1,
            symbolFillColor="transparent",
        ),
    )


def fraction_x(points: pd.DataFrame) -> alt.X:
    """Linear; logarithmic where fine fractions would be squeezed beside coarse ones."""
    fractions = points["fraction"]
    fine = fractions[fractions < COARSE]
    percentages = "format(100 * datum.value, '~g') + ' %'"
    title = "fraction of neurons lesioned"
    if fine.nunique() >= 3 and fractions.max() >= COARSE and fractions.min() > 0:
        ends = [fractions.min() / 1.15, fractions.max() * 1.15]
        axis = alt.Axis(
            title=title,
            labelExpr=percentages,
            values=[tick for tick in LOG_TICKS if ends[0] <= tick <= ends[1]],
        )
        return alt.X("fraction:Q", axis=axis, scale=alt.Scale(type="log", domain=ends, nice=False))
    margin = 0.03 * (fractions.max() - min(0.0, fractions.min())) or 0.01
    axis = alt.Axis(title=title, labelExpr=percentages, tickCount=10)
    scale = alt.Scale(domain=[-margin, fractions.max() + margin], nice=False, zero=False)
    return alt.X("fraction:Q", axis=axis, scale=scale)
