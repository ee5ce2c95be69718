"""Which engine runs a plan, and why."""

from collections.abc import Sequence
from typing import Literal, get_args

from lesion.engines.engine import Engine
from lesion.engines.packed import PackedEngine
from lesion.engines.proved import unproved_lesion, unproved_model
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

EngineWord = Literal["auto", "packed", "reference"]
ENGINE_WORDS: tuple[EngineWord, ...] = get_args(EngineWord)


def choose_engine(
    word: EngineWord,
    model: LanguageModel,
    lesions: Sequence[Lesion] = (),
    prompts: Sequence[Prompt] = (),
    memory_bytes: int | None = None,
) -> tuple[Engine, str]:
    """The engine that a word means for some lesions of a model, and the reason.

    `memory_bytes` is what the rows of one pass of the packed engine may take.

    Raises:
        EngineRefused: the packed engine was asked for and has not been proved for the model.
    """
    if word == "reference":
        return ReferenceEngine(model), "asked for"
    if word == "packed":
        return PackedEngine(model, memory_bytes=memory_bytes), "asked for"
    found = unproved_model(model)
    for lesion in {lesion.position: lesion for lesion in lesions}.values():
        for prompt in prompts:
            found = found or unproved_lesion(lesion, prompt)
    if found is not None:
        return ReferenceEngine(model), f"auto: {found}"
    found = f"auto: the packed engine is proved for {model.family.name}"
    return PackedEngine(model, memory_bytes=memory_bytes), found
