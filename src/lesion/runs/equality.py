"""When two results of one unit are the same: numbers up to rounding, all else exactly."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lesion.errors import RunDamaged
from lesion.runs.shard import Shard

_TOLERANCE = 1e-4


def check_same(path: str, first: Shard, second: Shard) -> None:
    """Refuse a second result of a unit that is not the first up to rounding.

    Raises:
        RunDamaged: naming the column.
    """
    for column in first.table.column_names:
        if not _equal(first.table[column], second.table[column]):
            raise RunDamaged(
                f"commit unit {first.unit} to {path}",
                f"it was measured twice, and column {column} differs",
                "The first result of a unit stays, and a second one is equal up to rounding",
                "Check the machines that measured it; lesion verify tells whether the first is "
                "sound",
            )


def _equal(one: pa.ChunkedArray, other: pa.ChunkedArray) -> bool:
    """Whether two columns are equal, numbers up to rounding."""
    if one.equals(other):
        return True
    if not one.is_null().combine_chunks().equals(other.is_null().combine_chunks()):
        return False
    if pa.types.is_list(one.type):
        lengths = pc.list_value_length(one).equals(pc.list_value_length(other))
        return lengths and _equal(pc.list_flatten(one), pc.list_flatten(other))
    if not pa.types.is_floating(one.type):
        return False
    mine, theirs = (each.to_numpy() for each in (one, other))
    return np.allclose(mine, theirs, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True)
