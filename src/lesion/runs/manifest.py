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


class EngineRecord(_Record):
    """The engine that measured, and why that one."""

    name: str
    reason: str


class TokenRecord(_Record):
    """A token the clean run thought likely."""

    token_id: int
    token: str
    prob: float


class PromptRecord(_Record):
    """One prompt, its target, and the clean prediction, likeliest token first.

    The clean numbers are null where a logit of the clean run was NaN or infinite.
    """

    prompt_id: int
    text: str
    token_ids: tuple[int, ...]
    target: str
    target_id: int
    target_source: Literal["given", "top"]
    foil: str | None
    foil_id: int | None
    clean_log_prob: float | None
    clean_target_rank: int | None
    clean_top: tuple[TokenRecord, ...]


class Manifest(_Record):
    """Everything that is needed to repeat a run, and to read its table without us.

    `plan` holds the words of the experiment, spelled as in Python and on the command line.
    """

    schema_version: Literal[1] = 1
    experiment: Literal["sweep"]
    created: datetime.datetime
    seconds: float
    plan: dict[str, JsonValue]
    model: ModelRecord
    engine: EngineRecord
    prompts: tuple[PromptRecord, ...]
    versions: dict[str, str]
