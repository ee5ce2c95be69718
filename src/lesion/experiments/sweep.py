"""The sweep: one prompt, many shares of neurons, block by block or all blocks at once.

1. The words become a plan (`experiments/plan.py`), which is checked before the model runs.
2. The plan gives the cells (`experiments/cells.py`), one a row; the engine runs each distinct
   lesion once.
3. Every cell gets its row: metrics after the lesion, effects against the clean run, evidence.

Source: the report's protocol, successive median-replacement of MLP neurons
(`engines/reference.py`).
"""

import datetime
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from lesion.axes import Position, RankOn, Scope, Site
from lesion.columns import SWEEP_SCHEMA
from lesion.engines.choosing import ENGINE_WORDS, EngineWord, choose_engine
from lesion.engines.engine import Engine, Outcome, Progress
from lesion.experiments.cells import Cell, cells_of, draw_of, measurement_key
from lesion.experiments.plan import Layers, SweepPlan, plan_sweep
from lesion.experiments.records import model_record, plan_record, prompt_record, versions
from lesion.interventions.fractions import Fractions
from lesion.interventions.lesion import Lesion, check_word
from lesion.interventions.replacement import Replacement
from lesion.interventions.select import Select
from lesion.interventions.selection import KeyRanking, RankKey
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import ask, token_text
from lesion.prompts import Prompt
from lesion.runs.manifest import EngineRecord, Manifest
from lesion.runs.run import Run


def sweep(
    model: LanguageModel,
    prompt: str,
    target: str | None = None,
    *,
    target_id: int | None = None,
    foil: str | None = None,
    foil_id: int | None = None,
    fractions: Fractions | None = None,
    site: Site = "pre",
    select: Select = "top",
    rank: RankKey | None = None,
    replace: str | Replacement = "median",
    scope: Scope = "each",
    rank_on: RankOn = "lesioned",
    layers: Layers | None = None,
    position: Position = "last",
    engine: EngineWord = "auto",
    seed: int = 0,
    hidden_norm: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Lesion growing shares of neurons and measure what the target token loses.

    Args:
        model: from `lesion.load`.
        prompt: the text before the predicted token.
        target: the token whose prediction is measured, one token with its leading space; omitted,
            the model's own top token. `target_id` names it by its id instead.
        foil: a token to compare the target with (`logit_diff`), or its `foil_id`.
        fractions: shares in [0, 1], presets (`coarse`, `fine`, `book`), `start:stop:step`, or a
        list
            of them; omitted, coarse and fine.
        site: `pre`, `post` or `out`; see `lesion.axes`.
        select: `top`, `bottom`, `random:DRAWS`, `band:LOW-HIGH`, `set:FILE`, a selection such as
            `lesion.top(.01)`, or several: the first is the question, the others are its controls.
        rank: `value`, `abs` or `write`; omitted, `value`, and `abs` at site `out`.
        replace: `median`, `median_mid`, `mean`, `zero`, `min` or `constant:NUMBER`.
        scope: `each` block alone, `all` at once, or `cumulative` (blocks up to and with the layer).
        rank_on: rank on what the `lesioned` row carries in a block, or on the `clean` run.
        layers: the blocks to lesion; omitted, all. With scope `cumulative` they are taken in order.
        position: `last`, the last token of the prompt.
        engine: `auto` or `reference`.
        seed: of random selections.
        hidden_norm: also measure how far the hidden state moves after every block.
        progress: called with the numbers of lesions done and asked for; omitted, a progress bar on
        a terminal.

    Raises:
        LesionError: a word that means nothing (`InvalidChoice`), a prompt, target or layer that the
            model cannot take (`PromptError`, `TargetError`, `UnknownLayer`), all before the model
            runs; `LesionNotApplied` if a lesion left no trace in it.
    """
    check_word("engine", engine, ENGINE_WORDS)
    plan = plan_sweep(
        fractions=fractions, site=site, select=select, rank=rank, replace=replace, scope=scope,
        rank_on=rank_on, layers=layers, position=position, seed=seed,
    )  # fmt: skip
    cells = cells_of(plan, model)
    question, likely = ask(model, prompt, target, target_id, foil, foil_id)
    chosen_engine, reason = choose_engine(engine, model)
    begun = time.perf_counter()
    outcome, places = _measure(chosen_engine, question, cells, model, hidden_norm, progress)
    manifest = Manifest(
        experiment="sweep",
        created=datetime.datetime.now(datetime.UTC),
        seconds=time.perf_counter() - begun,
        plan=plan_record(plan, rank=rank, seed=seed, hidden_norm=hidden_norm, engine=engine),
        model=model_record(model),
        engine=EngineRecord(name=chosen_engine.name, reason=reason),
        prompts=(prompt_record(question, outcome, likely),),
        versions=versions(),
    )
    rows = [
        _row(cell, place, outcome, question, plan, chosen_engine.name, model)
        for cell, place in zip(cells, places, strict=True)
    ]
    return Run(manifest, pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA))


def _measure(
    engine: Engine,
    prompt: Prompt,
    cells: Sequence[Cell],
    model: LanguageModel,
    hidden_norm: bool,
    progress: Progress | None,
) -> tuple[Outcome, list[int | None]]:
    """Run each distinct lesion once; per cell its place in the outcome, None without a neuron."""
    distinct: dict[Any, int] = {}
    lesions: list[Lesion] = []
    places: list[int | None] = []
    for cell in cells:
        if cell.neurons == 0:
            places.append(None)
            continue
        key = measurement_key(cell.lesion, model)
        if key not in distinct:
            distinct[key] = len(lesions)
            lesions.append(cell.lesion)
        places.append(distinct[key])
    if progress is not None:
        return engine.run(prompt, lesions, hidden_norm=hidden_norm, progress=progress), places
    # disable=None: nothing is drawn where the output is not a terminal.
    with tqdm(total=len(lesions), unit="lesion", leave=False, disable=None) as bar:

        def moved(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        return engine.run(prompt, lesions, hidden_norm=hidden_norm, progress=moved), places


def _row(
    cell: Cell,
    place: int | None,
    outcome: Outcome,
    prompt: Prompt,
    plan: SweepPlan,
    engine: str,
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
    }
    if place is not None:
        row |= _measured(place, outcome, model)
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
        "hidden_norm": None if outcome.hidden_norm is None else outcome.hidden_norm[place].tolist(),
        "status": "ok" if finite else "nonfinite",
    }


def _number(value: np.float64 | float) -> float | None:
    return None if math.isnan(value) else float(value)
