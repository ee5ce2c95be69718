"""The floating-point operations that a call really does, counted while it runs.

PyTorch's counter sees every matrix product. It does not see PyTorch's fused attention on a CPU,
which plain models use; the packed engine's attention is written as products and is seen.
"""

import contextlib
import dataclasses
from collections.abc import Callable
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

_PROJECTIONS = (torch.ops.aten.mm, torch.ops.aten.addmm)

Forward = Callable[[nn.Module, Tensor], Tensor]


@dataclasses.dataclass(frozen=True)
class Counted:
    """Operations of all matrix products, and of those with weights."""

    total: int
    projections: int


def counted(run: Callable[[], object]) -> Counted:
    """What PyTorch's counter sees."""
    with FlopCounterMode(display=False) as counter:
        run()
    by_operation = counter.get_flop_counts()["Global"]
    projections = sum(by_operation.get(operation, 0) for operation in _PROJECTIONS)
    return Counted(total=counter.get_total_flops(), projections=projections)


def counted_by_hand(run: Callable[[], object]) -> int:
    """The projections alone, from the shapes that reach each module with a matrix."""
    found = 0

    def counting(forward: Forward) -> Forward:
        def counting_forward(module: nn.Module, vectors: Tensor) -> Tensor:
            nonlocal found
            found += 2 * (vectors.numel() // vectors.shape[-1]) * module.weight.numel()
            return forward(module, vectors)

        return counting_forward

    # No hooks: the packed engine refuses a model that carries any but its own.
    with contextlib.ExitStack() as stack:
        for kind in (Conv1D, nn.Linear):
            stack.enter_context(mock.patch.object(kind, "forward", counting(kind.forward)))
        run()
    return found
