"""From a name, a folder, a configuration or a loaded model to a `LanguageModel`.

Only safetensors are read and no code from a checkpoint is run. `HF_HOME`, `HF_TOKEN` and
`HF_HUB_OFFLINE` act as everywhere in Hugging Face's libraries.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_MASKED_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME
from transformers.utils.hub import cached_file

from lesion.errors import InvalidChoice, ModelNotFound, UnsafeWeights
from lesion.models.families import Family, family_of
from lesion.models.language_model import LanguageModel, Origin

DEFAULT_MODEL = Path(__file__).parent / "default"
DTYPES = ("float32", "bfloat16", "float16", "float64")


def load(
    name: str | Path | None = None,
    *,
    hf_model: PreTrainedModel | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    config: PreTrainedConfig | Mapping[str, Any] | None = None,
    random_weights: int | None = None,
    revision: str | None = None,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
) -> LanguageModel:
    """The model to experiment on.

    Args:
        name: a name on the Hugging Face Hub or a local folder; omitted, the shipped model.
        hf_model: an already loaded causal or masked model, on one device or several; it is used as
            it is and needs its `tokenizer`.
        tokenizer: replaces the model's own; a random-weight model takes the shipped one by default.
        config: with `random_weights`, the shape of a model that has never been trained: a
            configuration, or a mapping with `model_type` and the configuration's own words.
        random_weights: the seed of those weights.
        revision: branch, tag or commit on the Hub.
        device: for example `cpu` or `cuda`; omitted, the GPU if there is one.
        dtype: the dtype to compute in; omitted, float32 whatever the checkpoint stores.

    Raises:
        ModelNotFound: nothing of that name here, in the cache or on the Hub.
        UnsafeWeights: no safetensors in the checkpoint.
        UnknownFamily: an architecture that the package does not know.
        UnsuitableFamily: an architecture, or a form of one, that cannot be lesioned.
        InvalidChoice: arguments that contradict each other, an unknown dtype or device.
    """
    if hf_model is not None:
        return _adopt(hf_model, tokenizer, name, config, random_weights)
    if (config is None) != (random_weights is None):
        rule = "A random-weight model needs both its config and the seed of its weights"
        found = "only one of config and random_weights was given"
        raise InvalidChoice("load", found, rule, "Pass config=… and random_weights=0")
    torch_dtype, torch_device = _dtype(dtype), _device(device)
    origin = Origin(
        name=None if name is None else str(name),
        revision=revision,
        device=None if device is None else str(device),
        dtype=None if dtype is None else str(dtype),
        config=None if config is None else _config_text(config),
        random_weights=random_weights,
    )
    # A tokenizer that was handed over is in no words.
    told = origin if tokenizer is None else None
    if config is not None and random_weights is not None:
        return _untrained(config, random_weights, tokenizer, torch_dtype, torch_device, told)
    return _trained(name, tokenizer, revision, torch_dtype, torch_device, told)


def load_again(origin: Origin, device: str | None = None) -> LanguageModel:
    """The model that an origin tells of, as `load` gave it; `device` takes the place of its own.

    Raises:
        LesionError: see `load`.
    """
    words: dict[str, Any] = {"device": device or origin.device, "dtype": origin.dtype}
    if origin.config is not None:
        config = json.loads(origin.config)
        return load(config=config, random_weights=origin.random_weights, **words)
    return load(origin.name, revision=origin.revision, **words)


def _config_text(config: PreTrainedConfig | Mapping[str, Any]) -> str:
    if isinstance(config, Mapping):
        return json.dumps(dict(config))
    return str(config.to_json_string(use_diff=False))


def _adopt(
    hf_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    name: str | Path | None,
    config: object,
    random_weights: int | None,
) -> LanguageModel:
    if tokenizer is None or config is not None or random_weights is not None:
        found = "no tokenizer came with it" if tokenizer is None else "config or random_weights too"
        rule = "A loaded model comes with its tokenizer and nothing that makes another model"
        remedy = "Call load(hf_model=model, tokenizer=tokenizer)"
        raise InvalidChoice("load(hf_model=…)", found, rule, remedy)
    called = str(name or hf_model.config.name_or_path or type(hf_model).__name__)
    _check_head(hf_model, family_of(hf_model.config.model_type, called))
    revision = getattr(hf_model.config, "_commit_hash", None)
    return LanguageModel(
        hf_model, tokenizer, name=called, source="a loaded model", revision=revision
    )


def _untrained(
    config: PreTrainedConfig | Mapping[str, Any],
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None,
    dtype: torch.dtype,
    device: torch.device,
    origin: Origin | None,
) -> LanguageModel:
    if isinstance(config, Mapping):
        words = dict(config)
        model_type = words.pop("model_type", None)
        family_of(str(model_type), "random weights")
        config = AutoConfig.for_model(model_type, **words)
    family = family_of(config.model_type, "random weights")
    if tokenizer is None:
        tokenizer = shipped_tokenizer()
        if config.vocab_size < len(tokenizer):
            rule = f"The shipped tokenizer has {len(tokenizer)} tokens"
            found = f"its vocabulary has {config.vocab_size}"
            remedy = "Pass tokenizer=…, or a configuration with a larger vocab_size"
            raise InvalidChoice("load(config=…)", found, rule, remedy)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hf_model = _auto_class(family).from_config(config, dtype=dtype)
    name = f"random {config.model_type}"
    source = f"random weights, seed {seed}"
    return LanguageModel(
        hf_model.eval().to(device), tokenizer, name=name, source=source, origin=origin
    )


def _trained(
    name: str | Path | None,
    tokenizer: PreTrainedTokenizerBase | None,
    revision: str | None,
    dtype: torch.dtype,
    device: torch.device,
    origin: Origin | None,
) -> LanguageModel:
    place = str(DEFAULT_MODEL if name is None else name)
    called = "default" if name is None else str(name)
    if Path(place).is_dir():
        _check_folder(Path(place))
    elif place.startswith((".", "/", "~")):
        raise _not_found(called, "there is no such folder")
    try:
        config = AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise _not_found(called, _first_line(error)) from error
    family = family_of(config.model_type, called)
    try:
        hf_model = _auto_class(family).from_pretrained(
            place, config=config, revision=revision, dtype=dtype,
            use_safetensors=True, trust_remote_code=False,
        )  # fmt: skip
    except OSError as error:
        if "safetensors" in str(error):
            raise _unsafe(called) from error
        raise _not_found(called, _first_line(error)) from error
    if tokenizer is None:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                place, revision=revision, trust_remote_code=False
            )
        except (OSError, ValueError) as error:
            raise _not_found(f"{called} (its tokenizer)", _first_line(error)) from error
        # Without its files transformers makes up a tokenizer that knows nothing but special tokens.
        if len(tokenizer) <= len(set(tokenizer.all_special_ids)):
            raise _not_found(f"{called} (its tokenizer)", "it has no vocabulary")
    source = "shipped with the package" if name is None else place
    return LanguageModel(
        hf_model.eval().to(device),
        tokenizer,
        name=called,
        source=source,
        revision=getattr(config, "_commit_hash", None),
        origin=origin,
        weight_files=_weight_files(place, revision),
    )


def _weight_files(place: str, revision: str | None) -> list[Path]:
    """The safetensors files that were loaded: one, or those that an index lists."""
    index = cached_file(
        place, SAFE_WEIGHTS_INDEX_NAME, revision=revision,
        _raise_exceptions_for_missing_entries=False, local_files_only=True,
    )  # fmt: skip
    names = {SAFE_WEIGHTS_NAME}
    if index is not None:
        names = set(json.loads(Path(index).read_bytes())["weight_map"].values())
    found = (
        cached_file(
            place, name, revision=revision, _raise_exceptions_for_missing_entries=False,
            local_files_only=True,
        )
        for name in sorted(names)
    )  # fmt: skip
    return [Path(file) for file in found if file is not None]


def shipped_tokenizer() -> PreTrainedTokenizerBase:
    """The tokenizer of the shipped model."""
    return AutoTokenizer.from_pretrained(DEFAULT_MODEL)


def _auto_class(family: Family) -> Any:
    return AutoModelForMaskedLM if family.masked else AutoModelForCausalLM


def _check_head(hf_model: PreTrainedModel, family: Family) -> None:
    """Refuse an adopted model without a head, or with another than its family's."""
    heads = MODEL_FOR_MASKED_LM_MAPPING if family.masked else MODEL_FOR_CAUSAL_LM_MAPPING
    wanted: Any = heads[type(hf_model.config)]
    if not isinstance(hf_model, wanted):
        raise InvalidChoice(
            "load(hf_model=…)",
            f"it is a {type(hf_model).__name__}",
            f"A {family.name} model is lesioned as {wanted.__name__}, with the head that predicts "
            "tokens",
            f"Load it with {_auto_class(family).__name__}.from_pretrained(…)",
        )


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise _not_found(str(folder), "the folder has no config.json")
    if not any(folder.glob("*.safetensors")):
        raise _unsafe(str(folder))


def _dtype(asked: str | torch.dtype | None) -> torch.dtype:
    word = "float32" if asked is None else str(asked).removeprefix("torch.")
    if word not in DTYPES:
        rule = f"dtype is one of {', '.join(DTYPES)}"
        raise InvalidChoice(f"dtype {word!r}", "there is no such word", rule, "Pass one of them")
    found: torch.dtype = getattr(torch, word)
    return found


def _device(asked: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(asked or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        rule = "A device is cpu, cuda, cuda:1, … as PyTorch names them, and present here"
        raise InvalidChoice(f"device {asked!s}", _first_line(error), rule, "Pass cpu") from None
    return device


def _not_found(asked: str, found: str) -> ModelNotFound:
    return ModelNotFound(
        f"model {asked!r}",
        found,
        "A model is a local folder, or a name on the Hugging Face Hub or in its cache",
        "Check the name; without a network, fetch it elsewhere with `hf download NAME` and pass "
        "the folder, or set HF_HOME to a cache that holds it",
    )


def _unsafe(asked: str) -> UnsafeWeights:
    return UnsafeWeights(
        f"model {asked!r}",
        "it has no safetensors weights",
        "Only safetensors are loaded, because other checkpoints can run code",
        "Where you trust it, convert it once with `model.save_pretrained(folder)`; pass the folder",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
