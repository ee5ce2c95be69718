"""What each drawable metric is called on an axis, and where the clean run lies on it."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["METRICS", "Metric"]


@dataclass(frozen=True)
class Metric:
    """A column of the frame, as the pictures show it.

    Attributes:
        axis: the axis title, with its unit where it has one.
        clean_at_zero: the clean run lies at 0 (effects, divergences, amounts of change).
        signed: values fall on both sides of 0, so that colours diverge there.
        logarithmic: drawn as log(1 + value) in every frame.
    """

    axis: str
    clean_at_zero: bool = True
    signed: bool = False
    logarithmic: bool = False


METRICS: dict[str, Metric] = {
    "effect_log_prob": Metric("effect on log-probability of the target (nats)", signed=True),
    "effect_logit": Metric("effect on logit of the target", signed=True),
    "effect_logit_diff": Metric("effect on logit difference, target − foil", signed=True),
    "kl": Metric("KL divergence, clean ‖ lesioned (nats)"),
    "removed_post": Metric("removed post-activation mass, Σ |Δ post|"),
    "out_delta_norm": Metric("norm of the change in the MLP output, ‖Δ out‖"),
    "prob": Metric("probability of the target", clean_at_zero=False),
    "entropy": Metric("entropy of the prediction (nats)", clean_at_zero=False),
    "target_rank": Metric("rank of the target (1 = first)", clean_at_zero=False, logarithmic=True),
}
