"""Which neurons a lesion takes: a ranking, and the positions taken from it.

    top         the largest rank keys first; positions 0 … floor(fraction · n) − 1
    bottom      the smallest rank keys first; the same positions
    random      an order drawn from (seed, layer, draw, prompt key); the same positions
    band        the order of `top`; positions floor(low · n) … floor(high · n) − 1
    set         the neurons that were listed

All fractions of one ranking are nested. Rank keys: `value` (signed), `abs`, and `write`
(|post| · norm of the neuron's output weights). Ties go to the lower neuron index.
"""

import dataclasses
import hashlib
import operator
from abc import ABC, abstractmethod
from collections.abc import Iterable
from decimal import Decimal
from typing import ClassVar, Literal, get_args

import numpy as np

from lesion.errors import InvalidChoice
from lesion.interventions.fractions import count, parse_fraction

RankKey = Literal["value", "abs", "write"]
RANK_KEYS: tuple[RankKey, ...] = get_args(RankKey)
Order = Literal["descending", "ascending"]


@dataclasses.dataclass(frozen=True)
class KeyRanking:
    """The neurons of a vector sorted by a rank key; equal keys by neuron index."""

    key: RankKey
    order: Order


@dataclasses.dataclass(frozen=True)
class DrawnRanking:
    """An order of the neurons that derives from numbers only, never from a running generator."""

    seed: int
    draw: int

    def neurons(self, layer: int, prompt_key: str, size: int) -> np.ndarray:
        """All `size` neuron indices (int64) in the drawn order."""
        words = f"{self.seed}|{layer}|{self.draw}|{prompt_key}"
        digest = hashlib.sha256(words.encode()).digest()
        # The raw stream of PCG64 is the same in every version of numpy, `permutation` need not be.
        keys = np.random.PCG64(int.from_bytes(digest)).random_raw(size)
        return np.argsort(keys, kind="stable")


Ranking = KeyRanking | DrawnRanking


def check_rank(rank: str | None) -> None:
    """Refuse a rank key that does not exist; None means the site's own.

    Raises:
        InvalidChoice: an unknown key.
    """
    if rank is not None and rank not in RANK_KEYS:
        rule = f"A rank key is one of {', '.join(RANK_KEYS)}"
        raise InvalidChoice(f"rank {rank!r}", "there is no such key", rule, "Pass one of them")


class Selection(ABC):
    """Which neurons of a block; abstract. Its instances are frozen, compare and hash by value."""

    kind: ClassVar[str]

    @property
    def word(self) -> str:
        """How the table and the flag `select` name it, fractions and draws apart."""
        return self.kind

    @property
    @abstractmethod
    def ranking(self) -> Ranking | None:
        """The order that positions refer to; None where the neurons are listed."""

    @abstractmethod
    def positions(self, size: int) -> range:
        """The positions taken of a ranking of `size` neurons."""

    @abstractmethod
    def ranked_by(self, key: RankKey) -> "Selection":
        """The same selection with its rank key filled in, where it has one that is still open."""


@dataclasses.dataclass(frozen=True)
class _Ranked(Selection):
    """Base of the selections that take the first share of an order of rank keys."""

    fraction: Decimal
    rank: RankKey | None = None
    order: ClassVar[Order]

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", parse_fraction(self.fraction))
        check_rank(self.rank)

    @property
    def ranking(self) -> KeyRanking:
        return KeyRanking(self.rank or "value", self.order)

    def positions(self, size: int) -> range:
        return range(count(self.fraction, size))

    def ranked_by(self, key: RankKey) -> Selection:
        return self if self.rank else dataclasses.replace(self, rank=key)


@dataclasses.dataclass(frozen=True)
class Top(_Ranked):
    """The share of neurons with the largest rank keys."""

    kind: ClassVar[str] = "top"
    order: ClassVar[Order] = "descending"


@dataclasses.dataclass(frozen=True)
class Bottom(_Ranked):
    """The share of neurons with the smallest rank keys."""

    kind: ClassVar[str] = "bottom"
    order: ClassVar[Order] = "ascending"


@dataclasses.dataclass(frozen=True)
class Band(Selection):
    """The neurons ranked between two shares, counted from the largest rank key."""

    kind: ClassVar[str] = "band"
    low: Decimal
    high: Decimal
    rank: RankKey | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", parse_fraction(self.low))
        object.__setattr__(self, "high", parse_fraction(self.high))
        check_rank(self.rank)
        if not self.low < self.high:
            asked = f"band({self.low}, {self.high})"
            rule = "A band runs from a lower to a higher fraction"
            raise InvalidChoice(asked, "it holds nothing", rule, "Pass for example band:0.01-0.02")

    @property
    def word(self) -> str:
        return f"band:{self.low}-{self.high}"

    @property
    def ranking(self) -> KeyRanking:
        return KeyRanking(self.rank or "value", "descending")

    def positions(self, size: int) -> range:
        return range(count(self.low, size), count(self.high, size))

    def ranked_by(self, key: RankKey) -> Selection:
        return self if self.rank else dataclasses.replace(self, rank=key)


@dataclasses.dataclass(frozen=True)
class Random(Selection):
    """A share of neurons drawn at random, one set a (seed, layer, draw, prompt)."""

    kind: ClassVar[str] = "random"
    fraction: Decimal
    seed: int = 0
    draw: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "fraction", parse_fraction(self.fraction))
        object.__setattr__(self, "seed", int(self.seed))
        object.__setattr__(self, "draw", int(self.draw))

    @property
    def ranking(self) -> DrawnRanking:
        return DrawnRanking(self.seed, self.draw)

    def positions(self, size: int) -> range:
        return range(count(self.fraction, size))

    def ranked_by(self, key: RankKey) -> Selection:
        return self


@dataclasses.dataclass(frozen=True)
class NeuronSet(Selection):
    """Neurons that were listed, as (layer, neuron) pairs; kept sorted, each once."""

    kind: ClassVar[str] = "set"
    neurons: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        rule = "A set lists at least one neuron as a pair of layer and neuron, counted from 0"
        remedy = "Pass for example [(3, 17), (3, 40)]"
        try:
            index = operator.index
            pairs = tuple(sorted({(index(layer), index(neuron)) for layer, neuron in self.neurons}))
        except (TypeError, ValueError):
            found = f"{self.neurons!r} is no list of pairs of whole numbers"
            raise InvalidChoice("a set of neurons", found, rule, remedy) from None
        object.__setattr__(self, "neurons", pairs)
        if not pairs:
            raise InvalidChoice("a set of neurons", "it is empty", rule, remedy)
        if min(min(pair) for pair in pairs) < 0:
            found = f"it holds {min(pairs, key=min)}"
            raise InvalidChoice("a set of neurons", found, rule, remedy)

    @property
    def ranking(self) -> None:
        return None

    def positions(self, size: int) -> range:
        return range(0)

    def ranked_by(self, key: RankKey) -> Selection:
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have a neuron in the set, ascending."""
        return tuple(sorted({layer for layer, _ in self.neurons}))

    def neurons_in(self, layer: int) -> tuple[int, ...]:
        """The neurons listed for one layer, ascending."""
        return tuple(neuron for in_layer, neuron in self.neurons if in_layer == layer)


def top(fraction: Decimal | float | str, rank: RankKey | None = None) -> Top:
    """The `fraction` of neurons with the largest rank keys (default key: that of the site)."""
    return Top(parse_fraction(fraction), rank)


def bottom(fraction: Decimal | float | str, rank: RankKey | None = None) -> Bottom:
    """The `fraction` of neurons with the smallest rank keys."""
    return Bottom(parse_fraction(fraction), rank)


def random(fraction: Decimal | float | str, seed: int = 0, draw: int = 0) -> Random:
    """A random `fraction` of neurons; `draw` numbers the sets of one seed."""
    return Random(parse_fraction(fraction), seed, draw)


def band(
    low: Decimal | float | str, high: Decimal | float | str, rank: RankKey | None = None
) -> Band:
    """The neurons ranked from share `low` up to share `high`, counted from the top."""
    return Band(parse_fraction(low), parse_fraction(high), rank)


def neuron_set(neurons: Iterable[tuple[int, int]]) -> NeuronSet:
    """Listed neurons, as (layer, neuron) pairs."""
    return NeuronSet(tuple(neurons))
