"""The rows of a sweep's table: one a question × cell, with what was measured of it."""

import math
from typing import Any

import numpy as np

from lesion.engines.engine import Outcome
from lesion.experiments.cells import Cell, draw_of
from lesion.experiments.plan import SweepPlan
from lesion.interventions.selection import KeyRanking
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import token_text
from lesion.prompts import Prompt


def table_row(
    cell: Cell,
    place: int | None,
    outcome: Outcome,
    prompt: Prompt,
    position: int,
    plan: SweepPlan,
    engine: str,
    noise_floor: float | None,
    model: LanguageModel,
) -> dict[str, Any]:
    """One row of the table; what was not measured is None."""
    clean, ranking = outcome.clean, cell.lesion.select.ranking
    row: dict[str, Any] = {
        "prompt_id": prompt.prompt_id,
        "prompt": prompt.text,
        "target": prompt.target,
        "target_id": prompt.target_id,
        "foil_id": prompt.foil_id,
        "layer": cell.layer,
        "fraction": cell.fraction,
        "neurons": cell.neurons,
        "changed": 0,
        "clean_logit": _number(clean.logit[0]),
        "clean_log_prob": _number(clean.log_prob[0]),
        "site": plan.site,
        "selection": cell.lesion.select.word,
        "rank": ranking.key if isinstance(ranking, KeyRanking) else None,
        "rank_on": plan.rank_on,
        "replacement": plan.replace,
        "scope": plan.scope,
        "engine": engine,
        "status": "empty",
        "draw": draw_of(cell.lesion.select),
        "position": position,
    }
    if place is not None:
        row |= _measured(place, outcome, model)
    effect = row.get("effect_log_prob")
    if effect is not None and noise_floor is not None:
        row["below_noise"] = abs(effect) < noise_floor
    return row


def _measured(place: int, outcome: Outcome, model: LanguageModel) -> dict[str, Any]:
    """The measured columns of one lesion."""
    clean, lesioned, evidence = outcome.clean, outcome.lesioned, outcome.evidence
    rank = _number(lesioned.target_rank[place])
    top_id = int(lesioned.top_token_id[place])
    finite = bool(lesioned.finite[place] and clean.finite[0])
    return {
        "changed": int(evidence.changed[place]),
        "logit": _number(lesioned.logit[place]),
        "log_prob": _number(lesioned.log_prob[place]),
        "prob": _number(lesioned.prob[place]),
        "target_rank": None if rank is None else int(rank),
        "kl": _number(lesioned.kl[place]),
        "entropy": _number(lesioned.entropy[place]),
        "top_token": token_text(model.tokenizer, top_id) if top_id >= 0 else None,
        "top_token_id": top_id if top_id >= 0 else None,
        "effect_logit": _number(lesioned.logit[place] - clean.logit[0]),
        "effect_log_prob": _number(lesioned.log_prob[place] - clean.log_prob[0]),
        "removed_post": _number(evidence.removed_post[place]),
        "out_delta_norm": _number(evidence.out_delta_norm[place]),
        "logit_diff": _number(lesioned.logit_diff[place]),
        "effect_logit_diff": _number(lesioned.logit_diff[place] - clean.logit_diff[0]),
        "largest_change": _number(evidence.largest_change[place]),
        **_direct(place, outcome),
        "hidden_norm": None if outcome.hidden_norm is None else outcome.hidden_norm[place].tolist(),
        "status": "ok" if finite else "nonfinite",
    }


def _direct(place: int, outcome: Outcome) -> dict[str, float | None]:
    if outcome.direct is None:
        return {}
    return {
        "direct_logit": _number(outcome.direct.logit[place]),
        "direct_log_prob": _number(outcome.direct.log_prob[place]),
    }


def _number(value: np.float64 | float) -> float | None:
    return None if math.isnan(value) else float(value)
