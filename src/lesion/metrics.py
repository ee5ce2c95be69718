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

    def part(self, rows: slice | Int64[np.ndarray, " _"]) -> "Metrics":
        """Some of the rows."""
        fields = dataclasses.fields(self)
        return Metrics(**{field.name: getattr(self, field.name)[rows] for field in fields})

    def shifted(self, by: "Metrics", to: "Metrics") -> "Metrics":
        """The same rows with their distance from one clean run laid on another clean run.

        Exact for rows that equal the first clean run; `prob` follows `log_prob`.
        """
        moved = {
            name: getattr(to, name) + (getattr(self, name) - getattr(by, name))
            for name in ("logit", "log_prob", "entropy", "logit_diff")
        }
        prob = to.prob * np.exp(self.log_prob - by.log_prob)
        return dataclasses.replace(self, **moved, prob=prob)

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
    """The metrics of every row of logits against the clean run's.

    What a row gives does not depend on the rows beside it: equal logits have equal metrics, and the
    clean logits have a `kl` of exactly 0.
    """
    clean = _distribution(clean_logits[None], target_id)
    probs = clean.weights[0] / clean.total[0]
    impossible = probs == 0 if (probs == 0).any() else None
    vocabulary = clean_logits.shape[-1]
    parts = [
        _measured(_distribution(part, target_id), clean, probs, impossible, foil_id)
        for part in logits.split(max(1, _slice(logits.device) // vocabulary))
    ]
    empty = {field.name: clean.logits.new_zeros(0) for field in dataclasses.fields(Metrics)}
    numbers = {name: torch.cat([part[name] for part in parts] or [none])
               for name, none in empty.items()}  # fmt: skip
    top = numbers.pop("top_token_id").long()
    return Metrics(
        **{name: value.cpu().numpy() for name, value in numbers.items()},
        top_token_id=top.cpu().numpy(),
    )


def _slice(device: torch.device) -> int:
    """How many logits are measured at once."""
    # On a CPU so many float64 numbers stay in the cache, which makes it four times as fast; a GPU
    # wants few and large operations.
    return 400_000 if device.type == "cpu" else 20_000_000


# exp(-800) is 0 in float64; a logit of -inf then weighs 0, and 0 · (-800) is a number.
_NOTHING = -800.0


@dataclasses.dataclass(frozen=True, eq=False)
class _Distribution:
    """Rows of logits x in float64 with their softmax: weights e = exp(x − max x) and total Σ e."""

    logits: Float64[Tensor, "row vocabulary"]
    weights: Float64[Tensor, "row vocabulary"]
    total: Float64[Tensor, " row"]
    log_normaliser: Float64[Tensor, " row"]
    entropy: Float64[Tensor, " row"]
    target: Float64[Tensor, " row"]
    usable: Bool[Tensor, " row"]


def _distribution(logits: Float[Tensor, "row vocabulary"], target_id: int) -> _Distribution:
    rows = logits.detach().double()
    if len(rows) == 1:
        # torch sums a single row in another order than several.
        doubled = _distribution(rows.expand(2, -1), target_id)
        fields = dataclasses.fields(_Distribution)
        return _Distribution(**{field.name: getattr(doubled, field.name)[:1] for field in fields})
    highest = rows.amax(dim=-1, keepdim=True)
    shifted = (rows - highest).clamp_(min=_NOTHING)
    weights = shifted.exp()
    total = weights.sum(dim=-1)
    entropy = total.log() - shifted.mul_(weights).sum(dim=-1) / total
    return _Distribution(
        logits=rows,
        weights=weights,
        total=total,
        log_normaliser=highest[:, 0] + total.log(),
        entropy=entropy,
        target=rows[:, target_id],
        # NaN and +inf come through amax; nothing but -inf has it as its highest.
        usable=highest[:, 0].isfinite(),
    )


def _measured(
    rows: _Distribution,
    clean: _Distribution,
    clean_probs: Float64[Tensor, " vocabulary"],
    impossible: Bool[Tensor, " vocabulary"] | None,
    foil_id: int | None,
) -> dict[str, Float64[Tensor, " row"]]:
    """The numbers of some rows, `top_token_id` among them."""
    log_prob = rows.target - rows.log_normaliser
    # Σ p_clean · (log p_clean − log p), where a token of clean probability 0 counts as 0.
    moved = clean.logits - rows.logits
    if impossible is not None:
        moved.masked_fill_(impossible, 0.0)
    moved.mul_(clean_probs)
    kl = moved.sum(dim=-1) + (rows.log_normaliser - clean.log_normaliser)
    foil = torch.full_like(rows.target, torch.nan) if foil_id is None else rows.logits[:, foil_id]
    numbers = {
        "logit": rows.target,
        "log_prob": log_prob,
        "prob": log_prob.exp(),
        "target_rank": 1 + (rows.logits > rows.target[:, None]).sum(dim=-1).double(),
        "kl": kl.where(clean.usable, torch.nan),
        "entropy": rows.entropy,
        "logit_diff": rows.target - foil,
    }
    measured = {name: value.where(rows.usable, torch.nan) for name, value in numbers.items()}
    top = rows.logits.argmax(dim=-1).where(rows.usable, -1)
    return measured | {"top_token_id": top.double()}
