"""What a sweep does with one unit of work, wherever it runs: rows of prompts in, a shard out.

1. The rows become questions, and those their predictions (`experiments/questions.py`).
2. The engine measures every distinct lesion of every prediction at once.
3. Cells and outcomes become the unit's table (`experiments/rows.py`).

Nothing of it depends on what was measured before, by whom, or in which order.
"""

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from typing import Any

import torch

from lesion.engines.choosing import EngineWord, choose_engine
from lesion.engines.engine import Outcome
from lesion.engines.packed import PackedEngine
from lesion.engines.positions import token_at, unsuitable
from lesion.engines.self_check import noise_floor, self_check
from lesion.errors import DeviceLost, RunDiffers
from lesion.experiments.cells import Cell, cells_of, measurement_key
from lesion.experiments.plan import SweepPlan
from lesion.experiments.questions import Asking, Posed, Question, pose, questions_of
from lesion.experiments.records import prompt_record
from lesion.experiments.rows import Prediction, cell_columns, summed, unit_table
from lesion.interventions.lesion import Lesion
from lesion.models.fingerprint import fingerprint
from lesion.models.language_model import LanguageModel, Origin
from lesion.models.loading import load_again
from lesion.prompt_sets.units import Unit
from lesion.runs.manifest import MeasuringRecord, SelfCheckRecord, version_class
from lesion.runs.runner import Job, Measure, Moved
from lesion.runs.shard import Shard


@dataclasses.dataclass(frozen=True)
class Measuring:
    """How a sweep measures: frozen words, the same in every process.

    `threads` and `memory_bytes` (of one pass of the packed engine) are what its bits depend on.
    """

    plan: SweepPlan
    asking: Asking
    engine: EngineWord
    self_check: bool
    hidden_norm: bool
    direct: bool
    threads: int
    memory_bytes: int | None


@dataclasses.dataclass(frozen=True)
class SweepJob(Job):
    """A sweep's measuring, for processes that load the model themselves."""

    measuring: Measuring
    origin: Origin
    device: str
    weights: str

    def open(self, place: int) -> Measure:
        """Load the model; on GPUs each worker has its own.

        Raises:
            RunDiffers: another model stands there than the one that began the run.
        """
        torch.set_num_threads(self.measuring.threads)
        device = self.device
        if device.startswith("cuda"):
            device = f"cuda:{place % torch.cuda.device_count()}"
        model = load_again(self.origin, device)
        if fingerprint(model).weights != self.weights:
            raise RunDiffers(
                f"worker {place} with model {model.name}",
                "its weights are not those that the run was begun with",
                "Every worker of a run has the same model",
                "Give all machines the same folder, or the same revision from the Hub",
            )
        return UnitMeasuring(model, self.measuring)


class UnitMeasuring:
    """Measures units with a model; a `Measure`.

    Raises:
        LesionError: a layer, neuron or position that the model does not have.
    """

    def __init__(self, model: LanguageModel, measuring: Measuring) -> None:
        self.model, self.words = model, measuring
        plan = measuring.plan
        if plan.position == "every" and model.family.masked:
            raise unsuitable(model, plan.position)
        self.cells = cells_of(plan, model)
        self.lesions, places = _distinct(self.cells, model)
        self.columns = cell_columns(self.cells, places, plan)
        self.model_key = _model_key(model)

    def __call__(self, unit: Unit, moved: Moved | None = None) -> Shard:
        """Measure the rows of a unit that can be asked."""
        asked = questions_of(self.model, unit.rows, self.words.asking)
        questions = [question for question in asked if isinstance(question, Question)]
        return self.shard(unit.number, pose(self.model, questions), moved)

    def shard(self, number: int, posed: Sequence[Posed], moved: Moved | None) -> Shard:
        """Measure what is posed."""
        with _threads(self.words.threads), _device_watched():
            return self._shard(number, posed, moved)

    def _shard(self, number: int, posed: Sequence[Posed], moved: Moved | None) -> Shard:
        begun = time.perf_counter()
        words, lesions = self.words, self.lesions
        prompts = [prompt for each in posed for prompt in each.each]
        # A position that the model or a prompt does not have is refused before anything runs.
        at = [token_at(self.model, prompt, self.cells[0].lesion.position) for prompt in prompts]
        engine, reason = choose_engine(
            words.engine, self.model, lesions, prompts, words.memory_bytes
        )
        outcomes = engine.run_many(
            prompts, lesions, hidden_norm=words.hidden_norm, direct=words.direct, progress=moved
        )
        middle = len(prompts) // 2
        check = floor = None
        if prompts:
            compared = (self.model, prompts[middle], lesions, outcomes[middle])
            if words.self_check and isinstance(engine, PackedEngine):
                check = self_check(*compared)
            floor = noise_floor(*compared)
        measured = dict(zip(map(id, prompts), zip(at, outcomes, strict=True), strict=True))
        predictions = [
            prediction
            for each in posed
            for prediction in _predictions(each, [measured[id(prompt)] for prompt in each.each])
        ]
        table = unit_table(
            predictions, self.columns, engine.name, floor, self.model, self.model_key
        )
        records = tuple(
            prompt_record(each, [one.outcome for one in predictions if one.posed is each])
            for each in posed
        )
        packed = engine if isinstance(engine, PackedEngine) else None
        return Shard(
            number,
            table,
            records,
            MeasuringRecord(
                engine=engine.name,
                reason=reason,
                seconds=time.perf_counter() - begun,
                rows_in_pass=packed.rows_in_pass if packed else None,
                halvings=packed.halvings if packed else 0,
                self_check=None if check is None else SelfCheckRecord(**dataclasses.asdict(check)),
                near_ties=sum(int(outcome.evidence.near_tie.sum()) for outcome in outcomes),
                noise_floor=floor,
            ),
        )


def _predictions(posed: Posed, measured: Sequence[tuple[int, Outcome]]) -> Iterator[Prediction]:
    if posed.question.source == "sum":
        outcomes = [outcome for _, outcome in measured]
        yield Prediction(posed, posed.whole, measured[0][0], summed(outcomes))
        return
    for prompt, (position, outcome) in zip(posed.each, measured, strict=True):
        yield Prediction(posed, prompt, position, outcome)


def _distinct(cells: Sequence[Cell], model: LanguageModel) -> tuple[list[Lesion], list[int | None]]:
    """Each distinct lesion once, and per cell its place among them; None without a neuron."""
    distinct: dict[Any, int] = {}
    lesions: list[Lesion] = []
    places: list[int | None] = []
    for cell in cells:
        if cell.neurons == 0:
            places.append(None)
            continue
        key = measurement_key(cell.lesion, model)
        if key not in distinct:
            distinct[key] = len(lesions)
            lesions.append(cell.lesion)
        places.append(distinct[key])
    return lesions, places


def _model_key(model: LanguageModel) -> str:
    """What of a model its numbers depend on, in one text."""
    own = fingerprint(model)
    attention = getattr(model.config, "_attn_implementation", None)
    ours = version_class("lesion", version("lesion"))
    words = (own.weights, own.config, own.tokenizer, model.dtype, attention, ours)
    return "|".join(map(str, words))


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    """PyTorch on so many threads, as when the run was begun: sums depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _device_watched() -> Iterator[None]:
    """A GPU that is lost is told as such.

    Raises:
        DeviceLost: it does not answer any more.
    """
    try:
        yield
    except torch.AcceleratorError as error:
        raise DeviceLost(
            "measure on a GPU",
            str(error).splitlines()[0].rstrip("."),
            "A run never goes on silently on another device",
            "Look after the GPU, then repeat the command: what is finished stays",
        ) from error
