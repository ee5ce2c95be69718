"""What is asked of a row of a prompt set: the predictions after its last token, or after each.

1. A row becomes a `Question` once the tokenizer has seen it: nothing is measured yet, and what
   cannot be asked is refused (`questions_of`).
2. A question becomes `Posed`: the prompts whose next token is measured, with the clean run's likely
   tokens, the likeliest of which is the target where none was given (`pose`).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from lesion.axes import Position
from lesion.engines.positions import token_at
from lesion.errors import InvalidChoice, LesionError, PromptError
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import (
    LIKELY_TOKENS,
    LikelyToken,
    TargetMode,
    TruncateWord,
    check_foil,
    fitted,
    likely_tokens_of_each,
    one_id,
    resolve_tokens,
    token_text,
    tokenized,
    top_id,
)
from lesion.prompt_sets.rows import BadRow, PromptRow
from lesion.prompts import Prompt, TargetSource


@dataclasses.dataclass(frozen=True)
class Asking:
    """How rows are turned into questions: frozen words of a plan."""

    position: Position
    target_mode: TargetMode = "one"
    truncate: TruncateWord = "no"


@dataclasses.dataclass(frozen=True)
class Question:
    """A row whose tokens are known; `target_ids` is empty where its target is still to be found.

    `truncated` counts the tokens that were cut from the beginning of the prompt.
    """

    row: PromptRow
    token_ids: tuple[int, ...]
    truncated: int
    target_ids: tuple[int, ...]
    foil_id: int | None
    source: TargetSource


@dataclasses.dataclass(frozen=True)
class Posed:
    """The predictions that are measured of one question.

    Attributes:
        whole: the text and, unless each token has its own, its target.
        each: one prompt a prediction: the text, its beginnings, or (`sum`) the text and, behind it,
            the target's tokens but the last.
        likely: the clean run's likely tokens after the whole text; empty with several texts.
        asked_foil_id: the foil that was asked for, also where it was left out.
    """

    question: Question
    whole: Prompt
    each: tuple[Prompt, ...]
    likely: tuple[LikelyToken, ...]
    asked_foil_id: int | None = None

    @property
    def group(self) -> str:
        """The group of its row, or one of its own."""
        row = self.question.row
        return row.group if row.group is not None else f"prompt {row.prompt_id}"


def question_of(
    model: LanguageModel, row: PromptRow, asking: Asking, token_ids: tuple[int, ...]
) -> Question:
    """A row as a question; `token_ids` are those of its text as `tokenized` gives them.

    Raises:
        PromptError: empty, longer than the context, or too short to have a token that follows.
        TargetError: a target or foil that is not one unmistakable token.
        InvalidChoice: a target or foil beside position `every`, where each token has its own.
    """
    if asking.position == "every":
        return _every_token(model, row, asking, token_ids)
    target_ids: tuple[int, ...] = ()
    source: TargetSource = "top"
    if row.target is not None and row.target_id is None:
        target_ids = resolve_tokens(model, row.target, "target", asking.target_mode)
        source = "given"
    else:
        target_id = one_id(model, row.target, row.target_id, "target")
        if target_id is not None:
            target_ids, source = (target_id,), "given"
    if len(target_ids) > 1:
        source = "sum" if asking.target_mode == "sum" else "first"
        target_ids = target_ids if source == "sum" else target_ids[:1]
    foil_id = one_id(model, row.foil, row.foil_id, "foil")
    if target_ids:
        check_foil(model, target_ids[0], foil_id)
    more = max(0, len(target_ids) - 1)
    found, truncated = fitted(model, row.prompt, token_ids, asking.truncate, more)
    question = Question(row, found, truncated, target_ids, foil_id, source)
    _check_position(model, question, asking.position)
    return question


def _check_position(model: LanguageModel, question: Question, position: Position) -> None:
    """Refuse a token that a prompt does not have.

    Raises:
        PromptError: there is no such token.
        EngineRefused: the position does not suit the model.
        InvalidChoice: another position than the last with a target of several tokens.
    """
    if question.source == "sum" and position not in ("last", -1):
        raise InvalidChoice(
            f"target_mode 'sum' with position {position!r}",
            f"the target {question.row.target!r} has {len(question.target_ids)} tokens",
            "Each token of a target is predicted from the last token before it",
            "Pass position='last', or target_mode='first'",
        )
    if position != "last" or model.family.masked:
        token_at(model, _prompt(model, question, question.token_ids, 0), position)


def questions_of(
    model: LanguageModel, rows: Sequence[PromptRow | BadRow], asking: Asking
) -> Iterator[Question | BadRow]:
    """Rows as questions, in their order; one that cannot be asked as a bad row that says why."""
    texts = [row.prompt if isinstance(row, PromptRow) else "" for row in rows]
    for row, token_ids in zip(rows, tokenized(model, texts), strict=True):
        if isinstance(row, BadRow):
            yield row
            continue
        try:
            yield question_of(model, row, asking, token_ids)
        except LesionError as error:
            yield BadRow(row.prompt_id, row.place, f"{error.asked}: {error.found}. {error.rule}")


def pose(model: LanguageModel, questions: Iterable[Question]) -> list[Posed]:
    """What is measured of each question; those without a target take the model's own top token.

    A foil that turns out to be that token is left out. Where the clean run has no finite logit
    there is no such token: any other stands in for it, since none of the numbers will be one.
    """
    asked = list(questions)
    single = [question for question in asked if question.source != "next"]
    likely = likely_tokens_of_each(model, [each.token_ids for each in single], LIKELY_TOKENS)
    of = dict(zip(map(id, single), likely, strict=True))
    return [
        _posed_texts(model, each) if each.source == "next" else _posed(model, each, of[id(each)])
        for each in asked
    ]


def check_posed(model: LanguageModel, posed: Posed) -> None:
    """Refuse what a single question cannot be about, and a set of prompts keeps and counts.

    Raises:
        TargetError: the clean run has no finite logit, or its top token is the foil.
    """
    if posed.question.source == "top":
        check_foil(model, top_id(posed.likely), posed.asked_foil_id)


def _posed(model: LanguageModel, question: Question, likely: tuple[LikelyToken, ...]) -> Posed:
    target_ids = question.target_ids or tuple(token.token_id for token in likely[:1]) or (0,)
    asked_foil_id = question.foil_id
    if question.foil_id == target_ids[0]:
        question = dataclasses.replace(question, foil_id=None)
    whole = _prompt(model, question, question.token_ids, target_ids[0])
    each = [whole]
    for count in range(1, len(target_ids)):
        after = question.token_ids + target_ids[:count]
        each.append(_prompt(model, question, after, target_ids[count]))
    found = target_ids if question.target_ids or likely else ()
    question = dataclasses.replace(question, target_ids=found)
    return Posed(question, whole, tuple(each), likely, asked_foil_id)


def _posed_texts(model: LanguageModel, question: Question) -> Posed:
    token_ids = question.token_ids
    each = tuple(
        _prompt(model, question, token_ids[:end], token_ids[end])
        for end in range(1, len(token_ids))
    )
    whole = dataclasses.replace(each[-1], token_ids=token_ids)
    return Posed(question, whole, each, ())


def _prompt(
    model: LanguageModel, question: Question, token_ids: tuple[int, ...], target_id: int
) -> Prompt:
    foil_id = question.foil_id if token_ids == question.token_ids else None
    return Prompt(
        prompt_id=question.row.prompt_id,
        text=question.row.prompt,
        token_ids=token_ids,
        target=token_text(model.tokenizer, target_id),
        target_id=target_id,
        target_source=question.source,
        foil=None if foil_id is None else token_text(model.tokenizer, foil_id),
        foil_id=foil_id,
    )


def _every_token(
    model: LanguageModel, row: PromptRow, asking: Asking, token_ids: tuple[int, ...]
) -> Question:
    given = {"target": row.target, "target_id": row.target_id} | {
        "foil": row.foil, "foil_id": row.foil_id,
    }  # fmt: skip
    named = [word for word, value in given.items() if value is not None]
    if named:
        raise InvalidChoice(
            f"{named[0]} {given[named[0]]!r} with position 'every'",
            "every token of the text has its own target: the token that follows",
            "A target and a foil belong to one prediction",
            f"Leave {named[0]} out, or pass position='last'",
        )
    found, truncated = fitted(model, row.prompt, token_ids, asking.truncate)
    if len(found) < 2:
        rule = "At position every each token but the last is measured on the one that follows"
        raise PromptError(f"prompt {row.prompt!r}", "it has one token", rule, "Pass a longer text")
    return Question(row, found, truncated, (), None, "next")
