"""A plan laid on a model: the cells of a sweep, each one row of the table to be.

A cell is a layer × selection × fraction. Cells whose lesions take the same neurons share one
measurement, and a cell that takes none has no measurement.
"""

import dataclasses
from collections.abc import Hashable, Sequence
from decimal import Decimal

from lesion.experiments.plan import SweepPlan
from lesion.interventions.lesion import Lesion
from lesion.interventions.selection import Band, DrawnRanking, NeuronSet, Selection
from lesion.models.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row to be: its layer (None in scope `all`), its lesion, and the share that was asked."""

    layer: int | None
    lesion: Lesion
    fraction: float
    neurons: int


def cells_of(plan: SweepPlan, model: LanguageModel) -> tuple[Cell, ...]:
    """The rows a plan gives on a model: selections in their order, then layers, then fractions.

    Raises:
        UnknownLayer: the plan names a block or neuron that the model does not have.
    """
    if plan.layers is not None:
        model.check_layers(plan.layers)
    for selection in plan.selections:
        if isinstance(selection, NeuronSet):
            model.check_neurons(selection.neurons, plan.site)
    # Each token of a text is the last token of the text up to it.
    position = "last" if plan.position == "every" else plan.position
    cells = []
    for group in _groups(plan.selections):
        for layer, lesioned in _lesioned_layers(plan, group[0], model):
            for selection in group:
                lesion = Lesion(
                    selection, plan.replace, plan.site, lesioned, position, plan.rank_on
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
