"""TransformerLens: its bridge over the Hugging Face modules, with hooks at `hook_pre`."""

import itertools
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformer_lens import TransformerBridge

from benchmarks.cells import Cell
from benchmarks.peers import Peer
from benchmarks.peers.loop import lesioned_values
from benchmarks.subjects import Subject, shared_copy


class Lens(Peer):
    """One run with one hook a lesion."""

    label = "TransformerLens, one hook a run"
    package = "transformer-lens"

    def __init__(self, subject: Subject) -> None:
        # The name only labels a model that is passed in: nothing is fetched.
        self.bridge = TransformerBridge.boot_transformers(
            "gpt2",
            hf_model=shared_copy(subject.model.hf_model),
            tokenizer=subject.model.tokenizer,
            device=str(subject.model.device),
        )
        self.neurons, self.target_id = subject.neurons, subject.target_id
        self.token_ids = torch.tensor([subject.token_ids], device=subject.model.device)

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One run a cell."""
        return [self._run([cell])[0] for cell in cells]

    @torch.no_grad()
    def _run(self, cells: Sequence[Cell]) -> list[float]:
        """Cells of one block, each on its own row of the batch axis."""
        counts = [cell.count(self.neurons) for cell in cells]

        def edit(values: Tensor, hook: Any) -> Tensor:  # noqa: ARG001 - passed by name
            for row, count in enumerate(counts):
                values[row, -1] = lesioned_values(values[row, -1], count)
            return values

        tokens = self.token_ids.expand(len(cells), -1)
        name = f"blocks.{cells[0].layer}.mlp.hook_pre"
        logits = self.bridge.run_with_hooks(tokens, fwd_hooks=[(name, edit)])
        return logits[:, -1].log_softmax(dim=-1)[:, self.target_id].tolist()


class LensBatched(Lens):
    """All fractions of a block in one run, side by side on the batch axis."""

    label = "TransformerLens, a block's fractions batched by hand"

    def log_probs(self, cells: Sequence[Cell]) -> list[float]:
        """One run a block."""
        groups = itertools.groupby(cells, key=operator.attrgetter("layer"))
        return [found for _, group in groups for found in self._run(list(group))]
