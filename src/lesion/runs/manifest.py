"""What a run was, as it stores it: `run.json` before the first unit, one record a finished unit.

`run.json` is written once and never changed. What only shows while measuring (seconds, self-checks)
stands in the records of the units; what was asked of each prompt stands in the shards.
"""

import datetime
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

SCHEMA_VERSION: Literal[3] = 3


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


class FingerprintRecord(_Record):
    """SHA-256 of what a model is: its weights, its configuration, its tokenizer."""

    weights: str
    config: str
    tokenizer: str


class ModelRecord(_Record):
    """The model that was measured; `neurons` has one entry a block."""

    name: str
    source: str
    revision: str | None
    model_type: str
    family: str
    blocks: int
    neurons: tuple[int, ...]
    width: int
    parameters: int
    dtype: str
    device: str
    attention: str | None
    fingerprint: FingerprintRecord


class EngineRecord(_Record):
    """The engine that was asked for, and what its bits depend on.

    Equal plan, `threads` and `memory_bytes` (of the rows of one pass; null for the reference
    engine) give equal bits; a run that is resumed keeps them.
    """

    asked: str
    threads: int
    memory_bytes: int | None
    self_check: bool


class BadRowRecord(_Record):
    """A row of the prompt set that was left out, and why."""

    prompt_id: int
    place: str
    found: str


class PromptsRecord(_Record):
    """The prompts that were asked for: `rows` of a set, `bad_rows` of them left out.

    `bad` lists the first of those. A unit of work holds `unit_size` rows.
    """

    name: str
    sha256: str
    rows: int
    limit: int | None
    unit_size: int
    target_mode: str
    truncate: str
    bad_rows: int
    bad: tuple[BadRowRecord, ...]

    @property
    def units(self) -> int:
        """How many units of work there are."""
        return -(-self.rows // self.unit_size)


class Manifest(_Record):
    """Everything that is needed to repeat a run, and to read its shards without us.

    `plan` holds the words of the experiment, spelled as in Python and on the command line.
    `created` is null where run.json was lost and rebuilt from the shards, which do not tell.
    """

    schema_version: Literal[3] = SCHEMA_VERSION
    experiment: Literal["sweep"]
    created: datetime.datetime | None
    plan: dict[str, JsonValue]
    model: ModelRecord
    engine: EngineRecord
    prompts: PromptsRecord
    versions: dict[str, str]

    @property
    def identity(self) -> dict[str, JsonValue]:
        """What must be equal for a run to be resumed, by the name of its field."""
        model, engine, prompts = self.model, self.engine, self.prompts
        words: dict[str, JsonValue] = {
            "schema_version": self.schema_version,
            "experiment": self.experiment,
            **{f"plan.{word}": value for word, value in self.plan.items()},
            "model.weights": model.fingerprint.weights,
            "model.config": model.fingerprint.config,
            "model.tokenizer": model.fingerprint.tokenizer,
            "model.dtype": model.dtype,
            "model.device": model.device.partition(":")[0],
            "model.attention": model.attention,
            "engine.asked": engine.asked,
            "engine.self_check": engine.self_check,
            "prompts.sha256": prompts.sha256,
            "prompts.limit": prompts.limit,
            "prompts.unit_size": prompts.unit_size,
            "prompts.target_mode": prompts.target_mode,
            "prompts.truncate": prompts.truncate,
        }
        return words | {
            f"versions.{package}": version_class(package, version)
            for package, version in self.versions.items()
            if package != "python"
        }

    @property
    def key(self) -> str:
        """SHA-256 of the identity: shards carry it."""
        return digest(self.identity)


class SelfCheckRecord(_Record):
    """Some lesions measured again by the reference engine; the words are those of `SelfCheck`."""

    prompt_id: int
    lesions: int
    difference: float
    tolerance: float
    near_ties: int
    seconds: float


class MeasuringRecord(_Record):
    """How one unit was measured.

    `rows_in_pass` is the most of one pass of the packed engine, halved `halvings` times for want of
    memory. `near_ties` counts the lesions whose edge lies between keys that nearly tie.
    `noise_floor` is in nats, null in float32 and float64. `self_check` is null where none was due
    or it was switched off.
    """

    engine: str
    reason: str
    seconds: float
    rows_in_pass: int | None
    halvings: int
    self_check: SelfCheckRecord | None
    near_ties: int
    noise_floor: float | None


class UnitRecord(_Record):
    """One finished unit: its shard, and how it was measured.

    `measuring` is null where the record was rebuilt from the shard.
    """

    unit: int
    sha256: str
    bytes: int
    rows: int
    nonfinite: int
    measuring: MeasuringRecord | None


class TokenRecord(_Record):
    """A token the clean run thought likely."""

    token_id: int
    token: str
    prob: float


class PromptRecord(_Record):
    """One prompt, its target, and the clean prediction, likeliest token first.

    The clean numbers are null where a logit of the clean run was NaN or infinite. At position
    `every` there are many predictions, each with its own target (`next`), and `clean_log_prob` is
    their mean. `truncated` counts the tokens that were cut from its beginning.
    """

    prompt_id: int
    text: str
    token_ids: tuple[int, ...]
    target: str | None
    target_ids: tuple[int, ...]
    target_source: Literal["given", "top", "next", "first", "sum"]
    foil: str | None
    foil_id: int | None
    group: str
    carried: str | None
    truncated: int
    predictions: int
    clean_log_prob: float | None
    clean_target_rank: int | None
    clean_top: tuple[TokenRecord, ...]


def differences(old: Manifest, new: Manifest) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """The fields by which two runs differ, with both values."""
    one, other = old.identity, new.identity
    for field in dict.fromkeys([*one, *other]):
        if one.get(field) != other.get(field):
            yield field, one.get(field), other.get(field)


def version_class(package: str, version: str) -> str:
    """What of a version measurements depend on: of our own, major and minor number."""
    return ".".join(version.split(".")[:2]) if package == "lesion" else version


def digest(words: Mapping[str, Any]) -> str:
    """SHA-256 of JSON values, whatever the order of their keys."""
    text = json.dumps(words, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
