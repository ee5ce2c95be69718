"""The numpy oracle computes what Hugging Face's GPT-2 computes, clean and edited."""

import numpy as np
import pytest
import torch
from hooked_gpt2 import SITES, last_token_at, last_token_edit, logits_of
from numpy_gpt2 import run_forward, weights_of
from planted import VARIANTS, build_planted
from transformers import GPT2Config, GPT2LMHeadModel


def build_random_gpt2() -> GPT2LMHeadModel:
    """Makes a tiny float64 GPT-2 with large random weights, biases and norms, and a tied head."""
    config = GPT2Config(
        vocab_size=19,
        n_positions=16,
        n_embd=12,
        n_layer=3,
        n_head=3,
        bos_token_id=0,
        eos_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = GPT2LMHeadModel(config).double().eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return model.requires_grad_(False)


def case(name: str) -> tuple[GPT2LMHeadModel, tuple[int, ...]]:
    """Gives a network and a text for it: the random one, or a planted variant."""
    if name == "random":
        return build_random_gpt2(), (3, 18, 0, 7, 7, 1, 11, 4)
    model = build_planted(name)
    return model.hf_model, model.prompt_ids


@pytest.mark.parametrize("name", [*VARIANTS, "random"])
def test_logits_equal_transformers(name: str) -> None:
    hf_model, ids = case(name)
    found = run_forward(weights_of(hf_model), hf_model.config, ids).logits
    np.testing.assert_allclose(found, logits_of(hf_model, ids)[0], rtol=0, atol=1e-10)


def test_logits_of_a_float32_network_stay_within_its_rounding() -> None:
    model = build_planted(dtype=torch.float32)
    found = run_forward(weights_of(model.hf_model), model.config, model.prompt_ids).logits
    expected = logits_of(model.hf_model, model.prompt_ids)[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("site", SITES)
def test_site_vectors_equal_what_hooks_see(site: str) -> None:
    hf_model, ids = case("random")
    found = getattr(run_forward(weights_of(hf_model), hf_model.config, ids), site)
    for layer in range(hf_model.config.n_layer):
        expected = last_token_at(hf_model, ids, layer, site)
        np.testing.assert_allclose(found[layer], expected, rtol=0, atol=1e-10)


def test_residual_equals_the_hidden_states_before_the_final_norm() -> None:
    hf_model, ids = case("random")
    residual = run_forward(weights_of(hf_model), hf_model.config, ids).residual
    with torch.no_grad():
        states = hf_model(torch.tensor([ids]), output_hidden_states=True).hidden_states
        # Transformers reports the last state after the final norm.
        normed = hf_model.transformer.ln_f(torch.from_numpy(residual[-1]))
    expected = [state[0, -1].numpy() for state in states]
    np.testing.assert_allclose([*residual[:-1], normed.numpy()], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", ["exact_set", "random"])
def test_edit_equals_a_hook_on_the_last_token(name: str, site: str) -> None:
    hf_model, ids = case(name)
    weights = weights_of(hf_model)

    def edit(layer: int, at: str, vector: np.ndarray) -> np.ndarray:
        return 1.5 * vector[::-1] if (layer, at) == (1, site) else vector

    edited = run_forward(weights, hf_model.config, ids, edit)
    clean = run_forward(weights, hf_model.config, ids)
    with last_token_edit(hf_model, 1, site, lambda values: 1.5 * values.flip(-1)):
        expected = logits_of(hf_model, ids)[0]
    np.testing.assert_allclose(edited.logits, expected, rtol=0, atol=1e-10)
    assert np.abs(edited.logits[-1] - clean.logits[-1]).max() > 0.01
    np.testing.assert_array_equal(edited.logits[:-1], clean.logits[:-1])
    np.testing.assert_array_equal(
        getattr(edited, site)[1], 1.5 * getattr(clean, site)[1][::-1], "captured after the edit"
    )


def test_arithmetic_it_does_not_know_is_refused() -> None:
    hf_model, ids = case("random")
    config = GPT2Config(**{**hf_model.config.to_dict(), "activation_function": "relu"})
    with pytest.raises(ValueError, match="asked for activation_function") as error:
        run_forward(weights_of(hf_model), config, ids)
    assert str(error.value) == (
        "numpy_gpt2 was asked for activation_function='relu': it computes only"
        " activation_function='gelu_new'. Build the model with that option, or teach the oracle."
    )
