"""Where a run's files lie: the operations that a run needs of a directory or an object store.

Names are relative and use `/`. Every write is whole or not at all, and durable when it returns.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import pyarrow.fs

from lesion.runs.manifest import UnitRecord

LOCK = "run.lock"
"""The file or object by which a process holds a run."""


class Lock(ABC):
    """Held by the one process that writes a run; abstract."""

    @abstractmethod
    def release(self) -> None:
        """Let others write; nothing of the lock stays behind."""


class Folder(ABC):
    """A place for one run's files; abstract."""

    path: str
    """As a person wrote it."""

    @abstractmethod
    def lock(self) -> Lock:
        """Be the only one who writes there.

        Raises:
            RunInUse: another process is, naming it.
            RunNotWritable: nothing can be written there.
        """

    @abstractmethod
    def entries(self) -> set[str]:
        """The names of all that lies directly in it; none where nothing is.

        Raises:
            RunExists: a file stands there.
        """

    @abstractmethod
    def remove_if_empty(self) -> None:
        """Take the place itself away if it was made by this object and nothing lies in it."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: there is none.
            RunDamaged: it cannot be read.
        """

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; whether it was written. The first of several wins.

        Whichever it is, the file is durable when this returns.
        """

    @abstractmethod
    def put(self, name: str, content: bytes) -> None:
        """Write a file, in the place of one that is there."""

    @abstractmethod
    def sizes(self, under: str = "") -> dict[str, int]:
        """The files directly in a folder of it by name, with their sizes in bytes."""

    @abstractmethod
    def move(self, name: str, new: str) -> None:
        """Give a file another name.

        Raises:
            FileNotFoundError: there is none.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file, if there is one; durable when the next file of its folder is written."""

    @abstractmethod
    def sweep(self) -> None:
        """Remove what writes that did not come to their end left behind; the rest is durable."""

    @abstractmethod
    def arrow(self, names: Sequence[str]) -> tuple[pyarrow.fs.FileSystem, list[str]]:
        """The same files as Arrow reads them: a file system, and their paths in it."""

    @abstractmethod
    def record(self, entry: UnitRecord) -> None:
        """Write down that a unit is finished."""

    def record_all(self, entries: Sequence[UnitRecord]) -> None:
        """Write down that these units are finished, whatever was written down before."""
        for entry in entries:
            self.record(entry)

    @abstractmethod
    def records(self) -> dict[int, UnitRecord]:
        """The finished units that are written down, by number; what is damaged is left out."""

    def unfinished(self) -> list[str]:
        """The names in `tmp` of writes that did not come to their end."""
        return []

    def damaged_records(self) -> list[str]:
        """What is written down of finished units and cannot be used, in words."""
        return []
