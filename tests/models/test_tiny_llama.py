"""The gated model kept for the tests: small, of the shape it is kept for, and trained."""

import re
from pathlib import Path

import pytest
import torch

import lesion
from lesion.models.language_model import LanguageModel
from lesion.models.loading import shipped_tokenizer
from lesion.models.tokens import likely_tokens, tokenize_prompt

FOLDER = Path(__file__).parents[1] / "fixtures" / "tiny_llama"
MOST_BYTES = 2_000_000

TEXT = (
    "The old man looked at the door for a long time, and then he turned to his daughter. "
    "“I do not know what we are to do,” he said, “but we must go before the morning.” "
    "She took her hat from the table and put it on. It was very cold, and there was no one in the "
    "street but a little boy who had been waiting for them since the evening."
)
"""Written for this test; nobody trained on it."""


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return lesion.load(FOLDER, tokenizer=shipped_tokenizer())


@torch.no_grad()
def nats_per_token(model: LanguageModel, ids: torch.Tensor) -> float:
    """The mean negative log-probability of all tokens but the first; `ids` is [1, position]."""
    log_prob = model.hf_model(ids).logits[0, :-1].log_softmax(-1)
    return -float(log_prob.gather(-1, ids[0, 1:, None]).mean())


def test_it_is_small_and_comes_without_a_tokenizer() -> None:
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert set(files) == {"MODEL_CARD.md", "config.json", "model.safetensors"}
    assert sum(files.values()) <= MOST_BYTES


def test_it_is_gated_with_grouped_queries(model: LanguageModel) -> None:
    assert model.family.name == "Llama"
    assert model.family.up is not None
    assert len(model.blocks) == 4
    assert (model.config.num_attention_heads, model.config.num_key_value_heads) == (4, 2)
    assert model.config.tie_word_embeddings
    assert model.config.intermediate_size % 2 == 0


def test_its_card_agrees_with_its_configuration(model: LanguageModel) -> None:
    card = (FOLDER / "MODEL_CARD.md").read_text(encoding="utf-8")
    config = model.config
    assert (
        f"Llama: {config.num_hidden_layers} blocks × {config.hidden_size}, "
        f"{config.num_attention_heads} heads on {config.num_key_value_heads} key-value heads, "
        f"{config.intermediate_size} neurons a block"
    ) in card
    assert f"| parameters | {model.hf_model.num_parameters():,}, stored as " in card
    assert f"byte-level BPE, {len(model.tokenizer)} tokens" in card
    assert f"| context | {config.max_position_embeddings} tokens, rotary positions |" in card
    assert re.search(r"held-out bits per byte \| \*\*\d\.\d{3}\*\*", card)


def test_it_predicts_better_than_the_frequencies_of_tokens(model: LanguageModel) -> None:
    """6.71 nats a token with the frequencies in its training text; 4.64 measured."""
    ids = model.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    assert ids.shape == (1, 90)
    assert nats_per_token(model, ids) < 5.2


def test_it_uses_what_stands_before(model: LanguageModel) -> None:
    """Frequencies give the text in another order the same; 8.9 nats a token measured."""
    ids = model.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    order = torch.randperm(ids.shape[1], generator=torch.Generator().manual_seed(0))
    assert nats_per_token(model, ids[:, order]) > nats_per_token(model, ids) + 2


def test_it_knows_some_english(model: LanguageModel) -> None:
    expected = {"They looked at each": " other", "I beg your": " pardon", "She opened the": " door"}
    for prompt, word in expected.items():
        assert likely_tokens(model, tokenize_prompt(model, prompt), 1)[0].token == word
