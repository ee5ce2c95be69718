"""What a model is, as three hashes: of its weights, its configuration and its tokenizer.

Weights that were loaded are hashed as their safetensors files, weights that were handed over or
made up as tensors. A file's hash is remembered by its size, time of change and inode, in
`lesion/fingerprints.json` below `XDG_CACHE_HOME` (else `~/.cache`), since a large model takes
seconds.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from transformers import PreTrainedTokenizerBase

from lesion.models.language_model import LanguageModel
from lesion.runs.manifest import FingerprintRecord, digest

# What a configuration says of where it came from and how it runs, not of what it is.
_PASSING = {
    "_name_or_path", "_commit_hash", "transformers_version", "dtype", "torch_dtype",
    "_attn_implementation", "attn_implementation", "use_cache", "output_hidden_states",
    "output_attentions", "return_dict",
}  # fmt: skip
_KNOWN = TypeAdapter(dict[str, str])


def fingerprint(model: LanguageModel) -> FingerprintRecord:
    """The hashes of a model; those of its weights are kept as long as nothing writes to them."""
    state = model.state_of_weights()
    if model.fingerprint is None or model.fingerprint[0] != state:
        unchanged = state == model.state_when_loaded
        weights = hash_files(model.weight_files) if unchanged else _hash_tensors(model)
        model.fingerprint = (state, weights)
    return FingerprintRecord(
        weights=model.fingerprint[1],
        config=_hash_config(model.config),
        tokenizer=_hash_tokenizer(model.tokenizer),
    )


def hash_files(files: Sequence[Path]) -> str:
    """SHA-256 over the names and contents of files, in the order of their names."""
    whole = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        whole.update(f"{file.name}\0{_hash_file(file)}\n".encode())
    return whole.hexdigest()


def _hash_file(file: Path) -> str:
    status = file.stat()
    key = f"{file.resolve()}|{status.st_size}|{status.st_mtime_ns}|{status.st_ino}"
    known = _read_known()
    if key in known:
        return known[key]
    with file.open("rb") as opened:
        found = hashlib.file_digest(opened, "sha256").hexdigest()
    _write_known(known | {key: found})
    return found


def _known_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "lesion" / "fingerprints.json"


def _read_known() -> dict[str, str]:
    try:
        return _KNOWN.validate_json(_known_file().read_bytes())
    except (OSError, RuntimeError, ValidationError):
        return {}


def _write_known(known: dict[str, str]) -> None:
    """Remember; a cache that cannot be written costs time only."""
    with contextlib.suppress(OSError, RuntimeError):
        file = _known_file()
        file.parent.mkdir(parents=True, exist_ok=True)
        fresh = file.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps(known, indent=0))
        fresh.replace(file)


def _hash_tensors(model: LanguageModel) -> str:
    whole = hashlib.sha256()
    elsewhere = False
    for name, tensor in sorted(model.hf_model.state_dict().items()):
        whole.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}\n".encode())
        if tensor.is_meta:
            elsewhere = True
            continue
        flat = tensor.detach().cpu().contiguous().view(-1)
        whole.update(flat.view(torch.uint8).numpy().data)
    # Weights that accelerate keeps on disk cannot be seen here.
    return f"{'partial:' if elsewhere else ''}{whole.hexdigest()}"


def _hash_config(config: Any) -> str:
    words = json.loads(config.to_json_string(use_diff=False))
    return digest({word: value for word, value in words.items() if word not in _PASSING})


def _hash_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    words = {
        "class": type(tokenizer).__name__,
        "backend": None if backend is None else backend.to_str(),
        "vocabulary": None if backend is not None else tokenizer.get_vocab(),
        "special": {word: str(token) for word, token in tokenizer.special_tokens_map.items()},
    }
    return digest(words)
