"""The sweep: one prompt, many shares of neurons, block by block or all blocks at once.

1. The words become a plan (`experiments/plan.py`), which is checked before the model runs.
2. The plan gives the cells (`experiments/cells.py`), one a row; the engine runs each distinct
   lesion once.
3. Every cell gets its row: metrics after the lesion, effects against the clean run, evidence.

Source: the report's protocol, successive median-replacement of MLP neurons
(`engines/reference.py`).
"""

import datetime
import time
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from tqdm.auto import tqdm

from lesion.axes import Position, RankOn, Scope, Site
from lesion.columns import SWEEP_SCHEMA
from lesion.engines.choosing import ENGINE_WORDS, EngineWord, choose_engine
from lesion.engines.engine import Engine, Outcome, Progress, check_unused
from lesion.engines.positions import token_at, unsuitable
from lesion.experiments.cells import Cell, cells_of, measurement_key
from lesion.experiments.plan import Layers, plan_sweep
from lesion.experiments.questions import questions_of
from lesion.experiments.records import (
    engine_record,
    model_record,
    plan_record,
    prompt_record,
    versions,
)
from lesion.experiments.rows import table_row
from lesion.interventions.fractions import Fractions
from lesion.interventions.lesion import Lesion, check_word
from lesion.interventions.replacement import Replacement
from lesion.interventions.select import Select
from lesion.interventions.selection import RankKey
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt
from lesion.runs.manifest import Manifest
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
    self_check: bool = True,
    seed: int = 0,
    hidden_norm: bool = False,
    direct: bool = True,
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
            list of them; omitted, coarse and fine.
        site: `pre`, `post` or `out`; see `lesion.axes`.
        select: `top`, `bottom`, `random:DRAWS`, `band:LOW-HIGH`, `set:FILE`, a selection such as
            `lesion.top(.01)`, or several: the first is the question, the others are its controls.
        rank: `value`, `abs` or `write`; omitted, `value`, and `abs` at site `out`.
        replace: `median`, `median_mid`, `mean`, `zero`, `min` or `constant:NUMBER`.
        scope: `each` block alone, `all` at once, or `cumulative` (blocks up to and with the layer).
        rank_on: rank on what the `lesioned` row carries in a block, or on the `clean` run.
        layers: the blocks to lesion; omitted, all. With scope `cumulative` they are taken in order.
        position: `last`, the last token of the prompt; `every`, each token of the text in turn,
            measured on the token that follows; `mask`, the mask of a masked model's prompt; or the
            index of a token.
        engine: `auto` takes the packed engine where it is proved and else the reference engine, and
            the run says why; or `packed`, `reference`.
        self_check: compare the packed engine with the reference engine now and then; see
            `lesion.engines.self_check`.
        seed: of random selections.
        hidden_norm: also measure how far the hidden state moves after every block.
        direct: also measure what a block's own output does, later blocks left as they were.
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
    check_unused(model)
    if position == "every" and model.family.masked:
        raise unsuitable(model, position)
    cells = cells_of(plan, model)
    questions = questions_of(model, prompt, target, target_id, foil, foil_id, position)
    asked, places = _distinct(cells, model)
    # A position that the model or the prompt does not have is refused before anything runs.
    positions = [token_at(model, each, cells[0].lesion.position) for each in questions.each]
    chosen, reason = choose_engine(engine, model, asked, questions.each)
    begun = time.perf_counter()
    outcomes = _measure(chosen, questions.each, asked, hidden_norm, direct, progress)
    seconds = time.perf_counter() - begun
    record = engine_record(chosen, reason, questions.each, asked, outcomes, self_check)
    manifest = Manifest(
        experiment="sweep",
        created=datetime.datetime.now(datetime.UTC),
        seconds=seconds,
        plan=plan_record(
            plan, rank=rank, seed=seed, hidden_norm=hidden_norm, direct=direct, engine=engine,
            self_check=self_check,
        ),
        model=model_record(model),
        engine=record,
        prompts=(prompt_record(questions, outcomes),),
        versions=versions(),
    )  # fmt: skip
    rows = [
        table_row(
            cell, place, outcome, question, token, plan, chosen.name, record.noise_floor, model
        )
        for question, outcome, token in zip(questions.each, outcomes, positions, strict=True)
        for cell, place in zip(cells, places, strict=True)
    ]
    return Run(manifest, pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA))


def _distinct(cells: Sequence[Cell], model: LanguageModel) -> tuple[list[Lesion], list[int | None]]:
    """Each distinct lesion once, and per cell its place among them; None without a neuron."""
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
    return lesions, places


def _measure(
    engine: Engine,
    prompts: Sequence[Prompt],
    lesions: Sequence[Lesion],
    hidden_norm: bool,
    direct: bool,
    progress: Progress | None,
) -> list[Outcome]:
    """Run the engine, with a progress bar where the caller has none of his own."""
    if progress is not None:
        return engine.run_many(
            prompts, lesions, hidden_norm=hidden_norm, direct=direct, progress=progress
        )
    # disable=None: nothing is drawn where the output is not a terminal.
    total = len(prompts) * len(lesions)
    with tqdm(total=total, unit="lesion", leave=False, disable=None) as bar:

        def moved(done: int, _total: int) -> None:
            bar.update(done - bar.n)

        return engine.run_many(
            prompts, lesions, hidden_norm=hidden_norm, direct=direct, progress=moved
        )
