"""The thread that reads and writes the file of a response cache."""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from aiollm._response_cache.address import Address
from aiollm._response_cache.answers import Answer, encoded, items_of
from aiollm._response_cache.keys import Asked, key_of
from aiollm.errors import ConfigError
from aiollm.types import Item, Target

if TYPE_CHECKING:
    from aiollm._response_cache.database import Database

REST = 30.0
"""Seconds for which a file that failed is left alone: each try may take as long as a timeout."""

AGAIN = 0.1
"""Seconds until answers are written again while another process has the file locked."""

LOCKED = 10.0
"""Seconds after which answers that cannot be written for a lock are dropped."""

ROUND = 64
"""Jobs done in a row before answers are written, and before a fork gets its turn."""

FORKING = 5.0
"""Seconds that a fork waits for what the thread is doing."""

Found: TypeAlias = tuple[Target, list[Item]]


class Lookup(msgspec.Struct, frozen=True):
    """Look for an answer to any of these, in order; without any, only open the file.

    `tell` gets it, None where there is none, or the reason why the file cannot be used at all.
    """

    asked: Sequence[Asked]
    tell: Callable[[Found | None, str], None]


class Store(msgspec.Struct, frozen=True):
    """Keep an answer."""

    asked: Asked
    answer: Answer


class Stop(msgspec.Struct, frozen=True):
    """Write what is left, close the file and end the thread; then call `tell`."""

    tell: Callable[[], None]


Job: TypeAlias = Lookup | Store | Stop


class Worker:
    """Does the jobs of its queue in order, in a thread of its own, for one process.

    What it has not written yet is found, too.
    """

    def __init__(
        self, address: Address, report: Callable[[], Callable[[str], None] | None]
    ) -> None:
        """`report` is a weak reference to what gets the reason when the file cannot be used.

        It is called from the thread, which must not keep alive who is to close it.
        """
        self.jobs: SimpleQueue[Job] = SimpleQueue()
        self.unwritten: dict[bytes, bytes] = {}
        self.process = os.getpid()
        self._address = address
        self._report = report
        self._db: Database | None = None
        self._busy = threading.Lock()
        self._is_paused = False
        self._was_open = False
        self._trouble = ""
        self._rests_until = self._locked_since = self._again_at = 0.0

    def start(self) -> None:
        """Start the thread. Raises: RuntimeError where there can be none."""
        # A daemon, because a registry that nobody closes must not keep a program from ending.
        name = "aiollm response cache"
        threading.Thread(target=self._run, name=name, daemon=True).start()
        _pause_at_fork(self)

    @property
    def holds_file(self) -> bool:
        """Whether the file is open."""
        return self._db is not None

    def pause(self) -> None:
        """Close the file before a fork.

        SQLite keeps its locks in memory, which a child would take for its own: files that are open
        in both may be damaged (sqlite.org/howtocorrupt, 2.6).
        """
        if os.getpid() != self.process:
            return
        self._is_paused = self._busy.acquire(timeout=FORKING)
        if self._is_paused:
            self._close()

    def resume(self) -> None:
        """Go on after a fork."""
        if self._is_paused:
            self._is_paused = False
            self._busy.release()

    def _run(self) -> None:
        while True:
            # Not inside the lock: a fork must not wait for the next job.
            job = self._next(AGAIN if self.unwritten else None)
            with self._busy:
                jobs = 0
                while job is not None:
                    if isinstance(job, Stop):
                        self._end(job)
                        return
                    self._do(job)
                    jobs += 1
                    job = self._next(0.0) if jobs < ROUND else None
                self._write()

    def _next(self, seconds: float | None) -> Job | None:
        try:
            return self.jobs.get(timeout=seconds) if seconds != 0.0 else self.jobs.get_nowait()
        except Empty:
            return None

    def _do(self, job: Lookup | Store) -> None:
        if isinstance(job, Store):
            self._keep(job)
            return
        found, refusal = None, ""
        try:
            found = self._find(job.asked)
        except Exception as error:  # noqa: BLE001 - no fault of the cache may end a call
            if isinstance(error, ConfigError) and not self._was_open:
                refusal = error.message
            else:
                self._rest(error)
        job.tell(found, refusal)

    def _find(self, asked: Sequence[Asked]) -> Found | None:
        db = self._open()
        for each in asked:
            key = key_of(each)
            if key is None:
                continue
            data = self.unwritten.get(key) or (None if db is None else db.get(key))
            if data is not None:
                with suppress(ValueError, RecursionError):  # written by another version
                    return each.target, items_of(data)
        return None

    def _keep(self, job: Store) -> None:
        if not self.unwritten and time.monotonic() < self._again_at:
            return
        try:
            db = self._open()
            key = key_of(job.asked)
            data = None if key is None or db is None else encoded(job.answer)
        except Exception as error:  # noqa: BLE001 - the call has its answer
            self._rest(error)
        else:
            if db is not None and key is not None and data and len(data) <= db.max_answer:
                self.unwritten[key] = data

    def _write(self) -> None:
        db, now = self._db, time.monotonic()
        if db is None or not (self.unwritten or db.has_uses) or now < self._again_at:
            return
        from aiollm._response_cache.database import is_busy

        try:
            db.put(self.unwritten)
        except Exception as error:  # noqa: BLE001 - the calls have their answers
            self._locked_since = self._locked_since or now
            self._again_at = time.monotonic() + AGAIN
            if not is_busy(error) or now - self._locked_since > LOCKED:
                # What was written before can still be read, as on a disk that is full.
                self._forget(error)
                self._again_at += REST
        else:
            self.unwritten.clear()
            self._locked_since, self._trouble = 0.0, ""

    def _open(self) -> Database | None:
        """Return the file, None while it rests. Raises: ConfigError, OSError, sqlite3.Error."""
        if self._db is None and time.monotonic() >= self._rests_until:
            from aiollm._response_cache.database import Database  # it imports sqlite3

            self._db = Database(self._address)
            self._was_open = True
        return self._db

    def _rest(self, error: Exception) -> None:
        """Leave the file alone for a while."""
        self._close()
        self._rests_until = time.monotonic() + REST
        self._forget(error)

    def _forget(self, error: Exception) -> None:
        """Drop what cannot be written, and say so once."""
        self.unwritten.clear()
        self._locked_since = 0.0
        if not self._trouble:
            self._trouble = f"{type(error).__name__}: {error}"
            if (report := self._report()) is not None:
                report(self._trouble)

    def _end(self, job: Stop) -> None:
        until = time.monotonic() + LOCKED
        self._write()
        while self.unwritten and time.monotonic() < until:
            time.sleep(AGAIN)
            self._write()
        self._close()
        job.tell()

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with suppress(Exception):
                db.close()


def _pause_at_fork(worker: Worker) -> None:
    register = getattr(os, "register_at_fork", None)
    if register is None:
        return
    # What is registered stays for the life of the process, so it must not keep the worker.
    known = weakref.ref(worker)

    def pause() -> None:
        if (each := known()) is not None:
            each.pause()

    def resume() -> None:
        if (each := known()) is not None:
            each.resume()

    register(before=pause, after_in_parent=resume)
