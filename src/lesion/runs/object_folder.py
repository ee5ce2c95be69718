"""A run in an object store, `s3://bucket/run`; what holds there, and what does not.

Written before it counts: a write is one request, whole and durable when the store answers; shards
and the lock are written under a condition (`If-None-Match: *`, `If-Match`), so that the first of
several wins. That is what S3 does (since 2024) and what a store that speaks its protocol must do:
one that ignores the conditions lets a second result replace an equal first one, and two processes
hold one lock. What was created is read back and compared.

There is no log, since objects cannot be appended to: a finished unit has an object of its own in
`commits/`, with its own checksum, and what is finished is what a listing of them gives. A damaged
one is left out, and its unit is found again by its shard.

The lock is an object with an owner and a sign of life (`runs/object_lock.py`): 20 seconds apart,
taken over after 120 without one. It keeps two runs apart that mean well; who has the right to write
to the bucket can do anything.

Giving a file another name is a copy and a deletion. If only the first comes about there are two,
and the damaged one is set aside again. Nothing here is ever written in parts, so nothing unfinished
stays behind.

`memory://name/run` is the same in this process's memory, for tests.
"""

import contextlib
import errno
import json
import re
from collections.abc import Iterator, Sequence

import pyarrow.fs

from lesion.errors import InvalidChoice, RunDamaged, RunNotWritable, RunUnreachable
from lesion.runs.folder import LOCK, Folder
from lesion.runs.manifest import UnitRecord, digest
from lesion.runs.object_lock import EXPIRY_SECONDS, HEARTBEAT_SECONDS, ObjectLock
from lesion.runs.object_store import FAILURES, MemoryStore, ObjectStore

COMMITS = "commits"
_PATH = re.compile(
    r"(?P<scheme>s3|memory)://(?P<bucket>[A-Za-z0-9][A-Za-z0-9._-]*)(?:/+(?P<place>.*))?", re.DOTALL
)


class ObjectFolder(Folder):
    """A prefix of the keys in a bucket.

    Raises:
        InvalidChoice: no path of an object store.
        RunNotWritable: the library for it is not installed.
    """

    def __init__(
        self,
        path: str,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:
        self.path = path
        self.heartbeat_seconds, self.expiry_seconds = heartbeat_seconds, expiry_seconds
        found = _PATH.fullmatch(path)
        if found is None:
            raise InvalidChoice(
                f"run {re.sub('//.*@', '//…@', path)!r}",  # a secret stays one
                "no bucket can be meant by that",
                "A run in an object store is s3://BUCKET/NAME, without credentials",
                "Put credentials into the environment (AWS_ACCESS_KEY_ID, …)",
            )
        self.prefix = "/".join([*filter(None, (found["place"] or "").split("/")), ""]).lstrip("/")
        self.store = _store(found["scheme"], found["bucket"], path)
        self._lock: ObjectLock | None = None

    def lock(self) -> ObjectLock:
        with self._writing():
            self._lock = ObjectLock(
                self.store,
                self._key(LOCK),
                self.path,
                self.heartbeat_seconds,
                self.expiry_seconds,
            )
        return self._lock

    def entries(self) -> set[str]:
        with self._reading():
            found = self.store.listing(self.prefix)
        return found.sizes.keys() | found.folders

    def remove_if_empty(self) -> None:
        """Nothing: a place without objects is none."""

    def read(self, name: str) -> bytes:
        with self._reading():
            try:
                return self.store.get(self._key(name)).content
            except FileNotFoundError:
                raise FileNotFoundError(errno.ENOENT, "there is no such object") from None
            except NotADirectoryError as error:
                raise FileNotFoundError(errno.ENOENT, error.strerror) from None

    def create(self, name: str, content: bytes) -> bool:
        with self._writing():
            if self.store.create(self._key(name), content) is None:
                return False
            with contextlib.suppress(FileNotFoundError):
                if self.store.get(self._key(name)).content == content:
                    return True
        raise RunDamaged(
            f"write to {self.path}",
            f"{name} reads back as something else than was written",
            "A file is committed when it reads back as it was",
            "Repeat the command, and look for who else writes there",
        )

    def put(self, name: str, content: bytes) -> None:
        with self._writing():
            self.store.put(self._key(name), content)

    def sizes(self, under: str = "") -> dict[str, int]:
        with self._reading():
            return self.store.listing(self._key(f"{under}/" if under else "")).sizes

    def move(self, name: str, new: str) -> None:
        with self._writing():
            there = self.store.get(self._key(name))
            self.store.put(self._key(new), there.content)
            self.store.delete(self._key(name), there.tag)

    def remove(self, name: str) -> None:
        with self._writing():
            self.store.delete(self._key(name))

    def sweep(self) -> None:
        """Nothing: no write leaves anything unfinished behind."""

    def arrow(self, names: Sequence[str]) -> tuple[pyarrow.fs.FileSystem, list[str]]:
        filesystem = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(self.store.filesystem()))
        return filesystem, [self.store.full_path(self._key(name)) for name in names]

    def record(self, entry: UnitRecord) -> None:
        self.record_all([entry])

    def record_all(self, entries: Sequence[UnitRecord]) -> None:
        with self._writing():
            if self._lock is not None:
                self._lock.check()
            self.store.put_many(
                {self._key(f"{COMMITS}/{entry.unit:06d}.json"): _words(entry) for entry in entries}
            )

    def records(self) -> dict[int, UnitRecord]:
        names = [name for name in self.sizes(COMMITS) if name.endswith(".json")]
        with self._reading():
            found = self.store.get_many([self._key(f"{COMMITS}/{name}") for name in names])
        entries = [entry for content in found.values() if (entry := _entry(content)) is not None]
        return {entry.unit: entry for entry in sorted(entries, key=lambda entry: entry.unit)}

    def _key(self, name: str) -> str:
        return self.prefix + name

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Failures of the store while something is written; a lost lock ends it before."""
        if self._lock is not None:
            self._lock.check_unlost()
        try:
            yield
        except FAILURES as error:
            raise RunNotWritable(
                f"write to {self.path}",
                f"the store says: {error.strerror or error}",
                "A run needs a bucket that is there, and the right to list, read, write and delete "
                "in it",
                "Check bucket, credentials and network, then repeat the command: what is finished "
                "stays",
            ) from error

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise RunUnreachable(
                f"open {self.path}",
                f"the store says: {error.strerror or error}",
                "A run is read from a bucket that is there, with the right to list and read in it",
                "Check bucket, credentials and network",
            ) from error


def _store(scheme: str, bucket: str, path: str) -> ObjectStore:
    if scheme == "memory":
        return MemoryStore(bucket)
    try:
        from lesion.runs.s3_store import S3Store  # noqa: PLC0415 (s3fs need not be installed)
    except ImportError as error:
        raise RunNotWritable(
            f"open {path}",
            f"the package {error.name or 's3fs'} is not installed",
            "A run in an object store needs s3fs",
            'Install it: pip install "lesion[s3]"',
        ) from error
    return S3Store(bucket)


def _words(entry: UnitRecord) -> bytes:
    """The object of a record: its words, and a checksum over them."""
    words = json.loads(entry.model_dump_json())
    return json.dumps(words | {"checksum": digest(words)}).encode()


def _entry(content: bytes) -> UnitRecord | None:
    """The record in an object; None where a bit is not as it was written."""
    try:
        words = json.loads(content)
        checksum = words.pop("checksum")
        if digest(words) != checksum:
            return None
        return UnitRecord.model_validate_json(json.dumps(words))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
