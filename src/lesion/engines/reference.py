"""The reference engine: one full, unmodified forward pass per lesion, with hooks.

The published protocol, step by step (successive median-replacement of MLP neurons):

1. Run the prompt once as it is and keep, at the last token, each block's vectors at the sites
`pre`,
   `post` and `out`.
2. For each lesion run the prompt again. In each lesioned block, at the last token:
   a. rank the neurons by their key, on this run's vector or on the clean run's;
   b. take those at the selection's positions;
   c. compute the replacement from this run's vector, before overwriting;
   d. overwrite, and let the model run on.
3. Compare the logits after the last token with the clean run's.

Slow and obvious. It is the oracle of every other engine, and the engine of the models that those
cannot take.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lesion.axes import Site
from lesion.engines.editing import chosen_units, drawn_units, ordered, overwritten, rank_keys
from lesion.engines.engine import Engine, Evidence, EvidenceRow, Outcome, Progress
from lesion.errors import LesionNotApplied
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import DrawnRanking, NeuronSet
from lesion.metrics import Metrics, measure
from lesion.models.language_model import Block, LanguageModel
from lesion.prompts import Prompt

_FAMILY_IS_WRONG = (
    "The MLP of this model does not run where its family says: report the model's name"
)
Vector = Float[Tensor, "1 unit"]


@dataclasses.dataclass(eq=False)
class _BlockTrace:
    """What one block carried at the last token during one forward pass.

    `vectors` holds what the model really computed with at each site: the input of the activation,
    the input of the down projection, and its output. `before` and `post_before` are the vectors at
    the lesion's site and at `post` as they would have been without the lesion of this block;
    `edited` is what the lesion made of `before`.
    """

    vectors: dict[Site, Tensor] = dataclasses.field(default_factory=dict)
    before: Tensor | None = None
    edited: Tensor | None = None
    post_before: Tensor | None = None
    neurons: int = 0


Traces = dict[int, _BlockTrace]


class ReferenceEngine(Engine):
    """Runs the model once per lesion. Holds the model's lock while it runs."""

    name = "reference"

    def __init__(self, model: LanguageModel) -> None:
        self.model = model

    def run(
        self,
        prompt: Prompt,
        lesions: Sequence[Lesion],
        *,
        hidden_norm: bool = False,
        progress: Progress | None = None,
    ) -> Outcome:
        """The metrics of each lesion; see `Engine.run`."""
        for lesion in lesions:
            self.model.check_layers(lesion.layers)
            if isinstance(lesion.select, NeuronSet):
                self.model.check_neurons(lesion.select.neurons, lesion.site)
        with self.model.lock, self.model.evaluating(), torch.inference_mode():
            clean = _forward(self.model, prompt, None, {})
            lesioned = []
            for lesion in lesions:
                lesioned.append(self._measured(prompt, lesion, clean))
                if progress is not None:
                    progress(len(lesioned), len(lesions))
            clean_metrics = _metrics(clean, clean, prompt)
        return Outcome(
            clean=clean_metrics,
            lesioned=Metrics.concatenate([clean_metrics.none, *(row.metrics for row in lesioned)]),
            evidence=Evidence.stack([row.evidence for row in lesioned]),
            hidden_norm=_hidden_norms(lesioned, len(self.model.blocks)) if hidden_norm else None,
        )

    def _measured(self, prompt: Prompt, lesion: Lesion, clean: "_Pass") -> "_Measured":
        lesioned = _forward(self.model, prompt, lesion, clean.traces)
        return _Measured(
            metrics=_metrics(lesioned, clean, prompt),
            evidence=_evidence(lesion, lesioned.traces, clean.traces),
            hidden_norm=(lesioned.hidden.double() - clean.hidden.double())
            .norm(dim=-1)
            .cpu()
            .numpy(),
        )


@dataclasses.dataclass(frozen=True, eq=False)
class _Pass:
    """One forward pass: last logits, traces of blocks, hidden states at the last token."""

    logits: Float[Tensor, "1 vocabulary"]
    traces: Traces
    hidden: Float[Tensor, "block_and_embedding width"]


@dataclasses.dataclass(frozen=True, eq=False)
class _Measured:
    """What is kept of one lesion once its forward pass is over."""

    metrics: Metrics
    evidence: EvidenceRow
    hidden_norm: Float64[np.ndarray, " block_and_embedding"]


def _forward(model: LanguageModel, prompt: Prompt, lesion: Lesion | None, clean: Traces) -> _Pass:
    """Run the whole model once: with a lesion edit and trace its blocks, else trace all."""
    layers = range(len(model.blocks)) if lesion is None else lesion.layers
    block_hooks = {
        layer: _BlockHooks(model.blocks[layer], layer, prompt, lesion, clean.get(layer))
        for layer in layers
    }
    hidden = _HiddenHooks()
    token_ids = torch.tensor([prompt.token_ids], device=model.device)
    with contextlib.ExitStack() as stack:
        for handle in hidden.register(model):
            stack.callback(handle.remove)
        for hooks in block_hooks.values():
            for handle in hooks.register():
                stack.callback(handle.remove)
        logits = model.hf_model(token_ids, use_cache=False).logits[:, -1]
    traces = {layer: hooks.trace for layer, hooks in block_hooks.items()}
    return _Pass(logits, traces, torch.stack([state.to(logits.device) for state in hidden.states]))


class _BlockHooks:
    """The hooks of one block in one forward pass: those that edit it, then those that trace it."""

    def __init__(
        self,
        block: Block,
        layer: int,
        prompt: Prompt,
        lesion: Lesion | None,
        clean: _BlockTrace | None,
    ) -> None:
        self.block, self.layer, self.prompt = block, layer, prompt
        self.lesion, self.clean = lesion, clean
        self.trace = _BlockTrace()

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on the block's modules."""
        site = self.lesion.site if self.lesion else None
        block, handles = self.block, []
        if site == "pre":
            handles.append(block.pre.register_forward_hook(self.edit_output))
        if site == "post":
            handles.append(block.down.register_forward_pre_hook(self.edit_input))
        if site == "out":
            handles.append(block.down.register_forward_hook(self.edit_output))
        # Hooks run in the order of their registration: these see what the model goes on with.
        handles.append(block.activation.register_forward_pre_hook(self.trace_pre))
        handles.append(block.down.register_forward_pre_hook(self.trace_post))
        handles.append(block.down.register_forward_hook(self.trace_out))
        return handles

    def edit_output(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        return self._edited(output, args[0][:, -1])

    def edit_input(self, _: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self._edited(args[0], args[0][:, -1]), *args[1:])

    def trace_pre(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.trace.vectors["pre"] = args[0][:, -1]

    def trace_post(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        self.trace.vectors["post"] = args[0][:, -1]

    def trace_out(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.trace.vectors["out"] = output[:, -1]

    def _edited(
        self, values: Float[Tensor, "1 token unit"], module_input: Float[Tensor, "1 _"]
    ) -> Float[Tensor, "1 token unit"]:
        """Steps 2a to 2d of the protocol, at the last token; what was there before is kept."""
        assert self.lesion is not None
        before = values[:, -1]
        self.trace.before = before
        if self.lesion.site == "pre":
            self.trace.post_before = self.block.post_of(before, module_input)
        elif self.lesion.site == "post":
            self.trace.post_before = before
        chosen = chosen_units(self.lesion.select, self._order(before), before, self.layer)
        after = overwritten(before, chosen, self.lesion.replacement)
        self.trace.neurons = int(chosen.sum())
        self.trace.edited = after
        edited = values.clone()
        edited[:, -1] = after
        return edited

    def _order(self, before: Vector) -> Int64[Tensor, "1 unit"] | None:
        """The units in the order of the lesion's ranking; None for a listed set."""
        assert self.lesion is not None
        ranking = self.lesion.select.ranking
        if ranking is None:
            return None
        if isinstance(ranking, DrawnRanking):
            return drawn_units(ranking, before, self.layer, self.prompt.key)
        ranked, post = before, self.trace.post_before
        if self.lesion.rank_on == "clean":
            assert self.clean is not None
            ranked, post = self.clean.vectors[self.lesion.site], self.clean.vectors["post"]
        norms = self.block.output_norms() if ranking.key == "write" else None
        return ordered(rank_keys(ranking.key, ranked, post, norms), ranking.order)


class _HiddenHooks:
    """Collects the last token's hidden state before the first block and after every block."""

    def __init__(self) -> None:
        self.states: list[Tensor] = []

    def register(self, model: LanguageModel) -> list[RemovableHandle]:
        """Put the hooks on the model's blocks."""
        first = model.blocks[0].module
        return [
            first.register_forward_pre_hook(self.before_first, with_kwargs=True),
            *(block.module.register_forward_hook(self.after) for block in model.blocks),
        ]

    def before_first(self, _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.states.append((args[0] if args else kwargs["hidden_states"])[0, -1])

    def after(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.states.append((output[0] if isinstance(output, tuple) else output)[0, -1])


def _metrics(run: _Pass, clean: _Pass, prompt: Prompt) -> Metrics:
    return measure(run.logits, clean.logits[0], prompt.target_id, prompt.foil_id)


def _evidence(lesion: Lesion, traces: Traces, clean: Traces) -> EvidenceRow:
    """What a lesion left in the traces of its blocks.

    Nothing changes where the chosen values equalled the replacement beforehand; that is no error.

    Raises:
        LesionNotApplied: a block did not run where its family says, or did not go on with the edit.
    """
    neurons = changed = 0
    largest = removed = 0.0
    for layer in lesion.layers:
        trace = traces[layer]
        after = trace.vectors.get(lesion.site)
        if after is None or trace.edited is None or "post" not in trace.vectors:
            raise _not_applied(lesion, f"block {layer} never ran its {lesion.site} there")
        if not torch.allclose(after, trace.edited, rtol=0, atol=0, equal_nan=True):
            raise _not_applied(lesion, f"block {layer} went on with another vector than the edited")
        assert trace.before is not None, "it is kept together with the edited vector"
        difference = (after - trace.before).double().abs()
        neurons += trace.neurons
        changed += int((after != trace.before).sum())
        largest = max(largest, float(difference.max()))
        if trace.post_before is not None:
            removed += float((trace.vectors["post"] - trace.post_before).double().abs().sum())
    if neurons == 0:
        raise _not_applied(lesion, "it takes no neuron", "Leave such a lesion out")
    out_delta_norm = float("nan")
    if len(lesion.layers) == 1:
        layer = lesion.layers[0]
        out_delta = traces[layer].vectors["out"].double() - clean[layer].vectors["out"].double()
        out_delta_norm = float(out_delta.norm())
    return EvidenceRow(neurons, changed, largest, removed, out_delta_norm)


def _not_applied(lesion: Lesion, found: str, remedy: str = _FAMILY_IS_WRONG) -> LesionNotApplied:
    return LesionNotApplied(
        f"lesion at site {lesion.site} of layers {lesion.layers}",
        found,
        "A lesion changes the vector that it is applied to",
        remedy,
    )


def _hidden_norms(
    rows: Sequence[_Measured], blocks: int
) -> Float64[np.ndarray, "row block_and_embedding"]:
    return np.array([row.hidden_norm for row in rows]).reshape(len(rows), blocks + 1)
