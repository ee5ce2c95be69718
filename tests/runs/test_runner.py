"""Running the open units: each once, the finished ones not at all, the damaged ones again."""

import functools

import pytest
from fake_study import UNITS, conduct, counted, measured, open_units, result, study_manifest

from lesion.errors import RunDamaged
from lesion.runs import runner
from lesion.runs.runner import Here, Watch, run_units
from lesion.runs.store import claim


class Seen(Watch):
    """Writes down what it sees."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, int, int]] = []

    def changed(self) -> None:
        self.calls.append((self.units, self.finished, self.rows))


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[100] ^= 1
    path.write_bytes(content)


def test_every_unit_is_measured_once_in_order(tmp_path):
    assert not conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    assert measured(tmp_path / "counts") == [0, 1, 2, 3]


def test_again_nothing_is_measured(tmp_path):
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    assert conduct(tmp_path / "run", UNITS, tmp_path / "again")
    assert measured(tmp_path / "again") == []


def test_only_the_rest_is_measured(tmp_path):
    with claim(tmp_path / "run") as writer:
        writer.begin(study_manifest(UNITS))
        writer.commit(result(2))
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    assert measured(tmp_path / "counts") == [0, 1, 3]


def test_a_watch_sees_it_move(tmp_path):
    watch = Seen()
    with claim(tmp_path / "run") as writer:
        writer.begin(study_manifest(UNITS))
        writer.commit(result(2))
    conduct(tmp_path / "run", UNITS, tmp_path / "counts", watch=watch)
    assert watch.calls == [(4, 1, 0), (4, 2, 2), (4, 3, 4), (4, 4, 6)]
    assert watch.before == 1
    assert watch.remaining_seconds == 0
    assert watch.seconds > 0


def test_before_the_first_unit_nobody_knows_how_long_it_takes():
    watch = Watch()
    watch.begin(5, 2)
    assert watch.remaining_seconds is None


def test_what_was_finished_before_is_read_and_measured_again_if_damaged(tmp_path):
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    flip(tmp_path / "run/shards/000001.parquet")
    flip(tmp_path / "run/shards/000003.parquet")
    conduct(tmp_path / "run", UNITS, tmp_path / "again")
    assert measured(tmp_path / "again") == [1, 3]
    names = {path.name for path in (tmp_path / "run/shards").iterdir()}
    assert {"000001.parquet.bad", "000003.parquet.bad"} <= names


def test_a_disk_that_does_not_keep_anything_is_given_up(tmp_path):
    run = tmp_path / "run"
    conduct(run, UNITS, tmp_path / "counts")

    def forgetful(writer, units, watch):
        Here(counted(tmp_path / "again"))(writer, units, watch)
        flip(run / "shards/000001.parquet")

    with claim(run) as writer:
        writer.begin(study_manifest(UNITS))
        with pytest.raises(RunDamaged) as caught:
            run_units(writer, functools.partial(open_units, UNITS), forgetful, Watch())
    assert str(caught.value) == (
        f"run in {run}: units [1] were measured 3 times, and their shards do not stay as written. "
        "A shard reads back as it was written. Check the disk, or choose another directory."
    )
    assert measured(tmp_path / "again") == [1, 1]
    conduct(run, UNITS, tmp_path / "later")
    assert measured(tmp_path / "later") == [1]


def test_it_is_tried_three_times():
    assert runner.TRIES == 3


def test_an_error_while_measuring_leaves_what_is_finished(tmp_path):
    def measure(unit, moved):
        if unit.number == 2:
            raise ZeroDivisionError
        return result(unit.number)

    with pytest.raises(ZeroDivisionError):
        conduct(tmp_path / "run", UNITS, tmp_path / "none", way=Here(measure))
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    assert measured(tmp_path / "counts") == [2, 3]
