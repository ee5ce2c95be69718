"""Runs on a Ray cluster of two machines, played on this one (`make cluster`)."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from object_job import ObjectJob, asked, conduct, result

from lesion.errors import EngineRefused, RunDiffers, RunNotWritable
from lesion.runs.cluster import Cluster, _check_versions, check_shared
from lesion.runs.run import open_run
from lesion.runs.store import claim

HERE = Path(__file__).parent
UNITS = 40


def scenario(name: str, folder: Path) -> dict:
    """What happened in a scenario of `two_nodes.py`, in a network without any other machine."""
    inside = f'ip link set lo up && exec "$0" "{HERE / "two_nodes.py"}" {name} "{folder}"'
    places = [*sys.path, str(HERE), str(HERE.parent)]
    child = subprocess.run(
        ["unshare", "-rn", "sh", "-c", inside, sys.executable],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    if "unshare failed" in child.stderr:
        pytest.fail(f"no right to a network of its own: {child.stderr}")
    assert child.returncode == 0, child.stdout + child.stderr
    return json.loads((folder / "found.json").read_text(encoding="utf-8"))


@pytest.mark.cluster
class TestTwoNodes:
    def test_a_node_is_killed_while_it_works(self, tmp_path):
        found = scenario("kill_a_node", tmp_path)
        struck = found["struck"]
        assert struck["dead"], "raylet and actor are gone"
        assert struck["actors"] == 1
        assert struck["before"] < UNITS, "there was work left"
        assert len(found["opened"]) >= 2
        assert set(struck["theirs"]) < set(found["opened"])
        tries = {int(unit): count for unit, count in found["measured"].items()}
        assert sorted(tries) == list(range(UNITS))
        assert max(tries.values()) <= 3
        assert UNITS <= sum(tries.values()) <= UNITS + 1, "what was finished is not done again"
        assert not found["connected"]

        conduct(tmp_path / "alone", UNITS)
        alone, together = open_run(tmp_path / "alone"), open_run(tmp_path / "run")
        assert together.complete
        assert together.table.equals(alone.table)
        for path in (tmp_path / "alone" / "shards").iterdir():
            assert (tmp_path / "run" / "shards" / path.name).read_bytes() == path.read_bytes()

    def test_what_ends_a_run(self, tmp_path):
        found = scenario("refuse", tmp_path)
        name, text, tries = found["deadly"]
        assert (name, tries) == ("UnitFailed", 3)
        assert text.startswith("unit 3: its worker was lost (")
        assert text.endswith(
            "), 3 times. A unit whose worker dies is tried 3 times, one whose worker raises only "
            "once. Look for what kills it (memory?), then repeat the command: what is finished "
            "stays."
        )
        assert found["lost"] == [
            "DeviceLost",
            "measure: the GPU is gone. A GPU stays. Look for it.",
            1,
        ]
        assert found["wrong"] == [
            "UnitFailed",
            "unit 3: its worker raised ZeroDivisionError: a bug. A unit whose worker dies is tried "
            "3 times, one whose worker raises only once. Look for what kills it (memory?), then "
            "repeat the command: what is finished stays.",
            1,
        ]
        name, text, _ = found["gpu"]
        assert name == "UnitFailed"
        assert "none has started in 3 seconds; the cluster has 2 CPU. A worker needs 1 CPU" in text

    def test_a_local_one(self, tmp_path):
        found = scenario("local", tmp_path)
        assert found == {
            "measured": {str(unit): 1 for unit in range(6)},
            "home": [],
            "ended": True,
            "signals": True,
        }
        conduct(tmp_path / "alone", 6)
        assert open_run(tmp_path / "run").table.equals(open_run(tmp_path / "alone").table)


def test_without_ray(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineRefused) as caught:
        conduct(tmp_path / "run", 2, Cluster(ObjectJob(""), "head:6379"))
    assert str(caught.value) == (
        "measure on the cluster head:6379: the package ray is not installed. Clusters are run by "
        'Ray. Install it: pip install "lesion[ray]".'
    )


def test_a_directory_that_is_not_shared(tmp_path):
    with claim(tmp_path / "run") as writer:
        writer.begin(asked(2))
        record = writer.commit(result(0))
        check_shared(writer, record)
        (tmp_path / "run" / "shards" / "000000.parquet").unlink()
        with pytest.raises(RunNotWritable) as caught:
            check_shared(writer, record)
    assert str(caught.value) == (
        f"write to {tmp_path / 'run'}: a worker wrote unit 0 there, and here "
        "shards/000000.parquet is missing. All machines of a cluster reach a run under the same "
        "path. Pass an object store (s3://BUCKET/RUN), or a directory that they share."
    )


def test_a_machine_with_other_versions():
    _check_versions(asked(1))
    with pytest.raises(RunDiffers) as caught:
        _check_versions(asked(1, versions={"python": "2.7", "lesion": "0.0.1", "no-such": "1"}))
    own = asked(1).versions["lesion"]
    assert str(caught.value) == (
        f"measure on a machine of the cluster: it has lesion {own} instead of 0.0.1, no-such none "
        "instead of 1. Every worker of a run has the same versions. Install them on all machines "
        "alike."
    )


@dataclasses.dataclass(frozen=True)
class OnDevice(ObjectJob):
    """A job that says where its model is."""

    device: str = "cpu"


@pytest.mark.parametrize(
    ("device", "asked_for", "gpus"),
    [("cpu", None, 0), ("cuda:1", None, 1), ("cuda", 0.5, 0.5), ("cpu", 2.0, 2)],
)
def test_gpus_of_a_worker(device, asked_for, gpus):
    job = OnDevice("", device=device)
    assert Cluster(job, "local", gpus_per_worker=asked_for).gpus == gpus
