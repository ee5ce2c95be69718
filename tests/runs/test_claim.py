"""Claiming a place for a run: what is free, what is a run, and what is never touched."""

import json
from pathlib import Path

import pytest
from fake_study import UNITS, conduct, files_in, measured, result, study_manifest, what_differs
from small_run import manifest, row, small_run

from lesion.errors import RunDamaged, RunExists, RunNotWritable
from lesion.runs.run import Run, open_run
from lesion.runs.shard import to_bytes
from lesion.runs.store import claim

NEW = "A run is written to a new directory, or over an older run when that is asked for"


def save(path: Path, run: Run | None = None, **options: bool) -> Path:
    return (run or small_run()).save(path, **({"figures": False} | options))


@pytest.fixture
def saved(tmp_path):
    return save(tmp_path / "home" / "run")


class TestNothingBegun:
    def test_a_new_directory_is_taken_away_again(self, tmp_path):
        with claim(tmp_path / "deep" / "run") as writer:
            assert writer.stored is None
        assert list(tmp_path.iterdir()) == []

    def test_an_empty_one_stays_empty(self, tmp_path):
        (tmp_path / "run").mkdir()
        with pytest.raises(ZeroDivisionError), claim(tmp_path / "run"):
            raise ZeroDivisionError
        assert list((tmp_path / "run").iterdir()) == []

    def test_a_run_stays_as_it_was(self, saved):
        before = files_in(saved.parent)
        with claim(saved) as writer:
            assert writer.stored == manifest()
        assert files_in(saved.parent) == before


FOREIGN = {
    "a thesis": {"chapter.tex": b"years of work"},
    "a folder called tmp": {"tmp/paper.txt": b"mine"},
    "a folder called figures": {"figures/photo.png": b"mine"},
    "shards of somebody else": {"shards/part-0.parquet": b"mine"},
    "a run.json of somebody else": {"run.json": b'{"name": "marathon", "km": 42}'},
    "a run.json beside other things": {"run.json": b"not even JSON", "a.txt": b"mine"},
    "a log of somebody else": {"units.log": b"unit 1 started\n"},
    "commits of somebody else": {"commits/1.json": b"{}"},
    "a file called lock": {"lock": b"mine"},
    "a file called run.lock in a package": {"run.lock": b"", "shards/notes.txt": b"mine"},
}

UNLIKE = {"a thesis", "a folder called tmp", "a folder called figures", "a file called lock"}
"""Nothing in them has a name of ours."""


class TestWhatIsForeign:
    @pytest.mark.parametrize("overwrite", [False, True])
    @pytest.mark.parametrize("case", FOREIGN)
    def test_it_is_never_touched(self, tmp_path, case, overwrite):
        folder = tmp_path / "foreign"
        for name, content in FOREIGN[case].items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        before = folder.stat().st_mtime_ns
        with pytest.raises(RunExists) as caught:
            save(folder, overwrite=overwrite)
        assert str(caught.value) == (
            f"write to {folder}: something else stands there. {NEW}. Choose another directory."
        )
        if case in UNLIKE:
            assert folder.stat().st_mtime_ns == before, "not even a lock was written there"
        kept = {name: content for name, content in FOREIGN[case].items() if name != "run.lock"}
        assert files_in(folder) == kept

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_directory_called_run_json_makes_no_run(self, tmp_path, overwrite):
        (tmp_path / "odd" / "run.json").mkdir(parents=True)
        with pytest.raises(RunExists, match="something else stands there"):
            save(tmp_path / "odd", overwrite=overwrite)
        assert [path.name for path in (tmp_path / "odd").iterdir()] == ["run.json"]

    def test_a_way_back_through_a_new_directory_removes_nothing(self, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("years of work", encoding="utf-8")
        with pytest.raises(RunExists):
            save(tmp_path / "thesis" / "new" / "..", overwrite=True)
        assert files_in(tmp_path) == {"thesis/chapter.tex": b"years of work"}

    def test_what_a_user_put_into_a_run_outlives_it(self, saved):
        mine = {"notes.log": b"1", "run.json.txt": b"2", "shards/a.parquet": b"3", "tmp/x": b"4"}
        for name, content in mine.items():
            (saved / name).write_bytes(content)
        save(saved, overwrite=True)
        assert files_in(saved).items() >= mine.items()


class TestOverwriting:
    def test_it_is_asked_for(self, saved):
        before = files_in(saved)
        with pytest.raises(RunExists) as caught:
            save(saved)
        assert str(caught.value) == (
            f"save to {saved}: a run stands there already. A run is written to a new directory, "
            "or over an older run when that is asked for. Pass overwrite (--overwrite), or another "
            "directory."
        )
        assert files_in(saved) == before

    def test_nothing_of_the_old_run_is_left(self, saved):
        (saved / "figures").mkdir()
        (saved / "figures" / "old.png").write_bytes(b"old")
        for name in ("shards/000001.parquet", "shards/000000.parquet.bad", "run.json.bad1"):
            (saved / name).write_bytes(b"old")
        other = small_run(row(1, 0.5, -2.0), asked=manifest(plan={"site": "post"}))
        save(saved, other, overwrite=True)
        assert open_run(saved).manifest.plan == {"site": "post"}
        assert open_run(saved).table.equals(other.table)
        assert sorted(files_in(saved)) == ["run.json", "shards/000000.parquet", "units.log"]

    def test_there_need_be_nothing(self, tmp_path):
        assert open_run(save(tmp_path / "run", overwrite=True)).table.num_rows == 9

    def test_an_older_version_is_replaced_only_when_asked(self, saved):
        old = json.dumps({"schema_version": 2}).encode()
        (saved / "run.json").write_bytes(old)
        (saved / "shards/000000.parquet").write_bytes(b"old")
        before = files_in(saved)
        with pytest.raises(RunExists) as caught:
            save(saved)
        assert str(caught.value) == (
            f"write to {saved}: run.json has schema version 2. {NEW}. Pass overwrite (--overwrite) "
            "to replace it, or choose another directory."
        )
        assert files_in(saved) == before
        assert open_run(save(saved, overwrite=True)).table.num_rows == 9

    @pytest.mark.parametrize("target", ["run", "nowhere"])
    def test_a_link_is_followed(self, saved, target):
        link = saved.parent / "latest"
        link.symlink_to(saved.parent / target)
        save(link, small_run(row(1, 0.5, -2.0)), overwrite=True)
        assert link.is_symlink()
        for path in (link, saved.parent / target):
            assert open_run(path).table.num_rows == 1

    def test_cut_off_in_the_middle_the_old_run_or_the_new_one_is_there(self, tmp_path):
        """Whatever was removed already: what is left is read as what it is, or measured again."""
        run = tmp_path / "run"
        conduct(run, UNITS, tmp_path / "counts")
        whole = files_in(run)
        for removed in range(1, len(whole)):
            for name in ["run.json", *sorted(whole.keys() - {"run.json"})][:removed]:
                (run / name).unlink()
            (run / "run.lock").write_bytes(b'{"pid": 1')
            with claim(run, overwrite=True) as writer:
                writer.begin(study_manifest(UNITS), overwrite=True)
                assert writer.finished == {}
                writer.commit(result(0))
            conduct(run, UNITS, tmp_path / "again")
            assert what_differs(run, whole) is None


class TestDamagedPlaces:
    @pytest.mark.parametrize("unfinished", [None, "run.json.17.0123abcd"])
    def test_a_process_that_was_gone_at_once_leaves_the_place_free(self, tmp_path, unfinished):
        """Of the names in the directory only that of tmp outlived a loss of power."""
        (tmp_path / "run" / "tmp").mkdir(parents=True)
        if unfinished:
            (tmp_path / "run" / "tmp" / unfinished).write_bytes(b"half")
        assert not conduct(tmp_path / "run", UNITS, tmp_path / "counts")
        assert list((tmp_path / "run" / "tmp").iterdir()) == []

    def test_a_lost_manifest_is_rebuilt_and_nothing_measured_again(self, tmp_path):
        conduct(tmp_path / "run", UNITS, tmp_path / "counts")
        (tmp_path / "run" / "run.json").unlink()
        assert conduct(tmp_path / "run", UNITS, tmp_path / "again")
        assert measured(tmp_path / "again") == []
        rebuilt = study_manifest(UNITS, created=None)
        assert open_run(tmp_path / "run").manifest == rebuilt

    def test_a_damaged_manifest_without_a_unit_is_set_aside(self, tmp_path):
        with claim(tmp_path / "run") as writer:
            writer.begin(study_manifest(UNITS))
        text = (tmp_path / "run" / "run.json").read_bytes()
        (tmp_path / "run" / "run.json").write_bytes(text[:300])
        assert not conduct(tmp_path / "run", UNITS, tmp_path / "counts")
        assert (tmp_path / "run" / "run.json.bad").read_bytes() == text[:300]

    def test_everything_damaged_is_measured_again(self, tmp_path):
        conduct(tmp_path / "run", UNITS, tmp_path / "counts")
        whole = files_in(tmp_path / "run")
        for path in whole:
            content = bytearray((tmp_path / "run" / path).read_bytes())
            content[len(content) // 2] ^= 1
            (tmp_path / "run" / path).write_bytes(content)
        conduct(tmp_path / "run", UNITS, tmp_path / "again")
        assert sorted(measured(tmp_path / "again")) == list(range(UNITS))
        assert what_differs(tmp_path / "run", whole, bad=UNITS + 1) is None

    def test_set_aside_again_and_again(self, tmp_path):
        run = tmp_path / "run"
        for times in range(3):
            conduct(run, 1, tmp_path / "counts")
            (run / "shards" / "000000.parquet").write_bytes(b"bad %d" % times)
        conduct(run, 1, tmp_path / "counts")
        aside = {path.name: path.read_bytes() for path in (run / "shards").glob("*.bad*")}
        assert aside == {
            "000000.parquet.bad": b"bad 0",
            "000000.parquet.bad1": b"bad 1",
            "000000.parquet.bad2": b"bad 2",
        }

    def test_a_sound_shard_that_is_not_the_recorded_one_is_refused(self, tmp_path):
        """Its seal is whole and its size the same: only the record tells."""
        conduct(tmp_path / "run", 1, tmp_path / "counts")
        path = tmp_path / "run" / "shards" / "000000.parquet"
        others = (to_bytes(result(0, seed=seed), study_manifest(1)) for seed in range(1, 100))
        path.write_bytes(next(other for other in others if len(other) == path.stat().st_size))
        with pytest.raises(RunDamaged, match=r"it is not what was written \(SHA-256\)"):
            open_run(tmp_path / "run").table  # noqa: B018
        conduct(tmp_path / "run", 1, tmp_path / "again")
        assert measured(tmp_path / "again") == [0]

    def test_a_shard_of_another_run_is_set_aside(self, tmp_path):
        run = tmp_path / "run"
        with claim(run) as writer:
            writer.begin(study_manifest(2))
            other = study_manifest(2, plan={"site": "post"})
            writer.folder.create("shards/000000.parquet", to_bytes(result(0), other))
            writer.folder.create("shards/000001.parquet", to_bytes(result(0), study_manifest(2)))
        with claim(run) as writer:
            writer.begin(study_manifest(2))
            assert writer.finished == {}
        names = {path.name for path in (run / "shards").iterdir()}
        assert names == {"000000.parquet.bad", "000001.parquet.bad"}

    @pytest.mark.parametrize(
        "name", ["0.parquet", "٣.parquet", "-00001.parquet", "000000.PARQUET", "1e5.parquet"]
    )
    def test_names_that_only_look_like_units(self, tmp_path, name):
        conduct(tmp_path / "run", 1, tmp_path / "counts")
        (tmp_path / "run" / "shards" / name).write_bytes(b"mine")
        assert open_run(tmp_path / "run").shards.units == (0,)
        conduct(tmp_path / "run", 1, tmp_path / "counts")
        assert (tmp_path / "run" / "shards" / name).read_bytes() == b"mine"

    def test_a_file_in_the_place_of_the_shards(self, tmp_path):
        with claim(tmp_path / "run") as writer:
            writer.begin(study_manifest(UNITS))
            (tmp_path / "run" / "shards").write_bytes(b"")
            with pytest.raises(RunNotWritable, match=r"shards/000000\.parquet: File exists"):
                writer.commit(result(0))
