"""Every contestant agrees with the protocol's loop on a tiny model, and the counts add up."""

import logging

from benchmarks.agreement import difference
from benchmarks.cells import COARSE, every_cell
from benchmarks.counting import counted, counted_by_hand
from benchmarks.floor import sweep_floor
from benchmarks.jobs.every_token import Text, WholeTextLoop, packed_text
from benchmarks.jobs.neurons import NeuronLoop, every_neuron, packed_neurons
from benchmarks.peers import PEERS, Peer, peer_class
from benchmarks.subjects import TINY, Subject, subject_of
from benchmarks.timing import first_line

TIGHT_NATS = 1e-4
TOKENS = 7
log = logging.getLogger("benchmarks")


def check() -> bool:
    """Whether all agree; each finding is logged."""
    subject = subject_of(TINY, TOKENS)
    findings = [*_peers(subject), *_packed_jobs(subject), *_counts(subject)]
    for good, text in findings:
        log.info("%s  %s", "ok      " if good else "DIFFERS ", text)
    return all(good for good, _ in findings)


def _peers(subject: Subject) -> list[tuple[bool, str]]:
    cells = every_cell(TINY)
    loop = peer_class("loop")(subject).log_probs(cells)
    findings = []
    for name in PEERS:
        try:
            peer: Peer = peer_class(name)(subject)
            found = peer.log_probs(cells)
        except Exception as error:
            findings.append((False, f"{name}: {first_line(error)}"))
            continue
        worst = difference(found, loop)
        findings.append((worst <= TIGHT_NATS, f"{name} {peer.version()}: {worst:.1e} nats"))
    spread = max(loop) - min(loop)
    findings.append((spread > 10 * TIGHT_NATS, f"the lesions differ by {spread:.1e} nats"))
    return findings


def _packed_jobs(subject: Subject) -> list[tuple[bool, str]]:
    text = Text.of(subject, tokens=12)
    cases = text.spread(40)
    loop, cut = WholeTextLoop(text), WholeTextLoop(text, cut=True)
    packed = packed_text(text)
    numbers = [packed[case] for case in cases]
    whole = difference(numbers, loop.log_probs(cases))
    shortened = difference(numbers, cut.log_probs(cases))
    neurons = every_neuron(subject)
    single = difference(packed_neurons(subject, neurons), NeuronLoop(subject).log_probs(neurons))
    return [
        (whole <= TIGHT_NATS, f"every token, against the whole-text loop: {whole:.1e} nats"),
        (shortened <= TIGHT_NATS, f"every token, against the loop cut there: {shortened:.1e} nats"),
        (single <= TIGHT_NATS, f"every neuron, against its loop: {single:.1e} nats"),
    ]


def _counts(subject: Subject) -> list[tuple[bool, str]]:
    cells = every_cell(TINY)
    packed = peer_class("packed")(subject)
    operations = counted(lambda: packed.log_probs(cells))
    by_hand = counted_by_hand(lambda: packed.log_probs(cells))
    floor = sweep_floor(subject, [len(COARSE)] * TINY.blocks)
    loop = peer_class("loop")(subject)
    loop_operations = counted(lambda: loop.log_probs(cells[:1]))
    loop_by_hand = counted_by_hand(lambda: loop.log_probs(cells[:1]))
    return [
        (operations.projections == by_hand, f"packed: {operations.projections} FLOP in projections,"
         f" {by_hand} by hand"),
        (loop_operations.projections == loop_by_hand, f"loop: {loop_operations.projections} FLOP in"
         f" projections, {loop_by_hand} by hand"),
        (operations.total >= floor.total, f"packed: {operations.total} FLOP, floor {floor.total}"),
    ]  # fmt: skip
