"""The packed engine measures what the reference engine measures.

The cells are those of `packed_cells`: on every push all of GPT-2's, and every pair of factors of
the other architectures; nightly the full product. Compared are the metrics of the clean run and of
every lesion, the evidence with the set of neurons, the hidden states' norms and direct effects.
"""

from collections import Counter
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
from packed_cells import (
    DTYPES,
    FACTORS,
    FORBIDDEN,
    NEURON_SET,
    PACKED_MODELS,
    POSITIONS,
    RANKED_FACTORS,
    RANKS_ON,
    REPLACEMENTS,
    SCOPES,
    SEED,
    SELECTIONS,
    SITES,
    TEXT,
    TOLERANCE,
    Comparison,
    Oracle,
    PackedCell,
    all_cells,
    check_cells,
    columns,
    gpt2_cells,
    pair_cells,
    prompts_at,
    question,
    ranks_at,
    tiny,
)
from pairwise import allowed_pairs, pairs_of, pairwise_cover

import lesion
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion

PARTS = 5
PAIR_CELLS = [cell for dtype in DTYPES for cell in pair_cells(dtype)]


@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_lesion_of_gpt2_equals_the_reference(dtype: str, part: int) -> None:
    assert check_cells(gpt2_cells(dtype, PARTS, part)).rows > 1_500


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FACTORS["model"])
def test_every_pair_of_factors_of_the_other_architectures_equals_the_reference(
    name: str, dtype: str
) -> None:
    cells = [cell for cell in PAIR_CELLS if (cell.model, cell.dtype) == (name, dtype)]
    assert check_cells(cells).rows > 50


@pytest.mark.nightly
@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PACKED_MODELS)
def test_the_full_product_equals_the_reference(name: str, dtype: str, site: str) -> None:
    check_cells(all_cells(name, dtype, site))


def test_the_cells_are_all_there(record_property: Callable[[str, object], None]) -> None:
    gpt2 = [cell for dtype in DTYPES for cell in gpt2_cells(dtype)]
    parts = [gpt2_cells(dtype, PARTS, part) for dtype in DTYPES for part in range(PARTS)]
    assert {cell for part in parts for cell in part} == set(gpt2)
    chosen = {
        (cell.dtype, cell.site, cell.scope, cell.position, cell.selection, cell.replacement)
        for cell in gpt2
    }
    assert len(gpt2) == len(chosen) == 2 * 3 * 3 * 5 * 6 * 6 == 3_240
    assert len(PAIR_CELLS) == 448
    full = [cell for at in product(PACKED_MODELS, DTYPES, SITES) for cell in all_cells(*at)]
    assert len(full) == len(set(full)) == len(PACKED_MODELS) * 17_280 == 328_320
    # The summary prints it (conftest.py), also from a test process of its own.
    counts = f"{len(gpt2)} of GPT-2 and {len(PAIR_CELLS)} pairs on push, {len(full)} nightly"
    record_property("packed_cells", counts)


def test_all_architectures_that_are_proved_are_here() -> None:
    assert len(PACKED_MODELS) == 19
    for name in PACKED_MODELS:
        PackedEngine(tiny(name))


@pytest.mark.parametrize("site", SITES)
def test_the_cells_of_gpt2_hold_every_pair_with_the_rankings(site: str) -> None:
    cells = [cell for cell in gpt2_cells("float64") if cell.site == site]
    rankings = set(product((None, *ranks_at(site)), RANKS_ON))
    others = {"scope": SCOPES, "position": POSITIONS, "selection": SELECTIONS,
              "replacement": REPLACEMENTS}  # fmt: skip
    for word, values in others.items():
        met = {(getattr(cell, word), cell.rank, cell.rank_on) for cell in cells}
        assert met == {(value, *ranking) for value in values for ranking in rankings}


@pytest.mark.parametrize("factors", [FACTORS, RANKED_FACTORS], ids=["all", "ranked"])
def test_the_cover_holds_every_allowed_pair_and_no_other(factors: dict) -> None:
    cover = pairwise_cover(factors, FORBIDDEN)
    assert {pair for cell in cover for pair in pairs_of(cell)} == set(
        allowed_pairs(factors, FORBIDDEN)
    )


def test_fractions_of_one_ranking_share_a_sort_and_differ_in_k() -> None:
    together: dict = {}
    for cell in gpt2_cells("float64", PARTS, 0):
        for each in cell.lesions():
            key = (cell.position, each.select.ranking, each.replace, each.site, each.layers,
                   each.rank_on)  # fmt: skip
            size = 16 if each.site == "out" else 48
            together.setdefault(key, set()).add(len(each.select.positions(size)))
    assert sum(len(counts) > 2 for key, counts in together.items() if key[1]) > 50
    assert {1, 3, 4, 14, 16, 48} <= set().union(*together.values())


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["gpt2", "qwen3", "opt, both"])
def test_one_lesion_at_a_time_equals_one_reference_run(name: str, site: str) -> None:
    model = tiny(name)
    packed, oracle = PackedEngine(model), Oracle(model, batch=1)
    comparison = Comparison(TOLERANCE["float64"], exact=True)
    for scope, selection in [("each", "top"), ("all", "random"), ("cumulative", "band")]:
        cell = PackedCell(
            name, "float64", site, scope, "index", selection, "median", None, "lesioned"
        )
        (prompt,) = prompts_at(model, "index")
        for each in cell.lesions():
            outcome = packed.run(prompt, [each], hidden_norm=True, direct=True)
            # The very lesion, its position spelt as an index.
            alone = ReferenceEngine(model).run(prompt, [each], hidden_norm=True, direct=True)
            oracle.measured(prompt, [each])
            comparison.add(outcome, oracle.clean[prompt], columns(alone), [each])
    assert comparison.complaints == []


def test_what_is_not_asked_for_is_not_there() -> None:
    model, prompt = tiny("gpt2"), question(TEXT)
    lesions = [Lesion(lesion.top("0.3"), layers=(1,))]
    whole = PackedEngine(model).run(prompt, lesions, hidden_norm=True, direct=True)
    plain = PackedEngine(model).run(prompt, lesions)
    assert (plain.hidden_norm, plain.direct) == (None, None)
    assert plain.lesioned.log_prob[0] == pytest.approx(whole.lesioned.log_prob[0], abs=1e-12)
    assert PackedEngine(model).run(prompt, lesions, hidden_norm=True).direct is None
    assert PackedEngine(model).run(prompt, lesions, direct=True).hidden_norm is None


def test_no_lesion_and_no_prompt_are_taken_too() -> None:
    model = tiny("gpt2")
    assert PackedEngine(model).run_many([], [Lesion(lesion.top("0.3"), layers=(1,))]) == []
    prompts = prompts_at(model, "prompts")
    outcomes = PackedEngine(model).run_many(prompts, [], hidden_norm=True, direct=True)
    wanted = ReferenceEngine(model).run_many(prompts, [])
    for outcome, other in zip(outcomes, wanted, strict=True):
        assert len(outcome.lesioned.log_prob) == len(outcome.evidence.neurons) == 0
        assert outcome.clean.log_prob[0] == pytest.approx(other.clean.log_prob[0], abs=1e-6)


EVERY_BLOCK = (0, 1, 2)
OTHER_LESIONS: dict[str, tuple[Lesion, Lesion]] = {
    "one neuron more": (
        Lesion(lesion.top("0.3"), layers=(0,)),
        Lesion(lesion.top("0.32"), layers=(0,)),
    ),
    "one neuron less in a set": (
        Lesion(lesion.neuron_set(NEURON_SET), layers=EVERY_BLOCK),
        Lesion(lesion.neuron_set(NEURON_SET[:-1]), layers=EVERY_BLOCK),
    ),
    "bottom instead of top": (
        Lesion(lesion.top("0.3"), layers=(1,)),
        Lesion(lesion.bottom("0.3"), layers=(1,)),
    ),
    "another band": (
        Lesion(lesion.band("0.1", "0.6"), layers=(1,)),
        Lesion(lesion.band("0.13", "0.6"), layers=(1,)),
    ),
    "another draw": (
        Lesion(lesion.random("0.3", SEED, 1), layers=(1,)),
        Lesion(lesion.random("0.3", SEED, 2), layers=(1,)),
    ),
    "another seed": (
        Lesion(lesion.random("0.3", SEED, 1), layers=(1,)),
        Lesion(lesion.random("0.3", SEED + 1, 1), layers=(1,)),
    ),
    "ranked on the clean run": (
        Lesion(lesion.top("0.3"), layers=EVERY_BLOCK),
        Lesion(lesion.top("0.3"), layers=EVERY_BLOCK, rank_on="clean"),
    ),
    "ranked by absolute values": (
        Lesion(lesion.top("0.3"), layers=(1,)),
        Lesion(lesion.top("0.3", "abs"), layers=(1,)),
    ),
    "ranked without the output weights": (
        Lesion(lesion.top("0.3", "write"), site="post", layers=EVERY_BLOCK),
        Lesion(lesion.top("0.3", "abs"), site="post", layers=EVERY_BLOCK),
    ),
    "both middle values": (
        Lesion(lesion.top("0.6"), layers=EVERY_BLOCK),
        Lesion(lesion.top("0.6"), "median_mid", layers=EVERY_BLOCK),
    ),
    "the mean": (
        Lesion(lesion.top("0.3"), site="out", layers=(1,)),
        Lesion(lesion.top("0.3"), "mean", site="out", layers=(1,)),
    ),
    "zero": (
        Lesion(lesion.top("0.3"), site="out", layers=(1,)),
        Lesion(lesion.top("0.3"), "zero", site="out", layers=(1,)),
    ),
    "the least value": (
        Lesion(lesion.top("0.3"), site="out", layers=(1,)),
        Lesion(lesion.top("0.3"), "min", site="out", layers=(1,)),
    ),
    "another constant": (
        Lesion(lesion.top("0.3"), "constant:0.7", layers=(1,)),
        Lesion(lesion.top("0.3"), "constant:0.75", layers=(1,)),
    ),
    "after the nonlinearity": (
        Lesion(lesion.top("0.3"), "constant:-0.7", layers=(1,)),
        Lesion(lesion.top("0.3"), "constant:-0.7", site="post", layers=(1,)),
    ),
    "behind the down projection": (
        Lesion(lesion.top("0.3", "value"), site="post", layers=(1,)),
        Lesion(lesion.top("0.3", "value"), site="out", layers=(1,)),
    ),
    "each block instead of those before": (
        Lesion(lesion.top("0.3"), layers=(0, 1)),
        Lesion(lesion.top("0.3"), layers=(1,)),
    ),
    "the next block": (
        Lesion(lesion.top("0.3"), layers=(1,)),
        Lesion(lesion.top("0.3"), layers=(2,)),
    ),
    "without the block between": (
        Lesion(lesion.top("0.3"), layers=(0, 1, 2)),
        Lesion(lesion.top("0.3"), layers=(0, 2)),
    ),
}
"""Pairs of lesions that a mistake could take for each other."""


@pytest.mark.parametrize("name", PACKED_MODELS)
def test_another_lesion_differs_far_beyond_the_tolerance(name: str) -> None:
    lesions = [each for pair in OTHER_LESIONS.values() for each in pair]
    outcomes = PackedEngine(tiny(name)).run_many(prompts_at(tiny(name), "prompts"), lesions)
    log_prob = np.array([outcome.lesioned.log_prob for outcome in outcomes])
    signature = np.array([outcome.evidence.signature for outcome in outcomes])
    apart = np.abs(log_prob[:, 0::2] - log_prob[:, 1::2]).max(axis=0)
    alike = dict(zip(OTHER_LESIONS, apart, strict=True))
    near = {word: size for word, size in alike.items() if size < 1000 * TOLERANCE["float64"]}
    assert near == {}
    # The signature tells sets of neurons apart, and knows nothing of what they were set to.
    told = dict(zip(OTHER_LESIONS, signature[0, 0::2] != signature[0, 1::2], strict=True))
    assert told["one neuron more"]
    assert told["one neuron less in a set"]
    assert told["another draw"]
    assert not any(told[word] for word in ("the mean", "zero", "another constant"))


def test_the_same_lesion_of_another_prompt_differs() -> None:
    model = tiny("gpt2")
    lesions = [
        Lesion(lesion.random("0.3", SEED), layers=(1,)),
        Lesion(lesion.top("0.3"), layers=(1,)),
    ]
    first, *_, equal, _ = PackedEngine(model).run_many(prompts_at(model, "prompts"), lesions)
    # Equal token ids, another target: the same neurons, another prediction.
    assert (first.evidence.signature == equal.evidence.signature).all()
    assert np.abs(first.lesioned.log_prob - equal.lesioned.log_prob).min() > 0.001
    assert first.lesioned.entropy == pytest.approx(equal.lesioned.entropy, abs=1e-12)
    every = PackedEngine(model).run_many(prompts_at(model, "every"), lesions)
    for place in range(len(lesions)):
        taken = Counter(int(outcome.evidence.signature[place]) for outcome in every)
        assert len(taken) == len(every)
