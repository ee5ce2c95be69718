"""The lesions of a sweep in plain numbers: which block, and how many of its neurons."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import lesion
from benchmarks.subjects import Shape

COARSE = tuple(f"0.{tenth}" for tenth in range(1, 10))
NINETEEN = tuple(f"{5 * step / 100:.2f}" for step in range(1, 20))


@dataclasses.dataclass(frozen=True)
class Cell:
    """Median replacement of the top `fraction` of one block at `pre`, at the last token."""

    layer: int
    fraction: str

    def count(self, neurons: int) -> int:
        """k = floor(fraction · neurons), on the decimal as it is written."""
        return math.floor(Fraction(self.fraction) * neurons)

    def lesion(self) -> lesion.Lesion:
        """The same in the package's words."""
        select = lesion.top(self.fraction)
        return lesion.Lesion(select=select, replace="median", site="pre", layers=(self.layer,))


def every_cell(shape: Shape, fractions: Sequence[str] = COARSE) -> list[Cell]:
    """All blocks × all fractions."""
    return list(itertools.starmap(Cell, itertools.product(range(shape.blocks), fractions)))


def spread_cells(shape: Shape, count: int) -> list[Cell]:
    """A sample: blocks at equal distances, the coarse fractions in turn."""
    layers = [index * shape.blocks // count for index in range(count)]
    return [Cell(layer, COARSE[index * 4 % len(COARSE)]) for index, layer in enumerate(layers)]


def spread_blocks(shape: Shape, count: int) -> list[Cell]:
    """A sample of whole blocks at equal distances: each with its nine coarse fractions."""
    layers = [index * shape.blocks // count for index in range(count)]
    return list(itertools.starmap(Cell, itertools.product(layers, COARSE)))
