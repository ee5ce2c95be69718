"""Heat map: block × fraction, one below the other for every selection."""

from __future__ import annotations

import altair as alt
import numpy as np

from lesion.figures.scales import catastrophic_blocks, fraction_labels, spell_blocks, spell_number
from lesion.figures.style import Picture, block_axis, block_numbers, block_width, data, tooltip
from lesion.figures.table import Table

__all__ = ["draw_heatmap"]

NOT_DRAWN = "#d9d9d9"


def draw_heatmap(table: Table) -> tuple[Picture, list[str]]:
    """The picture, and what its subtitle has to add."""
    blocks, labels = block_numbers(table), fraction_labels(table.points)
    color, notes = effect_color(table)
    tallest = 15.0 if len(table.series) == 1 else 13.0
    row_height = max(4.0, min(tallest, 300 / len(labels)))
    cells = (
        alt.Chart(data(table.points))
        .mark_rect(stroke="white", strokeWidth=0.75)
        .encode(
            x=alt.X(
                "block:O",
                scale=alt.Scale(domain=blocks, padding=0),
                axis=block_axis(table),
            ),
            # a vertical axis grows upwards: the smallest fraction is the lowest row
            y=alt.Y(
                "percent:O",
                scale=alt.Scale(domain=labels, reverse=True, padding=0),
                axis=alt.Axis(
                    title="fraction of neurons",
                    domain=False,
                    ticks=False,
                    labelPadding=5,
                    labelOverlap=True,
                ),
            ),
            color=color,
            tooltip=tooltip(table),
        )
        .properties(
            width=block_width(table),
            height=row_height * len(labels),
            view=alt.ViewBackground(fill=NOT_DRAWN, strokeOpacity=0),
        )
    )
    if len(table.points) < len(blocks) * len(labels) * len(table.series):
        notes.append("grey: not drawn")
    if len(table.series) == 1:
        return cells, notes
    header = alt.Header(title=None, labelAnchor="start", labelOrient="top")
    facet = alt.Facet("series:N", sort=list(table.series), header=header)
    return cells.facet(facet, columns=1, spacing=14), notes


def effect_color(table: Table) -> tuple[alt.Color, list[str]]:
    """Diverging around 0 for signed metrics (red: the target lost), else pale to dark.

    Blocks far beyond the others do not set the scale: it spans the values outside them, theirs
    are clamped to its ends, and the note says both.
    """
    points, metric = table.points, table.metric
    blocks = catastrophic_blocks(table)
    far = points["block"].isin(blocks)
    others = points.loc[~far, "value"]
    low, high = float(others.min()), float(others.max())
    if metric.signed:
        high = max(-low, high)
        low = -high
    elif metric.clean_at_zero:
        low = 0.0
    if low == high:
        low, high = (-1.0, 1.0) if metric.signed else (low, low + 1.0)
    scale = alt.Scale(
        type="symlog" if metric.logarithmic else "linear",
        constant=1.0 if metric.logarithmic else alt.Undefined,
        domain=[low, high],
        scheme=alt.SchemeParams(name="redblue" if metric.signed else "purples"),
        clamp=True,
        nice=False,
        zero=False,
    )
    between = [(low + high) / 2]
    if metric.logarithmic:
        between = [10.0**power for power in range(1, 7) if 3 * low < 10.0**power < high / 3]
    legend = alt.Legend(
        orient="bottom",
        direction="horizontal",
        gradientLength=320,
        values=[low, *between, high],
        labelExpr="format(datum.value, ',.3~r')",
    )
    notes = []
    if blocks:
        beyond = points.loc[far, "value"].to_numpy()
        worst = float(beyond[np.abs(beyond - (low + high) / 2).argmax()])
        span = f"{spell_number(low)} … {spell_number(high)}"
        notes.append(
            f"colours clamped to {f'±{spell_number(high)}' if metric.signed else span}, "
            f"the range outside {spell_blocks(blocks)}, "
            f"where the value reaches {spell_number(worst)}"
        )
    return alt.Color("value:Q", title=metric.axis, scale=scale, legend=legend), notes
