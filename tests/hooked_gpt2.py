"""Plain forward hooks on a Hugging Face GPT-2: what the tests compare everything else with."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import GPT2LMHeadModel

SITES = ("pre", "post", "out")


@contextmanager
def last_token_edit(
    hf_model: GPT2LMHeadModel, layer: int, site: str, change: Callable[[Tensor], Tensor]
) -> Iterator[None]:
    """Applies ``change`` to the last token's [row, width] values at one site, while it lasts."""
    mlp = hf_model.transformer.h[layer].mlp

    def edit(values: Tensor) -> Tensor:
        edited = values.clone()
        edited[:, -1] = change(values[:, -1].clone())
        return edited

    if site == "pre":
        handle = mlp.c_fc.register_forward_hook(lambda _module, _args, output: edit(output))
    elif site == "post":
        handle = mlp.c_proj.register_forward_pre_hook(lambda _module, args: (edit(args[0]),))
    else:
        handle = mlp.c_proj.register_forward_hook(lambda _module, _args, output: edit(output))
    try:
        yield
    finally:
        handle.remove()


def logits_of(
    hf_model: GPT2LMHeadModel, token_ids: Sequence[int], rows: int = 1
) -> Float[Tensor, "row token vocabulary"]:
    """Runs ``rows`` copies of one unpadded text."""
    with torch.no_grad():
        return hf_model(torch.tensor([list(token_ids)] * rows), use_cache=False).logits


def last_token_at(
    hf_model: GPT2LMHeadModel, token_ids: Sequence[int], layer: int, site: str
) -> Float[Tensor, " width"]:
    """Reads the last token's vector at one site of one block."""
    seen = []

    def keep(values: Tensor) -> Tensor:
        seen.append(values[0])
        return values

    with last_token_edit(hf_model, layer, site, keep):
        logits_of(hf_model, token_ids)
    return seen[0]
