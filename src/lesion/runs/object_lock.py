"""The lock of a run in an object store: an object that names its holder and shows signs of life.

1. The lock is an object that is written only if there is none. It names an id of its own, process,
   host and time.
2. Its holder writes it anew every so often, over the one that it wrote before and no other.
3. A lock that was not written for the expiry, by the store's own clock, is taken over: written over
   exactly the one that was seen. Of several takers the store lets one through.
4. A holder that was taken for dead (a laptop that slept, a network that was away) finds out at its
   next sign of life, or before it next writes down a unit, and stops.

Between a look at the lock and a write lies a moment in which it can be taken over: no store does
both in one step. What such a holder can still do in it is to commit a unit, and the first result of
a unit stays, whoever has it.
"""

import datetime
import json
import os
import secrets
import socket
import threading

from lesion.errors import RunInUse
from lesion.runs.folder import Lock
from lesion.runs.object_store import FAILURES, ObjectStore, Stored

HEARTBEAT_SECONDS, EXPIRY_SECONDS = 20.0, 120.0
_RULE = "One process at a time writes a run"


class ObjectLock(Lock):
    """Held from construction to `release`, unless it is lost.

    Raises:
        RunInUse: another process holds it, naming it.
        FAILURES: of the store.
    """

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        path: str,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        expiry_seconds: float = EXPIRY_SECONDS,
    ) -> None:
        self.store, self.key, self.path = store, key, path
        self.heartbeat_seconds, self.expiry_seconds = heartbeat_seconds, expiry_seconds
        self.id = secrets.token_hex(16)
        self._lost: str | None = None
        self._one_at_a_time = threading.Lock()
        self._released = threading.Event()
        self._tag = self._take()
        self._beating = threading.Thread(target=self._beat, name="lesion-lock", daemon=True)
        self._beating.start()

    def check(self) -> None:
        """Look whether the lock is still held.

        Raises:
            RunInUse: it was taken over.
            FAILURES: of the store.
        """
        with self._one_at_a_time:
            if self._lost is None:
                self._look()
        self.check_unlost()

    def check_unlost(self) -> None:
        """The same by the last sign of life, without a request."""
        if self._lost is not None:
            raise RunInUse(
                f"write to {self.path}",
                f"the lock of this process was taken over ({self._lost})",
                f"{_RULE}, and one without a sign of life for {self.expiry_seconds:g} seconds is "
                "taken for dead",
                "Let the other process go on: what is finished stays",
            )

    def release(self) -> None:
        self._released.set()
        self._beating.join(timeout=5.0)
        if self._lost is None:
            try:
                self.store.delete(self.key, self._tag)
            except FAILURES:
                return  # it expires

    def _take(self) -> str:
        for _ in range(3):
            tag = self.store.create(self.key, self._words())
            if tag is not None:
                return tag
            try:
                there = self.store.get(self.key)
            except FileNotFoundError:
                continue  # let go of in between
            if _holder(there).get("id") == self.id:
                return there.tag  # it was written, and the answer was lost
            if there.age_seconds < self.expiry_seconds:
                raise self._in_use(there)
            tag = self.store.replace(self.key, self._words(), there.tag)
            if tag is not None:
                return tag
        raise RunInUse(
            f"write to {self.path}",
            "other processes take and leave its lock all the time",
            _RULE,
            "Repeat the command",
        )

    def _beat(self) -> None:
        while not self._released.wait(self.heartbeat_seconds):
            with self._one_at_a_time:
                try:
                    tag = self.store.replace(self.key, self._words(), self._tag)
                    if tag is not None:
                        self._tag = tag
                    else:
                        self._look()
                except FAILURES:
                    continue  # until the next one; who writes finds out by itself
                if self._lost is not None:
                    return

    def _look(self) -> None:
        """Find out who holds the lock now."""
        try:
            there = self.store.get(self.key)
        except FileNotFoundError:
            self._lost = "it was removed"
            return
        if _holder(there).get("id") == self.id:
            self._tag = there.tag
        else:
            self._lost = f"by {_owner(there)}"

    def _words(self) -> bytes:
        now = datetime.datetime.now(datetime.UTC).isoformat()
        host = socket.gethostname()
        return json.dumps({"id": self.id, "pid": os.getpid(), "host": host, "time": now}).encode()

    def _in_use(self, there: Stored) -> RunInUse:
        return RunInUse(
            f"write to {self.path}",
            f"another process writes there ({_owner(there)}, last sign of life "
            f"{there.age_seconds:.0f} seconds ago)",
            f"{_RULE}, and one without a sign of life for {self.expiry_seconds:g} seconds is taken "
            "for dead",
            "Wait for it, or end it and repeat the command after that time: what is finished stays",
        )


def _holder(there: Stored) -> dict[str, object]:
    """What a lock says of its holder; nothing where it is damaged."""
    try:
        words = json.loads(there.content)
    except ValueError:
        return {}
    return words if isinstance(words, dict) else {}


def _owner(there: Stored) -> str:
    words = _holder(there)
    if {"pid", "host"} <= words.keys():
        return f"process {words['pid']} on {words['host']}"
    return "which does not say who it is"
