"""The protocol as it is written by hand: a hook, and one forward pass a lesion."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import Cell
from benchmarks.peers import Peer
from benchmarks.subjects import Subject


def lesioned_values(values: Tensor, count: int) -> Tensor:
    """Vectors along the last axis with their `count` largest values at the lower median."""
    chosen = values.topk(count, dim=-1).indices
    median = values.median(dim=-1, keepdim=True).values
    return values.scatter(-1, chosen, median.expand(chosen.shape))


class PlainLoop(Peer):
    """Plain PyTorch hooks on the Hugging Face model, logits of all tokens as it gives them."""

    label = "loop of the protocol (PyTorch hooks)"
    package = "torch"
    forward_words: dict[str, Any] = {"use_cache": False}  # noqa: RUF012 - never changed

    def __init__(self, subject: Subject) -> None:
        self.hf_model = subject.model.hf_model
        self.neurons, self.target_id = subject.neurons, subject.target_id
        self.token_ids = torch.tensor([subject.token_ids], device=subject.model.device)

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One hook and one forward a cell."""
        return [self._log_prob(cell) for cell in cells]

    @torch.no_grad()
    def _log_prob(self, cell: Cell) -> float:
        count = cell.count(self.neurons)

        def edit(_module: nn.Module, _args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            output[:, -1] = lesioned_values(output[:, -1], count)
            return output

        handle = self.hf_model.transformer.h[cell.layer].mlp.c_fc.register_forward_hook(edit)
        try:
            logits = self.hf_model(self.token_ids, **self.forward_words).logits[0, -1]
        finally:
            handle.remove()
        return logits.log_softmax(dim=-1)[self.target_id].item()


class LastLogitsLoop(PlainLoop):
    """The same, told to compute the logits of the last token only."""

    label = "the same loop, logits of the last token only"
    forward_words: dict[str, Any] = {"use_cache": False, "logits_to_keep": 1}  # noqa: RUF012
