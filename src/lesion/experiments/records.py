"""What an experiment writes down about itself: the plan, the model, the prompts, the versions."""

import dataclasses
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import torch

from lesion.engines.engine import Engine, Outcome
from lesion.engines.packed import PackedEngine
from lesion.engines.self_check import noise_floor, self_check
from lesion.experiments.plan import SweepPlan
from lesion.experiments.questions import Questions
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import NeuronSet, RankKey
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt
from lesion.runs.manifest import (
    EngineRecord,
    ModelRecord,
    PromptRecord,
    SelfCheckRecord,
    TokenRecord,
)

MEASURING_PACKAGES = ("lesion", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def plan_record(
    plan: SweepPlan,
    *,
    rank: RankKey | None,
    seed: int,
    hidden_norm: bool,
    direct: bool,
    engine: str,
    self_check: bool,
) -> dict[str, Any]:
    """The words of a plan, as Python and the command spell them; sets with their neurons."""
    fractions = [str(s.fraction) for s in plan.selections if hasattr(s, "fraction")]
    sets = [list(pair) for s in plan.selections if isinstance(s, NeuronSet) for pair in s.neurons]
    return {
        "select": list(dict.fromkeys(selection.word for selection in plan.selections)),
        "fractions": list(dict.fromkeys(fractions)),
        "set_neurons": sets or None,
        "site": plan.site,
        "rank": rank,
        "replace": plan.replace,
        "scope": plan.scope,
        "rank_on": plan.rank_on,
        "layers": None if plan.layers is None else list(plan.layers),
        "position": plan.position,
        "seed": seed,
        "engine": engine,
        "self_check": self_check,
        "hidden_norm": hidden_norm,
        "direct": direct,
    }


def model_record(model: LanguageModel) -> ModelRecord:
    """What the manifest says of a model."""
    return ModelRecord(
        name=model.name,
        source=model.source,
        revision=model.revision,
        model_type=model.config.model_type,
        family=model.family.name,
        blocks=len(model.blocks),
        neurons=tuple(block.neurons for block in model.blocks),
        width=model.blocks[0].width,
        parameters=model.hf_model.num_parameters(),
        dtype=model.dtype,
        device=str(model.device),
        attention=getattr(model.config, "_attn_implementation", None),
    )


def prompt_record(questions: Questions, outcomes: Sequence[Outcome]) -> PromptRecord:
    """What the manifest says of a prompt and of the clean run after it.

    With several predictions there is no one target: `clean_log_prob` is their mean.
    """
    prompt, several = questions.text, questions.text.target_source == "next"
    log_probs = [float(outcome.clean.log_prob[0]) for outcome in outcomes]
    finite = all(bool(outcome.clean.finite[0]) for outcome in outcomes)
    rank = int(outcomes[0].clean.target_rank[0]) if finite and not several else None
    return PromptRecord(
        prompt_id=prompt.prompt_id,
        text=prompt.text,
        token_ids=prompt.token_ids,
        target=None if several else prompt.target,
        target_id=None if several else prompt.target_id,
        target_source=prompt.target_source,
        foil=prompt.foil,
        foil_id=prompt.foil_id,
        predictions=len(outcomes),
        clean_log_prob=sum(log_probs) / len(log_probs) if finite else None,
        clean_target_rank=rank,
        clean_top=tuple(
            TokenRecord(token_id=token.token_id, token=token.token, prob=token.prob)
            for token in questions.likely
        ),
    )


def engine_record(
    engine: Engine,
    reason: str,
    prompts: Sequence[Prompt],
    lesions: Sequence[Lesion],
    outcomes: Sequence[Outcome],
    check: bool,
) -> EngineRecord:
    """What the manifest says of an engine, after comparing it with the reference engine if asked.

    Of the beginnings of one text the middle one is compared.

    Raises:
        SelfCheckFailed: the engines disagree.
    """
    middle = len(prompts) // 2
    compared = (engine.model, prompts[middle], lesions, outcomes[middle])
    checked = self_check(*compared) if check and isinstance(engine, PackedEngine) else None
    return EngineRecord(
        name=engine.name,
        reason=reason,
        threads=torch.get_num_threads(),
        rows_in_pass=engine.rows_in_pass if isinstance(engine, PackedEngine) else None,
        halvings=engine.halvings if isinstance(engine, PackedEngine) else 0,
        self_check=None if checked is None else SelfCheckRecord(**dataclasses.asdict(checked)),
        near_ties=sum(int(outcome.evidence.near_tie.sum()) for outcome in outcomes),
        noise_floor=noise_floor(*compared),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement depends on."""
    return {"python": platform.python_version()} | {
        package: version(package) for package in MEASURING_PACKAGES
    }
