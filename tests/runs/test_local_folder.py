"""A directory as a run's place: whole files or none, rights, links, the log and its lines."""

import errno
import hashlib
import os
import stat

import pytest
from small_run import measuring

from lesion.errors import RunDamaged, RunExists, RunNotWritable
from lesion.runs.disk import Disk
from lesion.runs.local_folder import LocalFolder
from lesion.runs.manifest import UnitRecord


def record(unit: int, **changed: object) -> UnitRecord:
    fields = {"sha256": "0" * 64, "bytes": 5, "rows": 9, "nonfinite": 0, "measuring": measuring()}
    return UnitRecord(unit=unit, **(fields | changed))


@pytest.fixture
def folder(tmp_path):
    return LocalFolder(tmp_path / "run")


class TestFiles:
    def test_the_first_wins(self, folder):
        assert folder.create("shards/a", b"first")
        assert not folder.create("shards/a", b"second")
        assert folder.read("shards/a") == b"first"

    def test_the_last_wins_where_that_is_asked_for(self, folder):
        folder.put("run.json", b"first")
        folder.put("run.json", b"second")
        assert folder.read("run.json") == b"second"

    def test_nothing_unfinished_stays(self, folder):
        folder.create("shards/a", b"x")
        folder.create("shards/a", b"x")
        folder.put("b", b"x")
        assert folder.sizes("tmp") == {}
        assert (folder.place / "shards" / "a").stat().st_nlink == 1

    def test_without_links_as_well(self, tmp_path):
        class WithoutLinks(Disk):
            def link(self, path, new):
                raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        folder = LocalFolder(tmp_path / "run", WithoutLinks())
        assert folder.create("a", b"first")
        assert not folder.create("a", b"second")
        assert (folder.read("a"), folder.sizes("tmp")) == (b"first", {})

    def test_what_reads_back_differently_gets_no_name(self, tmp_path):
        class Forgetful(Disk):
            def write(self, file, content):
                super().write(file, content.replace(b"x", b"y"))

        folder = LocalFolder(tmp_path / "run", Forgetful())
        with pytest.raises(RunDamaged) as caught:
            folder.create("a", b"xyz")
        assert str(caught.value) == (
            f"write to {folder.path}: a reads back as something else than was written. A file is "
            "committed when it reads back as it was. Check the disk, or choose another directory."
        )
        assert folder.sizes() == folder.sizes("tmp") == {}

    def test_what_is_not_there_is_not_found(self, folder):
        for name in ("a", "a/b"):
            with pytest.raises(FileNotFoundError):
                folder.read(name)
            with pytest.raises(FileNotFoundError):
                folder.move(name, "b")
        folder.put("a", b"x")
        with pytest.raises(FileNotFoundError):
            folder.read("a/b")
        folder.remove("b")

    def test_what_cannot_be_read_is_damaged(self, tmp_path):
        class Broken(Disk):
            def read(self, path):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        with pytest.raises(RunDamaged) as caught:
            LocalFolder(tmp_path, Broken()).read("run.json")
        assert str(caught.value) == (
            f"open {tmp_path}: run.json cannot be read (Input/output error). Every file of a run "
            "can be read. Check the disk, and your rights there."
        )

    def test_links_are_no_files_of_a_run(self, folder):
        folder.put("a", b"x")
        (folder.place / "b").symlink_to("a")
        assert folder.sizes() == {"a": 1}

    def test_only_writes_are_swept(self, folder):
        folder.put("a", b"x")
        for name in ("a.1.0123abcd", "notes.txt", "a.x.0123abcd", "a.1.short"):
            (folder.place / "tmp" / name).write_bytes(b"x")
        folder.sweep()
        assert set(folder.sizes("tmp")) == {"notes.txt", "a.x.0123abcd", "a.1.short"}


class TestThePlaceItself:
    @pytest.mark.parametrize("mask", [0o022, 0o077])
    def test_the_rights_are_those_that_the_user_gives_new_files(self, folder, mask):
        before = os.umask(mask)
        try:
            folder.put("a", b"x")
            assert os.umask(mask) == mask, "the mask was left changed"
        finally:
            os.umask(before)
        assert stat.S_IMODE(folder.place.stat().st_mode) == 0o777 & ~mask
        assert stat.S_IMODE((folder.place / "a").stat().st_mode) == 0o666 & ~mask

    def test_it_is_taken_away_again_where_it_was_made(self, tmp_path):
        folder = LocalFolder(tmp_path / "deep" / "run")
        folder.lock().release()
        assert (tmp_path / "deep" / "run").is_dir()
        folder.remove_if_empty()
        assert list(tmp_path.iterdir()) == []

    def test_but_not_where_it_was_there_or_something_lies_in_it(self, tmp_path):
        (tmp_path / "there").mkdir()
        for name in ("there", "filled"):
            folder = LocalFolder(tmp_path / name)
            folder.lock().release()
            if name == "filled":
                folder.put("a", b"x")
            folder.remove_if_empty()
            assert (tmp_path / name).is_dir()

    def test_a_file_stands_there(self, tmp_path):
        (tmp_path / "file").write_text("x", encoding="utf-8")
        for name in ("file", "file/run"):
            with pytest.raises(RunExists) as caught:
                LocalFolder(tmp_path / name).entries()
            assert str(caught.value) == (
                f"write to {tmp_path / name}: a file stands there, or in the place of a directory "
                "above it. A run is a directory. Choose another directory."
            )

    def test_a_directory_in_the_place_of_a_file(self, folder):
        (folder.place / "run.json").mkdir(parents=True)
        with pytest.raises(RunNotWritable) as caught:
            folder.put("run.json", b"12345")
        assert str(caught.value) == (
            f"write to {folder.path}: run.json: Is a directory, 5 bytes are needed. A run needs a "
            "directory that can be written, and room on its disk. Make room, or choose another "
            "directory; repeat the command: what is finished stays."
        )
        assert caught.value.errno == errno.EISDIR


class TestTheLog:
    def test_records_come_back_and_the_last_of_a_unit_counts(self, folder):
        first, second = record(1), record(0)
        again = record(1, measuring=None, bytes=6)
        for entry in (first, second, again):
            folder.record(entry)
        assert folder.records() == {0: second, 1: again}
        assert folder.damaged_records() == []

    def test_there_need_be_none(self, folder):
        assert (folder.records(), folder.damaged_records()) == ({}, [])

    def test_a_damaged_line_is_left_out_and_told(self, folder):
        folder.record(record(0))
        whole = (folder.place / "units.log").read_bytes()
        for place in range(len(whole) - 1):
            changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
            (folder.place / "units.log").write_bytes(changed)
            folder.record(record(1))
            assert folder.records() == {1: record(1)}, place
            assert folder.damaged_records()

    def test_a_torn_line_does_not_swallow_the_next(self, folder):
        folder.record(record(0))
        whole = (folder.place / "units.log").read_bytes()
        for end in range(len(whole)):
            (folder.place / "units.log").write_bytes(whole[:end])
            folder.record(record(1))
            kept = {0: record(0)} if end == len(whole) - 1 else {}
            assert folder.records() == kept | {1: record(1)}

    def test_it_can_be_written_anew(self, folder):
        folder.record(record(0))
        folder.record_all([record(2), record(1)])
        assert folder.records() == {1: record(1), 2: record(2)}
        folder.record_all([])
        assert folder.records() == {}

    def test_a_checksum_does_not_make_a_record(self, folder):
        text = b'{"unit": 1}'
        line = hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"
        folder.put("units.log", line)
        assert folder.records() == {}
        assert folder.damaged_records() == ["line 1 is not as it was written"]
