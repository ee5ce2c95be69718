"""Units measured on the machines of a Ray cluster, by actors that each hold the model.

1. An actor is started for each worker, and has room of its own: a processor, and a GPU if the model
   is to be on one. It loads the model when it gets its first unit.
2. Each has one unit at a time. It commits the shard itself, to the path of the run, which all
   machines must reach: an object store, or a directory that they share, under the same name.
3. The driver, which holds the run's lock, writes down which units are finished.
4. An actor that dies, alone or with its machine, is replaced where there is room, and its unit is
   tried again by whoever is free, three times in all. Should it have been finished nevertheless, by
   one that was only out of reach: the first result stays (`commit_shard`).

The actors end with their driver. Nothing here knows how many machines there are.
"""

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import secrets
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lesion.errors import (
    EngineRefused,
    LesionError,
    RunDiffers,
    RunNotWritable,
    RunUnreachable,
    UnitFailed,
)
from lesion.prompt_sets.units import Unit
from lesion.runs.manifest import Manifest, UnitRecord, version_class
from lesion.runs.opening import is_remote, open_folder
from lesion.runs.runner import TRIES, Job, Measure, Watch
from lesion.runs.store import RunWriter, commit_shard, read_unit
from lesion.runs.workers import Ahead, unit_failed

LOCAL = "local"
_OBJECT_STORE_BYTES = 100 * 2**20
_Answer = UnitRecord | LesionError


@dataclasses.dataclass(frozen=True)
class Cluster:
    """So many actors on the cluster at an address, or on this machine (`local`); a `Way`.

    Attributes:
        workers: omitted, as many as the cluster has room for when it is joined.
        gpus_per_worker: omitted, one if the job's device is one, and else none.
        patience_seconds: how long to wait while not one worker could be started.
    """

    job: Job
    address: str
    workers: int | None = None
    gpus_per_worker: float | None = None
    patience_seconds: float = 300.0

    def __call__(self, writer: RunWriter, units: Iterable[Unit], watch: Watch) -> None:
        """Measure and commit units; see `run_units`.

        Raises:
            EngineRefused: Ray is not installed.
            RunUnreachable: there is no cluster at the address.
            UnitFailed: a unit's workers died as often as it may be tried, or none could be started.
            LesionError: what measuring refuses.
        """
        ahead = Ahead(units)
        first = ahead.take()
        if first is None:
            return
        with _joined(self.address, self.workers) as ray:
            team = _Team(ray, self, writer, first, ahead, watch)
            try:
                team.work()
            finally:
                team.end()

    @property
    def gpus(self) -> float:
        """Of each worker."""
        if self.gpus_per_worker is not None:
            return self.gpus_per_worker
        return float(str(getattr(self.job, "device", "cpu")).startswith("cuda"))


class Measurer:
    """The actor: holds the model, measures a unit at a time, and commits it."""

    def __init__(self, job: Job, path: str, manifest_json: str) -> None:
        self.job, self.path = job, path
        self.manifest = Manifest.model_validate_json(manifest_json)
        self.measure: Measure | None = None

    def ready(self) -> None:
        """Answers when it runs."""

    def work(self, unit: Unit) -> _Answer:
        """The record of a unit whose shard is durable now, or what measuring refuses."""
        try:
            if self.measure is None:
                _check_versions(self.manifest)
                # Ray shows an actor its own GPUs only, as if there were no others.
                self.measure = self.job.open(0)
            return commit_shard(open_folder(self.path), self.measure(unit, None), self.manifest)
        except LesionError as error:
            return error


@dataclasses.dataclass
class _Worker:
    actor: Any
    unit: Unit | None = None
    shares: bool = False
    """Whether the driver has seen a shard of it."""


class _Team:
    """The actors, and what each of them has."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        writer: RunWriter,
        first: Unit,
        ahead: Ahead,
        watch: Watch,
    ) -> None:
        self.ray, self.cluster, self.writer, self.watch = ray, cluster, writer, watch
        self.next: Unit | None = first
        self.ahead = ahead
        self.size = cluster.workers or _room(ray, cluster.gpus)
        self.waited_for: dict[Any, _Worker] = {}
        self.idle: list[_Worker] = []
        self.failed_starts = 0
        self.last_at_work = time.monotonic()

    def work(self) -> None:
        """Until no unit is left."""
        while self.next is not None or self._at_work():
            while self.idle and self.next is not None:
                self._give(self.idle.pop())
            while self.next is not None and len(self.waited_for) + len(self.idle) < self.size:
                self._start()
            done, _ = self.ray.wait(list(self.waited_for), num_returns=1, timeout=1.0)
            for answer in done:
                self._hear(self.waited_for.pop(answer), answer)
            self._check_patience()

    def end(self) -> None:
        """Nobody works any more."""
        for worker in [*self.waited_for.values(), *self.idle]:
            self._dismiss(worker)

    def _at_work(self) -> bool:
        return any(worker.unit is not None for worker in self.waited_for.values())

    def _start(self) -> None:
        folder = self.writer.folder.path
        path = folder if is_remote(folder) else str(Path(folder.removeprefix("file://")).resolve())
        actor = self.ray.remote(Measurer).options(
            num_cpus=1, num_gpus=self.cluster.gpus, max_restarts=0, scheduling_strategy="SPREAD"
        ).remote(self.cluster.job, path, self.writer.manifest.model_dump_json())  # fmt: skip
        self.waited_for[actor.ready.remote()] = _Worker(actor)

    def _give(self, worker: _Worker) -> None:
        worker.unit, self.next = self.next, self.ahead.take()
        self.waited_for[worker.actor.work.remote(worker.unit)] = worker

    def _hear(self, worker: _Worker, answer: Any) -> None:
        try:
            found: _Answer | None = self.ray.get(answer)
        except self.ray.exceptions.RayTaskError as error:
            assert worker.unit is not None, "ready() raises nothing"
            raise unit_failed(worker.unit, f"raised {_last_line(error)}", 1) from error
        except self.ray.exceptions.RayError as error:
            self._lost(worker, error)
            return
        self.failed_starts, worker.unit = 0, None
        self.idle.append(worker)
        if isinstance(found, LesionError):
            raise found
        if found is not None:
            if not worker.shares:
                check_shared(self.writer, found)
                worker.shares = True
            self.writer.add(found)
            self.watch.unit(found)

    def _lost(self, worker: _Worker, error: Exception) -> None:
        """An actor died, or cannot be reached."""
        self._dismiss(worker)
        if worker.unit is not None:
            self.ahead.give_back(worker.unit, f"was lost ({_first_line(error)})")
            self.next = self.next or self.ahead.take()
            return
        self.failed_starts += 1
        if self.failed_starts > TRIES * self.size:
            raise self._none_started(_first_line(error))

    def _dismiss(self, worker: _Worker) -> None:
        with contextlib.suppress(self.ray.exceptions.RayError, ValueError):
            self.ray.kill(worker.actor)

    def _check_patience(self) -> None:
        if self._at_work() or self.idle:
            self.last_at_work = time.monotonic()
        elif time.monotonic() - self.last_at_work > self.cluster.patience_seconds:
            found = ", ".join(
                f"{value:g} {name}"
                for name, value in sorted(self.ray.cluster_resources().items())
                if name in {"CPU", "GPU"}
            )
            seconds = f"none has started in {self.cluster.patience_seconds:g} seconds"
            raise self._none_started(f"{seconds}; the cluster has {found or 'no processor'}")

    def _none_started(self, found: str) -> UnitFailed:
        return UnitFailed(
            f"start {self.size} workers on the cluster {self.cluster.address}",
            found,
            f"A worker needs 1 CPU and {self.cluster.gpus:g} GPUs, and lesion installed there",
            "Look at the cluster with `ray status`, then repeat the command: what is finished "
            "stays",
        )


@contextlib.contextmanager
def _joined(address: str, workers: int | None) -> Iterator[Any]:
    """Ray, connected to a cluster; left afterwards, unless it was connected before.

    Raises:
        EngineRefused: it is not installed.
        RunUnreachable: there is no cluster.
    """
    # Both must be said before Ray is imported: nothing is reported to anybody, and a local Ray,
    # which listens on every interface, lets nobody in without a token. One that is named here is
    # not written to the home folder.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        if not os.environ.get("RAY_AUTH_TOKEN_PATH"):
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise EngineRefused(
            f"measure on the cluster {address}",
            f"the package {error.name or 'ray'} is not installed",
            "Clusters are run by Ray",
            'Install it: pip install "lesion[ray]"',
        ) from error
    if ray.is_initialized():
        yield ray
        return
    local = {"num_cpus": max(workers or 1, os.cpu_count() or 1)}
    local |= {"object_store_memory": _OBJECT_STORE_BYTES, "include_dashboard": False}
    with _own_signals():
        try:
            # Said outright, so that a file that an earlier Ray left behind cannot mislead it.
            ray.init(
                address, log_to_driver=False, logging_level=logging.WARNING,
                **(local if address == LOCAL else {}),
            )  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise RunUnreachable(
                f"measure on the cluster {address}",
                f"Ray says: {_first_line(error)}",
                "An address is that of a running cluster, HOST:PORT, or local for one that is "
                "started here",
                "Look at it with `ray status --address`, and at the versions of Ray and Python",
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """What is done about SIGTERM stays as it was; Ray has a mind of its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def check_shared(writer: RunWriter, record: UnitRecord) -> None:
    """Refuse a worker whose shard is not there where the driver looks.

    Raises:
        RunNotWritable: it is not.
    """
    found = read_unit(writer.folder, record, writer.manifest.key)
    if isinstance(found, str):
        raise RunNotWritable(
            f"write to {writer.folder.path}",
            f"a worker wrote unit {record.unit} there, and here {found}",
            "All machines of a cluster reach a run under the same path",
            "Pass an object store (s3://BUCKET/RUN), or a directory that they share",
        )


def _room(ray: Any, gpus: float) -> int:
    """How many workers a cluster has room for."""
    there = ray.cluster_resources()
    room = there.get("CPU", 0.0)
    return max(1, int(min(room, there.get("GPU", 0.0) / gpus) if gpus else room))


def _check_versions(manifest: Manifest) -> None:
    """Refuse a machine that would measure with other packages.

    Raises:
        RunDiffers: naming them.
    """
    found = []
    for package, asked in manifest.versions.items():
        try:
            own = None if package == "python" else importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            own = "none"
        if own is not None and version_class(package, own) != version_class(package, asked):
            found.append(f"{package} {own} instead of {asked}")
    if found:
        raise RunDiffers(
            "measure on a machine of the cluster",
            f"it has {', '.join(found)}",
            "Every worker of a run has the same versions",
            "Install them on all machines alike",
        )


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip().rstrip(".:") if lines else type(error).__name__


def _last_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].strip().rstrip(".") if lines else type(error).__name__
