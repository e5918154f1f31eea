"""The file of a response cache: a SQLite database, opened and used by one thread."""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path

from aiollm._response_cache.address import Address
from aiollm.errors import ConfigError

APPLICATION = 0x61694C4D
"""What tells these files from other SQLite databases: "aiLM"."""

VERSION = 1
"""The form of the tables; a later one may keep what this one does not understand."""

_TABLES = (
    "CREATE TABLE answers (key BLOB PRIMARY KEY, made REAL, used REAL, answer BLOB)",
    "CREATE INDEX by_use ON answers (used)",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)

BUSY = 0.25
"""Seconds that one statement waits for other processes; lookups may wait behind it."""

OPENING = 4.0
"""Seconds that opening waits for them: several processes may set up one new file."""

FRESH = 3600.0
"""Seconds for which a use is not noted again: else each read would be a write."""

BATCH, BATCHES = 256, 8
"""Rows deleted at a time, and times in one transaction, which others wait for."""

_BUSY_CODES = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class Database:
    """Answers by key, in a file that several processes may share."""

    def __init__(self, address: Address) -> None:
        """Open the file, and make it if it does not exist.

        Raises: ConfigError for a file that is not a cache, or that this process may not write;
        OSError, sqlite3.Error for what may pass.
        """
        self._max_bytes, self._seconds = address.max_bytes, address.seconds
        self.max_answer = min(16_000_000, address.max_bytes // 16)
        """Bytes of an answer that is kept: one must not drive out all others."""
        self._used: dict[bytes, float] = {}
        _make(address.path)
        self._db = _connected(address.path)
        try:
            _set_up(self._db, address.path)
        except BaseException:
            self._db.close()
            raise

    def get(self, key: bytes) -> bytes | None:
        """Return the answer under a key. Raises: sqlite3.Error."""
        found = self._db.execute("SELECT answer, made, used FROM answers WHERE key = ?", (key,))
        row = found.fetchone()
        now = time.time()
        if row is None or (self._seconds is not None and row[1] < now - self._seconds):
            return None
        if row[2] < now - FRESH:
            self._used[key] = now
        answer: bytes = row[0]
        return answer

    def put(self, answers: Mapping[bytes, bytes]) -> None:
        """Keep answers, and delete those unused longest where there are too many.

        Raises: sqlite3.Error.
        """
        now = time.time()
        rows = [(key, now, now, answer) for key, answer in answers.items()]
        self._db.execute("BEGIN IMMEDIATE")
        try:
            uses = [(at, key) for key, at in self._used.items()]
            self._db.executemany("UPDATE answers SET used = ? WHERE key = ?", uses)
            self._db.executemany("REPLACE INTO answers VALUES (?, ?, ?, ?)", rows)
            self._make_room(now)
            self._db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):  # some errors have rolled it back already
                self._db.execute("ROLLBACK")
            raise
        self._used.clear()

    @property
    def has_uses(self) -> bool:
        """Whether enough uses are to be noted that they are worth a transaction."""
        return len(self._used) >= BATCH

    def close(self) -> None:
        """Note the uses and close the file. Raises: sqlite3.Error."""
        with closing(self._db):
            if self._used:
                with suppress(sqlite3.Error):
                    self.put({})

    def _make_room(self, now: float) -> None:
        if self._seconds is not None:
            self._db.execute(
                "DELETE FROM answers WHERE rowid IN"
                " (SELECT rowid FROM answers WHERE used < ? ORDER BY used LIMIT ?)",
                (now - self._seconds, BATCH),
            )
        for _ in range(BATCHES):
            if self._size() <= self._max_bytes:
                return
            self._db.execute(
                "DELETE FROM answers WHERE rowid IN"
                " (SELECT rowid FROM answers ORDER BY used LIMIT ?)",
                (self._share(),),
            )

    def _size(self) -> int:
        """Return the bytes of the file that are in use; free ones are used again."""
        pages, free, size = (
            self._db.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def _share(self) -> int:
        """Return a batch of rows, fewer where there are few large ones."""
        found = self._db.execute("SELECT count(*) FROM (SELECT 1 FROM answers LIMIT 8192)")
        rows = int(found.fetchone()[0])
        return max(1, min(BATCH, rows // 32))


def is_busy(error: BaseException) -> bool:
    """Return whether an error says that another process has the file locked."""
    return _code(error) in _BUSY_CODES


def _code(error: BaseException) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF


_LASTING = {
    errno.ENOENT: "its folder does not exist",
    errno.ENOTDIR: "its folder does not exist",
    errno.EACCES: "this process may not write to its folder",
    errno.EPERM: "this process may not write to its folder",
    errno.EROFS: "its folder is read-only",
    errno.ENAMETOOLONG: "its name is too long",
    errno.ELOOP: "its path has a loop of links",
}
"""Faults that do not pass by themselves."""


def _make(path: str) -> None:
    """Make a file that only its owner may read. Raises: ConfigError, OSError."""
    problem = ""
    try:
        # An existing file is not opened here: to close it would drop the locks of this process.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    except FileExistsError:
        if not Path(path).is_file():
            problem = "it is not a file"
        elif not os.access(path, os.R_OK | os.W_OK):
            problem = "this process may not read and write it"
    except OSError as error:
        if error.errno not in _LASTING:
            raise
        problem = _LASTING[error.errno]
    if problem:
        raise _refusal(path, problem)


def _connected(path: str) -> sqlite3.Connection:
    # Another thread closes it before the process is forked.
    return sqlite3.connect(path, timeout=BUSY, isolation_level=None, check_same_thread=False)


def _set_up(db: sqlite3.Connection, path: str) -> None:
    until = time.monotonic() + OPENING
    while True:
        try:
            problem = _problem(db)
            if not problem:
                db.execute("PRAGMA journal_mode = WAL")
                db.execute("PRAGMA synchronous = NORMAL")  # a crash of the machine loses the last
                db.execute(f"PRAGMA journal_size_limit = {8 << 20}")
                return
        except sqlite3.DatabaseError as error:
            if is_busy(error) and time.monotonic() < until:
                time.sleep(0.01)
                continue
            if _code(error) not in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
                raise
            problem = "it is damaged or no SQLite database"
        raise _refusal(path, problem)


def _problem(db: sqlite3.Connection) -> str:
    """Set up a new file; return why another one is not a cache, "" for one that is."""
    kind, version = _marks(db)
    if kind == version == 0:
        db.execute("BEGIN IMMEDIATE")
        try:
            kind, version = _marks(db)  # another process may have set it up
            if kind == version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                for statement in _TABLES:
                    db.execute(statement)
                kind, version = APPLICATION, VERSION
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
    if kind != APPLICATION:
        return "it is the database of another program"
    return "" if version == VERSION else "a later version of aiollm has written it"


def _marks(db: sqlite3.Connection) -> tuple[int, int]:
    kind, version = (
        int(db.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("application_id", "user_version")
    )
    return kind, version


def _refusal(path: str, problem: str) -> ConfigError:
    return ConfigError(f"the response cache {path!r:.300} cannot be used: {problem}; name another")
