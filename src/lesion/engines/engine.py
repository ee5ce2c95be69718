"""The interface of engines: prompts and many lesions in, metrics and evidence out."""

import contextlib
import dataclasses
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from lesion.errors import LesionNotApplied, ModelInUse
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import NeuronSet
from lesion.metrics import Metrics
from lesion.models.language_model import LanguageModel
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
    near_tie: bool
    signature: int


@dataclasses.dataclass(frozen=True, eq=False)
class Evidence:
    """The proof that lesions happened, one entry a lesion; sums where it covers several blocks.

    Attributes:
        neurons: how many neurons were chosen (k).
        changed: how many of their values the overwriting changed.
        largest_change: the largest |Δ| of a value at the site.
        removed_post: Σ |Δpost| at the lesioned blocks, between the row's values just before and
            just after overwriting; 0 at site `out`, which comes after post.
        out_delta_norm: ‖lesioned − clean‖ of the lesioned block's MLP output; NaN (not measured)
            where a lesion covers several blocks.
        near_tie: whether in some block the last neuron taken and the first one left have keys
            closer than 1e-5 of the largest |key|: rounding may exchange them.
        signature: a number that tells sets of neurons apart; equal sets have equal ones.
    """

    neurons: Int64[np.ndarray, " row"]
    changed: Int64[np.ndarray, " row"]
    largest_change: Float64[np.ndarray, " row"]
    removed_post: Float64[np.ndarray, " row"]
    out_delta_norm: Float64[np.ndarray, " row"]
    near_tie: Bool[np.ndarray, " row"]
    signature: Int64[np.ndarray, " row"]

    @staticmethod
    def stack(rows: "Sequence[EvidenceRow]") -> "Evidence":
        """One entry a row, in their order."""
        return Evidence(
            neurons=np.array([row.neurons for row in rows], dtype=np.int64),
            changed=np.array([row.changed for row in rows], dtype=np.int64),
            largest_change=np.array([row.largest_change for row in rows], dtype=np.float64),
            removed_post=np.array([row.removed_post for row in rows], dtype=np.float64),
            out_delta_norm=np.array([row.out_delta_norm for row in rows], dtype=np.float64),
            near_tie=np.array([row.near_tie for row in rows], dtype=np.bool_),
            signature=np.array([row.signature for row in rows], dtype=np.int64),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class DirectEffect:
    """What the lesioned block's own output does to the prediction, later blocks left as they were.

    The clean final residual stream + (lesioned − clean output of the block), through the model's
    own norm and head, minus the clean run. The effect minus the direct effect is what later blocks
    add (self-repair where it is the opposite). NaN for lesions of several blocks, away from the
    last token, and where a block normalises the residual stream itself.
    """

    logit: Float64[np.ndarray, " row"]
    log_prob: Float64[np.ndarray, " row"]


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What an engine measured: the clean run (one row), the lesions in the order asked, evidence.

    `hidden_norm` is the norm of the hidden state's difference from the clean run at the last token:
    entry 0 of the embedding, entry ℓ + 1 after block ℓ, before the final norm; None if not asked
    for, like `direct`.
    """

    clean: Metrics
    lesioned: Metrics
    evidence: Evidence
    hidden_norm: Float64[np.ndarray, "row block_and_embedding"] | None = None
    direct: DirectEffect | None = None


class Engine(ABC):
    """Runs lesions on one model; abstract."""

    name: str
    model: LanguageModel

    def run(
        self,
        prompt: Prompt,
        lesions: Sequence[Lesion],
        *,
        hidden_norm: bool = False,
        direct: bool = False,
        progress: Progress | None = None,
    ) -> Outcome:
        """The metrics of each lesion of a prompt; see `run_many`."""
        (outcome,) = self.run_many(
            [prompt], lesions, hidden_norm=hidden_norm, direct=direct, progress=progress
        )
        return outcome

    @abstractmethod
    def run_many(
        self,
        prompts: Sequence[Prompt],
        lesions: Sequence[Lesion],
        *,
        hidden_norm: bool = False,
        direct: bool = False,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """The metrics of each lesion of each prompt, one outcome a prompt.

        Raises:
            UnknownLayer: a lesion names a block or neuron that the model does not have.
            EngineRefused: a lesion or model that this engine cannot take.
            ModelInUse: the model carries the hooks of another call.
            LesionNotApplied: a lesion left no trace in the forward pass, or takes no neuron.
        """


def check_lesions(model: LanguageModel, lesions: Sequence[Lesion]) -> None:
    """Refuse lesions of blocks and neurons that the model does not have.

    Raises:
        UnknownLayer: naming the first of them.
    """
    for lesion in lesions:
        model.check_layers(lesion.layers)
        if isinstance(lesion.select, NeuronSet):
            model.check_neurons(lesion.select.neurons, lesion.site)


@contextlib.contextmanager
def held(model: LanguageModel) -> Iterator[None]:
    """The model for one engine call alone: locked, without dropout, gradients or TF32.

    Raises:
        ModelInUse: it carries lesion hooks, which are the caller's own: other threads wait.
    """
    with model.lock:
        check_unused(model)
        with _FULL_PRECISION, model.evaluating(), torch.inference_mode():
            yield


def check_unused(model: LanguageModel) -> None:
    """Refuse a model that is being lesioned.

    Raises:
        ModelInUse: it carries lesion hooks.
    """
    with model.lock:
        if any(_is_ours(hook) for hook in forward_hooks(model)):
            raise ModelInUse(
                f"model {model.name!r}",
                "it carries the hooks of another lesion",
                "One call at a time lesions a model; callers that share it share its LanguageModel",
                "Pass them the same object from lesion.load, or end the other lesion first",
            )


class _FullPrecision:
    """Float32 products without TF32, from the first of several calls at once until the last ends.

    PyTorch has this setting once for the whole process.
    """

    def __init__(self) -> None:
        self._guard, self._calls, self._before = threading.Lock(), 0, ""

    def __enter__(self) -> None:
        with self._guard:
            if self._calls == 0:
                self._before = torch.get_float32_matmul_precision()
                torch.set_float32_matmul_precision("highest")
            self._calls += 1

    def __exit__(self, *_: object) -> None:
        with self._guard:
            self._calls -= 1
            if self._calls == 0:
                torch.set_float32_matmul_precision(self._before)


_FULL_PRECISION = _FullPrecision()


def not_applied(lesion: Lesion, found: str, remedy: str | None = None) -> LesionNotApplied:
    """The error of a lesion that did nothing it was meant to do."""
    return LesionNotApplied(
        f"lesion at site {lesion.site} of layers {lesion.layers}",
        found,
        "A lesion changes the vector that it is applied to",
        remedy
        or "The MLP of this model does not run where its family says: report the model's name",
    )


def forward_hooks(model: LanguageModel) -> Iterator[object]:
    """Every hook on a model's modules that sees or changes a forward pass."""
    everywhere = torch.nn.modules.module
    hooks = [everywhere._global_forward_hooks, everywhere._global_forward_pre_hooks]
    for module in model.hf_model.modules():
        hooks += [module._forward_hooks, module._forward_pre_hooks]
    for each in hooks:
        # PyTorch's own only watch, as those that count operations.
        yield from (hook for hook in each.values() if not _is_of(hook, "torch."))


def _is_ours(hook: object) -> bool:
    return _is_of(hook, "lesion.")


def _is_of(hook: object, package: str) -> bool:
    return str(getattr(hook, "__module__", "")).startswith(package)
