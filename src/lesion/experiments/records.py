"""What an experiment writes down about itself: the plan, the model, the prompts, the versions."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from lesion.engines.engine import Outcome
from lesion.experiments.plan import SweepPlan
from lesion.experiments.questions import Posed
from lesion.interventions.selection import DrawnRanking, NeuronSet, RankKey
from lesion.models.fingerprint import fingerprint
from lesion.models.language_model import LanguageModel
from lesion.runs.manifest import ModelRecord, PromptRecord, TokenRecord, digest

MEASURING_PACKAGES = ("lesion", "torch", "transformers", "tokenizers", "safetensors", "numpy")


def plan_record(
    plan: SweepPlan,
    *,
    rank: RankKey | None,
    seed: int,
    hidden_norm: bool,
    direct: bool,
) -> dict[str, Any]:
    """The words of a plan, as Python and the command spell them; sets with their neurons."""
    fractions = [str(s.fraction) for s in plan.selections if hasattr(s, "fraction")]
    sets = [list(pair) for s in plan.selections if isinstance(s, NeuronSet) for pair in s.neurons]
    draws = {s.ranking.draw for s in plan.selections if isinstance(s.ranking, DrawnRanking)}
    return {
        "select": list(dict.fromkeys(selection.word for selection in plan.selections)),
        "draws": len(draws),
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
        "hidden_norm": hidden_norm,
        "direct": direct,
        # Selections that were built in Python may share these words and differ all the same.
        "selections": digest({"selections": [repr(s) for s in plan.selections]})[:16],
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
        fingerprint=fingerprint(model),
    )


def prompt_record(posed: Posed, outcomes: Sequence[Outcome]) -> PromptRecord:
    """What a shard says of a prompt and of the clean run after it.

    With several predictions there is no one target: `clean_log_prob` is their mean.
    """
    question, whole = posed.question, posed.whole
    several = question.source == "next"
    log_probs = [float(outcome.clean.log_prob[0]) for outcome in outcomes]
    finite = all(bool(outcome.clean.finite[0]) for outcome in outcomes)
    rank = int(outcomes[0].clean.target_rank[0]) if finite and not several else None
    target = question.row.target if question.source == "sum" else whole.target
    return PromptRecord(
        prompt_id=question.row.prompt_id,
        text=question.row.prompt,
        token_ids=question.token_ids,
        target=target if question.target_ids else None,
        target_ids=question.target_ids,
        target_source=question.source,
        foil=whole.foil,
        foil_id=question.foil_id,
        group=posed.group,
        carried=question.row.carried,
        truncated=question.truncated,
        predictions=len(outcomes),
        clean_log_prob=sum(log_probs) / len(log_probs) if finite else None,
        clean_target_rank=rank,
        clean_top=tuple(
            TokenRecord(token_id=token.token_id, token=token.token, prob=token.prob)
            for token in posed.likely
        ),
    )


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that a measurement depends on."""
    return {"python": platform.python_version()} | {
        package: version(package) for package in MEASURING_PACKAGES
    }
