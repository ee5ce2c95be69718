"""From logits to metrics: what the prediction is, and how far it is from the clean one.

All are computed in float64 from the logits as the model gives them, one row a lesion:

    logit          logit of the target
    log_prob       its log-softmax, in nats
    prob           exp(log_prob)
    target_rank    1 + the number of tokens with a larger logit
    kl             Σ p_clean · (log p_clean − log p_lesioned), in nats: KL(clean ‖ lesioned)
    entropy        −Σ p · log p of the row, in nats
    logit_diff     logit of the target minus logit of the foil; NaN without a foil
    top_token_id   the token with the largest logit; among equals the lowest id

A row with a logit that is NaN or +inf, or with nothing but −inf, is not finite: its numbers are NaN
and its `top_token_id` −1. Without a finite clean run there is no KL.
"""

import dataclasses

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The metrics of some rows, as numpy arrays with one entry a row."""

    logit: Float64[np.ndarray, " row"]
    log_prob: Float64[np.ndarray, " row"]
    prob: Float64[np.ndarray, " row"]
    target_rank: Float64[np.ndarray, " row"]
    kl: Float64[np.ndarray, " row"]
    entropy: Float64[np.ndarray, " row"]
    logit_diff: Float64[np.ndarray, " row"]
    top_token_id: Int64[np.ndarray, " row"]

    @property
    def finite(self) -> Bool[np.ndarray, " row"]:
        """Which rows had usable logits."""
        return self.top_token_id >= 0

    @property
    def none(self) -> "Metrics":
        """The same metrics of no row at all."""
        fields = dataclasses.fields(self)
        return Metrics(**{field.name: getattr(self, field.name)[:0] for field in fields})

    @staticmethod
    def concatenate(parts: "list[Metrics]") -> "Metrics":
        """The rows of all parts, in their order."""
        names = [field.name for field in dataclasses.fields(Metrics)]
        return Metrics(
            **{name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        )


def measure(
    logits: Float[Tensor, "row vocabulary"],
    clean_logits: Float[Tensor, " vocabulary"],
    target_id: int,
    foil_id: int | None,
) -> Metrics:
    """The metrics of every row of logits against the clean run's."""
    rows = logits.detach().double()
    clean = clean_logits.detach().double()
    finite = _usable(rows)
    log_probs = rows.log_softmax(dim=-1)
    clean_log_probs = clean.log_softmax(dim=-1)
    target = rows[:, target_id]
    log_prob = log_probs[:, target_id]
    rank = 1 + (rows > target[:, None]).sum(dim=-1)
    gap = target - rows[:, foil_id] if foil_id is not None else torch.full_like(target, torch.nan)
    numbers = {
        "logit": target,
        "log_prob": log_prob,
        "prob": log_prob.exp(),
        "target_rank": rank.double(),
        "kl": _expectation(clean_log_probs, clean_log_probs - log_probs).where(
            _usable(clean), torch.nan
        ),
        "entropy": _expectation(log_probs, -log_probs),
        "logit_diff": gap,
    }
    top = rows.argmax(dim=-1).where(finite, -1)
    return Metrics(
        **{name: value.where(finite, torch.nan).cpu().numpy() for name, value in numbers.items()},
        top_token_id=top.cpu().numpy(),
    )


def _usable(logits: Float[Tensor, "*row vocabulary"]) -> Bool[Tensor, "*row"]:
    """Whether the logits give a distribution."""
    broken = (logits.isnan() | (logits == torch.inf)).any(dim=-1)
    return ~broken & logits.isfinite().any(dim=-1)


def _expectation(
    log_probs: Float[Tensor, "*row vocabulary"], values: Float[Tensor, "row vocabulary"]
) -> Float[Tensor, " row"]:
    """Σ exp(log_probs) · values, where a token of probability 0 counts as 0."""
    weights = log_probs.exp()
    return (weights * values).where(weights > 0, 0.0).sum(dim=-1)
