"""Attention of packed rows: each sees the tokens before its own, itself, and no other row.

The token axis of a packed pass holds the prefix tokens (in its first pass) and then the rows. With
q, k, v of a row, K, V of the prefix tokens and s the model's scaling:

    softmax over [ s · q·Kᵀ where the token is seen,  s · q·k ]  times  [ V, v ]

A token is seen by a row if it comes before the row's own position, and within the block's sliding
window if it has one. Scores are soft-capped and an attention sink is added where the model has
them. Grouped queries share their keys.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from lesion.errors import EngineRefused
from lesion.models.language_model import LanguageModel

Keys = Float[Tensor, "text head token size"]
Prefix = dict[int, tuple[Keys, Keys]]
"""Keys and values of the prefix tokens, by block."""

# Words that a model may pass to its attention and that change nothing in what is computed.
_HARMLESS = {"dropout", "position_ids", "cache_position", "use_cache", "output_attentions"}


def attend(
    query: Float[Tensor, "text head row size"],
    keys: Float[Tensor, "text group token size"],
    values: Float[Tensor, "text group token size"],
    seen: Bool[Tensor, "text row token"],
    own: tuple[Float[Tensor, "text group row size"], Float[Tensor, "text group row size"]] | None,
    scaling: float,
    softcap: float | None = None,
    sinks: Float[Tensor, " head"] | None = None,
) -> Float[Tensor, "text head row size"]:
    """What each row reads from the tokens that it sees and, with `own`, from its own key."""
    texts, heads, rows, size = query.shape
    groups, tokens = keys.shape[1:3]
    shape = (texts, groups, heads // groups, rows)
    grouped = query.reshape(texts, groups, -1, size)
    precise = torch.promote_types(query.dtype, torch.float32)

    def capped(scores: Tensor) -> Tensor:
        scores = scores.to(precise) * scaling
        if softcap is None:
            return scores
        # transformers takes the softmax of capped scores in float32, in float64 models too.
        return (torch.tanh(scores / softcap) * softcap).to(torch.float32)

    scores = [capped((grouped @ keys.transpose(-1, -2)).view(*shape, tokens))]
    scores[0].masked_fill_(~seen[:, None, None], -torch.inf)
    if own is not None:
        itself = (query.view(*shape, size) * own[0][:, :, None]).sum(dim=-1, keepdim=True)
        scores.append(capped(itself))
    if sinks is not None:
        column = sinks.to(scores[0].dtype).view(1, groups, -1, 1, 1)
        scores.append(column.expand(*shape, 1))
    weights = torch.cat(scores, dim=-1).softmax(dim=-1).to(query.dtype)
    flat = weights[..., :tokens].reshape(texts, groups, heads // groups * rows, tokens)
    read = (flat @ values).view(*shape, size)
    if own is not None:
        read = read + weights[..., tokens : tokens + 1] * own[1][:, :, None]
    return read.view(texts, heads, rows, size)


class RowAttention:
    """The attention function of one packed pass; transformers' modules call it.

    `positions` has the token index of each question's own token. In a pass that holds the prefix
    tokens itself `prefix` is filled (where it is kept), in a later one it is read.
    """

    def __init__(
        self,
        layers: dict[nn.Module, int],
        positions: Int64[Tensor, "text question"],
        tokens_here: int,
        prefix: Prefix,
        keep: bool,
    ) -> None:
        self.layers, self.positions = layers, positions
        self.tokens_here, self.prefix, self.keep = tokens_here, prefix, keep

    def __call__(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        scaling: float | None = None,
        sliding_window: int | None = None,
        softcap: float | None = None,
        s_aux: Tensor | None = None,
        **others: Any,
    ) -> tuple[Tensor, None]:
        """The output (text, slot, head, size) of one block's attention, prefix tokens first."""
        self._check(module, attention_mask, others)
        layer, here = self.layers[module], self.tokens_here
        scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
        choices: dict[str, Any] = {"scaling": scaling, "softcap": softcap, "sinks": s_aux}
        read = []
        later = not here and layer in self.prefix
        tokens = self.prefix[layer] if later else (key[:, :, :here], value[:, :, :here])
        if self.keep and not later:
            self.prefix[layer] = (tokens[0].clone(), tokens[1].clone())
        if here:
            places = torch.arange(here, device=query.device)
            seen = _seen(places, places[:, None] + 1, sliding_window).expand(len(query), -1, -1)
            read.append(attend(query[:, :, :here], *tokens, seen, None, **choices))
        rows = query.shape[2] - here
        questions = torch.arange(rows, device=query.device) % self.positions.shape[1]
        before = self.positions[:, questions, None]
        places = torch.arange(tokens[0].shape[2], device=query.device)
        seen = _seen(places, before, sliding_window, own_apart=True)
        own = (key[:, :, here:], value[:, :, here:])
        read.append(attend(query[:, :, here:], *tokens, seen, own, **choices))
        return torch.cat(read, dim=2).transpose(1, 2), None

    def _check(self, module: nn.Module, mask: Tensor | None, others: dict[str, Any]) -> None:
        unknown = sorted(
            word for word, value in others.items() if value is not None and word not in _HARMLESS
        )
        if module not in self.layers:
            unknown.append("a module of another model")
        if not getattr(module, "is_causal", True):
            unknown.append("is_causal=False")
        if mask is not None:
            unknown.append("attention_mask")
        if unknown:
            raise EngineRefused(
                "the packed engine",
                f"the model's attention was called with {', '.join(unknown)}",
                "It computes attention itself, and only what it has been proved for",
                'Pass engine="reference"',
            )


def _seen(
    places: Int64[Tensor, " token"],
    end: Int64[Tensor, "*text row 1"],
    window: int | None,
    own_apart: bool = False,
) -> Bool[Tensor, "*text row token"]:
    """Which tokens come before `end`, and within a window that counts the row's own token."""
    seen = places < end
    return seen if window is None else seen & (places >= end - window + own_apart)


@contextlib.contextmanager
def attention_replaced(model: LanguageModel, function: Callable[..., Any]) -> Iterator[None]:
    """Let a model's modules call `function` as their attention; undone whatever happens."""
    config = model.config
    name, before = f"lesion-{id(function)}", config._attn_implementation
    ALL_ATTENTION_FUNCTIONS[name] = function
    try:
        config._attn_implementation = name
        yield
    finally:
        config._attn_implementation = before
        del ALL_ATTENTION_FUNCTIONS[name]
