"""One text as what is measured of it, without a run around it."""

from lesion.experiments.questions import Asking, Posed, pose, question_of
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import tokenized
from lesion.prompt_sets.rows import PromptRow


def posed(model: LanguageModel, text: str, position: str = "last") -> Posed:
    """A text without a target, at a position."""
    row, asking = PromptRow(0, "prompt", text), Asking(position)
    question = question_of(model, row, asking, tokenized(model, [text])[0])
    return pose(model, [question])[0]
