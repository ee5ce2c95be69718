"""The picture of `docs/benchmarks.md`: seconds by contestant, and three curves of growth."""

from collections.abc import Mapping
from pathlib import Path

import altair as alt
import vl_convert

from benchmarks.results import Contestant, Entry, Point

FONT = "Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif"
INK, QUIET, FAINT = "#222222", "#666666", "#ececec"
PACKED, OTHERS = "#1f6fb4", "#b8bec6"
WIDTH, NAMES = 760, 300
CURVES = {
    "tokens": "tokens of the prompt",
    "fractions": "fractions a block",
    "blocks": "blocks",
}


def draw(entries: Mapping[str, Entry], path: Path) -> None:
    """Write PNG and SVG; panels of jobs that were not run are left out."""
    panels: list[alt.LayerChart | alt.HConcatChart] = []
    if "sweep" in entries:
        panels.append(_bars(entries["sweep"].found.contestants))
    if "growth" in entries:
        panels.append(_curves(entries["growth"].found.points))
    if not panels:
        return
    picture = alt.ConcatChart(concat=panels, columns=1, spacing=34, align="none").configure(
        background="white", font=FONT, padding=14
    )
    picture = picture.configure_view(stroke=None).configure_axis(
        labelColor=INK, labelFontSize=11, titleColor=INK, titleFontSize=12,
        titleFontWeight="normal", domainColor=QUIET, tickColor=QUIET, gridColor=FAINT,
    )  # fmt: skip
    specification = picture.to_json()
    path.with_suffix(".svg").write_text(vl_convert.vegalite_to_svg(specification))
    path.with_suffix(".png").write_bytes(vl_convert.vegalite_to_png(specification, scale=2))


def _bars(contestants: tuple[Contestant, ...]) -> alt.LayerChart:
    """Seconds of the whole sweep, fastest first."""
    counted = sorted(
        (row for row in contestants if row.whole is not None), key=lambda row: row.whole
    )
    packed = next(row.whole for row in counted if row.name == "packed")
    values = [
        {
            "label": row.label.strip("*"),
            "seconds": row.whole,
            "kind": row.name == "packed",
            "text": _text(row, packed),
        }
        for row in counted
    ]
    base = alt.Chart(alt.InlineData(values=values)).encode(y=alt.Y("label:N", sort=None, axis=None))
    # Names stand inside the panel, so that the panels below begin at the same edge.
    scale = alt.Scale(
        domain=[0, 1.22 * counted[-1].whole], range=[NAMES, WIDTH], zero=True, nice=False
    )
    axis = alt.Axis(title="seconds", tickCount=6)
    bars = base.mark_bar(height=17, cornerRadiusEnd=2).encode(
        x=alt.X("seconds:Q", scale=scale, axis=axis),
        color=alt.condition("datum.kind", alt.value(PACKED), alt.value(OTHERS)),
    )
    texts = base.mark_text(align="left", dx=6, color=INK, fontSize=11).encode(
        x=alt.X("seconds:Q", scale=scale), text="text:N"
    )
    names = base.mark_text(align="right", dx=-10, color=INK, fontSize=12).encode(
        x=alt.value(NAMES), text="label:N"
    )
    title = alt.TitleParams(
        "36 blocks × 9 fractions of GPT-2 Large, 7 tokens", anchor="start", frame="group",
        fontSize=14, color=INK, offset=10,
        subtitle="time of the whole sweep; in brackets, how many times that of the packed engine",
        subtitleColor=QUIET, subtitleFontSize=11,
    )  # fmt: skip
    return alt.LayerChart(layer=[bars, texts, names], width=WIDTH, height=30 * len(values),
                          title=title)  # fmt: skip


def _text(row: Contestant, packed: float) -> str:
    about = "" if row.timed == row.lesions else "≈ "
    if row.name == "packed":
        return f"{row.whole:.1f} s"
    return f"{about}{row.whole:.0f} s  ({row.whole / packed:.0f} ×)"


def _curves(points: tuple[Point, ...]) -> alt.HConcatChart:
    """Seconds over the number that grows, each with straight lines between the points."""
    charts: list[alt.Chart | alt.LayerChart] = []
    top = max(point.seconds for point in points if point.curve != "tokens")
    for curve, name in CURVES.items():
        mine = [{"x": point.x, "seconds": point.seconds}
                for point in points if point.curve == curve]  # fmt: skip
        ticks = [point["x"] for point in mine]
        x_axis = alt.Axis(values=ticks, grid=False, labelOverlap="greedy", labelSeparation=8)
        y_scale = alt.Scale(zero=True, nice=True)
        if curve != "tokens":
            y_scale = alt.Scale(domain=[0, top * 1.1], nice=False)
        base = alt.Chart(alt.InlineData(values=mine)).encode(
            x=alt.X("x:Q", title=name, scale=alt.Scale(zero=True), axis=x_axis),
            y=alt.Y("seconds:Q", title="seconds" if not charts else None, scale=y_scale,
                    axis=alt.Axis(tickCount=5)),
        )  # fmt: skip
        line = base.mark_line(color=PACKED, strokeWidth=1.8)
        dots = base.mark_point(color=PACKED, filled=True, size=42, opacity=1)
        title = alt.Undefined
        if not charts:
            title = alt.TitleParams(
                "Growth of the packed sweep", anchor="start", frame="group",
                fontSize=14, color=INK, offset=10,
                subtitle="otherwise 7 tokens, 9 fractions, 36 blocks",
                subtitleColor=QUIET, subtitleFontSize=11,
            )  # fmt: skip
        charts.append(alt.LayerChart(layer=[line, dots], width=WIDTH // 3 - 44, height=170,
                                     title=title))  # fmt: skip
    return alt.HConcatChart(hconcat=charts, spacing=30)
