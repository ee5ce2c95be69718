"""An export holds every row as it is, is whole or not there, and is text to a spreadsheet."""

import csv
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from built_runs import built_manifest, built_row, built_run, built_shard
from hostile import HOSTILE

from lesion.columns import SWEEP_SCHEMA
from lesion.errors import InvalidChoice, RunDamaged, RunExists, RunNotWritable
from lesion.runs.export import csv_bytes, export
from lesion.runs.run import Run, open_run
from lesion.runs.shard import Shard
from lesion.runs.shards import HeldShards

TEXTS = ("prompt", "target", "group", "top_token", "carried")
FILE = "An export is written to a new file, or over an older one when that is asked for"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A stored run of three units."""
    units = [
        [built_row(f"prompt {unit}", -unit - layer / 3, layer=layer) for layer in range(3)]
        for unit in range(3)
    ]
    return open_run(built_run(*units).save(tmp_path / "run", figures=False))


def cells(path: Path) -> list[dict[str, str]]:
    """A CSV file as Python's own reader reads it."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name != "run")


class TestCsv:
    def test_every_row_and_column_stands_there(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        assert export(run, path, "csv") == 9
        found = cells(path)
        assert list(found[0]) == SWEEP_SCHEMA.names
        for cell, row in zip(found, run.table.to_pylist(), strict=True):
            assert float(cell["effect_log_prob"]) == row["effect_log_prob"]
            assert int(cell["layer"]) == row["layer"]
            assert cell["prompt"] == row["prompt"]
            assert cell["draw"] == ""
            assert json.loads(cell["hidden_norm"]) == row["hidden_norm"]

    def test_numbers_are_read_back_bit_for_bit(self, tmp_path: Path) -> None:
        numbers = [0.1, -1e-300, 1 / 3, -123456789.123456789, 5e-324, 1e22, float("inf")]
        run = built_run([built_row("p", n, layer=i) for i, n in enumerate(numbers)])
        export(run, tmp_path / "table.csv", "csv")
        found = cells(tmp_path / "table.csv")
        assert [float(cell["effect_log_prob"]) for cell in found] == numbers
        assert found[1]["effect_log_prob"] == "-1e-300"

    @pytest.mark.parametrize("column", TEXTS)
    def test_text_is_text_and_no_formula(self, column: str, tmp_path: Path) -> None:
        rows = [built_row("p", -1.0) | {column: text} for text in HOSTILE]
        export(built_run(rows), tmp_path / "table.csv", "csv")
        found = cells(tmp_path / "table.csv")
        assert len(HOSTILE) >= 50
        for text, cell in zip(HOSTILE, found, strict=True):
            assert cell[column] == ("'" if text[:1] in tuple("=+-@\t\r") else "") + text
            assert cell["effect_log_prob"] == "-1", "a number keeps its sign"

    def test_nothing_is_not_the_empty_text(self, tmp_path: Path) -> None:
        rows = [built_row("p", -1.0, carried=carried) for carried in (None, "")]
        export(built_run(rows), tmp_path / "table.csv", "csv")
        lines = (tmp_path / "table.csv").read_text(encoding="utf-8").splitlines()
        assert ',"p",,"' in lines[1]
        assert ',"p","","' in lines[2]

    def test_lists_are_json_even_where_they_hold_no_number(self, tmp_path: Path) -> None:
        norms = [0.5, float("nan"), float("inf"), float("-inf")]
        rows = [built_row("p", -1.0, hidden_norm=each) for each in (norms, [], None)]
        export(built_run(rows), tmp_path / "table.csv", "csv")
        first, second, third = (cell["hidden_norm"] for cell in cells(tmp_path / "table.csv"))
        assert json.loads(first) == [0.5, "NaN", "Infinity", "-Infinity"]
        assert (second, third) == ("[]", "")

    def test_a_run_without_a_finished_unit_is_a_header(self, tmp_path: Path) -> None:
        assert export(built_run(of=2), tmp_path / "table.csv", "csv") == 0
        assert cells(tmp_path / "table.csv") == []

    def test_whatever_a_query_makes_is_text(self) -> None:
        table = pa.table(
            {
                "=name": pa.array(["=1"], pa.large_string()),
                "nothing": pa.nulls(1),
                "object": [{"a": [float("nan")], "b": "=1"}],
                "bytes": [b"=1"],
                "yes": [True],
                "decimal": pa.array([-1], pa.int64()).cast(pa.decimal128(38, 0)),
            }
        )
        assert csv_bytes(table).decode() == (
            '"\'=name","nothing","object","bytes","yes","decimal"\n'
            '"\'=1",,"{""a"": [""NaN""], ""b"": ""=1""}","b\'=1\'",true,-1\n'
        )


class TestParquet:
    def test_it_is_the_table(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "table.parquet"
        assert export(run, path, "parquet") == 9
        assert pq.read_table(path, page_checksum_verification=True).equals(run.table)

    def test_its_pages_have_checksums(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "table.parquet"
        export(run, path, "parquet")
        content = bytearray(path.read_bytes())
        noticed = 0
        for place in range(8, 400, 16):
            flipped = bytes(content[:place]) + bytes([content[place] ^ 1]) + content[place + 1 :]
            try:
                found = pq.read_table(pa.BufferReader(flipped), page_checksum_verification=True)
                noticed += not found.equals(run.table)
                assert found.equals(run.table), place
            except (OSError, pa.ArrowException):
                noticed += 1
        assert noticed > 10


class TestWholeOrNotAtAll:
    def test_what_stands_there_stays(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "table.csv"
        path.write_text("mine")
        with pytest.raises(RunExists) as refusal:
            export(run, path, "csv")
        assert str(refusal.value) == (
            f"export to {path}: a file stands there already. {FILE}. Pass --overwrite, or choose "
            "another file."
        )
        assert path.read_text() == "mine"
        export(run, path, "csv", overwrite=True)
        assert len(cells(path)) == 9
        assert left_behind(tmp_path) == ["table.csv"]

    def test_a_file_that_comes_meanwhile_stays(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "table.csv"
        sync = os.fsync
        monkeypatch.setattr(os, "fsync", lambda file: (sync(file), path.write_text("theirs")))
        with pytest.raises(RunExists):
            export(run, path, "csv")
        assert path.read_text() == "theirs"
        assert left_behind(tmp_path) == ["table.csv"]

    def test_a_directory_is_no_file(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        with pytest.raises(RunExists) as refusal:
            export(run, tmp_path / "folder", "csv", overwrite=True)
        assert str(refusal.value) == (
            f"export to {tmp_path / 'folder'}: a directory stands there. {FILE}. Name a file in it."
        )

    @pytest.mark.parametrize("name", ["run.json", "shards/000000.parquet", "table.csv"])
    def test_nothing_is_written_into_a_run(self, run: Run, tmp_path: Path, name: str) -> None:
        path = tmp_path / "run" / name
        before = path.read_bytes() if path.exists() else None
        with pytest.raises(InvalidChoice) as refusal:
            export(run, path, "parquet", overwrite=True)
        assert str(refusal.value) == (
            f"export to {path}: it would lie within a run. A run's directory holds what was "
            "measured, and nothing else. Choose a file outside it."
        )
        assert (path.read_bytes() if path.exists() else None) == before

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_a_damaged_shard_leaves_nothing(self, run: Run, tmp_path: Path, kind: str) -> None:
        shard = tmp_path / "run" / "shards" / "000002.parquet"
        content = bytearray(shard.read_bytes())
        content[100] ^= 1
        shard.write_bytes(content)
        (tmp_path / "old").write_text("mine")
        for name in ("new", "old"):
            with pytest.raises(RunDamaged, match=r"shards/000002\.parquet"):
                export(run, tmp_path / name, kind, overwrite=True)
        assert left_behind(tmp_path) == ["old"]
        assert (tmp_path / "old").read_text() == "mine"

    @pytest.mark.parametrize("kind", ["csv", "parquet"])
    def test_an_interruption_leaves_nothing(self, run: Run, tmp_path: Path, kind: str) -> None:
        class Interrupted(HeldShards):
            def __iter__(self) -> Iterator[Shard]:
                yield self.held[0]
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            export(Run(run.manifest, Interrupted(list(run.shards))), tmp_path / "new", kind)
        assert left_behind(tmp_path) == []

    def test_no_directory_is_made(self, run: Run, tmp_path: Path) -> None:
        path = tmp_path / "nowhere" / "table.csv"
        with pytest.raises(RunNotWritable) as refusal:
            export(run, path, "csv")
        assert str(refusal.value) == (
            f"export to {path}: No such file or directory. An export needs a directory that can "
            "be written, and room on its disk. Make room, or choose another file."
        )


TOO_LARGE = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from lesion.errors import RunNotWritable
from lesion.runs.export import export
from lesion.runs.run import open_run

run = open_run(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[5]), int(sys.argv[5])))
try:
    export(run, sys.argv[3], sys.argv[4])
except RunNotWritable as error:
    print(error.__cause__.errno)
"""


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_full_disk_leaves_nothing(run: Run, tmp_path: Path, kind: str) -> None:
    """A real limit of the operating system, met while writing."""
    arguments = [str(Path(__file__).parents[1]), str(tmp_path / "run"), str(tmp_path / "new"), kind]
    child = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, *arguments, "1000"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert child.stdout.strip() == str(errno.EFBIG)
    assert left_behind(tmp_path) == []


MEMORY = """
import sys
from lesion.runs.export import export
from lesion.runs.run import open_run

run = open_run(sys.argv[1])
if sys.argv[4] == "held":
    run.table
export(run, sys.argv[2], sys.argv[3])
status = open("/proc/self/status").read()  # ru_maxrss begins at the parent's
print(status.split("VmHWM:")[1].split()[0])
"""


def peak_megabytes(run: Path, target: Path, kind: str, way: str) -> float:
    """The most memory that a process takes which exports a run."""
    child = subprocess.run(
        [sys.executable, "-c", MEMORY, str(run), str(target), kind, way],
        capture_output=True, text=True, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    return int(child.stdout) / 1024


@pytest.fixture(scope="module")
def few_and_many(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of 2 and of 24 units with 10 MB of rows each."""
    folder = tmp_path_factory.mktemp("memory")
    rows = [built_row("p" * 10_000, -0.1 * i, layer=i, hidden_norm=None) for i in range(100)]
    table = pa.concat_tables([built_shard(0, rows).table] * 10).combine_chunks()
    assert table.nbytes > 10e6
    for units in (2, 24):
        shards = [Shard(unit, table, (), None) for unit in range(units)]
        run = Run(built_manifest(units), HeldShards(shards))
        run.save(folder / str(units), figures=False)
    return folder / "2", folder / "24"


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_one_shard_at_a_time_is_in_memory(
    few_and_many: tuple[Path, Path], tmp_path: Path, kind: str
) -> None:
    """Twelve times the rows, and hardly more memory."""
    few, many = few_and_many
    small = peak_megabytes(few, tmp_path / "few", kind, "streamed")
    large = peak_megabytes(many, tmp_path / "many", kind, "streamed")
    assert large - small < 50


def test_all_of_them_in_memory_would_be_seen(
    few_and_many: tuple[Path, Path], tmp_path: Path
) -> None:
    few, many = few_and_many
    small = peak_megabytes(few, tmp_path / "few", "parquet", "streamed")
    assert peak_megabytes(many, tmp_path / "many", "parquet", "held") - small > 150
