"""Which token of a prompt a lesion takes, and after which the prediction is measured."""

from lesion.axes import Position
from lesion.errors import EngineRefused, PromptError
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import predicted_position
from lesion.prompts import Prompt


def measured_position(model: LanguageModel) -> Position:
    """The position whose logits are the prediction."""
    return "mask" if model.family.masked else "last"


def token_at(model: LanguageModel, prompt: Prompt, position: Position) -> int:
    """The index, from 0, of the token that a position means in a prompt.

    Raises:
        PromptError: the prompt has no such token.
        EngineRefused: the position does not suit the model.
    """
    size = len(prompt.token_ids)
    if position == measured_position(model):
        return predicted_position(model, prompt.token_ids)
    if isinstance(position, int):
        if not -size <= position < size:
            raise PromptError(
                f"position {position}",
                f"the prompt {prompt.text!r} has {size} tokens",
                f"Positions are counted from 0 to {size - 1}, or from the end: -1 is the last",
                "Pass one in that range",
            )
        return position % size
    raise unsuitable(model, position)


def unsuitable(model: LanguageModel, position: Position) -> EngineRefused:
    """The refusal of a position that a model does not have."""
    found = f"{model.name} predicts the next token, not a masked one"
    if model.family.masked:
        found = f"{model.name} is a masked model"
    elif position == "every":
        found = "it is one experiment a token of the text, not one lesion"
    return EngineRefused(
        f"position {position!r}",
        found,
        "A lesion takes the last token of a causal model's prompt, the mask of a masked model's, "
        "or the token of an index",
        f'Pass position="{measured_position(model)}", or the index of a token',
    )
