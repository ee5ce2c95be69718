"""What is asked of a prompt: the prediction after its last token, or after each of its tokens."""

import dataclasses

from lesion.axes import Position
from lesion.errors import InvalidChoice, PromptError
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import LikelyToken, ask, token_text, tokenize_prompt
from lesion.prompts import Prompt


@dataclasses.dataclass(frozen=True)
class Questions:
    """The predictions that are measured of one text.

    Attributes:
        text: the whole of it, as a prompt; without a target where each token has its own.
        each: one prompt a prediction: the text, or its beginnings.
        likely: the clean run's likely tokens after the whole text; empty with several predictions.
    """

    text: Prompt
    each: tuple[Prompt, ...]
    likely: tuple[LikelyToken, ...]


def questions_of(
    model: LanguageModel,
    text: str,
    target: str | None,
    target_id: int | None,
    foil: str | None,
    foil_id: int | None,
    position: Position,
) -> Questions:
    """The questions of a text at a position.

    Raises:
        PromptError: empty, longer than the context, or too short to have a token that follows.
        TargetError: a target or foil that is not one unmistakable token.
        InvalidChoice: a target or foil beside position `every`, where each token has its own.
    """
    if position != "every":
        prompt, likely = ask(model, text, target, target_id, foil, foil_id)
        return Questions(prompt, (prompt,), likely)
    given = {"target": target, "target_id": target_id, "foil": foil, "foil_id": foil_id}
    named = [word for word, value in given.items() if value is not None]
    if named:
        raise InvalidChoice(
            f"{named[0]} {given[named[0]]!r} with position 'every'",
            "every token of the text has its own target: the token that follows",
            "A target and a foil belong to one prediction",
            f"Leave {named[0]} out, or pass position='last'",
        )
    token_ids = tokenize_prompt(model, text)
    if len(token_ids) < 2:
        rule = "At position every each token but the last is measured on the one that follows"
        raise PromptError(f"prompt {text!r}", "it has one token", rule, "Pass a longer text")
    each = tuple(
        Prompt(
            prompt_id=0,
            text=text,
            token_ids=token_ids[:end],
            target=token_text(model.tokenizer, token_ids[end]),
            target_id=token_ids[end],
            target_source="next",
        )
        for end in range(1, len(token_ids))
    )
    return Questions(dataclasses.replace(each[-1], token_ids=token_ids), each, ())
