"""A cluster of two machines, played on this one; run in a network of its own by `test_cluster.py`.

`python two_nodes.py SCENARIO DIRECTORY` writes what happened as JSON to the standard output.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

from object_job import ObjectJob, conduct, measured

from lesion.errors import LesionError
from lesion.runs.cluster import Cluster

os.environ.update(RAY_USAGE_STATS_ENABLED="0", RAY_AUTH_MODE="disabled")

UNITS = 40


def alive(pid: int) -> bool:
    """Whether a process runs; one that only waits to be buried does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except FileNotFoundError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def parent(pid: int) -> int:
    """The process that started one."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    return int(stat.rpartition(")")[2].split()[1])


def opened(counts: Path) -> set[int]:
    """The processes that loaded the model."""
    return {int(path.name.split(".")[1]) for path in counts.glob("opened.*")}


def two_nodes():
    """Head and worker, with a processor each."""
    from ray.cluster_utils import Cluster as Nodes  # noqa: PLC0415 (the settings come first)

    nodes = Nodes(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8},
    )
    return nodes, nodes.add_node(num_cpus=1, object_store_memory=10**8)


def kill_a_node(folder: Path, counts: Path) -> dict:
    """40 units; the second machine is killed after its actor has measured some."""
    nodes, node = two_nodes()
    raylet = node.all_processes["raylet"][0].process.pid
    struck = {}

    def strike():
        while True:
            theirs = [pid for pid in opened(counts) if alive(pid) and parent(pid) == raylet]
            mine = [path for path in counts.iterdir() if int(path.name.split(".")[1]) in theirs]
            if len(mine) > 5:  # the opening of the model, and five units
                break
            time.sleep(0.02)
        before = sum(measured(counts).values())
        nodes.remove_node(node, allow_graceful=False)
        deadline = time.monotonic() + 20.0
        while time.monotonic() < deadline and any(map(alive, [raylet, *theirs])):
            time.sleep(0.05)
        struck.update(
            before=before,
            actors=len(theirs),
            dead=not any(map(alive, [raylet, *theirs])),
            theirs=theirs,
        )

    striking = threading.Thread(target=strike, daemon=True)
    striking.start()
    way = Cluster(ObjectJob(str(counts), seconds=0.3), nodes.address, 2)
    conduct(folder, UNITS, way)
    striking.join(30.0)
    import ray  # noqa: PLC0415

    return {
        "struck": struck,
        "opened": sorted(opened(counts)),
        "connected": ray.is_initialized(),
        "measured": measured(counts),
    }


def refuse(folder: Path, counts: Path) -> dict:
    """What ends a run, one after the other on the same cluster."""
    nodes, _ = two_nodes()
    said = {}
    for name, words in {
        "deadly": {"deadly": (3,)},
        "lost": {"lost": (3,)},
        "wrong": {"wrong": (3,)},
    }.items():
        own = counts / name
        own.mkdir()
        try:
            conduct(folder / name, 6, Cluster(ObjectJob(str(own), **words), nodes.address, 2))
        except LesionError as error:
            said[name] = [type(error).__name__, str(error), measured(own)[3]]
    patient = Cluster(ObjectJob(str(counts)), nodes.address, 1, 1.0, 3.0)
    try:
        conduct(folder / "gpu", 6, patient)
    except LesionError as error:
        said["gpu"] = [type(error).__name__, str(error), 0]
    return said


def local(folder: Path, counts: Path) -> dict:
    """A Ray that is started for the run and ended with it; the run has a relative path."""
    os.environ.pop("RAY_AUTH_MODE")
    home = os.environ["HOME"] = str(counts.parent)
    os.chdir(folder.parent)
    before = signal.getsignal(signal.SIGTERM)
    conduct(folder.name, 6, Cluster(ObjectJob(str(counts)), "local"))
    import ray  # noqa: PLC0415

    return {
        "measured": measured(counts),
        "home": sorted(path.name for path in Path(home).glob(".ray*")),
        "ended": not ray.is_initialized(),
        "signals": signal.getsignal(signal.SIGTERM) is before,
    }


if __name__ == "__main__":
    place = Path(sys.argv[2])
    (place / "counts").mkdir()
    scenario = {"kill_a_node": kill_a_node, "refuse": refuse, "local": local}[sys.argv[1]]
    found = scenario(place / "run", place / "counts")
    (place / "found.json").write_text(json.dumps(found), encoding="utf-8")
