"""The output file of a bulk run: opened, locked, read for resuming, and appended to by a thread."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from os import PathLike
from typing import Any, BinaryIO, TypeAlias

import msgspec

from aiollm._bulk.keys import Keys
from aiollm._bulk.thread import WorkThread
from aiollm.errors import ConfigError

Into: TypeAlias = str | PathLike[str] | int
"""Where lines go: a path, or the number of an open file such as standard output."""

_BEGIN = b'{"key":'
"""What every line of ours begins with."""


class Known(msgspec.Struct):
    """What resuming needs to know of a line."""

    key: str
    failure: Any = None
    run: str = ""
    asked: str = ""


_known = msgspec.json.Decoder(Known)


class OutputFile:
    """Appends complete lines; whoever is killed while it does so leaves at most half of one.

    A thread writes, and lines that come meanwhile go together into its next write: a slow file
    system holds back results, never the event loop.
    """

    def __init__(self, into: Into, failed: Callable[[Exception], None]) -> None:
        """Open nothing; `failed` is called where lines cannot be written. Needs a running loop."""
        self._into = into
        self._failed = failed
        self._thread = WorkThread("output")
        self._writer: _Writer | None = None
        self._lines: list[bytes] = []
        self._then: list[Callable[[], None]] = []
        self._writing: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    async def open(self, run: str, keys: Keys, *, resume: bool) -> None:
        """Open and lock the file; with `resume`, put the keys of finished rows into `keys`.

        `run` is the hash of the run, which all lines must have. Raises: ConfigError.
        """
        await self._thread.run(partial(self._open, run, keys, resume))

    def _open(self, run: str, keys: Keys, resume: bool) -> None:  # noqa: FBT001
        self._writer = _open(self._into, run, keys, resume)

    def add(self, line: bytes, then: Callable[[], None]) -> None:
        """Write a line, with its end, and call `then` once that is done."""
        self._lines.append(line)
        self._then.append(then)
        if self._writing is None:
            self._write()

    @property
    def is_idle(self) -> bool:
        """Whether all lines have been written."""
        return self._writing is None

    def _write(self) -> None:
        assert self._writer is not None
        lines, then = self._lines, self._then
        self._lines, self._then = [], []
        self._writing = self._thread.run(partial(self._writer.write, b"".join(lines)))
        self._writing.add_done_callback(partial(self._written, then))

    def _written(self, then: list[Callable[[], None]], done: asyncio.Future[None]) -> None:
        self._writing = None
        error = None if done.cancelled() else done.exception()
        if isinstance(error, Exception):
            self._failed(error)
            return
        if self._lines and self._closing is None:
            self._write()
        for each in then:
            each()

    def close(self) -> None:
        """Write what is left, then close the file, without waiting; idempotent."""
        if self._closing is not None:
            return
        rest, self._lines = b"".join(self._lines), []
        self._closing = self._thread.run(partial(self._close, rest))
        self._thread.stop()

    def _close(self, rest: bytes) -> None:
        if self._writer is not None:
            self._writer.close(rest)

    async def gone(self) -> None:
        """Wait until the file is closed. Raises: OSError where its last lines were not written."""
        if self._closing is not None:
            await asyncio.shield(self._closing)


class _Writer:
    """An open file, used by one thread."""

    def __init__(self, fd: int, end: int | None) -> None:
        """`end` is where the complete lines end, None for what is not a file on a disk."""
        self._fd = fd
        self._end = end

    def write(self, data: bytes) -> None:
        """Write complete lines, or none of the one that fails. Raises: OSError."""
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            self._cut(data, len(left))
            raise
        if self._end is not None:
            self._end += len(data)

    def _cut(self, data: bytes, left: int) -> None:
        """Keep the complete lines of what was written before a failure."""
        if self._end is not None:
            self._end += data.rfind(b"\n", 0, len(data) - left) + 1
            with suppress(OSError):  # then the next run cuts it off
                _cut_at(self._fd, self._end)

    def close(self, rest: bytes) -> None:
        """Write the rest, then close. Raises: OSError."""
        try:
            if rest:
                self.write(rest)
        finally:
            os.close(self._fd)


def _open(into: Into, run: str, keys: Keys, resume: bool) -> _Writer:  # noqa: FBT001
    """Open a file in a thread. Raises: ConfigError."""
    try:
        fd = os.dup(into) if isinstance(into, int) else os.open(into, _FLAGS, 0o666)
    except OSError as error:
        reason = f"the output file {into!s:.200} cannot be opened: {error.strerror}"
    else:
        try:
            return _Writer(fd, _prepare(fd, str(into), run, keys, resume=resume))
        except OSError as error:
            os.close(fd)
            reason = f"the output file {into!s:.200} cannot be resumed: {error.strerror}"
        except BaseException:
            os.close(fd)
            raise
    raise ConfigError(reason)


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


def _prepare(fd: int, name: str, run: str, keys: Keys, *, resume: bool) -> int | None:
    """Lock and read a file; return where its complete lines end, None for a pipe or a device."""
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        if resume:
            raise ConfigError(f"{name:.200} cannot be resumed: it is not a file on a disk")
        return None
    lock(fd, name)
    if not os.fstat(fd).st_size:
        return 0
    if not resume:
        raise ConfigError(
            f"the output file {name:.200} exists: go on with it (`resume=True`, `--resume`), "
            "which asks only the rows without an answer, or use another name"
        )
    with open(os.dup(fd), "rb") as file:  # noqa: PTH123 - the file is open already
        end = _read(file, name, run, keys)
        file.seek(max(0, end - 1))
        is_ended = file.read(1) == b"\n"
    _cut_at(fd, end)
    if end and not is_ended:
        os.write(fd, b"\n")
        end += 1
    return end


def _cut_at(fd: int, end: int) -> None:
    """Cut a file off and go on there: who opened it may not have said that it is appended to."""
    os.ftruncate(fd, end)
    os.lseek(fd, end, os.SEEK_SET)


def lock(fd: int, name: str) -> None:
    """Keep other processes from writing, for as long as the file is open. Raises: ConfigError."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return  # a file system without locks
    else:
        return
    raise ConfigError(f"another process writes the output file {name:.200}")


def _read(file: BinaryIO, name: str, run: str, keys: Keys) -> int:
    """Put finished keys into `keys`; return where the complete lines end. Raises: ConfigError."""
    file.seek(0)
    end = 0
    for number, line in enumerate(file, 1):
        known = decode_line(line)
        if known is None:
            if is_begun(line):
                return end  # written by a process that was killed
            raise ConfigError(f"line {number} of {name:.200} was not written by a bulk run")
        if known.run != run:
            raise ConfigError(
                f"line {number} of {name:.200} belongs to another run, with another spec or type "
                "of output: use another file, or remove this one"
            )
        end += len(line)
        if known.failure:
            keys.failed(known.key)
        else:
            keys.finished(known.key, known.asked)
    return end


def is_begun(line: bytes) -> bool:
    """Return whether a line is the beginning of one of ours."""
    return not line.endswith(b"\n") and (line.startswith(_BEGIN) or _BEGIN.startswith(line))


def decode_line(line: bytes) -> Known | None:
    """Return what a line says, None where it is not one of ours or not complete."""
    try:
        return _known.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
