"""nnsight: one trace a lesion over the Hugging Face model."""

from collections.abc import Sequence

import nnsight
import torch

from benchmarks.cells import Cell
from benchmarks.peers import Peer
from benchmarks.peers.loop import lesioned_values
from benchmarks.subjects import Subject, shared_copy


class Nnsight(Peer):
    """Assigns to the output of `c_fc` inside a trace."""

    label = "nnsight, one trace a lesion"
    package = "nnsight"

    def __init__(self, subject: Subject) -> None:
        self.traced = nnsight.TransformersModel(
            shared_copy(subject.model.hf_model),
            tokenizer=subject.model.tokenizer,
            task="text-generation",
        )
        self.neurons, self.target_id = subject.neurons, subject.target_id
        self.token_ids = torch.tensor([subject.token_ids], device=subject.model.device)

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One trace a cell."""
        return [self._log_prob(cell.layer, cell.count(self.neurons)) for cell in cells]

    @torch.no_grad()
    def _log_prob(self, layer: int, count: int) -> float:
        model, words = self.traced, {"input_ids": self.token_ids, "use_cache": False}
        with model.trace(words):
            expansion = model.transformer.h[layer].mlp.c_fc
            expansion.output[:, -1] = lesioned_values(expansion.output[:, -1], count)
            logits = model.output.logits[0, -1].save()
        return logits.log_softmax(dim=-1)[self.target_id].item()
