"""Children for tests that kill: one process imports everything once and forks for each of them.

`ForkServer` is the test's end, `serve` the other one. A child calls one of the `CALLS` and tells
what came of it; the server tells how it ended.
"""

import dataclasses
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    import fake_study
    import faulty_disks

    from lesion.prompt_sets.prompt_set import open_prompt_set
    from lesion.prompt_sets.units import units_of
    from lesion.runs.shard import shard_name

HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a child ended: its return code (−9: killed), and what it said."""

    returncode: int
    answer: Any


class ForkServer:
    """Starts the process; `stop` ends it."""

    def __init__(self) -> None:
        places = [str(HERE), str(HERE.parent.parent)]
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", str(Path(__file__))],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "torch is not there\n"

    def run(self, call: str, *, kill_after: float | None = None, **arguments: Any) -> Ended:
        """One child; killed after so many seconds unless it ended before."""
        return self.race([(call, arguments)], kill_after=kill_after)[0]

    def race(
        self, calls: list[tuple[str, dict[str, Any]]], *, kill_after: float | None = None
    ) -> list[Ended]:
        """Several children that start at the same moment."""
        self.process.stdin.write(json.dumps([calls, kill_after]) + "\n")
        self.process.stdin.flush()
        return [Ended(*ended) for ended in json.loads(self.process.stdout.readline())]

    def stop(self) -> None:
        """End the process, which must not have died before."""
        self.process.stdin.close()
        assert self.process.wait(timeout=10) == 0
        self.process.stdout.close()


def serve(calls: dict[str, Callable[..., Any]]) -> None:
    """Do what comes in, a line each, until nothing does any more."""
    assert "torch" not in sys.modules
    _say("torch is not there")
    for line in sys.stdin:
        asked, kill_after = json.loads(line)
        _say(json.dumps(_forked(calls, asked, kill_after)))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _forked(
    calls: dict[str, Callable[..., Any]],
    asked: list[tuple[str, dict[str, Any]]],
    kill_after: float | None,
) -> list[tuple[int, Any]]:
    gate, opened = os.pipe()
    children = []
    for name, arguments in asked:
        told, tells = os.pipe()
        pid = os.fork()
        if pid == 0:
            _child(calls[name], arguments, (gate, opened), tells)
        os.close(tells)
        children.append((pid, told))
    os.close(gate)
    os.close(opened)
    deadline = None if kill_after is None else time.monotonic() + kill_after
    return [_ended(pid, told, deadline) for pid, told in children]


def _child(
    call: Callable[..., Any], arguments: dict[str, Any], gate: tuple[int, int], tells: int
) -> None:
    os.close(gate[1])
    os.read(gate[0], 1)  # all of them at once
    begun = time.monotonic()
    try:
        answer = call(**arguments)
    except Exception as error:
        answer = {"error": type(error).__name__, "text": str(error), "errno": _errno(error)}
        answer["seconds"] = time.monotonic() - begun
        if os.environ.get("LESION_TEST_TRACES"):
            traceback.print_exc()
    os.write(tells, json.dumps(answer).encode())
    os._exit(0)


def _errno(error: BaseException) -> int | None:
    return getattr(error, "errno", None)


def _ended(pid: int, told: int, deadline: float | None) -> tuple[int, Any]:
    said = b""
    while True:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([told], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            deadline = None
            continue
        part = os.read(told, 65536)
        if not part:
            break
        said += part
    os.close(told)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, json.loads(said) if said and code == 0 else None


# What children do


def conduct_timed(path: str, units: int, counts: str, seconds: float = 0.0) -> dict[str, Any]:
    """A whole study."""
    begun = time.monotonic()
    goes_on = fake_study.conduct(path, units, counts, seconds=seconds)
    return {"goes_on": goes_on, "seconds": time.monotonic() - begun, "pid": os.getpid()}


def conduct_until(path: str, units: int, counts: str, last: int) -> int:
    """A study that is killed at an I/O step; how many steps there were if it is not."""
    disk = faulty_disks.Deadly(last)
    with fake_study.using(disk):
        fake_study.conduct(path, units, counts)
    return disk.steps


def conduct_in_small_files(path: str, units: int, counts: str, most: int) -> dict[str, Any]:
    """A study whose files may have so many bytes, and not more."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    fake_study.conduct(path, units, counts)
    return {}


def resume_many(path: str, units: int) -> dict[str, Any]:
    """How long a run of so many finished units takes to reach its next one, after imports."""
    folder, asked = Path(path), study_of(units + 1)
    prompts = folder / "prompts.jsonl"
    with prompts.open("w", encoding="utf-8") as file:
        for number in range(asked.prompts.rows):
            file.write(
                json.dumps({"prompt": f"The colour of item {number} is", "group": "g"}) + "\n"
            )
    shard = fake_study.result(0)
    with fake_study.claim(folder / "run") as writer:
        writer.begin(asked)
        record = writer.commit(shard)
        for unit in range(1, units):
            # Their content is not looked at before they are read.
            os.link(folder / "run" / shard_name(0), folder / "run" / shard_name(unit))
        entries = [record.model_copy(update={"unit": unit}) for unit in range(units)]
        writer.folder.record_all(entries)
    begun = time.monotonic()
    with fake_study.claim(folder / "run") as writer:
        writer.begin(asked)
        opened = open_prompt_set(prompts)
        opened.sha256()
        unit = next(units_of(opened, asked.prompts.unit_size, None, writer.finished))
    return {"seconds": time.monotonic() - begun, "unit": unit.number}


def study_of(units: int) -> Any:
    """The manifest of a study with units of 32 prompts."""
    asked = fake_study.study_manifest(units)
    sized = {"rows": 32 * units, "unit_size": 32}
    return asked.model_copy(update={"prompts": asked.prompts.model_copy(update=sized)})


CALLS = {
    "resume many": resume_many,
    "conduct": conduct_timed,
    "conduct until": conduct_until,
    "conduct in small files": conduct_in_small_files,
}


if __name__ == "__main__":
    import pyarrow

    pyarrow.set_cpu_count(1)
    # What is remembered of this study need not be done again by every child.
    with tempfile.TemporaryDirectory() as folder:
        fake_study.conduct(Path(folder) / "run", 4, Path(folder) / "counts")
    serve(CALLS)
