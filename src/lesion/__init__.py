"""Causal lesion experiments on the MLP neurons of language models.

    model = lesion.load()
    run = lesion.sweep(model, "It was a dark and stormy", " night", fractions="coarse")
    run.frame()

The names below are loaded when they are first used, so that reading a run never imports torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lesion.errors import LesionError
    from lesion.experiments.sweep import sweep
    from lesion.interventions.lesion import Lesion
    from lesion.interventions.replacement import constant
    from lesion.interventions.selection import band, bottom, neuron_set, random, top
    from lesion.models.loading import load
    from lesion.runs.compare import compare
    from lesion.runs.run import open_run as open

_HOMES = {
    "LesionError": "lesion.errors:LesionError",
    "Lesion": "lesion.interventions.lesion:Lesion",
    "band": "lesion.interventions.selection:band",
    "bottom": "lesion.interventions.selection:bottom",
    "compare": "lesion.runs.compare:compare",
    "constant": "lesion.interventions.replacement:constant",
    "load": "lesion.models.loading:load",
    "neuron_set": "lesion.interventions.selection:neuron_set",
    "open": "lesion.runs.run:open_run",
    "random": "lesion.interventions.selection:random",
    "sweep": "lesion.experiments.sweep:sweep",
    "top": "lesion.interventions.selection:top",
}

__all__ = [
    "Lesion",
    "LesionError",
    "band",
    "bottom",
    "compare",
    "constant",
    "load",
    "neuron_set",
    "open",
    "random",
    "sweep",
    "top",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lesion' has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
