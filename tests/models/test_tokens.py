"""Prompts, targets and foils: what they become, and what cannot be one."""

import pytest
import torch
from families import MASKED_TYPES, mask_tokenizer, tiny_model, word_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import lesion
from lesion.errors import PromptError, TargetError
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import (
    ask,
    likely_tokens,
    predicted_position,
    resolve_token,
    token_text,
    tokenize_prompt,
)


@pytest.fixture(scope="module")
def shipped() -> LanguageModel:
    return lesion.load()


@pytest.fixture(scope="module")
def words() -> LanguageModel:
    return tiny_model("gpt2", bos_token_id=0)


def sentencepiece_tokenizer() -> PreTrainedTokenizerFast:
    """Words with their space as ▁, as Llama's tokenizer spells them; every text begins a word."""
    pieces = {"<unk>": 0, "▁": 1, "▁night": 2, "▁day": 3, "s": 4, "night": 5}
    tokenizer = Tokenizer(models.BPE(pieces, [], unk_token="<unk>", ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


def test_a_prompt_has_the_tokenizers_own_special_tokens_and_a_target_none() -> None:
    model = tiny_model("llama")
    model.tokenizer._tokenizer.post_processor = bos_processor()
    assert tokenize_prompt(model, "w1 w2") == (0, 1, 2)
    assert resolve_token(model, "w2", "target") == 2


def bos_processor() -> object:
    return processors.TemplateProcessing(single="w0 $A", special_tokens=[("w0", 0)])


def test_a_target_with_its_space_is_that_token(shipped: LanguageModel) -> None:
    token_id = resolve_token(shipped, " night", "target")
    assert token_text(shipped.tokenizer, token_id) == " night"


def test_a_target_that_a_space_would_turn_into_another_token_is_refused_with_both(
    shipped: LanguageModel,
) -> None:
    bare, spaced = (shipped.tokenizer(text)["input_ids"] for text in ("night", " night"))
    assert len(bare) == len(spaced) == 1
    with pytest.raises(TargetError) as refusal:
        resolve_token(shipped, "night", "target")
    assert str(refusal.value) == (
        f"target 'night': 'night' is token {bare[0]} and ' night' is token {spaced[0]}. A target "
        "is one unmistakable token. For a new word write ' night'; to mean 'night' without the "
        "space, pass it by its id (target_id in Python, --target-id on the command line): "
        f"{bare[0]}."
    )


def test_several_tokens_are_refused_and_spelled(shipped: LanguageModel) -> None:
    pieces = shipped.tokenizer.tokenize(" nightingales")
    assert len(pieces) > 1
    with pytest.raises(TargetError) as refusal:
        resolve_token(shipped, " nightingales", "foil")
    text = str(refusal.value)
    assert text.startswith(f"foil ' nightingales': it is {len(pieces)} tokens (' ")
    assert text.endswith(
        "). A foil is exactly one token. Choose a word that is one token of this tokenizer."
    )


def test_several_tokens_whose_spaced_form_is_one_show_that_one(shipped: LanguageModel) -> None:
    vocabulary = shipped.tokenizer.get_vocab()
    word = next(
        text[1:]
        for text, _ in sorted(vocabulary.items(), key=lambda item: item[1])
        if text.startswith("Ġ") and len(shipped.tokenizer(text[1:])["input_ids"]) > 1
    )
    token_id = vocabulary["Ġ" + word]
    with pytest.raises(TargetError) as refusal:
        resolve_token(shipped, word, "target")
    assert str(refusal.value).endswith(
        f". A target is exactly one token. Write ' {word}' (token {token_id}), with its leading "
        "space."
    )


def test_an_empty_target_and_an_unknown_one_are_refused(words: LanguageModel) -> None:
    with pytest.raises(TargetError) as refusal:
        resolve_token(words, "", "target")
    assert str(refusal.value) == (
        "target '': it is no token. A target is exactly one token. "
        "Choose a word that is one token of this tokenizer."
    )
    with pytest.raises(TargetError) as refusal:
        resolve_token(words, "zebra", "target")
    assert str(refusal.value) == (
        "target 'zebra': the tokenizer does not know it. A target is exactly one token. "
        "Choose a word that it knows."
    )


def test_a_tokenizer_without_spaces_is_not_refused(words: LanguageModel) -> None:
    assert resolve_token(words, "w5", "target") == resolve_token(words, " w5", "target") == 5


def test_sentencepiece_words_begin_with_their_space() -> None:
    model = tiny_model("llama")
    model.tokenizer = tokenizer = sentencepiece_tokenizer()
    assert tokenizer.tokenize("night") == ["▁night"]
    assert resolve_token(model, "night", "target") == 2
    assert token_text(tokenizer, 2) == " night"
    assert token_text(tokenizer, 5) == "night"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_refused(words: LanguageModel, text: str) -> None:
    with pytest.raises(PromptError) as refusal:
        lesion.sweep(words, text, "w5")
    assert str(refusal.value) == (
        f"prompt {text!r}: it is empty. A prompt has at least one token before the one that is "
        "predicted. Pass some text."
    )


def test_a_prompt_as_long_as_the_context_runs_and_a_longer_one_is_refused(
    words: LanguageModel,
) -> None:
    full = " ".join(["w7"] * words.context)
    assert len(lesion.sweep(words, full, "w5", fractions=0.5).table) == 3
    with pytest.raises(PromptError) as refusal:
        lesion.sweep(words, full + " w7", "w5")
    assert str(refusal.value) == (
        f"prompt '{full[:40]}…': it has 33 tokens. random gpt2 reads at most 32. "
        "Shorten the prompt, or pass truncate='left' (--truncate left)."
    )


def test_nothing_runs_before_everything_is_checked(words: LanguageModel) -> None:
    passes: list[int] = []
    handle = words.hf_model.register_forward_hook(lambda *_: passes.append(1))
    bad: list[dict[str, object]] = [
        {"prompt": "", "target": "w5"},
        {"prompt": "w1", "target": "zebra"},
        {"prompt": "w1", "target_id": 64},
        {"prompt": "w1", "target": "w5", "foil": "zebra"},
        {"prompt": "w1", "target": "w5", "target_id": 5},
        {"prompt": "w1", "target": "w5", "layers": "3"},
        {"prompt": "w1", "target": "w5", "select": lesion.neuron_set([(0, 48)])},
        {"prompt": "w1", "target": "w5", "fractions": "1.5"},
    ]
    try:
        for words_given in bad:
            with pytest.raises(lesion.LesionError):
                lesion.sweep(words, **words_given)  # type: ignore[arg-type]
        assert passes == []
    finally:
        handle.remove()


def test_an_id_outside_the_vocabulary_and_a_target_given_twice_are_refused(
    words: LanguageModel,
) -> None:
    with pytest.raises(TargetError) as refusal:
        ask(words, "w1", None, 64, None, None)
    assert str(refusal.value) == (
        "target id 64: the model has no such token. Token ids of random gpt2 run from 0 to 63. "
        "Pass one of them, or the target as text."
    )
    with pytest.raises(TargetError) as refusal:
        ask(words, "w1", "w5", None, "w6", 6)
    assert str(refusal.value) == (
        "foil 'w6' and foil id 6: both were given. A foil is given as text or as a token id. "
        "Leave one of them out."
    )
    with pytest.raises(TargetError) as refusal:
        ask(words, "w1", "w5", None, "w5", None)
    assert str(refusal.value) == (
        "foil 'w5': it is the target. A foil is another token than the target. Choose another foil."
    )


def test_likely_tokens_are_those_of_a_plain_forward_pass(words: LanguageModel) -> None:
    found = likely_tokens(words, (1, 2, 3), 5)
    with torch.inference_mode():
        probs = words.hf_model(torch.tensor([[1, 2, 3]])).logits[0, -1].softmax(-1)
    expected = sorted(range(64), key=lambda token_id: -float(probs[token_id]))[:5]
    assert [token.token_id for token in found] == expected
    assert [token.token for token in found] == [f"w{token_id}" for token_id in expected]
    assert [token.prob for token in found] == pytest.approx([float(probs[i]) for i in expected])


@pytest.mark.parametrize("model_type", MASKED_TYPES)
def test_a_masked_model_predicts_the_token_behind_its_mask(model_type: str) -> None:
    model = tiny_model(model_type)
    prompt, found = ask(model, "w3 [MASK] w4 w9", None, None, None, None)
    assert prompt.token_ids == (3, 62, 4, 9)
    assert predicted_position(model, prompt.token_ids) == 1
    with torch.inference_mode():
        probs = model.hf_model(torch.tensor([[3, 62, 4, 9]])).logits[0, 1].softmax(-1)
    assert prompt.target_id == found[0].token_id == int(probs.argmax())
    assert found[0].prob == pytest.approx(float(probs.max()))


def test_a_causal_model_predicts_after_the_last_token(words: LanguageModel) -> None:
    assert predicted_position(words, (3, 62, 4, 9)) == 3


@pytest.mark.parametrize(("text", "found"), [("w3 w4", "no mask"), ("[MASK] w3 [MASK]", "2 masks")])
def test_a_masked_model_wants_one_mask(text: str, found: str) -> None:
    with pytest.raises(PromptError) as refusal:
        tokenize_prompt(tiny_model("bert"), text)
    assert str(refusal.value) == (
        f"prompt {text!r}: it has {found}. random bert is a masked model: it predicts the one "
        "token behind [MASK]. Write [MASK] once, where the target stands."
    )


def test_the_word_tokenizer_of_the_tests_knows_its_words() -> None:
    assert word_tokenizer()("w0 w62")["input_ids"] == [0, 62]
    assert mask_tokenizer()("w0 w61 [MASK] w62")["input_ids"] == [0, 61, 62, 63]
