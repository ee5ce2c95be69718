"""From texts to token ids: prompts, targets and foils, and what cannot be one.

Prompts are tokenized with the tokenizer's own special tokens, targets and foils without. A target
is one token, and not one that a leading space would turn into another: "night" and " night" are two
tokens of GPT-2, and after "It was a dark and stormy" only the second is a word.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float64
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from lesion.errors import PromptError, TargetError
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

LIKELY_TOKENS = 5
_LOGITS_AT_ONCE = 2**25


TruncateWord = Literal["no", "left"]
TargetMode = Literal["one", "first", "sum"]
TRUNCATE_WORDS: tuple[TruncateWord, ...] = get_args(TruncateWord)
TARGET_MODES: tuple[TargetMode, ...] = get_args(TargetMode)


def tokenize_prompt(model: LanguageModel, text: str) -> tuple[int, ...]:
    """The token ids of a prompt.

    Raises:
        PromptError: it has no token, more than the model's context, or, for a masked model, not
            exactly one mask.
    """
    return fitted(model, text, tokenized(model, [text])[0])[0]


def tokenized(model: LanguageModel, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """The token ids of texts, with the tokenizer's own special tokens; none of a blank text."""
    found = model.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
    return [tuple(ids) if text.strip() else () for ids, text in zip(found, texts, strict=True)]


def fitted(
    model: LanguageModel,
    text: str,
    token_ids: tuple[int, ...],
    truncate: TruncateWord = "no",
    more: int = 0,
) -> tuple[tuple[int, ...], int]:
    """A prompt's tokens as the model can read them, with `more` after them; and how many were cut.

    With `truncate="left"` a prompt that is too long loses tokens at its beginning, after the
    special token that begins every prompt, if there is one.

    Raises:
        PromptError: it has no token, more than the model's context, or, for a masked model, not
            exactly one mask.
    """
    if not token_ids:
        rule = "A prompt has at least one token before the one that is predicted"
        raise PromptError(f"prompt {text!r}", "it is empty", rule, "Pass some text")
    most = None if model.context is None else model.context - more
    cut = 0
    if most is not None and len(token_ids) > most:
        if truncate == "no" or most < 2:
            raise PromptError(
                f"prompt {_shortened(text)!r}",
                f"it has {len(token_ids)} tokens",
                f"{model.name} reads at most {most}"
                + (f" before a target of {more + 1} tokens" if more else ""),
                "Shorten the prompt, or pass truncate='left' (--truncate left)",
            )
        cut = len(token_ids) - most
        begin = int(token_ids[0] in model.tokenizer.all_special_ids)
        token_ids = token_ids[:begin] + token_ids[begin + cut :]
    if model.family.masked:
        _check_mask(model, text, token_ids)
    return token_ids, cut


def predicted_position(model: LanguageModel, token_ids: tuple[int, ...]) -> int:
    """Index of the token whose logits are measured: a masked model's mask, else the last token."""
    if model.family.masked:
        return token_ids.index(model.tokenizer.mask_token_id)
    return len(token_ids) - 1


def token_text(tokenizer: PreTrainedTokenizerBase, token_id: int) -> str:
    """The text that one token stands for, its leading space included."""
    text = str(tokenizer.decode([token_id], clean_up_tokenization_spaces=False))
    # A SentencePiece token that begins a word carries its space only in its own spelling.
    spelling = tokenizer.convert_ids_to_tokens(token_id)
    begins_word = isinstance(spelling, str) and spelling.startswith("▁")
    return " " + text if begins_word and not text.startswith(" ") else text


@dataclasses.dataclass(frozen=True)
class LikelyToken:
    """A token that a model thinks may come next, with its probability."""

    token_id: int
    token: str
    prob: float


def likely_tokens(
    model: LanguageModel, token_ids: tuple[int, ...], most: int
) -> tuple[LikelyToken, ...]:
    """The `most` likely next tokens after a prompt, by one clean forward pass, likeliest first.

    A masked model's are those behind the mask. Tokens whose logit is NaN or infinite are left out.
    """
    return likely_tokens_of_each(model, [token_ids], most)[0]


def likely_tokens_of_each(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]], most: int
) -> list[tuple[LikelyToken, ...]]:
    """The likely next tokens after each prompt; see `likely_tokens`.

    Prompts of one length run together, so that none is padded.
    """
    found: dict[int, tuple[LikelyToken, ...]] = {}
    by_length: dict[int, list[int]] = {}
    for place, token_ids in enumerate(prompts):
        by_length.setdefault(len(token_ids), []).append(place)
    for length, places in by_length.items():
        together = max(1, _LOGITS_AT_ONCE // (length * int(model.config.vocab_size)))
        for start in range(0, len(places), together):
            part = places[start : start + together]
            rows = _next_logits(model, [prompts[place] for place in part])
            found |= {
                place: _likely(model, row, most) for place, row in zip(part, rows, strict=True)
            }
    return [found[place] for place in range(len(prompts))]


def _next_logits(
    model: LanguageModel, prompts: Sequence[tuple[int, ...]]
) -> Float64[Tensor, "prompt vocabulary"]:
    """The logits of the predicted token after prompts of one length."""
    positions = [predicted_position(model, token_ids) for token_ids in prompts]
    with model.lock, model.evaluating(), torch.inference_mode():
        tokens = torch.tensor(prompts, device=model.device)
        logits: Tensor = model.hf_model(tokens, use_cache=False).logits
        return logits[range(len(prompts)), positions].double()


def _likely(
    model: LanguageModel, logits: Float64[Tensor, " vocabulary"], most: int
) -> tuple[LikelyToken, ...]:
    finite = logits.where(logits.isfinite(), -torch.inf)
    order = finite.sort(descending=True, stable=True).indices[:most].tolist()
    probs = finite.softmax(dim=-1)
    return tuple(
        LikelyToken(token_id, token_text(model.tokenizer, token_id), float(probs[token_id]))
        for token_id in order
        if finite[token_id].isfinite()
    )


def check_token_id(model: LanguageModel, token_id: int, word: str) -> int:
    """A token id that the model can predict; `word` is `target` or `foil`.

    Raises:
        TargetError: it is outside the vocabulary.
    """
    if not 0 <= token_id < model.config.vocab_size:
        raise TargetError(
            f"{word} id {token_id}",
            "the model has no such token",
            f"Token ids of {model.name} run from 0 to {model.config.vocab_size - 1}",
            f"Pass one of them, or the {word} as text",
        )
    return token_id


def resolve_token(model: LanguageModel, text: str, word: str) -> int:
    """The one token that a target or foil is; `word` is `target` or `foil`.

    Raises:
        TargetError: it is none or several tokens, unknown to the tokenizer, or a leading space
            gives another single token (both are shown).
    """
    return resolve_tokens(model, text, word)[0]


def resolve_tokens(
    model: LanguageModel, text: str, word: str, mode: TargetMode = "one"
) -> tuple[int, ...]:
    """The tokens of a target: one, or with the modes `first` and `sum` one or more.

    Raises:
        TargetError: see `resolve_token`; several tokens only with mode `one`.
    """
    tokenizer = model.tokenizer
    asked = f"{word} {text!r}"
    by_id = f"Pass it by its id ({word}_id in Python, --{word}-id on the command line)"
    token_ids = _ids(tokenizer, text)
    spaced_ids = [] if text[:1].isspace() else _ids(tokenizer, " " + text)
    spaced_is_single = len(spaced_ids) == 1 and spaced_ids != token_ids
    rule = f"A {word} is exactly one token"
    if mode != "one" and len(token_ids) > 1 and not spaced_is_single:
        if tokenizer.unk_token_id in token_ids:
            raise TargetError(
                asked, "the tokenizer does not know all of it", rule, "Choose a word that it knows"
            )
        return tuple(check_token_id(model, token_id, word) for token_id in token_ids)
    if len(token_ids) != 1:
        if spaced_is_single:
            remedy = f"Write {' ' + text!r} (token {spaced_ids[0]}), with its leading space"
        else:
            remedy = "Choose a word that is one token of this tokenizer"
            if word == "target" and len(token_ids) > 1:
                remedy += (
                    ", or pass target_mode='first' or 'sum' (--target-mode) to measure several"
                )
        raise TargetError(asked, f"it is {_spelled(tokenizer, token_ids)}", rule, remedy)
    if token_ids[0] == tokenizer.unk_token_id and text != tokenizer.unk_token:
        raise TargetError(
            asked, "the tokenizer does not know it", rule, "Choose a word that it knows"
        )
    if spaced_is_single:
        raise TargetError(
            asked,
            f"{text!r} is token {token_ids[0]} and {' ' + text!r} is token {spaced_ids[0]}",
            f"A {word} is one unmistakable token",
            f"For a new word write {' ' + text!r}; to mean {text!r} without the space, "
            f"{by_id[0].lower()}{by_id[1:]}: {token_ids[0]}",
        )
    return (check_token_id(model, token_ids[0], word),)


def ask(
    model: LanguageModel,
    text: str,
    target: str | None = None,
    target_id: int | None = None,
    foil: str | None = None,
    foil_id: int | None = None,
) -> tuple[Prompt, tuple[LikelyToken, ...]]:
    """A prompt ready to be measured, and the likely tokens of its clean run.

    Everything that can be refused is refused before the model runs. Without a target it is the
    model's own top token.

    Raises:
        PromptError: empty, or longer than the context.
        TargetError: a target or foil that is not one unmistakable token, given both as text and as
            id, or a foil that is the target.
    """
    token_ids = tokenize_prompt(model, text)
    asked_id = one_id(model, target, target_id, "target")
    found_foil_id = one_id(model, foil, foil_id, "foil")
    likely = likely_tokens(model, token_ids, LIKELY_TOKENS)
    found_id = top_id(likely) if asked_id is None else asked_id
    check_foil(model, found_id, found_foil_id)
    question = Prompt(
        prompt_id=0,
        text=text,
        token_ids=token_ids,
        target=token_text(model.tokenizer, found_id),
        target_id=found_id,
        target_source="top" if asked_id is None else "given",
        foil=None if found_foil_id is None else token_text(model.tokenizer, found_foil_id),
        foil_id=found_foil_id,
    )
    return question, likely


def top_id(likely: Sequence[LikelyToken]) -> int:
    """The id of the model's own top token.

    Raises:
        TargetError: the clean run has no finite logit.
    """
    if likely:
        return likely[0].token_id
    raise TargetError(
        "no target",
        "every logit of the clean run is NaN or infinite",
        "Without a target it is the model's own top token",
        "Check the model's weights and its dtype",
    )


def check_foil(model: LanguageModel, target_id: int, foil_id: int | None) -> None:
    """Refuse a foil that is the target.

    Raises:
        TargetError: it is.
    """
    if target_id == foil_id:
        raise TargetError(
            f"foil {token_text(model.tokenizer, target_id)!r}",
            "it is the target",
            "A foil is another token than the target",
            "Choose another foil",
        )


def one_id(model: LanguageModel, text: str | None, token_id: int | None, word: str) -> int | None:
    """The token that is given as text or as id; None if it is not given.

    Raises:
        TargetError: given twice, or not one unmistakable token of the model.
    """
    if text is not None and token_id is not None:
        raise TargetError(
            f"{word} {text!r} and {word} id {token_id}",
            "both were given",
            f"A {word} is given as text or as a token id",
            "Leave one of them out",
        )
    if token_id is not None:
        return check_token_id(model, token_id, word)
    return None if text is None else resolve_token(model, text, word)


def _check_mask(model: LanguageModel, text: str, token_ids: tuple[int, ...]) -> None:
    mask, masks = model.tokenizer.mask_token, token_ids.count(model.tokenizer.mask_token_id)
    if masks != 1:
        raise PromptError(
            f"prompt {_shortened(text)!r}",
            f"it has {masks or 'no'} mask{'s' if masks > 1 else ''}",
            f"{model.name} is a masked model: it predicts the one token behind {mask}",
            f"Write {mask} once, where the target stands",
        )


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _spelled(tokenizer: PreTrainedTokenizerBase, token_ids: list[int]) -> str:
    if not token_ids:
        return "no token"
    texts = ", ".join(repr(token_text(tokenizer, token_id)) for token_id in token_ids)
    return f"{len(token_ids)} tokens ({texts})"
