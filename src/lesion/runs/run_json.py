"""run.json: the manifest of a run, with a checksum over it."""

import hashlib
import json

from pydantic import ValidationError

from lesion.errors import RunDamaged, RunNotFound
from lesion.runs.folder import Folder
from lesion.runs.manifest import SCHEMA_VERSION, Manifest

MANIFEST = "run.json"
_IS_RUN = "A run is a directory with run.json and shards/*.parquet"


def read_manifest(folder: Folder) -> Manifest:
    """The manifest of a run.

    Raises:
        RunNotFound: no run there, or one that this version cannot read.
        RunDamaged: run.json is not what was written.
    """
    asked = f"open {folder.path}"
    try:
        content = folder.read(MANIFEST)
    except FileNotFoundError as error:
        found = f"run.json cannot be read ({error.strerror})"
        raise RunNotFound(asked, found, _IS_RUN, "Check the path") from None
    try:
        words = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _damaged(folder, "it is no JSON") from error
    if not isinstance(words, dict):
        raise _damaged(folder, "it is no JSON object")
    checksum = words.pop("checksum", None)
    sound = checksum == _checksum(words)
    version = words.get("schema_version")
    # Runs of before version 3 have no checksum.
    if (sound or checksum is None) and type(version) is int and version != SCHEMA_VERSION:
        raise RunNotFound(
            asked,
            f"run.json has schema version {version}",
            f"This version of lesion reads schema version {SCHEMA_VERSION}",
            "Open it with the version of lesion that wrote it",
        )
    if not sound:
        raise _damaged(folder, "its checksum is not that of its content")
    try:
        return Manifest.model_validate_json(json.dumps(words))
    except ValidationError as error:
        raise _damaged(folder, f"it is no manifest ({error.error_count()} errors)") from error


def manifest_bytes(manifest: Manifest) -> bytes:
    """The content of run.json: the manifest, and a checksum over it."""
    words = json.loads(manifest.model_dump_json())
    return (
        json.dumps(words | {"checksum": _checksum(words)}, indent=2, ensure_ascii=False) + "\n"
    ).encode()


def _checksum(words: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def _damaged(folder: Folder, found: str) -> RunDamaged:
    remedy = f"Rebuild it from the shards: lesion verify {folder.path} --repair"
    return RunDamaged(f"open {folder.path}", f"run.json is damaged ({found})", _IS_RUN, remedy)
