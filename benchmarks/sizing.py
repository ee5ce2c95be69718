"""GPU-hours of a study, computed from shapes: `python -m benchmarks.sizing` prints the table.

The operations of a prompt are the floor of `benchmarks/floor.py`, written out for a model whose
blocks are alike; the time is that over a share of what a card does in float32 at its peak. Nothing
here was measured.
"""

import dataclasses
import sys
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Model:
    """`parameters` are those of the matrices of one block."""

    name: str
    blocks: int
    width: int
    parameters: int
    vocabulary: int


@dataclasses.dataclass(frozen=True)
class Card:
    """Operations a second in float32 without tensor cores, as its maker states them."""

    name: str
    peak: float


def gpt2(name: str, blocks: int, width: int) -> Model:
    """A GPT-2: attention 4 · width², MLP 8 · width² a block."""
    return Model(name, blocks, width, 12 * width**2, 50_257)


MODELS = (
    gpt2("GPT-2 small", 12, 768),
    gpt2("GPT-2 Large", 36, 1280),
    gpt2("GPT-2 XL", 48, 1600),
    Model("Pythia 6.9B", 32, 4096, 12 * 4096**2, 50_432),
    Model("Llama 3 8B", 32, 4096, 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14_336, 128_256),
)
A100, H100 = Card("A100", 19.5e12), Card("H100 SXM", 67e12)
PROMPTS = (1_000, 10_000, 100_000)
TOKENS, LESIONS, SHARE = 32, 19, 0.3


def operations(model: Model, tokens: int, lesions: int) -> int:
    """Of one prompt, when so many lesions begin in each block."""
    rows = [1 + lesions * (block + 1) for block in range(model.blocks)]
    before = tokens - 1
    keys = model.blocks * before * (before + 1) // 2 + sum(rows) * tokens
    return (
        2 * before * model.blocks * model.parameters
        + 2 * sum(rows) * model.parameters
        + 4 * model.width * keys
        + 2 * rows[-1] * model.width * model.vocabulary
    )


def hours(model: Model, card: Card, prompts: int) -> float:
    """GPU-hours of a study."""
    return prompts * operations(model, TOKENS, LESIONS) / (SHARE * card.peak) / 3600


def table() -> Iterator[str]:
    """The lines of the table in `docs/cluster.md`."""
    cards = [f"{card.name}, {prompts:,}" for card in (A100, H100) for prompts in PROMPTS]
    yield "| model | TFLOP a prompt | " + " | ".join(cards) + " |"
    yield "|---|" + "--:|" * (1 + len(cards))
    for model in MODELS:
        found = [hours(model, card, prompts) for card in (A100, H100) for prompts in PROMPTS]
        cells = [f"{operations(model, TOKENS, LESIONS) / 1e12:.2f}", *map(_rounded, found)]
        yield f"| {model.name} | " + " | ".join(cells) + " |"


def _rounded(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


if __name__ == "__main__":
    sys.stdout.writelines(f"{line}\n" for line in table())
