"""What every picture shares: look, banner, data, block axis, clean rule, tooltip."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import cast

import altair as alt
import pandas as pd

from lesion.figures.scales import Panel
from lesion.figures.table import Table

__all__ = [
    "WIDTH",
    "Picture",
    "banner",
    "block_axis",
    "block_numbers",
    "block_stripes",
    "block_width",
    "clean_rule",
    "data",
    "framed",
    "stacked",
    "styled",
    "tooltip",
]

Picture = alt.Chart | alt.LayerChart | alt.VConcatChart | alt.FacetChart

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, QUIET, FAINT = "#222222", "#666666", "#ececec"
WIDTH = 720
# wide enough for a prompt and its target, which a wrap would trim of their spaces
SUBTITLE_CHARACTERS = 130
COLUMNS = ["series", "fraction", "percent", "neurons", "value", "target_rank", "top_token"]


def styled(picture: Picture, title: alt.TitleParams) -> Picture:
    """Puts title and theme on a picture: white, thin, quiet; only the data has colour."""
    # assigned, because every step of a chain copies the whole chart
    picture.title = title
    picture.config = alt.Config(
        background="white",
        font=FONT,
        padding=12,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            labelColor=INK,
            labelFontSize=11,
            titleColor=INK,
            titleFontSize=12,
            titleFontWeight="normal",
            titlePadding=8,
            domainColor=QUIET,
            tickColor=QUIET,
            tickSize=4,
            gridColor=FAINT,
        ),
        legend=alt.LegendConfig(
            labelColor=INK,
            labelFontSize=11,
            titleColor=INK,
            titleFontSize=12,
            titleFontWeight="normal",
            titleLimit=480,
            labelLimit=400,
            rowPadding=1,
            symbolStrokeWidth=2,
        ),
        header=alt.HeaderConfig(labelColor=INK, labelFontSize=12, labelFontWeight="bold"),
        title=alt.TitleConfig(color=INK, fontWeight="bold", subtitleColor=QUIET),
    )
    return picture


def banner(title: str, lines: Sequence[str]) -> alt.TitleParams:
    """Title over wrapped subtitle lines."""
    wrapped = [part for line in lines for part in textwrap.wrap(line, SUBTITLE_CHARACTERS)]
    return alt.TitleParams(
        text=title,
        subtitle=wrapped,
        anchor="start",
        fontSize=16,
        subtitleFontSize=12,
        subtitlePadding=5,
        offset=14,
    )


def data(points: pd.DataFrame, *more: str) -> alt.InlineData:
    """The columns that are drawn, inline: neither Altair's row limit nor its globals apply."""
    columns = [*COLUMNS, *(["block"] if "block" in points else []), *more]
    drawn = points[columns].astype(object)
    records = drawn.where(drawn.notna(), None).to_dict("records")
    # every step of building a chart copies lists deeply, but takes a tuple as it is
    return alt.InlineData(values=cast("tuple[dict[str, object], ...]", tuple(records)))


def tooltip(table: Table) -> list[alt.Tooltip]:
    block = [alt.Tooltip("block:Q", title="block")] if table.per_block else []
    return [
        *block,
        alt.Tooltip("percent:N", title="fraction"),
        alt.Tooltip("neurons:Q", title="neurons", format=","),
        alt.Tooltip("value:Q", title=table.metric.axis, format=".4~g"),
        alt.Tooltip("target_rank:Q", title="target rank", format=",~r"),
        alt.Tooltip("top_token:N", title="top token"),
        alt.Tooltip("series:N", title="selection"),
    ]


def block_numbers(table: Table) -> list[int]:
    """Every block from the first to the last drawn one."""
    blocks = table.points["block"]
    return list(range(int(blocks.min()), int(blocks.max()) + 1))


def block_width(table: Table) -> int:
    return max(360, min(WIDTH, 48 * len(block_numbers(table))))


def block_axis(table: Table) -> alt.Axis:
    """Whole block numbers; every fifth where all of them would not fit."""
    blocks = block_numbers(table)
    step = 1 if len(blocks) <= 40 else 5 if len(blocks) <= 150 else 20
    cumulative = set(table.scopes) == {"cumulative"}
    ticks = [block for block in blocks if block % step == 0] or blocks
    return alt.Axis(
        title="last lesioned block" if cumulative else "block",
        values=ticks,
        tickCount=len(ticks),
        format="d",
        labelAngle=0,
        labelOverlap=False,
        grid=False,
    )


def block_stripes(blocks: Sequence[int], ends: Sequence[float]) -> alt.Chart:
    """Every other block shaded, so that the dots of one stay together."""
    stripes = [
        {"from": max(block - 0.5, ends[0]), "to": min(block + 0.5, ends[1])}
        for block in blocks
        if block % 2
    ]
    shade = alt.Chart(alt.InlineData(values=stripes)).mark_rect(color="#f4f4f4")
    stripes_of: alt.Chart = shade.encode(x=alt.X("from:Q"), x2=alt.X2("to:Q"))
    return stripes_of


def framed(layers: Sequence[alt.Chart], table: Table, panel: Panel) -> alt.LayerChart:
    """One panel over the blocks."""
    title = alt.TitleParams(panel.title, fontSize=12, offset=6, anchor="start")
    return alt.LayerChart(
        layer=list(layers),
        width=block_width(table),
        height=panel.height,
        title=title if panel.title else alt.Undefined,
    )


def stacked(panels: Sequence[alt.LayerChart]) -> alt.VConcatChart:
    """Panels over one another: their y domains are already equal, their legends are their own."""
    own = alt.ScaleResolveMap(color="independent", strokeDash="independent", shape="independent")
    return alt.VConcatChart(vconcat=list(panels), spacing=18, resolve=alt.Resolve(scale=own))


def clean_rule() -> alt.Chart:
    """The clean run, at 0."""
    zero = alt.InlineData(values=[{"clean": 0}])
    rule: alt.Chart = alt.Chart(zero).mark_rule(color=QUIET).encode(y=alt.Y("clean:Q"))
    return rule
