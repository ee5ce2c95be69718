"""Every family proves itself on a tiny random model: its sites are where its entry says."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from families import (
    CAUSAL_TYPES,
    CONFIGS,
    CONTEXT,
    MASKED_TYPES,
    PACKED_TYPES,
    REFERENCE_TYPES,
    VARIANTS,
    VOCABULARY,
    tiny_model,
    tiny_variant,
    word_tokenizer,
)
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
from transformers.pytorch_utils import Conv1D

import lesion
from lesion.axes import SITES, Site
from lesion.errors import UnknownFamily, UnsuitableFamily
from lesion.models.families import FAMILIES, UNSUITABLE, family_of
from lesion.models.language_model import Block, LanguageModel

TOKENS = torch.tensor([[3, 17, 42, 8, 25, 60, 11]])
BITES = 100 * 1e-6
"""A hundred times what the comparisons of the engines tolerate at float64."""

KNOWN = (
    "gpt2, gpt_neox, opt, phi, llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, olmo2, "
    "smollm3, stablelm, gpt_neo, gptj, bloom, falcon, bert, roberta"
)

FEATURES: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("gpt_neox", {"use_parallel_residual": False}),
    ("gpt_neox", {"rotary_pct": 0.5}),
    ("mistral", {"sliding_window": None}),
    ("qwen2", {"use_sliding_window": False}),
    ("qwen2", {"max_window_layers": 2}),
    ("qwen3", {"use_sliding_window": False}),
    ("qwen3", {"max_window_layers": 2}),
    ("opt", {"do_layer_norm_before": False}),
    ("opt", {"activation_function": "gelu"}),
    ("opt, both", {"do_layer_norm_before": True}),
    ("phi", {"qk_layernorm": False}),
    ("phi", {"partial_rotary_factor": 1.0}),
    ("stablelm", {"qk_layernorm": False}),
    ("stablelm", {"partial_rotary_factor": 1.0}),
    ("stablelm", {"use_qkv_bias": False}),
    ("stablelm", {"use_parallel_residual": False}),
    ("gemma2", {"attn_logit_softcapping": None}),
    ("gemma2", {"final_logit_softcapping": None}),
    ("gemma2", {"layer_types": ["full_attention"] * 3}),
    ("gemma2", {"layer_types": ["sliding_attention"] * 3}),
    ("gemma2", {"query_pre_attn_scalar": 256}),
    ("gemma3_text", {"sliding_window": CONTEXT}),
    ("gemma3_text", {"layer_types": ["sliding_attention"] * 3}),
    ("gemma3_text", {"rope_parameters": None}),
    ("smollm3", {"layer_types": ["full_attention"] * 3}),
    ("smollm3", {"layer_types": ["sliding_attention"] * 3}),
    ("smollm3", {"no_rope_layers": [1, 1, 1]}),
    ("gpt_neo", {"attention_types": [[["global"], 3]]}),
    ("gpt_neo", {"attention_types": [[["local"], 3]]}),
    ("gpt_neo", {"window_size": CONTEXT}),
    ("gptj", {"rotary_dim": 4}),
    ("bloom", {"apply_residual_connection_post_layernorm": True}),
    ("falcon", {"alibi": True}),
    ("falcon", {"parallel_attn": False}),
    ("falcon, alibi", {"alibi": False}),
    ("falcon, new decoder", {"num_ln_in_parallel_attn": 1}),
    ("roberta", {"pad_token_id": 0}),
)
"""Of a model or variant, the words that switch one of its features off."""


@dataclasses.dataclass
class Seen:
    """What the modules of one block got and gave, one row a token."""

    mlp_input: Tensor | None = None
    pre: Tensor | None = None
    post: Tensor | None = None
    out: Tensor | None = None


@pytest.fixture(scope="module", params=[*CONFIGS, *VARIANTS])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return tiny_variant(request.param)


def rows(values: Tensor) -> Tensor:
    """A copy with batch and tokens as one axis: some models go on in place."""
    return values.reshape(-1, values.shape[-1]).clone()


def logits(model: LanguageModel, tokens: Tensor = TOKENS) -> Tensor:
    with torch.inference_mode():
        return model.hf_model(tokens, use_cache=False).logits[0]


def watched_block(model: LanguageModel, layer: int) -> Seen:
    """Run the model once and keep what passed through one block's MLP."""
    block, seen = model.blocks[layer], Seen()

    def at_pre(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.mlp_input, seen.pre = rows(args[0]), rows(output)

    def at_down(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        seen.post, seen.out = rows(args[0]), rows(output)

    handles = [block.pre.register_forward_hook(at_pre), block.down.register_forward_hook(at_down)]
    logits(model)
    for handle in handles:
        handle.remove()
    return seen


def block_states(model: LanguageModel, layer: int) -> tuple[Tensor, Tensor]:
    """The residual streams before and after a block, one row a token."""
    states: list[Tensor] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(rows(args[0] if args else kwargs["hidden_states"]))

    def after(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        states.append(rows(output[0] if isinstance(output, tuple) else output))

    module = model.blocks[layer].module
    handles = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
    logits(model)
    for handle in handles:
        handle.remove()
    return states[0], states[1]


def test_every_known_model_type_has_a_tiny_model() -> None:
    known = {word for family in FAMILIES for word in family.model_types}
    assert known == set(CONFIGS)
    assert {model_type for model_type, _ in VARIANTS.values()} <= known


def test_the_tests_group_the_families_as_their_entries_do() -> None:
    groups: dict[str, set[str]] = {"packed": set(), "reference": set(), "masked": set()}
    for family in FAMILIES:
        causal = "packed" if family.attention_interface else "reference"
        groups["masked" if family.masked else causal].update(family.model_types)
    assert groups == {
        "packed": set(PACKED_TYPES),
        "reference": set(REFERENCE_TYPES),
        "masked": set(MASKED_TYPES),
    }


def test_attention_goes_through_the_interface_where_the_entry_says_so(
    model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    found = AttentionInterface.get_interface

    def get_interface(self: Any, name: str, default: Callable[..., Any]) -> Callable[..., Any]:
        asked.append(name)
        return found(self, name, default)

    monkeypatch.setattr(AttentionInterface, "get_interface", get_interface)
    logits(model)
    assert len(asked) == (len(model.blocks) if model.family.attention_interface else 0)


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


def test_logits_follow_from_the_last_blocks_output(model: LanguageModel) -> None:
    _, hidden = block_states(model, len(model.blocks) - 1)
    with torch.inference_mode():
        torch.testing.assert_close(model.logits_of(hidden), logits(model), rtol=0, atol=1e-12)


def test_the_residual_stream_is_a_plain_sum_where_the_model_says_so() -> None:
    for name in [*CONFIGS, *VARIANTS]:
        model = tiny_variant(name)
        with torch.no_grad():
            for module in model.blocks[1].module.modules():
                if isinstance(module, nn.Linear | Conv1D):
                    for parameter in module.parameters():
                        parameter.zero_()
        # A block that adds nothing gives what it got, unless it normalises the sum.
        before, after = block_states(model, 1)
        assert torch.equal(before, after) == model.pre_norm, name


def test_the_models_whose_residual_stream_is_no_plain_sum() -> None:
    found = {name for name in [*CONFIGS, *VARIANTS] if not tiny_variant(name).pre_norm}
    assert found == {
        *MASKED_TYPES,
        "opt, norms after the residual",
        "opt, both",
        "bloom, residual behind the norm",
    }


@pytest.mark.parametrize("site", SITES)
def test_editing_every_site_moves_the_prediction(model: LanguageModel, site: Site) -> None:
    def edited(_: nn.Module, values: Any, output: Tensor | None = None) -> Any:
        # A hook before a module gets and gives its input, one after it gets its output as well.
        before = values[0] if output is None else output
        # No constant and no factor: norms behind the site would take them out again.
        after = before + torch.linspace(-1, 1, before.shape[-1], dtype=before.dtype)
        return (after, *values[1:]) if output is None else after

    def hooked(block: Block) -> torch.utils.hooks.RemovableHandle:
        if site == "post":
            return block.down.register_forward_pre_hook(edited)
        return (block.pre if site == "pre" else block.down).register_forward_hook(edited)

    clean = logits(model)
    for block in model.blocks:
        handle = hooked(block)
        assert (logits(model) - clean).abs().max() > 1e-4
        handle.remove()
    assert torch.equal(logits(model), clean)


@pytest.mark.parametrize("site", SITES)
def test_a_lesion_at_every_site_moves_the_prediction(model: LanguageModel, site: Site) -> None:
    words = {"position": "mask"} if model.family.masked else {}
    prompt = "w3 [MASK] w4" if model.family.masked else "w3 w1 w4"
    frame = lesion.sweep(model, prompt, "w5", fractions=0.5, site=site, **words).frame()
    assert (frame["effect_log_prob"].abs() > 1e-5).all()
    assert (frame["out_delta_norm"] > 1e-4).all()


@pytest.mark.parametrize(
    ("name", "off"), FEATURES, ids=[f"{name}: {', '.join(off)}" for name, off in FEATURES]
)
def test_every_feature_of_the_tiny_models_bites(name: str, off: Mapping[str, Any]) -> None:
    model_type, words = VARIANTS.get(name, (name, {}))
    with_feature = tiny_model(model_type, **words)
    without, again = tiny_model(model_type, **{**words, **off}), tiny_model(model_type, **words)
    for other in (without, again):
        other.hf_model.load_state_dict(with_feature.hf_model.state_dict(), strict=False)
    last = logits(with_feature)[-1]
    assert (logits(without)[-1] - last).abs().max() > BITES
    assert torch.equal(logits(again)[-1], last)


@pytest.mark.parametrize("model_type", ["bloom", "gptj", "falcon"])
def test_one_block_feels_the_order_of_the_tokens_before(model_type: str) -> None:
    blocks = "num_hidden_layers" if model_type == "falcon" else "n_layer"
    model = tiny_model(model_type, **{blocks: 1})
    in_order, swapped = logits(model), logits(model, TOKENS[:, [1, 0, 2, 3, 4, 5, 6]])
    assert (in_order[-1] - swapped[-1]).abs().max() > BITES


def test_the_context_is_what_a_model_with_learned_positions_can_read(
    model: LanguageModel,
) -> None:
    if model.family.name == "BLOOM":
        assert model.context is None
        return
    assert model.context == CONTEXT
    full = torch.full((1, CONTEXT), 7)
    assert logits(model, full).isfinite().all()
    if model.family.name in ("GPT-2", "OPT", "GPT-Neo", "BERT", "RoBERTa"):
        with pytest.raises((IndexError, RuntimeError)):
            logits(model, torch.full((1, CONTEXT + 1), 7))


def test_an_unknown_architecture_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownFamily) as refusal:
        family_of("mpt", "a/b")
    assert str(refusal.value) == (
        f"model 'a/b': its architecture is 'mpt'. The known architectures are {KNOWN}. "
        "Choose such a model, or add an entry to lesion/models/families.py."
    )


@pytest.mark.parametrize(
    ("model_type", "found", "reason", "remedy"),
    [
        (
            "mixtral",
            "a mixture of experts",
            "A neuron of a mixture of experts exists only for the tokens that are routed to its "
            "expert, so the neurons of a block are no vector that could be ranked",
            "Choose a dense transformer",
        ),
        (
            "mamba",
            "a state-space or recurrent model",
            "Its blocks keep a recurrent state where a transformer has attention and an MLP, so "
            "they have no MLP neurons",
            "Choose a dense transformer",
        ),
        (
            "jamba",
            "a hybrid of attention and recurrent blocks",
            "Its recurrent blocks keep a state where a transformer has attention, so its blocks "
            "are not alike and no layer can be compared with the next",
            "Choose a dense transformer",
        ),
        (
            "phi3",
            "a transformer whose gate and up projections are one matrix",
            "The site pre is what the gate projection gives, and no module gives that alone",
            "Choose a model with two projections, or with a plain MLP",
        ),
        (
            "gemma3",
            "a multimodal model",
            "It holds several models, each with blocks of its own, so a layer's number does not "
            "say which block is meant",
            "Pass its text model alone as hf_model, as docs/families.md shows, if its "
            "architecture is known",
        ),
    ],
)
def test_an_unsuitable_architecture_is_refused_with_its_reason(
    model_type: str, found: str, reason: str, remedy: str
) -> None:
    with pytest.raises(UnsuitableFamily) as refusal:
        family_of(model_type, "a/b")
    assert str(refusal.value) == (
        f"model 'a/b': its architecture, {model_type!r}, is {found}. {reason}. {remedy}: {KNOWN}."
    )


def tiny_phi3() -> PreTrainedModel:
    words = {**CONFIGS["llama"], "vocab_size": VOCABULARY, "eos_token_id": 0, "pad_token_id": None}
    return Phi3ForCausalLM(Phi3Config(**words))


def tiny_gemma3() -> Gemma3ForConditionalGeneration:
    """Text and images: 4 patches a picture, one token each."""
    text = {**CONFIGS["gemma3_text"], "vocab_size": VOCABULARY, "initializer_range": 0.4}
    vision = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 4}
    vision |= {"intermediate_size": 32, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    return Gemma3ForConditionalGeneration(config).eval().double()


@pytest.mark.parametrize(
    ("made", "found"),
    [
        (tiny_phi3, "'phi3', is a transformer whose gate and up projections are one matrix"),
        (tiny_gemma3, "'gemma3', is a multimodal model"),
    ],
)
def test_a_loaded_model_of_an_unsuitable_architecture_is_refused(
    made: Callable[[], PreTrainedModel], found: str
) -> None:
    hf_model = made()
    with pytest.raises(UnsuitableFamily, match=f"{type(hf_model).__name__}.*{found}"):
        lesion.load(hf_model=hf_model, tokenizer=word_tokenizer())


def test_the_text_model_of_a_multimodal_gemma_3_is_taken_out_as_the_page_says() -> None:
    gemma = tiny_gemma3()
    text = Gemma3ForCausalLM(gemma.config.text_config).eval()
    text.model = gemma.model.language_model
    text.lm_head = gemma.lm_head
    model = lesion.load(hf_model=text, tokenizer=word_tokenizer())
    with torch.inference_mode():
        assert torch.equal(logits(model), gemma(TOKENS).logits[0])
    run = lesion.sweep(model, "w3 w1 w4", "w5", fractions=0.5)
    assert run.measuring.engine == "packed"
    assert (run.frame()["effect_log_prob"].abs() > 1e-5).all()


@pytest.mark.parametrize("tokens", [1, 2, CONTEXT])
@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_an_mlp_that_runs_on_a_part_of_the_tokens_is_refused(model_type: str, tokens: int) -> None:
    with pytest.raises(UnsuitableFamily) as refusal:
        tiny_model(model_type, chunk_size_feed_forward=tokens)
    assert str(refusal.value) == (
        f"model 'random {model_type}': its MLPs run on chunk_size_feed_forward={tokens} tokens at "
        "a time. A lesion is at a token's index in the whole prompt, which such a part does not "
        "know. Pass as hf_model the model loaded with chunk_size_feed_forward=0: its logits are "
        "the same."
    )


@pytest.mark.parametrize("model_type", CAUSAL_TYPES)
def test_no_causal_model_divides_its_tokens(model_type: str) -> None:
    divided = tiny_model(model_type, chunk_size_feed_forward=2)
    whole = tiny_model(model_type)
    assert torch.equal(logits(divided), logits(whole))
    assert watched_block(divided, 1).pre.shape == watched_block(whole, 1).pre.shape


def test_architectures_stand_in_one_list_and_transformers_knows_them() -> None:
    listed = [word for entry in (*FAMILIES, *UNSUITABLE) for word in entry.model_types]
    assert len(listed) == len(set(listed))
    assert [word for word in listed if word not in CONFIG_MAPPING_NAMES] == []
