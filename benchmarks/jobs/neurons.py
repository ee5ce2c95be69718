"""Every single neuron of GPT-2 small, zeroed at `post`, one at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

import lesion
from benchmarks.agreement import difference, disagreement
from benchmarks.counting import counted
from benchmarks.floor import sweep_floor
from benchmarks.peers.packed import Packed
from benchmarks.results import Contestant, Fact, Found, Target, ratio
from benchmarks.subjects import GPT2_SMALL, Subject, subject_of
from benchmarks.timing import in_turn, median
from lesion.engines.packed import PackedEngine

ROUNDS = 2
SAMPLE = 48
Neuron = tuple[int, int]


def every_neuron(subject: Subject) -> list[Neuron]:
    """All (layer, neuron) pairs of a model."""
    return [(layer, neuron) for layer in range(subject.shape.blocks)
            for neuron in range(subject.neurons)]  # fmt: skip


class NeuronLoop:
    """A hook before the down projection, and one forward a neuron."""

    def __init__(self, subject: Subject) -> None:
        self.hf_model, self.target_id = subject.model.hf_model, subject.target_id
        self.token_ids = torch.tensor([subject.token_ids], device=subject.model.device)

    def log_probs(self, neurons: Sequence[Neuron]) -> list[float]:
        """Log-prob of the target without each neuron."""
        return [self._log_prob(*pair) for pair in neurons]

    @torch.no_grad()
    def _log_prob(self, layer: int, neuron: int) -> float:
        def edit(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            args[0][:, -1, neuron] = 0
            return args

        down = self.hf_model.transformer.h[layer].mlp.c_proj
        handle = down.register_forward_pre_hook(edit)
        try:
            logits = self.hf_model(self.token_ids, use_cache=False).logits[0, -1]
        finally:
            handle.remove()
        return logits.log_softmax(dim=-1)[self.target_id].item()


def packed_neurons(subject: Subject, neurons: Sequence[Neuron]) -> list[float]:
    """All of them, in one call."""
    lesions = [
        lesion.Lesion(
            select=lesion.neuron_set([pair]), replace="zero", site="post", layers=pair[:1]
        )
        for pair in neurons
    ]
    outcome = PackedEngine(subject.model).run(subject.prompt, lesions)
    return outcome.lesioned.log_prob.tolist()


def neurons() -> Found:
    """36,864 neurons and 7 tokens, against the loop on a sample."""
    subject = subject_of(GPT2_SMALL, tokens=7)
    pairs = every_neuron(subject)
    places = range(len(pairs) // SAMPLE // 2, len(pairs), len(pairs) // SAMPLE)
    sample = [pairs[place] for place in places]
    loop = NeuronLoop(subject)
    loop.log_probs(sample[:2])
    found: dict[str, list[float]] = {}
    runs = {
        "packed": lambda: found.update(packed=packed_neurons(subject, pairs)),
        "loop": lambda: found.update(loop=loop.log_probs(sample)),
    }
    seconds = in_turn(runs, ROUNDS)
    worst = difference([found["packed"][place] for place in places], found["loop"])
    count, times = len(pairs), {name: tuple(each) for name, each in seconds.items()}
    rows = (
        Contestant("packed", Packed.label, Packed.version(), count, count, times["packed"], worst,
                   disagreement(worst)),
        Contestant("loop", "loop, one forward a neuron", torch.__version__, count, len(sample),
                   times["loop"], 0.0),
    )  # fmt: skip
    floor = sweep_floor(subject, [subject.neurons] * subject.shape.blocks).total
    operations = counted(lambda: packed_neurons(subject, pairs)).total
    targets = (
        Target(
            "every single neuron of GPT-2 small: floating-point operations over the floor",
            operations / floor,
            1.25,
            "×",
            at_least=False,
            detail=f"{operations / 1e12:.2f} TFLOP counted, floor {floor / 1e12:.2f}",
        ),
        Target(
            "every single neuron of GPT-2 small: faster per lesion than the loop",
            ratio(rows, "loop"),
            35,
            "×",
            at_least=True,
            detail=f"the loop was timed on {len(sample)} of {count:,} lesions a round",
        ),
    )
    speed = operations / median(seconds["packed"]) / 1e9
    facts = (Fact("arithmetic speed of the packed engine", f"{speed:.0f} GFLOP/s"),)
    title = f"All {count:,} single neurons of GPT-2 small, zeroed at `post`, 7 tokens"
    return Found(title, targets, rows, facts=facts)
