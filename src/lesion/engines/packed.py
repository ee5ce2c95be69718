"""The packed engine: every lesion of a prompt in one forward pass of an unmodified model.

In a causal model a lesion of the last token changes nothing at the tokens before it. So the clean
run and all lesions differ in one token's row, and share everything else:

1. *Slots.* The token axis of the pass holds the prompt's prefix, the tokens before the last, and
   then rows: the last token itself, whose row is the clean run, and copies of it. A later pass over
   the same prompt leaves the prefix out and reads the keys and values that the first one kept.
2. *Growth.* A hook before each block appends the rows of the lesions that begin there
   (`engines/rows.py`), so block ℓ computes only lesions of blocks up to ℓ.
3. *Attention.* Each row sees the prefix and itself, and no other row (`engines/attention.py`).
4. *Lesion.* A hook at the site overwrites the chosen neurons of the block's own rows, all fractions
   of one ranking after one sort (`engines/row_edits.py`).
5. *Head.* After the last block the rows leave the model; the final norm and the unembedding run
   over them in slices, and the logits become metrics (`lesion/metrics.py`).

Several prompts stand side by side, and the questions of one text (each of its tokens as a last
token) share its prefix: a slot is (row, question), and the axis runs over questions fastest
(`engines/batches.py`). The prefix and the rows each fill a multiple of 8 slots, with padding and
with copies of the clean row that nobody reads: some processors sum the rows left over from a
multiple of 4 in another order, and a neuron without a path to the output is to have an effect of
exactly 0.

What is true of the pass alone is computed here; it is proved against the reference engine.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from lesion.axes import SITES, Site
from lesion.engines.attention import Prefix, RowAttention, attention_replaced
from lesion.engines.batches import MULTIPLE, Batch, batches, default_rows
from lesion.engines.carried import Carried, Counter, Record, Wanted, joined
from lesion.engines.engine import (
    DirectEffect,
    Engine,
    Outcome,
    Progress,
    check_lesions,
    held,
    not_applied,
)
from lesion.engines.proved import check_packed
from lesion.engines.row_edits import BlockEdit, RowEdits, as_slice
from lesion.engines.rows import CLEAN, Rows, rows_of
from lesion.errors import LesionNotApplied, OutOfMemory
from lesion.interventions.lesion import Lesion
from lesion.models.language_model import Block, LanguageModel
from lesion.prompts import Prompt


class PackedEngine(Engine):
    """Runs all lesions of a prompt together. Holds the model's lock while it runs.

    `rows_in_pass` is the number of rows that one pass of the last call carried at most:
    `most_rows`, or what fits into `memory_bytes` (without it, into a share of the machine's
    memory). Out of memory halves it; `halvings` counts how often. It moves results by rounding
    only.

    Raises:
        EngineRefused: a model that this engine has not been proved for.
    """

    name = "packed"

    def __init__(
        self,
        model: LanguageModel,
        *,
        memory_bytes: int | None = None,
        most_rows: int | None = None,
    ) -> None:
        check_packed(model)
        self.model = model
        self.memory_bytes = memory_bytes
        self.most_rows = most_rows
        self.halvings = 0
        self.rows_in_pass = 0

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
        check_packed(self.model, lesions, prompts)
        wanted = Wanted(hidden_norm, direct and self.model.pre_norm)
        counter = Counter(progress, len(prompts) * len(lesions))
        found: dict[int, Outcome] = {}
        with held(self.model):
            while len(found) < len(prompts):
                open_places = [place for place in range(len(prompts)) if place not in found]
                self.rows_in_pass = self._rows(prompts)
                done = counter.done
                try:
                    for batch in batches(prompts, open_places, 1 + len(lesions), self.rows_in_pass):
                        found |= self._passes(batch, lesions, wanted, counter)
                        done = counter.done
                except (MemoryError, RuntimeError) as error:
                    self._halve(error)
                    counter.done = done
        outcomes = [found[place] for place in range(len(prompts))]
        if direct and not self.model.pre_norm:
            nothing = np.full(len(lesions), np.nan)
            none = DirectEffect(nothing, nothing)
            outcomes = [dataclasses.replace(outcome, direct=none) for outcome in outcomes]
        return outcomes

    def _rows(self, prompts: Sequence[Prompt]) -> int:
        """The rows of one pass, after all halvings."""
        rows = self.most_rows
        if rows is None:
            tokens = max(len(prompt.token_ids) for prompt in prompts)
            rows = default_rows(self.model, tokens, self.memory_bytes)
        return max(MULTIPLE, (rows >> self.halvings) // MULTIPLE * MULTIPLE)

    def _halve(self, error: MemoryError | RuntimeError) -> None:
        """Let passes carry half as many rows.

        Raises:
            OutOfMemory: they carry as few as they can.
            RuntimeError: the given one, if it is about something else.
        """
        if not _is_memory(error):
            raise error
        if self.rows_in_pass <= MULTIPLE:
            raise _too_large(
                self.model, (str(error) or type(error).__name__).splitlines()[0]
            ) from error
        self.halvings += 1

    def _passes(
        self, batch: Batch, lesions: Sequence[Lesion], wanted: Wanted, counter: Counter
    ) -> dict[int, Outcome]:
        """All passes of one batch: chunks of questions, and of lesions sorted by first block."""
        slots = max(2, self.rows_in_pass // len(batch.prompts))
        chunks = _chunks(lesions, slots - 1)
        questions = max(1, slots // (1 + max(map(len, chunks))))
        parts = list(batch.split(questions))
        keep = len(parts) * len(chunks) > 1
        prefix: Prefix = {}
        found: dict[int, Outcome] = {}
        for part in parts:
            passes = []
            for places in chunks:
                rows = rows_of([lesions[place] for place in places], places)
                carried = _Pass(self.model, part, rows, prefix, batch, keep, wanted).run()
                passes.append(carried.outcomes(self.model, part))
                counter.add(len(places) * len(passes[-1]))
            asked = [place for each in part.places for place in each]
            found |= {
                place: joined(outcomes)
                for place, outcomes in zip(asked, zip(*passes, strict=True), strict=True)
            }
        return found


class _Pass:
    """One forward pass; `live` below means the slots that hold rows, as (text, row, question, ·).

    Attributes:
        here: how many prefix tokens stand before the rows: all in a batch's first pass, else none.
        count: how many rows there are by now.
        slots: how many slots they and the unread copies fill.
    """

    def __init__(
        self,
        model: LanguageModel,
        part: Batch,
        rows: Rows,
        prefix: Prefix,
        batch: Batch,
        keep: bool,
        wanted: Wanted,
    ) -> None:
        device = model.device
        self.model, self.rows, self.wanted = model, rows, wanted
        positions, tokens = part.positions(device), part.last_tokens(device)
        self.texts, self.questions = positions.shape
        self.here, self.count, self.slots = 0, 1, self.questions
        self.keys = part.keys
        if not prefix:
            before = batch.prefix_tokens(device)
            self.here = before.shape[1]
            tokens = torch.cat([before, tokens], dim=1)
        # What pads the prefix takes the last position: the model need not have more.
        places = torch.arange(self.here, device=device).clamp(max=batch.positions(device).max())
        places = places.expand(self.texts, -1)
        self.token_ids, self.position_ids = tokens, torch.cat([places, positions], dim=1)
        layers = {
            module: layer
            for layer, block in enumerate(model.blocks)
            for module in block.module.modules()
        }
        self.attention = RowAttention(layers, positions, self.here, prefix, keep)
        self.record = Record.empty(rows, model, part, wanted)
        self.final: Tensor | None = None

    def run(self) -> Carried:
        """Run the model once, with all hooks and the attention of the rows in place."""
        hooks = [_BlockHooks(self, layer, block) for layer, block in enumerate(self.model.blocks)]
        with contextlib.ExitStack() as stack:
            for each in hooks:
                for handle in each.register():
                    stack.callback(handle.remove)
            stack.enter_context(attention_replaced(self.model, self.attention))
            self.model.hf_model.base_model(
                input_ids=self.token_ids, position_ids=self.position_ids, use_cache=False
            )
        assert self.final is not None, "the last block ran"
        return Carried(self.rows, self.final, self.record, self.wanted)

    def live(self, tensor: Tensor) -> Tensor:
        """The rows among the slots of a module's input or output, whose memory they share."""
        vectors = tensor.view(self.texts, self.here + self.slots, tensor.shape[-1])
        used = vectors[:, self.here : self.here + self.count * self.questions]
        rows: Tensor = used.unflatten(1, (self.count, self.questions))
        return rows

    def grown(self, hidden: Tensor, layer: int) -> Tensor:
        """A block's input with the rows that begin there, and unread copies up to a multiple."""
        live = self.live(hidden)
        parents = self.rows.parents(layer)
        self.record.inherit(self.count, parents)
        used = hidden[:, : self.here + self.count * self.questions]
        new = live[:, parents].flatten(1, 2)
        self.count += len(parents)
        filled = self.count * self.questions
        unread = -filled % MULTIPLE
        copies = live[:, CLEAN, :1].expand(-1, unread, -1)
        self.slots = filled + unread
        return torch.cat([used, new, copies], dim=1)

    def at_slots(self, each_token: Tensor) -> Tensor:
        """What a model computed for each of its input's tokens (rotary angles), for each slot."""
        slots = torch.arange(self.slots, device=each_token.device) % self.questions
        tokens = torch.arange(self.here, device=each_token.device)
        return each_token[:, torch.cat([tokens, self.here + slots])]


def _chunks(lesions: Sequence[Lesion], most: int) -> list[list[int]]:
    """Places of lesions, sorted by first block, in as few parts as fit, nearly equal in size."""
    order = sorted(range(len(lesions)), key=lambda place: lesions[place].layers[0])
    count = max(1, -(-len(order) // most))
    return [order[len(order) * i // count : len(order) * (i + 1) // count] for i in range(count)]


class _BlockHooks:
    """The hooks of one block in one pass, in the order in which they are called."""

    def __init__(self, packed: _Pass, layer: int, block: Block) -> None:
        self.packed, self.layer, self.block = packed, layer, block
        self.sites = {site for site in SITES if packed.rows.edited(layer, site)}
        self.applied: set[Site] = set()
        self.edits: list[RowEdits] = []
        self.edited: Tensor | None = None
        self.activated = False
        self.up: Tensor | None = None

    def register(self) -> list[RemovableHandle]:
        """Put the hooks on the block's modules, those of the MLP only where it is lesioned."""
        block = self.block
        handles = [
            block.module.register_forward_pre_hook(self.before_block, with_kwargs=True),
            block.module.register_forward_hook(self.after_block),
        ]
        if "pre" in self.sites:
            handles.append(block.pre.register_forward_hook(self.after_pre))
            handles.append(block.activation.register_forward_pre_hook(self.before_activation))
            if block.up is not None:
                handles.append(block.up.register_forward_hook(self.after_up))
        if self.sites:
            handles.append(block.down.register_forward_pre_hook(self.before_down))
            handles.append(block.down.register_forward_hook(self.after_down))
        return handles

    def before_block(
        self, _: nn.Module, args: tuple[Any, ...], words: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        words = dict(words)
        hidden = args[0] if args else words.pop("hidden_states")
        hidden = self.packed.grown(hidden, self.layer)
        if words.get("position_embeddings") is not None:
            angles = words["position_embeddings"]
            words["position_embeddings"] = tuple(self.packed.at_slots(each) for each in angles)
        return (hidden, *args[1:]), words

    def after_pre(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        live, mlp_input = self.packed.live(output), self.packed.live(args[0])

        def post_of(rows: Sequence[int]) -> Tensor:
            pre = live[:, rows]
            post = self.block.post_of(pre.flatten(0, 2), mlp_input[:, rows].flatten(0, 2))
            return post.view(pre.shape)

        self.edits = self._edit("pre", live, post_of)
        self.edited = output

    def before_activation(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        assert self.edited is not None, "the activation comes after the projection"
        # Usually the very tensor that was edited; comparing values costs as much as editing.
        self.activated = args[0] is self.edited or torch.equal(args[0], self.edited)

    def after_up(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        self.up = output

    def before_down(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        live = self.packed.live(args[0])
        if "pre" in self.sites and not self.activated:
            raise self._not_applied("pre", "went on with another vector than the edited")
        for edits in self.edits:
            self.packed.record.add_removed(edits.numbers, live, self._post_before(edits, live))
        self.edits, self.edited, self.up = [], None, None  # they would be kept for all blocks
        if "post" in self.sites:
            for edits in self._edit("post", live, lambda rows: live[:, rows]):
                self.packed.record.add_removed(edits.numbers, live, edits.before)

    def after_down(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        live = self.packed.live(output)
        if "out" in self.sites:
            self._edit("out", live, lambda rows: live[:, rows])
        self.packed.record.set_out_delta(self.packed.rows.begun(self.layer), live)

    def after_block(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        packed = self.packed
        for site in sorted(self.sites - self.applied):
            raise self._not_applied(site, f"never ran its {site} there")
        hidden = output[0] if isinstance(output, tuple) else output
        live = packed.live(hidden)
        if packed.wanted.hidden_norm:
            packed.record.set_hidden_norm(self.layer, live)
        if packed.wanted.direct:
            packed.record.set_block_delta(packed.rows.begun(self.layer), live)
        if self.layer < len(packed.model.blocks) - 1:
            return None
        # The rows leave here; the model's own tail gets the shape that it began with.
        packed.final = live
        hidden = hidden[:, : packed.here + packed.questions]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    def _edit(
        self, site: Site, live: Tensor, post_of: Callable[[Sequence[int]], Tensor]
    ) -> list[RowEdits]:
        packed, norms = self.packed, self.block.output_norms
        block_edit = BlockEdit(self.layer, site, packed.rows, packed.keys, post_of, norms)
        found = block_edit.apply(live)
        self.applied.add(site)
        for edits in found:
            packed.record.add(edits)
        return found

    def _not_applied(self, site: Site, found: str) -> LesionNotApplied:
        rows = self.packed.rows
        lesion = rows.lesion(rows.edited(self.layer, site)[0])
        return not_applied(lesion, f"block {self.layer} {found}")

    def _post_before(self, edits: RowEdits, live: Tensor) -> Tensor:
        """What the down projection would have got without the lesion at `pre`."""
        if self.packed.rows.is_fresh(edits.numbers[0], self.layer):
            return live[:, [CLEAN]]
        post: Tensor = self.block.activation.forward(edits.before)
        if self.up is None:
            return post
        return post * self.packed.live(self.up)[:, as_slice(edits.numbers)]


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # PyTorch's CPU allocator has no exception of its own.
    return "DefaultCPUAllocator" in str(error) or "not enough memory" in str(error)


def _too_large(model: LanguageModel, found: str) -> OutOfMemory:
    return OutOfMemory(
        f"lesions of {model.name}",
        f"not even {MULTIPLE} rows at a time fit: {found}",
        "A pass holds the prompt's tokens and some rows beside the model's weights",
        "Shorten the prompt, or use a machine with more memory",
    )
