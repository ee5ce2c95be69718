"""What an experiment writes down about itself: the plan, the model, the prompts, the versions."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from lesion.engines.engine import Outcome
from lesion.experiments.plan import SweepPlan
from lesion.interventions.selection import NeuronSet, RankKey
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import LikelyToken
from lesion.prompts import Prompt
from lesion.runs.manifest import ModelRecord, PromptRecord, TokenRecord

MEASURING_PACKAGES = ("lesion", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def plan_record(
    plan: SweepPlan, *, rank: RankKey | None, seed: int, hidden_norm: bool, engine: str
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
        "hidden_norm": hidden_norm,
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


def prompt_record(prompt: Prompt, outcome: Outcome, likely: Sequence[LikelyToken]) -> PromptRecord:
    """What the manifest says of a prompt and of the clean run after it."""
    finite = bool(outcome.clean.finite[0])
    return PromptRecord(
        prompt_id=prompt.prompt_id,
        text=prompt.text,
        token_ids=prompt.token_ids,
        target=prompt.target,
        target_id=prompt.target_id,
        target_source=prompt.target_source,
        foil=prompt.foil,
        foil_id=prompt.foil_id,
        clean_log_prob=float(outcome.clean.log_prob[0]) if finite else None,
        clean_target_rank=int(outcome.clean.target_rank[0]) if finite else None,
        clean_top=tuple(
            TokenRecord(token_id=token.token_id, token=token.token, prob=token.prob)
            for token in likely
        ),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement depends on."""
    return {"python": platform.python_version()} | {
        package: version(package) for package in MEASURING_PACKAGES
    }
