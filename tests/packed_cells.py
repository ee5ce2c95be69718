"""Cells: lesions that the packed engine and the reference engine are both asked for.

A cell has one value of each factor: architecture, dtype, site, scope, position, selection,
replacement, rank key, and the run that is ranked on. Cells of one model and one position go to the
packed engine in one call, however different their lesions are.
"""

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import product

import jaxtyping
import numpy as np
from families import PACKED_TYPES, VARIANTS, tiny_variant
from pairwise import Item, pairwise_cover
from posing import posed

import lesion
from lesion.engines.engine import Outcome
from lesion.engines.packed import PackedEngine
from lesion.engines.reference import ReferenceEngine
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import Selection
from lesion.models.language_model import LanguageModel
from lesion.prompts import Prompt

TOLERANCE = {"float64": 1e-6, "float32": 5e-5}
DTYPES = tuple(TOLERANCE)
SOFTMAX_IN_FLOAT32 = ("gemma2",)
"""Whose own attention computes it so, whatever the model's dtype; the packed engine does not."""
PACKED_VARIANTS = tuple(name for name, (model_type, _) in VARIANTS.items()
                        if model_type in PACKED_TYPES)  # fmt: skip
PACKED_MODELS = (*PACKED_TYPES, *PACKED_VARIANTS)
"""Every architecture that the packed engine takes, and its other shapes."""

SITES = ("pre", "post", "out")
RANKS = ("value", "abs", "write")
RANKS_ON = ("lesioned", "clean")
SCOPES = {
    "each": ((0,), (1,), (2,)),
    "all": ((0, 1, 2),),
    "cumulative": ((0,), (0, 1), (0, 1, 2)),
}
"""The blocks of each lesion of a scope."""

SEED = 7
NEURON_SET = ((0, 3), (0, 14), (1, 0), (1, 7), (1, 8), (1, 15), (2, 11))
SELECTIONS = ("top", "bottom", "random", "band", "set", "single")
REPLACEMENTS = ("median", "median_mid", "mean", "zero", "min", "constant:0.7")

TEXT = (3, 17, 42, 8, 25, 60, 11)
OTHER_TEXT = (1, 2, 33, 4, 50, 6, 7, 33, 4, 5, 1, 61)
EVERY_TEXT = "w8 w30 w8 w51 w2 w19"
"""Its last question has five tokens, one more than the tiny models' sliding windows."""
POSITIONS = {"last": "last", "prompts": "last", "every": "last", "index": 6, "from_end": -1}
"""Each way to ask for the last token, and how a lesion spells it."""

FACTORS: dict[str, tuple[str, ...]] = {
    "model": tuple(name for name in PACKED_MODELS if name != "gpt2"),
    "site": SITES,
    "scope": tuple(SCOPES),
    "position": tuple(POSITIONS),
    "selection": SELECTIONS,
    "replacement": REPLACEMENTS,
    "rank": RANKS,
    "rank_on": RANKS_ON,
}
RANKED_FACTORS = FACTORS | {"scope": ("all", "cumulative"), "selection": ("top", "bottom", "band")}
"""Only what looks at the ranking, and where the lesioned run's differs from the clean run's."""
FORBIDDEN: set[frozenset[Item]] = {frozenset([("site", "out"), ("rank", "write")])}


@dataclasses.dataclass(frozen=True)
class PackedCell:
    """The lesions of one sweep; `rank` None leaves the key to the site."""

    model: str
    dtype: str
    site: str
    scope: str
    position: str
    selection: str
    replacement: str
    rank: str | None
    rank_on: str

    def lesions(self) -> list[Lesion]:
        """One lesion a share of neurons and a row of blocks."""
        return [
            Lesion(each, self.replacement, self.site, layers, POSITIONS[self.position],
                   self.rank_on)
            for layers in SCOPES[self.scope]
            for each in self._selections(layers)
        ]  # fmt: skip

    def _selections(self, layers: tuple[int, ...]) -> list[Selection]:
        # The least share takes 3 of 48 neurons and 1 of 16 components; 1 takes all of them.
        if self.selection == "top":
            return [lesion.top(share, self.rank) for share in ("0.07", "0.3", "1")]
        if self.selection == "bottom":
            return [lesion.bottom("0.4", self.rank)]
        if self.selection == "random":
            return [lesion.random("0.3", SEED, draw=1)]
        if self.selection == "band":
            return [lesion.band("0.1", "0.6", self.rank)]
        if self.selection == "set":
            return [lesion.neuron_set(NEURON_SET)]
        # In scope `all` the first blocks are lesioned without a neuron, in `cumulative` the last.
        return [lesion.neuron_set([(layers[-1 if self.scope == "all" else 0], 5)])]


def tolerance_of(model: str, dtype: str) -> float:
    """How far the engines may be apart, absolute and relative."""
    return TOLERANCE["float32" if model in SOFTMAX_IN_FLOAT32 else dtype]


def ranks_at(site: str) -> tuple[str, ...]:
    """The rank keys that a site has."""
    return RANKS[: 2 if site == "out" else 3]


def gpt2_cells(dtype: str, parts: int = 1, part: int = 0) -> list[PackedCell]:
    """Every site × scope × position × selection × replacement, or one of several parts of them.

    Rank keys and runs to rank on take turns, the same at every position. A part holds a mixture of
    everything.
    """
    found = []
    for site in SITES:
        rankings = list(product((None, *ranks_at(site)), RANKS_ON))
        for place, choices in enumerate(product(SCOPES, SELECTIONS, REPLACEMENTS)):
            # One more step after each round of replacements: else some pairs would never meet.
            turn = place + place // len(REPLACEMENTS)
            found.append((site, *choices, *rankings[turn % len(rankings)]))
    return [
        PackedCell("gpt2", dtype, site, scope, position, *others)
        for position in POSITIONS
        for site, scope, *others in found[part::parts]
    ]


def pair_cells(dtype: str) -> list[PackedCell]:
    """Every pair of factors of the other architectures: of all cells, then of the ranked ones."""
    found = [
        PackedCell(dtype=dtype, **cell)
        for factors in (FACTORS, RANKED_FACTORS)
        for cell in pairwise_cover(factors, FORBIDDEN)
    ]
    return list(dict.fromkeys(found))


def all_cells(model: str, dtype: str, site: str) -> list[PackedCell]:
    """The full product of one architecture, dtype and site."""
    rest = product(SCOPES, POSITIONS, SELECTIONS, REPLACEMENTS, ranks_at(site), RANKS_ON)
    return [PackedCell(model, dtype, site, *others) for others in rest]


@cache
def tiny(name: str, dtype: str = "float64") -> LanguageModel:
    """`tiny_variant`, remembered: for tests that leave the model as it is."""
    return tiny_variant(name, dtype)


def question(
    token_ids: Sequence[int], target_id: int = 5, foil_id: int | None = None, number: int = 0
) -> Prompt:
    """A prompt of the tiny models, whose tokens are the words w0, w1, …"""
    return Prompt(
        prompt_id=number,
        text=" ".join(f"w{token_id}" for token_id in token_ids),
        token_ids=tuple(token_ids),
        target=f"w{target_id}",
        target_id=target_id,
        foil=None if foil_id is None else f"w{foil_id}",
        foil_id=foil_id,
    )


def beginnings(token_ids: Sequence[int]) -> list[Prompt]:
    """The questions of a text: each token but the last, measured on the token that follows."""
    return [question(token_ids[:end], token_ids[end]) for end in range(1, len(token_ids))]


@cache
def prompts_at(model: LanguageModel, position: str) -> tuple[Prompt, ...]:
    """What is measured together at a position."""
    first = question(TEXT, foil_id=9)
    if position == "every":
        return posed(model, EVERY_TEXT, "every").each
    if position == "prompts":
        return (
            first,
            question([9], target_id=60, number=1),
            question(OTHER_TEXT, target_id=12, foil_id=0, number=2),
            question(TEXT, target_id=44, number=3),
            question([50, 49, 48], target_id=31, foil_id=30, number=4),
        )
    return (first,)


METRICS = ("logit", "log_prob", "prob", "kl", "entropy", "logit_diff")
PLACES = ("target_rank", "top_token_id")
"""Which token stands where among the logits: exchanged by rounding where two nearly agree."""
COUNTS = ("neurons", "changed", "signature", "near_tie")
SIZES = ("largest_change", "removed_post", "out_delta_norm")
NUMBERS = (*METRICS, *SIZES, "hidden_norm", "direct_logit", "direct_log_prob")

Columns = dict[str, np.ndarray]
"""What an outcome says of its lesions: one array a word, one entry a lesion."""


def columns(outcome: Outcome) -> Columns:
    """Everything that an outcome says of its lesions."""
    assert outcome.hidden_norm is not None
    assert outcome.direct is not None
    found = {word: getattr(outcome.lesioned, word) for word in (*METRICS, *PLACES)}
    found |= {word: getattr(outcome.evidence, word) for word in (*COUNTS, *SIZES)}
    direct = {"direct_logit": outcome.direct.logit, "direct_log_prob": outcome.direct.log_prob}
    return found | {"hidden_norm": outcome.hidden_norm} | direct


def clean_columns(outcome: Outcome) -> Columns:
    """Everything that an outcome says of its clean run."""
    return {word: getattr(outcome.clean, word) for word in (*METRICS, *PLACES)}


class Oracle:
    """The reference engine of one model, which measures each lesion of a prompt once.

    The position is left out: all that are asked here mean the last token. `batch` lesions are the
    rows of one forward pass.
    """

    def __init__(self, model: LanguageModel, batch: int = 128) -> None:
        self.engine = ReferenceEngine(model, batch=batch)
        self.places: dict[tuple[Prompt, Lesion], int] = {}
        self.known: dict[Prompt, list[Columns]] = {}
        self.clean: dict[Prompt, Columns] = {}

    def measured(self, prompt: Prompt, lesions: Sequence[Lesion]) -> Columns:
        """What the reference engine says of some lesions of a prompt."""
        asked = [_at_last(each) for each in lesions]
        self._measure(prompt, [each for each in dict.fromkeys(asked)
                               if (prompt, each) not in self.places])  # fmt: skip
        parts = self.known[prompt]
        if len(parts) > 1:
            joined = {word: np.concatenate([part[word] for part in parts]) for word in parts[0]}
            self.known[prompt] = parts = [joined]
        places = [self.places[prompt, each] for each in asked]
        return {word: values[places] for word, values in parts[0].items()}

    def _measure(self, prompt: Prompt, lesions: Sequence[Lesion]) -> None:
        if not lesions:
            return
        with unchecked():
            outcome = self.engine.run(prompt, lesions, hidden_norm=True, direct=True)
        begun = sum(len(part["logit"]) for part in self.known.get(prompt, []))
        self.places |= {(prompt, each): begun + place for place, each in enumerate(lesions)}
        self.known.setdefault(prompt, []).append(columns(outcome))
        self.clean[prompt] = clean_columns(outcome)


@cache
def _at_last(asked: Lesion) -> Lesion:
    with unchecked():
        return dataclasses.replace(asked, position="last")


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Without the checks of shapes, which take most of the reference engine's time here."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", before)


@dataclasses.dataclass
class Comparison:
    """What was compared, lesion by lesion, and how it differed.

    Attributes:
        tolerance: of every number, absolute and relative to the reference engine's.
        complaints: one sentence a difference.
        rows: how many lesions of prompts were compared.
        near_ties: how many of them take other neurons because two keys nearly tie; float32 only.
        exchanged: how many predictions stand one rank apart, or have another top token, because two
            logits nearly tie; float32 only.
        effects: every |lesioned − clean log_prob|.
        largest: the largest difference of a log_prob.
    """

    tolerance: float
    exact: bool
    complaints: list[str] = dataclasses.field(default_factory=list)
    rows: int = 0
    near_ties: int = 0
    exchanged: int = 0
    effects: list[np.ndarray] = dataclasses.field(default_factory=list)
    largest: float = 0.0

    def add(
        self, outcome: Outcome, clean: Columns, expected: Columns, lesions: Sequence[Lesion]
    ) -> None:
        """Compare one prompt's outcome with what the reference engine says."""
        found = columns(outcome)
        self.rows += len(lesions)
        one = np.ones(1, dtype=bool)
        for word, values in clean_columns(outcome).items():
            if self._different(word, values, clean[word], one).any():
                self.complaints.append(f"clean run, {word}: {values[0]}, not {clean[word][0]}")
        same = found["signature"] == expected["signature"]
        if not self.exact:
            same |= ~(found["near_tie"] | expected["near_tie"])
            self.near_ties += int((~same).sum())
            same_set = same
        else:
            same_set = np.ones(len(lesions), dtype=bool)
        for word, wanted in expected.items():
            if word == "near_tie" and not self.exact:
                continue
            different = self._different(word, found[word], wanted, same_set)
            for place in np.flatnonzero(different)[:3]:
                self.complaints.append(
                    f"{lesions[place]}, {word}: {found[word][place]}, not {wanted[place]}"
                )
        effects = np.abs(expected["log_prob"] - clean["log_prob"])
        self.effects.append(effects)
        apart = np.abs(found["log_prob"] - expected["log_prob"])[same_set]
        self.largest = max(self.largest, float(np.nanmax(apart, initial=0.0)))

    def _different(
        self, word: str, found: np.ndarray, wanted: np.ndarray, compared: np.ndarray
    ) -> np.ndarray:
        """Which entries of a column are not what they should be."""
        if found.shape != wanted.shape:
            return np.ones(len(wanted), dtype=bool)
        if word in NUMBERS:
            close = np.isclose(
                found, wanted, rtol=self.tolerance, atol=self.tolerance, equal_nan=True
            )
            return ~close.reshape(len(wanted), -1).all(axis=1) & compared
        different = (found != wanted) & compared
        if word in PLACES and not self.exact:
            if word == "target_rank":
                self.exchanged += int(different.sum())
                return different & (np.abs(found - wanted) > 1)
            self.exchanged += int(different.sum())
            return np.zeros(len(wanted), dtype=bool)
        return different


def compare(
    packed: PackedEngine,
    oracle: Oracle,
    prompts: Sequence[Prompt],
    lesions: Sequence[Lesion],
    comparison: Comparison,
) -> list[Outcome]:
    """Let both engines measure some lesions of some prompts; what the packed engine found."""
    outcomes = packed.run_many(prompts, lesions, hidden_norm=True, direct=True)
    assert len(outcomes) == len(prompts)
    for prompt, outcome in zip(prompts, outcomes, strict=True):
        expected = oracle.measured(prompt, lesions)
        comparison.add(outcome, oracle.clean[prompt], expected, lesions)
    return outcomes


def check_cells(cells: Iterable[PackedCell]) -> Comparison:
    """Compare the engines on cells of one model, all lesions of the same prompts in one call.

    Raises:
        AssertionError: with the first differences; or the lesions move too little.
    """
    asked: dict[tuple[Prompt, ...], dict[Lesion, None]] = {}
    names = set()
    for cell in cells:
        prompts = prompts_at(tiny(cell.model, cell.dtype), cell.position)
        asked.setdefault(prompts, {}).update(dict.fromkeys(cell.lesions()))
        names.add((cell.model, cell.dtype))
    ((name, dtype),) = names
    model = tiny(name, dtype)
    oracle = Oracle(model)
    comparison = Comparison(tolerance_of(name, dtype), exact=dtype == "float64")
    for prompts, lesions in asked.items():
        compare(PackedEngine(model), oracle, prompts, list(lesions), comparison)
    assert comparison.complaints == [], "\n".join(comparison.complaints[:20])
    assert comparison.near_ties + comparison.exchanged <= comparison.rows / 100
    assert np.median(np.concatenate(comparison.effects)) > 1000 * comparison.tolerance
    return comparison
