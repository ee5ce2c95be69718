"""What a sweep is asked to measure: its words, checked before torch or a model is needed."""

import dataclasses
import re
from collections.abc import Iterable
from typing import cast

from lesion.axes import RANKS_ON, SCOPES, SITES, Position, RankOn, Scope, Site
from lesion.errors import InvalidChoice
from lesion.interventions.fractions import Fractions, parse_fractions
from lesion.interventions.lesion import check_position, check_rank_at, check_word
from lesion.interventions.replacement import Replacement, parse_replacement
from lesion.interventions.select import Select, parse_select, takes_fractions
from lesion.interventions.selection import RankKey, Selection, check_rank

DEFAULT_FRACTIONS = ("coarse", "fine")
Layers = str | int | Iterable[int]


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """The words of a sweep, checked and expanded; `layers` is None for every block."""

    selections: tuple[Selection, ...]
    site: Site
    replace: str
    scope: Scope
    rank_on: RankOn
    layers: tuple[int, ...] | None
    position: Position


def plan_sweep(
    *,
    fractions: Fractions | None,
    site: Site,
    select: Select,
    rank: RankKey | None,
    replace: str | Replacement,
    scope: Scope,
    rank_on: RankOn,
    layers: Layers | None,
    position: Position,
    seed: int,
) -> SweepPlan:
    """Check the words of a sweep and expand its fractions.

    Raises:
        InvalidChoice: a word, number or file that means nothing, or words that contradict each
        other.
    """
    check_word("site", site, SITES)
    check_word("scope", scope, SCOPES)
    check_word("rank_on", rank_on, RANKS_ON)
    check_position(position)
    check_rank(rank)
    check_rank_at(rank, site)
    if fractions is not None and not takes_fractions(select):
        raise InvalidChoice(
            f"fractions {fractions!s} with select {select!s}",
            "nothing takes the fractions",
            "A band, a set and a selection that was built already have their own share",
            "Leave the fractions out, or select top, bottom or random",
        )
    shares = parse_fractions(DEFAULT_FRACTIONS if fractions is None else fractions)
    return SweepPlan(
        selections=parse_select(select, shares, rank, seed),
        site=site,
        replace=str(parse_replacement(replace)),
        scope=scope,
        rank_on=rank_on,
        layers=parse_layers(layers),
        position=position,
    )


def parse_position(asked: str) -> Position:
    """A position as the command line spells it: a word, or the index of a token.

    Raises:
        InvalidChoice: neither.
    """
    position = int(asked) if re.fullmatch(r"-?\d{1,9}", asked) else cast(Position, asked)
    check_position(position)
    return position


def parse_layers(asked: Layers | None) -> tuple[int, ...] | None:
    """Block numbers from a text such as `0,3,5-8`, one number, or several; None for every block.

    Raises:
        InvalidChoice: a piece that is no block number.
    """
    if asked is None:
        return None
    pieces = re.split(r"[,\s]+", asked.strip()) if isinstance(asked, str) else asked
    found: set[int] = set()
    for piece in [pieces] if isinstance(pieces, int) else pieces:
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", str(piece))
        if ends is None or int(ends[2] or ends[1]) < int(ends[1]):
            rule = "Layers are block numbers from 0, and ranges of them"
            remedy = "Pass for example 0,3,5-8"
            raise InvalidChoice(f"layers {asked!s}", f"{piece!s} is none", rule, remedy)
        found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
    if not found:
        rule = "A sweep needs at least one layer"
        raise InvalidChoice("layers", "there is none", rule, "Leave it out for every block")
    return tuple(sorted(found))
