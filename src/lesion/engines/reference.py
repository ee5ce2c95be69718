"""The reference engine: one full, unmodified forward pass per lesion, with hooks.

The published protocol, step by step (successive median-replacement of MLP neurons):

1. Run the prompt once as it is and keep, at the lesioned token, each block's vectors at the sites
   `pre`, `post` and `out`.
2. For each lesion run the prompt again. In each lesioned block, at that token:
   a. rank the neurons by their key, on this run's vector or on the clean run's;
   b. take those at the selection's positions;
   c. compute the replacement from this run's vector, before overwriting;
   d. overwrite, and let the model run on.
3. Compare the logits after the last token (of a masked model: at the mask) with the clean run's.

Slow and obvious. It is the oracle of every other engine, and the engine of the models and positions
that those cannot take.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lesion.axes import Position, Site
from lesion.engines.editing import (
    chosen_units,
    drawn_units,
    near_ties,
    ordered,
    overwritten,
    rank_keys,
    signature_weights,
)
from lesion.engines.engine import (
    DirectEffect,
    Engine,
    Evidence,
    EvidenceRow,
    Outcome,
    Progress,
    check_lesions,
    held,
    not_applied,
)
from lesion.engines.positions import measured_position, token_at
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import DrawnRanking
from lesion.metrics import Metrics, measure
from lesion.models.language_model import Block, LanguageModel
from lesion.prompts import Prompt

Vector = Float[Tensor, "1 unit"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Edit:
    """What a lesion did to one row of one block.

    `before` and `post_before` are the vectors at the lesion's site and at `post` as they would have
    been without the lesion of this block; `after` is what the lesion made of `before`.
    """

    before: Vector
    after: Vector
    post_before: Vector | None
    neurons: int
    near_tie: bool
    signature: int


@dataclasses.dataclass(eq=False)
class _BlockTrace:
    """What one block carried at the lesioned token during one forward pass, a row a lesion.

    `vectors` holds what the model really computed with at each site: the input of the activation,
    the input of the down projection, and its output.
    """

    vectors: dict[Site, Float[Tensor, "row unit"]] = dataclasses.field(default_factory=dict)
    edits: dict[int, _Edit] = dataclasses.field(default_factory=dict)


Traces = dict[int, _BlockTrace]


class ReferenceEngine(Engine):
    """Runs the model once per lesion, or per `batch` of them. Holds its lock while it runs."""

    name = "reference"

    def __init__(self, model: LanguageModel, *, batch: int = 1) -> None:
        self.model = model
        self.batch = batch

    def run_many(
        self,
        prompts: Sequence[Prompt],
        lesions: Sequence[Lesion],
        *,
        hidden_norm: bool = False,
        direct: bool = False,
        progress: Progress | None = None,
    ) -> list[Outcome]:
        """The metrics of each lesion of each prompt; see `Engine.run_many`."""
        check_lesions(self.model, lesions)
        total = len(prompts) * len(lesions)
        done = 0

        def moved(by: int) -> None:
            nonlocal done
            done += by
            if progress is not None:
                progress(done, total)

        with held(self.model):
            return [self._outcome(each, lesions, hidden_norm, direct, moved) for each in prompts]

    def _outcome(
        self,
        prompt: Prompt,
        lesions: Sequence[Lesion],
        hidden_norm: bool,
        direct: bool,
        moved: Callable[[int], None],
    ) -> Outcome:
        positions: dict[Position, list[int]] = {}
        for place, lesion in enumerate(lesions):
            positions.setdefault(lesion.position, []).append(place)
        measured: dict[int, _Measured] = {}
        clean: _Pass | None = None
        for position, places in positions.items():
            clean = _Pass(self.model, prompt, position, [], None)
            for start in range(0, len(places), self.batch):
                together = places[start : start + self.batch]
                asked = [lesions[place] for place in together]
                rows = _Pass(self.model, prompt, position, asked, clean).measured(clean, direct)
                measured |= dict(zip(together, rows, strict=True))
                moved(len(together))
        if clean is None:
            clean = _Pass(self.model, prompt, measured_position(self.model), [], None)
        clean_metrics = measure(clean.logits, clean.logits[0], prompt.target_id, prompt.foil_id)
        found = [measured[place] for place in range(len(lesions))]
        norms = np.array([row.hidden_norm for row in found])
        return Outcome(
            clean=clean_metrics,
            lesioned=Metrics.concatenate([clean_metrics.none, *(row.metrics for row in found)]),
            evidence=Evidence.stack([row.evidence for row in found]),
            hidden_norm=norms.reshape(len(found), -1) if hidden_norm else None,
            direct=DirectEffect(
                np.array([row.direct[0] for row in found]),
                np.array([row.direct[1] for row in found]),
            )
            if direct
            else None,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """What is kept of one lesion once its forward pass is over."""

    metrics: Metrics
    evidence: EvidenceRow
    hidden_norm: Float64[np.ndarray, " block_and_embedding"]
    direct: tuple[float, float]


class _Pass:
    """One forward pass of the whole model, a row a lesion; without lesions one clean row.

    Attributes:
        logits: those that are measured, a row a lesion.
        traces: of every block in a clean pass, else of the lesioned ones.
        hidden: the residual stream at the measured token, before the first block and after each.
    """

    def __init__(
        self,
        model: LanguageModel,
        prompt: Prompt,
        position: Position,
        lesions: Sequence[Lesion],
        clean: "_Pass | None",
    ) -> None:
        self.model, self.prompt, self.lesions = model, prompt, lesions
        self.rows = max(1, len(lesions))
        self.at = token_at(model, prompt, position)
        self.read = token_at(model, prompt, measured_position(model))
        self.traces: Traces = {}
        self.hidden: list[Float[Tensor, "row width"]] = []
        layers = sorted({layer for lesion in lesions for layer in lesion.layers})
        hooks = [
            _BlockHooks(self, layer, clean.traces[layer] if clean else None)
            for layer in (layers if lesions else range(len(model.blocks)))
        ]
        token_ids = torch.tensor([prompt.token_ids], device=model.device).expand(self.rows, -1)
        with contextlib.ExitStack() as stack:
            for handle in self._hidden_hooks():
                stack.callback(handle.remove)
            for each in hooks:
                for handle in each.register():
                    stack.callback(handle.remove)
            words = {} if model.family.masked else {"use_cache": False}
            self.logits = model.hf_model(token_ids, **words).logits[:, self.read]

    def measured(self, clean: "_Pass", direct: bool) -> list[_Measured]:
        """What is kept of every lesion."""
        target, foil = self.prompt.target_id, self.prompt.foil_id
        metrics = measure(self.logits, clean.logits[0], target, foil)
        moved = [
            (mine.double() - clean_state.double()).norm(dim=-1).cpu().numpy()
            for mine, clean_state in zip(self.hidden, clean.hidden, strict=True)
        ]
        return [
            _Measured(
                metrics=metrics.part(slice(row, row + 1)),
                evidence=_evidence(lesion, row, self.traces, clean.traces),
                hidden_norm=np.array([norms[row] for norms in moved]),
                direct=self._direct(lesion, row, clean) if direct else (np.nan, np.nan),
            )
            for row, lesion in enumerate(self.lesions)
        ]

    def _direct(self, lesion: Lesion, row: int, clean: "_Pass") -> tuple[float, float]:
        """The direct effects on logit and log-probability; see `DirectEffect`."""
        if len(lesion.layers) > 1 or self.at != self.read or not self.model.pre_norm:
            return np.nan, np.nan
        after = lesion.layers[0] + 1
        final = clean.hidden[-1]
        delta = (self.hidden[after][row] - clean.hidden[after][0]).to(final.device)
        logits = self.model.logits_of(torch.cat([final, final + delta]))
        metrics = measure(logits, logits[0], self.prompt.target_id, None)
        logit, log_prob = np.diff(metrics.logit), np.diff(metrics.log_prob)
        return float(logit[0]), float(log_prob[0])

    def _hidden_hooks(self) -> list[RemovableHandle]:
        first = self.model.blocks[0].module
        return [
            first.register_forward_pre_hook(self._before_first, with_kwargs=True),
            *(block.module.register_forward_hook(self._after) for block in self.model.blocks),
        ]

    def _before_first(self, _: nn.Module, args: tuple[Any, ...], words: dict[str, Any]) -> None:
        self.hidden.append((args[0] if args else words["hidden_states"])[:, self.read])

    def _after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        self.hidden.append(hidden[:, self.read])


class _BlockHooks:
    """The hooks of one block in one forward pass: those that edit it, then those that trace it."""

    def __init__(self, run: _Pass, layer: int, clean: _BlockTrace | None) -> None:
        self.run, self.layer, self.clean = run, layer, clean
        self.block: Block = run.model.blocks[layer]
        self.rows = [row for row, each in enumerate(run.lesions) if layer in each.layers]
        self.trace = run.traces[layer] = _BlockTrace()

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on the block's modules."""
        block = self.block
        handles = []
        if self.rows:
            handles.append(block.pre.register_forward_hook(self.edit_pre))
            handles.append(block.down.register_forward_pre_hook(self.edit_post))
            handles.append(block.down.register_forward_hook(self.edit_out))
        # Hooks run in the order of their registration: these see what the model goes on with.
        handles.append(block.activation.register_forward_pre_hook(self.trace_pre))
        handles.append(block.down.register_forward_pre_hook(self.trace_post))
        handles.append(block.down.register_forward_hook(self.trace_out))
        return handles

    def edit_pre(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self._edited("pre", output, args[0])

    def edit_post(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._edited("post", args[0], args[0]), *args[1:])

    def edit_out(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self._edited("out", output, args[0])

    def trace_pre(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.trace.vectors["pre"] = self._at_token(args[0])

    def trace_post(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.trace.vectors["post"] = self._at_token(args[0])

    def trace_out(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        # A copy: Falcon adds its attention's output into the same memory.
        self.trace.vectors["out"] = self._at_token(output).clone()

    def _at_token(self, values: Tensor) -> Float[Tensor, "row unit"]:
        # Some models flatten rows and tokens into one axis before their MLP.
        return values.view(self.run.rows, -1, values.shape[-1])[:, self.run.at]

    def _edited(self, site: Site, values: Tensor, module_input: Tensor) -> Tensor:
        """Steps 2a to 2d of the protocol, for every row that is lesioned at this site."""
        rows = [row for row in self.rows if self.run.lesions[row].site == site]
        if not rows:
            return values
        edited = values.clone()
        for row in rows:
            own_input = self._at_token(module_input)[row : row + 1]
            edit = self._edit(self.run.lesions[row], self._at_token(values)[[row]], own_input)
            self._at_token(edited)[row] = edit.after[0]
            self.trace.edits[row] = edit
        return edited

    def _edit(self, lesion: Lesion, before: Vector, module_input: Float[Tensor, "1 _"]) -> _Edit:
        post_before = None
        if lesion.site == "pre":
            post_before = self.block.post_of(before, module_input)
        elif lesion.site == "post":
            post_before = before
        order, near_tie = self._order(lesion, before, post_before)
        chosen = chosen_units(lesion.select, order, before, self.layer)
        weights = signature_weights(self.layer, before.shape[-1]).to(before.device)
        return _Edit(
            before=before,
            after=overwritten(before, chosen, lesion.replacement),
            post_before=post_before,
            neurons=int(chosen.sum()),
            near_tie=near_tie,
            signature=int(weights[chosen[0]].sum()),
        )

    def _order(
        self, lesion: Lesion, before: Vector, post_before: Vector | None
    ) -> tuple[Int64[Tensor, "1 unit"] | None, bool]:
        """The units in the order of the lesion's ranking (None for a listed set); a near tie?"""
        ranking = lesion.select.ranking
        if ranking is None:
            return None, False
        if isinstance(ranking, DrawnRanking):
            return drawn_units(ranking, before, self.layer, self.run.prompt.key), False
        ranked, post = before, post_before
        if lesion.rank_on == "clean":
            assert self.clean is not None
            ranked, post = self.clean.vectors[lesion.site], self.clean.vectors["post"]
        norms = self.block.output_norms() if ranking.key == "write" else None
        keys = rank_keys(ranking.key, ranked, post, norms)
        order = ordered(keys, ranking.order)
        taken = lesion.select.positions(before.shape[-1])
        edges = torch.tensor([[taken.start, taken.stop]], device=keys.device)
        return order, bool(near_ties(keys.gather(-1, order), edges).any())


def _evidence(lesion: Lesion, row: int, traces: Traces, clean: Traces) -> EvidenceRow:
    """What a lesion left in the traces of its blocks.

    Nothing changes where the chosen values equalled the replacement beforehand; that is no error.

    Raises:
        LesionNotApplied: a block did not run where its family says, or did not go on with the edit.
    """
    neurons = changed = signature = 0
    largest = removed = 0.0
    near_tie = False
    for layer in lesion.layers:
        trace, edit = traces[layer], traces[layer].edits.get(row)
        if lesion.site not in trace.vectors or edit is None or "post" not in trace.vectors:
            raise not_applied(lesion, f"block {layer} never ran its {lesion.site} there")
        after = trace.vectors[lesion.site][row]
        if not torch.allclose(after, edit.after[0], rtol=0, atol=0, equal_nan=True):
            raise not_applied(lesion, f"block {layer} went on with another vector than the edited")
        difference = (after - edit.before[0]).double().abs()
        neurons += edit.neurons
        changed += int((after != edit.before[0]).sum())
        largest = max(largest, float(difference.max()))
        near_tie = near_tie or edit.near_tie
        signature += edit.signature
        if edit.post_before is not None:
            change = trace.vectors["post"][row] - edit.post_before[0]
            removed += float(change.double().abs().sum())
    if neurons == 0:
        raise not_applied(lesion, "it takes no neuron", "Leave such a lesion out")
    out_delta_norm = float("nan")
    if len(lesion.layers) == 1:
        layer = lesion.layers[0]
        mine, clean_out = traces[layer].vectors["out"][row], clean[layer].vectors["out"][0]
        out_delta_norm = float((mine.double() - clean_out.double()).norm())
    # The sum of a set's weights is taken modulo 2⁶⁴, as a signed number.
    signature = (signature + 2**63) % 2**64 - 2**63
    return EvidenceRow(neurons, changed, largest, removed, out_delta_norm, near_tie, signature)
