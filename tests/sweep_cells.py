"""Cells: one sweep each, to be measured by `lesion` and by the protocol's own loop.

A cell has one value of each factor: architecture, dtype, site, scope, selection, replacement, rank
key, and the run that is ranked on. All cells share the prompt and the fractions.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from itertools import cycle, product
from typing import Any

import numpy as np
from families import CAUSAL_TYPES
from pairwise import Item, pairwise_cover
from protocol_loop import LoopRow, protocol_loop

import lesion
from lesion.models.language_model import LanguageModel
from lesion.runs.run import Run

TOKEN_IDS = (3, 17, 42, 8, 25, 60, 11)
PROMPT = "w3 w17 w42 w8 w25 w60 w11"
TARGET_ID = 5
TARGET = "w5"
SEED = 7
FRACTIONS = ("0.05", "0.3", "0.9")
"""The first takes two of 48 neurons, and none of the 16 components at site `out`."""

TOLERANCE = {"float64": 1e-6, "float32": 5e-5}
DTYPES = tuple(TOLERANCE)
SITES = ("pre", "post", "out")
SCOPES = ("each", "all", "cumulative")
RANKS = ("value", "abs", "write")
RANKS_ON = ("lesioned", "clean")
NEURON_SET = ((0, 3), (0, 14), (1, 0), (1, 7), (1, 8), (1, 15), (2, 11))

SELECTIONS: dict[str, tuple[Any, tuple]] = {
    "top": ("top", ("top",)),
    "bottom": ("bottom", ("bottom",)),
    "random": ("random", ("random", SEED, 1)),
    "band": ("band:0.1-0.6", ("band", "0.1", "0.6")),
    "set": (lesion.neuron_set(NEURON_SET), ("set", NEURON_SET)),
}
"""Each selection as `lesion` and as the loop spells it."""

REPLACEMENTS: dict[str, tuple[str, tuple]] = {
    "median": ("median", ("median",)),
    "median_mid": ("median_mid", ("median_mid",)),
    "mean": ("mean", ("mean",)),
    "zero": ("zero", ("zero",)),
    "min": ("min", ("min",)),
    "constant": ("constant:0.7", ("constant", 0.7)),
}

FACTORS: dict[str, tuple[str, ...]] = {
    "model_type": tuple(name for name in CAUSAL_TYPES if name != "gpt2"),
    "dtype": DTYPES,
    "site": SITES,
    "scope": SCOPES,
    "selection": tuple(SELECTIONS),
    "replacement": tuple(REPLACEMENTS),
    "rank": RANKS,
    "rank_on": RANKS_ON,
}
RANKED_FACTORS = FACTORS | {"scope": ("all", "cumulative"), "selection": ("top", "bottom", "band")}
"""Only what looks at the ranking, and where the lesioned run's differs from the clean run's."""

FORBIDDEN: set[frozenset[Item]] = {frozenset([("site", "out"), ("rank", "write")])}


@dataclass(frozen=True)
class SweepCell:
    """One sweep; `rank` None leaves the key to the site."""

    model_type: str = "gpt2"
    dtype: str = "float64"
    site: str = "pre"
    scope: str = "each"
    selection: str = "top"
    replacement: str = "median"
    rank: str | None = None
    rank_on: str = "lesioned"

    def __str__(self) -> str:
        return " × ".join(map(str, astuple(self)))


def gpt2_cells(dtype: str, site: str, selection: str) -> list[SweepCell]:
    """Every scope × replacement; ranks and runs to rank on take turns, each pair in turn."""
    ranks = (None, *RANKS[: 2 if site == "out" else 3])
    rankings = cycle(product(ranks, RANKS_ON))
    return [
        SweepCell("gpt2", dtype, site, scope, selection, replacement, *next(rankings))
        for scope in SCOPES
        for replacement in REPLACEMENTS
    ]


def pair_cells() -> list[SweepCell]:
    """Every pair of factors of the other architectures: of all cells, then of the ranked ones."""
    found = [
        SweepCell(**cell)
        for factors in (FACTORS, RANKED_FACTORS)
        for cell in pairwise_cover(factors, FORBIDDEN)
    ]
    return list(dict.fromkeys(found))


def all_cells(model_type: str, dtype: str, site: str) -> list[SweepCell]:
    """The full product of one architecture, dtype and site."""
    ranks = RANKS[: 2 if site == "out" else 3]
    rest = product(SCOPES, SELECTIONS, REPLACEMENTS, ranks, RANKS_ON)
    return [SweepCell(model_type, dtype, site, *others) for others in rest]


def sweep_cell(model: LanguageModel, cell: SweepCell) -> Run:
    """The cell measured by `lesion`."""
    return lesion.sweep(
        model,
        PROMPT,
        TARGET,
        fractions=None if cell.selection in ("band", "set") else FRACTIONS,
        site=cell.site,
        select=SELECTIONS[cell.selection][0],
        rank=cell.rank,
        replace=REPLACEMENTS[cell.replacement][0],
        scope=cell.scope,
        rank_on=cell.rank_on,
        seed=SEED,
        hidden_norm=True,
    )


def loop_cell(model: LanguageModel, cell: SweepCell, **changes: Any) -> list[LoopRow]:
    """The cell measured by the protocol's own loop; `changes` replace the loop's arguments."""
    arguments = {
        "site": cell.site,
        "scope": cell.scope,
        "selection": SELECTIONS[cell.selection][1],
        "fractions": FRACTIONS,
        "rank": cell.rank,
        "rank_on": cell.rank_on,
        "replacement": REPLACEMENTS[cell.replacement][1],
    }
    return protocol_loop(
        model.hf_model, cell.model_type, TOKEN_IDS, TARGET_ID, **(arguments | changes)
    )


def check_cell(model: LanguageModel, cell: SweepCell) -> None:
    """Measure a cell both ways and compare every row.

    Raises:
        AssertionError: naming the cell and every column of every row that differs.
    """
    found, expected = sweep_cell(model, cell).table.to_pylist(), loop_cell(model, cell)
    complaints = list(differences(found, expected, TOLERANCE[cell.dtype]))
    assert not complaints, "\n".join([f"{cell}:", *complaints])


def differences(
    found: Sequence[dict[str, Any]], expected: Sequence[LoopRow], tolerance: float
) -> Iterator[str]:
    """What differs between the rows of a table and the loop's, one sentence a column and row."""
    if len(found) != len(expected):
        yield f"the table has {len(found)} rows, the loop {len(expected)}"
    for number, (row, loop_row) in enumerate(zip(found, expected, strict=False)):
        wanted = expected_row(loop_row)
        for column, value in wanted.items():
            if not _equal(row[column], value, tolerance):
                yield f"row {number}, {column}: {row[column]} in the table, {value} in the loop"


def expected_row(row: LoopRow) -> dict[str, Any]:
    """What the loop says a row of the table holds."""
    clean = {
        "clean_logit": row.logit - row.effect_logit,
        "clean_log_prob": row.log_prob - row.effect_log_prob,
    }
    named = {
        "layer": row.layer,
        "draw": row.draw,
        "neurons": len(row.chosen),
        "changed": row.changed,
        "status": "ok" if row.chosen else "empty",
    }
    if row.fraction is not None:
        named["fraction"] = float(row.fraction)
    measured = {
        "logit": row.logit,
        "log_prob": row.log_prob,
        "effect_logit": row.effect_logit,
        "effect_log_prob": row.effect_log_prob,
        **distribution(row.logits, row.clean_logits),
        "largest_change": row.largest_change,
        "removed_post": row.removed_post,
        "out_delta_norm": row.out_delta_norm,
        "hidden_norm": list(row.hidden_norm),
    }
    return named | clean | (measured if row.chosen else dict.fromkeys(measured))


def distribution(logits: Sequence[float], clean_logits: Sequence[float]) -> dict[str, Any]:
    """The metrics of a whole next-token distribution, in float64 numpy."""
    log_p, clean_log_p = (np.array(each) for each in (logits, clean_logits))
    log_p, clean_log_p = (each - np.logaddexp.reduce(each) for each in (log_p, clean_log_p))
    return {
        "prob": float(np.exp(log_p[TARGET_ID])),
        "target_rank": 1 + int(np.sum(log_p > log_p[TARGET_ID])),
        "kl": float(np.sum(np.exp(clean_log_p) * (clean_log_p - log_p))),
        "entropy": float(-np.sum(np.exp(log_p) * log_p)),
        "top_token_id": int(np.argmax(log_p)),
    }


def _equal(found: Any, wanted: Any, tolerance: float) -> bool:
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(
            _equal(one, other, tolerance) for one, other in zip(found, wanted, strict=True)
        )
    if isinstance(wanted, float) and found is not None:
        return math.isclose(found, wanted, rel_tol=tolerance, abs_tol=tolerance)
    return bool(found == wanted)
