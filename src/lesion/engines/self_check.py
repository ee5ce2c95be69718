"""Whether the packed engine and the reference engine agree, and how fine a number is at all.

The self-check measures three lesions of a prompt again, by the reference engine, together in one
batch: at the first use of a model with a kind of lesion (site, scope, position, replacement), and
at every hundredth prompt after. A set of neurons that differs because two keys nearly tie is no
failure; it is counted.

In bfloat16 and float16 the same effect differs with the order in which sums are taken. Its size is
measured as the noise floor: the largest difference of the three lesions' effects between the
engines and between one reference lesion at a time and all together, and at least the distance
between two neighbouring numbers at the size of the logits.
"""

import dataclasses
import time
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import torch
from jaxtyping import Float64

from lesion.engines.engine import Outcome
from lesion.engines.reference import ReferenceEngine
from lesion.errors import SelfCheckFailed
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

EVERY = 100
CHECKED = 3
_TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4}


@dataclasses.dataclass(frozen=True)
class SelfCheck:
    """One comparison of packed and reference engine; `difference` is the largest |Δ log_prob|.

    `near_ties` counts the lesions whose neurons differed because two keys nearly tie; these are not
    compared.
    """

    prompt_id: int
    lesions: int
    difference: float
    tolerance: float
    near_ties: int
    seconds: float


def self_check(
    model: LanguageModel, prompt: Prompt, lesions: Sequence[Lesion], outcome: Outcome
) -> SelfCheck | None:
    """Compare what the packed engine measured with the reference engine, where that is due.

    Raises:
        SelfCheckFailed: they differ by more than the tolerance: 1e-4 nats in float32, 1e-6 in
            float64, ten times the distance of neighbouring logits in half precision; or ten times
            what the reference engine differs from itself, if that is more.
    """
    kinds = _kinds(model, lesions)
    with model.lock:
        due = [place for kind in kinds if model.uses[kind] % EVERY == 0 for place in kinds[kind]]
    if not due:
        _count(model, kinds)
        return None
    places = _spread_out(sorted(due))
    begun = time.perf_counter()
    asked = [lesions[place] for place in places]
    reference = ReferenceEngine(model, batch=CHECKED).run(prompt, asked)
    mine = outcome.lesioned.log_prob[places]
    distances = _distance(mine, reference.lesioned.log_prob)
    other_set = outcome.evidence.signature[places] != reference.evidence.signature
    near_tie = other_set & (outcome.evidence.near_tie[places] | reference.evidence.near_tie)
    # In half precision most edges nearly tie, and the tolerance allows for it.
    left_out = near_tie if model.hf_model.dtype in _TOLERANCE else np.zeros_like(near_tie)
    difference = float(distances[~left_out].max(initial=0.0))
    tolerance = _TOLERANCE.get(model.hf_model.dtype, 10 * _step(model, outcome))
    if difference > tolerance:
        spread = 10 * _spread(model, prompt, asked, reference)
        tolerance = max(tolerance, spread)
    if difference > tolerance or (other_set & ~near_tie).any():
        worst = places[int(np.argmax(np.where(left_out, -1.0, distances)))]
        raise SelfCheckFailed(
            f"self-check of {lesions[worst]}",
            f"the packed engine differs from the reference engine by {difference:.2g} nats"
            + (", and takes other neurons" if (other_set & ~near_tie).any() else ""),
            f"They agree to {tolerance:.2g} nats",
            'Pass engine="reference", and report the model\'s name',
        )
    _count(model, kinds)
    seconds = time.perf_counter() - begun
    return SelfCheck(
        prompt.prompt_id, len(asked), difference, tolerance, int(near_tie.sum()), seconds
    )


def noise_floor(
    model: LanguageModel, prompt: Prompt, lesions: Sequence[Lesion], outcome: Outcome
) -> float | None:
    """The size in nats below which an effect on log_prob is rounding; None where it is negligible.

    Measured for bfloat16 and float16 only.
    """
    dtype = model.hf_model.dtype
    if dtype not in (torch.bfloat16, torch.float16) or not lesions:
        return None
    places = _spread_out(range(len(lesions)))
    asked = [lesions[place] for place in places]
    together = ReferenceEngine(model, batch=CHECKED).run(prompt, asked)
    effects = [
        each.lesioned.log_prob[rows] - each.clean.log_prob
        for each, rows in ((outcome, places), (together, list(range(len(places)))))
    ]
    between = float(_distance(*effects).max(initial=0.0))
    return max(between, _spread(model, prompt, asked, together), _step(model, outcome))


def _kinds(model: LanguageModel, lesions: Sequence[Lesion]) -> dict[Hashable, list[int]]:
    """Places of lesions by kind: site, scope, position, replacement."""
    kinds: dict[Hashable, list[int]] = {}
    for place, lesion in enumerate(lesions):
        blocks = len(lesion.layers)
        scope = "each" if blocks == 1 else "all" if blocks == len(model.blocks) else "cumulative"
        own = (lesion.site, scope, str(lesion.position), lesion.replacement.kind)
        kinds.setdefault(own, []).append(place)
    return kinds


def _count(model: LanguageModel, kinds: Iterable[Hashable]) -> None:
    """A prompt was measured with lesions of these kinds, and what was due agreed."""
    with model.lock:
        model.uses.update(list(kinds))


def _step(model: LanguageModel, outcome: Outcome) -> float:
    """The distance of neighbouring numbers at the size of the clean logits.

    The logarithm of their exponentials' sum stands for their size: the target's own may be near 0.
    """
    logit, log_prob = float(outcome.clean.logit[0]), float(outcome.clean.log_prob[0])
    return torch.finfo(model.hf_model.dtype).eps * max(abs(logit), abs(logit - log_prob), 1.0)


def _spread_out(places: Sequence[int]) -> list[int]:
    """The first, the middle and the last."""
    if len(places) <= CHECKED:
        return list(places)
    return [places[0], places[len(places) // 2], places[-1]]


def _spread(
    model: LanguageModel, prompt: Prompt, lesions: Sequence[Lesion], together: Outcome
) -> float:
    """How far the reference engine's effects one at a time are from those of one batch."""
    alone = ReferenceEngine(model, batch=1).run(prompt, lesions)
    return float(_distance(alone.lesioned.log_prob, together.lesioned.log_prob).max(initial=0.0))


def _distance(
    one: Float64[np.ndarray, " row"], other: Float64[np.ndarray, " row"]
) -> Float64[np.ndarray, " row"]:
    """|one − other|; 0 where neither is a number, infinite where only one is."""
    missing = np.isnan(one) != np.isnan(other)
    return np.where(missing, np.inf, np.nan_to_num(np.abs(one - other), nan=0.0))
