"""pyvene: a function intervention on the output of `c_fc` at one position."""

from collections.abc import Sequence
from typing import Any

import pyvene
import torch
from torch import Tensor

from benchmarks.cells import Cell
from benchmarks.peers import Peer
from benchmarks.peers.loop import lesioned_values
from benchmarks.subjects import Subject, shared_copy


class Pyvene(Peer):
    """One intervention a lesion; the intervenable model of a block is made once and kept."""

    label = "pyvene, one intervention a lesion"
    package = "pyvene"

    def __init__(self, subject: Subject) -> None:
        self.hf_model = shared_copy(subject.model.hf_model)
        self.neurons, self.target_id = subject.neurons, subject.target_id
        self.token_ids = torch.tensor([subject.token_ids], device=subject.model.device)
        self.count = 0
        self.by_block = [self._intervenable(layer) for layer in range(subject.shape.blocks)]

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One run a cell."""
        return [self._log_prob(cell) for cell in cells]

    @torch.no_grad()
    def _log_prob(self, cell: Cell) -> float:
        self.count = cell.count(self.neurons)
        found = self.by_block[cell.layer](
            base={"input_ids": self.token_ids, "use_cache": False},
            unit_locations={"base": self.token_ids.shape[1] - 1},
            return_dict=True,
        )
        logits = found.intervened_outputs.logits[0, -1]
        return logits.log_softmax(dim=-1)[self.target_id].item()

    def _intervenable(self, layer: int) -> Any:
        def edit(base: Tensor, _source: Tensor | None) -> Tensor:
            return lesioned_values(base, self.count)

        component = f"transformer.h[{layer}].mlp.c_fc.output"
        entry = {"component": component, "unit": "pos", "intervention": edit}
        return pyvene.IntervenableModel(entry, model=self.hf_model)
