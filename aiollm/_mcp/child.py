"""The process of a server: started under a keeper, and ended with all that it started."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

from aiollm._time_limits import TimeLimit

_KEEPER = str(Path(__file__).with_name("keeper.py"))
_OUT, _ERR = 1, 2
_LOG_SIZE = 8 * 1024
_READ = 16 * 1024
"""Bytes of its output that are read in one turn of the event loop."""

_DRAIN = 0.2
"""Seconds without output after which a server that has ended is read no longer, as something else
may hold its output open."""
_LOOKS = 2
"""How often that is looked at: a loop that stood still may look before it reads."""
_PIPE = 1024 * 1024
"""Bytes that a pipe holds at most by Linux's default: more was written by something else."""

_PATIENCE = 2.0
"""Seconds in which a server may end by itself, where it has no keeper."""

_INHERITED = ("HOME", "LOGNAME", "PATH", "SHELL", "TERM", "USER")
_INHERITED_ON_WINDOWS = (
    *("APPDATA", "HOMEDRIVE", "HOMEPATH", "LOCALAPPDATA", "PATHEXT", "PROCESSOR_ARCHITECTURE"),
    *("SYSTEMDRIVE", "SYSTEMROOT", "TEMP", "USERNAME", "USERPROFILE"),
)
"""Variables that a server gets by default, as with the official SDK: none of them holds a key."""


def small_environment() -> dict[str, str]:
    """Return what a server gets of this process's environment."""
    names = _INHERITED + (_INHERITED_ON_WINDOWS if os.name == "nt" else ())
    return {name: os.environ[name] for name in names if name in os.environ}


class Child(asyncio.SubprocessProtocol):
    """A running server: its pipes, the end of its log, its life."""

    def __init__(self, received: Callable[[bytes], None], ended: Callable[[str], None]) -> None:
        """`received` gets its output as it comes, `ended` learns why there will be no more."""
        self.log = bytearray()
        self.said = ""
        """What its keeper said of it."""
        self._received = received
        self._ended = ended
        self._loop = asyncio.get_running_loop()
        self._owner = os.getpid()
        self._process: asyncio.SubprocessTransport | None = None
        self._life: socket.socket | None = None
        self._closed = self._is_paused = False
        self._taken = 0
        """Bytes of its output so far."""
        self.has_exited = False
        """Whether the process is gone; what it wrote last may still come."""
        self._room: asyncio.Future[None] | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._was_begun = False
        self._told = asyncio.Event()

    async def spawn(self, command: Sequence[str], env: Mapping[str, str], cwd: str | None) -> None:
        """Start the process. Raises: OSError, ValueError."""
        self._was_begun = True
        starting = asyncio.ensure_future(self._started(command, dict(env), cwd))
        starting.add_done_callback(self._was_started)
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # It cannot be cancelled: a process that is half started would be left to itself.
            self.close()
            raise

    def _was_started(self, done: asyncio.Future[None]) -> None:
        if not done.cancelled() and done.exception() is None:
            return
        self._let_go()
        if self._process is None and not self._gone.done():
            self._gone.set_result(None)

    async def _started(self, command: Sequence[str], env: dict[str, str], cwd: str | None) -> None:
        if os.name == "nt":  # no groups of processes: it ends when its input does
            await self._loop.subprocess_exec(lambda: self, *command, env=env, cwd=cwd)
            return
        self._life, theirs = socket.socketpair()
        self._life.setblocking(False)
        options: dict[str, Any] = {"pass_fds": (theirs.fileno(),), "start_new_session": True}
        keeper = [sys.executable, "-I", "-S", _KEEPER, str(theirs.fileno()), str(os.getpid())]
        with theirs:
            await self._loop.subprocess_exec(
                lambda: self, *keeper, *command, env=env, cwd=cwd, **options
            )

    async def gone(self) -> None:
        """Wait until the process has ended, and its pipes are closed."""
        if self._was_begun:
            await asyncio.shield(self._gone)

    async def told(self, seconds: float) -> None:
        """Wait until `ended` was told or nobody wants to know, but no longer than `seconds`."""
        with suppress(TimeoutError):
            async with TimeLimit(seconds):
                await self._told.wait()

    @property
    def pid(self) -> int | None:
        """The id of the process whose group is the server's."""
        return self._process.get_pid() if self._process else None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transport does not derive from asyncio's.
        self._process = cast("asyncio.SubprocessTransport", transport)
        pipe = self._pipe(_OUT)
        if hasattr(pipe, "max_size"):  # asyncio has no setting for it; uvloop's reads are small
            pipe.max_size = _READ
        if self._closed:
            self._close_pipes()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        if fd == _ERR:
            self.log += data
            del self.log[:-_LOG_SIZE]
        elif fd == _OUT and not self._closed:
            self._taken += len(data)
            self._received(data)

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:  # noqa: ARG002
        if fd == _OUT and not self._closed:
            # A server without output answers nothing more, whatever else it does.
            self._loop.call_later(_DRAIN, self._over)

    def process_exited(self) -> None:
        self.has_exited = True
        self._let_go()
        self._kill_group()  # the keeper may have been killed alone
        self._look_later(self._taken + _PIPE, _LOOKS)

    def _look_later(self, most: int, looks: int) -> None:
        self._loop.call_later(_DRAIN / _LOOKS, self._look_for_more, self._taken, most, looks)

    def _look_for_more(self, before: int, most: int, looks: int) -> None:
        """Close once nothing has come for a moment; beyond `most` bytes, the server wrote none."""
        comes = self._is_paused or before < self._taken < most
        if comes and not self._closed:
            self._look_later(most, _LOOKS)
        elif looks > 1:
            self._look_later(most, looks - 1)
        else:
            self._close_transport()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self._close_transport()

    def _close_transport(self) -> None:
        assert self._process is not None
        self._process.close()
        self.resume_writing()
        if not self._gone.done():
            self._gone.set_result(None)
        self._over()

    def _over(self) -> None:
        self._told.set()
        if not self._closed:
            self._closed = True
            self._close_pipes()
            self._ended(self.ending())

    def ending(self) -> str:
        """Return how the server ended, in words."""
        self._listen()
        lines = [line.partition(" ") for line in self.said.splitlines()]
        facts = {name: value for name, _, value in lines}
        if "fail" in facts:
            return f"it cannot be run ({facts['fail']})"
        code = facts.get("exit", "")
        if code.startswith("-"):
            with suppress(ValueError):
                return f"it was killed by {signal.Signals(-int(code)).name}"
        return f"it ended with exit code {code}" if code else "it closed its output"

    def write(self, data: bytes) -> bool:
        """Write to its input; return whether it is open."""
        if not self.is_open:
            return False
        self._pipe(0).write(data)
        return True

    @property
    def is_open(self) -> bool:
        """Whether its input is open."""
        pipe = None if self._closed or self.has_exited else self._pipe(0)
        return pipe is not None and not pipe.is_closing()

    async def has_room(self) -> None:
        """Wait until it has read most of what was written."""
        if self._room is not None:
            await asyncio.shield(self._room)

    def pause_writing(self) -> None:
        """Let `has_room` wait: the server does not read."""
        if self._room is None and not self._closed:
            self._room = self._loop.create_future()

    def resume_writing(self) -> None:
        """Let `has_room` return."""
        room, self._room = self._room, None
        if room is not None and not room.done():
            room.set_result(None)

    def pause_reading(self) -> None:
        """Leave what the server writes in the pipe, which is full some time."""
        if not self._closed and (pipe := self._pipe(_OUT)) is not None:
            self._is_paused = True
            pipe.pause_reading()

    def resume_reading(self) -> None:
        """Read on."""
        self._is_paused = False
        if not self._closed and (pipe := self._pipe(_OUT)) is not None:
            pipe.resume_reading()

    def _pipe(self, fd: int) -> Any:
        return self._process.get_pipe_transport(fd) if self._process else None

    def close(self) -> None:
        """End the server, and let it end by itself for a moment; at once, and idempotent."""
        self._closed = True
        self._told.set()
        self._close_pipes()

    def _close_pipes(self) -> None:
        """Close its input and its keeper's socket. Its output stays: a full pipe would block it."""
        self.resume_writing()
        if os.getpid() != self._owner or self._loop.is_closed():
            return
        if self._process is not None:
            if (pipe := self._pipe(0)) is not None:
                pipe.close()
            if (pipe := self._pipe(_OUT)) is not None:
                pipe.resume_reading()
            self._let_go()
            if os.name == "nt":
                self._loop.call_later(_PATIENCE, self._kill_group)

    def kill(self) -> None:
        """Kill the server and all that it started; works after the loop has closed, too."""
        self._closed = True
        if os.getpid() != self._owner:
            return  # it is the server of the process that forked
        self._kill_group()
        self._let_go()
        if self._loop.is_closed() and self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()

    def _kill_group(self) -> None:
        if self._process is None or self._gone.done():
            return
        with suppress(ProcessLookupError, PermissionError):
            if os.name == "nt":
                self._process.kill()
            else:
                os.killpg(self._process.get_pid(), signal.SIGKILL)

    def _listen(self) -> None:
        if self._life is not None:
            with suppress(OSError):
                self.said += self._life.recv(4096).decode("utf-8", "replace")

    def _let_go(self) -> None:
        """Close the socket: the keeper ends the server."""
        self._listen()
        life, self._life = self._life, None
        if life is not None:
            life.close()
