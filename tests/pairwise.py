"""Few cells that hold every pair of factor values: a deterministic greedy cover.

Each cell starts from the first pair that no cell holds yet; its other factors take, one after the
other, the value that brings most such pairs with the values already taken (the first among equals).
"""

from collections.abc import Hashable, Mapping, Sequence
from itertools import combinations, product

Item = tuple[str, Hashable]
"""A factor and one of its values."""

Cell = dict[str, Hashable]


def allowed_pairs(
    factors: Mapping[str, Sequence[Hashable]], forbidden: set[frozenset[Item]]
) -> list[frozenset[Item]]:
    """Every pair of values of two factors that may stand in one cell."""
    return [
        pair
        for one, other in combinations(factors, 2)
        for values in product(factors[one], factors[other])
        if (pair := frozenset(zip((one, other), values, strict=True))) not in forbidden
    ]


def pairs_of(cell: Cell) -> set[frozenset[Item]]:
    """The pairs that one cell holds."""
    return {frozenset(pair) for pair in combinations(cell.items(), 2)}


def pairwise_cover(
    factors: Mapping[str, Sequence[Hashable]], forbidden: set[frozenset[Item]] = frozenset()
) -> list[Cell]:
    """Cells, each with one value a factor, that together hold every allowed pair.

    A forbidden pair must leave each other factor a value that goes with any choice of the rest.
    """
    open_pairs = dict.fromkeys(allowed_pairs(factors, forbidden))
    cells = []
    while open_pairs:
        cell: Cell = dict(next(iter(open_pairs)))
        for factor in factors:
            if factor not in cell:
                cell[factor] = _best_value(factor, factors[factor], cell, open_pairs, forbidden)
        cells.append({factor: cell[factor] for factor in factors})
        for pair in pairs_of(cell):
            open_pairs.pop(pair, None)
    return cells


def _best_value(
    factor: str,
    values: Sequence[Hashable],
    cell: Cell,
    open_pairs: Mapping[frozenset[Item], None],
    forbidden: set[frozenset[Item]],
) -> Hashable:
    def new_pairs(value: Hashable) -> int:
        pairs = [frozenset([(factor, value), item]) for item in cell.items()]
        return -1 if forbidden.intersection(pairs) else sum(pair in open_pairs for pair in pairs)

    return max(values, key=new_pairs)
