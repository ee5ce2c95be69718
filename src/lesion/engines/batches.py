"""Which prompts are measured together, and how many rows one pass may carry.

Prompts that begin one another (the tokens of one text, each as a last token) share the clean pass
of the longest: they are its questions. Prompts that share nothing stand side by side, shorter ones
padded on the right, where nobody sees the padding.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

MULTIPLE = 8
"""Rows of a matrix product come in multiples of this, so that all are summed in one order."""
MOST_TEXTS = 32
_CPU_BYTES = 512 * 2**20
_SHARE = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Batch:
    """Texts side by side, each with the same number of questions.

    Attributes:
        prompts: per text its questions: prompts that are the text or begin it.
        places: where they stood among the prompts that were given.
    """

    prompts: tuple[tuple[Prompt, ...], ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def keys(self) -> list[list[str]]:
        """The prompts' keys, from which drawn sets derive."""
        return [[prompt.key for prompt in questions] for questions in self.prompts]

    def positions(self, device: torch.device) -> Int64[Tensor, "text question"]:
        """The index of every question's own token: its last."""
        ends = [[len(prompt.token_ids) - 1 for prompt in each] for each in self.prompts]
        return torch.tensor(ends, device=device)

    def last_tokens(self, device: torch.device) -> Int64[Tensor, "text question"]:
        """The id of every question's own token."""
        ends = [[prompt.token_ids[-1] for prompt in each] for each in self.prompts]
        return torch.tensor(ends, device=device)

    def prefix_tokens(self, device: torch.device) -> Int64[Tensor, "text token"]:
        """The ids of all tokens that some question sees before its own.

        Padded on the right with 0, to a multiple of `MULTIPLE`; nobody sees the padding.
        """
        texts = [max((p.token_ids for p in each), key=len)[:-1] for each in self.prompts]
        length = -(-max(map(len, texts)) // MULTIPLE) * MULTIPLE
        rows = [[*text, *([0] * (length - len(text)))] for text in texts]
        return torch.tensor(rows, dtype=torch.int64, device=device)

    def split(self, questions: int) -> "Iterator[Batch]":
        """The same texts with at most so many questions at a time."""
        for start in range(0, len(self.prompts[0]), questions):
            part = slice(start, start + questions)
            yield Batch(
                tuple(each[part] for each in self.prompts),
                tuple(each[part] for each in self.places),
            )


def batches(
    prompts: Sequence[Prompt], places: Sequence[int], rows_a_question: int, most_rows: int
) -> Iterator[Batch]:
    """The prompts at some places in batches whose rows fit into one pass, as far as they can."""
    texts = _texts(prompts, places)
    alone = [text[0] for text in texts if len(text) == 1]
    # Of about the same length, so that little is padded.
    alone.sort(key=lambda place: (len(prompts[place].token_ids), place))
    slots_a_text = -(-rows_a_question // MULTIPLE) * MULTIPLE
    together = min(MOST_TEXTS, max(1, most_rows // slots_a_text))
    for start in range(0, len(alone), together):
        part = alone[start : start + together]
        yield Batch(tuple((prompts[place],) for place in part), tuple((place,) for place in part))
    for text in texts:
        if len(text) > 1:
            yield Batch((tuple(prompts[place] for place in text),), (tuple(text),))


def _texts(prompts: Sequence[Prompt], places: Sequence[int]) -> list[list[int]]:
    """Places of prompts, those together of which each begins the longest, in their order."""
    texts: list[list[int]] = []
    longest: tuple[int, ...] = ()
    # In this order a prompt comes right after one that it begins, if there is any.
    for place in sorted(places, key=lambda place: prompts[place].token_ids, reverse=True):
        token_ids = prompts[place].token_ids
        if texts and longest[: len(token_ids)] == token_ids:
            texts[-1].append(place)
        else:
            texts.append([place])
            longest = token_ids
    return sorted(sorted(text) for text in texts)


def default_rows(model: LanguageModel, tokens: int, memory_bytes: int | None) -> int:
    """How many rows one pass carries, so that they take about so much memory; a multiple of 8.

    Without `memory_bytes` what `default_memory` says.
    """
    if memory_bytes is None:
        memory_bytes = default_memory(model.device)
    block = max(model.blocks, key=lambda block: block.neurons)
    heads = getattr(model.config, "num_attention_heads", 1)
    # Per row: the block's input and output and what lies between, the MLP, attention scores.
    numbers = 16 * block.width + 6 * block.neurons + 4 * heads * (tokens + 1)
    size = torch.finfo(model.hf_model.dtype).bits // 8
    return max(8, memory_bytes // (numbers * max(size, 4)) // 8 * 8)


def default_memory(device: torch.device) -> int:
    """Bytes for the rows of one pass: half a gibibyte on a CPU, an eighth of a GPU's memory.

    Of the whole memory, not of what is free now, so that the same machine always cuts alike.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory // _SHARE
    return min(_CPU_BYTES, _machine_bytes() // _SHARE)


def _machine_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError):  # a system without these names
        return 4 * 2**30
