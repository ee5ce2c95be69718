"""What a lesion does to the vectors at its site: rank the neurons, choose, overwrite.

The vectors are rows; every function treats each row by itself.
"""

import functools

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from lesion.interventions.replacement import Replacement
from lesion.interventions.selection import (
    DrawnRanking,
    NeuronSet,
    Order,
    RankKey,
    Selection,
)

NEAR_TIE = 1e-5
"""Keys closer than this share of the largest |key| may change places by rounding.

In half precision it is four times the distance of two neighbouring numbers.
"""


def rank_keys(
    key: RankKey,
    vectors: Float[Tensor, "row unit"],
    post: Float[Tensor, "row neuron"] | None,
    output_norms: Float[Tensor, " neuron"] | None,
) -> Float[Tensor, "row unit"]:
    """The numbers by which the neurons are ranked; `post` and the norms serve the key `write`."""
    if key == "value":
        return vectors
    if key == "abs":
        return vectors.abs()
    assert post is not None, "the rank key write needs post"
    assert output_norms is not None, "the rank key write needs the output norms"
    return post.abs() * output_norms


def ordered(keys: Float[Tensor, "row unit"], order: Order) -> Int64[Tensor, "row unit"]:
    """Unit indices sorted by key; equal keys stand in the order of their index."""
    return keys.sort(dim=-1, descending=order == "descending", stable=True).indices


def drawn_units(
    ranking: DrawnRanking, vectors: Float[Tensor, "row unit"], layer: int, prompt_key: str
) -> Int64[Tensor, "row unit"]:
    """The units of every row in a drawn order, which does not look at the vectors' values."""
    drawn = ranking.neurons(layer, prompt_key, vectors.shape[-1])
    return torch.from_numpy(drawn.astype(np.int64)).to(vectors.device).expand(vectors.shape)


def chosen_units(
    selection: Selection,
    order: Int64[Tensor, "row unit"] | None,
    vectors: Float[Tensor, "row unit"],
    layer: int,
) -> Bool[Tensor, "row unit"]:
    """Which units a selection takes, given the order of its ranking (None for a listed set)."""
    chosen = torch.zeros(vectors.shape, dtype=torch.bool, device=vectors.device)
    if isinstance(selection, NeuronSet):
        chosen[:, list(selection.neurons_in(layer))] = True
        return chosen
    assert order is not None, "every selection but a set has a ranking"
    positions = selection.positions(vectors.shape[-1])
    return chosen.scatter(-1, order[:, positions.start : positions.stop], True)


def ranks(order: Int64[Tensor, "row unit"]) -> Int64[Tensor, "row unit"]:
    """The place of every unit in an order."""
    places = torch.arange(order.shape[-1], device=order.device).expand(order.shape)
    return torch.empty_like(order).scatter_(-1, order, places)


def near_ties(
    sorted_keys: Float[Tensor, "row unit"], edges: Int64[Tensor, "row edge"]
) -> Bool[Tensor, "row edge"]:
    """Whether the keys on both sides of an edge (before position e) nearly agree.

    An edge at either end of the order separates nothing.
    """
    size = sorted_keys.shape[-1]
    inside = (edges > 0) & (edges < size)
    above = sorted_keys.gather(-1, (edges - 1).clamp(min=0))
    below = sorted_keys.gather(-1, edges.clamp(max=size - 1))
    share = max(NEAR_TIE, 4 * torch.finfo(sorted_keys.dtype).eps)
    tolerance = share * sorted_keys.abs().amax(dim=-1, keepdim=True)
    return inside & ((above - below).abs() < tolerance)


@functools.cache
def signature_weights(layer: int, size: int) -> Int64[Tensor, " unit"]:
    """One number a unit of a block; the sum over a set, modulo 2⁶⁴, is the set's signature."""
    raw = np.random.PCG64(layer).random_raw(size)
    return torch.from_numpy(raw.view(np.int64))


def replacement_values(
    replacement: Replacement, vectors: Float[Tensor, "row unit"]
) -> Float[Tensor, "row 1"]:
    """What the chosen units of every row are overwritten with, from that row's own vector."""
    if replacement.kind == "median":
        # torch takes the lower of the two middle values, as the protocol asks.
        return vectors.median(dim=-1, keepdim=True).values
    if replacement.kind == "median_mid":
        middle = vectors.sort(dim=-1).values
        size = vectors.shape[-1]
        return middle[:, (size - 1) // 2 : size // 2 + 1].mean(dim=-1, keepdim=True)
    if replacement.kind == "mean":
        return vectors.mean(dim=-1, keepdim=True)
    if replacement.kind == "min":
        return vectors.amin(dim=-1, keepdim=True)
    constant = 0.0 if replacement.kind == "zero" else replacement.constant
    assert constant is not None, "a constant replacement has its number"
    return torch.full_like(vectors[:, :1], constant)


def overwritten(
    vectors: Float[Tensor, "row unit"],
    chosen: Bool[Tensor, "row unit"],
    replacement: Replacement,
) -> Float[Tensor, "row unit"]:
    """The vectors with the chosen units overwritten; the originals are left as they are."""
    return torch.where(chosen, replacement_values(replacement, vectors), vectors)
