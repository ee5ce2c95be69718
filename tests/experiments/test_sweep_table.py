"""What stands in the table of a sweep: its rows, their order, and what is null."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from families import tiny_model
from sweep_cells import NEURON_SET, PROMPT, TARGET, TARGET_ID, TOKEN_IDS

import lesion
from lesion.columns import SWEEP_COLUMNS, SWEEP_SCHEMA
from lesion.models.language_model import LanguageModel

Tiny = Callable[..., LanguageModel]
Rows = list[dict[str, Any]]

MEASURED = (
    "logit", "log_prob", "prob", "target_rank", "kl", "entropy", "top_token", "top_token_id",
    "effect_logit", "effect_log_prob", "removed_post", "out_delta_norm", "logit_diff",
    "effect_logit_diff", "largest_change", "hidden_norm",
)  # fmt: skip
METRICS = MEASURED[:8]


def rows_of(model: LanguageModel, **words: Any) -> Rows:
    """The rows of a sweep of the common prompt and target."""
    return lesion.sweep(model, PROMPT, TARGET, **words).table.to_pylist()


def without(rows: Rows, *columns: str) -> Rows:
    """The rows without some columns."""
    return [{name: row[name] for name in row if name not in columns} for row in rows]


def assert_equal_up_to_rounding(found: Rows, expected: Rows) -> None:
    """Rows that other rows stood beside: numbers agree to 1e-12, everything else is equal."""
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, float | list):
                assert value == pytest.approx(other[name], abs=1e-12), name
            else:
                assert value == other[name], name


def count_passes(model: LanguageModel, **words: Any) -> int:
    """How many forward passes a sweep takes."""
    passes: list[int] = []
    handle = model.hf_model.register_forward_hook(lambda *_: passes.append(1))
    try:
        rows_of(model, **words)
    finally:
        handle.remove()
    return len(passes)


def test_the_table_has_the_columns_of_the_schema_in_their_order(tiny: Tiny) -> None:
    run = lesion.sweep(tiny("gpt2"), PROMPT, TARGET, fractions=0.5)
    names = [column.name for column in SWEEP_COLUMNS]
    assert run.table.schema.equals(SWEEP_SCHEMA)
    assert run.table.column_names == names
    assert list(run.frame().columns) == names
    assert len(set(names)) == len(names)


def test_rows_name_the_experiment(tiny: Tiny) -> None:
    run = lesion.sweep(
        tiny("llama"), PROMPT, TARGET, foil="w6", fractions=0.5, site="post", select="bottom",
        rank="abs", replace="constant:2", scope="cumulative", rank_on="clean", layers=1,
    )  # fmt: skip
    (row,) = run.table.to_pylist()
    named = {
        "prompt_id": 0, "prompt": PROMPT, "target": TARGET, "target_id": TARGET_ID, "foil_id": 6,
        "layer": 1, "fraction": 0.5, "neurons": 24, "site": "post", "selection": "bottom",
        "rank": "abs", "rank_on": "clean", "replacement": "constant:2.0", "scope": "cumulative",
        "engine": "packed", "status": "ok", "draw": None, "position": 6, "below_noise": None,
    }  # fmt: skip
    assert {name: row[name] for name in named} == named
    assert run.prompts[0].token_ids == TOKEN_IDS


@pytest.mark.parametrize(
    ("site", "select", "rank"),
    [
        ("pre", "top", "value"),
        ("post", "band:0.1-0.2", "value"),
        ("out", "bottom", "abs"),
        ("pre", "random", None),
        ("out", lesion.neuron_set([(0, 1)]), None),
    ],
)
def test_the_rank_is_that_of_the_site_and_null_where_nothing_is_ranked(
    tiny: Tiny, site: str, select: Any, rank: str | None
) -> None:
    rows = rows_of(tiny("gpt2"), site=site, select=select)
    assert {row["rank"] for row in rows} == {rank}


@pytest.mark.parametrize("scope", ["each", "all"])
def test_effects_are_lesioned_minus_clean(tiny: Tiny, scope: str) -> None:
    model = tiny("gpt_neox")
    with torch.no_grad():
        logits = model.hf_model(torch.tensor([TOKEN_IDS])).logits[0, -1]
    clean_log_prob = float(logits.log_softmax(-1)[TARGET_ID])
    for row in rows_of(model, fractions="0.1,0.5", foil="w9", scope=scope):
        assert row["clean_logit"] == pytest.approx(float(logits[TARGET_ID]), abs=1e-12)
        assert row["clean_log_prob"] == pytest.approx(clean_log_prob, abs=1e-12)
        assert row["effect_logit"] == row["logit"] - row["clean_logit"]
        assert row["effect_log_prob"] == row["log_prob"] - row["clean_log_prob"]
        assert row["prob"] == pytest.approx(math.exp(row["log_prob"]), rel=1e-12)
        clean_diff = float(logits[TARGET_ID] - logits[9])
        assert row["effect_logit_diff"] == pytest.approx(row["logit_diff"] - clean_diff, abs=1e-12)
        assert abs(row["effect_logit_diff"]) > 1e-3


def test_a_foil_adds_its_columns_and_changes_no_other(tiny: Tiny) -> None:
    plain = rows_of(tiny("gpt2"), fractions="0.1,0.5")
    with_foil = rows_of(tiny("gpt2"), fractions="0.1,0.5", foil="w9")
    by_id = rows_of(tiny("gpt2"), fractions="0.1,0.5", foil_id=9)
    foil_columns = ("foil_id", "logit_diff", "effect_logit_diff")
    hashed = (*foil_columns, "row_key")
    assert with_foil == by_id
    assert without(plain, *hashed) == without(with_foil, *hashed)
    assert {row[name] for row in plain for name in foil_columns} == {None}
    as_target = rows_of(tiny("gpt2"), fractions="0.1,0.5")
    other = lesion.sweep(tiny("gpt2"), PROMPT, "w9", fractions="0.1,0.5").table.to_pylist()
    for row, one, two in zip(with_foil, as_target, other, strict=True):
        assert row["logit_diff"] == one["logit"] - two["logit"]


def test_without_a_target_it_is_the_likeliest_token(tiny: Tiny) -> None:
    model = tiny("qwen2")
    with torch.no_grad():
        likeliest = int(model.hf_model(torch.tensor([TOKEN_IDS])).logits[0, -1].argmax())
    run = lesion.sweep(model, PROMPT, fractions=0.5)
    prompt = run.prompts[0]
    assert (prompt.target_source, prompt.target_ids) == ("top", (likeliest,))
    assert set(run.table["target_id"].to_pylist()) == {likeliest}
    assert set(run.table["target"].to_pylist()) == {f"w{likeliest}"}
    given = lesion.sweep(model, PROMPT, target_id=likeliest, fractions=0.5)
    assert given.prompts[0].target_source == "given"
    asked = ["target_source", "row_key"]
    assert given.table.drop_columns(asked).equals(run.table.drop_columns(asked))


# Fractions


def test_fractions_of_equal_k_give_one_row_each_and_are_measured_once(tiny: Tiny) -> None:
    rows = rows_of(tiny("gpt2"), fractions="0.1,0.11,0.12", layers=1, hidden_norm=True)
    assert [row["fraction"] for row in rows] == [0.1, 0.11, 0.12]
    assert [row["neurons"] for row in rows] == [4, 5, 5]
    less, more, again = without(rows, "fraction", "row_key")
    assert more == again
    assert abs(less["log_prob"] - more["log_prob"]) > 1e-3


@pytest.mark.parametrize(
    ("words", "lesions"),
    [
        ({"fractions": "0.1,0.11,0.12"}, 2 * 3),
        ({"fractions": "0.1,0.11,0.12", "scope": "cumulative"}, 2 * 3),
        ({"fractions": "0.1,0.11,0.12", "scope": "all"}, 2),
        ({"fractions": "0.01,0.1", "layers": 2}, 1),
        ({"fractions": "0.1,0.11", "select": "top,bottom,random:3", "layers": 2}, 2 * 5),
        ({"select": lesion.neuron_set(NEURON_SET)}, 3),
        ({"select": "band:0.1-0.2,band:0.101-0.201", "layers": 0}, 1),
    ],
)
def test_one_forward_pass_a_distinct_lesion_and_two_clean_ones(
    tiny: Tiny, words: dict[str, Any], lesions: int
) -> None:
    # The two clean passes: one for the likely tokens, one to compare with.
    assert count_passes(tiny("gpt2"), **words) == lesions + 2


@pytest.mark.parametrize("scope", ["each", "cumulative", "all"])
def test_a_row_without_neurons_is_empty(tiny: Tiny, scope: str) -> None:
    words = {"scope": scope, "foil": "w9", "hidden_norm": True}
    rows = rows_of(tiny("gpt2"), fractions="0,0.02", **words)
    measured = rows_of(tiny("gpt2"), fractions="0.5", **words)
    assert len(rows) == 2 * len(measured)
    for row in rows:
        assert (row["status"], row["neurons"], row["changed"]) == ("empty", 0, 0)
        assert {row[name] for name in MEASURED} == {None}
        assert row["clean_log_prob"] == measured[0]["clean_log_prob"]
    assert {row["status"] for row in measured} == {"ok"}
    assert None not in [row[name] for row in measured for name in METRICS]


def test_sets_and_bands_tell_their_own_share(tiny: Tiny) -> None:
    pairs = [(1, 3), (1, 20), (2, 47)]
    select = [lesion.neuron_set(pairs), "band:0.1-0.35"]
    rows = rows_of(tiny("gpt2"), select=select, layers=(0, 1))
    assert [row["fraction"] for row in rows] == [0.0, 2 / 48, 0.25, 0.25]
    assert [row["neurons"] for row in rows] == [0, 2, 12, 12]
    assert [row["status"] for row in rows] == ["empty", "ok", "ok", "ok"]
    assert [row["layer"] for row in rows_of(tiny("gpt2"), select=select[0])] == [1, 2]


# Scopes and layers


def test_scope_all_has_no_layer_and_no_single_out(tiny: Tiny) -> None:
    rows = rows_of(tiny("gpt2"), fractions="0.1,0.5", scope="all")
    assert [row["neurons"] for row in rows] == [3 * 4, 3 * 24]
    assert {row["layer"] for row in rows} == {row["out_delta_norm"] for row in rows} == {None}


def test_scope_cumulative_begins_as_each_and_ends_as_all(tiny: Tiny) -> None:
    each, cumulative, everything = (
        rows_of(tiny("gpt2"), fractions="0.1", scope=scope)
        for scope in ("each", "cumulative", "all")
    )
    assert [row["layer"] for row in cumulative] == [0, 1, 2]
    assert [row["out_delta_norm"] is None for row in cumulative] == [False, True, True]
    assert without(each[:1], "scope") == without(cumulative[:1], "scope")
    assert without(everything, "scope", "layer") == without(cumulative[2:], "scope", "layer")


@pytest.mark.parametrize("select", ["top", "random:2"])
def test_a_layer_alone_gives_its_rows_of_the_whole_sweep(tiny: Tiny, select: str) -> None:
    whole = rows_of(tiny("llama"), fractions="0.1,0.5", select=select)
    alone = rows_of(tiny("llama"), fractions="0.5", select=select, layers="1")
    assert alone == [row for row in whole if row["layer"] == 1 and row["fraction"] == 0.5]


# Selections


def test_several_selections_give_the_rows_of_each_in_their_order(tiny: Tiny) -> None:
    model, words = tiny("gpt2"), {"layers": (0, 2), "seed": 3, "hidden_norm": True}
    listed = lesion.neuron_set(NEURON_SET)
    together = rows_of(
        model, select=["top", "random:2", "band:0.1-0.2", listed, "bottom"], fractions="0.1,0.5",
        **words,
    )  # fmt: skip
    apart = [
        *rows_of(model, select="top", fractions="0.1,0.5", **words),
        *rows_of(model, select="random:2", fractions="0.1,0.5", **words),
        *rows_of(model, select="band:0.1-0.2", **words),
        *rows_of(model, select=listed, **words),
        *rows_of(model, select="bottom", fractions="0.1,0.5", **words),
    ]
    assert_equal_up_to_rounding(together, apart)
    kinds = ["top"] * 4 + ["random"] * 8 + ["band:0.1-0.2"] * 2 + ["set"] * 2 + ["bottom"] * 4
    assert [row["selection"] for row in together] == kinds


def test_draws_differ_and_come_from_the_seed_alone(tiny: Tiny) -> None:
    model = tiny("gpt2")
    three = rows_of(model, select="random:3", fractions=0.3, layers=1, seed=3)
    assert [row["draw"] for row in three] == [0, 1, 2]
    assert three[:2] == rows_of(model, select="random:2", fractions=0.3, layers=1, seed=3)
    other = rows_of(model, select="random:3", fractions=0.3, layers=1, seed=4)
    effects = [row["effect_log_prob"] for row in three + other]
    assert len(set(np.round(effects, 6))) == 6
    built = rows_of(model, select=[lesion.random(0.3, seed=3, draw=1)], layers=1)
    assert built == three[1:2]


# What cannot be measured


@pytest.mark.parametrize("foil", [None, "w9"])
def test_a_lesioned_run_that_overflows_is_nonfinite(tiny: Tiny, foil: str | None) -> None:
    words = {"site": "post", "layers": 0, "foil": foil}
    (row,) = rows_of(tiny("gpt2"), fractions=0.3, replace="constant:1e300", **words)
    (calm,) = rows_of(tiny("gpt2"), fractions=0.3, replace="constant:1", **words)
    assert (row["status"], row["neurons"], row["changed"]) == ("nonfinite", 14, 14)
    numbers = (*METRICS, "effect_logit", "effect_log_prob", "logit_diff", "effect_logit_diff")
    assert {row[name] for name in numbers} == {None}
    assert row["clean_log_prob"] == calm["clean_log_prob"]
    assert calm["status"] == "ok"


@pytest.mark.parametrize("target", [TARGET, "w40", None])
def test_a_clean_run_with_a_nan_logit_is_nonfinite(target: str | None) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.hf_model.lm_head.weight[40] = torch.nan
    run = lesion.sweep(model, PROMPT, target, fractions="0.01,0.3")
    numbers = (*METRICS, "effect_logit", "effect_log_prob", "clean_logit", "clean_log_prob")
    assert {row["status"] for row in run.table.to_pylist()} == {"empty", "nonfinite"}
    assert {row[name] for row in run.table.to_pylist() for name in numbers} == {None}


def test_columns_not_asked_for_are_null_and_typed(tiny: Tiny) -> None:
    table = lesion.sweep(tiny("gpt2"), PROMPT, TARGET, fractions=0.5).table
    assert table["hidden_norm"].type == pa.list_(pa.float64())
    assert table["hidden_norm"].null_count == table["draw"].null_count == len(table) == 3
    frame = lesion.sweep(tiny("gpt2"), PROMPT, TARGET, fractions="0.01,0.5", scope="all").frame()
    assert frame["layer"].isna().all()
    assert frame["target_rank"].dtype == "Int64"
    assert frame["target_rank"].isna().tolist() == [True, False]
