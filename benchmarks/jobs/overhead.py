"""One lesion of GPT-2 Large, where nothing can be shared, against one plain forward."""

import torch

from benchmarks.cells import Cell
from benchmarks.peers import peer_class
from benchmarks.results import Fact, Found, Target
from benchmarks.subjects import GPT2_LARGE, subject_of
from benchmarks.timing import in_turn, median

ROUNDS = 15
LAYERS = (0, 18, 35)


def overhead() -> Found:
    """The promise is for the first block, whose lesion computes most."""
    subject = subject_of(GPT2_LARGE, tokens=7)
    packed = peer_class("packed")(subject)
    token_ids = torch.tensor([subject.token_ids])

    @torch.no_grad()
    def forward() -> None:
        subject.model.hf_model(token_ids, use_cache=False)

    runs = {"forward": forward} | {
        f"block {layer}": lambda layer=layer: packed.log_probs([Cell(layer, "0.1")])
        for layer in LAYERS
    }
    in_turn(runs, rounds=2)
    seconds = {name: median(each) for name, each in in_turn(runs, ROUNDS).items()}
    ratios = {name: each / seconds["forward"] for name, each in seconds.items()}
    worst = max(LAYERS, key=lambda layer: ratios[f"block {layer}"])
    return Found(
        title="One lesion of GPT-2 Large, 7 tokens, against one plain forward",
        targets=(
            Target("one lesion, 7 tokens: time of one plain forward", ratios[f"block {worst}"], 1.5,
                   "×", False, f"a lesion of block {worst}, the slowest of {LAYERS}; medians of "
                   f"{ROUNDS} rounds"),
        ),
        facts=(
            Fact("one plain forward", f"{seconds['forward'] * 1e3:.0f} ms"),
            *(Fact(f"clean run and one lesion of {name}",
                   f"{seconds[name] * 1e3:.0f} ms, {ratios[name]:.2f} ×")
              for name in seconds if name != "forward"),
        ),
    )  # fmt: skip
