"""Disks on which an operation is the last one, fails, or is undone by a loss of power."""

import contextlib
import errno
import itertools
import os
import random
import signal
from collections.abc import Callable, Collection
from pathlib import Path

from lesion.runs.disk import Disk

STEPS = (
    "create",
    "open_end",
    "write",
    "empty",
    "sync",
    "close",
    "read",
    "link",
    "replace",
    "remove",
    "make_directory",
    "sync_directory",
    "lock",
)
ROOM = ("create", "open_end", "write", "sync", "link", "replace", "make_directory")


class Stepping(Disk):
    """Counts its operations and asks before each whether it may happen; abstract."""

    def __init__(self) -> None:
        self.steps = 0

    counted: Collection[str] = STEPS

    def before(self, torn: Callable[[], object]) -> None:
        """Step number `steps`, from 1, is about to happen; `torn` makes half of it happen."""


def _stepping(name: str) -> Callable[..., object]:
    operation = getattr(Disk, name)

    def step(self: Stepping, *arguments: object) -> object:
        if name not in self.counted:
            return operation(self, *arguments)
        self.steps += 1

        def torn() -> None:
            if name == "write":
                file, content = arguments
                operation(self, file, content[: len(content) // 2])
            elif name == "close":
                operation(self, *arguments)

        self.before(torn)
        return operation(self, *arguments)

    return step


for _name in STEPS:
    setattr(Stepping, _name, _stepping(_name))


class Deadly(Stepping):
    """The process is killed at one step, a write after its first half."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def before(self, torn: Callable[[], object]) -> None:
        if self.steps == self.last:
            torn()
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Stepping):
    """One step fails, or all from it on, a write after its first half; a file is closed anyway.

    Want of room is found only by those that need some.
    """

    def __init__(self, first: int, number: int, for_ever: bool) -> None:
        super().__init__()
        if number == errno.ENOSPC:
            self.counted = ROOM
        self.first, self.number, self.for_ever, self.struck = first, number, for_ever, 0

    def before(self, torn: Callable[[], object]) -> None:
        if self.steps == self.first or (self.for_ever and self.steps > self.first):
            self.struck += 1
            torn()
            raise OSError(self.number, os.strerror(self.number))


class Gone(BaseException):
    """The process or the machine stopped at this step."""


class Volatile(Disk):
    """Remembers what is not durable: content not synced, names in directories not synced.

    The operations happen, so that a process sees its own writes; `lose_power` then makes the
    directory that a machine may find afterwards. Of what was not synced any part may be there, in
    any order: a write, half of it, none, zeros in its place; a name, or not.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.numbers = itertools.count()
        self.now: dict[Path, int] = {}
        self.content: dict[int, bytes] = {}
        self.writes: dict[int, list[tuple[int, bytes] | None]] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.changes: dict[int, list[dict[str, int | None]]] = {}
        self.files: dict[int, tuple[int, int]] = {}
        self.steps, self.last, self.gone = 0, 0, False
        self._found(base)

    def stop_at(self, step: int) -> None:
        """The process that uses it from now on is stopped there."""
        self.steps, self.last, self.gone = 0, step, False

    def stopped(self) -> None:
        """What a process that died had open is closed."""
        for file in self.files:
            with contextlib.suppress(OSError):
                os.close(file)
        self.files.clear()

    def _found(self, path: Path) -> int:
        number = self.now[path] = next(self.numbers)
        if path.is_dir():
            self.names[number] = {child.name: self._found(child) for child in path.iterdir()}
            self.changes[number] = []
        else:
            self.content[number], self.writes[number] = path.read_bytes(), []
        return number

    def _step(self) -> bool:
        self.steps += 1
        if self.gone or self.steps == self.last:
            self.gone = True
            raise Gone

    def _renamed(self, directory: Path, change: dict[str, int | None]) -> None:
        self.changes[self.now[directory]].append(change)

    def _new_file(self, path: Path) -> None:
        number = self.now[path] = next(self.numbers)
        self.content[number], self.writes[number] = b"", []
        self._renamed(path.parent, {path.name: number})

    def create(self, path: Path) -> int:
        self._step()
        file = super().create(path)
        self._new_file(path)
        self.files[file] = (self.now[path], 0)
        return file

    def open_end(self, path: Path) -> int:
        self._step()
        if path not in self.now:
            self._new_file(path)
        file = super().open_end(path)
        self.files[file] = (self.now[path], path.stat().st_size)
        return file

    def write(self, file: int, content: bytes) -> None:
        number, end = self.files[file]
        try:
            self._step()
        except Gone:
            if self.steps == self.last:  # half of it was written
                half = content[: len(content) // 2]
                super().write(file, half)
                self.writes[number].append((end, half))
            raise
        super().write(file, content)
        self.writes[number].append((end, content))
        self.files[file] = (number, end + len(content))

    def empty(self, file: int) -> None:
        self._step()
        super().empty(file)
        number, _ = self.files[file]
        self.writes[number].append(None)
        self.files[file] = (number, 0)

    def sync(self, file: int) -> None:
        self._step()
        number, _ = self.files[file]
        self.content[number] = _written(self.content[number], self.writes[number])
        self.writes[number] = []

    def close(self, file: int) -> None:
        self._step()
        del self.files[file]
        super().close(file)

    def read(self, path: Path) -> bytes:
        self._step()
        return super().read(path)

    def link(self, path: Path, new: Path) -> None:
        self._step()
        super().link(path, new)
        self.now[new] = self.now[path]
        self._renamed(new.parent, {new.name: self.now[new]})

    def replace(self, path: Path, new: Path) -> None:
        self._step()
        super().replace(path, new)
        self.now[new] = self.now.pop(path)
        if path.parent == new.parent:
            self._renamed(new.parent, {path.name: None, new.name: self.now[new]})
        else:
            self._renamed(new.parent, {new.name: self.now[new]})
            self._renamed(path.parent, {path.name: None})

    def remove(self, path: Path) -> None:
        self._step()
        super().remove(path)
        del self.now[path]
        self._renamed(path.parent, {path.name: None})

    def make_directory(self, path: Path) -> None:
        self._step()
        super().make_directory(path)
        number = self.now[path] = next(self.numbers)
        self.names[number], self.changes[number] = {}, []
        self._renamed(path.parent, {path.name: number})

    def sync_directory(self, path: Path) -> None:
        self._step()
        if path in self.now:  # not those above the base
            number = self.now[path]
            for change in self.changes[number]:
                self.names[number] = _renamed(self.names[number], change)
            self.changes[number] = []

    def lock(self, file: int) -> None:
        self._step()
        super().lock(file)

    def lose_power(self, rng: random.Random, after: Path) -> None:
        """Make the directory that the machine finds when it comes up again."""
        self.stopped()
        self._survive(self.now[self.base], rng, after)

    def _survive(self, number: int, rng: random.Random, path: Path) -> None:
        if number in self.content:
            path.write_bytes(_survived(self.content[number], self.writes[number], rng))
            return
        path.mkdir(exist_ok=True)
        names, share = self.names[number], rng.choice((0.0, 0.5, 0.9, 1.0))
        for change in self.changes[number]:
            if rng.random() < share:
                names = _renamed(names, change)
        for name, child in names.items():
            self._survive(child, rng, path / name)


class WithoutSync(Volatile):
    """Believes that what was written is durable; for files, for directories, or both."""

    def __init__(self, base: Path, ignored: tuple[str, ...]) -> None:
        super().__init__(base)
        self.ignored = ignored

    def sync(self, file: int) -> None:
        if "sync" in self.ignored:
            self._step()
        else:
            super().sync(file)

    def sync_directory(self, path: Path) -> None:
        if "sync_directory" in self.ignored:
            self._step()
        else:
            super().sync_directory(path)


def _renamed(names: dict[str, int], change: dict[str, int | None]) -> dict[str, int]:
    return {name: number for name, number in (names | change).items() if number is not None}


def _written(content: bytes, writes: list[tuple[int, bytes] | None]) -> bytes:
    """Content after some writes, None taking all of it away; what lies before a write is zero."""
    after = bytearray(content)
    for write in writes:
        if write is None:
            after.clear()
            continue
        start, new = write
        after.extend(bytes(max(0, start - len(after))))
        after[start : start + len(new)] = new
    return bytes(after)


def _survived(content: bytes, writes: list[tuple[int, bytes] | None], rng: random.Random) -> bytes:
    """Content when some of the writes came through, some in part, and some as zeros."""
    came: list[tuple[int, bytes] | None] = []
    for write in writes:
        fate = rng.choice(("lost", "whole", "torn", "zeros"))
        if fate == "lost":
            continue
        if write is None or fate == "whole":
            came.append(write)
            continue
        start, new = write
        cut = rng.randrange(len(new) + 1)
        came.append((start, new[:cut] if fate == "torn" else new[:cut] + bytes(len(new) - cut)))
    rng.shuffle(came)
    return _written(content, came)
