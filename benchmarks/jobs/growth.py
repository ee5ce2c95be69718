"""How the time of a sweep grows with tokens, with fractions and with blocks."""

import logging
from collections.abc import Sequence

from benchmarks.cells import COARSE, NINETEEN, every_cell
from benchmarks.floor import sweep_floor
from benchmarks.peers import peer_class
from benchmarks.results import Found, Point
from benchmarks.subjects import GPT2_LARGE, Subject, subject_of
from benchmarks.timing import median, timed

TOKENS = (7, 64, 256, 1024)
FRACTIONS = (("0.5",), ("0.1", "0.5", "0.9"), COARSE, NINETEEN)
BLOCKS = (6, 12, 24, 36)
ROUNDS = 3
LONG = 1024
log = logging.getLogger("benchmarks")


def growth() -> Found:
    """One curve each; the others stay at 7 tokens, 9 fractions, 36 blocks."""
    subject = subject_of(GPT2_LARGE, tokens=7)
    points = [
        *(_point("tokens", tokens, subject.with_tokens(tokens)) for tokens in TOKENS),
        *(_point("fractions", len(each), subject, each) for each in FRACTIONS),
    ]
    del subject
    for blocks in BLOCKS:
        points.append(_point("blocks", blocks, subject_of(GPT2_LARGE.with_blocks(blocks), 7)))
    return Found(title="Growth of the sweep's time, GPT-2 Large", points=tuple(points))


def _point(curve: str, x: int, subject: Subject, fractions: Sequence[str] = COARSE) -> Point:
    cells = every_cell(subject.shape, fractions)
    packed = peer_class("packed")(subject)
    rounds = 1 if len(subject.token_ids) >= LONG else ROUNDS
    packed.log_probs(cells[:1])
    seconds = median([timed(lambda: packed.log_probs(cells)) for _ in range(rounds)])
    log.info("  %s %d: %.2f s", curve, x, seconds)
    floor = sweep_floor(subject, [len(fractions)] * subject.shape.blocks).total
    return Point(curve, x, seconds, floor)
