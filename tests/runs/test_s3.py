"""Runs on S3, against a server on loopback (`make cluster`): what only a real protocol can show."""

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from object_job import conduct, result

from lesion.errors import RunDamaged, RunInUse, RunNotFound, RunNotWritable, RunUnreachable
from lesion.runs.object_folder import ObjectFolder
from lesion.runs.run import open_run
from lesion.runs.runner import Here

pytestmark = pytest.mark.s3

ROOT = Path(__file__).parents[2]
MOTO = ROOT / ".venv-moto" / "bin" / "python"
UNITS = 4
EXPIRY = 4.0
"""Seconds; the store tells the time in whole ones."""
hosts: set[object] = set()


def _listen(event: str, words: tuple) -> None:
    if event == "socket.connect" and isinstance(words[1], tuple):
        hosts.add(words[1][0])
    if event == "socket.getaddrinfo":
        hosts.add(words[0])


@pytest.fixture(scope="module", autouse=True)
def only_loopback():
    """Every address that this process connects to, or asks the way to, is this machine."""
    sys.addaudithook(_listen)
    yield
    assert hosts, "the hook hears nothing"
    assert hosts <= {"127.0.0.1", b"127.0.0.1"}


@pytest.fixture(scope="module")
def server(only_loopback):
    """The address of an S3 server."""
    if not MOTO.exists():
        pytest.fail(f"{MOTO} is missing: run `make .venv-moto/ready`")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    script = Path(__file__).with_name("moto_one_at_a_time.py")
    log = subprocess.DEVNULL
    with subprocess.Popen([MOTO, script, str(port)], stdout=log, stderr=log) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            for _ in range(300):
                if _answers(address):
                    break
                assert process.poll() is None, "the server ended"
                time.sleep(0.1)
            yield address
        finally:
            process.kill()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/moto-api/", timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def environment(server, monkeypatch):
    """The settings of an S3 program, as a person sets them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def run(environment, server, request):
    """The path of a run in a bucket of its own."""
    bucket = f"bucket-{abs(hash(request.node.nodeid)):x}"
    asked = urllib.request.Request(f"{server}/{bucket}", method="PUT")
    with urllib.request.urlopen(asked):
        return f"s3://{bucket}/some/run"


@pytest.fixture
def quick(monkeypatch, run):
    """A lock is taken over after `EXPIRY`."""
    waits = {"heartbeat_seconds": 0.5, "expiry_seconds": EXPIRY}
    quick = functools.partial(ObjectFolder, **waits)
    monkeypatch.setattr("lesion.runs.object_folder.ObjectFolder", quick)
    return functools.partial(quick, run)


CHILD = """
import functools, os, sys
from lesion.runs import object_folder
object_folder.ObjectFolder = functools.partial(
    object_folder.ObjectFolder, heartbeat_seconds=0.5, expiry_seconds=float(sys.argv[2]))
from object_job import conduct, result
from lesion.runs.runner import Here

def measure(unit, moved):
    if unit.number == int(sys.argv[3]):
        if sys.argv[4] == "kill":
            os.kill(os.getpid(), 9)
        sys.stdout.write("here\\n"); sys.stdout.flush()
        sys.stdin.read()
    return result(unit.number)

conduct(sys.argv[1], 4, Here(measure))
"""


def child(run: str, unit: int, how: str) -> subprocess.Popen:
    """A process that measures up to a unit, and there waits or is killed."""
    places = [*sys.path, str(ROOT / "tests"), str(Path(__file__).parent)]
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, run, str(EXPIRY), str(unit), how],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def silent(lock) -> None:
    """The holder of a lock dies: no more signs of life, and the lock stays."""
    lock._released.set()
    lock._beating.join()


class TestRuns:
    def test_the_same_bytes_as_in_a_directory(self, run, tmp_path):
        conduct(run, UNITS)
        conduct(tmp_path / "run", UNITS)
        here, there = open_run(tmp_path / "run"), open_run(run)
        assert there.table.equals(here.table)
        assert there.prompts == here.prompts
        assert there.complete
        folder = ObjectFolder(run)
        assert folder.entries() == {"run.json", "shards", "commits"}
        for path in (tmp_path / "run" / "shards").iterdir():
            assert folder.read(f"shards/{path.name}") == path.read_bytes()
        filesystem, paths = folder.arrow(["shards/000001.parquet"])
        assert pq.read_table(paths[0], filesystem=filesystem).num_rows == 2

    def test_sql_over_it(self, run):
        conduct(run, UNITS)
        assert open_run(run).query("select count(*) from rows").iloc[0, 0] == 2 * UNITS

    def test_killed_and_gone_on_with(self, run, quick):
        killed = child(run, 2, "kill")
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL
        assert {"run.lock", "run.json"} <= quick().entries()
        assert sorted(quick().records()) == [0, 1]
        time.sleep(EXPIRY + 1.0)
        again = []

        def measure(unit, moved):
            again.append(unit.number)
            return result(unit.number)

        assert conduct(run, UNITS, Here(measure))
        assert again == [2, 3]
        assert open_run(run).complete

    def test_a_flipped_byte_is_set_aside_and_measured_again(self, run):
        conduct(run, UNITS)
        folder = ObjectFolder(run)
        whole = folder.read("shards/000001.parquet")
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 1
        folder.put("shards/000001.parquet", bytes(flipped))
        with pytest.raises(RunDamaged, match=r"not what was written \(SHA-256\)"):
            _ = open_run(run).table
        conduct(run, UNITS)
        assert folder.read("shards/000001.parquet") == whole
        assert folder.read("shards/000001.parquet.bad") == flipped

    def test_listings_of_several_pages(self, run, monkeypatch):
        folder = ObjectFolder(run)
        conduct(run, 1)
        (record,) = folder.records().values()
        many = [record.model_copy(update={"unit": unit}) for unit in range(25)]
        folder.record_all(many)
        monkeypatch.setattr(type(folder.store), "page_size", 10)
        assert list(folder.records().values()) == many
        assert len(folder.sizes("commits")) == 25


class TestConditions:
    def test_of_twenty_at_once_one_wins(self, run):
        folders = [ObjectFolder(run) for _ in range(4)]
        start = threading.Barrier(20)

        def write(number: int) -> bool:
            start.wait()
            return folders[number % 4].create("one", b"%d" % number)

        with ThreadPoolExecutor(20) as pool:
            won = list(pool.map(write, range(20)))
        assert sum(won) == 1
        assert folders[0].read("one") == b"%d" % won.index(True)

    def test_replace_and_delete_only_what_was_seen(self, run):
        store = ObjectFolder(run).store
        first = store.put("key", b"first")
        second = store.replace("key", b"second", first)
        assert second not in {None, first}
        assert store.replace("key", b"third", first) is None
        assert store.replace("nothing", b"third", first) is None
        store.delete("key", first)
        assert store.get("key").content == b"second"
        store.delete("key", second)
        store.delete("key", second)
        with pytest.raises(FileNotFoundError):
            store.get("key")

    def test_move(self, run):
        folder = ObjectFolder(run)
        folder.put("one", b"1")
        folder.move("one", "a/two")
        assert (folder.entries(), folder.read("a/two")) == ({"a"}, b"1")
        with pytest.raises(FileNotFoundError):
            folder.move("one", "two")


class TestLock:
    def test_refused_while_it_beats_and_free_when_its_holder_is_killed(self, run, quick):
        holder = child(run, 1, "wait")
        assert holder.stdout.readline() == "here\n"
        time.sleep(EXPIRY + 1.0)
        with pytest.raises(RunInUse, match=f"process {holder.pid} on {socket.gethostname()}"):
            quick().lock()
        holder.kill()
        holder.communicate()
        assert holder.returncode == -signal.SIGKILL
        time.sleep(EXPIRY + 1.0)
        quick().lock().release()

    def test_of_two_takers_one_gets_it(self, run, monkeypatch):
        taking = functools.partial(ObjectFolder, heartbeat_seconds=100.0, expiry_seconds=0.5)
        silent(taking(run).lock())
        time.sleep(2.0)
        seen = threading.Barrier(2)
        store = type(taking(run).store)
        replace = store.replace

        def together(*words):
            seen.wait(10.0)
            return replace(*words)

        def take(_: int):
            try:
                return taking(run).lock()
            except RunInUse:
                return None

        with monkeypatch.context() as patched, ThreadPoolExecutor(2) as pool:
            patched.setattr(store, "replace", together)
            locks = list(pool.map(take, range(2)))
        # Whoever came second may find the first one's new lock less than half a second old.
        (lock,) = filter(None, locks)
        lock.check()
        lock.release()
        assert ObjectFolder(run).entries() == set()

    def test_a_holder_that_lost_it_stops(self, run, quick):
        slow = quick()
        lock = slow.lock()
        slow.put("run.lock", json.dumps({"id": "x", "pid": 7, "host": "elsewhere"}).encode())
        with pytest.raises(RunInUse, match="taken over \\(by process 7 on elsewhere\\)"):
            lock.check()
        lock.release()
        assert slow.entries() == {"run.lock"}


class TestFailures:
    def test_no_bucket(self, environment):
        with pytest.raises(RunNotFound, match="there is no bucket 'nobodys'"):
            open_run("s3://nobodys/run")
        with pytest.raises(RunUnreachable, match="there is no bucket 'nobodys'"):
            conduct("s3://nobodys/run", 1)
        with pytest.raises(RunNotWritable, match="there is no bucket 'nobodys'"):
            ObjectFolder("s3://nobodys/run").put("one", b"1")

    def test_no_server(self, environment):
        environment.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        begun = time.monotonic()
        with pytest.raises(RunUnreachable) as caught:
            open_run("s3://bucket/run")
        assert time.monotonic() - begun < 30.0
        assert str(caught.value) == (
            "open s3://bucket/run: the store says: Could not connect to the endpoint URL: "
            '"http://127.0.0.1:9/bucket/run/run.json". A run is read from a bucket that is there, '
            "with the right to list and read in it. Check bucket, credentials and network."
        )

    def test_no_credentials(self, environment, run):
        environment.delenv("AWS_ACCESS_KEY_ID")
        environment.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(RunNotWritable, match="the store says: Unable to locate credentials"):
            ObjectFolder(run).put("one", b"1")
