"""On the planted GPT-2, `lesion` finds exactly what was planted.

Two oracles that share nothing with the engine: the ground truth of `planted`, and the numpy forward
pass of `numpy_gpt2` in float64, which replays every lesion with its own ranking and replacement.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy_gpt2 import run_forward, weights_of
from planted import VARIANTS, Neuron, PlantedModel, build_planted

import lesion
from lesion.engines.reference import ReferenceEngine
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

SILENT = ("exact_set", "suppressor", "redundant_twins", "exact_ties")
NIGHTLY = pytest.mark.nightly
NEURONS = 256
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5}
"""The effects are as large as 10: float32 rounds them at the sixth decimal."""

build = cache(build_planted)
weights_by_model = cache(lambda planted: weights_of(planted.hf_model))


@cache
def load(planted: PlantedModel) -> LanguageModel:
    """The planted network, as a user brings a model of their own."""
    return lesion.load(hf_model=planted.hf_model, tokenizer=planted.tokenizer)


@pytest.fixture(scope="module", autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Several threads gain nothing on tiny matrices, and lose much where the cores are taken."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def sweep(planted: PlantedModel, **words: Any) -> list[dict[str, Any]]:
    """The rows of a sweep of the planted prompt, target and foil."""
    model = load(planted)
    run = lesion.sweep(model, planted.prompt, planted.target, foil=planted.foil, **words)
    assert run.prompts[0].token_ids == planted.prompt_ids
    return run.table.to_pylist()


def zero_effect(planted: PlantedModel, neurons: Sequence[Neuron], **words: Any) -> float:
    """What zeroing a set of one layer's neurons does to the logit difference."""
    words = {"site": "post", "replace": "zero"} | words
    (row,) = sweep(planted, select=lesion.neuron_set(neurons), **words)
    assert (row["neurons"], row["status"]) == (len(neurons), "ok")
    return row["effect_logit_diff"]


@cache
def single_effects(
    planted: PlantedModel, site: str = "post", every: int = 1
) -> dict[Neuron, float]:
    """Zeroes single neurons in one run of the engine: of the decoys only `every` n-th.

    The keys are in the order (layer, neuron).
    """
    everyone = {(layer, neuron) for layer in range(4) for neuron in range(NEURONS)}
    singles = sorted(everyone - planted.decoys | set(sorted(planted.decoys)[::every]))
    lesions = [
        lesion.Lesion(lesion.neuron_set([at]), replace="zero", site=site, layers=(at[0],))
        for at in singles
    ]
    question = Prompt(
        prompt_id=0,
        text=planted.prompt,
        token_ids=planted.prompt_ids,
        target=planted.target,
        target_id=planted.target_id,
        foil=planted.foil,
        foil_id=planted.foil_id,
    )
    outcome = ReferenceEngine(load(planted)).run(question, lesions)
    effects = outcome.lesioned.logit_diff - outcome.clean.logit_diff[0]
    return dict(zip(singles, effects.tolist(), strict=True))


Choose = Callable[[int, np.ndarray], Sequence[int]]


def replay(
    planted: PlantedModel,
    choose: Choose,
    site: str = "post",
    replacement: Callable[[np.ndarray], float] = lambda _: 0.0,
) -> float:
    """The effect on the logit difference in numpy; `choose` sees a layer's vector at the site."""

    def edit(layer: int, at: str, vector: np.ndarray) -> np.ndarray:
        if at == site:
            chosen = list(choose(layer, vector))
            vector[chosen] = replacement(vector)
        return vector

    weights = weights_by_model(planted)
    lesioned = run_forward(weights, planted.config, planted.prompt_ids, edit).logits[-1]
    return logit_diff(planted, lesioned) - clean_diff(planted)


@cache
def clean_diff(planted: PlantedModel) -> float:
    """The clean logit difference in numpy."""
    weights = weights_by_model(planted)
    return logit_diff(planted, run_forward(weights, planted.config, planted.prompt_ids).logits[-1])


def logit_diff(planted: PlantedModel, logits: np.ndarray) -> float:
    """The logit of the target minus that of the foil."""
    return float(logits[planted.target_id] - logits[planted.foil_id])


def replay_zeroed(planted: PlantedModel, neurons: Sequence[Neuron]) -> float:
    """The effect of zeroing these neurons at `post`, in numpy."""
    return replay(planted, lambda layer, _: [neuron for at, neuron in neurons if at == layer])


def lower_median(vector: np.ndarray) -> float:
    """The lower of the two middle values."""
    return float(np.sort(vector)[(len(vector) - 1) // 2])


# Single neurons


@pytest.mark.parametrize(
    ("variant", "dtype", "site", "every"),
    [
        ("exact_set", torch.float64, "post", 1),
        ("exact_set", torch.float32, "pre", 8),
        ("suppressor", torch.float64, "post", 8),
        ("redundant_twins", torch.float64, "post", 8),
        ("exact_ties", torch.float64, "post", 8),
        *(pytest.param(variant, torch.float32, "pre", 1, marks=NIGHTLY) for variant in SILENT),
        *(pytest.param(variant, torch.float64, "post", 1, marks=NIGHTLY) for variant in SILENT),
    ],
)
def test_exactly_the_planted_neurons_respond(
    variant: str, dtype: torch.dtype, site: str, every: int
) -> None:
    planted = build(variant, 0, dtype)
    effects = single_effects(planted, site, every)
    assert len(effects) >= 4 * NEURONS // every
    assert {neuron for neuron, effect in effects.items() if effect != 0.0} == planted.planted
    for neuron, alpha in planted.alpha_of.items():
        assert effects[neuron] * alpha < 0
        expected = replay(planted, lambda at, _, own=neuron: [own[1]] if at == own[0] else [], site)
        assert effects[neuron] == pytest.approx(expected, abs=TOLERANCE[dtype])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_sweep_of_a_set_gives_the_effect_of_its_neuron(variant: str) -> None:
    planted = build(variant)
    decoys = sorted(planted.decoys)[::100]
    for neuron in [*planted.planted, *decoys]:
        effect = zero_effect(planted, [neuron])
        assert effect == pytest.approx(replay_zeroed(planted, [neuron]), abs=1e-9)
        assert variant == "blind_decoys" or (effect != 0.0) == (neuron in planted.planted)


def test_the_suppressor_is_the_only_neuron_whose_lesion_helps() -> None:
    planted = build("suppressor")
    effects = single_effects(planted, every=8)
    helping = {neuron for neuron, effect in effects.items() if effect > 0.5}
    assert helping == planted.suppressors
    assert len(helping) == 1


def test_twins_lose_little_alone_and_much_together() -> None:
    planted = build("redundant_twins")
    first, second = planted.twins
    alone, other_alone = zero_effect(planted, [first]), zero_effect(planted, [second])
    both = zero_effect(planted, [first, second])
    assert 0.1 * both < alone < -0.05
    assert 0.1 * both < other_alone < -0.05
    assert both < -4.0
    assert both == pytest.approx(replay_zeroed(planted, planted.twins), abs=1e-9)
    assert zero_effect(planted, [planted.gate]) == 0.0


def test_the_gate_matters_once_its_twins_are_gone() -> None:
    planted = build("redundant_twins")
    everyone = [*planted.twins, planted.gate]
    all_three = zero_effect(planted, everyone, scope="all")
    assert all_three == pytest.approx(replay_zeroed(planted, everyone), abs=1e-9)
    assert all_three > zero_effect(planted, planted.twins) + 1.0


def test_blind_decoys_respond_through_the_norms_only() -> None:
    planted = build("blind_decoys")
    effects = single_effects(planted, every=8)
    sizes = [abs(effect) for neuron, effect in effects.items() if neuron in planted.decoys]
    assert len(sizes) == 127
    assert min(sizes) > 1e-10
    assert max(sizes) < 0.1 * min(abs(effects[neuron]) for neuron in planted.planted)
    for neuron in sorted(planted.decoys)[::96]:
        assert effects[neuron] == pytest.approx(replay_zeroed(planted, [neuron]), abs=1e-12)


# Shares of neurons

FRACTIONS = ("0.01", "0.1", "0.5", "0.9")


def ends(fraction: str) -> int:
    """How many of the 256 neurons a fraction of whole per cents takes."""
    return round(float(fraction) * 100) * NEURONS // 100


@pytest.mark.parametrize("scope", ["each", "cumulative", "all"])
@pytest.mark.parametrize("site", ["pre", "post"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
@pytest.mark.parametrize("variant", ["exact_ties", "blind_decoys"])
def test_top_shares_equal_the_replay(
    variant: str, dtype: torch.dtype, site: str, scope: str
) -> None:
    planted = build(variant, 0, dtype)
    rows = sweep(planted, fractions=FRACTIONS, site=site, scope=scope)
    layers = {"each": [[0], [1], [2], [3]], "all": [[0, 1, 2, 3]]}
    layers["cumulative"] = [list(range(last + 1)) for last in range(4)]
    cases = [(lesioned, fraction) for lesioned in layers[scope] for fraction in FRACTIONS]
    assert len(rows) == len(cases)
    for row, (lesioned, fraction) in zip(rows, cases, strict=True):
        count = ends(fraction)

        def choose(layer: int, vector: np.ndarray, lesioned=lesioned, count=count) -> np.ndarray:
            ranking = np.argsort(-vector, kind="stable")
            return ranking[:count] if layer in lesioned else ranking[:0]

        expected = replay(planted, choose, site, lower_median)
        assert row["neurons"] == count * len(lesioned)
        assert row["effect_logit_diff"] == pytest.approx(expected, abs=TOLERANCE[dtype])
    assert max(abs(row["effect_logit_diff"]) for row in rows) > 0.1


# Exact ties: 24 neurons of layer 1 lead their block with bit-identical values at `pre`

TIED = 24


def shares(counts: Sequence[int]) -> list[str]:
    """The fraction that takes exactly each count of 256 neurons."""
    return [f"{count / NEURONS:.8f}" for count in counts]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float64", "float32"])
def test_tied_neurons_are_taken_from_the_top_by_their_index(dtype: torch.dtype, seed: int) -> None:
    planted = build("exact_ties", seed, dtype)
    counts = range(1, TIED + 1)
    rows = sweep(planted, fractions=shares(counts), replace="zero", layers=1)
    assert [row["neurons"] for row in rows] == list(counts)
    for row, count in zip(rows, counts, strict=True):
        expected = replay_zeroed(planted, planted.tied[:count])
        assert row["effect_logit_diff"] == pytest.approx(expected, abs=TOLERANCE[dtype])
        backwards = replay_zeroed(planted, planted.tied[-count:])
        assert count == TIED or abs(row["effect_logit_diff"] - backwards) > 0.3


def test_tied_neurons_are_taken_from_the_bottom_by_their_index_too() -> None:
    planted = build("exact_ties")
    counts = range(1, TIED + 1)
    fractions = shares([NEURONS - TIED + count for count in counts])
    rows = sweep(planted, fractions=fractions, select="bottom", replace="zero", layers=1)
    for row, count in zip(rows, counts, strict=True):
        expected = replay_zeroed(planted, planted.tied[:count])
        assert row["effect_logit_diff"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("low", "high"), [(0, 3), (5, 6), (7, 19), (22, 24)])
def test_a_band_counts_its_tied_neurons_from_the_lowest_index(low: int, high: int) -> None:
    planted = build("exact_ties")
    select = lesion.band(*shares([low, high]))
    (row,) = sweep(planted, select=select, replace="zero", layers=1)
    expected = replay_zeroed(planted, planted.tied[low:high])
    assert row["neurons"] == high - low
    assert row["effect_logit_diff"] == pytest.approx(expected, abs=1e-9)
