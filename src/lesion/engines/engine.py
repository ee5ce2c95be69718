"""The interface of engines: one prompt and many lesions in, metrics and evidence out."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64, Int64

from lesion.interventions.lesion import Lesion
from lesion.metrics import Metrics
from lesion.prompts import Prompt

Progress = Callable[[int, int], object]
"""Called with the number of lesions done so far, and of all lesions."""


@dataclasses.dataclass(frozen=True)
class EvidenceRow:
    """The evidence of one lesion; the words are those of `Evidence`."""

    neurons: int
    changed: int
    largest_change: float
    removed_post: float
    out_delta_norm: float


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The proof that lesions happened, one entry a lesion; sums where it covers several blocks.

    Attributes:
        neurons: how many neurons were chosen (k).
        changed: how many of their values the overwriting changed.
        largest_change: the largest |Δ| of a value at the site.
        removed_post: Σ |Δpost| at the lesioned blocks, between the row's values just before and
        just
            after overwriting; 0 at site `out`, which comes after post.
        out_delta_norm: ‖lesioned − clean‖ of the lesioned block's MLP output; NaN (not measured)
            where a lesion covers several blocks.
    """

    neurons: Int64[np.ndarray, " row"]
    changed: Int64[np.ndarray, " row"]
    largest_change: Float64[np.ndarray, " row"]
    removed_post: Float64[np.ndarray, " row"]
    out_delta_norm: Float64[np.ndarray, " row"]

    @staticmethod
    def stack(rows: "Sequence[EvidenceRow]") -> "Evidence":
        """One entry a row, in their order."""
        return Evidence(
            neurons=np.array([row.neurons for row in rows], dtype=np.int64),
            changed=np.array([row.changed for row in rows], dtype=np.int64),
            largest_change=np.array([row.largest_change for row in rows], dtype=np.float64),
            removed_post=np.array([row.removed_post for row in rows], dtype=np.float64),
            out_delta_norm=np.array([row.out_delta_norm for row in rows], dtype=np.float64),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What an engine measured: the clean run (one row), the lesions in the order asked, evidence.

    `hidden_norm` is the norm of the hidden state's difference from the clean run at the last token:
    entry 0 of the embedding, entry ℓ + 1 after block ℓ, before the final norm; None if not asked
    for.
    """

    clean: Metrics
    lesioned: Metrics
    evidence: Evidence
    hidden_norm: Float64[np.ndarray, "row block_and_embedding"] | None


class Engine(ABC):
    """Runs lesions on one model; abstract."""

    name: str

    @abstractmethod
    def run(
        self,
        prompt: Prompt,
        lesions: Sequence[Lesion],
        *,
        hidden_norm: bool = False,
        progress: Progress | None = None,
    ) -> Outcome:
        """The metrics of each lesion of a prompt.

        Raises:
            UnknownLayer: a lesion names a block or neuron that the model does not have.
            LesionNotApplied: a lesion left no trace in the forward pass.
        """
