"""Every family proves itself on a tiny random model: its sites are where its entry says."""

import dataclasses

import pytest
import torch
from families import MODEL_TYPES, tiny_model
from torch import Tensor, nn

import lesion
from lesion.axes import SITES, Site
from lesion.errors import UnknownFamily
from lesion.models.families import FAMILIES, family_of
from lesion.models.language_model import LanguageModel

TOKENS = torch.tensor([[3, 1, 4, 1, 5]])


@dataclasses.dataclass
class Seen:
    """What the modules of one block got and gave, all tokens."""

    mlp_input: Tensor | None = None
    pre: Tensor | None = None
    post: Tensor | None = None
    out: Tensor | None = None


@pytest.fixture(scope="module", params=MODEL_TYPES)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_model(request.param)


def watched_block(model: LanguageModel, layer: int) -> Seen:
    """Run the model once and keep what passed through one block's MLP."""
    block, seen = model.blocks[layer], Seen()

    def at_pre(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.mlp_input, seen.pre = args[0][0], output[0]

    def at_down(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.post, seen.out = args[0][0], output[0]

    handles = [block.pre.register_forward_hook(at_pre), block.down.register_forward_hook(at_down)]
    with torch.inference_mode():
        model.hf_model(TOKENS)
    for handle in handles:
        handle.remove()
    return seen


def test_every_known_model_type_has_a_tiny_model() -> None:
    known = {word for family in FAMILIES for word in family.model_types}
    assert known == set(MODEL_TYPES)


def test_post_of_pre_is_what_the_down_projection_gets(model: LanguageModel) -> None:
    for layer, block in enumerate(model.blocks):
        seen = watched_block(model, layer)
        with torch.inference_mode():
            torch.testing.assert_close(
                block.post_of(seen.pre, seen.mlp_input), seen.post, rtol=0, atol=1e-12
            )


def test_a_neuron_writes_its_output_weights(model: LanguageModel) -> None:
    for layer, block in enumerate(model.blocks):
        seen = watched_block(model, layer)
        with torch.inference_mode():
            # One neuron moved by one moves the output by its weights: their norm is the change's.
            moved = seen.post.repeat(block.neurons, 1, 1)
            moved[torch.arange(block.neurons), -1, torch.arange(block.neurons)] += 1.0
            change = (block.down(moved)[:, -1] - block.down(seen.post)[-1]).norm(dim=-1)
            torch.testing.assert_close(block.output_norms(), change, rtol=0, atol=1e-12)
            torch.testing.assert_close(block.down(seen.post), seen.out, rtol=0, atol=1e-12)


def test_sizes_are_those_of_the_vectors(model: LanguageModel) -> None:
    seen = watched_block(model, 0)
    sizes = {"pre": seen.pre, "post": seen.post, "out": seen.out}
    for site in SITES:
        assert model.blocks[0].size(site) == sizes[site].shape[-1]


@pytest.mark.parametrize("site", SITES)
def test_a_lesion_at_every_site_moves_the_prediction(model: LanguageModel, site: Site) -> None:
    frame = lesion.sweep(model, "w3 w1 w4", "w5", fractions=0.5, site=site).frame()
    assert (frame["effect_log_prob"].abs() > 1e-4).all()
    assert (frame["out_delta_norm"] > 1e-4).all()


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFamily) as refusal:
        family_of("mamba", "a/b")
    assert str(refusal.value) == (
        "model 'a/b': its architecture is 'mamba'. The known architectures are gpt2, gpt_neox, "
        "llama, mistral, qwen2, qwen3. Choose such a model, or add an entry to "
        "lesion/models/families.py."
    )
