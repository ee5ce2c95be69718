"""Every block × nine coarse fractions of GPT-2 Large: the sweep of the protocol."""

import functools
import logging
import statistics
from collections.abc import Mapping, Sequence

from benchmarks.agreement import difference, disagreement
from benchmarks.cells import COARSE, Cell, every_cell, spread_blocks, spread_cells
from benchmarks.counting import counted
from benchmarks.floor import loop_forward, sweep_floor
from benchmarks.peers import PEERS, Peer, peer_class
from benchmarks.results import Contestant, Fact, Found, Target, ratio
from benchmarks.subjects import GPT2_LARGE, Subject, subject_of
from benchmarks.timing import first_line, in_turn, timed

ROUNDS = 3
WARM_UP = 9
log = logging.getLogger("benchmarks")


def sweep_short() -> Found:
    """7 tokens: the packed engine, the whole loop once beside it, and samples of every library."""
    subject = subject_of(GPT2_LARGE, tokens=7)
    cells = every_cell(GPT2_LARGE)
    samples = {name: spread_cells(GPT2_LARGE, 36) for name in PEERS if name != "loop-last-logits"}
    samples |= {"packed": cells, "lens-batched": spread_blocks(GPT2_LARGE, 12)}
    contest = _Contest(subject, samples, cells)
    contest.run(ROUNDS)
    paired = contest.paired()
    contestants = contest.contestants()
    what = "36 × 9 sweep, 7 tokens"
    targets = (
        paired,
        Target(
            f"{what}: faster than TransformerLens with a block's fractions batched by hand",
            ratio(contestants, "lens-batched"),
            15,
            "×",
            at_least=True,
        ),
        _operations(contest.peers["packed"], subject, cells, what),
    )
    title = "36 blocks × 9 fractions of GPT-2 Large, 7 tokens"
    return Found(title, targets, tuple(contestants), facts=(_ceiling(subject, cells),))


def sweep_long() -> Found:
    """256 tokens: the loop on a sample, with the logits of all tokens and of the last alone."""
    subject = subject_of(GPT2_LARGE, tokens=256)
    cells = every_cell(GPT2_LARGE)
    sample = spread_cells(GPT2_LARGE, 4)
    contest = _Contest(
        subject, {"packed": cells, "loop": sample, "loop-last-logits": sample}, cells
    )
    contest.run(ROUNDS)
    contestants = contest.contestants()
    what = "36 × 9 sweep, 256 tokens"
    targets = (
        Target(
            f"{what}: faster than the protocol's loop",
            ratio(contestants, "loop"),
            120,
            "×",
            at_least=True,
            detail=f"the loop was timed on {len(sample)} of {len(cells)} lesions a round",
        ),
        _operations(contest.peers["packed"], subject, cells, what),
    )
    title = "36 blocks × 9 fractions of GPT-2 Large, 256 tokens"
    return Found(title, targets, tuple(contestants), facts=(_ceiling(subject, cells),))


class _Contest:
    """Contestants on one subject: each on its sample, all checked against the loop."""

    def __init__(
        self, subject: Subject, samples: Mapping[str, Sequence[Cell]], cells: Sequence[Cell]
    ) -> None:
        self.subject, self.samples, self.cells = subject, dict(samples), cells
        self.peers: dict[str, Peer] = {}
        self.errors: dict[str, str] = {}
        self.found: dict[str, list[float]] = {}
        self.seconds: dict[str, list[float]] = {}
        for name, sample in samples.items():
            try:
                peer = peer_class(name)(subject)
                peer.log_probs(cells if name == "packed" else sample[:WARM_UP])
            except Exception as error:
                log.exception("%s cannot do this job", name)
                self.errors[name] = first_line(error)
            else:
                self.peers[name] = peer

    def run(self, rounds: int) -> None:
        """All contestants in turn, each on its sample; the last round's numbers are kept."""

        def measure(name: str) -> None:
            self.found[name] = self.peers[name].log_probs(self.samples[name])

        runs = {name: functools.partial(measure, name) for name in self.peers}
        self.seconds = in_turn(runs, rounds)

    def paired(self) -> Target:
        """The whole loop once, between two packed runs; the loop's own row becomes this run."""
        packed, loop = self.peers["packed"], self.peers["loop"]
        around = [timed(lambda: packed.log_probs(self.cells))]
        whole = timed(lambda: self.found.update(loop=loop.log_probs(self.cells)))
        around.append(timed(lambda: packed.log_probs(self.cells)))
        self.samples["loop"], self.seconds["loop"] = self.cells, [whole]
        detail = (
            f"{len(self.cells)} forwards in {whole:.1f} s; the packed engine just before and just "
            f"after in {around[0]:.2f} s and {around[1]:.2f} s"
        )
        log.info("  paired: %s", detail)
        what = "36 × 9 sweep, 7 tokens: faster than the protocol's loop, both whole, in one run"
        return Target(what, whole / statistics.mean(around), 50, "×", at_least=True, detail=detail)

    def contestants(self) -> list[Contestant]:
        """A row for each, those that failed too; what the loop did not measure is not compared."""
        loop = dict(zip(self.samples["loop"], self.found["loop"], strict=True))
        return [self._contestant(name, loop) for name in self.samples]

    def _contestant(self, name: str, loop: Mapping[Cell, float]) -> Contestant:
        sample = self.samples[name]
        if name in self.errors:
            lesions = len(self.cells)
            return Contestant(name, name, "", lesions, 0, (), error=self.errors[name])
        shared = [place for place, cell in enumerate(sample) if cell in loop]
        found = [self.found[name][place] for place in shared]
        worst = difference(found, [loop[sample[place]] for place in shared])
        return Contestant(
            name,
            self.peers[name].label,
            self.peers[name].version(),
            lesions=len(self.cells),
            timed=len(sample),
            seconds=tuple(self.seconds[name]),
            difference=worst,
            error=disagreement(worst),
        )


def _operations(packed: Peer, subject: Subject, cells: Sequence[Cell], what: str) -> Target:
    found = counted(lambda: packed.log_probs(cells)).total
    floor = sweep_floor(subject, [len(COARSE)] * subject.shape.blocks).total
    detail = f"{found / 1e9:,.1f} GFLOP counted, floor {floor / 1e9:,.1f}"
    what = f"{what}: floating-point operations over the floor"
    return Target(what, found / floor, 1.10, "×", at_least=False, detail=detail)


def _ceiling(subject: Subject, cells: Sequence[Cell]) -> Fact:
    loop = len(cells) * loop_forward(subject, logits=len(subject.token_ids))
    floor = sweep_floor(subject, [len(COARSE)] * subject.shape.blocks).total
    what = "operations of the loop over the floor: its speed-up at equal arithmetic speed"
    return Fact(what, f"{loop / floor:.0f} ×")
