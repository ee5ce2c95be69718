"""A run in a directory: read back as it was, never over what is no run, never with a changed bit.

The runs are built by hand; no model is looked at. Faults while writing are in `faults/`, what a
query may do in `test_cli_runs.py`.
"""

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from small_run import BLOCKS, FRACTIONS, manifest, row, shard, small_run, table

from lesion.errors import InvalidChoice, RunDamaged, RunExists, RunNotFound
from lesion.runs.run import Run, held_run, open_run

SHARD = Path("shards/000000.parquet")


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative path, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def save(path: Path, run: Run | None = None, **options: bool) -> Path:
    return (run or small_run()).save(path, **({"figures": False} | options))


@pytest.fixture
def saved(tmp_path):
    """A folder of its own, in which `run` holds a saved run."""
    return save(tmp_path / "home" / "run")


class TestRoundTrip:
    def test_table_manifest_and_prompts_come_back_equal(self, saved):
        run, opened = small_run(), open_run(saved)
        assert opened.manifest == run.manifest
        assert opened.prompts == run.prompts
        assert opened.measuring == run.measuring
        assert opened.complete
        assert opened.table.equals(run.table)
        assert opened.table.schema.equals(run.table.schema)
        pd.testing.assert_frame_equal(opened.frame(), run.frame())

    def test_missing_numbers_stay_missing_and_extreme_ones_exact(self, tmp_path):
        numbers = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2, 1e308]
        rows = [row(0, 0.01, -1.0, effect_logit=number) for number in numbers]
        rows += [row(None, 0.5, None, draw=2**62, prompt="a\n\0“é”\u202e", hidden_norm=[])]
        run = small_run(*rows)
        opened = open_run(save(tmp_path / "run", run))
        assert repr(opened.table.to_pylist()) == repr(run.table.to_pylist())
        assert opened.table["layer"].null_count == 1
        assert opened.table["effect_logit"].null_count == 1, "NaN is a number to the table"

    def test_units_are_read_in_their_order(self, tmp_path):
        prompts = manifest().prompts.model_copy(update={"rows": 3, "unit_size": 1})
        shards = [shard(unit, table=table(row(unit, 0.1, -1.0))) for unit in (2, 0, 1)]
        run = held_run(manifest(prompts=prompts), shards)
        opened = open_run(save(tmp_path / "run", run))
        assert opened.table["layer"].to_pylist() == [0, 1, 2] == run.table["layer"].to_pylist()

    def test_an_empty_table_is_a_run(self, tmp_path):
        empty = held_run(manifest(), [shard(table=table().slice(0, 0))])
        opened = open_run(save(tmp_path / "run", empty, figures=True))
        assert opened.table.num_rows == 0
        assert opened.chart_kinds() == ()


class TestWhatIsWritten:
    def test_the_files_without_figures(self, saved):
        assert sorted(files_in(saved)) == ["run.json", SHARD.as_posix(), "units.log"]

    def test_every_suitable_picture_twice(self, tmp_path):
        folder = save(tmp_path / "run", figures=True)
        drawn = sorted(path.name for path in (folder / "figures").iterdir())
        kinds = small_run().chart_kinds()
        assert drawn == sorted(f"{kind}.{suffix}" for kind in kinds for suffix in ("html", "png"))
        assert open_run(folder).has_figures

    def test_run_json_is_the_manifest_for_any_reader(self, saved):
        stored = json.loads((saved / "run.json").read_text(encoding="utf-8"))
        assert stored["schema_version"] == 3
        assert stored["plan"] == manifest().plan
        assert len(stored["checksum"]) == 64

    def test_equal_shards_have_equal_bytes(self, tmp_path):
        one, other = save(tmp_path / "one"), save(tmp_path / "other")
        assert (one / SHARD).read_bytes() == (other / SHARD).read_bytes()


class TestWhereSomethingStands:
    def test_a_run_is_kept_unless_it_is_to_be_overwritten(self, saved):
        before = files_in(saved)
        with pytest.raises(RunExists, match="a run stands there already"):
            save(saved)
        assert files_in(saved) == before

    def test_overwriting_leaves_nothing_of_the_old_run(self, saved):
        (saved / "notes.md").write_text("mine")
        other = small_run(row(1, 0.5, -2.0))
        save(saved, other, overwrite=True)
        assert open_run(saved).table.equals(other.table)
        assert (saved / "notes.md").read_text() == "mine", "what is not the run's stays"

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_foreign_directory_is_never_touched(self, tmp_path, overwrite):
        folder = tmp_path / "thesis"
        folder.mkdir()
        (folder / "chapter.tex").write_text("years of work", encoding="utf-8")
        with pytest.raises(RunExists, match="something else stands there"):
            save(folder, overwrite=overwrite)
        assert files_in(folder) == {"chapter.tex": b"years of work"}

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_is_never_touched(self, tmp_path, overwrite):
        file = tmp_path / "thesis.tex"
        file.write_text("years of work", encoding="utf-8")
        with pytest.raises(RunExists):
            save(file, overwrite=overwrite)
        assert file.read_text() == "years of work"

    def test_a_link_is_followed(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "run").symlink_to(tmp_path / "disk")
        save(tmp_path / "run")
        assert (tmp_path / "run").is_symlink()
        assert open_run(tmp_path / "disk").table.equals(small_run().table)


class TestReadingWhatIsNoRun:
    def test_nothing_there(self, tmp_path):
        with pytest.raises(RunNotFound, match=r"run\.json cannot be read"):
            open_run(tmp_path / "nowhere")

    def test_an_older_version_is_refused_not_misread(self, saved):
        (saved / "run.json").write_text('{"schema_version": 2}')
        with pytest.raises(RunNotFound, match="schema version 2"):
            open_run(saved)

    @pytest.mark.parametrize("text", ["", "{", "not json", "[]", "null", "{}"])
    def test_a_damaged_manifest(self, saved, text):
        (saved / "run.json").write_text(text)
        with pytest.raises(RunDamaged, match=r"run\.json is damaged"):
            open_run(saved)

    def test_a_changed_word_of_the_manifest_is_noticed(self, saved):
        text = (saved / "run.json").read_text()
        (saved / "run.json").write_text(text.replace('"seed": 0', '"seed": 1'))
        with pytest.raises(RunDamaged, match="checksum"):
            open_run(saved)

    @pytest.mark.parametrize("place", [5, 200, -200, -5])
    def test_a_flipped_bit_of_a_shard_is_noticed(self, saved, place):
        content = bytearray((saved / SHARD).read_bytes())
        content[place] ^= 1
        (saved / SHARD).write_bytes(bytes(content))
        with pytest.raises(RunDamaged):
            open_run(saved).table  # noqa: B018


class TestRun:
    def test_whole_numbers_are_nullable(self):
        frame = small_run(row(0, 0.5, -1.0), row(None, 0.5, None)).frame()
        assert str(frame["layer"].dtype) == "Int64"
        assert frame["layer"].isna().tolist() == [False, True]

    def test_its_kinds_of_picture_follow_the_scope(self):
        assert small_run().chart_kinds() == ("curves", "dots", "heatmap")
        assert small_run(row(None, 0.5, -1.0, scope="all")).chart_kinds() == ("dose",)
        assert small_run(row(0, 0.5, None)).chart_kinds() == ()

    def test_its_rows_answer_questions(self):
        counts = small_run().query("select layer, count(*) as n from rows group by 1 order by 1")
        assert counts["n"].tolist() == [len(FRACTIONS)] * BLOCKS

    def test_a_stored_run_answers_alike(self, saved):
        sql = "select layer, avg(effect_logit) as mean from rows group by 1 order by 1"
        pd.testing.assert_frame_equal(open_run(saved).query(sql), small_run().query(sql))

    def test_a_question_without_sense_is_refused(self):
        with pytest.raises(InvalidChoice, match="query 'select nothing from rows'"):
            small_run().query("select nothing from rows")
