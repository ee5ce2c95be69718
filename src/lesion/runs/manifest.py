"""What a run was: the plan, the model, the prompts and the versions, as `run.json` stores them."""

import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, JsonValue


class _Record(BaseModel):
    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), ser_json_inf_nan="strings"
    )


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


class SelfCheckRecord(_Record):
    """Some lesions measured again by the reference engine; the words are those of `SelfCheck`."""

    prompt_id: int
    lesions: int
    difference: float
    tolerance: float
    near_ties: int
    seconds: float


class EngineRecord(_Record):
    """The engine that measured, why that one, and what its numbers depend on.

    Equal plan, `threads` and `rows_in_pass` (at most, of one pass of the packed engine; halved
    `halvings` times for want of memory) give equal bits. `near_ties` counts the lesions whose edge
    lies between keys that nearly tie. `noise_floor` is in nats, null in float32 and float64.
    `self_check` is null where none was due or it was switched off.
    """

    name: str
    reason: str
    threads: int
    rows_in_pass: int | None
    halvings: int
    self_check: SelfCheckRecord | None
    near_ties: int
    noise_floor: float | None


class TokenRecord(_Record):
    """A token the clean run thought likely."""

    token_id: int
    token: str
    prob: float


class PromptRecord(_Record):
    """One prompt, its target, and the clean prediction, likeliest token first.

    The clean numbers are null where a logit of the clean run was NaN or infinite. At position
    `every` there are many predictions, each with its own target (`next`), and `clean_log_prob` is
    their mean.
    """

    prompt_id: int
    text: str
    token_ids: tuple[int, ...]
    target: str | None
    target_id: int | None
    target_source: Literal["given", "top", "next"]
    foil: str | None
    foil_id: int | None
    predictions: int
    clean_log_prob: float | None
    clean_target_rank: int | None
    clean_top: tuple[TokenRecord, ...]


class Manifest(_Record):
    """Everything that is needed to repeat a run, and to read its table without us.

    `plan` holds the words of the experiment, spelled as in Python and on the command line.
    """

    schema_version: Literal[2] = 2
    experiment: Literal["sweep"]
    created: datetime.datetime
    seconds: float
    plan: dict[str, JsonValue]
    model: ModelRecord
    engine: EngineRecord
    prompts: tuple[PromptRecord, ...]
    versions: dict[str, str]
