"""Several processes: the same run as one, each loading once; their errors arrive whole."""

import dataclasses
import os

import pytest
from fake_study import FakeJob, conduct, files_in, measured, result, study_manifest, what_differs

from lesion.errors import PromptError, RunDamaged, UnitFailed
from lesion.runs.runner import Job
from lesion.runs.shard import Shard
from lesion.runs.store import claim, commit_shard
from lesion.runs.workers import Workers

UNITS = 6


@dataclasses.dataclass(frozen=True)
class Refusing(Job):
    """Refuses one unit, or fails at it."""

    unit: int
    refuses: bool
    loads: bool = True

    def open(self, place):
        if not self.loads:
            raise PromptError("load", "there is no model", "A job has one", "Name one")

        def measure(unit, moved):
            if unit.number == self.unit and self.refuses:
                raise PromptError("prompt 'x'", "it is empty", "A prompt has tokens", "Write one")
            if unit.number == self.unit:
                os._exit(7)
            return result(unit.number)

        return measure


@pytest.fixture
def whole(tmp_path):
    conduct(tmp_path / "whole", UNITS, tmp_path / "whole-counts")
    return files_in(tmp_path / "whole")


def test_several_equal_one(tmp_path, whole):
    counts = tmp_path / "counts"
    way = Workers(FakeJob(str(counts), seconds=0.05), 3)
    conduct(tmp_path / "run", UNITS, counts, way=way)
    assert what_differs(tmp_path / "run", whole) is None
    assert sorted(measured(counts)) == list(range(UNITS))
    pids = (tmp_path / "counts.pids").read_text(encoding="utf-8").split()
    assert len(pids) == len(set(pids)) == 3, "each loads once"
    assert str(os.getpid()) not in pids


def test_no_more_workers_than_units(tmp_path):
    counts = tmp_path / "counts"
    conduct(tmp_path / "run", 1, counts, way=Workers(FakeJob(str(counts)), 4))
    assert len((tmp_path / "counts.pids").read_text(encoding="utf-8").split()) == 1


def test_without_an_open_unit_nobody_is_started(tmp_path, whole):
    way = Workers(FakeJob(str(tmp_path / "counts")), 4)
    conduct(tmp_path / "whole", UNITS, tmp_path / "none", way=way)
    assert not (tmp_path / "counts.pids").exists()


def test_a_refusal_arrives_whole_and_what_is_finished_stays(tmp_path):
    with pytest.raises(PromptError) as caught:
        conduct(tmp_path / "run", UNITS, tmp_path / "none", way=Workers(Refusing(3, True), 1))
    assert str(caught.value) == ("prompt 'x': it is empty. A prompt has tokens. Write one.")
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    assert measured(tmp_path / "counts") == [3, 4, 5]


def test_a_refusal_to_load_arrives(tmp_path):
    with pytest.raises(PromptError, match="there is no model"):
        conduct(tmp_path / "run", 1, tmp_path / "none", way=Workers(Refusing(0, True, False), 1))


def test_a_worker_that_ends_is_told_by_its_exit_code(tmp_path):
    with pytest.raises(UnitFailed, match=r"unit 0: its worker ended with exit code 7, 3 times\. "):
        conduct(tmp_path / "run", 1, tmp_path / "none", way=Workers(Refusing(0, False), 1))


class TestTwoResultsOfOneUnit:
    """A worker that was thought dead comes back: the first commit wins."""

    @pytest.fixture
    def begun(self, tmp_path):
        with claim(tmp_path / "run") as writer:
            writer.begin(study_manifest(UNITS))
            yield writer

    def test_an_equal_one_changes_nothing(self, begun):
        first = begun.commit(result(0))
        again = commit_shard(begun.folder, result(0), begun.manifest)
        assert again == first

    def test_one_that_differs_is_an_error_and_the_first_stays(self, begun):
        first = begun.commit(result(0))
        other = Shard(0, result(0, seed=1).table, result(0).prompts, result(0).measuring)
        with pytest.raises(RunDamaged, match="it was measured twice, and column logit differs"):
            commit_shard(begun.folder, other, begun.manifest)
        assert begun.folder.sizes("shards") == {"000000.parquet": first.bytes}

    def test_one_of_a_damaged_first_takes_its_place(self, begun):
        first = begun.commit(result(0))
        begun.folder.put("shards/000000.parquet", b"damaged")
        assert commit_shard(begun.folder, result(0), begun.manifest) == first
        assert set(begun.folder.sizes("shards")) == {"000000.parquet", "000000.parquet.bad"}

    def test_one_of_another_run_gives_way(self, begun):
        stray = begun.manifest.model_copy(update={"plan": {"site": "post"}})
        commit_shard(begun.folder, result(0), stray)
        record = begun.commit(result(0))
        assert set(begun.folder.sizes("shards")) == {"000000.parquet", "000000.parquet.bad"}
        assert record == result(0).record(begun.folder.read("shards/000000.parquet"))
