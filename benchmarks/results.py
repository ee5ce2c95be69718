"""What jobs found, as dataclasses and as JSON; each job with its command and its conditions."""

import dataclasses
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).with_name("results.json")
PACKAGES = ("torch", "transformers", "numpy", "transformer-lens", "nnsight", "pyvene")


@dataclasses.dataclass(frozen=True)
class Target:
    """One number that was promised: at least, or at most, `bound`."""

    what: str
    value: float | None
    bound: float
    unit: str
    at_least: bool
    detail: str = ""

    @property
    def met(self) -> bool:
        """Whether the promise holds; never where nothing was measured."""
        if self.value is None:
            return False
        return self.value >= self.bound if self.at_least else self.value <= self.bound


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to do a job.

    `seconds` are those of each round over `timed` of the job's `lesions`. `difference` is the
    largest |Δ log-prob| from the protocol's loop, in nats. With an `error`, which may be too large
    a difference, there is no time that counts.
    """

    name: str
    label: str
    version: str
    lesions: int
    timed: int
    seconds: tuple[float, ...]
    difference: float | None = None
    error: str | None = None

    @property
    def per_lesion(self) -> float | None:
        """Median seconds a lesion."""
        if self.error is not None or not self.seconds:
            return None
        return statistics.median(self.seconds) / self.timed

    @property
    def whole(self) -> float | None:
        """Median seconds of the whole job; where it was timed on a sample, scaled per lesion."""
        return None if self.per_lesion is None else self.per_lesion * self.lesions


def ratio(contestants: Sequence[Contestant], name: str, to: str = "packed") -> float | None:
    """How many times the time of one contestant another takes for the whole job."""
    whole = {row.name: row.whole for row in contestants}
    one, other = whole[name], whole[to]
    return None if one is None or other is None else one / other


@dataclasses.dataclass(frozen=True)
class Point:
    """One point of a growth curve: seconds (median) and the arithmetic floor at `x`."""

    curve: str
    x: int
    seconds: float
    floor: int


@dataclasses.dataclass(frozen=True)
class Fact:
    """A number without a promise."""

    what: str
    value: str


@dataclasses.dataclass(frozen=True)
class Found:
    """All that one job found."""

    title: str
    targets: tuple[Target, ...] = ()
    contestants: tuple[Contestant, ...] = ()
    points: tuple[Point, ...] = ()
    facts: tuple[Fact, ...] = ()


@dataclasses.dataclass(frozen=True)
class Entry:
    """One job's entry in the results."""

    job: str
    command: str
    date: str
    took_seconds: float
    commit: str
    machine: str
    versions: dict[str, str]
    found: Found


def entry_of(job: str, found: Found, took_seconds: float) -> Entry:
    """What a job found, with the conditions of now."""
    return Entry(
        job=job,
        command=f"make bench JOB={job}",
        date=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        took_seconds=round(took_seconds, 1),
        commit=_commit(),
        machine=_machine(job),
        versions={"python": platform.python_version()} | {
            package: importlib.metadata.version(package) for package in PACKAGES
        },
        found=found,
    )  # fmt: skip


def write(entry: Entry, path: Path = RESULTS) -> None:
    """Put a job's entry in the place of its last one."""
    entries = json.loads(path.read_text()) if path.exists() else {}
    entries[entry.job] = dataclasses.asdict(entry)
    path.write_text(json.dumps(entries, indent=1, ensure_ascii=False) + "\n")


def read(path: Path = RESULTS) -> dict[str, Entry]:
    """All entries, by job."""
    entries = json.loads(path.read_text())
    return {job: Entry(**(words | {"found": _found(words["found"])}))
            for job, words in entries.items()}  # fmt: skip


def _found(words: dict[str, Any]) -> Found:
    parts = {"targets": Target, "contestants": Contestant, "points": Point, "facts": Fact}
    lists = {name: tuple(kind(**each) for each in words[name]) for name, kind in parts.items()}
    return Found(title=words["title"], **lists)


def _machine(job: str) -> str:
    """The processor and its memory, or the card for jobs that run there."""
    if job == "gpu":
        return torch.cuda.get_device_name()
    model = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        lines = information.read_text().splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        model = names[0] if names else model
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model} ({torch.backends.cpu.get_cpu_capability()}), {os.cpu_count()} cores, "
        f"{torch.get_num_threads()} threads, {gib:.0f} GiB"
    )


def _commit() -> str:
    """The commit that was measured, with a mark where the sources differ from it."""
    git = ["git", "describe", "--always", "--dirty", "--abbrev=10", "--match="]
    try:
        asked = subprocess.run(  # noqa: S603 - fixed words
            git, capture_output=True, text=True, check=True, cwd=RESULTS.parent
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()
