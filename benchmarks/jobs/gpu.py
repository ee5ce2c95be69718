"""The same questions on a GPU: a sweep in milliseconds, every neuron in seconds, agreement."""

import time
from collections.abc import Callable

import torch

from benchmarks.agreement import difference, disagreement
from benchmarks.cells import NINETEEN, every_cell, spread_cells
from benchmarks.floor import sweep_floor
from benchmarks.jobs.neurons import every_neuron, packed_neurons
from benchmarks.peers import peer_class
from benchmarks.results import Contestant, Fact, Found, Target
from benchmarks.subjects import GPT2_LARGE, Subject, subject_of
from benchmarks.timing import median
from lesion.engines.reference import ReferenceEngine

ROUNDS = 5
SAMPLE = 36
# fp32 without tensor cores, from the makers' data sheets, in TFLOP/s.
PEAKS_TFLOPS = {
    "H200": 66.9,
    "H100 80GB HBM3": 66.9,
    "A100": 19.5,
    "L40S": 91.6,
    "L4": 30.3,
    "T4": 8.1,
}


def gpu() -> Found:
    """36 × 19 lesions and all single neurons of GPT-2 Large, 7 tokens, fp32 without TF32."""
    torch.set_float32_matmul_precision("highest")
    subject = subject_of(GPT2_LARGE, tokens=7, device="cuda")
    cells, sample = every_cell(GPT2_LARGE, NINETEEN), spread_cells(GPT2_LARGE, SAMPLE)
    packed, loop = peer_class("packed")(subject), peer_class("loop")(subject)
    packed.log_probs(cells)
    loop.log_probs(sample)
    times: dict[str, list[float]] = {"packed": [], "loop": []}
    for _ in range(ROUNDS):
        times["packed"].append(_synchronised(lambda: packed.log_probs(cells)))
        times["loop"].append(_synchronised(lambda: loop.log_probs(sample)))
    reference = ReferenceEngine(subject.model)
    outcome = reference.run(subject.prompt, [cell.lesion() for cell in sample])
    expected = outcome.lesioned.log_prob.tolist()
    rows = []
    for name, peer, timed in (("packed", packed, len(cells)), ("loop", loop, len(sample))):
        worst = difference(peer.log_probs(sample), expected)
        rows.append(
            Contestant(name, peer.label, peer.version(), len(cells), timed, tuple(times[name]),
                       worst, disagreement(worst))
        )  # fmt: skip
    agreement = Target(
        "36 × 19 sweep on a GPU: largest |Δ log-prob| from the reference engine",
        rows[0].difference,
        1e-4,
        "nats",
        at_least=False,
        detail=f"on {len(sample)} lesions",
    )
    speed = Fact("36 × 19 sweep", f"{median(times['packed']) * 1e3:.0f} ms")
    title = "GPT-2 Large on a GPU, 7 tokens, 36 blocks × 19 fractions"
    return Found(title, (agreement,), tuple(rows), facts=(speed, *_neurons(subject)))


def _neurons(subject: Subject) -> tuple[Fact, ...]:
    pairs = every_neuron(subject)
    packed_neurons(subject, pairs[: subject.neurons])
    seconds = _synchronised(lambda: packed_neurons(subject, pairs))
    floor = sweep_floor(subject, [subject.neurons] * subject.shape.blocks).total
    reached, product = floor / seconds / 1e12, _product_tflops()
    facts = [
        Fact(f"all {len(pairs):,} single neurons", f"{seconds:.1f} s, {reached:.1f} TFLOP/s"),
        Fact("share of what one large fp32 product reaches here",
             f"{reached / product:.0%} of {product:.1f} TFLOP/s"),
    ]  # fmt: skip
    name = torch.cuda.get_device_name()
    peak = next((peak for card, peak in PEAKS_TFLOPS.items() if card in name), None)
    if peak is not None:
        facts.append(Fact("share of the card's fp32 peak", f"{reached / peak:.0%} of {peak}"))
    used = torch.cuda.max_memory_allocated() / 1e9
    return (*facts, Fact("most memory allocated, the model's included", f"{used:.1f} GB"))


def _product_tflops(size: int = 8192) -> float:
    one = torch.randn(size, size, device="cuda")
    run = lambda: one @ one  # noqa: E731
    run()
    return 2 * size**3 / min(_synchronised(run) for _ in range(3)) / 1e12


def _synchronised(run: Callable[[], object]) -> float:
    """Seconds until the device has finished."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start
