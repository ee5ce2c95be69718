"""What a sweep would take, before it is begun: operations, time, memory.

Operations are the fewest that the engine can do with, counted from shapes:

    packed      prefix (T − 1) · Σ_ℓ 2 · parameters(ℓ) + rows(ℓ) · 2 · parameters(ℓ) + attention +
                head per row; rows(ℓ) = 1 clean + lesions that begin in blocks ≤ ℓ, and a row more a
                lesion in the head for its direct effect
    reference   a clean forward and one a lesion

Time is these operations at the speed of some that are done now, of the first unit, whose results
are thrown away.
"""

import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence

from lesion.engines.batches import default_rows
from lesion.engines.choosing import EngineWord, choose_engine
from lesion.engines.packed import PackedEngine
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

_SAMPLE = 64
"""Most predictions that are measured for their time."""
_ROW_BYTES = 120
"""Of a row in a shard, about; measured on the shipped model."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a sweep would take; `memory_bytes` is that of the model and of the largest pass."""

    prompts: int
    bad_rows: int
    predictions: int
    units: int
    lesions: int
    rows: int
    engine: str
    reason: str
    operations: int
    seconds: float
    memory_bytes: int
    disk_bytes: int


def operations_of(
    model: LanguageModel, engine: str, tokens: int, lesions: Sequence[Lesion], direct: bool
) -> int:
    """The fewest operations of one prediction after so many tokens."""
    matrices = [
        sum(weight.numel() for weight in block.module.parameters() if weight.dim() == 2)
        for block in model.blocks
    ]
    width, head = model.blocks[0].width, 2 * model.blocks[0].width * int(model.config.vocab_size)
    if engine == "reference":
        keys = tokens * (tokens + 1) // 2
        forward = sum(2 * tokens * each + 4 * width * keys for each in matrices) + tokens * head
        return (1 + len(lesions)) * forward
    begun = [0] * len(matrices)
    for lesion in lesions:
        begun[lesion.layers[0]] += 1
    rows = [1 + count for count in itertools.accumulate(begun)]
    before = tokens - 1
    keys = len(matrices) * before * (before + 1) // 2 + sum(rows) * tokens
    alone = sum(len(lesion.layers) == 1 for lesion in lesions) if direct else 0
    return (
        2 * before * sum(matrices)
        + 2 * sum(map(int.__mul__, rows, matrices))
        + 4 * width * keys
        + (rows[-1] + alone) * head
    )


def operations_of_all(
    model: LanguageModel,
    engine: str,
    lengths: Mapping[int, int],
    lesions: Sequence[Lesion],
    direct: bool,
) -> int:
    """The same for predictions by how many tokens they see."""
    return sum(
        count * operations_of(model, engine, tokens, lesions, direct)
        for tokens, count in lengths.items()
    )


def measured_speed(
    model: LanguageModel,
    word: EngineWord,
    prompts: Sequence[Prompt],
    lesions: Sequence[Lesion],
    direct: bool,
    memory_bytes: int | None,
) -> tuple[str, str, float]:
    """The engine, why that one, and its operations a second on some lesions of these prompts."""
    engine, reason = choose_engine(word, model, lesions, prompts, memory_bytes)
    some, asked = prompts[:_SAMPLE], lesions
    if engine.name == "reference":
        some, asked = prompts[:1], lesions[:: max(1, len(lesions) // 4)][:4]
    engine.run_many(some[:1], asked[:1], direct=direct)  # what only the first call pays
    begun = time.perf_counter()
    engine.run_many(some, asked, direct=direct)
    seconds = time.perf_counter() - begun
    operations = sum(
        operations_of(model, engine.name, len(each.token_ids), asked, direct) for each in some
    )
    return engine.name, reason, operations / seconds


def memory_of(
    model: LanguageModel, engine: str, tokens: int, rows: int, memory_bytes: int | None
) -> int:
    """Bytes of the weights and of the largest pass."""
    weights = sum(each.numel() * each.element_size() for each in model.hf_model.parameters())
    if engine == PackedEngine.name and memory_bytes is not None:
        most = default_rows(model, tokens, memory_bytes)
        return weights + int(memory_bytes * min(1.0, rows / most))
    logits = 4 * tokens * int(model.config.vocab_size)
    return weights + logits + 4 * tokens * 16 * model.blocks[0].width


def disk_of(rows: int) -> int:
    """Bytes of the shards, about."""
    return rows * _ROW_BYTES
