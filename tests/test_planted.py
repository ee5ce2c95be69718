"""The planted GPT-2 keeps the promises of its docstring, shown without ``lesion``.

Every lesion here is a plain forward hook on the Hugging Face modules. An effect is a lesioned row
minus the clean row *in the same slot of an equal batch*: float64 matrix products may sum the last
few rows of a batch in another order, so another slot could differ in the last bit.
"""

from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
import torch
from hooked_gpt2 import last_token_at, last_token_edit, logits_of
from numpy_gpt2 import ForwardRun, run_forward, weights_of
from planted import (
    ANSWER_DIM,
    BLIND_DIM,
    FLAG,
    QUERY_DIM,
    QUERY_IDS,
    RELAY_DIM,
    RESERVED,
    VARIANTS,
    Neuron,
    PlantedModel,
    build_planted,
    draw_prompt_ids,
)

SILENT = ("exact_set", "suppressor", "redundant_twins", "exact_ties")
SEEDS = (0, 1)

build = cache(build_planted)
weights_by_model = cache(lambda model: weights_of(model.hf_model))


def logit_diff(model: PlantedModel, logits: torch.Tensor) -> np.ndarray:
    """Gives logit(target) - logit(foil) at the last token, [row]."""
    return (logits[:, -1, model.target_id] - logits[:, -1, model.foil_id]).numpy()


@cache
def clean_diff(model: PlantedModel, rows: int) -> np.ndarray:
    """Gives the clean logit difference of each slot of a batch, [row]."""
    return logit_diff(model, logits_of(model.hf_model, model.prompt_ids, rows))


def zero_effects(
    model: PlantedModel, layer: int, sets: Sequence[Sequence[int]], site: str = "post"
) -> np.ndarray:
    """Zeroes one set of a layer's neurons in each row; gives lesioned - clean, [set]."""

    def zero(values: torch.Tensor) -> torch.Tensor:
        for row, neurons in enumerate(sets):
            values[row, list(neurons)] = 0.0
        return values

    with last_token_edit(model.hf_model, layer, site, zero):
        lesioned = logits_of(model.hf_model, model.prompt_ids, len(sets))
    return logit_diff(model, lesioned) - clean_diff(model, len(sets))


@cache
def single_effects(model: PlantedModel, site: str = "post") -> dict[Neuron, float]:
    """Zeroes every neuron of the network, one at a time."""
    singles = [[neuron] for neuron in range(model.config.n_inner)]
    return {
        (layer, neuron): float(effect)
        for layer in range(model.config.n_layer)
        for neuron, effect in enumerate(zero_effects(model, layer, singles, site))
    }


def run_numpy(model: PlantedModel, zeroed: Sequence[Neuron] = ()) -> ForwardRun:
    """Runs the oracle on the model's prompt with some neurons zeroed at ``post``."""

    def edit(layer: int, site: str, vector: np.ndarray) -> np.ndarray:
        if site == "post":
            vector[[neuron for at, neuron in zeroed if at == layer]] = 0.0
        return vector

    return run_forward(weights_by_model(model), model.config, model.prompt_ids, edit)


def numpy_effect(model: PlantedModel, zeroed: Sequence[Neuron]) -> float:
    """Gives the oracle's lesioned - clean logit difference."""
    ids = [model.target_id, model.foil_id]
    lesioned, clean = (run_numpy(model, neurons).logits[-1, ids] for neurons in (zeroed, ()))
    return float((lesioned[0] - lesioned[1]) - (clean[0] - clean[1]))


# What all variants share


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", SILENT)
def test_zeroing_changes_the_logit_diff_for_exactly_the_planted(variant: str, seed: int) -> None:
    model = build(variant, seed)
    effects = single_effects(model)
    assert len(effects) == 4 * 256
    assert {neuron for neuron, effect in effects.items() if effect != 0.0} == model.planted


@pytest.mark.parametrize(("site", "dtype"), [("pre", torch.float64), ("post", torch.float32)])
@pytest.mark.parametrize("variant", ["exact_set", "suppressor"])
def test_exact_set_holds_at_both_sites_and_in_float32(
    variant: str, site: str, dtype: torch.dtype
) -> None:
    model = build(variant, 0, dtype)
    effects = single_effects(model, site)
    assert {neuron for neuron, effect in effects.items() if effect != 0.0} == model.planted


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_planted_effects_oppose_alpha_and_equal_the_oracle(variant: str, seed: int) -> None:
    model = build(variant, seed)
    effects = single_effects(model)
    for neuron, alpha in model.alpha_of.items():
        assert effects[neuron] * alpha < 0
        assert abs(effects[neuron]) > 0.001
        assert effects[neuron] == pytest.approx(numpy_effect(model, [neuron]), abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_decoys_are_live(variant: str, seed: int) -> None:
    model = build(variant, seed)
    post = run_numpy(model).post
    live = np.array([post[neuron] for neuron in sorted(model.decoys)])
    assert len(live) == 1024 - len(model.planted) - (model.gate is not None)
    assert np.all(live != 0.0)
    assert np.median(np.abs(live)) > 0.1


@pytest.mark.parametrize("variant", VARIANTS)
def test_planted_neurons_are_exactly_closed_off_the_query(variant: str) -> None:
    model = build(variant)
    for length in range(1, len(model.prompt_ids)):
        ids = model.prompt_ids[:length]
        post = run_forward(weights_by_model(model), model.config, ids).post
        assert [post[neuron] for neuron in model.planted] == [0.0] * len(model.planted)


@pytest.mark.parametrize("variant", VARIANTS)
def test_only_flag_answer_relay_and_blind_dims_are_ever_written(variant: str) -> None:
    residual = run_numpy(build(variant)).residual
    written = {dim for dim in range(RESERVED) if np.any(residual[:, dim] != 0.0)}
    extra = {"redundant_twins": {RELAY_DIM}, "blind_decoys": {BLIND_DIM}}
    assert written == {QUERY_DIM, ANSWER_DIM} | extra.get(variant, set())
    assert set(residual[:, QUERY_DIM]) == {FLAG}
    assert np.all(residual[:, RESERVED:] != 0.0)


def test_only_target_and_foil_read_reserved_dims_and_only_the_answer() -> None:
    head = weights_by_model(build("exact_set"))["lm_head.weight"]
    readers = np.argwhere(head[:, :RESERVED]).tolist()
    assert readers == [[1, ANSWER_DIM], [2, ANSWER_DIM]]
    assert head[1, ANSWER_DIM] > 0
    np.testing.assert_array_equal(head[1], -head[2])
    assert np.count_nonzero(head[1]) == 1


def test_equal_arguments_build_equal_networks_without_moving_the_global_generator() -> None:
    state = torch.random.get_rng_state()
    first, again, other = (build_planted("exact_set", seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.random.get_rng_state())
    assert (first.alpha_of, first.prompt_ids) == (again.alpha_of, again.prompt_ids)
    assert first.planted != other.planted
    for name, tensor in first.hf_model.state_dict().items():
        assert torch.equal(tensor, again.hf_model.state_dict()[name])
    assert not torch.equal(first.hf_model.lm_head.weight, other.hf_model.lm_head.weight)


def test_variants_share_background_and_prompt() -> None:
    one, other = build("exact_set"), build("redundant_twins")
    assert one.prompt_ids == other.prompt_ids
    for name, tensor in one.hf_model.state_dict().items():
        if ".mlp." not in name:
            assert torch.equal(tensor, other.hf_model.state_dict()[name])


def test_unknown_variant_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match="no such variant") as error:
        build_planted("twins")
    assert str(error.value) == (
        "build_planted(variant='twins'): no such variant. The variants are exact_set, suppressor,"
        " redundant_twins, exact_ties, blind_decoys. Pass one of them."
    )


# What each variant adds


def test_exact_set_spans_all_layers_with_different_alphas() -> None:
    model = build("exact_set")
    assert sorted(layer for layer, _ in model.planted) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert len(set(model.alpha_of.values())) == 8


@pytest.mark.parametrize("seed", SEEDS)
def test_suppressor_adds_one_neuron_whose_lesion_raises_the_logit_diff(seed: int) -> None:
    model = build("suppressor", seed)
    raised = {neuron for neuron, effect in single_effects(model).items() if effect > 0.5}
    assert raised == model.suppressors == model.planted - build("exact_set", seed).planted
    assert len(raised) == 1


@pytest.mark.parametrize("seed", SEEDS)
def test_redundant_twins_lose_little_alone_and_much_together(seed: int) -> None:
    model = build("redundant_twins", seed)
    (layer, first), (second_layer, second) = model.twins
    assert layer == second_layer
    sets = [[first], [second], [first, second]]
    alone, other_alone, both = zero_effects(model, layer, sets)
    assert 0.1 * both < alone < -0.05
    assert 0.1 * both < other_alone < -0.05
    assert both < -4.0
    assert both == pytest.approx(numpy_effect(model, model.twins), abs=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_gate_is_shut_by_either_twin_and_opens_without_both(seed: int) -> None:
    model = build("redundant_twins", seed)
    for left in ((), model.twins[:1], model.twins[1:]):
        assert run_numpy(model, left).post[model.gate] == 0.0
    assert run_numpy(model, model.twins).post[model.gate] > 1.0
    assert single_effects(model)[model.gate] == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", SEEDS)
def test_exact_ties_are_bit_identical_and_lead_their_block(seed: int, dtype: torch.dtype) -> None:
    model = build("exact_ties", seed, dtype)
    layer, tied = model.tied[0][0], [neuron for _, neuron in model.tied]
    pre = last_token_at(model.hf_model, model.prompt_ids, layer, "pre").numpy()
    ranking = np.argsort(-pre, kind="stable")
    assert len(tied) > 16
    assert len(set(pre[tied].tolist())) == 1
    assert ranking[: len(tied)].tolist() == tied
    assert pre[ranking[len(tied)]] < pre[tied[0]]


@pytest.mark.parametrize("seed", SEEDS)
def test_breaking_exact_ties_the_wrong_way_changes_the_outcome(seed: int) -> None:
    model = build("exact_ties", seed)
    layer, tied = model.tied[0][0], [neuron for _, neuron in model.tied]
    counts = range(1, len(tied))
    by_index = zero_effects(model, layer, [tied[:count] for count in counts])
    backwards = zero_effects(model, layer, [tied[-count:] for count in counts])
    assert np.all(by_index < backwards - 0.5)
    expected = [numpy_effect(model, model.tied[:count]) for count in counts]
    np.testing.assert_allclose(by_index, expected, rtol=0, atol=1e-10)


def test_every_other_tied_neuron_is_planted_and_any_set_of_them_is_recognisable() -> None:
    model = build("exact_ties")
    assert model.planted == set(model.tied[0::2])
    alphas = [model.alpha_of[neuron] for neuron in model.tied[0::2]]
    assert all(alpha > sum(alphas[i + 1 :]) for i, alpha in enumerate(alphas))


@pytest.mark.parametrize("seed", SEEDS)
def test_blind_decoys_are_non_zero_tiny_and_equal_to_the_oracle(seed: int) -> None:
    model = build("blind_decoys", seed)
    effects = single_effects(model)
    decoys = sorted(model.decoys)
    sizes = np.abs([effects[neuron] for neuron in decoys])
    # 1e-10: far above float64 rounding of a logit, far below the smallest effect.
    assert sizes.min() > 1e-10
    assert sizes.max() < 0.1 * min(abs(effects[neuron]) for neuron in model.planted)
    for neuron in decoys[::16]:
        assert effects[neuron] == pytest.approx(numpy_effect(model, [neuron]), abs=1e-12)


# The text side


def test_tokenizer_reads_the_prompt_target_and_foil() -> None:
    model = build("exact_set")
    assert model.tokenizer(model.prompt).input_ids == list(model.prompt_ids)
    assert model.tokenizer.decode(model.prompt_ids) == model.prompt
    assert model.tokenizer(model.target).input_ids == [model.target_id]
    assert model.tokenizer(model.foil).input_ids == [model.foil_id]
    assert len(model.tokenizer) == model.config.vocab_size == 128
    assert model.tokenizer("w127 never\tw128").input_ids == [127, 0, 0]


def test_prompts_end_on_their_only_query_token() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        *context, query = draw_prompt_ids(rng, length=5)
        assert len(context) == 4
        assert query in QUERY_IDS
        assert not {0, 1, 2, *QUERY_IDS} & set(context)
