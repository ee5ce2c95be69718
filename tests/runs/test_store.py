"""A run as a directory: written whole or not at all, read back as it was.

The runs are built by hand; no model and no picture is looked at. Where figures are written their
files are counted, where they would cost time they are left out.
"""

import datetime
import errno
import json
import math
import os
import re
import stat
from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_run import BLOCKS, CLEAN_LOG_PROB, FRACTIONS, manifest, row, small_run, table

from lesion.errors import InvalidChoice, RunDamaged, RunExists, RunNotFound, RunNotWritable
from lesion.runs import store
from lesion.runs.manifest import Manifest
from lesion.runs.run import Run, open_run

NEW = "A run is written to a new directory, or over an older run when that is asked for"
IS_RUN = "A run is a directory with run.json and shards/*.parquet"
STATEMENT = (
    "A query is one SQL statement over the table rows, whose columns are those of the frame. "
    "Try: select layer, fraction from rows"
)
SHARDS = "Every shard is a Parquet file with the columns of a sweep and matching checksums"
SHARD = Path("shards/000000.parquet")


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative path, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def names_in(folder: Path) -> list[str]:
    """What lies directly in a folder, hidden names too."""
    return sorted(path.name for path in folder.iterdir())


def save(path: Path, run: Run | None = None, **options: bool) -> Path:
    return (run or small_run()).save(path, **({"figures": False} | options))


@pytest.fixture
def saved(tmp_path):
    """A folder of its own, in which `run` holds a saved run."""
    return save(tmp_path / "home" / "run")


class TestRoundTrip:
    def test_table_and_manifest_come_back_equal(self, tmp_path):
        run = small_run()
        opened = open_run(save(tmp_path / "run", run))
        assert opened.manifest == run.manifest
        assert opened.table.equals(run.table)
        assert opened.table.schema.equals(run.table.schema)
        pd.testing.assert_frame_equal(opened.frame(), run.frame())

    def test_missing_numbers_stay_missing_and_extreme_ones_exact(self, tmp_path):
        numbers = [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1 + 0.2, 1e308]
        rows = [row(0, 0.01, -1.0, effect_logit=number) for number in numbers]
        rows += [row(None, 0.5, None, draw=2**62, prompt="a\n\0“é”\u202e", hidden_norm=[])]
        run = Run(manifest(), table(*rows))
        opened = open_run(save(tmp_path / "run", run))
        assert repr(opened.table.to_pylist()) == repr(run.table.to_pylist())
        assert opened.table["layer"].null_count == 1
        assert opened.table["effect_logit"].null_count == 1, "NaN is a number to the table"

    def test_the_manifest_keeps_its_moment_and_its_text(self, tmp_path):
        moment = datetime.datetime(2026, 7, 1, 12, 30, 45, 123456, tzinfo=datetime.UTC)
        prompt = manifest().prompts[0].model_copy(update={"text": 'a "b" \\ \u2028 é 😀 </script>'})
        asked = manifest(
            created=moment, plan={"deep": [1, [2.5, None, {"a": True}]]}, prompts=(prompt,)
        )
        opened = open_run(save(tmp_path / "run", Run(asked, table())))
        assert opened.manifest == asked
        assert opened.manifest.created == moment

    def test_an_empty_table_is_a_run(self, tmp_path):
        empty = Run(manifest(), table().slice(0, 0))
        opened = open_run(save(tmp_path / "run", empty, figures=True))
        assert opened.table.equals(empty.table)
        assert opened.chart_kinds() == ()

    def test_shards_are_read_in_the_order_of_their_names(self, saved):
        more = table(row(7, 0.25, -9.0))
        pq.write_table(more, saved / "shards/000001.parquet", write_page_checksum=True)
        assert open_run(saved).table.equals(pa.concat_tables([small_run().table, more]))

    def test_a_path_may_be_a_text(self, tmp_path):
        path = small_run().save(str(tmp_path / "run"), figures=False)
        assert path == tmp_path / "run"
        assert open_run(str(path)).table.equals(small_run().table)

    def test_a_clean_run_that_was_not_finite_can_be_opened_again(self, tmp_path):
        numbers = {"clean_log_prob": None, "clean_target_rank": None, "clean_top": ()}
        prompt = manifest().prompts[0].model_copy(update=numbers)
        asked = manifest(prompts=(prompt,))
        assert open_run(save(tmp_path / "run", Run(asked, table()))).manifest == asked

    def test_a_target_of_probability_zero_keeps_its_log_prob(self, tmp_path):
        prompt = manifest().prompts[0].model_copy(update={"clean_log_prob": -math.inf})
        opened = open_run(save(tmp_path / "run", Run(manifest(prompts=(prompt,)), table())))
        assert opened.manifest.prompts[0].clean_log_prob == -math.inf


class TestWhatIsWritten:
    def test_the_files_without_figures(self, saved):
        assert sorted(files_in(saved)) == ["run.json", SHARD.as_posix()]

    def test_a_picture_of_every_suitable_kind_twice(self, tmp_path, monkeypatch):
        drawn = {}

        def draw(chart, path):
            drawn[path.name] = chart
            path.write_text("picture", encoding="utf-8")

        monkeypatch.setattr(store, "save_chart", draw)
        run = small_run()
        folder = save(tmp_path / "run", run, figures=True)
        names = [f"{kind}{suffix}" for kind in run.chart_kinds() for suffix in (".html", ".png")]
        assert list(drawn) == names
        assert sorted(files_in(folder)) == sorted(
            ["run.json", SHARD.as_posix(), *(f"figures/{name}" for name in names)]
        )

    def test_run_json_is_the_manifest_for_any_reader(self, saved):
        text = (saved / "run.json").read_text(encoding="utf-8")
        stored = json.loads(text)
        assert text.endswith("}\n")
        assert stored["schema_version"] == 2
        assert stored["created"] == "2026-01-02T03:04:05.678901Z"
        assert stored["model"]["neurons"] == [100, 100, 100]
        assert stored["plan"] == manifest().plan
        assert Manifest.model_validate(stored | {"prompts": tuple(stored["prompts"])})

    def test_the_shard_is_a_plain_parquet_file(self, saved):
        assert pq.read_table(saved / SHARD).equals(small_run().table)

    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_the_directory_has_the_rights_that_the_user_gives_new_ones(self, tmp_path, mask):
        before = os.umask(mask)
        try:
            folder = save(tmp_path / "run")
            assert os.umask(mask) == mask, "the mask was left changed"
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o777 & ~mask

    def test_missing_parents_are_made(self, tmp_path):
        assert open_run(save(tmp_path / "a" / "b" / "run")).table.num_rows == 9


class TestWhereSomethingStands:
    def message_of(self, path: Path, **options: bool) -> str:
        before = files_in(path.parent)
        with pytest.raises(RunExists) as caught:
            save(path, **options)
        assert files_in(path.parent) == before
        return str(caught.value)

    def test_a_run_is_kept_unless_it_is_to_be_overwritten(self, saved):
        assert self.message_of(saved) == (
            f"save to {saved}: a run stands there already. {NEW}. "
            "Pass overwrite (--overwrite), or another directory."
        )

    def test_overwriting_leaves_nothing_of_the_old_run(self, saved):
        (saved / "figures").mkdir()
        (saved / "figures" / "old.png").write_bytes(b"old")
        (saved / "shards" / "000001.parquet").write_bytes(b"old")
        other = Run(manifest(seconds=99.0), table(row(1, 0.5, -2.0)))
        save(saved, other, overwrite=True)
        opened = open_run(saved)
        assert opened.manifest.seconds == 99.0
        assert opened.table.equals(other.table)
        assert sorted(files_in(saved)) == ["run.json", SHARD.as_posix()]
        assert names_in(saved.parent) == ["run"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_foreign_directory_is_never_touched(self, tmp_path, overwrite):
        folder = tmp_path / "thesis"
        folder.mkdir()
        (folder / "chapter.tex").write_text("years of work", encoding="utf-8")
        assert self.message_of(folder, overwrite=overwrite) == (
            f"save to {folder}: something else stands there. {NEW}. Choose another directory."
        )

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_file_is_never_touched(self, tmp_path, overwrite):
        path = tmp_path / "run"
        path.write_text("a file", encoding="utf-8")
        assert self.message_of(path, overwrite=overwrite) == (
            f"save to {path}: something else stands there. {NEW}. Choose another directory."
        )

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_directory_called_run_json_makes_no_run(self, tmp_path, overwrite):
        (tmp_path / "odd" / "run.json").mkdir(parents=True)
        assert "something else stands there" in self.message_of(
            tmp_path / "odd", overwrite=overwrite
        )

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_an_empty_directory_is_free(self, tmp_path, overwrite):
        (tmp_path / "run").mkdir()
        assert open_run(save(tmp_path / "run", overwrite=overwrite)).table.num_rows == 9

    def test_overwrite_needs_nothing_to_overwrite(self, tmp_path):
        assert open_run(save(tmp_path / "run", overwrite=True)).table.num_rows == 9

    def test_it_is_refused_before_a_picture_is_drawn(self, saved, monkeypatch):
        monkeypatch.setattr(Run, "chart", lambda *_, **__: pytest.fail("a chart was drawn"))
        with pytest.raises(RunExists):
            small_run().save(saved)

    def test_a_file_among_the_parents_is_refused(self, tmp_path):
        notes = tmp_path / "notes"
        notes.write_text("a file", encoding="utf-8")
        for path in (notes / "run", notes / "deep" / "run"):
            assert self.message_of(path) == (
                f"save to {path}: {notes} is a file. {NEW}. Choose another directory."
            )
        assert notes.read_text(encoding="utf-8") == "a file"

    def test_the_working_directory_can_be_overwritten(self, saved, monkeypatch):
        monkeypatch.chdir(saved)
        save(Path(), Run(manifest(seconds=99.0), table()), overwrite=True)
        assert open_run(saved).manifest.seconds == 99.0
        assert names_in(saved.parent) == ["run"]

    @pytest.mark.parametrize("overwrite", [False, True])
    def test_a_way_back_through_a_new_directory_removes_nothing(self, tmp_path, overwrite):
        folder = tmp_path / "thesis"
        folder.mkdir()
        (folder / "chapter.tex").write_text("years of work", encoding="utf-8")
        path = folder / "new" / ".."
        with pytest.raises(RunExists) as caught:
            save(path, overwrite=overwrite)
        assert str(caught.value) == (
            f"save to {path}: something else stands there. {NEW}. Choose another directory."
        )
        assert names_in(folder) == ["chapter.tex"]

    @pytest.mark.parametrize("target", ["run", "nowhere"])
    def test_a_link_is_followed(self, saved, target):
        link = saved.parent / "latest"
        link.symlink_to(saved.parent / target)
        save(link, Run(manifest(seconds=99.0), table()), overwrite=True)
        assert link.is_symlink()
        for path in (link, saved.parent / target):
            assert open_run(path).manifest.seconds == 99.0


class Broken(Exception):
    """Raised in the middle of writing."""


def break_after(calls: int, function):
    """The function, which raises `Broken` in the middle of a later call."""
    done = []

    def broken(content, path, **options):
        if len(done) == calls:
            Path(path).write_bytes(b"half a fi")
            raise Broken
        done.append(path)
        return function(content, path, **options)

    return broken


class TestWritingThatFails:
    @pytest.fixture(params=["table", "first picture", "last picture"])
    def broken(self, request, monkeypatch):
        """Breaks the writing in one of its steps."""
        if request.param == "table":
            monkeypatch.setattr(store.pq, "write_table", break_after(0, pq.write_table))
            return
        calls = 0 if request.param == "first picture" else 5
        draw = break_after(calls, lambda _, path: path.write_text("picture", encoding="utf-8"))
        monkeypatch.setattr(store, "save_chart", draw)

    def test_no_new_run_appears(self, tmp_path, broken):
        with pytest.raises(Broken):
            save(tmp_path / "run", figures=True)
        assert names_in(tmp_path) == []

    def test_an_empty_directory_stays_empty(self, tmp_path, broken):
        (tmp_path / "run").mkdir()
        with pytest.raises(Broken):
            save(tmp_path / "run", figures=True)
        assert names_in(tmp_path) == ["run"]
        assert names_in(tmp_path / "run") == []

    def test_the_old_run_stays_as_it_was(self, saved, broken):
        before = files_in(saved.parent)
        with pytest.raises(Broken):
            save(saved, Run(manifest(seconds=99.0), table()), overwrite=True, figures=True)
        assert files_in(saved.parent) == before
        assert names_in(saved.parent) == ["run"]
        assert open_run(saved).manifest == manifest()

    def test_an_interrupt_leaves_nothing_either(self, tmp_path, monkeypatch):
        def interrupted(*_, **__):
            raise KeyboardInterrupt

        monkeypatch.setattr(store.pq, "write_table", interrupted)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path / "run")
        assert names_in(tmp_path) == []

    def test_a_full_disk_is_said_to_be_one(self, saved, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        before = files_in(saved.parent)
        monkeypatch.setattr(store.pq, "write_table", full)
        with pytest.raises(RunNotWritable) as caught:
            save(saved, overwrite=True)
        assert str(caught.value) == (
            f"save to {saved}: No space left on device. {NEW}. "
            "Choose another directory, or make room."
        )
        assert files_in(saved.parent) == before

    def test_a_place_that_cannot_be_written_is_refused_before_a_picture_is_drawn(
        self, tmp_path, monkeypatch
    ):
        # Root may write anywhere, so the rights are not taken but said to be missing.
        asked = []
        monkeypatch.setattr(store.os, "access", lambda path, mode: asked.append((path, mode)))
        monkeypatch.setattr(Run, "chart", lambda *_, **__: pytest.fail("a chart was drawn"))
        path = tmp_path / "new" / "run"
        with pytest.raises(RunNotWritable) as caught:
            small_run().save(path)
        assert str(caught.value) == (
            f"save to {path}: {tmp_path} cannot be written. {NEW}. "
            "Choose another directory, or make room."
        )
        assert asked == [(tmp_path, os.W_OK | os.X_OK)]
        assert names_in(tmp_path) == []

    def test_the_old_run_comes_back_when_the_new_one_cannot_take_its_place(
        self, saved, monkeypatch
    ):
        move = Path.rename

        def failing(path, target):
            if path.name == "fresh":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return move(path, target)

        before = files_in(saved.parent)
        monkeypatch.setattr(Path, "rename", failing)
        with pytest.raises(RunNotWritable):
            save(saved, overwrite=True)
        assert files_in(saved.parent) == before


class TestReadingWhatIsNoRun:
    def message_of(self, path: Path) -> str:
        with pytest.raises(RunNotFound) as caught:
            open_run(path)
        return str(caught.value)

    def unreadable(self, path: Path, reason: str) -> str:
        return f"open {path}: run.json cannot be read ({reason}). {IS_RUN}. Check the path."

    def no_manifest(self, path: Path, fields: str) -> str:
        return (
            f"open {path}: run.json is no manifest of this version (see {fields}). "
            f"{IS_RUN}. Open it with the version of lesion that wrote it."
        )

    def test_nothing(self, tmp_path):
        path = tmp_path / "run"
        assert self.message_of(path) == self.unreadable(path, "No such file or directory")

    def test_a_directory_without_run_json(self, tmp_path, saved):
        (saved / "run.json").unlink()
        assert self.message_of(saved) == self.unreadable(saved, "No such file or directory")

    def test_a_file(self, saved):
        path = saved / SHARD
        assert self.message_of(path) == self.unreadable(path, "Not a directory")

    def test_a_directory_called_run_json(self, tmp_path):
        (tmp_path / "run.json").mkdir()
        assert self.message_of(tmp_path) == self.unreadable(tmp_path, "Is a directory")

    @pytest.mark.parametrize("content", [b"", b"{", b"not json", b"\xff\xfe", None])
    def test_broken_json(self, saved, content):
        whole = (saved / "run.json").read_bytes()
        (saved / "run.json").write_bytes(whole[: len(whole) // 2] if content is None else content)
        with pytest.raises(RunDamaged) as caught:
            open_run(saved)
        assert str(caught.value) == (
            f"open {saved}: run.json is damaged (it is no JSON). {IS_RUN}. Repeat the run."
        )

    @pytest.mark.parametrize("content", [b"[]", b"null"])
    def test_json_of_another_form(self, saved, content):
        (saved / "run.json").write_bytes(content)
        assert self.message_of(saved) == self.no_manifest(saved, "its form")

    @pytest.mark.parametrize(
        "changed",
        [
            {"schema_version": 1},
            {"schema_version": "2"},
            {"experiment": "contrast"},
            {"added_later": 1},
            {"schema_version": 3, "experiment": "contrast", "added_later": 1},
        ],
    )
    def test_a_manifest_of_another_version(self, saved, changed):
        stored = json.loads((saved / "run.json").read_text(encoding="utf-8"))
        (saved / "run.json").write_text(json.dumps(stored | changed), encoding="utf-8")
        assert self.message_of(saved) == self.no_manifest(saved, ", ".join(changed))

    def test_a_manifest_without_one_of_its_fields(self, saved):
        stored = json.loads((saved / "run.json").read_text(encoding="utf-8"))
        for field in ("experiment", "model", "plan", "versions"):
            fewer = {name: value for name, value in stored.items() if name != field}
            (saved / "run.json").write_text(json.dumps(fewer), encoding="utf-8")
            assert self.message_of(saved) == self.no_manifest(saved, field)

    @pytest.mark.parametrize("emptied", ["file", "folder"])
    def test_a_run_without_shards(self, saved, emptied):
        (saved / SHARD).unlink()
        if emptied == "folder":
            (saved / "shards").rmdir()
        expected = f"open {saved}: it has no shards. {IS_RUN}. Repeat the run."
        assert self.message_of(saved) == expected


def data_page_byte(shard: Path, column: str) -> int:
    """The place of a byte in the middle of a column's data page."""
    columns = pq.read_metadata(shard).row_group(0)
    found = next(
        columns.column(index)
        for index in range(columns.num_columns)
        if columns.column(index).path_in_schema == column
    )
    first = found.dictionary_page_offset or found.data_page_offset
    end = first + found.total_compressed_size
    return (found.data_page_offset + end) // 2 + 8


class TestDamagedShards:
    @pytest.fixture
    def large(self, tmp_path):
        """A run whose columns fill their pages, and its shard."""
        rows = [row(layer, 0.5, -layer / 7) for layer in range(500)]
        folder = save(tmp_path / "run", Run(manifest(), table(*rows)))
        return folder, folder / SHARD

    @pytest.mark.parametrize("column", ["effect_log_prob", "layer", "log_prob"])
    def test_a_flipped_bit_in_a_page_is_noticed(self, large, column):
        folder, shard = large
        content = bytearray(shard.read_bytes())
        content[data_page_byte(shard, column)] ^= 1
        shard.write_bytes(content)
        with pytest.raises(RunDamaged) as caught:
            open_run(folder)
        assert str(caught.value) == (
            f"open {folder}: 000000.parquet is damaged (could not verify page integrity, CRC "
            f"checksum verification failed for page_ordinal 0). {SHARDS}. Repeat the run."
        )

    def test_every_page_carries_a_checksum(self, large, tmp_path):
        """Without one the same damage goes unnoticed, or is noticed only by luck."""
        folder, shard = large
        with_checksums = shard.stat().st_size
        pq.write_table(open_run(folder).table, tmp_path / "without.parquet")
        assert with_checksums > (tmp_path / "without.parquet").stat().st_size

    @pytest.mark.parametrize("damage", ["cut", "empty", "no parquet", "other columns"])
    def test_what_is_no_shard_is_refused(self, large, damage):
        folder, shard = large
        whole = shard.read_bytes()
        contents = {"cut": whole[: len(whole) // 2], "empty": b"", "no parquet": b"layer\n1\n"}
        if damage == "other columns":
            pq.write_table(pa.table({"x": [1]}), shard)
        else:
            shard.write_bytes(contents[damage])
        with pytest.raises(RunDamaged) as caught:
            open_run(folder)
        # What stands between the brackets is pyarrow's.
        expected = (
            rf"open {re.escape(str(folder))}: 000000\.parquet is damaged \([^\n]+[^.\n]\)\. "
            rf"{re.escape(SHARDS)}\. Repeat the run\."
        )
        assert re.fullmatch(expected, str(caught.value))


class TestRun:
    def test_whole_numbers_are_nullable_and_the_rest_is_as_stored(self):
        run = Run(manifest(), table(row(None, 0.5, None), row(2, 0.5, -1.0)))
        frame = run.frame()
        assert list(frame.columns) == run.table.column_names
        for field in run.table.schema:
            is_whole = frame[field.name].dtype == pd.Int64Dtype()
            assert is_whole == (field.type == pa.int64()), field.name
        assert frame["layer"].tolist() == [pd.NA, 2]
        assert frame["effect_log_prob"].isna().tolist() == [True, False]

    def test_its_kinds_of_picture_follow_the_scope(self):
        assert small_run().chart_kinds() == ("curves", "dots", "heatmap")
        every_block = table(row(None, 0.5, -1.0, scope="all"))
        assert Run(manifest(), every_block).chart_kinds() == ("dose",)

    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param([row(0, 0.01, None)], id="empty"),
            pytest.param([row(0, 0.5, -1.0, status="nonfinite")], id="nonfinite"),
        ],
    )
    def test_nothing_measured_has_no_picture(self, rows, tmp_path):
        run = Run(manifest(), table(*rows))
        assert run.chart_kinds() == ()
        folder = save(tmp_path / "run", run, figures=True)
        assert not (folder / "figures").exists()

    def test_one_measured_row_is_enough(self):
        rows = [row(0, 0.01, None), row(0, 0.5, -1.0)]
        assert Run(manifest(), table(*rows)).chart_kinds() == ("curves", "dots", "heatmap")

    def test_an_unknown_picture_is_refused(self):
        with pytest.raises(InvalidChoice) as caught:
            small_run().chart("pie")
        assert str(caught.value) == (
            "kind='pie': there is no kind of that name. "
            "The kinds are curves, dots, heatmap, dose. Pass one of them."
        )

    def test_it_says_what_it_is(self):
        assert repr(small_run()) == (
            "Run(sweep of tiny: 9 rows, site pre, select ['top', 'random'], replace median, "
            "scope each)"
        )


class TestQuery:
    def test_it_asks_the_table_called_rows(self):
        answer = small_run().query(
            "select layer, count(*) as many, min(effect_log_prob) as worst, max(log_prob) as best "
            "from rows where status = 'ok' group by layer order by layer"
        )
        assert answer["layer"].tolist() == list(range(BLOCKS))
        assert answer["many"].tolist() == [len(FRACTIONS)] * BLOCKS
        assert answer["worst"].tolist() == [-0.5, -1.0, -1.5]
        best = [CLEAN_LOG_PROB - 0.01 * (layer + 1) for layer in range(BLOCKS)]
        assert answer["best"].tolist() == best

    def test_what_was_not_measured_is_null(self):
        run = Run(manifest(), table(row(0, 0.01, None), row(0, 0.5, -1.0)))
        answer = run.query("select count(*) as rows_, count(kl) as measured from rows")
        assert answer.loc[0].tolist() == [2, 1]

    def test_lists_can_be_asked(self):
        answer = small_run().query("select max(hidden_norm[4]) as last from rows")
        assert answer.loc[0, "last"] == 0.3

    @pytest.mark.parametrize(
        "sql",
        [
            "copy rows to '{folder}/out.csv'",
            "select * from read_csv('{folder}/secret.csv')",
            "select * from '{folder}/secret.csv'",
            "attach '{folder}/out.db'",
            "set enable_external_access = true",
        ],
    )
    def test_it_reaches_nothing_but_the_table(self, tmp_path, sql):
        (tmp_path / "secret.csv").write_text("a,b\n1,2\n", encoding="utf-8")
        with pytest.raises(InvalidChoice) as caught:
            small_run().query(sql.format(folder=tmp_path))
        assert isinstance(caught.value.__cause__, duckdb.Error)
        assert names_in(tmp_path) == ["secret.csv"]

    @pytest.mark.parametrize("name", ["self", "sql", "frame_of_the_caller"])
    def test_it_sees_no_variable_of_python(self, name):
        frame_of_the_caller = pd.DataFrame({"a": [1]})
        assert len(frame_of_the_caller) == 1
        with pytest.raises(InvalidChoice, match=f"Table with name {name} does not exist"):
            small_run().query(f"select * from {name}")

    def test_it_cannot_change_the_run(self):
        run = small_run()
        for sql in ("delete from rows", "insert into rows select * from rows"):
            with pytest.raises(InvalidChoice):
                run.query(sql)
        run.query("drop view rows")
        assert run.query("select count(*) as rows_ from rows").loc[0, "rows_"] == 9

    @pytest.mark.parametrize(
        ("sql", "found"),
        [
            ("selekt 1", 'Parser Error: syntax error at or near "selekt"'),
            ("select * from row_", "Catalog Error: Table with name row_ does not exist!"),
            (
                "select nothing from rows",
                'Binder Error: Referenced column "nothing" not found in FROM clause!',
            ),
        ],
    )
    def test_sql_that_means_nothing_is_refused(self, sql, found):
        with pytest.raises(InvalidChoice) as caught:
            small_run().query(sql)
        assert str(caught.value) == f"query {sql!r}: {found}. {STATEMENT}."

    @pytest.mark.parametrize("sql", ["", " ;", "-- nothing"])
    def test_sql_without_a_statement_is_refused(self, sql):
        with pytest.raises(InvalidChoice) as caught:
            small_run().query(sql)
        assert str(caught.value) == f"query {sql!r}: it asks nothing. {STATEMENT}."
