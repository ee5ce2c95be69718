"""Runs in an object store, tried in memory: no network, every law of the store and the lock."""

import errno
import functools
import json
import os
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pyarrow.parquet as pq
import pytest
from object_job import asked, conduct, open_units, result

from lesion.errors import (
    InvalidChoice,
    RunDamaged,
    RunDiffers,
    RunInUse,
    RunNotFound,
    RunNotWritable,
    RunUnreachable,
)
from lesion.runs import opening
from lesion.runs.object_folder import ObjectFolder
from lesion.runs.object_store import MemoryStore
from lesion.runs.run import open_run
from lesion.runs.runner import Here, Watch, run_units
from lesion.runs.store import claim

RUN = "memory://bucket/some/run"
UNITS = 4


@pytest.fixture(autouse=True)
def memory():
    """The file system in memory, empty."""
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pseudo_dirs[:] = [""]
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def folder():
    """A place in it."""
    return ObjectFolder(RUN)


@pytest.fixture
def quick(monkeypatch):
    """Every lock shows a sign of life each 20 ms and is taken over after 500 ms without."""
    waits = {"heartbeat_seconds": 0.02, "expiry_seconds": 0.5}
    monkeypatch.setattr(
        "lesion.runs.object_folder.ObjectFolder", functools.partial(ObjectFolder, **waits)
    )
    return functools.partial(ObjectFolder, RUN, **waits)


def flip(memory, name: str, at: int = -200) -> None:
    """Change one bit of an object."""
    content = bytearray(memory.cat_file(f"/bucket/some/run/{name}"))
    content[at] ^= 1
    memory.pipe_file(f"/bucket/some/run/{name}", bytes(content))


def silent(lock) -> None:
    """The holder of a lock dies: no more signs of life, and the lock stays."""
    lock._released.set()
    lock._beating.join()


def two_takers(monkeypatch, replace) -> list:
    """The locks of two who find the same dead one, and write over it at the same time."""
    taking = functools.partial(ObjectFolder, RUN, heartbeat_seconds=1000.0, expiry_seconds=0.05)
    silent(taking().lock())
    time.sleep(0.1)
    seen = threading.Barrier(2)

    def together(*words):
        seen.wait(10.0)
        return replace(*words)

    def take(_: int):
        try:
            return taking().lock()
        except RunInUse:
            return None

    with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
        patched.setattr(MemoryStore, "replace", together)
        return list(pool.map(take, range(2)))


class TestObjects:
    def test_the_first_of_several_wins(self, folder):
        assert folder.create("a/one", b"first")
        assert not folder.create("a/one", b"second")
        assert folder.read("a/one") == b"first"

    def test_of_twenty_at_once_one_wins(self, folder):
        start = threading.Barrier(20)

        def write(number: int) -> bool:
            start.wait()
            return folder.create("one", b"%d" % number)

        with ThreadPoolExecutor(20) as pool:
            won = list(pool.map(write, range(20)))
        assert sum(won) == 1
        assert folder.read("one") == b"%d" % won.index(True)

    def test_put_replaces(self, folder):
        folder.put("one", b"first")
        folder.put("one", b"second")
        assert folder.read("one") == b"second"

    def test_what_lies_there(self, folder):
        assert folder.entries() == set()
        assert folder.sizes() == folder.sizes("a") == {}
        for name in ("one", "a/two", "a/three", "a/b/four", "ab/five"):
            folder.put(name, name.encode())
        ObjectFolder("memory://bucket/some/runner").put("one", b"the neighbour's")
        assert folder.entries() == {"one", "a", "ab"}
        assert folder.sizes() == {"one": 3}
        assert folder.sizes("a") == {"two": 5, "three": 7}

    def test_move_and_remove(self, folder):
        folder.put("one", b"1")
        folder.move("one", "a/two")
        assert (folder.entries(), folder.read("a/two")) == ({"a"}, b"1")
        folder.remove("a/two")
        folder.remove("a/two")
        folder.sweep()
        folder.remove_if_empty()
        assert folder.sizes("a") == {}
        for moving in (lambda: folder.move("one", "two"), lambda: folder.read("one")):
            with pytest.raises(FileNotFoundError):
                moving()

    def test_a_missing_object_says_so_in_words(self, folder):
        with pytest.raises(FileNotFoundError) as caught:
            folder.read("one")
        assert caught.value.errno == errno.ENOENT
        assert caught.value.strerror == "there is no such object"

    def test_what_reads_back_otherwise_is_told(self, folder, monkeypatch):
        create = MemoryStore.create
        monkeypatch.setattr(
            MemoryStore, "create", lambda store, key, content: create(store, key, content[:-1])
        )
        with pytest.raises(RunDamaged) as caught:
            folder.create("one", b"first")
        assert str(caught.value) == (
            "write to memory://bucket/some/run: one reads back as something else than was "
            "written. A file is committed when it reads back as it was. Repeat the command, and "
            "look for who else writes there."
        )

    def test_arrow_reads_them(self):
        conduct(RUN, 1)
        filesystem, (path,) = ObjectFolder(RUN).arrow(["shards/000000.parquet"])
        assert pq.read_table(path, filesystem=filesystem).num_rows == 2

    @pytest.mark.parametrize("path", ["memory://bucket/run/", "memory://bucket//run"])
    def test_slashes_too_many_mean_the_same(self, path):
        ObjectFolder("memory://bucket/run").put("one", b"1")
        assert ObjectFolder(path).read("one") == b"1"

    def test_a_whole_bucket(self):
        ObjectFolder("memory://bucket").put("one", b"1")
        assert ObjectFolder("memory://bucket/").entries() == {"one"}


class TestRecords:
    def test_one_object_a_unit(self, folder):
        conduct(RUN, UNITS)
        assert sorted(folder.sizes("commits")) == [f"{unit:06d}.json" for unit in range(UNITS)]
        assert sorted(folder.records()) == list(range(UNITS))

    @pytest.mark.parametrize(
        "content", [b"", b"{", b"[]", b"null", b"{}", b'{"checksum": 1}', b"\xff", b'"text"']
    )
    def test_what_is_none_is_left_out(self, folder, content):
        conduct(RUN, UNITS)
        folder.put("commits/000001.json", content)
        assert sorted(folder.records()) == [0, 2, 3]

    def test_every_flipped_byte_is_noticed(self, memory, folder):
        conduct(RUN, 1)
        (record,) = folder.records().values()
        for at in range(folder.sizes("commits")["000000.json"]):
            flip(memory, "commits/000000.json", at)
            assert folder.records() in ({}, {0: record}), at  # or a blank that says nothing
            flip(memory, "commits/000000.json", at)
        assert folder.records() == {0: record}

    def test_a_lost_one_is_written_again(self, folder):
        conduct(RUN, UNITS)
        folder.remove("commits/000001.json")
        folder.remove("commits/000002.json")
        assert conduct(RUN, UNITS)
        assert sorted(folder.records()) == list(range(UNITS))


class TestRuns:
    def test_the_same_run_as_in_a_directory(self, tmp_path, folder):
        conduct(RUN, UNITS)
        conduct(tmp_path / "run", UNITS)
        here, there = open_run(tmp_path / "run"), open_run(RUN)
        assert there.table.equals(here.table)
        assert there.prompts == here.prompts
        assert there.manifest == here.manifest
        assert there.complete
        for path in (tmp_path / "run" / "shards").iterdir():
            assert folder.read(f"shards/{path.name}") == path.read_bytes()

    def test_the_lock_is_gone_afterwards(self, folder):
        conduct(RUN, UNITS)
        assert folder.entries() == {"run.json", "shards", "commits"}

    def test_nothing_begun_leaves_nothing(self, folder):
        with claim(RUN):
            assert folder.entries() == {"run.lock"}
        assert folder.entries() == set()

    def test_interrupted_and_gone_on_with(self, folder):
        again = []

        def measure(unit, moved):
            again.append(unit.number)
            if unit.number == 2 and again.count(2) == 1:
                raise KeyboardInterrupt
            return result(unit.number)

        units = functools.partial(open_units, UNITS)
        for attempt in range(2):
            with claim(RUN) as writer:
                assert writer.begin(asked(UNITS)) == bool(attempt)
                if attempt == 0:
                    with pytest.raises(KeyboardInterrupt):
                        run_units(writer, units, Here(measure), Watch())
                else:
                    run_units(writer, units, Here(measure), Watch())
        assert again == [0, 1, 2, 2, 3]
        assert open_run(RUN).complete

    def test_a_flipped_byte_is_set_aside_and_measured_again(self, memory, folder):
        conduct(RUN, UNITS)
        whole = folder.read("shards/000001.parquet")
        flip(memory, "shards/000001.parquet")
        with pytest.raises(RunDamaged, match=r"it is not what was written \(SHA-256\)"):
            _ = open_run(RUN).table
        conduct(RUN, UNITS)
        assert folder.read("shards/000001.parquet") == whole
        assert folder.read("shards/000001.parquet.bad") != whole

    def test_a_damaged_manifest_is_rebuilt(self, memory, folder):
        conduct(RUN, UNITS)
        flip(memory, "run.json", 100)
        assert conduct(RUN, UNITS)
        assert {"run.json", "run.json.bad"} <= folder.entries()

    def test_overwritten(self, folder):
        conduct(RUN, UNITS)
        with claim(RUN) as writer, pytest.raises(RunDiffers):
            writer.begin(asked(UNITS + 1, experiment="sweep", plan={"site": "post"}))
        assert not conduct(RUN, 2, overwrite=True)
        assert sorted(folder.sizes("shards")) == ["000000.parquet", "000001.parquet"]
        assert sorted(folder.sizes("commits")) == ["000000.json", "000001.json"]

    def test_no_run(self):
        with pytest.raises(RunNotFound) as caught:
            open_run(RUN)
        assert str(caught.value) == (
            "open memory://bucket/some/run: run.json cannot be read (there is no such object). A "
            "run is a directory with run.json and shards/*.parquet. Check the path."
        )


class TestLock:
    def test_a_second_is_refused(self, folder):
        lock = folder.lock()
        with pytest.raises(RunInUse) as caught:
            ObjectFolder(RUN).lock()
        lock.release()
        assert str(caught.value) == (
            f"write to memory://bucket/some/run: another process writes there (process "
            f"{os.getpid()} on {socket.gethostname()}, last sign of life 0 seconds ago). One "
            "process at a time writes a run, and one without a sign of life for 120 seconds is "
            "taken for dead. Wait for it, or end it and repeat the command after that time: what "
            "is finished stays."
        )
        ObjectFolder(RUN).lock().release()

    def test_it_says_who_holds_it(self, folder):
        lock = folder.lock()
        words = json.loads(folder.read("run.lock"))
        lock.release()
        assert (words["pid"], words["host"]) == (os.getpid(), socket.gethostname())
        assert set(words) == {"id", "pid", "host", "time"}

    def test_signs_of_life_keep_it(self, quick):
        lock = quick().lock()
        first = quick().read("run.lock")
        time.sleep(1.2)  # twice the expiry
        with pytest.raises(RunInUse, match="another process writes there"):
            quick().lock()
        assert quick().read("run.lock") != first
        lock.check()
        lock.release()
        assert quick().entries() == set()

    def test_a_dead_one_is_refused_before_the_expiry_and_taken_over_after(self, quick):
        dead = quick().lock()
        silent(dead)
        with pytest.raises(RunInUse):
            quick().lock()
        time.sleep(0.6)
        quick().lock().release()

    def test_a_damaged_one_expires_as_well(self, quick):
        quick().put("run.lock", b"\0\0")
        with pytest.raises(RunInUse, match="which does not say who it is"):
            quick().lock()
        time.sleep(0.6)
        quick().lock().release()

    def test_of_two_takers_one_gets_it(self, monkeypatch):
        """Both have seen the same dead lock before either writes."""
        for _ in range(10):
            (lock,) = filter(None, two_takers(monkeypatch, MemoryStore.replace))
            lock.check()
            lock.release()

    def test_without_a_condition_both_would_get_it(self, monkeypatch):
        """What the test above sees in a store that ignores the condition."""
        locks = two_takers(monkeypatch, lambda store, key, content, _: store.put(key, content))
        assert None not in locks

    def test_a_holder_that_lost_it_stops_at_its_next_sign_of_life(self, quick):
        slow = quick()
        lock = slow.lock()
        slow.put("run.lock", json.dumps({"id": "x", "pid": 7, "host": "elsewhere"}).encode())
        lock._beating.join(2.0)
        assert not lock._beating.is_alive()
        with pytest.raises(RunInUse) as caught:
            slow.create("shards/000000.parquet", b"1")
        assert str(caught.value) == (
            "write to memory://bucket/some/run: the lock of this process was taken over (by "
            "process 7 on elsewhere). One process at a time writes a run, and one without a sign "
            "of life for 0.5 seconds is taken for dead. Let the other process go on: what is "
            "finished stays."
        )
        lock.release()
        assert json.loads(slow.read("run.lock"))["id"] == "x", "it is not its own to remove"

    def test_a_holder_that_lost_it_writes_nothing_down(self, folder):
        with claim(RUN) as writer:
            writer.begin(asked(UNITS))
            ObjectFolder(RUN).remove("run.lock")
            with pytest.raises(RunInUse, match=r"\(it was removed\)"):
                writer.commit(result(0))
        assert folder.sizes("commits") == {}
        assert conduct(RUN, UNITS)
        assert sorted(folder.records()) == list(range(UNITS))

    def test_an_answer_that_was_lost_is_no_other_process(self, folder, monkeypatch):
        create = MemoryStore.create
        monkeypatch.setattr(MemoryStore, "create", lambda *words: create(*words) and None)
        lock = folder.lock()
        lock.check()
        lock.release()
        assert folder.entries() == set()


class TestFailures:
    @pytest.fixture
    def failing(self, folder, monkeypatch):
        """A store that fails at everything."""

        def fail(*_: object, **__: object):
            raise ConnectionError("Could not connect to the endpoint URL")

        for name in (
            "get",
            "get_many",
            "put",
            "put_many",
            "create",
            "replace",
            "delete",
            "listing",
        ):
            monkeypatch.setattr(MemoryStore, name, fail)
        return folder

    def test_reading(self, failing):
        for reading in (failing.entries, failing.sizes, failing.records, lambda: failing.read("a")):
            with pytest.raises(RunUnreachable) as caught:
                reading()
            assert not isinstance(caught.value, FileNotFoundError), "or a run would be begun anew"
        assert str(caught.value) == (
            "open memory://bucket/some/run: the store says: Could not connect to the endpoint URL. "
            "A run is read from a bucket that is there, with the right to list and read in it. "
            "Check bucket, credentials and network."
        )

    def test_writing(self, failing):
        for writing in (
            lambda: failing.put("a", b""),
            lambda: failing.create("a", b""),
            lambda: failing.move("a", "b"),
            lambda: failing.remove("a"),
            failing.lock,
        ):
            with pytest.raises(RunNotWritable) as caught:
                writing()
        assert str(caught.value) == (
            "write to memory://bucket/some/run: the store says: Could not connect to the endpoint "
            "URL. A run needs a bucket that is there, and the right to list, read, write and "
            "delete in it. Check bucket, credentials and network, then repeat the command: what is "
            "finished stays."
        )

    def test_a_shard_that_could_not_be_read_is_not_set_aside(self, folder, monkeypatch):
        conduct(RUN, UNITS)
        get = MemoryStore.get

        def fail(store, key):
            if key.endswith("000002.parquet"):
                raise ConnectionError("timed out")
            return get(store, key)

        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "get", fail)
            with pytest.raises(RunUnreachable, match="timed out"):
                conduct(RUN, UNITS)
        assert len(folder.sizes("shards")) == UNITS

    def test_a_lock_outlives_a_store_that_is_away_for_a_while(self, quick, monkeypatch):
        lock = quick().lock()

        def fail(*_: object):
            raise ConnectionError("timed out")

        with monkeypatch.context() as patched:
            patched.setattr(MemoryStore, "replace", fail)
            time.sleep(0.1)
        time.sleep(0.1)
        lock.check()
        lock.release()
        assert quick().entries() == set()

    def test_a_missing_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "s3fs", None)
        monkeypatch.delitem(sys.modules, "lesion.runs.s3_store", raising=False)
        with pytest.raises(RunNotWritable) as caught:
            opening.open_folder("s3://bucket/run")
        assert str(caught.value) == (
            "open s3://bucket/run: the package s3fs is not installed. A run in an object store "
            'needs s3fs. Install it: pip install "lesion[s3]".'
        )

    @pytest.mark.parametrize(
        ("path", "shown"),
        [
            ("http://host/run", "http://host/run"),
            ("s3://", "s3://"),
            ("s3:///run", "s3:///run"),
            ("s3://key:secret@bucket/run", "s3://…@bucket/run"),
        ],
    )
    def test_a_path_that_means_no_bucket(self, path, shown):
        with pytest.raises(InvalidChoice) as caught:
            opening.open_folder(path)
        assert str(caught.value) == (
            f"run {shown!r}: no bucket can be meant by that. A run in an object store is "
            "s3://BUCKET/NAME, without credentials. Put credentials into the environment "
            "(AWS_ACCESS_KEY_ID, …)."
        )
