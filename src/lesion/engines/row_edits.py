"""What the lesions of one block do to the rows of a packed pass.

Rows that do the same work do it together: lesions of one ranking that look at the same vector share
one sort, whatever their fractions. A row that comes into the block as a copy of the clean row looks
at the clean row's vector.
"""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from lesion.axes import Site
from lesion.engines.editing import (
    drawn_units,
    near_ties,
    rank_keys,
    ranks,
    replacement_values,
    signature_weights,
)
from lesion.engines.rows import CLEAN, Rows
from lesion.interventions.selection import DrawnRanking, KeyRanking, NeuronSet

Vectors = Float[Tensor, "text _ question unit"]


@dataclasses.dataclass(frozen=True, eq=False)
class RowEdits:
    """What was done to some rows; `before` and `after` hold a block's vectors at the site."""

    numbers: list[int]
    before: Vectors
    after: Vectors
    neurons: Int64[Tensor, "text row question"]
    changed: Int64[Tensor, "text row question"]
    largest_change: Float64[Tensor, "text row question"]
    near_tie: Bool[Tensor, "text row question"]
    signature: Int64[Tensor, "text row question"]


@dataclasses.dataclass(frozen=True, eq=False)
class BlockEdit:
    """One site of one block in one pass: its rows, its prompts, and what the rank keys need.

    `post_of` gives `post` for some of the block's rows, `output_norms` the key `write`'s factors.
    """

    layer: int
    site: Site
    rows: Rows
    prompt_keys: Sequence[Sequence[str]]
    post_of: Callable[[Sequence[int]], Vectors]
    output_norms: Callable[[], Float[Tensor, " neuron"]]

    def apply(self, live: Vectors) -> list[RowEdits]:
        """Overwrite the lesioned rows of `live` where they stand."""
        groups: dict[Hashable, list[int]] = {}
        for number in self.rows.edited(self.layer, self.site):
            lesion = self.rows.lesion(number)
            fresh = self.rows.is_fresh(number, self.layer)
            on_clean = fresh or lesion.rank_on == "clean"
            key = (lesion.select.ranking, lesion.replacement, fresh, on_clean)
            groups.setdefault(key, []).append(number)
        return [self._edited(live, numbers) for numbers in groups.values()]

    def _edited(self, live: Vectors, numbers: list[int]) -> RowEdits:
        lesion = self.rows.lesion(numbers[0])
        fresh = self.rows.is_fresh(numbers[0], self.layer)
        sources = [CLEAN] if fresh else numbers
        before = live[:, sources]
        chosen, near_tie = self._chosen(live, numbers, sources)
        texts, _, questions, _ = before.shape
        values = replacement_values(lesion.replacement, before.flatten(0, 2))
        after = torch.where(chosen, values.view(texts, -1, questions, 1), before)
        # A row takes the values of its own copy of the clean vector, which may be the same memory.
        live[:, as_slice(numbers)] = after
        weights = signature_weights(self.layer, live.shape[-1]).to(live.device)
        difference = (after - before).abs_()
        shape = (texts, len(numbers), questions)
        return RowEdits(
            numbers=numbers,
            before=before,
            after=after,
            neurons=chosen.sum(dim=-1).expand(shape),
            changed=(after != before).sum(dim=-1),
            largest_change=difference.amax(dim=-1).double(),
            near_tie=near_tie.expand(shape),
            signature=torch.where(chosen, weights, 0).sum(dim=-1).expand(shape),
        )

    def _chosen(
        self, live: Vectors, numbers: list[int], sources: list[int]
    ) -> tuple[Bool[Tensor, "_ row _ unit"], Bool[Tensor, "_ _ _"]]:
        """Which units each row's lesion takes, and whether rounding may exchange some.

        Axes that make no difference have length 1.
        """
        size = live.shape[-1]
        selections = [self.rows.lesion(number).select for number in numbers]
        ranking = selections[0].ranking
        if ranking is None:
            chosen = torch.zeros(len(numbers), size, dtype=torch.bool)
            listed = [
                (row, neuron)
                for row, selection in enumerate(selections)
                if isinstance(selection, NeuronSet)
                for neuron in selection.neurons_in(self.layer)
            ]
            chosen[tuple(torch.tensor(listed, dtype=torch.int64).view(-1, 2).T)] = True
            return chosen.to(live.device)[None, :, None], live.new_zeros(1, 1, 1).bool()
        if self.rows.lesion(numbers[0]).rank_on == "clean":
            sources = [CLEAN]
        taken = [selection.positions(size) for selection in selections]
        ends = [[positions.start, positions.stop] for positions in taken]
        edges = torch.tensor(ends, device=live.device)[None, :, None]
        places, near_tie = self._ranked(live, ranking, sources, edges)
        chosen = (places >= edges[..., :1]) & (places < edges[..., 1:])
        return chosen, near_tie

    def _ranked(
        self,
        live: Vectors,
        ranking: KeyRanking | DrawnRanking,
        sources: list[int],
        edges: Int64[Tensor, "1 row 1 2"],
    ) -> tuple[Int64[Tensor, "text source question unit"], Bool[Tensor, "_ _ _"]]:
        """The place of every unit in the ranking, and whether each row's edges are near ties.

        The second is (text, row, question), or a single False that stands for all.
        """
        vectors = live[:, sources]
        texts, count, questions, size = vectors.shape
        if isinstance(ranking, DrawnRanking):
            orders = [
                [drawn_units(ranking, vectors[0, 0, :1], self.layer, key) for key in keys]
                for keys in self.prompt_keys
            ]
            stacked = torch.stack([torch.cat(keys) for keys in orders])
            places = ranks(stacked.flatten(0, 1)).view(texts, 1, questions, size)
            return places, live.new_zeros(1, 1, 1).bool()
        write = ranking.key == "write"
        keys = rank_keys(
            ranking.key,
            vectors.flatten(0, 2),
            self.post_of(sources).flatten(0, 2) if write else None,
            self.output_norms() if write else None,
        )
        sorted_keys, order = keys.sort(
            dim=-1, descending=ranking.order == "descending", stable=True
        )
        places = ranks(order).view(vectors.shape)
        # Per row of lesions its two edges, in the order of its own source or of the shared one.
        wanted = edges.expand(texts, -1, questions, -1)
        if count == 1:
            per_source = wanted.permute(0, 2, 1, 3).reshape(texts * questions, -1)
            close = near_ties(sorted_keys, per_source).view(texts, questions, -1, 2)
            return places, close.any(dim=-1).permute(0, 2, 1)
        close = near_ties(sorted_keys, wanted.reshape(-1, 2))
        return places, close.any(dim=-1).view(texts, count, questions)


def as_slice(numbers: list[int]) -> slice | list[int]:
    """The same rows as a slice where they are consecutive: a slice is no copy."""
    first, last = numbers[0], numbers[-1]
    return slice(first, last + 1) if last - first + 1 == len(numbers) else numbers
