"""run.json: read back as it was, or refused with the reason; every message in full."""

import datetime
import json
import os

import pytest
from small_run import manifest, small_run

from lesion.errors import InvalidChoice, RunDamaged, RunNotFound
from lesion.runs.local_folder import LocalFolder
from lesion.runs.manifest import Manifest
from lesion.runs.run import open_run
from lesion.runs.run_json import manifest_bytes, read_manifest

IS_RUN = "A run is a directory with run.json and shards/*.parquet"


@pytest.fixture
def saved(tmp_path):
    return small_run().save(tmp_path / "run", figures=False)


def words_of(folder) -> dict:
    return json.loads((folder / "run.json").read_text(encoding="utf-8"))


class TestRoundTrip:
    def test_moment_and_text_are_kept(self, tmp_path):
        moment = datetime.datetime(2026, 7, 1, 12, 30, 45, 123456, tzinfo=datetime.UTC)
        asked = manifest(
            created=moment,
            plan={"deep": [1, [2.5, None, {"a": True}]], "text": 'a "b" \\ \u2028 é 😀 </script>'},
        )
        (tmp_path / "run.json").write_bytes(manifest_bytes(asked))
        assert read_manifest(LocalFolder(tmp_path)) == asked

    def test_any_reader_can_read_it(self, saved):
        text = (saved / "run.json").read_text(encoding="utf-8")
        assert text.endswith("}\n")
        stored = words_of(saved)
        assert stored.pop("checksum")
        assert stored["schema_version"] == 3
        assert stored["created"] == "2026-01-02T03:04:05.678901Z"
        assert stored["model"]["neurons"] == [100, 100, 100]
        assert Manifest.model_validate_json(json.dumps(stored)) == manifest()


class TestWhatIsNone:
    def message_of(self, path, error) -> str:
        with pytest.raises(error) as caught:
            open_run(path)
        return str(caught.value)

    def unreadable(self, path) -> str:
        return (
            f"open {path}: run.json cannot be read (No such file or directory). {IS_RUN}. "
            "Check the path."
        )

    def damaged(self, path, found: str) -> str:
        return (
            f"open {path}: run.json is damaged ({found}). {IS_RUN}. "
            f"Rebuild it from the shards: lesion verify {path} --repair."
        )

    def test_nothing(self, tmp_path):
        path = tmp_path / "run"
        assert self.message_of(path, RunNotFound) == self.unreadable(path)

    def test_a_directory_without_it(self, saved):
        (saved / "run.json").unlink()
        assert self.message_of(saved, RunNotFound) == self.unreadable(saved)

    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("units.log", "Not a directory"),
            ("x" * 300, "File name too long"),
            ("odd", "Is a directory"),
        ],
    )
    def test_a_path_where_none_can_be(self, saved, name, reason):
        (saved / "odd" / "run.json").mkdir(parents=True)
        path = saved / name
        assert self.message_of(path, RunNotFound) == (
            f"open {path}: run.json cannot be read ({reason}). {IS_RUN}. Check the path."
        )

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"", "it is no JSON"),
            (b"{", "it is no JSON"),
            (b"not json", "it is no JSON"),
            (b"\xff\xfe", "it is no JSON"),
            (b"[" * 100_000, "it is no JSON"),
            (b"[]", "it is no JSON object"),
            (b"null", "it is no JSON object"),
            (b"{}", "its checksum is not that of its content"),
            (b'{"schema_version": "2"}', "its checksum is not that of its content"),
            (b'{"schema_version": 2, "checksum": "x"}', "its checksum is not that of its content"),
        ],
    )
    def test_damaged_content(self, saved, content, found):
        (saved / "run.json").write_bytes(content)
        assert self.message_of(saved, RunDamaged) == self.damaged(saved, found)

    def test_a_changed_field(self, saved):
        for field in words_of(saved):
            changed = words_of(saved) | {field: "changed"}
            (saved / "run.json").write_text(json.dumps(changed), encoding="utf-8")
            message = self.message_of(saved, RunDamaged)
            assert message == self.damaged(saved, "its checksum is not that of its content")
            (saved / "run.json").write_bytes(manifest_bytes(manifest()))

    @pytest.mark.parametrize("version", [1, 2])
    def test_an_older_version(self, saved, version):
        (saved / "run.json").write_text(json.dumps({"schema_version": version, "seconds": 1.5}))
        assert self.message_of(saved, RunNotFound) == (
            f"open {saved}: run.json has schema version {version}. This version of lesion reads "
            "schema version 3. Open it with the version of lesion that wrote it."
        )

    def test_a_newer_version_is_told_from_a_flipped_bit_by_its_checksum(self, saved):
        newer = manifest().model_copy(update={"schema_version": 4})
        (saved / "run.json").write_bytes(manifest_bytes(newer))
        assert "schema version 4" in self.message_of(saved, RunNotFound)
        text = manifest_bytes(manifest()).replace(b'"schema_version": 3', b'"schema_version": 2')
        (saved / "run.json").write_bytes(text)
        assert "checksum" in self.message_of(saved, RunDamaged)

    def test_a_path_that_cannot_be(self):
        with pytest.raises(InvalidChoice) as caught:
            open_run("a\0b")
        assert str(caught.value) == (
            "run 'a\\x00b': there can be no such directory (embedded null byte). A run is a "
            "directory. Choose another directory."
        )
        assert os.sep not in caught.value.found
