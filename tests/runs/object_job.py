"""A study that measures nothing, for runs in object stores and on clusters; torch is not imported.

The rows of a unit follow from its number alone. Where a count is asked for, every measurement
leaves a file of its own in a directory, whichever process took it.
"""

import dataclasses
import functools
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from small_run import manifest, measuring, prompt, row, table

from lesion.errors import DeviceLost
from lesion.prompt_sets.rows import PromptRow
from lesion.prompt_sets.units import Unit
from lesion.runs.manifest import Manifest
from lesion.runs.runner import Here, Job, Measure, Watch, Way, run_units
from lesion.runs.shard import Shard
from lesion.runs.store import claim


@dataclasses.dataclass(frozen=True)
class ObjectJob(Job):
    """`deadly` units kill the process that measures them, `lost` ones lose its device."""

    counts: str
    seconds: float = 0.0
    deadly: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    wrong: tuple[int, ...] = ()

    def open(self, place: int) -> Measure:
        """As the model is loaded: who does it is written down."""
        opened = Path(self.counts) / f"opened.{os.getpid()}.{time.monotonic_ns()}"
        opened.write_text(f"{socket.gethostname()} {place}", encoding="utf-8")

        def measure(unit: Unit, moved: object) -> Shard:
            own = f"{unit.number}.{os.getpid()}.{time.monotonic_ns()}"
            (Path(self.counts) / own).touch()
            time.sleep(self.seconds)
            if unit.number in self.deadly:
                os.kill(os.getpid(), signal.SIGKILL)
            if unit.number in self.lost:
                raise DeviceLost("measure", "the GPU is gone", "A GPU stays", "Look for it")
            if unit.number in self.wrong:
                raise ZeroDivisionError("a bug")
            return result(unit.number)

        return measure


def asked(units: int, **changed: object) -> Manifest:
    """The manifest of a study of so many units, one prompt each."""
    prompts = manifest().prompts.model_copy(update={"rows": units, "unit_size": 1})
    return manifest(**({"prompts": prompts} | changed))


def open_units(units: int, finished: Collection[int] = ()) -> Iterator[Unit]:
    """The units of a study that are not finished."""
    for number in range(units):
        if number not in finished:
            yield Unit(number, (PromptRow(number, f"prompts[{number}]", f"prompt {number}"),))


def result(unit: int) -> Shard:
    """What is measured of a unit."""
    effects = np.random.default_rng(unit).normal(size=2)
    found = [row(layer, 0.5, float(effect), prompt_id=unit) for layer, effect in enumerate(effects)]
    return Shard(unit, table(*found), (prompt(prompt_id=unit),), measuring())


def conduct(path: str | Path, units: int, way: Way | None = None, overwrite: bool = False) -> bool:
    """Begin a study or go on with it, to its end; whether it went on."""
    with claim(path, overwrite=overwrite) as writer:
        goes_on = writer.begin(asked(units), overwrite=overwrite)
        here = Here(lambda unit, _: result(unit.number))
        run_units(writer, functools.partial(open_units, units), way or here, Watch())
    return goes_on


def measured(counts: Path) -> Counter[int]:
    """How often each unit was measured."""
    names = (path.name for path in counts.iterdir() if not path.name.startswith("opened"))
    return Counter(int(name.partition(".")[0]) for name in names)
