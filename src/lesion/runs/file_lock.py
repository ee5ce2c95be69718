"""The lock of a run in a directory: a file that one process holds (`flock`) and that names it.

Its name is taken away when it is let go. So whoever got hold of a file looks whether it still has
the name: two could hold two files otherwise, each the only one. The system lets go of it when a
process dies; the name and what it says stay then, and mean nothing.
"""

import contextlib
import json
import os
import socket
import time
from pathlib import Path

from lesion.errors import RunInUse
from lesion.runs.disk import Disk
from lesion.runs.folder import Lock

_PATIENCE_SECONDS = 1.0
"""How long a process that holds the lock may take to say who it is, or to be gone."""


class FileLock(Lock):
    """Held from construction to `release`.

    Raises:
        RunInUse: another process holds it, naming it.
        OSError: it cannot be written or locked.
    """

    def __init__(self, disk: Disk, file_path: Path, path: str) -> None:
        self.disk, self.file_path = disk, file_path
        patience = time.monotonic() + _PATIENCE_SECONDS
        while not self._taken():
            owner = _owner(file_path)
            if owner is not None or time.monotonic() > patience:
                raise RunInUse(
                    f"write to {path}",
                    f"another process writes there ({owner or 'it has not said who it is'})",
                    "One process at a time writes a run",
                    "Wait for it, or end it and repeat the command: what is finished stays",
                )
            time.sleep(0.01)
        with contextlib.ExitStack() as stack:
            stack.callback(self.disk.close, self.file)
            self.disk.empty(self.file)
            own = {"pid": os.getpid(), "host": socket.gethostname()}
            self.disk.write(self.file, json.dumps(own).encode())
            stack.pop_all()

    def _taken(self) -> bool:
        self.file_path.parent.mkdir(parents=True, exist_ok=True)  # who let go may have removed it
        try:
            self.file = self.disk.open_end(self.file_path)
        except FileNotFoundError:
            return False
        with contextlib.ExitStack() as stack:
            stack.callback(self.disk.close, self.file)
            with contextlib.suppress(BlockingIOError):
                self.disk.lock(self.file)
                if _is_at(self.file, self.file_path):
                    stack.pop_all()
                    return True
        return False

    def release(self) -> None:
        with contextlib.suppress(OSError):  # what was written is durable already
            self.disk.remove(self.file_path)
        with contextlib.suppress(OSError):
            self.disk.close(self.file)


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file still has a name."""
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file), path.stat())
    return False


def _owner(lock: Path) -> str | None:
    """The living process that holds a lock, in words; None as long as the lock does not say."""
    try:
        owner = json.loads(lock.read_bytes())
        pid, host = int(owner["pid"]), str(owner["host"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if host == socket.gethostname():
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None  # it died, and whoever holds the lock now has not written yet
        except PermissionError:
            pass
    return f"process {pid} on {host}"
