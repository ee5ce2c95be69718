"""The floating-point operations that a call really does, counted while it runs.

PyTorch's counter sees every matrix product. It does not see PyTorch's fused attention on a CPU,
which plain models use; the packed engine's attention is written as products and is seen.
"""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook
from torch.utils.flop_counter import FlopCounterMode
from transformers.pytorch_utils import Conv1D

_PROJECTIONS = (torch.ops.aten.mm, torch.ops.aten.addmm)


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

    def count(module: nn.Module, args: tuple[Tensor, ...], _output: object) -> None:
        nonlocal found
        if isinstance(module, Conv1D | nn.Linear):
            vectors = args[0].numel() // args[0].shape[-1]
            found += 2 * vectors * module.weight.numel()

    # A hook on all modules at once: the engine refuses models that carry hooks of their own.
    handle = register_module_forward_hook(count)
    try:
        run()
    finally:
        handle.remove()
    return found
