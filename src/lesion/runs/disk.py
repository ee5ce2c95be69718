"""The few operations on files that a run is made of, each one step.

They stand apart so that a test can let any of them be the last, or lose what was not synced.
"""

import fcntl
import os
from pathlib import Path

_DIRECTORY = getattr(os, "O_DIRECTORY", 0)


class Disk:
    """The operating system's own."""

    def create(self, path: Path) -> int:
        """A new file, open for writing; there must be none of that name."""
        return os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)

    def open_end(self, path: Path) -> int:
        """A file open for appending, made if there is none."""
        return os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o666)

    def write(self, file: int, content: bytes) -> None:
        """Write all of it."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file, rest) :]

    def empty(self, file: int) -> None:
        """Take its content away."""
        os.ftruncate(file, 0)

    def sync(self, file: int) -> None:
        """Return when what was written is durable."""
        os.fsync(file)

    def close(self, file: int) -> None:
        """Give the file back."""
        os.close(file)

    def read(self, path: Path) -> bytes:
        """The whole content."""
        return path.read_bytes()

    def link(self, path: Path, new: Path) -> None:
        """A second name for a file; there must be none of that name."""
        os.link(path, new)

    def replace(self, path: Path, new: Path) -> None:
        """Another name for a file, whatever had that name."""
        path.replace(new)

    def remove(self, path: Path) -> None:
        """Take a name away."""
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """A new directory, or the one that is there."""
        path.mkdir(exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Return when the names in a directory are durable."""
        directory = os.open(path, os.O_RDONLY | _DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def lock(self, file: int) -> None:
        """Hold a file against every other process.

        Raises:
            BlockingIOError: another holds it.
        """
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
