"""The commands that look at runs: what they print is text, and they change nothing."""

import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import pytest
from built_runs import built_row, built_run
from hostile import HOSTILE

from lesion import cli
from lesion.columns import SWEEP_SCHEMA
from lesion.errors import InvalidChoice
from lesion.runs import query
from lesion.runs.run import Run, open_run
from lesion.terminal import plain

CONTROL = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) != "\n"]
STATEMENT = (
    "A query is one SQL statement over the table rows, whose columns are those of the frame. "
    "Try: select layer, fraction from rows."
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a terminal wide enough that nothing is wrapped."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.delenv("LINES", raising=False)  # with both, a dumb terminal has that width too
    monkeypatch.setenv("TERM", "dumb")  # no colours: what is escaped is ours
    return tmp_path


def on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The output is a terminal; a fixture's would be another than the test's."""
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)


def stored(path: Path, *, of: int = 3, units: int = 3, scale: float = 1.0, **words: object) -> Run:
    """A stored run: a prompt a unit, three layers each."""
    rows = [
        [
            built_row(f"p{unit}", -scale * (unit + 1) * (layer + 1), layer=layer)
            for layer in range(3)
        ]
        for unit in range(units)
    ]
    built_run(*rows, of=of, **words).save(path, figures=False)
    return open_run(path)


def said(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a command prints."""
    cli.main(tokens)
    return capsys.readouterr().out


def refused(tokens: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a refused command says; it exits with 2 and prints nothing else."""
    with pytest.raises(SystemExit) as stop:
        cli.main(tokens)
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    return output.err


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


class TestRuns:
    def test_the_runs_below_the_directory_runs(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "runs" / "whole")
        stored(folder / "runs" / "half", units=2, replace="zero", model="large", prompts="idioms")
        text = said(["runs"], capsys)
        lines = [line.split() for line in text.splitlines()]
        assert lines[0] == [
            "run", "experiment", "model", "prompts", "units", "rows", "begun", "question",
        ]  # fmt: skip
        half = next(line for line in lines if line[0] == "half")
        assert half[1:7] == ["sweep", "large", "idioms", "(3)", "2/3", "6"]
        assert " ".join(half[9:]) == "top, random at pre, zero, each"
        assert "3/3" in next(line for line in lines if line[0] == "whole")

    def test_a_damaged_one_is_listed_with_the_reason(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "runs" / "torn")
        (folder / "runs" / "torn" / "run.json").write_text("{")
        assert said(["runs", "runs"], capsys) == (
            "damaged: torn: run.json is damaged (it is no JSON)\n"
        )

    def test_none(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (folder / "runs").mkdir()
        assert said(["runs"], capsys) == "no run below runs\n"
        assert "there is no such directory" in refused(["runs", "elsewhere"], capsys)

    def test_names_are_text(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = [name for name in HOSTILE if name and "/" not in name]
        for index, name in enumerate(names):
            stored(folder / "runs" / name, units=1, of=1, model=HOSTILE[index], prompts=name)
        text = said(["runs"], capsys)
        assert not any(character in text for character in [*CONTROL, "\u202e", "\u200b"])
        for name in names:
            assert f"{plain(name)} (1)" in text


class TestShow:
    def test_an_unfinished_run_says_so(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "run", units=2)
        assert said(["show", "run"], capsys).endswith(
            "unfinished: 2 of 3 units; the command that wrote it measures the rest\n"
        )
        stored(folder / "whole")
        assert "unfinished" not in said(["show", "whole"], capsys)

    def test_a_run_that_was_only_begun(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "run", units=0)
        assert said(["show", "run"], capsys) == (
            "unfinished: 0 of 3 units; the command that wrote it measures the rest\n"
        )


class TestVerify:
    def ended(self, tokens: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
        """How the command ends, and what it prints."""
        code: object = 0
        try:
            cli.main(["verify", *tokens])
        except SystemExit as stop:
            code = stop.code
        return code, capsys.readouterr().out

    def test_a_sound_run(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        stored(folder / "run")
        read = [folder / "run" / "run.json", folder / "run" / "units.log"]
        read += (folder / "run" / "shards").iterdir()
        size = sum(path.stat().st_size for path in read)
        assert self.ended(["run"], capsys) == (
            0,
            "3 of 3 units are finished and as they were written; "
            f"{size:,} bytes in 5 files were read\n",
        )

    def test_units_that_are_missing_are_no_damage(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "run", units=1)
        code, text = self.ended(["run"], capsys)
        assert code == 0
        assert text.splitlines()[0].startswith("1 of 3 units are finished and as they were written")
        assert text.splitlines()[1] == "2 to be measured: repeat the command that wrote the run"

    def test_damage_is_told_mended_and_measured_again(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "run")
        shard = folder / "run" / "shards" / "000001.parquet"
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
        (folder / "run" / "run.json").write_text("{")
        before = files(folder)
        code, text = self.ended(["run"], capsys)
        assert code == 1
        assert files(folder) == before, "looking changes nothing"
        lines = text.splitlines()
        assert lines[0].startswith("wrong: run.json is damaged")
        assert lines[1].startswith("wrong: shards/000001.parquet ")
        assert lines[2].startswith("2 of 3 units are finished and as they were written; ")
        assert lines[-1] == "set aside what is wrong: lesion verify run --repair"

        code, text = self.ended(["run", "--repair"], capsys)
        assert code == 0
        mended = [line for line in text.splitlines() if line.startswith("mended: ")]
        assert "mended: run.json set aside as run.json.bad" in mended
        assert "mended: shards/000001.parquet set aside as shards/000001.parquet.bad" in mended
        assert "1 to be measured: repeat the command that wrote the run" in text
        assert bytes(content) == (shard.parent / "000001.parquet.bad").read_bytes()
        assert self.ended(["run"], capsys)[0] == 0
        assert open_run(folder / "run").shards.units == (0, 2)

    def test_names_are_text(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        names = [name for name in HOSTILE if name and "/" not in name]
        stored(folder / "run")
        for name in names:
            (folder / "run" / "shards" / name).write_text("")
        code, text = self.ended(["run"], capsys)
        assert code == 0
        assert not any(character in text for character in [*CONTROL, "\u202e", "\u200b"])
        assert all(plain(name) in text for name in names)


class TestQuery:
    SQL = "select prompt, layer, draw, effect_log_prob from rows order by prompt, layer"

    def test_piped_it_is_csv(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        run = stored(folder / "run")
        text = said(["query", "run", self.SQL], capsys)
        found = pd.read_csv(io.StringIO(text))
        pd.testing.assert_frame_equal(found, run.query(self.SQL), check_dtype=False)
        assert text.splitlines()[:2] == ['"prompt","layer","draw","effect_log_prob"', '"p0",0,,-1']

    def test_on_a_terminal_it_is_a_table(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        on_a_terminal(monkeypatch)
        stored(folder / "run")
        lines = said(["query", "run", self.SQL], capsys).splitlines()
        assert lines[0].split() == ["prompt", "layer", "draw", "effect_log_prob"]
        assert lines[1].split() == ["p0", "0", "·", "-1"]
        assert len(lines) == 10
        assert said(["query", "run", self.SQL, "--csv"], capsys).startswith('"prompt",')

    def test_what_a_terminal_does_not_show_is_said(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        on_a_terminal(monkeypatch)
        stored(folder / "run")
        lines = said(["query", "run", "select * from rows, range(20)"], capsys).splitlines()
        assert len(lines) == 52
        shown, columns = len(lines[0].split()), len(SWEEP_SCHEMA) + 1
        assert (
            lines[-1] == f"shown: 50 of 180 rows and {shown} of {columns} columns; --csv gives all"
        )
        assert max(len(line.rstrip()) for line in lines[:-1]) <= 80, "a dumb terminal's width"
        long = said(["query", "run", "select repeat('a', 100) as x"], capsys).splitlines()
        assert long[1].rstrip() == "a" * 39 + "…"

    @pytest.mark.parametrize("where", ["terminal", "csv", "csv on a terminal"])
    def test_texts_are_text(
        self,
        where: str,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        short = [text for text in HOSTILE if len(plain(text)) <= 40 and text.strip()]
        assert len(short) >= 50
        rows = [built_row(text, -1.0, layer=index) for index, text in enumerate(short)]
        built_run(rows).save(folder / "run", figures=False)
        if where != "csv":
            on_a_terminal(monkeypatch)
            monkeypatch.setattr("lesion.cli.printing.SHOWN_ROWS", 1000)
        options = ["--csv"] if where == "csv on a terminal" else []
        text = said(["query", "run", "select prompt from rows order by layer", *options], capsys)
        if where == "terminal":
            assert [line.rstrip() for line in text.splitlines()[1:]] == [
                plain(each).rstrip() for each in short
            ]
        if where == "csv":
            cells = [row[0] for row in csv.reader(io.StringIO(text, newline=""))][1:]
            marked = ["'" + each if each[0] in "=+-@\t\r" else each for each in short]
            assert cells == marked
        else:
            assert not any(character in text for character in [*CONTROL, "\u202e", "\u200b"])

    @pytest.mark.parametrize(
        ("sql", "found"),
        [
            ("", "it asks nothing"),
            ("-- nothing", "it asks nothing"),
            ("select 1; select 2", "these are 2 statements"),
            ("select 1; drop view rows", "these are 2 statements"),
            ("create table t as select 1", "it does something else than to read (create)"),
            ("drop view rows", "it does something else than to read (drop)"),
            ("pragma database_list", "it does something else than to read (pragma)"),
            ("vacuum", "it does something else than to read (vacuum)"),
            ("call pragma_version()", "it does something else than to read (call)"),
            ("update extensions", "it does something else than to read (no select)"),
            ("select nothing", None),
            ("select * from elsewhere", None),
            ("selec", None),
        ],
    )
    def test_what_is_no_question_is_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str], sql: str, found: str | None
    ) -> None:
        stored(folder / "run")
        told = refused(["query", "run", sql], capsys)
        assert told.startswith(f"error: query {sql!r}: {found or ''}")
        assert told.rstrip().endswith(STATEMENT)

    def test_half_a_character_is_refused(self, folder: Path) -> None:
        with pytest.raises(InvalidChoice, match=r"surrogates not allowed"):
            stored(folder / "run").query("select '\ud800'")

    def test_names_of_the_program_are_no_tables(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(query, "mine", pd.DataFrame({"secret": [1]}), raising=False)
        with pytest.raises(InvalidChoice, match=r"Table with name mine does not exist"):
            stored(folder / "run").query("select * from mine")

    TOUCHES = (
        "copy rows to '{}/x.csv'", "copy (select 1) to '{}/x.parquet' (format parquet)",
        "attach '{}/x.db'", "attach '{}/x.db' as x; create table x.t as select 1",
        "export database '{}/x'", "import database '{}'", "install httpfs", "load httpfs",
        "force install httpfs from '{}'", "load '{}/x.duckdb_extension'", "update extensions",
        "create table t as select * from read_csv('/etc/passwd')",
        "select * from read_csv('/etc/passwd')", "select * from read_text('/etc/passwd')",
        "select * from read_blob('/etc/passwd')", "select * from '/etc/passwd'",
        "select * from glob('/etc/*')", "select * from sniff_csv('/etc/passwd')",
        "select * from '{}/own.csv'", "select * from read_parquet('{}/run/shards/*.parquet')",
        "select * from read_json('http://127.0.0.1:9/x')", "select * from parquet_metadata('{}/x')",
        "select * from duckdb_secrets()", "create persistent secret s (type s3)",
        "set enable_external_access = true", "set temp_directory = '{}/tmp'",
        "set home_directory = '{}'", "set extension_directory = '{}'", "reset lock_configuration",
        "pragma enable_profiling", "pragma profiling_output = '{}/x'",
        "set log_query_path = '{}/x'",
        "select * from enable_logging(storage='file', storage_path='{}/x')",
        "call enable_logging(storage='file', storage_path='{}/x')",
        "explain analyze copy rows to '{}/x.csv'",
        "select * from query('copy rows to ''{}/x.csv''')", "select 1; copy rows to '{}/x.csv'",
        "insert into rows select * from rows", "delete from rows", "update rows set layer = 1",
    )  # fmt: skip

    @pytest.mark.parametrize("guard", ["both", "the database alone"])
    def test_it_can_touch_no_file(
        self, guard: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With the first guard and without it: nothing is written, and nothing read."""
        run = stored(folder / "run")
        (folder / "own.csv").write_text("a\n1\n")
        monkeypatch.setenv("HOME", str(folder))
        before = files(folder)
        if guard == "the database alone":
            monkeypatch.setattr(query, "_check_reads", lambda *_: None)
        for sql in self.TOUCHES:
            with pytest.raises(InvalidChoice):
                run.query(sql.format(*[folder] * sql.count("{}")))
        assert files(folder) == before

    def test_an_open_database_would_have_touched_them(self, folder: Path) -> None:
        with duckdb.connect() as connection:
            connection.execute(f"copy (select 1) to '{folder}/x.csv'")
            assert (folder / "x.csv").exists()
            assert connection.execute("select content from read_blob('/etc/passwd')").fetchone()

    def test_a_reader_that_stops_early_is_no_error(self, folder: Path) -> None:
        stored(folder / "run")
        reads, writes = os.pipe()
        os.close(reads)
        command = [sys.executable, "-m", "lesion", "query", "run", "select * from rows"]
        child = subprocess.run(
            command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False
        )
        os.close(writes)
        assert (child.returncode, child.stderr) == (0, "")


class TestExport:
    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_it_says_how_many_rows(
        self, folder: Path, capsys: pytest.CaptureFixture[str], kind: str
    ) -> None:
        run = stored(folder / "run")
        assert said(["export", "run", f"--{kind}", "table"], capsys) == "9 rows written to table\n"
        read = pd.read_csv if kind == "csv" else pd.read_parquet
        assert list(read("table")["effect_log_prob"]) == list(run.frame()["effect_log_prob"])
        assert "a file stands there already" in refused(
            ["export", "run", f"--{kind}", "table"], capsys
        )
        said(["export", "run", f"--{kind}", "table", "--overwrite"], capsys)

    def test_an_unfinished_run_says_so(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "run", units=1)
        assert said(["export", "run", "--csv", "a"], capsys).splitlines() == [
            "3 rows written to a",
            "unfinished: 1 of 3 units; the command that wrote it measures the rest",
        ]

    @pytest.mark.parametrize(
        ("options", "found"),
        [
            ([], "neither --csv nor --parquet"),
            (["--csv", "a", "--parquet", "b"], "both --csv and --parquet"),
        ],
    )
    def test_one_kind_is_asked_for(
        self, folder: Path, capsys: pytest.CaptureFixture[str], options: list[str], found: str
    ) -> None:
        assert refused(["export", "run", *options], capsys) == (
            f"error: export run: {found}. An export is one file of one kind. Name one file: "
            "--csv table.csv.\n"
        )


class TestCompare:
    def test_piped_it_is_csv_and_the_notes_stand_beside_it(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "one")
        stored(folder / "other", scale=2.0, replace="zero", units=2)
        cli.main(["compare", "one", "other"])
        output = capsys.readouterr()
        found = pd.read_csv(io.StringIO(output.out))
        assert list(found["difference"]) == [-3.0, -1.5, -3.0, -4.5]
        assert list(found["layer"].fillna(-1)) == [-1, 0, 1, 2]
        assert output.err.splitlines() == [
            "plan.replace: median in the first run, zero in the second",
            "unfinished: 2 of 3 units; the command that wrote it measures the rest",
            "6 pairs of rows; effect_log_prob, difference = second − first",
            "3 rows of the first run and 0 of the second pair with nothing",
            "each interval is for its own row: none is corrected for how many there are",
            "4 of 4 intervals stand on fewer than 20 groups (2 at least): that they hold the true "
            "mean in 95 of 100 such studies is promised only where group means are normally "
            "distributed",
        ]

    def test_on_a_terminal_it_is_over_all_blocks(
        self,
        folder: Path,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        on_a_terminal(monkeypatch)
        stored(folder / "one")
        cli.main(["compare", "one", "one", "--metric", "effect_logit"])
        output = capsys.readouterr()
        lines = [line.split() for line in output.out.splitlines()]
        assert lines[0] == [
            "selection", "fraction", "rows", "groups", "mean_one", "mean_other", "difference",
            "low", "high",
        ]  # fmt: skip
        assert lines[1:] == [["top", "0.1", "9", "3", "-8", "-8", "0", "0", "0"]]
        assert output.err.splitlines()[0] == "the runs differ in nothing that is recorded"
        assert output.err.splitlines()[-1] == "over all blocks; --csv gives each block"

    def test_another_metric_is_refused(
        self, folder: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        stored(folder / "one")
        told = refused(["compare", "one", "one", "--metric", "loss"], capsys)
        assert told.startswith("error: compare by 'loss': no such metric. ")


@pytest.mark.parametrize("command", ["show", "query", "export", "compare", "verify"])
def test_where_no_run_is_all_of_them_say_so(
    folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    rest = {"query": ["select 1"], "export": ["--csv", "a"], "compare": ["nowhere"]}
    told = refused([command, "nowhere", *rest.get(command, [])], capsys)
    found = "verify nowhere: there is no run" if command == "verify" else "open nowhere: run.json"
    assert told.startswith(f"error: {found}")


def test_looking_at_runs_needs_no_torch(folder: Path) -> None:
    stored(folder / "runs" / "run")
    script = """
import sys
from lesion import cli

for command in (
    ["runs"], ["verify", "runs/run"], ["query", "runs/run", "select 1"],
    ["export", "runs/run", "--csv", "a"], ["compare", "runs/run", "runs/run"],
):
    cli.main(command)
sys.exit(sorted({"torch", "transformers", "tokenizers", "safetensors"} & set(sys.modules)) or 0)
"""
    child = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)
    assert child.returncode == 0, child.stderr
