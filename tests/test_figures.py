"""Pictures: what their specification says, and that every file format is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lesion.errors import InvalidChoice, LesionError
from lesion.figures import KINDS, METRICS, caption, chart, kinds_for, save_chart
from lesion.figures.scales import effect_axis
from lesion.figures.table import tabulate

Spec = dict[str, Any]

COARSE = [tenth / 10 for tenth in range(1, 10)]
FINE = [0.002, *(half / 200 for half in range(1, 10))]
ALL_BLOCKS = [float(fraction) for fraction in np.linspace(0.01, 0.99, 21)]
PER_BLOCK = ("curves", "dots", "heatmap")
MARKS = {"curves": "point", "dots": "point", "heatmap": "rect", "dose": "point"}


def synthetic(
    blocks: int = 6,
    fractions: Sequence[float] = (*FINE, *COARSE),
    selections: Sequence[str] = ("top",),
    draws: int = 3,
    prompts: int = 1,
    scope: str = "each",
    catastrophic: bool = False,
    rank_on: Sequence[str] = ("lesioned",),
) -> pd.DataFrame:
    """A sweep whose effect is -strength(block) · weight(selection) · f / (f + 1 %)."""
    strength = 0.1 + 0.1 * np.arange(blocks)
    if catastrophic:
        strength[0] = 30 * blocks
    rows = [
        {
            "prompt_id": prompt,
            "prompt": "It was a dark and stormy" if prompts == 1 else f"prompt {prompt}",
            "layer": None if scope == "all" else block,
            "fraction": fraction,
            "neurons": int(5120 * fraction),
            "effect_log_prob": -strength[block]
            * {"top": 1.0, "random": 0.2, "bottom": 0.1}[selection]
            * (1 + 0.1 * prompt + 0.1 * draw)
            * fraction
            / (fraction + 0.01),
            "selection": selection,
            "draw": draw if selection == "random" else None,
            "rank": None if selection == "random" else "value",
            "rank_on": run,
        }
        for prompt in range(prompts)
        for run in rank_on
        for selection in selections
        for draw in range(draws if selection == "random" else 1)
        for block in range(1 if scope == "all" else blocks)
        for fraction in fractions
    ]
    frame = pd.DataFrame(rows).assign(
        target=" night",
        target_rank=lambda rows: (1 - 100 * rows["effect_log_prob"]).astype(int),
        top_token=" night",
        kl=lambda rows: -rows["effect_log_prob"],
        prob=lambda rows: np.exp(rows["effect_log_prob"] - 1),
        entropy=3.0,
        removed_post=lambda rows: -rows["effect_log_prob"],
        out_delta_norm=lambda rows: -rows["effect_log_prob"],
        effect_logit=lambda rows: rows["effect_log_prob"],
        effect_logit_diff=lambda rows: rows["effect_log_prob"],
        site="pre",
        replacement="median",
        scope=scope,
        status="ok",
    )
    return frame.astype({"layer": "Int64", "draw": "Int64"})


def draw(frame: pd.DataFrame, kind: str, **options: Any) -> Spec:
    """The specification; `test_files_are_written…` validates what this leaves unchecked."""
    spec: Spec = chart(frame, kind, **options).to_dict(validate=False)
    return spec


def units(spec: Spec) -> Iterator[Spec]:
    """Every view with a mark, in drawing order."""
    if "mark" in spec:
        yield spec
    for part in ("layer", "vconcat"):
        for view in spec.get(part, []):
            yield from units(view)
    if "spec" in spec:
        yield from units(spec["spec"])


def marks(spec: Spec, mark: str) -> list[Spec]:
    return [unit for unit in units(spec) if unit["mark"]["type"] == mark]


def rows_of(unit: Spec, spec: Spec) -> list[dict[str, Any]]:
    """What one view draws; a facet keeps its data at the top."""
    data = unit.get("data") or spec["data"]
    rows: list[dict[str, Any]] = (
        data["values"] if "values" in data else spec["datasets"][data["name"]]
    )
    return rows


def subtitle(spec: Spec) -> list[str]:
    lines: list[str] = spec["title"]["subtitle"]
    return lines


def message(error: pytest.ExceptionInfo[LesionError]) -> str:
    return str(error.value)


# what suits a frame


def test_kinds_for_a_frame_follow_its_scope() -> None:
    assert kinds_for(synthetic()) == PER_BLOCK
    assert kinds_for(synthetic(scope="cumulative")) == PER_BLOCK
    assert kinds_for(synthetic(scope="all", fractions=ALL_BLOCKS)) == ("dose",)
    assert set(KINDS) == {*PER_BLOCK, "dose"}


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_drawn_under_its_own_name(metric: str) -> None:
    frame = synthetic(blocks=3, fractions=[0.5])
    (line,) = marks(draw(frame, "curves", metric=metric), "line")
    (cells,) = marks(draw(frame, "heatmap", metric=metric), "rect")
    assert line["encoding"]["y"]["axis"]["title"] == METRICS[metric].axis
    assert cells["encoding"]["color"]["title"] == METRICS[metric].axis
    assert METRICS[metric].axis in caption("dots", metric)


# curves


def test_curves_split_coarse_from_fine_on_one_y_scale() -> None:
    spec = draw(synthetic(blocks=2), "curves")
    assert [panel["title"]["text"] for panel in spec["vconcat"]] == [
        "coarse fractions",
        "fine fractions",
    ]
    coarse, fine = (unit["encoding"] for unit in marks(spec, "line"))
    assert coarse["y"]["scale"] == fine["y"]["scale"]
    assert coarse["color"]["scale"]["domain"] == [f"{ten} %" for ten in range(10, 99, 10)]
    assert fine["color"]["scale"]["domain"] == [
        *("0.2 %", "0.5 %", "1 %", "1.5 %", "2 %"),
        *("2.5 %", "3 %", "3.5 %", "4 %", "4.5 %"),
    ]


def test_curves_of_one_sort_of_fraction_are_one_panel_with_every_legend_entry() -> None:
    fractions = [number / 1000 for number in range(1, 45)]
    (line,) = marks(draw(synthetic(blocks=2, fractions=fractions), "curves"), "line")
    assert len(line["encoding"]["color"]["scale"]["domain"]) == 44
    assert line["encoding"]["color"]["legend"]["symbolLimit"] == 44


def test_curves_have_a_point_on_every_block_and_the_clean_run_at_zero() -> None:
    spec = draw(synthetic(blocks=36, fractions=[0.01, 0.5]), "curves")
    for line, points in zip(marks(spec, "line"), marks(spec, "point"), strict=True):
        assert line["encoding"]["x"]["scale"]["domain"] == list(range(36))
        assert [row["block"] for row in rows_of(points, spec)] == list(range(36))
    assert [rows_of(rule, spec) for rule in marks(spec, "rule")] == [[{"clean": 0}]] * 2
    assert marks(draw(synthetic(fractions=[0.5]), "curves", metric="prob"), "rule") == []


def test_curves_dash_every_control_and_say_how_many_draws() -> None:
    frame = synthetic(fractions=[0.5], selections=("top", "random", "bottom"))
    (line,) = marks(draw(frame, "curves"), "line")
    dash = line["encoding"]["strokeDash"]
    assert dash["scale"]["domain"] == ["top", "random, mean of 3 draws", "bottom"]
    solid, first, second = dash["scale"]["range"]
    assert solid == [1, 0]
    assert first != second
    assert all(gap > 0 for pattern in (first, second) for gap in pattern[1::2])
    assert dash["legend"]["symbolLimit"] == 3


def test_the_first_selection_of_the_frame_is_the_main_one() -> None:
    frame = synthetic(fractions=[0.5], selections=("bottom", "top"))
    (line,) = marks(draw(frame, "curves"), "line")
    assert line["encoding"]["strokeDash"]["scale"]["domain"] == ["bottom", "top"]


def test_a_catastrophic_block_bends_the_axis_and_the_subtitle_says_so() -> None:
    bent = draw(synthetic(fractions=[0.5], blocks=36, catastrophic=True), "curves")
    y = marks(bent, "line")[0]["encoding"]["y"]
    # the strongest other block reaches 3.6 · 50 / 51 = 3.53: linear to a fifth of it, rounded
    assert (y["scale"]["type"], y["scale"]["constant"]) == ("symlog", 0.5)
    assert subtitle(bent)[-1] == (
        "block 0 far beyond the others: symlog axis, near-linear within ±0.5"
    )
    low, high = y["scale"]["domain"]
    ticks = y["axis"]["values"]
    assert 0 in ticks
    assert min(ticks) < -100
    assert all(low <= tick <= high for tick in ticks)
    # Vega drops every other explicit tick above this count
    assert y["axis"]["tickCount"] == len(ticks)


def test_without_a_catastrophic_block_the_axis_is_linear() -> None:
    level = draw(synthetic(fractions=[0.5], blocks=36), "curves")
    assert "type" not in marks(level, "line")[0]["encoding"]["y"]["scale"]
    assert "symlog" not in " ".join(subtitle(level))


# dots


@pytest.mark.parametrize(("blocks", "catastrophic"), [(1, False), (6, False), (36, True)])
def test_every_dot_lies_strictly_inside_both_axes(blocks: int, catastrophic: bool) -> None:
    frame = synthetic(blocks=blocks, catastrophic=catastrophic)
    spec = draw(frame, "dots")
    dots = marks(spec, "point")
    assert sum(len(rows_of(unit, spec)) for unit in dots) == blocks * 19
    for unit in dots:
        (left, right), (low, high) = (unit["encoding"][axis]["scale"]["domain"] for axis in "xy")
        for row in rows_of(unit, spec):
            assert left < row["place"] < right
            assert low < row["value"] < high
            # and within its own block's stripe
            assert abs(row["place"] - row["block"]) < 0.5
        assert left < -0.5
        assert right > blocks - 0.5


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False), min_size=12, max_size=12)
)
def test_no_values_push_a_dot_off_the_axis(values: list[float]) -> None:
    frame = synthetic(blocks=6, fractions=[0.01, 0.02]).assign(effect_log_prob=values)
    table = tabulate(frame, "effect_log_prob", scope_all=False, asked="test")
    low, high = effect_axis(table).scale.to_dict()["domain"]
    assert low < min(0, *values)
    assert high > max(0, *values)


def test_dots_are_spread_by_the_order_of_the_fractions() -> None:
    frame = synthetic(blocks=2, fractions=[0.2, 0.9, 0.4])
    spec = draw(frame, "dots")
    (dots,) = marks(spec, "point")
    rows = sorted(rows_of(dots, spec), key=lambda row: row["place"])
    assert [(row["block"], row["percent"]) for row in rows] == [
        *((0, "20 %"), (0, "40 %"), (0, "90 %")),
        *((1, "20 %"), (1, "40 %"), (1, "90 %")),
    ]
    assert "within a block, fractions rise from left to right" in subtitle(spec)
    assert draw(frame, "dots") == spec


def test_controls_are_hollow_dots_of_another_shape() -> None:
    spec = draw(synthetic(fractions=[0.5], selections=("top", "bottom")), "dots")
    hollow, full = marks(spec, "point")
    assert (hollow["mark"]["filled"], full["mark"]["filled"]) == (False, True)
    assert full["encoding"]["shape"]["scale"]["range"] == ["circle", "triangle-up"]


# heat map


def test_heatmap_diverges_around_zero_in_ascending_percentages() -> None:
    (cells,) = marks(draw(synthetic(blocks=36), "heatmap"), "rect")
    color, rows = cells["encoding"]["color"]["scale"], cells["encoding"]["y"]["scale"]
    assert color["scheme"]["name"] == "redblue"
    assert color["domain"] == pytest.approx([-3.6 * 0.9 / 0.91, 3.6 * 0.9 / 0.91])
    assert rows["domain"] == [
        *("0.2 %", "0.5 %", "1 %", "1.5 %", "2 %", "2.5 %", "3 %", "3.5 %", "4 %", "4.5 %"),
        *("10 %", "20 %", "30 %", "40 %", "50 %", "60 %", "70 %", "80 %", "90 %"),
    ]
    # the vertical axis grows upwards
    assert rows["reverse"] is True
    assert cells["encoding"]["x"]["scale"]["domain"] == list(range(36))


def test_heatmap_clamps_a_catastrophic_block_and_says_so() -> None:
    spec = draw(synthetic(blocks=36, fractions=[0.1, 0.9], catastrophic=True), "heatmap")
    (cells,) = marks(spec, "rect")
    color = cells["encoding"]["color"]["scale"]
    assert color["clamp"] is True
    assert color["domain"] == pytest.approx([-3.56, 3.56], abs=0.01)
    assert subtitle(spec)[-1] == (
        "colours clamped to ±3.56, the range outside block 0, where the value reaches −1,068"
    )


def test_heatmap_of_an_effect_that_is_zero_everywhere_stays_white() -> None:
    frame = synthetic(fractions=[0.5]).assign(effect_log_prob=0.0)
    (cells,) = marks(draw(frame, "heatmap"), "rect")
    assert cells["encoding"]["color"]["scale"]["domain"] == [-1, 1]


def test_heatmap_of_a_divergence_starts_at_zero() -> None:
    (cells,) = marks(draw(synthetic(fractions=[0.5]), "heatmap", metric="kl"), "rect")
    color = cells["encoding"]["color"]["scale"]
    assert (color["scheme"]["name"], color["domain"][0]) == ("purples", 0)


def test_heatmap_has_one_facet_a_selection_main_first() -> None:
    spec = draw(synthetic(fractions=[0.5], selections=("top", "bottom")), "heatmap")
    assert (spec["facet"]["field"], spec["facet"]["sort"]) == ("series", ["top", "bottom"])
    assert "facet" not in draw(synthetic(fractions=[0.5]), "heatmap")


def test_heatmap_says_that_missing_cells_are_grey() -> None:
    frame = synthetic(fractions=[0.1, 0.5])
    frame.loc[0, "status"] = "empty"
    assert subtitle(draw(frame, "heatmap"))[-2:] == ["not drawn: 1 row empty", "grey: not drawn"]


# dose


def test_dose_draws_one_line_a_selection_with_the_range_of_the_draws() -> None:
    frame = synthetic(scope="all", fractions=ALL_BLOCKS, selections=("top", "random", "bottom"))
    spec = draw(frame, "dose")
    (line,), (band,) = marks(spec, "line"), marks(spec, "area")
    dash = line["encoding"]["strokeDash"]["scale"]
    assert dash["domain"] == ["top", "random, mean of 3 draws", "bottom"]
    assert dash["range"][0] == [1, 0]
    assert [1, 0] not in dash["range"][1:]
    assert {row["series"] for row in rows_of(band, spec)} == {"random, mean of 3 draws"}
    first = rows_of(band, spec)[0]
    # weights 1, 1.1 and 1.2 over the draws
    assert first["low"] / first["high"] == pytest.approx(1.2)
    assert first["value"] / first["high"] == pytest.approx(1.1)
    assert subtitle(spec)[-1] == "band: smallest to largest of the draws"


def test_dose_names_both_rankings_and_keeps_the_main_selection_solid() -> None:
    frame = synthetic(
        scope="all",
        fractions=[0.1, 0.5],
        selections=("top", "bottom"),
        rank_on=("lesioned", "clean"),
    )
    (line,) = marks(draw(frame, "dose"), "line")
    dash = line["encoding"]["strokeDash"]["scale"]
    assert dash["domain"] == [
        "top, ranked on the lesioned run",
        "top, ranked on the clean run",
        "bottom, ranked on the lesioned run",
        "bottom, ranked on the clean run",
    ]
    assert dash["range"][:2] == [[1, 0], [1, 0]]
    assert [1, 0] not in dash["range"][2:]


def test_dose_of_single_blocks_draws_one_line_a_block_on_a_logarithmic_axis() -> None:
    (line,) = marks(draw(synthetic(blocks=2), "dose"), "line")
    assert [detail["field"] for detail in line["encoding"]["detail"]] == ["block", "series"]
    x = line["encoding"]["x"]
    assert x["scale"]["type"] == "log"
    assert x["axis"]["labelExpr"] == "format(100 * datum.value, '~g') + ' %'"
    (linear,) = marks(draw(synthetic(scope="all", fractions=ALL_BLOCKS), "dose"), "line")
    assert "type" not in linear["encoding"]["x"]["scale"]


# what the words around a picture say


def test_one_prompt_is_quoted_with_its_target() -> None:
    assert subtitle(draw(synthetic(fractions=[0.5]), "curves")) == [
        "“It was a dark and stormy” → “ night”",
        "top by value · site pre · replacement median · each block alone",
    ]


def test_scope_all_states_on_which_run_it_ranks() -> None:
    frame = synthetic(scope="all", fractions=[0.1, 0.5], selections=("top", "random"))
    assert subtitle(draw(frame, "dose"))[1] == (
        "top by value · site pre · replacement median · ranked on the lesioned run"
        " · all blocks at once · controls: random"
    )


def test_a_long_prompt_keeps_its_end() -> None:
    prompt = "Once " + "upon a time, " * 10 + "it was a dark and stormy"
    line = subtitle(draw(synthetic(fractions=[0.5]).assign(prompt=prompt), "curves"))[0]
    quoted = line.removesuffix(" → “ night”")
    assert quoted.startswith("“…")
    assert quoted.endswith("it was a dark and stormy”")
    assert len(quoted) == 62


def test_a_prompt_is_text_on_one_line() -> None:
    frame = synthetic(fractions=[0.5]).assign(prompt="<b>a</b>\n  b")
    assert subtitle(draw(frame, "curves"))[0] == "“<b>a</b>\\n  b” → “ night”"


def test_several_prompts_are_averaged_each_with_the_same_weight() -> None:
    frame = synthetic(blocks=1, fractions=[0.5], selections=("random",), draws=2, prompts=2)
    frame["effect_log_prob"] = [-1.0, -3.0, -10.0, -30.0]
    # the second draw of the second prompt was not measured: its prompt still counts half
    frame.loc[3, "effect_log_prob"] = np.nan
    spec = draw(frame, "curves")
    (points,) = marks(spec, "point")
    (row,) = rows_of(points, spec)
    assert row["value"] == pytest.approx((-2.0 - 10.0) / 2)
    assert subtitle(spec)[0] == "mean over 2 prompts"
    assert subtitle(spec)[-1] == "not drawn: 1 row without effect_log_prob"


def test_points_over_fewer_prompts_are_announced() -> None:
    frame = synthetic(fractions=[0.5], prompts=3)
    frame.loc[0, "status"] = "empty"
    assert subtitle(draw(frame, "curves"))[0] == "mean over 3 prompts (2 to 3 measured a point)"


def test_rows_that_are_not_drawn_are_counted_by_their_status() -> None:
    frame = synthetic(fractions=[0.1, 0.5])
    frame.loc[:2, "status"] = "empty"
    frame.loc[3, ["status", "effect_log_prob"]] = ["nonfinite", -np.inf]
    spec = draw(frame, "curves")
    assert subtitle(spec)[-1] == "not drawn: 3 rows empty, 1 row nonfinite"
    (points,) = marks(spec, "point")
    assert len(rows_of(points, spec)) == len(frame) - 4


def test_rows_of_scope_all_stay_out_of_a_picture_over_blocks() -> None:
    frame = pd.concat([synthetic(fractions=[0.5]), synthetic(scope="all", fractions=[0.1, 0.5])])
    assert subtitle(draw(frame, "curves"))[-1] == "not drawn: 2 rows of scope all"
    assert subtitle(draw(frame, "dose"))[-1] == "not drawn: 6 rows of single blocks"


def test_two_sites_are_never_averaged_together() -> None:
    frame = synthetic(fractions=[0.5])
    (line,) = marks(draw(pd.concat([frame, frame.assign(site="post")]), "curves"), "line")
    assert line["encoding"]["strokeDash"]["scale"]["domain"] == ["top, site pre", "top, site post"]


def test_tooltips_name_block_fraction_neurons_effect_rank_token_and_selection() -> None:
    spec = draw(synthetic(fractions=[0.1]), "curves")
    (points,) = marks(spec, "point")
    assert [entry["title"] for entry in points["encoding"]["tooltip"]] == [
        *("block", "fraction", "neurons", METRICS["effect_log_prob"].axis),
        *("target rank", "top token", "selection"),
    ]
    row = rows_of(points, spec)[0]
    assert (row["percent"], row["neurons"], row["top_token"]) == ("10 %", 512, "“ night”")


def test_title_can_be_replaced() -> None:
    spec = draw(synthetic(fractions=[0.1]), "dots", title="Figure 1")
    assert spec["title"]["text"] == "Figure 1"


def test_caption_is_one_sentence() -> None:
    assert caption("heatmap", "effect_log_prob") == (
        "One cell for every block and fraction of lesioned neurons, coloured by effect on"
        " log-probability of the target (nats); the clean run is at 0."
    )
    assert caption("curves", "prob") == (
        "One line per fraction of lesioned neurons, over the blocks: probability of the target."
    )


# size and state


@pytest.mark.parametrize("kind", KINDS)
def test_altairs_row_limit_does_not_apply(kind: str) -> None:
    frame = synthetic(fractions=[0.01, 0.1, 0.5], selections=("top", "bottom"))
    with alt.data_transformers.enable(max_rows=1):
        spec = draw(frame, kind)
    drawn = {
        id(rows): len(rows) for unit in marks(spec, MARKS[kind]) for rows in [rows_of(unit, spec)]
    }
    assert sum(drawn.values()) == 36


def test_nothing_outside_changes() -> None:
    frame = synthetic(fractions=[0.5], selections=("top", "random"))
    copy = frame.copy(deep=True)
    before = (alt.data_transformers.active, dict(alt.data_transformers.options), alt.theme.active)
    for kind in KINDS:
        draw(frame, kind)
    after = (alt.data_transformers.active, dict(alt.data_transformers.options), alt.theme.active)
    assert before == after
    pd.testing.assert_frame_equal(frame, copy)


# errors


def test_unknown_kind_lists_the_known() -> None:
    with pytest.raises(InvalidChoice) as error:
        chart(synthetic(), "pie")
    assert message(error) == (
        "kind='pie': there is no kind of that name. "
        "The kinds are curves, dots, heatmap, dose. Pass one of them."
    )


def test_unknown_metric_lists_the_known() -> None:
    with pytest.raises(InvalidChoice) as error:
        chart(synthetic(), "dots", metric="loss")
    assert message(error) == (
        "metric='loss': there is no metric of that name. The metrics are effect_log_prob, "
        "effect_logit, effect_logit_diff, kl, removed_post, out_delta_norm, prob, entropy, "
        "target_rank. Pass one of them."
    )


@pytest.mark.parametrize("kind", PER_BLOCK)
def test_a_picture_over_blocks_refuses_a_frame_without_blocks(kind: str) -> None:
    with pytest.raises(InvalidChoice) as error:
        chart(synthetic(scope="all", fractions=ALL_BLOCKS), kind)
    assert message(error) == (
        f"chart(kind='{kind}', metric='effect_log_prob'): every row of the frame has scope "
        '"all", which has no single block. The kinds that suit such a frame: dose. '
        'Pass kind="dose", or sweep with scope="each".'
    )


def test_a_frame_with_nothing_to_draw_says_why() -> None:
    with pytest.raises(LesionError) as error:
        chart(synthetic(fractions=[0.1]).assign(status="empty"), "curves")
    assert message(error) == (
        "chart(kind='curves', metric='effect_log_prob'): no row to draw among 6 (6 rows empty). "
        'A row is drawn when its status is "ok" and its effect_log_prob is a number. '
        "Pass a frame with such rows, or choose another metric."
    )
    with pytest.raises(LesionError, match=r"among 0 \(the frame is empty\)"):
        chart(synthetic().iloc[:0], "curves")


def test_a_missing_column_is_named() -> None:
    with pytest.raises(LesionError) as error:
        chart(synthetic().drop(columns=["kl", "site"]), "curves", metric="kl")
    assert message(error) == (
        "chart(kind='curves', metric='kl'): the frame has no column site, kl. "
        "A picture needs the columns that a sweep returns. "
        "Pass the frame of a sweep, unchanged."
    )


def test_a_measurement_that_is_there_twice_is_refused_and_suits_no_kind() -> None:
    frame = synthetic(fractions=[0.1])
    twice = pd.concat([frame, frame.assign(engine="reference")])
    assert kinds_for(twice) == ()
    with pytest.raises(LesionError) as error:
        chart(twice, "curves")
    assert message(error) == (
        "chart(kind='curves', metric='effect_log_prob'): 6 rows repeat a measurement that the "
        "frame already holds. A mean runs over draws and prompts, never over two experiments. "
        "Draw one experiment at a time."
    )


def test_another_suffix_lists_the_five(tmp_path: Path) -> None:
    picture = chart(synthetic(blocks=2, fractions=[0.1]), "dots")
    with pytest.raises(InvalidChoice) as error:
        save_chart(picture, "effect.jpg")
    assert message(error) == (
        "save_chart('effect.jpg'): the suffix is '.jpg'. A chart is written by its suffix. "
        "Use one of .html, .png, .svg, .pdf, .json."
    )
    with pytest.raises(InvalidChoice, match="there is no suffix"):
        save_chart(picture, tmp_path / "effect")


# files


@pytest.mark.parametrize(
    ("suffix", "starts"),
    [
        (".png", b"\x89PNG"),
        (".svg", b"<svg"),
        (".pdf", b"%PDF"),
        (".json", b"{"),
        (".SVG", b"<svg"),
    ],
)
def test_files_are_written_as_their_suffix_says(tmp_path: Path, suffix: str, starts: bytes) -> None:
    path = tmp_path / "new" / f"effect{suffix}"
    save_chart(chart(synthetic(blocks=2, fractions=[0.1, 0.2]), "curves"), path)
    assert path.read_bytes().startswith(starts)


@pytest.mark.parametrize("selections", [("top",), ("top", "random")])
@pytest.mark.parametrize("kind", KINDS)
def test_every_mark_has_a_place_and_a_size(
    tmp_path: Path, kind: str, selections: tuple[str, ...]
) -> None:
    # a scale that Vega cannot resolve shows only in what it draws
    frame = synthetic(blocks=2, fractions=[0.1], selections=selections)
    save_chart(chart(frame, kind), tmp_path / "effect.svg")
    drawn = (tmp_path / "effect.svg").read_text(encoding="utf-8")
    assert "NaN" not in drawn
    assert "undefined" not in drawn
    label = "point" if MARKS[kind] == "point" else "rect mark"
    assert drawn.count(f'aria-roledescription="{label}"') == 2 * len(selections)


def test_html_stands_alone_and_a_prompt_cannot_leave_its_script(tmp_path: Path) -> None:
    frame = synthetic(blocks=2, fractions=[0.1]).assign(prompt="</script><script>alert(1)")
    save_chart(chart(frame, "heatmap"), tmp_path / "effect.html")
    page = (tmp_path / "effect.html").read_text(encoding="utf-8")
    assert "<script src" not in page
    assert "<link" not in page
    assert 'src="http' not in page
    assert "<script>alert" not in page
    assert "\\u003c/script>\\u003cscript>alert(1)" in page
