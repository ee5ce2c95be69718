"""Tiny random models, one row a `model_type`: what every test of the families runs on.

A new family adds its row to `CONFIGS`, and one to the oracle's own table, `protocol_loop.PLACES`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

import lesion
from lesion.models.language_model import LanguageModel

BLOCKS, WIDTH, VOCABULARY, CONTEXT = 3, 16, 64, 32
NEURONS = 48
"""Even, so that the two middle values differ; above 16, where an unstable sort comes out stable."""

_SIZES = {
    "num_hidden_layers": BLOCKS,
    "hidden_size": WIDTH,
    "intermediate_size": NEURONS,
    "max_position_embeddings": CONTEXT,
}
_GROUPED_QUERIES = {**_SIZES, "num_attention_heads": 4, "num_key_value_heads": 2}
_GEMMA = {**_GROUPED_QUERIES, "head_dim": 4, "pad_token_id": None}
_SLIDING = {"use_sliding_window": True, "sliding_window": 4}
"""A window that every prompt of more than four tokens feels."""
_NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}

CONFIGS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "gpt2": {
            "n_layer": BLOCKS,
            "n_embd": WIDTH,
            "n_inner": NEURONS,
            "n_positions": CONTEXT,
            "n_head": 4,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
        "gpt_neox": {
            **_SIZES,
            "num_attention_heads": 2,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
        },
        "llama": _GROUPED_QUERIES,
        "mistral": {**_GROUPED_QUERIES, "sliding_window": 4},
        # From the second block on.
        "qwen2": {**_GROUPED_QUERIES, **_SLIDING, "max_window_layers": 1},
        "qwen3": {**_GROUPED_QUERIES, **_SLIDING, "max_window_layers": 1, "head_dim": 4},
        "opt": {
            "num_hidden_layers": BLOCKS,
            "hidden_size": WIDTH,
            "word_embed_proj_dim": WIDTH,
            "ffn_dim": NEURONS,
            "max_position_embeddings": CONTEXT,
            "num_attention_heads": 4,
            "pad_token_id": None,
            "dropout": 0.0,
        },
        "phi": {**_GROUPED_QUERIES, "partial_rotary_factor": 0.5, "qk_layernorm": True},
        "stablelm": {
            **_GROUPED_QUERIES,
            "partial_rotary_factor": 0.5,
            "qk_layernorm": True,
            "use_qkv_bias": True,
            "use_parallel_residual": True,
        },
        "gemma": _GEMMA,
        "gemma2": {
            **_GEMMA,
            "query_pre_attn_scalar": 4,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 3.0,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "gemma3_text": {
            **_GEMMA,
            "query_pre_attn_scalar": 4,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10.0},
                "full_attention": {"rope_type": "linear", "rope_theta": 1000.0, "factor": 4.0},
            },
        },
        # Norms behind the MLP magnify rounding where a lesion leaves little of its output.
        "olmo2": {**_GROUPED_QUERIES, "pad_token_id": None, "initializer_range": 0.2},
        "smollm3": {
            **_GROUPED_QUERIES,
            **_SLIDING,
            "pad_token_id": None,
            "no_rope_layers": [1, 0, 1],
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        "gpt_neo": {
            "num_layers": BLOCKS,
            "hidden_size": WIDTH,
            "intermediate_size": NEURONS,
            "max_position_embeddings": CONTEXT,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1], [["local"], 1]],
            "window_size": 4,
        },
        "gptj": {
            "n_layer": BLOCKS,
            "n_embd": WIDTH,
            "n_inner": NEURONS,
            "n_positions": CONTEXT,
            "n_head": 4,
            "rotary_dim": 2,
        },
        # It has no word for the number of its neurons: four times the width.
        "bloom": {"n_layer": BLOCKS, "hidden_size": WIDTH, "n_head": 4},
        "falcon": {
            "num_hidden_layers": BLOCKS,
            "hidden_size": WIDTH,
            "ffn_hidden_size": NEURONS,
            "max_position_embeddings": CONTEXT,
            "num_attention_heads": 4,
        },
        "bert": {**_SIZES, **_NO_DROPOUT, "num_attention_heads": 4, "pad_token_id": None},
        # Its positions begin behind the padding token's id.
        "roberta": {
            **_SIZES,
            **_NO_DROPOUT,
            "num_attention_heads": 4,
            "pad_token_id": 1,
            "max_position_embeddings": CONTEXT + 2,
        },
    }
)
MODEL_TYPES = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3")
"""The core: whole products of the sweep's choices run on each."""
REFERENCE_TYPES = ("gpt_neo", "gptj", "bloom", "falcon")
"""Causal models that only the reference engine runs."""
MASKED_TYPES = ("bert", "roberta")
PACKED_TYPES = tuple(
    name for name in CONFIGS if name not in REFERENCE_TYPES and name not in MASKED_TYPES
)
"""Causal models that every engine runs."""

CAUSAL_TYPES = tuple(name for name in CONFIGS if name not in MASKED_TYPES)

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = MappingProxyType(
    {
        "opt, norms after the residual": ("opt", {"do_layer_norm_before": False}),
        "opt, projected embeddings": ("opt", {"word_embed_proj_dim": 8}),
        "opt, both": ("opt", {"do_layer_norm_before": False, "word_embed_proj_dim": 8}),
        "gpt_neox, no parallel residual": ("gpt_neox", {"use_parallel_residual": False}),
        "stablelm, no parallel residual": ("stablelm", {"use_parallel_residual": False}),
        "bloom, residual behind the norm": (
            "bloom",
            {"apply_residual_connection_post_layernorm": True},
        ),
        "falcon, alibi": (
            "falcon",
            {"alibi": True, "multi_query": False, "parallel_attn": False, "bias": True},
        ),
        "falcon, new decoder": ("falcon", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    }
)
"""Other shapes of an architecture: its `model_type`, and the words of `tiny_model`."""

_EVERYWHERE = {
    "vocab_size": VOCABULARY,
    "bos_token_id": 0,
    "eos_token_id": 0,
    # At the usual 0.02 a lesion moves the logits by less than the comparisons tolerate.
    "initializer_range": 0.4,
}


def tiny_model(
    model_type: str, dtype: str = "float64", seed: int = 0, **words: Any
) -> LanguageModel:
    """A random model of three blocks, random biases included; `words` go to its configuration."""
    config = {"model_type": model_type, **_EVERYWHERE, **CONFIGS[model_type], **words}
    tokenizer = mask_tokenizer() if model_type in MASKED_TYPES else word_tokenizer()
    model = lesion.load(
        config=config, random_weights=seed, tokenizer=tokenizer, dtype=dtype, device="cpu"
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.hf_model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def tiny_variant(name: str, dtype: str = "float64", seed: int = 0) -> LanguageModel:
    """The `tiny_model` of a variant, or of a `model_type`."""
    model_type, words = VARIANTS.get(name, (name, {}))
    return tiny_model(model_type, dtype, seed, **words)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The words w0 … w62 are the tokens 0 … 62; every other word is [UNK], token 63."""
    return _tokenizer({"unk_token": "[UNK]"})


def mask_tokenizer() -> PreTrainedTokenizerFast:
    """The words w0 … w61 are the tokens 0 … 61, [MASK] is 62, every other word [UNK], token 63."""
    return _tokenizer({"mask_token": "[MASK]", "unk_token": "[UNK]"})


def _tokenizer(special_tokens: Mapping[str, str]) -> PreTrainedTokenizerFast:
    words = [f"w{token_id}" for token_id in range(VOCABULARY - len(special_tokens))]
    vocabulary = {word: at for at, word in enumerate([*words, *special_tokens.values()])}
    tokenizer = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special_tokens
    )
