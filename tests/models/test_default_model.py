"""The model that ships: small, safe to load, described, and sensible on the demonstration."""

import re
from pathlib import Path

import pytest

import lesion
from lesion.models.language_model import LanguageModel
from lesion.models.loading import DEFAULT_MODEL
from lesion.models.tokens import likely_tokens, resolve_token, tokenize_prompt

ROOT = Path(__file__).parents[2]
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return lesion.load()


def makefile_variable(name: str) -> str:
    """The value of a Makefile variable, without its quotation marks."""
    found = re.search(rf"^{name} := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].strip('"')


def test_it_is_small_and_holds_nothing_but_data(model: LanguageModel) -> None:
    files = {path.name: path.stat().st_size for path in DEFAULT_MODEL.iterdir()}
    assert set(files) == {
        "MODEL_CARD.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) <= MOST_BYTES
    assert len(model.blocks) >= 6
    assert model.dtype == "float32"


def test_its_card_agrees_with_its_configuration(model: LanguageModel) -> None:
    card = (DEFAULT_MODEL / "MODEL_CARD.md").read_text(encoding="utf-8")
    assert f"{len(model.blocks)} blocks × {model.config.n_embd}" in card
    assert f"| parameters | {model.hf_model.num_parameters():,}, stored as " in card
    assert f"byte-level BPE, {len(model.tokenizer)} tokens" in card
    assert re.search(r"held-out bits per byte \| \*\*\d\.\d{3}\*\*", card)
    assert re.search(r"next-word accuracy \| \d+\.\d% of", card)
    for part in ("## Data", "## Limits", "licence", "tokens seen", "Jane Austen"):
        assert part in card


def test_the_demonstration_uses_a_prompt_that_the_model_knows(model: LanguageModel) -> None:
    prompt, target = makefile_variable("PROMPT"), makefile_variable("TARGET")
    target_id = resolve_token(model, target, "target")
    likely = likely_tokens(model, tokenize_prompt(model, prompt), 5)
    assert target_id == likely[0].token_id


def test_it_knows_some_english(model: LanguageModel) -> None:
    expected = {"They looked at each": " other", "I beg your": " pardon", "She opened the": " door"}
    for prompt, word in expected.items():
        assert likely_tokens(model, tokenize_prompt(model, prompt), 1)[0].token == word
