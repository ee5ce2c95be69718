"""Units measured by several processes on this machine, each with the model loaded once.

A worker commits its own shards; the process that holds the run's lock writes down which units are
finished. A worker that dies is replaced, and its unit tried again; one whose driver dies ends.
"""

import collections
import dataclasses
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from lesion.errors import LesionError, UnitFailed
from lesion.prompt_sets.units import Unit
from lesion.runs.manifest import Manifest, UnitRecord
from lesion.runs.opening import open_folder
from lesion.runs.runner import TRIES, Job, Watch
from lesion.runs.store import RunWriter, commit_shard

_SPAWN = multiprocessing.get_context("spawn")
_RAISED = "raised an exception, which stands above"


Answer = UnitRecord | LesionError


@dataclasses.dataclass(frozen=True)
class Workers:
    """So many processes, spawned for the job."""

    job: Job
    count: int

    def __call__(self, writer: RunWriter, units: Iterable[Unit], watch: Watch) -> None:
        """Measure and commit units; see `run_units`.

        Raises:
            UnitFailed: a unit's workers died as often as it may be tried.
            LesionError: what measuring refuses.
        """
        ahead = Ahead(units)
        team: dict[int, _Worker] = {}
        try:
            while True:
                self._keep_busy(team, ahead, writer)
                if not team:
                    return
                sources = {worker.connection: place for place, worker in team.items()}
                for ready in wait(list(sources)):
                    place = sources[ready]  # type: ignore[index]
                    self._hear(team, place, ahead, writer, watch)
        finally:
            for worker in team.values():
                worker.end()

    def _keep_busy(self, team: "dict[int, _Worker]", ahead: "Ahead", writer: RunWriter) -> None:
        """Every worker has a unit; those for whom there is none go home."""
        for place in range(self.count):
            worker = team.get(place)
            if worker is not None and worker.unit is not None:
                continue
            unit = ahead.take()
            if unit is None:
                if worker is not None:
                    team.pop(place).end()
                continue
            if worker is None:
                worker = team[place] = _Worker(self.job, place, writer)
            worker.give(unit)

    def _hear(
        self,
        team: "dict[int, _Worker]",
        place: int,
        ahead: "Ahead",
        writer: RunWriter,
        watch: Watch,
    ) -> None:
        worker = team[place]
        try:
            answer: Answer = worker.connection.recv()
        except (EOFError, ConnectionError):
            team.pop(place)
            ahead.give_back(worker.unit, worker.died())
            return
        worker.unit = None
        if isinstance(answer, LesionError):
            raise answer
        writer.add(answer)
        watch.unit(answer)


class Ahead:
    """The units that are still to be measured: those that were given back first."""

    def __init__(self, units: Iterable[Unit]) -> None:
        self.units: Iterator[Unit] = iter(units)
        self.again: collections.deque[Unit] = collections.deque()
        self.tries: collections.Counter[int] = collections.Counter()

    def take(self) -> Unit | None:
        return self.again.popleft() if self.again else next(self.units, None)

    def give_back(self, unit: Unit | None, how: str) -> None:
        """A worker died with a unit.

        Raises:
            UnitFailed: for the last time.
        """
        assert unit is not None, "a worker without a unit waits"
        self.tries[unit.number] += 1
        if self.tries[unit.number] >= TRIES or how == _RAISED:
            raise unit_failed(unit, how, self.tries[unit.number])
        self.again.append(unit)


class _Worker:
    """One process, and the unit that it has."""

    def __init__(self, job: Job, place: int, writer: RunWriter) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        words = (theirs, job, place, writer.folder.path, writer.manifest.model_dump_json())
        self.process: BaseProcess = _SPAWN.Process(target=_work, args=words, daemon=True)
        self.process.start()
        theirs.close()
        self.unit: Unit | None = None

    def give(self, unit: Unit) -> None:
        self.unit = unit
        try:
            self.connection.send(unit)
        except (BrokenPipeError, ConnectionError):
            return  # it died meanwhile: the next `recv` finds out

    def died(self) -> str:
        """How the process ended, in words."""
        self.process.join()
        self.connection.close()
        code = self.process.exitcode or 0
        if code == 1:
            return _RAISED
        return f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"

    def end(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _work(connection: Connection, job: Job, place: int, path: str, manifest_json: str) -> None:
    """The life of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver hears it too, and ends its workers
    threading.Thread(target=_end_with_driver, daemon=True).start()
    manifest = Manifest.model_validate_json(manifest_json)
    folder = open_folder(path)
    try:
        measure = job.open(place)
        while True:
            unit: Unit = connection.recv()
            connection.send(commit_shard(folder, measure(unit, None), manifest))
    except LesionError as error:
        connection.send(error)
    except (EOFError, ConnectionError):
        return  # the driver has no more units


def _end_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None, "a worker has a driver"
    wait([driver.sentinel])
    os._exit(1)


def unit_failed(unit: Unit, how: str, tries: int) -> UnitFailed:
    """The error of a unit that was given up."""
    return UnitFailed(
        f"unit {unit.number}",
        f"its worker {how}" + (f", {tries} times" if tries > 1 else ""),
        f"A unit whose worker dies is tried {TRIES} times, one whose worker raises only once",
        "Look for what kills it (memory?), then repeat the command: what is finished stays",
    )
