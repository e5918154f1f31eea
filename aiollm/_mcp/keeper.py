"""Keeps a server: runs a command in a process group that ends with the program that started it.

It runs as a script of its own and imports nothing of aiollm, so that it starts in some 10 ms. Its
end of a socket tells it that the program has closed the server, or is gone, even if it was killed.
On that socket it says `pid N`, and later `exit N` or `fail` and why the command cannot be run.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from typing import NoReturn

GRACE = 1.0
"""Seconds in which the server may end by itself once its input is closed, and after SIGTERM."""

LOOK = 1.0
"""Seconds between two looks whether the program lives: a process forked from it may hold its end of
the socket open."""

_HELD_BACK = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""Signals for the server, which this process outlives to see its end."""


class Keeper:
    """The server's parent: sees its end, and ends what is left of its group."""

    def __init__(self, life: int, program: int) -> None:
        self._life = life
        self._program = program
        self._woken, wakes = os.pipe()
        os.set_blocking(wakes, False)
        os.set_inheritable(life, False)
        signal.set_wakeup_fd(wakes)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for name in _HELD_BACK:
            signal.signal(getattr(signal, name), signal.SIG_IGN)
        self._server = 0

    def run(self, command: list[str]) -> NoReturn:
        """Run the command until it ends, or until it has to."""
        self._server = os.fork()
        if self._server == 0:
            self._become(command)
        self._say(f"pid {self._server}")
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):  # or nobody would see that the server closed its own
            os.dup2(nothing, stream)
        try:
            if not self._ended(None):
                self._end()
        finally:
            os.killpg(0, signal.SIGKILL)
        os._exit(0)

    def _end(self) -> None:
        if self._ended(GRACE):
            return
        os.killpg(0, signal.SIGTERM)
        if self._ended(GRACE):
            return
        # Who waits for the end of this process must not find the server behind it.
        os.kill(self._server, signal.SIGKILL)
        self._ended(GRACE)

    def _ended(self, seconds: float | None) -> bool:
        """Wait for the server's end; without a time, also for that of the program."""
        until = time.monotonic() + (seconds or 0.0)
        watched = [self._woken] if seconds else [self._woken, self._life]
        while True:
            found, status = os.waitpid(self._server, os.WNOHANG)
            if found:
                self._say(f"exit {os.waitstatus_to_exitcode(status)}")
                return True
            left = max(0.0, until - time.monotonic()) if seconds else LOOK
            ready = select.select(watched, [], [], left)[0]
            if self._woken in ready:
                os.read(self._woken, 4096)
            if seconds and not left:
                return False
            if self._life in ready or (not seconds and os.getppid() != self._program):
                return False

    def _become(self, command: list[str]) -> NoReturn:
        """Be the server: run its command as this process."""
        try:
            signal.set_wakeup_fd(-1)
            # Signals that are ignored stay so in what is run; Python ignores two by itself.
            for name in ("SIGCHLD", "SIGPIPE", "SIGXFSZ", *_HELD_BACK):
                signal.signal(getattr(signal, name), signal.SIG_DFL)
            os.execvp(command[0], command)  # noqa: S606 - the user's own command
        except OSError as error:
            self._say(f"fail {error.strerror}")
        finally:
            os._exit(127)

    def _say(self, line: str) -> None:
        try:
            os.write(self._life, line.encode() + b"\n")
        except OSError:
            return  # nobody is left who would read it


if __name__ == "__main__":
    Keeper(int(sys.argv[1]), int(sys.argv[2])).run(sys.argv[3:])
