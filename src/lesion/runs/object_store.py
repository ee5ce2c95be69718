"""What a run needs of an object store, and a store in this process's memory.

Objects are whole: a write replaces all of one or nothing. A tag (an ETag) names what an object
holds; a conditional write or deletion happens only where the tag is still the one that was seen,
and the store itself decides that, so that of several exactly one succeeds.
"""

import dataclasses
import hashlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import fsspec

FAILURES = (ConnectionError, NotADirectoryError)
"""What a store raises that refuses or does not answer, and one that has no such bucket."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """An object; `age_seconds` since it was written, by the store's own clock."""

    content: bytes
    tag: str
    age_seconds: float


@dataclasses.dataclass(frozen=True)
class Listing:
    """What lies directly under a prefix: objects with their sizes in bytes, further prefixes."""

    sizes: dict[str, int]
    folders: frozenset[str]


class ObjectStore(ABC):
    """Objects by key; abstract. Every method raises one of `FAILURES` where the store fails."""

    @abstractmethod
    def get(self, key: str) -> Stored:
        """An object.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """The content of those objects that are there, many read at a time."""

    @abstractmethod
    def put(self, key: str, content: bytes) -> str:
        """Write an object, whatever was there; its tag."""

    @abstractmethod
    def put_many(self, contents: Mapping[str, bytes]) -> None:
        """Write objects, many at a time."""

    @abstractmethod
    def create(self, key: str, content: bytes) -> str | None:
        """Write an object unless there is one; its tag, None if there is."""

    @abstractmethod
    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        """Write an object over the one with a tag; its new tag, None if that is not there."""

    @abstractmethod
    def delete(self, key: str, tag: str | None = None) -> None:
        """Remove an object, if there is one; given a tag, only the one with it."""

    @abstractmethod
    def listing(self, prefix: str) -> Listing:
        """What lies directly under a prefix, which ends with `/` or is empty."""

    @abstractmethod
    def filesystem(self) -> Any:
        """The store as fsspec sees it."""

    @abstractmethod
    def full_path(self, key: str) -> str:
        """A key's path in that file system."""


class MemoryStore(ObjectStore):
    """`memory://` of fsspec: for tests, seen by the threads of this process only."""

    _one_at_a_time = threading.RLock()

    def __init__(self, bucket: str) -> None:
        self.bucket = bucket
        self.memory = fsspec.filesystem("memory")

    def get(self, key: str) -> Stored:
        with self._one_at_a_time:
            content = self.memory.cat_file(self.full_path(key))
            written = self.memory.modified(self.full_path(key)).timestamp()
        return Stored(content, _tag(content), time.time() - written)

    def get_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        with self._one_at_a_time:
            return {key: self.get(key).content for key in keys if self._exists(key)}

    def put(self, key: str, content: bytes) -> str:
        with self._one_at_a_time:
            self.memory.pipe_file(self.full_path(key), content)
        return _tag(content)

    def put_many(self, contents: Mapping[str, bytes]) -> None:
        for key, content in contents.items():
            self.put(key, content)

    def create(self, key: str, content: bytes) -> str | None:
        with self._one_at_a_time:
            return None if self._exists(key) else self.put(key, content)

    def replace(self, key: str, content: bytes, tag: str) -> str | None:
        with self._one_at_a_time:
            there = self._exists(key) and self.get(key).tag == tag
            return self.put(key, content) if there else None

    def delete(self, key: str, tag: str | None = None) -> None:
        with self._one_at_a_time:
            if self._exists(key) and tag in {None, self.get(key).tag}:
                self.memory.rm_file(self.full_path(key))

    def listing(self, prefix: str) -> Listing:
        place = self.full_path(prefix).rstrip("/")
        with self._one_at_a_time:
            found = self.memory.ls(place, detail=True) if self.memory.isdir(place) else []
        named = [(each["name"].rpartition("/")[2], each) for each in found]
        return Listing(
            {name: each["size"] for name, each in named if each["type"] == "file"},
            frozenset(name for name, each in named if each["type"] == "directory"),
        )

    def filesystem(self) -> Any:
        return self.memory

    def full_path(self, key: str) -> str:
        return f"/{self.bucket}/{key}"

    def _exists(self, key: str) -> bool:
        found: bool = self.memory.isfile(self.full_path(key))
        return found


def _tag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
