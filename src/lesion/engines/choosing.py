"""Which engine runs a plan, and why."""

from typing import Literal, get_args

from lesion.engines.engine import Engine
from lesion.engines.reference import ReferenceEngine
from lesion.models.language_model import LanguageModel

EngineWord = Literal["auto", "reference"]
ENGINE_WORDS: tuple[EngineWord, ...] = get_args(EngineWord)


def choose_engine(word: EngineWord, model: LanguageModel) -> tuple[Engine, str]:
    """The engine that a word means for a model, and the reason."""
    if word == "reference":
        return ReferenceEngine(model), "asked for"
    return ReferenceEngine(model), "auto: the reference engine takes every model and lesion"
