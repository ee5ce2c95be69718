"""`verify` finds what is wrong in every file; `repair` keeps what proves itself."""

import random
import re
from pathlib import Path

import pytest
from fake_study import conduct, files_in, measured, study_manifest, what_differs
from test_bit_flips import hurt

from lesion.errors import RunDamaged, RunInUse, RunNotFound
from lesion.runs.local_folder import LocalFolder
from lesion.runs.run_json import manifest_bytes, read_manifest
from lesion.runs.store import claim
from lesion.runs.verify import Verification, WrongFile, repair, verify

UNITS = 4
SHARD = "shards/000002.parquet"


@pytest.fixture
def run(tmp_path):
    conduct(tmp_path / "run", UNITS, tmp_path / "counts")
    return tmp_path / "run"


def flip(path: Path, place: int = 100) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


class TestVerify:
    def test_a_whole_run(self, run):
        files = files_in(run)
        assert verify(run) == Verification(
            path=str(run),
            files=UNITS + 2,
            bytes=sum(map(len, files.values())),
            finished=(0, 1, 2, 3),
            missing=(),
            wrong=(),
            strays=(),
        )
        assert verify(run).sound
        assert files_in(run) == files, "it changes nothing"

    def test_a_missing_unit_is_no_fault_until_it_was_finished(self, run):
        (run / SHARD).unlink()
        found = verify(run)
        assert found.missing == (2,)
        assert found.wrong == (WrongFile(SHARD, "is missing, and was finished"),)
        assert not found.sound
        lines = (run / "units.log").read_bytes().splitlines(keepends=True)
        (run / "units.log").write_bytes(b"".join(lines[:2] + lines[3:]))
        found = verify(run)
        assert (found.missing, found.wrong) == ((2,), ())

    def test_every_wrong_file_is_named(self, run):
        flip(run / SHARD)
        (run / "shards/000003.parquet").write_bytes(b"short")
        lines = (run / "units.log").read_bytes().splitlines(keepends=True)
        (run / "units.log").write_bytes(b"x" + b"".join(lines[:2] + lines[2:]))
        flip(run / "run.json", 10)
        found = verify(run)
        assert found.wrong == (
            WrongFile("run.json", "is damaged (its checksum is not that of its content)"),
            WrongFile("units.log", "line 1 is not as it was written"),
            WrongFile("shards/000000.parquet", "has no record"),
            WrongFile(SHARD, "it is not what was written (SHA-256)"),
            WrongFile(
                "shards/000003.parquet",
                f"it has 5 bytes, and {len_of(lines[3])} were written",
            ),
        )
        assert found.finished == (1,)
        assert found.missing == (0, 2, 3)

    def test_a_byte_that_changes_nothing_is_wrong_too(self, run):
        (run / "run.json").write_bytes((run / "run.json").read_bytes().rstrip())
        assert verify(run).wrong == (
            WrongFile("run.json", "says the same, but not as it was written"),
        )

    def test_a_lost_manifest(self, run):
        (run / "run.json").unlink()
        assert verify(run).wrong == (WrongFile("run.json", "is missing"),)
        assert verify(run).finished == (0, 1, 2, 3)

    def test_what_no_run_reads_is_told(self, run):
        for name in ("tmp/000001.parquet.1.0123abcd", "shards/notes.txt", f"{SHARD}.bad", "my.txt"):
            (run / name).write_text("x", encoding="utf-8")
        assert verify(run).sound
        assert verify(run).strays == (
            f"{SHARD}.bad",
            "shards/notes.txt",
            "tmp/000001.parquet.1.0123abcd",
        )

    @pytest.mark.parametrize("place", ["nothing", "file", "thesis"])
    @pytest.mark.parametrize("call", [verify, repair])
    def test_no_run(self, tmp_path, place, call):
        (tmp_path / "file").write_text("x", encoding="utf-8")
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("x", encoding="utf-8")
        with pytest.raises(RunNotFound) as caught:
            call(tmp_path / place)
        assert str(caught.value) == (
            f"verify {tmp_path / place}: there is no run. A run is a directory with run.json and "
            "shards/*.parquet. Check the path."
        )
        assert sorted(files_in(tmp_path)) == ["file", "thesis/chapter.tex"]


def len_of(line: bytes) -> int:
    return int(re.search(rb'"bytes":(\d+)', line)[1])


class TestRepair:
    def test_a_whole_run_stays_as_it_is(self, run):
        files = files_in(run)
        assert repair(run) == verify(run)
        assert files_in(run) == files

    def test_it_says_what_it_did(self, run):
        flip(run / SHARD)
        flip(run / "run.json", 10)
        (run / "tmp" / "run.json.1.0123abcd").write_bytes(b"half")
        found = repair(run)
        assert found.mended == (
            "run.json.1.0123abcd removed",
            "run.json set aside as run.json.bad",
            "run.json rebuilt",
            f"{SHARD} set aside as {SHARD}.bad",
            "units.log written again: 3 units are finished",
        )
        assert found.sound
        assert found.missing == (2,)
        assert found.strays == ("run.json.bad", f"{SHARD}.bad")

    def test_nothing_to_rebuild_from(self, run):
        for unit in range(UNITS):
            flip(run / f"shards/{unit:06d}.parquet")
        flip(run / "run.json", 10)
        before = files_in(run)
        with pytest.raises(RunDamaged) as caught:
            repair(run)
        assert str(caught.value) == (
            f"repair {run}: run.json is damaged (its checksum is not that of its content), and no "
            "shard proves itself. What a run was stands in run.json and in every shard. Repeat "
            "the command that wrote it: it begins anew."
        )
        assert files_in(run) == before

    def test_not_while_it_is_written(self, run):
        with claim(run), pytest.raises(RunInUse):
            repair(run)

    @pytest.mark.parametrize(
        "trials", [100, pytest.param(1000, marks=pytest.mark.nightly)], ids=["push", "nightly"]
    )
    def test_repaired_and_resumed_equals_uninterrupted(self, run, tmp_path, trials):
        whole = files_in(run)
        for number in range(trials):
            rng = random.Random(number)
            hit = {hurt(run, rng)[0] for _ in range(rng.choice((1, 1, 2, 3)))}
            hit = {name for name in hit if (run / name).read_bytes() != whole[name]}
            found = verify(run)
            named = {wrong.name for wrong in found.wrong}
            assert hit <= named, f"trial {number}"
            shards = {name for name in hit if name.startswith("shards")}
            assert sorted(found.missing) == sorted(
                int(wrong.name[7:13]) for wrong in found.wrong if wrong.name.startswith("shards")
            )
            repaired = repair(run)
            assert repaired.sound
            again = tmp_path / f"again-{number}"
            conduct(run, UNITS, again)
            assert measured(again) == sorted(int(name[7:13]) for name in shards)
            if "run.json" in hit:
                rebuilt = read_manifest(LocalFolder(run))
                created = study_manifest(UNITS).created
                asked = rebuilt.model_copy(update={"created": created})
                (run / "run.json").write_bytes(manifest_bytes(asked))
            aside = list(run.rglob("*.bad"))
            assert what_differs(run, whole, bad=len(aside)) is None
            for path in aside:
                path.unlink()
            for name, content in whole.items():
                (run / name).write_bytes(content)
