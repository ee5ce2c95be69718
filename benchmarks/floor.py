"""The fewest floating-point operations that a job can take, counted from shapes alone.

    prefix     (T − 1) tokens · Σ_ℓ 2 · parameters(ℓ)
    rows       Σ_ℓ rows(ℓ) · 2 · parameters(ℓ),  rows(ℓ) = 1 clean + lesions of blocks ≤ ℓ
    attention  4 · width · keys a token or row and block: itself and those before it
    head       rows(last) · 2 · width · vocabulary, none for the prefix

`parameters(ℓ)` are those of the block's matrices; a multiplication and an addition are two
operations. Norms, nonlinearities, sorting and softmax are left out here and in what is counted.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from benchmarks.subjects import Subject


@dataclasses.dataclass(frozen=True)
class Floor:
    """Operations by part."""

    prefix: int
    rows: int
    attention: int
    head: int

    @property
    def total(self) -> int:
        """All parts."""
        return self.prefix + self.rows + self.attention + self.head


def sweep_floor(subject: Subject, lesions_by_block: Sequence[int]) -> Floor:
    """The floor of lesions of a prompt's last token, given how many begin in each block."""
    return _floor(subject, lesions_by_block, [len(subject.token_ids)])


def text_floor(subject: Subject, lesions_by_block: Sequence[int]) -> Floor:
    """The floor of the same lesions of every token of the text."""
    return _floor(subject, lesions_by_block, range(1, len(subject.token_ids) + 1))


def loop_forward(subject: Subject, logits: int) -> int:
    """Operations of one plain forward that gives the logits of so many tokens."""
    tokens = len(subject.token_ids)
    keys = tokens * (tokens + 1) // 2
    width, vocabulary = subject.shape.width, subject.model.config.vocab_size
    blocks = sum(2 * tokens * matrices + 4 * width * keys for matrices in _matrices(subject))
    return blocks + 2 * logits * width * vocabulary


def _floor(subject: Subject, lesions_by_block: Sequence[int], lengths: Sequence[int]) -> Floor:
    """`lengths`: tokens that each question's rows see, their own token counted."""
    matrices = _matrices(subject)
    rows = [1 + begun for begun in itertools.accumulate(lesions_by_block)]
    before = max(lengths) - 1
    width, vocabulary = subject.shape.width, subject.model.config.vocab_size
    keys = len(matrices) * before * (before + 1) // 2 + sum(rows) * sum(lengths)
    return Floor(
        prefix=2 * before * sum(matrices),
        rows=2 * len(lengths) * sum(map(int.__mul__, rows, matrices)),
        attention=4 * width * keys,
        head=2 * len(lengths) * rows[-1] * width * vocabulary,
    )


def _matrices(subject: Subject) -> list[int]:
    """Per block, the numbers in its matrices."""
    return [
        sum(weight.numel() for weight in block.module.parameters() if weight.dim() == 2)
        for block in subject.model.blocks
    ]
