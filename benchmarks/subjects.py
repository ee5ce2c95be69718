"""The models and prompts that are measured: shapes of published models, random weights."""

import copy
import dataclasses
import random

from transformers import GPT2Config, PreTrainedModel

import lesion
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

TARGET_ID = 1755


@dataclasses.dataclass(frozen=True)
class Shape:
    """A GPT-2 of some size; `name` says which."""

    name: str
    blocks: int
    width: int
    heads: int
    context: int = 1024

    def with_blocks(self, blocks: int) -> "Shape":
        """The same width with another number of blocks."""
        return dataclasses.replace(self, name=f"{self.name}, {blocks} blocks", blocks=blocks)


GPT2_SMALL = Shape("GPT-2 small", blocks=12, width=768, heads=12)
GPT2_LARGE = Shape("GPT-2 Large", blocks=36, width=1280, heads=20)
TINY = Shape("tiny GPT-2", blocks=3, width=48, heads=4)


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """One model and one prompt, as every contestant gets them."""

    shape: Shape
    model: LanguageModel
    token_ids: tuple[int, ...]
    target_id: int = TARGET_ID

    @property
    def neurons(self) -> int:
        """Neurons of one block."""
        return self.model.blocks[0].neurons

    @property
    def prompt(self) -> Prompt:
        """The prompt as the package wants it."""
        return prompt_of(self.token_ids, self.target_id)

    def with_tokens(self, tokens: int) -> "Subject":
        """The same model before a prompt of another length."""
        return dataclasses.replace(self, token_ids=token_ids(tokens))


def subject_of(shape: Shape, tokens: int, device: str = "cpu") -> Subject:
    """A model of random weights (seed 0) and a prompt of random tokens (seed 1)."""
    config = GPT2Config(
        n_layer=shape.blocks, n_embd=shape.width, n_head=shape.heads, n_positions=shape.context
    )
    model = lesion.load(config=config, random_weights=0, device=device)
    return Subject(shape, model, token_ids(tokens))


def token_ids(tokens: int, seed: int = 1) -> tuple[int, ...]:
    """Random ids of GPT-2's vocabulary; a longer prompt begins with the shorter ones."""
    draw = random.Random(seed)  # noqa: S311 - a prompt, no secret
    return tuple(draw.randrange(50_000) for _ in range(tokens))


def prompt_of(ids: tuple[int, ...], target_id: int, prompt_id: int = 0) -> Prompt:
    """A prompt of token ids that stand for no text."""
    return Prompt(prompt_id, f"{len(ids)} random tokens", ids, "random token", target_id)


def shared_copy(hf_model: PreTrainedModel) -> PreTrainedModel:
    """Modules of its own for a library that changes them, over the same weights in memory."""
    weights = [*hf_model.parameters(), *hf_model.buffers()]
    return copy.deepcopy(hf_model, {id(tensor): tensor for tensor in weights})
