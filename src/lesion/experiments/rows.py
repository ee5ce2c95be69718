"""The table of a unit: one row a prediction × cell, column by column.

What only the cell says stands in every prediction's rows alike; what was measured is taken from the
prediction's outcome at the cell's place, and is null where the cell takes no neuron.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64, Int64

from lesion.columns import SWEEP_SCHEMA
from lesion.engines.engine import Outcome
from lesion.experiments.cells import Cell, draw_of
from lesion.experiments.plan import SweepPlan
from lesion.experiments.questions import Posed
from lesion.interventions.selection import KeyRanking
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import token_text
from lesion.prompts import Prompt

_OF_METRICS = ("logit", "log_prob", "prob", "target_rank", "kl", "entropy", "logit_diff")
_OF_EVIDENCE = ("removed_post", "out_delta_norm", "largest_change")
_WHOLE = ("target_rank", "changed")
_EFFECTS = ("logit", "log_prob", "logit_diff")


@dataclasses.dataclass(frozen=True, eq=False)
class Prediction:
    """One measured prediction: the prompt before it, the index of the lesioned token, its outcome.

    With `sum` the outcome is that of all the target's tokens; see `summed`.
    """

    posed: Posed
    prompt: Prompt
    position: int
    outcome: Outcome


@dataclasses.dataclass(frozen=True, eq=False)
class CellColumns:
    """What the cells of a plan say of every prediction's rows.

    `places` are those of the cells' lesions among the measured ones, −1 for a cell without neurons.
    """

    words: Mapping[str, Sequence[Any]]
    places: Int64[np.ndarray, " cell"]
    keys: Sequence[str]


def cell_columns(
    cells: Sequence[Cell], places: Sequence[int | None], plan: SweepPlan
) -> CellColumns:
    """The columns that the cells of a plan fill."""
    rankings = [cell.lesion.select.ranking for cell in cells]
    words: dict[str, Sequence[Any]] = {
        "layer": [cell.layer for cell in cells],
        "fraction": [cell.fraction for cell in cells],
        "neurons": [cell.neurons for cell in cells],
        "selection": [cell.lesion.select.word for cell in cells],
        "rank": [each.key if isinstance(each, KeyRanking) else None for each in rankings],
        "draw": [draw_of(cell.lesion.select) for cell in cells],
        "site": [plan.site] * len(cells),
        "rank_on": [plan.rank_on] * len(cells),
        "replacement": [plan.replace] * len(cells),
        "scope": [plan.scope] * len(cells),
    }
    found = np.array([-1 if place is None else place for place in places], dtype=np.int64)
    return CellColumns(words, found, [repr(cell.lesion) for cell in cells])


def unit_table(
    predictions: Sequence[Prediction],
    columns: CellColumns,
    engine: str,
    noise_floor: float | None,
    model: LanguageModel,
    model_key: str,
) -> pa.Table:
    """The rows of some predictions, in their order, each with all cells."""
    size, texts = (
        len(columns.places),
        functools.cache(functools.partial(token_text, model.tokenizer)),
    )
    measured = [_measured(each.outcome, columns.places) for each in predictions]
    found: dict[str, pa.Array] = {
        name: _numbers([each[name] for each in measured], whole=name in _WHOLE)
        for name in (measured[0] if measured else ())
        if name not in ("top_token_id", "finite")
    }
    taken = columns.places >= 0
    top_ids = [each["top_token_id"] for each in measured]
    repeated = {
        name: _repeated(words, len(predictions), name) for name, words in columns.words.items()
    }
    once = [_of_prediction(each, engine) for each in predictions]
    for name in once[0] if once else ():
        repeated[name] = _each([words[name] for words in once], size, name)
    found |= repeated
    found["top_token_id"] = _numbers(top_ids, whole=True)
    found["top_token"] = pa.array(
        [None if np.isnan(top) else texts(int(top)) for top in _joined(top_ids)], pa.string()
    )
    states = np.where(_joined([each["finite"] for each in measured]) > 0, "ok", "nonfinite")
    found["status"] = pa.array(
        np.where(np.tile(taken, len(predictions)), states, "empty").tolist(), pa.string()
    )
    found["hidden_norm"] = pa.array(
        [norms for each in predictions for norms in _hidden_norms(each.outcome, columns.places)],
        SWEEP_SCHEMA.field("hidden_norm").type,
    )
    found["row_key"] = pa.array(
        [key for each in predictions for key in _keys(each, columns.keys, model_key)], pa.string()
    )
    if noise_floor is not None:
        found["below_noise"] = _below(found["effect_log_prob"], noise_floor)
    rows = size * len(predictions)
    return pa.table(
        [
            found[field.name].cast(field.type)
            if field.name in found
            else pa.nulls(rows, field.type)
            for field in SWEEP_SCHEMA
        ],
        schema=SWEEP_SCHEMA,
    )


def summed(outcomes: Sequence[Outcome]) -> Outcome:
    """The tokens of one target together: their log-probabilities are summed.

    Each token is predicted from a lesioned last token after a clean beginning. Logit, rank, KL,
    entropy, top token and evidence are those of the first token.
    """
    first = outcomes[0]
    if len(outcomes) == 1:
        return first
    clean, lesioned = (
        sum(getattr(outcome, part).log_prob for outcome in outcomes)
        for part in ("clean", "lesioned")
    )
    direct = first.direct
    if direct is not None:
        log_prob = sum(each.direct.log_prob for each in outcomes if each.direct is not None)
        direct = dataclasses.replace(direct, log_prob=np.asarray(log_prob))
    return dataclasses.replace(
        first,
        clean=dataclasses.replace(first.clean, log_prob=clean, prob=np.exp(clean)),
        lesioned=dataclasses.replace(first.lesioned, log_prob=lesioned, prob=np.exp(lesioned)),
        direct=direct,
    )


def _measured(outcome: Outcome, places: Int64[np.ndarray, " cell"]) -> dict[str, np.ndarray]:
    """The numbers of one prediction, one a cell; NaN where nothing was measured."""
    clean, lesioned, evidence = outcome.clean, outcome.lesioned, outcome.evidence
    take = functools.partial(_taken, places=places)
    found = {name: take(getattr(lesioned, name)) for name in _OF_METRICS}
    found |= {name: take(getattr(evidence, name)) for name in _OF_EVIDENCE}
    for name in _EFFECTS:
        found[f"effect_{name}"] = take(getattr(lesioned, name) - getattr(clean, name)[0])
    if outcome.direct is not None:
        found["direct_logit"] = take(outcome.direct.logit)
        found["direct_log_prob"] = take(outcome.direct.log_prob)
    found["changed"] = np.nan_to_num(take(evidence.changed), nan=0.0)
    top = lesioned.top_token_id.astype(np.float64)
    found["top_token_id"] = take(np.where(top < 0, np.nan, top))
    found["finite"] = take((lesioned.finite & clean.finite[0]).astype(np.float64))
    return found


def _taken(values: np.ndarray, places: Int64[np.ndarray, " cell"]) -> Float64[np.ndarray, " cell"]:
    if len(values) == 0:
        return np.full(len(places), np.nan)
    return np.where(places < 0, np.nan, values[np.maximum(places, 0)].astype(np.float64))


def _of_prediction(prediction: Prediction, engine: str) -> dict[str, Any]:
    """What all rows of a prediction have alike."""
    posed, prompt, clean = prediction.posed, prediction.prompt, prediction.outcome.clean
    row = posed.question.row
    whole, known = posed.question.source == "sum", posed.question.source == "next"
    known = known or bool(posed.question.target_ids)
    rank = float(clean.target_rank[0])
    return {
        "prompt_id": row.prompt_id,
        "prompt": row.prompt,
        "target": row.target if whole else prompt.target if known else None,
        "target_id": prompt.target_id if known else None,
        "foil_id": prompt.foil_id,
        "clean_logit": float(clean.logit[0]),
        "clean_log_prob": float(clean.log_prob[0]),
        "clean_target_rank": None if np.isnan(rank) else int(rank),
        "engine": engine,
        "position": prediction.position,
        "target_source": prompt.target_source,
        "group": posed.group,
        "carried": row.carried,
    }


def _keys(prediction: Prediction, cells: Sequence[str], model_key: str) -> list[str]:
    """A hash a row of all that its numbers depend on, rounding apart."""
    prompt, question = prediction.prompt, prediction.posed.question
    words = (
        model_key, prompt.token_ids, prompt.target_id, question.target_ids, prompt.foil_id,
        prompt.target_source, prediction.position,
    )  # fmt: skip
    begun = hashlib.sha256(repr(words).encode())
    keys = []
    for cell in cells:
        whole = begun.copy()
        whole.update(cell.encode())
        keys.append(whole.hexdigest()[:32])
    return keys


def _hidden_norms(outcome: Outcome, places: Int64[np.ndarray, " cell"]) -> list[Any]:
    norms = outcome.hidden_norm
    if norms is None:
        return [None] * len(places)
    return [None if place < 0 else norms[place].tolist() for place in places]


def _joined(parts: Sequence[np.ndarray]) -> Float64[np.ndarray, " row"]:
    return np.concatenate([np.zeros(0), *parts])


def _numbers(parts: Sequence[np.ndarray], whole: bool) -> pa.Array:
    """NaN is what was not measured."""
    joined = _joined(parts)
    missing = np.isnan(joined)
    if whole:
        return pa.array(np.where(missing, 0, joined).astype(np.int64), mask=missing)
    return pa.array(joined, mask=missing)


def _repeated(words: Sequence[Any], times: int, name: str) -> pa.Array:
    return pa.array(list(words) * times, SWEEP_SCHEMA.field(name).type)


def _each(words: Sequence[Any], size: int, name: str) -> pa.Array:
    values = pa.array(words, SWEEP_SCHEMA.field(name).type, from_pandas=True)
    return values.take(pa.array(np.repeat(np.arange(len(words)), size)))


def _below(effects: pa.Array, noise_floor: float) -> pa.Array:
    numbers = effects.to_numpy(zero_copy_only=False)
    return pa.array(np.abs(numbers) < noise_floor, mask=np.isnan(numbers))
