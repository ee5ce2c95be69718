"""What a sweep is to measure: words checked before a model is needed, then cells on a model.

A cell is one row of the table to be: a layer × selection × fraction. Cells whose lesions take the
same neurons share one measurement, and a cell that takes none has no measurement.
"""

import dataclasses
import re
from collections.abc import Hashable, Iterable, Sequence
from decimal import Decimal

from lesion.axes import POSITIONS, RANKS_ON, SCOPES, SITES, Position, RankOn, Scope, Site
from lesion.errors import InvalidChoice
from lesion.interventions.fractions import Fractions, parse_fractions
from lesion.interventions.lesion import Lesion, check_rank_at, check_word
from lesion.interventions.replacement import Replacement, parse_replacement
from lesion.interventions.select import Select, parse_select, takes_fractions
from lesion.interventions.selection import (
    Band,
    DrawnRanking,
    NeuronSet,
    RankKey,
    Selection,
    check_rank,
)
from lesion.models.language_model import LanguageModel

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


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row to be: its layer (None in scope `all`), its lesion, and the share that was asked."""

    layer: int | None
    lesion: Lesion
    fraction: float
    neurons: int


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
    check_word("position", position, POSITIONS)
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


def cells_of(plan: SweepPlan, model: LanguageModel) -> tuple[Cell, ...]:
    """The rows a plan gives on a model: selections in their order, then layers, then fractions.

    Raises:
        UnknownLayer: the plan names a block or neuron that the model does not have.
    """
    if plan.layers is not None:
        model.check_layers(plan.layers)
    cells = []
    for group in _groups(plan.selections):
        for layer, lesioned in _lesioned_layers(plan, group[0], model):
            for selection in group:
                lesion = Lesion(
                    selection, plan.replace, plan.site, lesioned, plan.position, plan.rank_on
                )
                neurons, units = _neurons(lesion, model)
                cells.append(Cell(layer, lesion, _fraction(selection, neurons, units), neurons))
    return tuple(cells)


def measurement_key(lesion: Lesion, model: LanguageModel) -> Hashable:
    """Equal for lesions of one plan that take the same neurons, whatever their fractions."""
    if isinstance(lesion.select, NeuronSet):
        return lesion.layers, lesion.select
    taken = [
        lesion.select.positions(model.blocks[layer].size(lesion.site)) for layer in lesion.layers
    ]
    ends = tuple((positions.start, positions.stop) for positions in taken)
    return lesion.layers, lesion.select.ranking, ends


def draw_of(selection: Selection) -> int | None:
    """The number of a random draw; None for every other selection."""
    ranking = selection.ranking
    return ranking.draw if isinstance(ranking, DrawnRanking) else None


def _groups(selections: Sequence[Selection]) -> list[list[Selection]]:
    """Selections that differ only in their fraction, together."""
    groups: dict[Hashable, list[Selection]] = {}
    for selection in selections:
        own = selection if isinstance(selection, Band | NeuronSet) else selection.ranking
        groups.setdefault(own, []).append(selection)
    return list(groups.values())


def _lesioned_layers(
    plan: SweepPlan, selection: Selection, model: LanguageModel
) -> list[tuple[int | None, tuple[int, ...]]]:
    """Per row of blocks: the layer it is named by, and the layers it lesions."""
    layers = plan.layers
    if layers is None and isinstance(selection, NeuronSet):
        layers = selection.layers
        model.check_layers(layers)
    if layers is None:
        layers = tuple(range(len(model.blocks)))
    if plan.scope == "all":
        return [(None, layers)]
    if plan.scope == "cumulative":
        return [(layer, layers[: index + 1]) for index, layer in enumerate(layers)]
    return [(layer, (layer,)) for layer in layers]


def _neurons(lesion: Lesion, model: LanguageModel) -> tuple[int, int]:
    """How many neurons a lesion takes, and of how many, summed over its layers."""
    sizes = [model.blocks[layer].size(lesion.site) for layer in lesion.layers]
    if isinstance(lesion.select, NeuronSet):
        taken = sum(len(lesion.select.neurons_in(layer)) for layer in lesion.layers)
    else:
        taken = sum(len(lesion.select.positions(size)) for size in sizes)
    return taken, sum(sizes)


def _fraction(selection: Selection, neurons: int, units: int) -> float:
    """The share that was asked for; of a set, the share that it is."""
    asked: Decimal | None = getattr(selection, "fraction", None)
    if isinstance(selection, Band):
        asked = selection.high - selection.low
    return float(asked) if asked is not None else neurons / units
