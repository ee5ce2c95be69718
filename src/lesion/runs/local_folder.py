"""A run in a directory here.

A file is committed in steps, so that at every moment there is either nothing of its name or all of
it, whatever dies, the machine included:

1. write `tmp/<name>.<pid>.<random>`, which nobody else has (O_EXCL);
2. fsync it, and read it back;
3. give it its name: by a link, which fails where the name is taken, so that the first wins;
4. fsync the directory, so that the name is durable as well.

`units.log` holds one line a finished unit, each with its own checksum: a torn or flipped line is
left out, and its unit is found again by its shard. `run.lock` is held by the process that writes,
and names it (`runs/file_lock.py`).
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow.fs
from pydantic import ValidationError

from lesion.errors import InvalidChoice, LesionError, RunDamaged, RunExists, RunNotWritable
from lesion.runs.disk import Disk
from lesion.runs.file_lock import FileLock
from lesion.runs.folder import LOCK, Folder
from lesion.runs.manifest import UnitRecord

LOG, UNFINISHED = "units.log", "tmp"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_NOTHING_THERE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
_UNFINISHED_NAME = re.compile(r".+\.\d+\.[0-9a-f]{8}", re.DOTALL)


class LocalFolder(Folder):
    """A directory; made when something is written to it. `disk` is replaced by tests.

    Raises:
        InvalidChoice: no directory can have that name.
    """

    def __init__(self, path: Path, disk: Disk | None = None) -> None:
        self.path = str(path)
        self.disk = disk or Disk()
        self._made: list[Path] = []
        try:
            self.place = path.resolve()
        except (OSError, ValueError, RuntimeError) as error:
            raise InvalidChoice(
                f"run {self.path!r}",
                f"there can be no such directory ({error})",
                "A run is a directory",
                "Choose another directory",
            ) from None

    def lock(self) -> FileLock:
        with self._writing(LOCK, b""):
            self._make(self.place)
            return FileLock(self.disk, self.place / LOCK, self.path)

    def entries(self) -> set[str]:
        try:
            return {path.name for path in self.place.iterdir()}
        except FileNotFoundError:
            return set()
        except NotADirectoryError:
            raise RunExists(
                f"write to {self.path}",
                "a file stands there, or in the place of a directory above it",
                "A run is a directory",
                "Choose another directory",
            ) from None
        except OSError as error:
            raise self._not_writable(error.strerror or str(error), error.errno) from error

    def remove_if_empty(self) -> None:
        with contextlib.suppress(OSError):
            (self.place / UNFINISHED).rmdir()
        for directory in reversed(self._made):
            with contextlib.suppress(OSError):
                directory.rmdir()

    def read(self, name: str) -> bytes:
        try:
            return self.disk.read(self.place / name)
        except OSError as error:
            reason = error.strerror or str(error)
            if error.errno in _NOTHING_THERE:
                raise FileNotFoundError(error.errno, reason) from None
            raise RunDamaged(
                f"open {self.path}",
                f"{name} cannot be read ({reason})",
                "Every file of a run can be read",
                "Check the disk, and your rights there",
            ) from error

    def create(self, name: str, content: bytes) -> bool:
        with self._written(name, content) as written:
            new = self._link(written, self.place / name)
            # Also where the file was there: who gave it its name may have died before this.
            self.disk.sync_directory((self.place / name).parent)
        return new

    def put(self, name: str, content: bytes) -> None:
        with self._written(name, content) as written:
            self.disk.replace(written, self.place / name)
            self.disk.sync_directory((self.place / name).parent)

    def sizes(self, under: str = "") -> dict[str, int]:
        try:
            with os.scandir(self.place / under) as entries:
                return {
                    entry.name: entry.stat(follow_symlinks=False).st_size
                    for entry in entries
                    if entry.is_file(follow_symlinks=False)
                }
        except (FileNotFoundError, NotADirectoryError):
            return {}

    def move(self, name: str, new: str) -> None:
        if not (self.place / name).exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        with self._writing(new, b""):
            self._make((self.place / new).parent)
            self.disk.replace(self.place / name, self.place / new)
            self.disk.sync_directory((self.place / new).parent)
            self.disk.sync_directory((self.place / name).parent)

    def remove(self, name: str) -> None:
        with self._writing(name, b""), contextlib.suppress(FileNotFoundError):
            self.disk.remove(self.place / name)

    def sweep(self) -> None:
        with self._writing(UNFINISHED, b""):
            for name in self.unfinished():
                with contextlib.suppress(FileNotFoundError):
                    self.disk.remove(self.place / UNFINISHED / name)
            # Who made these directories and names may have died before they were durable.
            for directory in [*self.place.iterdir(), self.place]:
                if directory.is_dir() and not directory.is_symlink():
                    self.disk.sync_directory(directory)
        for directory in self.place.parents:
            with contextlib.suppress(OSError):
                self.disk.sync_directory(directory)

    def unfinished(self) -> list[str]:
        return [name for name in self.sizes(UNFINISHED) if _UNFINISHED_NAME.fullmatch(name)]

    def arrow(self, names: Sequence[str]) -> tuple[pyarrow.fs.FileSystem, list[str]]:
        return pyarrow.fs.LocalFileSystem(), [str(self.place / name) for name in names]

    def record(self, entry: UnitRecord) -> None:
        line = _line(entry)
        with self._writing(LOG, line):
            self._make(self.place)
            new = not (self.place / LOG).exists()
            file = self.disk.open_end(self.place / LOG)
            try:
                # What a write that was cut off left behind must not swallow this line.
                end = os.lseek(file, 0, os.SEEK_END)
                torn = end > 0 and os.pread(file, 1, end - 1) != b"\n"
                self.disk.write(file, b"\n" + line if torn else line)
                self.disk.sync(file)
            finally:
                self.disk.close(file)
            if new:
                self.disk.sync_directory(self.place)

    def record_all(self, entries: Sequence[UnitRecord]) -> None:
        self.put(LOG, b"".join(map(_line, entries)))

    def records(self) -> dict[int, UnitRecord]:
        return {entry.unit: entry for entry in map(entry_of, self._lines()) if entry is not None}

    def damaged_records(self) -> list[str]:
        return [
            f"line {number} is not as it was written"
            for number, line in enumerate(self._lines(), start=1)
            if line and entry_of(line) is None
        ]

    def _lines(self) -> list[bytes]:
        """The lines of `units.log`, whatever they hold."""
        try:
            return self.read(LOG).split(b"\n")
        except FileNotFoundError:
            return []

    def _link(self, written: Path, named: Path) -> bool:
        """Give a file a name unless it is taken; whether it was free."""
        try:
            self.disk.link(written, named)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without links: the lock keeps other writers of a run away.
            if named.exists():
                return False
            self.disk.replace(written, named)
        return True

    @contextlib.contextmanager
    def _written(self, name: str, content: bytes) -> Iterator[Path]:
        """A durable file of that content that has no name yet; it is gone afterwards."""
        with self._writing(name, content):
            self._make((self.place / name).parent)
            self._make(self.place / UNFINISHED)
            own = f"{Path(name).name}.{os.getpid()}.{secrets.token_hex(4)}"
            written = self.place / UNFINISHED / own
            file = self.disk.create(written)
            try:
                try:
                    self.disk.write(file, content)
                    self.disk.sync(file)
                finally:
                    self.disk.close(file)
                if self.disk.read(written) != content:
                    raise _changed(self.path, name)
                yield written
            finally:
                with contextlib.suppress(FileNotFoundError):
                    self.disk.remove(written)

    def _make(self, directory: Path) -> None:
        """A directory and those above it, with durable names."""
        if directory.is_dir():
            return
        if not directory.parent.is_dir():
            self._make(directory.parent)
        self.disk.make_directory(directory)
        self._made.append(directory)
        self.disk.sync_directory(directory.parent)

    @contextlib.contextmanager
    def _writing(self, name: str, content: bytes) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, LesionError):
                raise
            needed = f", {len(content)} bytes are needed" if content else ""
            raise self._not_writable(
                f"{name}: {error.strerror or error}{needed}", error.errno
            ) from error

    def _not_writable(self, found: str, number: int | None = None) -> RunNotWritable:
        error = RunNotWritable(
            f"write to {self.path}",
            found,
            "A run needs a directory that can be written, and room on its disk",
            "Make room, or choose another directory; repeat the command: what is finished stays",
        )
        error.errno = number
        return error


def _line(entry: UnitRecord) -> bytes:
    text = entry.model_dump_json().encode()
    return hashlib.sha256(text).hexdigest()[:16].encode() + b" " + text + b"\n"


def entry_of(line: bytes) -> UnitRecord | None:
    """The record in a line of `units.log`; None where a bit is not as it was written."""
    checksum, _, text = line.partition(b" ")
    if hashlib.sha256(text).hexdigest()[:16].encode() != checksum:
        return None
    try:
        return UnitRecord.model_validate_json(text)
    except ValidationError:
        return None


def _changed(path: str, name: str) -> RunDamaged:
    return RunDamaged(
        f"write to {path}",
        f"{name} reads back as something else than was written",
        "A file is committed when it reads back as it was",
        "Check the disk, or choose another directory",
    )
