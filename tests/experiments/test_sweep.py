"""`lesion.sweep` gives the table that the protocol's own loop gives.

The cells are those of `sweep_cells`: on every push all of GPT-2's, and every pair of factors of the
other architectures; nightly the full product. Compared are all metrics, effects and evidence.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
from families import MODEL_TYPES, tiny_model
from pairwise import allowed_pairs, pairs_of, pairwise_cover
from protocol_loop import protocol_loop
from sweep_cells import (
    DTYPES,
    FACTORS,
    FORBIDDEN,
    FRACTIONS,
    NEURON_SET,
    PROMPT,
    RANKED_FACTORS,
    SCOPES,
    SEED,
    SELECTIONS,
    SITES,
    TARGET,
    TARGET_ID,
    TOKEN_IDS,
    TOLERANCE,
    SweepCell,
    all_cells,
    check_cell,
    differences,
    gpt2_cells,
    loop_cell,
    pair_cells,
    sweep_cell,
)

import lesion
from lesion.models.language_model import LanguageModel

Tiny = Callable[..., LanguageModel]

PAIR_CELLS = pair_cells()


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_sweep_of_gpt2_equals_the_loop(
    tiny: Tiny, dtype: str, site: str, selection: str
) -> None:
    for cell in gpt2_cells(dtype, site, selection):
        check_cell(tiny("gpt2", dtype), cell)


@pytest.mark.parametrize("model_type", FACTORS["model_type"])
def test_every_pair_of_factors_of_the_other_architectures_equals_the_loop(
    tiny: Tiny, model_type: str
) -> None:
    for cell in PAIR_CELLS:
        if cell.model_type == model_type:
            check_cell(tiny(model_type, cell.dtype), cell)


@pytest.mark.nightly
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_full_product_equals_the_loop(
    tiny: Tiny, model_type: str, dtype: str, site: str
) -> None:
    for cell in all_cells(model_type, dtype, site):
        check_cell(tiny(model_type, dtype), cell)


def test_the_cells_are_all_there(record_property: Callable[[str, object], None]) -> None:
    gpt2 = {
        dtype: [cell for at in product(SITES, SELECTIONS) for cell in gpt2_cells(dtype, *at)]
        for dtype in DTYPES
    }
    for cells in gpt2.values():
        factors = {(cell.site, cell.scope, cell.selection, cell.replacement) for cell in cells}
        assert len(cells) == len(factors) == 3 * 3 * 5 * 6 == 270
        rankings = {(cell.site, cell.selection, cell.rank, cell.rank_on) for cell in cells}
        assert len(rankings) == 5 * (8 + 8 + 6)
    full = [cell for at in product(MODEL_TYPES, DTYPES, SITES) for cell in all_cells(*at)]
    assert len(set(full)) == len(full) == 17_280
    assert len(PAIR_CELLS) == 208
    # The summary prints it (conftest.py), also from a test process of its own.
    counts = f"{2 * 270} of GPT-2 and {len(PAIR_CELLS)} pairs on push, {len(full)} nightly"
    record_property("cells", counts)


@pytest.mark.parametrize("factors", [FACTORS, RANKED_FACTORS], ids=["all", "ranked"])
def test_the_cover_holds_every_allowed_pair_and_no_other(factors: dict) -> None:
    wanted = set(allowed_pairs(factors, FORBIDDEN))
    cover = pairwise_cover(factors, FORBIDDEN)
    assert {pair for cell in cover for pair in pairs_of(cell)} == wanted
    sizes = [len(values) for values in factors.values()]
    assert len(wanted) == (sum(sizes) ** 2 - sum(size**2 for size in sizes)) // 2 - 1
    assert len(cover) < 1.15 * len(factors["model_type"]) * len(factors["replacement"])


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_lesions_move_the_prediction_far_beyond_the_tolerance(
    tiny: Tiny, model_type: str
) -> None:
    cells = [SweepCell(model_type, site=site, scope=scope) for site in SITES for scope in SCOPES]
    rows = [row for cell in cells for row in loop_cell(tiny(model_type), cell) if row.chosen]
    sizes = np.abs([row.effect_log_prob for row in rows])
    assert np.mean(sizes > 0.01) > 0.95
    assert np.median(sizes) > 0.1


OTHER_LOOPS: dict[str, tuple[SweepCell, dict[str, Any]]] = {
    "bottom instead of top": (SweepCell(), {"selection": ("bottom",)}),
    "the upper middle value": (SweepCell(), {"replacement": ("median_upper",)}),
    "the mean of both middle values": (SweepCell(), {"replacement": ("median_mid",)}),
    "the mean instead of the median": (SweepCell(), {"replacement": ("mean",)}),
    "another constant": (SweepCell(replacement="constant"), {"replacement": ("constant", 0.75)}),
    "after the nonlinearity": (SweepCell(), {"site": "post"}),
    "before the nonlinearity": (SweepCell(site="post"), {"site": "pre"}),
    "ranked on the clean run": (SweepCell(scope="all"), {"rank_on": "clean"}),
    "ranked on the lesioned run": (
        SweepCell(scope="cumulative", rank_on="clean"),
        {"rank_on": "lesioned"},
    ),
    "absolute values": (SweepCell(), {"rank": "abs"}),
    "output weights left out": (SweepCell(site="post", rank="write"), {"rank": "abs"}),
    "signed values at out": (SweepCell(site="out"), {"rank": "value"}),
    "each block instead of those before": (SweepCell(scope="cumulative"), {"scope": "each"}),
    "another seed": (SweepCell(selection="random"), {"selection": ("random", SEED + 1, 1)}),
    "another band": (SweepCell(selection="band"), {"selection": ("band", "0.12", "0.6")}),
    "another set": (SweepCell(selection="set"), {"selection": ("set", NEURON_SET[:-1])}),
    "one neuron more": (SweepCell(), {"fractions": ("0.07", "0.31", "0.91")}),
}


@pytest.mark.parametrize(("cell", "changes"), OTHER_LOOPS.values(), ids=OTHER_LOOPS)
def test_another_loop_differs_far_beyond_the_tolerance(
    tiny: Tiny, cell: SweepCell, changes: dict[str, Any]
) -> None:
    model = tiny("gpt2")
    found, other = sweep_cell(model, cell).table.to_pylist(), loop_cell(model, cell, **changes)
    assert list(differences(found, loop_cell(model, cell), TOLERANCE["float64"])) == []
    far = list(differences(found, other, 1000 * TOLERANCE["float64"]))
    assert any(", log_prob: " in sentence for sentence in far)


@pytest.mark.parametrize("token_ids", [(9,), tuple(range(32))], ids=["one token", "full context"])
@pytest.mark.parametrize("model_type", ["gpt2", "mistral"])
def test_prompts_of_any_length_equal_the_loop(
    tiny: Tiny, model_type: str, token_ids: tuple[int, ...]
) -> None:
    model = tiny(model_type)
    prompt = " ".join(f"w{token_id}" for token_id in token_ids)
    run = lesion.sweep(model, prompt, TARGET, fractions=FRACTIONS, scope="all", hidden_norm=True)
    rows = protocol_loop(
        model.hf_model, model_type, token_ids, TARGET_ID, scope="all", fractions=FRACTIONS
    )
    assert list(differences(run.table.to_pylist(), rows, TOLERANCE["float64"])) == []


@pytest.mark.parametrize("scope", SCOPES)
def test_a_subset_of_the_layers_equals_the_loop(tiny: Tiny, scope: str) -> None:
    model = tiny("gpt2")
    run = lesion.sweep(
        model, PROMPT, TARGET, fractions=FRACTIONS, scope=scope, layers="2,0", hidden_norm=True
    )
    rows = protocol_loop(
        model.hf_model, "gpt2", TOKEN_IDS, TARGET_ID,
        scope=scope, fractions=FRACTIONS, layers=(0, 2),
    )  # fmt: skip
    layers = {"each": [0, 2], "cumulative": [0, 2], "all": [None]}[scope]
    assert [row.layer for row in rows] == [layer for layer in layers for _ in FRACTIONS]
    assert list(differences(run.table.to_pylist(), rows, TOLERANCE["float64"])) == []


def test_the_counts_follow_the_decimals_that_were_written() -> None:
    model = tiny_model("gpt2", n_inner=100)
    fractions = ("0.07", "0.14", "0.28", "0.29", "0.55", "0.56", "0.57", "0.58")
    assert sum(int(float(each) * 100) != round(float(each) * 100) for each in fractions) >= 3
    run = lesion.sweep(model, PROMPT, TARGET, fractions=fractions, layers=1, hidden_norm=True)
    rows = protocol_loop(
        model.hf_model, "gpt2", TOKEN_IDS, TARGET_ID, fractions=fractions, layers=(1,)
    )
    assert list(differences(run.table.to_pylist(), rows, TOLERANCE["float64"])) == []
    assert run.table["neurons"].to_pylist() == [7, 14, 28, 29, 55, 56, 57, 58]


@pytest.mark.slow
def test_the_protocol_at_the_shape_of_gpt2_large() -> None:
    model = tiny_model(
        "gpt2", "float32",
        n_layer=36, n_embd=1280, n_head=20, n_inner=5120, n_positions=1024, vocab_size=50257,
        initializer_range=0.06,
    )  # fmt: skip
    layers, fractions = (0, 17, 35), ("0.002", "0.1", "0.9")
    run = lesion.sweep(model, PROMPT, TARGET, fractions=fractions, layers=layers, hidden_norm=True)
    rows = protocol_loop(
        model.hf_model, "gpt2", TOKEN_IDS, TARGET_ID,
        fractions=fractions, layers=layers,
    )  # fmt: skip
    assert [len(row.chosen) for row in rows] == [10, 512, 4608] * 3
    assert max(abs(row.effect_log_prob) for row in rows) > 0.01
    assert list(differences(run.table.to_pylist(), rows, TOLERANCE["float32"])) == []
