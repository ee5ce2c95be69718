"""A list of runs tells what is there, and what cannot be read and why."""

import datetime
import json
import os
import shutil
from pathlib import Path

import pytest
from built_runs import built_manifest, built_row, built_run
from hostile import HOSTILE

from lesion.errors import RunNotFound
from lesion.runs.listing import ListedRun, list_runs
from lesion.runs.run_json import manifest_bytes

DAY = datetime.timedelta(days=1)
SHARD = Path("shards/000001.parquet")


def write(path: Path, *, day: int = 0, finished: int = 2, **words: object) -> Path:
    """A stored run of three units, of which the first are finished with four rows each."""
    units = [
        [built_row(f"p{unit}", -1.0, layer=layer) for layer in range(4)] for unit in range(finished)
    ]
    created = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + day * DAY
    return built_run(*units, of=3, **({"created": created} | words)).save(path, figures=False)


def listed(folder: Path) -> dict[str, str | None]:
    """The names of the runs and what is wrong with them."""
    return {run.name: run.wrong for run in list_runs(folder)}


def test_the_newest_stands_first_and_one_without_a_date_last(tmp_path: Path) -> None:
    for name, day in (("b", 1), ("c", 3), ("a", 2)):
        write(tmp_path / name, day=day)
    write(tmp_path / "rebuilt", created=None)
    assert [run.name for run in list_runs(tmp_path)] == ["c", "a", "b", "rebuilt"]
    assert [run.created is None for run in list_runs(tmp_path)] == [False] * 3 + [True]


def test_it_tells_what_was_asked_and_how_far_it_is(tmp_path: Path) -> None:
    write(tmp_path / "run", replace="zero", model="large", prompts="idioms")
    (run,) = list_runs(tmp_path)
    assert run == ListedRun(
        name="run",
        path=tmp_path / "run",
        manifest=built_manifest(
            3, replace="zero", model="large", prompts="idioms", created=run.created
        ),
        units=2,
        rows=8,
        wrong=None,
    )
    assert run.question == "top, random at pre, zero, each"


def test_a_run_that_is_just_begun_is_one(tmp_path: Path) -> None:
    write(tmp_path / "run", finished=0)
    (run,) = list_runs(tmp_path)
    assert (run.units, run.rows, run.wrong) == (0, 0, None)


def test_runs_lie_at_any_depth_and_the_directory_may_be_one(tmp_path: Path) -> None:
    write(tmp_path / "study" / "first" / "run")
    write(tmp_path / "study" / "second")
    assert set(listed(tmp_path)) == {"study/first/run", "study/second"}
    assert set(listed(tmp_path / "study" / "second")) == {"."}


def test_nothing_is_looked_for_within_a_run_behind_a_link_or_where_it_is_hidden(
    tmp_path: Path,
) -> None:
    write(tmp_path / "run")
    write(tmp_path / "run" / "inner")
    write(tmp_path / ".hidden" / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert set(listed(tmp_path)) == {"run"}


def test_strangers_are_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "run")
    for name, content in {
        "a/run.json": '{"config": 1}',
        "b/run.json": "[1, 2]",
        "c/shards/000000.parquet": "no Parquet",
        "d/shards/x.parquet": "",
        "e/figures/a.png": "",
        "f/notes.txt": "run.json",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "g" / "run.json").mkdir(parents=True)
    assert set(listed(tmp_path)) == {"run"}


def test_an_empty_directory_has_none(tmp_path: Path) -> None:
    assert list_runs(tmp_path) == []


@pytest.mark.parametrize("kind", ["nothing", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    if kind == "file":
        place.write_text("")
    found = "a file stands there" if kind == "file" else "there is no such directory"
    with pytest.raises(RunNotFound) as refusal:
        list_runs(place)
    assert str(refusal.value) == (
        f"list the runs below {place}: {found}. Runs are listed below a directory here; a command "
        "writes them below runs. Name the directory: lesion runs DIR."
    )


class TestDamage:
    @pytest.mark.parametrize("content", [b"", b"{", b"\0" * 100, b"[" * 100_000])
    def test_a_torn_manifest(self, tmp_path: Path, content: bytes) -> None:
        (write(tmp_path / "run") / "run.json").write_bytes(content)
        assert listed(tmp_path) == {"run": "run.json is damaged (it is no JSON)"}

    def test_a_changed_manifest(self, tmp_path: Path) -> None:
        path = write(tmp_path / "run") / "run.json"
        path.write_bytes(path.read_bytes().replace(b'"tiny"', b'"tony"'))
        told = "run.json is damaged (its checksum is not that of its content)"
        assert listed(tmp_path) == {"run": told}

    def test_a_lost_manifest(self, tmp_path: Path) -> None:
        path = write(tmp_path / "run")
        (path / "run.json").unlink()
        assert listed(tmp_path) == {"run": "run.json is missing"}
        (path / "units.log").unlink()
        assert listed(tmp_path) == {"run": "run.json is missing"}, "its shards tell"

    def test_a_manifest_of_another_version(self, tmp_path: Path) -> None:
        words = json.loads(manifest_bytes(built_manifest()))
        del words["checksum"]
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text(json.dumps(words | {"schema_version": 2}))
        assert listed(tmp_path) == {"run": "run.json has schema version 2"}

    def test_a_torn_shard(self, tmp_path: Path) -> None:
        path = write(tmp_path / "run") / SHARD
        path.write_bytes(path.read_bytes()[:-1])
        (run,) = list_runs(tmp_path)
        assert (run.units, run.rows) == (1, 4)
        assert run.wrong == "shards/000001.parquet is not what was written"

    def test_a_shard_whose_record_is_lost_proves_itself(self, tmp_path: Path) -> None:
        path = write(tmp_path / "run")
        (path / "units.log").unlink()
        (run,) = list_runs(tmp_path)
        assert (run.units, run.rows, run.wrong) == (2, 8, None)

    def test_no_content_is_read_where_records_tell(self, tmp_path: Path) -> None:
        """One flipped bit is for `lesion verify` to find."""
        path = write(tmp_path / "run") / SHARD
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        path.write_bytes(content)
        assert listed(tmp_path) == {"run": None}

    @pytest.mark.parametrize("operation", ["read_bytes", "scandir"])
    def test_what_cannot_be_read_hides_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
    ) -> None:
        """As root no file refuses to be read, so the refusal is put in its place."""
        write(tmp_path / "closed")
        write(tmp_path / "open")
        place: object = Path if operation == "read_bytes" else os
        read = getattr(place, operation)

        def refuse(path: Path) -> object:
            refused = "closed" in Path(path).parts and (
                operation == "read_bytes" or Path(path).name == "shards"
            )
            if refused:
                raise PermissionError(13, "Permission denied")
            return read(path)

        monkeypatch.setattr(place, operation, refuse)
        found = listed(tmp_path)
        assert found.pop("open") is None
        assert "Permission denied" in (found.pop("closed") or "")
        assert not found


def test_names_are_kept_as_they_are(tmp_path: Path) -> None:
    names = [name for name in HOSTILE if name and "/" not in name and not name.startswith(".")]
    assert len(names) >= 50
    source = write(tmp_path / "source")
    for name in names:
        shutil.copytree(source, tmp_path / "all" / name)
    assert set(listed(tmp_path / "all")) == set(names)
