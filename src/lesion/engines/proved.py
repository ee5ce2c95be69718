"""What the packed engine has been proved for; everything else is the reference engine's."""

from collections.abc import Sequence

from lesion.engines.engine import check_unused, forward_hooks
from lesion.errors import EngineRefused
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt


def unproved_model(model: LanguageModel) -> str | None:
    """Why the packed engine cannot take a model, in words that follow its name; None if it can."""
    with model.lock:  # another call's hooks are none of the model's own
        return _unproved(model)


def _unproved(model: LanguageModel) -> str | None:
    config, family = model.config, model.family
    devices = set((getattr(model.hf_model, "hf_device_map", None) or {"": 0}).values())
    attention = config._attn_implementation
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    reasons = {
        "it is a masked model, whose tokens all see the lesioned one": family.masked,
        f"the attention of {family.name} is its own, not transformers' attention interface": (
            not family.attention_interface
        ),
        "it carries hooks of its own, which may mean another token than the packed rows": (
            next(forward_hooks(model), None) is not None
        ),
        "its weights are on several devices": len(devices) > 1,
        "its weights are quantized": getattr(model.hf_model, "is_quantized", False),
        "it attends to an encoder": getattr(config, "add_cross_attention", False),
        "its tokens see those that come later": (
            getattr(config, "use_bidirectional_attention", False)
        ),
        'it was loaded with attention "sdpa", which leaves out its soft-cap': (
            capped and attention == "sdpa"
        ),
        'its attention "eager" may take softmax in float32 where all else is float64': (
            not capped and attention == "eager" and model.dtype == "float64"
        ),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def unproved_lesion(lesion: Lesion, prompt: Prompt) -> str | None:
    """Why the packed engine cannot take a lesion of a prompt; None if it can."""
    last = len(prompt.token_ids) - 1
    if lesion.position in ("last", last, -1):
        return None
    return f"position {lesion.position} is not the last token, so later tokens would change too"


def check_packed(
    model: LanguageModel, lesions: Sequence[Lesion] = (), prompts: Sequence[Prompt] = ()
) -> None:
    """Refuse what the packed engine has not been proved for.

    Raises:
        EngineRefused: naming the reason.
        ModelInUse: the model is being lesioned.
    """
    check_unused(model)
    found = unproved_model(model)
    positions = {lesion.position: lesion for lesion in lesions}
    for lesion in positions.values():
        for prompt in prompts:
            found = found or unproved_lesion(lesion, prompt)
    if found is not None:
        raise EngineRefused(
            f"the packed engine with {model.name}",
            found,
            "It runs only what it has been proved for",
            'Pass engine="reference", or engine="auto", which chooses',
        )
