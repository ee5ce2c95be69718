"""Pictures of a sweep's frame, as Altair charts.

    curves    effect over blocks, one line per fraction
    dots      one dot for every block and fraction: the protocol's picture
    heatmap   block × fraction, in colour
    dose      effect over fraction, for lesions of all blocks at once

The first selection of a frame is the main one; every other is its control. One prompt is drawn
as measured, several as their mean. What a picture leaves out, clamps or bends, its subtitle says.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pandas as pd

from lesion.errors import InvalidChoice
from lesion.figures.curves import draw_curves
from lesion.figures.dose import draw_dose
from lesion.figures.dots import draw_dots
from lesion.figures.heatmap import draw_heatmap
from lesion.figures.metrics import METRICS
from lesion.figures.style import Picture, banner, styled
from lesion.figures.table import Table, check_columns, repeated_rows, tabulate, without_block

__all__ = ["KINDS", "METRICS", "caption", "chart", "kinds_for", "save_chart"]

DRAW: dict[str, Callable[[Table], tuple[Picture, list[str]]]] = {
    "curves": draw_curves,
    "dots": draw_dots,
    "heatmap": draw_heatmap,
    "dose": draw_dose,
}
KINDS = tuple(DRAW)
TITLES = {
    "curves": "Lesions block by block",
    "dots": "Lesions block by block",
    "heatmap": "Lesions by block and fraction",
    "dose": "Lesions by fraction",
}
CAPTIONS = {
    "curves": "One line per fraction of lesioned neurons, over the blocks: {metric}",
    "dots": "One dot for every block and fraction of lesioned neurons: {metric}",
    "heatmap": "One cell for every block and fraction of lesioned neurons, coloured by {metric}",
    "dose": "Over the fraction of lesioned neurons: {metric}",
}
SUFFIXES: dict[str, Literal["html", "png", "svg", "pdf", "json"]] = {
    ".html": "html",
    ".png": "png",
    ".svg": "svg",
    ".pdf": "pdf",
    ".json": "json",
}


def chart(
    frame: pd.DataFrame,
    kind: str,
    *,
    metric: str = "effect_log_prob",
    title: str | None = None,
) -> Picture:
    """Draws a frame.

    Args:
        frame: one row per prompt × layer × fraction × draw, as a sweep returns it.
        kind: one of ``KINDS``; see ``kinds_for``.
        metric: one of ``METRICS``.
        title: replaces the default title; the subtitle always says what is drawn.

    Raises:
        InvalidChoice: no such kind or metric, or a kind that does not suit the frame's scope.
        LesionError: a column is missing, no row is left to draw, or one is there twice.
    """
    asked = f"chart(kind={kind!r}, metric={metric!r})"
    check_choice("kind", kind, KINDS)
    check_choice("metric", metric, tuple(METRICS))
    check_columns(frame, asked, metric)
    if kind != "dose" and is_whole_model(frame):
        raise InvalidChoice(
            asked,
            'every row of the frame has scope "all", which has no single block',
            "The kinds that suit such a frame: dose",
            'Pass kind="dose", or sweep with scope="each"',
        )
    scope_all = kind == "dose" and bool(without_block(frame).any())
    table = tabulate(frame, metric, scope_all, asked)
    picture, notes = DRAW[kind](table)
    lines = [*table.facts, *([" · ".join(notes)] if notes else [])]
    return styled(picture, banner(title or TITLES[kind], lines))


def kinds_for(frame: pd.DataFrame) -> tuple[str, ...]:
    """The kinds that suit a frame: only "dose" without single blocks.

    None suits a frame that holds a measurement twice, which `chart` would refuse.
    """
    check_columns(frame, "kinds_for(frame)")
    if repeated_rows(frame[frame["status"] == "ok"]).any():
        return ()
    return ("dose",) if is_whole_model(frame) else ("curves", "dots", "heatmap")


def is_whole_model(frame: pd.DataFrame) -> bool:
    return len(frame) > 0 and bool(without_block(frame).all())


def caption(kind: str, metric: str) -> str:
    """One sentence that says what the picture shows."""
    check_choice("kind", kind, KINDS)
    check_choice("metric", metric, tuple(METRICS))
    words = METRICS[metric]
    clean = "; the clean run is at 0" if words.clean_at_zero else ""
    return f"{CAPTIONS[kind].format(metric=words.axis)}{clean}."


def save_chart(picture: Picture, path: str | Path) -> None:
    """Writes a chart as its suffix says; HTML needs no network, PNG has twice the pixels.

    Missing folders are made.

    Raises:
        InvalidChoice: another suffix.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InvalidChoice(
            f"save_chart({str(path)!r})",
            f"the suffix is {path.suffix!r}" if path.suffix else "there is no suffix",
            "A chart is written by its suffix",
            f"Use one of {', '.join(SUFFIXES)}",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix == ".html":
        # no "open in the online editor": the file stays offline
        options = {"actions": {"export": True, "source": True, "compiled": False, "editor": False}}
        picture.save(
            path,
            format="html",
            inline=True,
            embed_options=options,
            json_kwds={"cls": ScriptSafeEncoder},
        )
    elif suffix == ".png":
        picture.save(path, format="png", scale_factor=2)
    else:
        picture.save(path, format=SUFFIXES[suffix])


class ScriptSafeEncoder(json.JSONEncoder):
    """A prompt that holds "</script>" must not end the script that carries it."""

    def encode(self, o: object) -> str:
        return super().encode(o).replace("<", "\\u003c")


def check_choice(name: str, given: str, known: tuple[str, ...]) -> None:
    if given not in known:
        raise InvalidChoice(
            f"{name}={given!r}",
            f"there is no {name} of that name",
            f"The {name}s are {', '.join(known)}",
            "Pass one of them",
        )
