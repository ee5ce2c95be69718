"""Every token of a text, each with every block × nine fractions, measured on its next token."""

import dataclasses
import functools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from benchmarks.agreement import difference, disagreement
from benchmarks.cells import COARSE, Cell, every_cell
from benchmarks.counting import counted
from benchmarks.floor import loop_forward, text_floor
from benchmarks.peers.loop import lesioned_values
from benchmarks.peers.packed import Packed
from benchmarks.results import Contestant, Fact, Found, Target, ratio
from benchmarks.subjects import GPT2_SMALL, Subject, prompt_of, subject_of, token_ids
from benchmarks.timing import in_turn
from lesion.engines.packed import PackedEngine

TOKENS = 256
ROUNDS = 2
SAMPLE = 16
Case = tuple[int, Cell]
"""The index of a token, and what is lesioned there."""


@dataclasses.dataclass(frozen=True, eq=False)
class Text:
    """A model and a text; `next_ids` holds each token's successor."""

    subject: Subject
    next_ids: tuple[int, ...]

    @staticmethod
    def of(subject: Subject, tokens: int) -> "Text":
        """So many tokens of the random text before a model."""
        return Text(subject.with_tokens(tokens), token_ids(tokens + 1)[1:])

    @functools.cached_property
    def cells(self) -> list[Cell]:
        """What is lesioned at each token."""
        return every_cell(self.subject.shape)

    @property
    def lesions(self) -> int:
        """How many there are."""
        return len(self.next_ids) * len(self.cells)

    def spread(self, count: int) -> list[Case]:
        """A sample: tokens at equal distances, blocks and fractions in turn."""
        tokens = len(self.next_ids)
        return [((2 * index + 1) * tokens // (2 * count), self.cells[index * 31 % len(self.cells)])
                for index in range(count)]  # fmt: skip


class WholeTextLoop:
    """One forward a lesion: of the whole text, or (`cut`) of what stands up to the token."""

    def __init__(self, text: Text, cut: bool = False) -> None:
        self.text, self.cut = text, cut
        self.hf_model = text.subject.model.hf_model

    def log_probs(self, cases: Sequence[Case]) -> list[float]:
        """Log-prob of the next token after each lesioned one."""
        return [self._log_prob(token, cell) for token, cell in cases]

    @torch.no_grad()
    def _log_prob(self, token: int, cell: Cell) -> float:
        subject = self.text.subject
        count = cell.count(subject.neurons)

        def edit(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output[:, token] = lesioned_values(output[:, token], count)
            return output

        ids = torch.tensor([subject.token_ids[: token + 1] if self.cut else subject.token_ids])
        handle = self.hf_model.transformer.h[cell.layer].mlp.c_fc.register_forward_hook(edit)
        try:
            logits = self.hf_model(ids, use_cache=False).logits[0, token]
        finally:
            handle.remove()
        return logits.log_softmax(dim=-1)[self.text.next_ids[token]].item()


def packed_text(text: Text) -> dict[Case, float]:
    """All lesions of all tokens, in one call."""
    ids = text.subject.token_ids
    prompts = [
        prompt_of(ids[: index + 1], following, index)
        for index, following in enumerate(text.next_ids)
    ]
    outcomes = PackedEngine(text.subject.model).run_many(
        prompts, [cell.lesion() for cell in text.cells]
    )
    return {
        (index, cell): log_prob
        for index, outcome in enumerate(outcomes)
        for cell, log_prob in zip(text.cells, outcome.lesioned.log_prob.tolist(), strict=True)
    }


def every_token() -> Found:
    """256 tokens of GPT-2 small × 12 blocks × 9 fractions, against two loops on a sample."""
    text = Text.of(subject_of(GPT2_SMALL, TOKENS), TOKENS)
    cases = text.spread(SAMPLE)
    whole, cut = WholeTextLoop(text), WholeTextLoop(text, cut=True)
    found: dict[str, list[float]] = {}

    def run_packed() -> None:
        packed = packed_text(text)
        found["packed"] = [packed[case] for case in cases]

    runs = {
        "packed": run_packed,
        "loop": lambda: found.update(loop=whole.log_probs(cases)),
        "loop-cut": lambda: found.update({"loop-cut": cut.log_probs(cases)}),
    }
    runs["loop"](), runs["loop-cut"]()
    seconds = in_turn(runs, ROUNDS)
    labels = {
        "packed": (Packed.label, Packed.version(), text.lesions),
        "loop": ("loop, a forward of the whole text a lesion", torch.__version__, len(cases)),
        "loop-cut": ("loop, a forward up to the lesioned token", torch.__version__, len(cases)),
    }
    rows = []
    for name, (label, version, timed) in labels.items():
        worst = difference(found[name], found["loop"])
        times = tuple(seconds[name])
        error = disagreement(worst)
        rows.append(Contestant(name, label, version, text.lesions, timed, times, worst, error))
    faster = Target(
        "every token of 256, GPT-2 small: faster per lesion than the whole-text loop",
        ratio(rows, "loop"),
        150,
        "×",
        at_least=True,
        detail=f"the loops were timed on {len(cases)} of {text.lesions:,} lesions a round",
    )
    title = "Every token of a 256-token text, GPT-2 small, 12 blocks × 9 fractions a token"
    return Found(title, (faster,), tuple(rows), facts=_facts(text))


def _facts(text: Text) -> tuple[Fact, ...]:
    subject, tokens = text.subject, len(text.next_ids)
    by_block = [len(COARSE)] * subject.shape.blocks
    floor = text_floor(subject, by_block).total
    whole = loop_forward(subject, logits=tokens) * text.lesions
    cut = sum(
        loop_forward(subject.with_tokens(count), logits=count) * len(text.cells)
        for count in range(1, tokens + 1)
    )
    # A quarter of the text: counting the whole would take as long as a round.
    quarter = Text.of(subject, tokens // 4)
    operations = counted(lambda: packed_text(quarter)).total
    least = text_floor(quarter.subject, by_block).total
    return (
        Fact("operations of the whole-text loop over the floor", f"{whole / floor:.0f} ×"),
        Fact("operations of the loop up to the token over the floor", f"{cut / floor:.0f} ×"),
        Fact(
            f"operations of the packed engine over the floor, text of {tokens // 4} tokens",
            f"{operations / least:.3f} ×",
        ),
    )
