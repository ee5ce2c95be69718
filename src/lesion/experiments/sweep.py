"""The sweep: many shares of neurons, block by block or all blocks at once, of one prompt or many.

1. The words become a plan (`experiments/plan.py`), which is checked before the model runs.
2. The prompts become units of work; every row that cannot be asked is found before anything is
   measured (`experiments/checking.py`).
3. Each unit is measured on its own (`experiments/measuring.py`): every distinct lesion of every
   prompt, each cell of the plan a row.
4. In a directory each unit is committed as it is done, and what is finished is never measured
   again (`lesion/runs`).

Source: the report's protocol, successive median-replacement of MLP neurons
(`engines/reference.py`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesion.axes import Position, RankOn, Scope, Site
from lesion.engines.choosing import ENGINE_WORDS, EngineWord
from lesion.engines.engine import Progress
from lesion.errors import InvalidChoice
from lesion.experiments.plan import Layers, plan_sweep
from lesion.experiments.questions import (
    Asking,
)
from lesion.experiments.records import plan_record
from lesion.experiments.study import OnePrompt, Study
from lesion.experiments.watching import UnitBar
from lesion.interventions.fractions import Fractions
from lesion.interventions.lesion import check_word
from lesion.interventions.replacement import Replacement
from lesion.interventions.select import Select
from lesion.interventions.selection import RankKey
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import (
    TARGET_MODES,
    TRUNCATE_WORDS,
    TargetMode,
    TruncateWord,
)
from lesion.prompt_sets.prompt_set import PromptSet, open_prompt_set
from lesion.prompt_sets.rows import PromptRow
from lesion.runs.run import Run, open_run
from lesion.runs.runner import Watch
from lesion.runs.store import claim

Prompts = str | Path | Sequence[str | Mapping[str, Any]]


def sweep(
    model: LanguageModel,
    prompt: str | None = None,
    target: str | None = None,
    *,
    target_id: int | None = None,
    foil: str | None = None,
    foil_id: int | None = None,
    prompts: Prompts | None = None,
    limit: int | None = None,
    strict: bool = False,
    target_mode: TargetMode = "one",
    truncate: TruncateWord = "no",
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
    out: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    cluster: str | None = None,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> Run:
    """Lesion growing shares of neurons and measure what the target token loses.

    Args:
        model: from `lesion.load`.
        prompt: the text before the predicted token.
        target: the token whose prediction is measured, one token with its leading space; omitted,
            the model's own top token. `target_id` names it by its id instead.
        foil: a token to compare the target with (`logit_diff`), or its `foil_id`.
        prompts: instead of one prompt many: a file (.jsonl, .csv, .parquet, .txt), the packaged
            set `idioms`, `hf:owner/name[:split]`, or a list of texts and mappings.
        limit: so many rows of the prompts, the first ones.
        strict: refuse prompts of which any row cannot be asked; else up to a fifth are left out.
        target_mode: `one` refuses a target of several tokens, `first` measures its first, `sum` the
            sum of their log-probabilities.
        truncate: `left` cuts prompts that are longer than the context at their beginning.
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
        out: a directory, here or in an object store (`s3://bucket/run`), in which every finished
            unit of prompts stays: the same call again does only what is missing. Omitted, the run
            is held in memory.
        overwrite: begin anew where a run stands.
        workers: so many processes measure; each loads the model once, and on GPUs has its own.
            Omitted, this one, or as many as the cluster has room for.
        cluster: the address of a Ray cluster whose machines measure, or `local`; see
            docs/cluster.md.
        progress: called with the numbers of lesions of a unit done and asked for; omitted, a
            progress bar on a terminal.
        watch: sees the units of a run in a directory done; omitted, a progress bar on a terminal.

    Raises:
        LesionError: a word that means nothing (`InvalidChoice`), a prompt, target or layer that the
            model cannot take (`PromptError`, `TargetError`, `UnknownLayer`, `PromptSetError`), all
            before the model runs; `LesionNotApplied` if a lesion left no trace in it; `RunError`
            about the directory.
    """
    study = study_of(
        model, prompt, target, target_id=target_id, foil=foil, foil_id=foil_id, prompts=prompts,
        limit=limit, strict=strict, target_mode=target_mode, truncate=truncate,
        fractions=fractions, site=site, select=select, rank=rank, replace=replace, scope=scope,
        rank_on=rank_on, layers=layers, position=position, engine=engine, self_check=self_check,
        seed=seed, hidden_norm=hidden_norm, direct=direct,
    )  # fmt: skip
    if out is None:
        if workers not in {None, 1} or cluster is not None:
            rule = "Several processes write a run to a directory"
            asked = f"workers {workers}" if cluster is None else f"cluster {cluster}"
            raise InvalidChoice(asked, "there is no out", rule, "Pass out=…")
        return study.held(progress)
    with claim(out, overwrite=overwrite) as writer:
        study.run(writer, workers, cluster, overwrite=overwrite, watch=watch or UnitBar())
    return open_run(out)


def study_of(
    model: LanguageModel,
    prompt: str | None = None,
    target: str | None = None,
    *,
    target_id: int | None,
    foil: str | None,
    foil_id: int | None,
    prompts: Prompts | None,
    limit: int | None,
    strict: bool,
    target_mode: TargetMode,
    truncate: TruncateWord,
    engine: EngineWord,
    self_check: bool,
    hidden_norm: bool,
    direct: bool,
    rank: RankKey | None,
    seed: int,
    **words: Any,
) -> Study:
    """The words of a sweep, checked, with the model that is asked.

    Raises:
        LesionError: see `sweep`.
    """
    check_word("engine", engine, ENGINE_WORDS)
    check_word("target_mode", target_mode, TARGET_MODES)
    check_word("truncate", truncate, TRUNCATE_WORDS)
    plan = plan_sweep(rank=rank, seed=seed, **words)
    if (prompt is None) == (prompts is None):
        found = "both were given" if prompt is not None else "neither was given"
        rule = "A sweep asks one prompt, or a set of them"
        raise InvalidChoice("prompt and prompts", found, rule, "Pass one of them")
    asked = {"target": target, "target_id": target_id, "foil": foil, "foil_id": foil_id}
    asking = Asking(plan.position, target_mode, truncate)
    if prompt is not None:
        row = PromptRow(0, "prompt", prompt, **asked)  # type: ignore[arg-type]
        source: PromptSet = OnePrompt(row)
    else:
        named = [word for word, value in asked.items() if value is not None]
        if named:
            rule = "In a set of prompts each row has its own target and foil"
            found = "prompts were given too"
            raise InvalidChoice(named[0], found, rule, "Write it into the rows of the set")
        source = open_prompt_set(prompts)  # type: ignore[arg-type]
    told = plan_record(plan, rank=rank, seed=seed, hidden_norm=hidden_norm, direct=direct)
    return Study(
        model, source, plan, asking, told, engine, self_check, hidden_norm, direct, limit, strict
    )
