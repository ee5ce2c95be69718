"""A prompt that is ready to be measured: its token ids, its target and its foil."""

import dataclasses
import hashlib
from typing import Literal

TargetSource = Literal["given", "top", "next", "first", "sum"]


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt and the tokens whose prediction is measured after it.

    `token_ids` are those of the text with the tokenizer's own special tokens, `target_id` and
    `foil_id` without. `target_source` is `top` where the target is the model's own top token,
    `next` where it is the token that follows in the text, `first` or `sum` where a target of
    several tokens was given.
    """

    prompt_id: int
    text: str
    token_ids: tuple[int, ...]
    target: str
    target_id: int
    target_source: TargetSource = "given"
    foil: str | None = None
    foil_id: int | None = None

    @property
    def key(self) -> str:
        """A hash of the token ids: what random sets derive from, whatever the prompt's number."""
        return hashlib.sha256(",".join(map(str, self.token_ids)).encode()).hexdigest()
