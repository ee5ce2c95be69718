"""Which rows one packed pass carries: one clean row, and one row a lesion, appended when needed.

A row is a copy of the residual stream of a prompt's last token. A lesion's row is appended before
the first block in which it differs from a row that is there already:

1. before its first lesioned block, as a copy of the clean row;
2. or, where a longer lesion begins with the same blocks (scope `cumulative`), before the block in
   which that one goes on and this one does not, as a copy of the longer one's row.

So every block computes only the rows that differ there.
"""

import dataclasses
import functools
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

from lesion.axes import Site
from lesion.interventions.lesion import Lesion

Key = TypeVar("Key", bound=Hashable)

CLEAN = 0
"""The number of the clean row."""


@dataclasses.dataclass(frozen=True)
class LesionRow:
    """One lesion's row: its place among the lesions asked for, where it begins, and of what."""

    lesion: Lesion
    place: int
    born: int
    parent: int


@dataclasses.dataclass(frozen=True)
class Rows:
    """The rows of one pass in the order of their birth; number 0 is the clean row, not listed."""

    listed: tuple[LesionRow, ...]

    def __len__(self) -> int:
        return 1 + len(self.listed)

    def parents(self, layer: int) -> list[int]:
        """The rows that are copied before block `layer`, one a new row."""
        return self._parents.get(layer, [])

    def edited(self, layer: int, site: Site) -> list[int]:
        """The numbers of the rows that block `layer` lesions at a site, ascending."""
        return self._edited.get((layer, site), [])

    def begun(self, layer: int) -> list[int]:
        """The numbers of the rows that are there and are lesioned for the first time there."""
        return self._begun.get(layer, [])

    @functools.cached_property
    def _parents(self) -> dict[int, list[int]]:
        return _grouped((row.born, row.parent) for row in self.listed)

    @functools.cached_property
    def _edited(self) -> dict[tuple[int, Site], list[int]]:
        return _grouped(
            ((layer, row.lesion.site), number)
            for number, row in enumerate(self.listed, start=1)
            for layer in row.lesion.layers
            if layer >= row.born
        )

    @functools.cached_property
    def _begun(self) -> dict[int, list[int]]:
        return _grouped(
            (row.born, number)
            for number, row in enumerate(self.listed, start=1)
            if row.lesion.layers[0] == row.born
        )

    def lesion(self, number: int) -> Lesion:
        """The lesion of a row."""
        return self.listed[number - 1].lesion

    def is_fresh(self, number: int, layer: int) -> bool:
        """Whether a row comes into block `layer` as a copy of the clean row."""
        row = self.listed[number - 1]
        return row.parent == CLEAN and row.lesion.layers[0] == layer


def rows_of(lesions: Sequence[Lesion], places: Sequence[int]) -> Rows:
    """The rows of some lesions, whose places are given, sorted by birth."""
    trunks = _trunks(lesions)
    births = [
        lesion.layers[0] if trunk is None else lesions[trunk].layers[len(lesion.layers)]
        for lesion, trunk in zip(lesions, trunks, strict=True)
    ]
    order = sorted(range(len(lesions)), key=lambda index: births[index])
    numbers: dict[int | None, int] = {index: number for number, index in enumerate(order, start=1)}
    numbers[None] = CLEAN
    rows = [
        LesionRow(lesions[index], places[index], births[index], numbers[trunks[index]])
        for index in order
    ]
    return Rows(tuple(rows))


def _grouped(pairs: Iterable[tuple[Key, int]]) -> dict[Key, list[int]]:
    groups: dict[Key, list[int]] = {}
    for key, number in pairs:
        groups.setdefault(key, []).append(number)
    return groups


def _trunks(lesions: Sequence[Lesion]) -> list[int | None]:
    """Per lesion the longest other one that does the same in its blocks, and then goes on."""
    alike: dict[object, list[int]] = {}
    for index, lesion in enumerate(lesions):
        key = (lesion.select, lesion.replace, lesion.site, lesion.rank_on, lesion.layers[0])
        alike.setdefault(key, []).append(index)
    found: list[int | None] = [None] * len(lesions)
    for group in alike.values():
        longest_first = sorted(group, key=lambda index: -len(lesions[index].layers))
        for index in group:
            layers = lesions[index].layers
            for other in longest_first:
                begins_alike = lesions[other].layers[: len(layers)] == layers
                if begins_alike and len(lesions[other].layers) > len(layers):
                    found[index] = other
                    break
    return found
