"""What a packed pass brings back: the evidence of its rows, their final vectors, their metrics."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lesion.engines.batches import MULTIPLE, Batch
from lesion.engines.engine import DirectEffect, Evidence, Outcome, Progress, not_applied
from lesion.engines.row_edits import RowEdits
from lesion.engines.rows import CLEAN, Rows
from lesion.metrics import Metrics, measure
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

Live = Float[Tensor, "text _ question unit"]
_CPU_HEAD_BYTES, _GPU_HEAD_BYTES = 32 * 2**20, 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is measured beside the metrics and the evidence."""

    hidden_norm: bool
    direct: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """The evidence of every row so far, the clean row's first (and empty).

    The words are those of `lesion.engines.engine.Evidence`; `out_delta_norm` and `block_delta` (the
    lesioned minus the clean output of the whole block) are of a row's first lesioned block.
    """

    neurons: Int64[Tensor, "text row question"]
    changed: Int64[Tensor, "text row question"]
    largest_change: Float64[Tensor, "text row question"]
    removed_post: Float64[Tensor, "text row question"]
    out_delta_norm: Float64[Tensor, "text row question"]
    near_tie: Bool[Tensor, "text row question"]
    signature: Int64[Tensor, "text row question"]
    hidden_norm: Float64[Tensor, "text row question block_and_embedding"]
    block_delta: Float[Tensor, "text row question width"]

    @staticmethod
    def empty(rows: Rows, model: LanguageModel, part: Batch, wanted: Wanted) -> "Record":
        """The record before the pass; what is not wanted has length 0."""
        shape = (len(part.prompts), len(rows), len(part.prompts[0]))
        whole = torch.zeros(shape, dtype=torch.int64, device=model.device)
        number = torch.zeros(shape, dtype=torch.float64, device=model.device)
        states = len(model.blocks) + 1 if wanted.hidden_norm else 0
        width = model.blocks[0].width if wanted.direct else 0
        return Record(
            neurons=whole,
            changed=whole.clone(),
            largest_change=number,
            removed_post=number.clone(),
            out_delta_norm=torch.full_like(number, torch.nan),
            near_tie=torch.zeros_like(whole, dtype=torch.bool),
            signature=whole.clone(),
            hidden_norm=number.new_zeros(*shape, states),
            block_delta=number.new_zeros(*shape, width, dtype=model.hf_model.dtype),
        )

    def inherit(self, first: int, parents: list[int]) -> None:
        """Rows from `first` on begin as copies of others and share their past."""
        for field in dataclasses.fields(self):
            tensor = getattr(self, field.name)
            tensor[:, first : first + len(parents)] = tensor[:, parents]

    def add(self, edits: RowEdits) -> None:
        """Rows were overwritten in one block."""
        numbers = edits.numbers
        self.neurons[:, numbers] += edits.neurons
        self.changed[:, numbers] += edits.changed
        self.near_tie[:, numbers] |= edits.near_tie
        self.signature[:, numbers] += edits.signature
        largest = torch.maximum(self.largest_change[:, numbers], edits.largest_change)
        self.largest_change[:, numbers] = largest

    def add_removed(self, numbers: list[int], live: Live, before: Live) -> None:
        """Rows go into a down projection with `live` instead of `before`."""
        change = (live[:, numbers] - before).abs_()
        self.removed_post[:, numbers] += change.sum(dim=-1, dtype=torch.float64)

    def set_out_delta(self, numbers: list[int], live: Live) -> None:
        """Rows leave the first lesioned MLP."""
        self.out_delta_norm[:, numbers] = _distance(live[:, numbers], live[:, [CLEAN]])

    def set_block_delta(self, numbers: list[int], live: Live) -> None:
        """Rows leave the first lesioned block."""
        self.block_delta[:, numbers] = live[:, numbers] - live[:, [CLEAN]]

    def set_hidden_norm(self, layer: int, live: Live) -> None:
        """All rows leave a block."""
        distance = _distance(live, live[:, [CLEAN]])
        self.hidden_norm[:, : live.shape[1], :, layer + 1] = distance

    def evidence(self, rows: Rows, text: int, question: int) -> Evidence:
        """The evidence of one question's lesions, in the order of the rows.

        Raises:
            LesionNotApplied: a lesion takes no neuron.
        """
        words = [field.name for field in dataclasses.fields(Evidence)]
        found = Evidence(
            **{word: getattr(self, word)[text, 1:, question].cpu().numpy() for word in words}
        )
        several = np.array([len(row.lesion.layers) > 1 for row in rows.listed], dtype=np.bool_)
        found.out_delta_norm[several] = np.nan
        if not found.neurons.all():
            lesion = rows.listed[int(np.argmin(found.neurons))].lesion
            raise not_applied(lesion, "it takes no neuron", "Leave such a lesion out")
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Carried:
    """The rows after the last block."""

    rows: Rows
    final: Live
    record: Record
    wanted: Wanted

    def outcomes(self, model: LanguageModel, part: Batch) -> list["PassOutcome"]:
        """One outcome a question, texts first; its lesions in the order of the rows."""
        places = np.array([row.place for row in self.rows.listed], dtype=np.int64)
        return [
            PassOutcome(self._outcome(model, prompt, text, question), places)
            for text, prompts in enumerate(part.prompts)
            for question, prompt in enumerate(prompts)
        ]

    def _outcome(self, model: LanguageModel, prompt: Prompt, text: int, question: int) -> Outcome:
        hidden, count = self.final[text, :, question], len(self.rows)
        alone = [n for n, row in enumerate(self.rows.listed, 1) if len(row.lesion.layers) == 1]
        direct, direct_hidden = None, hidden[:0]
        if self.wanted.direct:
            direct_hidden = hidden[CLEAN] + self.record.block_delta[text, alone, question]
        metrics = _metrics(model, torch.cat([hidden, direct_hidden]), prompt)
        clean, lesioned = metrics.part(slice(0, 1)), metrics.part(slice(1, count))
        if self.wanted.direct:
            direct = DirectEffect(*(np.full(count - 1, np.nan) for _ in range(2)))
            places, own = np.array(alone, dtype=np.int64) - 1, metrics.part(slice(count, None))
            direct.logit[places] = own.logit - clean.logit
            direct.log_prob[places] = own.log_prob - clean.log_prob
        norms = self.record.hidden_norm[text, 1:, question].cpu().numpy()
        return Outcome(
            clean=clean,
            lesioned=lesioned,
            evidence=self.record.evidence(self.rows, text, question),
            hidden_norm=norms if self.wanted.hidden_norm else None,
            direct=direct,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PassOutcome:
    """What one pass measured of one question, and the places of its lesions."""

    outcome: Outcome
    places: Int64[np.ndarray, " row"]


class Counter:
    """Tells a caller how many lesions are done."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def add(self, lesions: int) -> None:
        """So many more are done."""
        self.done += lesions
        if self.progress is not None and lesions:
            self.progress(self.done, self.total)


def joined(passes: Sequence["PassOutcome"]) -> Outcome:
    """The passes of one question as one outcome, its lesions in the order of their places.

    Every pass has its own clean run, equal up to rounding. Effects are differences within a pass;
    they are laid on the clean run of the first.
    """
    outcomes = [each.outcome for each in passes]
    clean = outcomes[0].clean
    order = np.argsort(np.concatenate([each.places for each in passes]))
    shifted = [
        each.lesioned if each.clean is clean else each.lesioned.shifted(each.clean, clean)
        for each in outcomes
    ]
    evidence = {
        field.name: np.concatenate([getattr(each.evidence, field.name) for each in outcomes])[order]
        for field in dataclasses.fields(Evidence)
    }
    norms = [each.hidden_norm for each in outcomes if each.hidden_norm is not None]
    direct = [each.direct for each in outcomes if each.direct is not None]
    return Outcome(
        clean=clean,
        lesioned=Metrics.concatenate(shifted).part(order),
        evidence=Evidence(**evidence),
        hidden_norm=np.concatenate(norms)[order] if norms else None,
        direct=DirectEffect(
            np.concatenate([each.logit for each in direct])[order],
            np.concatenate([each.log_prob for each in direct])[order],
        )
        if direct
        else None,
    )


def _metrics(model: LanguageModel, hidden: Float[Tensor, "row width"], prompt: Prompt) -> Metrics:
    """The metrics of final residual streams; the first is the clean run."""
    vocabulary = int(model.config.vocab_size)
    at_once = _CPU_HEAD_BYTES if hidden.device.type == "cpu" else _GPU_HEAD_BYTES
    most = max(MULTIPLE, at_once // (4 * vocabulary) // MULTIPLE * MULTIPLE)
    # Slices of one size: then equal rows get equal logits, whichever slice they are in.
    slices = math.ceil(len(hidden) / most)
    size = math.ceil(len(hidden) / slices / MULTIPLE) * MULTIPLE
    clean_logits: Tensor | None = None
    parts = []
    for part in hidden.split(size):
        filled = torch.cat([part, hidden[:1].expand(size - len(part), -1)])
        logits = model.logits_of(filled)[: len(part)]
        clean_logits = logits[0] if clean_logits is None else clean_logits
        parts.append(measure(logits, clean_logits, prompt.target_id, prompt.foil_id))
    return Metrics.concatenate(parts)


def _distance(lesioned: Live, clean: Live) -> Float64[Tensor, "text row question"]:
    distance: Tensor = (lesioned.double() - clean.double()).norm(dim=-1)
    return distance
