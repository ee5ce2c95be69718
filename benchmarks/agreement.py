"""When two contestants measure the same."""

TOLERANCE_NATS = 1e-3


def difference(found: list[float], expected: list[float]) -> float:
    """Largest |Δ| of two lists, in nats."""
    return max(abs(one - other) for one, other in zip(found, expected, strict=True))


def disagreement(worst: float) -> str | None:
    """Why a contestant's time does not count; None if it does."""
    # Not turned round: a difference that is NaN is no agreement.
    if worst <= TOLERANCE_NATS:
        return None
    return f"differs from the loop by {worst:.1e} nats, so its time does not count"
