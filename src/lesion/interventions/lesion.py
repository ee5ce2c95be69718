"""One lesion: selection × replacement × site × layers × position, as a frozen value.

A `Lesion` holds no tensors, compares and hashes by value, and is the entry a manifest stores.
"""

import dataclasses
import operator
from collections.abc import Iterable

from lesion.axes import POSITIONS, RANKS_ON, SITES, Position, RankOn, Site
from lesion.errors import InvalidChoice
from lesion.interventions.replacement import Replacement, parse_replacement
from lesion.interventions.selection import KeyRanking, RankKey, Selection

DEFAULT_RANK: dict[Site, RankKey] = {"pre": "value", "post": "value", "out": "abs"}


@dataclasses.dataclass(frozen=True)
class Lesion:
    """Neurons of one or more blocks, at one token, and what they are overwritten with.

    With `rank_on="lesioned"` each block ranks its neurons on what the row carries there, earlier
    lesions included; with `"clean"` on the clean run. The replacement is always taken from the
    row's own vector just before overwriting.

    Raises:
        InvalidChoice: a word that does not exist, no layer, or the rank key `write` at site `out`.
    """

    select: Selection
    replace: str | Replacement = "median"
    site: Site = "pre"
    layers: tuple[int, ...] = ()
    position: Position = "last"
    rank_on: RankOn = "lesioned"

    def __post_init__(self) -> None:
        check_word("site", self.site, SITES)
        check_word("rank_on", self.rank_on, RANKS_ON)
        check_position(self.position)
        object.__setattr__(self, "replace", str(parse_replacement(self.replace)))
        object.__setattr__(self, "layers", _checked_layers(self.layers))
        if not isinstance(self.select, Selection):
            rule = "A lesion takes one selection, with its share or its neurons"
            remedy = "Pass for example select=lesion.top(0.01)"
            raise InvalidChoice(f"select {self.select!r}", "it is no selection", rule, remedy)
        object.__setattr__(self, "select", self.select.ranked_by(DEFAULT_RANK[self.site]))
        ranking = self.select.ranking
        if isinstance(ranking, KeyRanking):
            check_rank_at(ranking.key, self.site)

    @property
    def replacement(self) -> Replacement:
        """What `replace` names."""
        return parse_replacement(self.replace)


def check_rank_at(rank: RankKey | None, site: Site) -> None:
    """Refuse the rank key `write` at site `out`, whose components have no output weights.

    Raises:
        InvalidChoice: that pair.
    """
    if rank == "write" and site == "out":
        raise InvalidChoice(
            "rank 'write' at site 'out'",
            "components of the MLP output have no output weights",
            "The rank key write (|post| times the norm of the output weights) ranks neurons",
            "Pass rank='abs', or site='post'",
        )


def check_position(position: Position) -> None:
    """Refuse a position that is neither a word nor the index of a token.

    Raises:
        InvalidChoice: naming the words.
    """
    if isinstance(position, bool) or not isinstance(position, int):
        try:
            check_word("position", str(position), POSITIONS)
        except InvalidChoice as error:
            rule = f"{error.rule}, or the index of a token"
            raise InvalidChoice(error.asked, error.found, rule, error.remedy) from None


def check_word(keyword: str, asked: str, known: Iterable[str]) -> None:
    """Refuse a word that the keyword does not know.

    Raises:
        InvalidChoice: naming the known words.
    """
    words = tuple(known)
    if asked not in words:
        rule = (
            f"{keyword} is one of {', '.join(words)}"
            if len(words) > 1
            else f"{keyword} is {words[0]}"
        )
        raise InvalidChoice(
            f"{keyword} {asked!r}", "there is no such word", rule, "Pass one of them"
        )


def _checked_layers(layers: Iterable[int]) -> tuple[int, ...]:
    rule = "A lesion names at least one layer, counted from 0"
    try:
        found = tuple(sorted({operator.index(layer) for layer in layers}))
    except TypeError:
        wrong = f"{layers!r} is no list of whole numbers"
        raise InvalidChoice("layers", wrong, rule, "Pass for example layers=(3,)") from None
    if not found:
        raise InvalidChoice("layers", "there is none", rule, "Pass for example layers=(3,)")
    if found[0] < 0:
        raise InvalidChoice("layers", f"{found[0]} is negative", rule, "Count from the first block")
    return found
