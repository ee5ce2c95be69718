"""A sweep whose words are checked: what it asks of which model, and where it is measured.

A run that stands in a directory is gone on with: its threads and memory are kept, its prompts were
looked at when it was begun.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Collection, Iterator
from typing import Any

import torch

from lesion.engines.batches import default_memory
from lesion.engines.choosing import EngineWord
from lesion.engines.engine import Progress, check_unused
from lesion.engines.proved import check_packed, unproved_model
from lesion.errors import InvalidChoice
from lesion.experiments.cells import cells_of
from lesion.experiments.checking import Checked, check_prompts
from lesion.experiments.estimate import (
    Estimate,
    disk_of,
    measured_speed,
    memory_of,
    operations_of_all,
)
from lesion.experiments.measuring import Measuring, SweepJob, UnitMeasuring
from lesion.experiments.plan import SweepPlan
from lesion.experiments.questions import (
    Asking,
    Question,
    check_posed,
    pose,
    question_of,
    questions_of,
)
from lesion.experiments.records import model_record, versions
from lesion.experiments.watching import LesionBar
from lesion.models.fingerprint import fingerprint
from lesion.models.language_model import LanguageModel
from lesion.models.tokens import (
    tokenized,
)
from lesion.prompt_sets.prompt_set import PromptSet
from lesion.prompt_sets.rows import BadRow, PromptRow
from lesion.prompt_sets.units import Unit, units_of
from lesion.runs.cluster import Cluster
from lesion.runs.manifest import EngineRecord, Manifest, PromptsRecord, digest
from lesion.runs.run import Run, held_run
from lesion.runs.runner import Here, Watch, Way, run_units
from lesion.runs.store import RunWriter
from lesion.runs.workers import Workers


class OnePrompt(PromptSet):
    """A set of one row, which was asked for as such: what is wrong with it is no bad row."""

    def __init__(self, row: PromptRow) -> None:
        self.name = "prompt"
        self.row = row

    def rows(self, first: int = 0) -> Iterator[PromptRow | BadRow]:
        return iter([self.row][first:])

    def sha256(self) -> str:
        return digest(dataclasses.asdict(self.row))


@dataclasses.dataclass(frozen=True)
class Study:
    """A sweep whose words are checked: what it asks, of which model."""

    model: LanguageModel
    prompts: PromptSet
    plan: SweepPlan
    asking: Asking
    words: dict[str, Any]
    engine: EngineWord
    self_check: bool
    hidden_norm: bool
    direct: bool
    limit: int | None
    strict: bool

    def held(self, progress: Progress | None) -> Run:
        """Measure everything, in memory."""
        measuring = self.measuring(None)
        measure = UnitMeasuring(self.model, measuring)
        manifest = self._manifest(measuring, self._checked(None))
        with contextlib.ExitStack() as stack:
            moved = progress or stack.enter_context(LesionBar())
            units = units_of(self.prompts, manifest.prompts.unit_size, self.limit)
            return held_run(manifest, [measure(unit, moved) for unit in units])

    def estimate(self) -> Estimate:
        """What it would take; a few lesions are measured for their time, and thrown away."""
        measuring = self.measuring(None)
        measure = UnitMeasuring(self.model, measuring)
        checked = self.checked()
        record = checked.record
        unit = next(units_of(self.prompts, record.unit_size, self.limit))
        questions = questions_of(self.model, unit.rows, self.asking)
        posed = pose(self.model, [each for each in questions if isinstance(each, Question)])
        prompts = [prompt for each in posed for prompt in each.each]
        engine, reason, speed = measured_speed(
            self.model, self.engine, prompts, measure.lesions, self.direct, measuring.memory_bytes
        )
        operations = operations_of_all(
            self.model, engine, checked.lengths, measure.lesions, self.direct
        )
        predictions = sum(checked.lengths.values())
        rows = (record.rows - record.bad_rows) * len(measure.cells)
        if self.asking.position == "every":
            rows = predictions * len(measure.cells)
        longest = max(checked.lengths)
        return Estimate(
            prompts=record.rows - record.bad_rows,
            bad_rows=record.bad_rows,
            predictions=predictions,
            units=record.units,
            lesions=predictions * len(measure.lesions),
            rows=rows,
            engine=engine,
            reason=reason,
            operations=operations,
            seconds=operations / speed,
            memory_bytes=memory_of(
                self.model, engine, longest, len(prompts) * (1 + len(measure.lesions)),
                measuring.memory_bytes,
            ),
            disk_bytes=disk_of(rows),
        )  # fmt: skip

    def run(
        self,
        writer: RunWriter,
        workers: int | None,
        cluster: str | None,
        *,
        overwrite: bool,
        watch: Watch,
    ) -> None:
        """Measure what is missing in a directory, here, in several processes or on a cluster.

        Raises:
            RunDiffers: another run stands there.
            InvalidChoice: several processes with a model that they cannot load.
        """
        stored = None if overwrite else writer.stored
        # A worker of a cluster has one processor, wherever it is.
        here = (workers or 1) if cluster is None else torch.get_num_threads()
        measuring = self.measuring(stored, here)
        way = self._way(measuring, workers, cluster)
        manifest = self._manifest(measuring, self._checked(stored))
        writer.begin(manifest, overwrite=overwrite)
        size = manifest.prompts.unit_size

        def open_units(finished: Collection[int]) -> Iterator[Unit]:
            return units_of(self.prompts, size, self.limit, finished)

        with watch:
            run_units(writer, open_units, way, watch)

    def measuring(self, stored: Manifest | None, workers: int = 1) -> Measuring:
        """How it measures; a run that stands there keeps its threads and its memory."""
        check_unused(self.model)
        if self.engine == "packed":
            check_packed(self.model)
        threads = max(1, torch.get_num_threads() // max(1, workers))
        memory = (
            None if unproved_model(self.model) is not None else default_memory(self.model.device)
        )
        if stored is not None:
            threads, memory = stored.engine.threads, stored.engine.memory_bytes
        return Measuring(
            self.plan, self.asking, self.engine, self.self_check, self.hidden_norm, self.direct,
            threads, memory,
        )  # fmt: skip

    def _way(self, measuring: Measuring, workers: int | None, cluster: str | None) -> Way:
        if workers is not None and workers < 1:
            rule = "Workers are processes that measure, at least one"
            raise InvalidChoice(f"workers {workers}", "there is none", rule, "Pass workers=2")
        here = UnitMeasuring(self.model, measuring)  # refuses layers that the model does not have
        if cluster is not None:
            return Cluster(self._job(measuring), cluster, workers)
        if workers is None or workers == 1:
            return Here(here)
        job = self._job(measuring)
        gpus = torch.cuda.device_count() if job.device.startswith("cuda") else workers
        if workers > gpus:
            rule = "On GPUs each worker has its own"
            found = f"there are {gpus} GPUs"
            raise InvalidChoice(f"workers {workers}", found, rule, f"Pass workers={gpus}")
        return Workers(job, workers)

    def _job(self, measuring: Measuring) -> SweepJob:
        if self.model.origin is None:
            raise InvalidChoice(
                f"several processes with model {self.model.name!r}",
                "it was handed over as an object, or with a tokenizer of its own",
                "Other processes load the model themselves, from a name, a folder or a config",
                "Save it with save_pretrained and load the folder, or leave workers out",
            )
        device, weights = str(self.model.device), fingerprint(self.model).weights
        return SweepJob(measuring, self.model.origin, device, weights)

    def _checked(self, stored: Manifest | None) -> PromptsRecord:
        """What the prompts are; those of a run that stands there were checked when it was begun."""
        if isinstance(self.prompts, OnePrompt):
            row = self.prompts.row
            question = question_of(
                self.model, row, self.asking, tokenized(self.model, [row.prompt])[0]
            )
            asked_of_packed = self.engine == "packed" and isinstance(self.asking.position, int)
            if question.source == "top" or asked_of_packed:
                posed = pose(self.model, [question])[0]
                check_posed(self.model, posed)
            if asked_of_packed:
                lesions = [cell.lesion for cell in cells_of(self.plan, self.model)[:1]]
                check_packed(self.model, lesions, [posed.whole])
        if stored is not None and self._same_prompts(stored):
            return stored.prompts
        return self.checked().record

    def checked(self) -> Checked:
        """A look at every row of the prompts."""
        return check_prompts(self.model, self.prompts, self.asking, self.limit, self.strict)

    def _same_prompts(self, stored: Manifest) -> bool:
        own, prompts = fingerprint(self.model), stored.prompts
        asked = (self.limit, self.asking.target_mode, self.asking.truncate)
        return (
            (own.tokenizer, own.config)
            == (stored.model.fingerprint.tokenizer, stored.model.fingerprint.config)
            and asked == (prompts.limit, prompts.target_mode, prompts.truncate)
            and stored.plan.get("position") == self.asking.position
            and not (self.strict and prompts.bad_rows)
            and prompts.sha256 == self.prompts.sha256()
        )

    def _manifest(self, measuring: Measuring, prompts: PromptsRecord) -> Manifest:
        return Manifest(
            experiment="sweep",
            created=datetime.datetime.now(datetime.UTC),
            plan=self.words,
            model=model_record(self.model),
            engine=EngineRecord(
                asked=self.engine,
                threads=measuring.threads,
                memory_bytes=measuring.memory_bytes,
                self_check=self.self_check,
            ),
            prompts=prompts,
            versions=versions(),
        )
