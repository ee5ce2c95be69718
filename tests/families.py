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
        "qwen2": _GROUPED_QUERIES,
        "qwen3": {**_GROUPED_QUERIES, "head_dim": 4},
    }
)
MODEL_TYPES = tuple(CONFIGS)

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
    config = {"model_type": model_type, **CONFIGS[model_type], **_EVERYWHERE, **words}
    model = lesion.load(
        config=config, random_weights=seed, tokenizer=word_tokenizer(), dtype=dtype, device="cpu"
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, parameter in model.hf_model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The words w0 … w62 are the tokens 0 … 62; every other word is [UNK], token 63."""
    words = {f"w{token_id}": token_id for token_id in range(VOCABULARY - 1)}
    words["[UNK]"] = VOCABULARY - 1
    tokenizer = Tokenizer(models.WordLevel(vocab=words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", clean_up_tokenization_spaces=False
    )
