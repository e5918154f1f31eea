"""The parent's end of one worker process; its calls block, and only one thread may use it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.media.interpreter import find_python
from aiollm.media.ipc import Channel, ResultHead
from aiollm.media.limits import FittedImage, ImageLimits

_ROOT = Path(__file__).parents[1]
_BOOT = """
import os, sys, types
sys.path += sys.argv[5:]
if "COVERAGE_PROCESS_CONFIG" in os.environ:
    import site
    site.main()
root = types.ModuleType("aiollm")
root.__path__ = [sys.argv[4]]
sys.modules["aiollm"] = root
from aiollm.media.worker import main
main()
"""
"""A bare package replaces aiollm's own, whose imports would double a worker's start and size.

The standard library stays first: a program may have a `resource` or a `types` of its own. To start
sooner, what `site` does is left out, except where coverage is measured by it.
"""
_KEPT = ("PATH", "LD_", "DYLD_", "LC_", "LANG", "COVERAGE_")
"""Prefixes of the environment variables a worker gets: it reads images, so it gets no keys."""
_KEPT_FOR_PYTHON = {"PYTHONHOME", "PYTHONPLATLIBDIR", "PYTHONDONTWRITEBYTECODE"}
"""What an interpreter may need to start, unless the parent was told to ignore its environment."""
_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""Makes glibc reuse memory for the next image: page faults take a fifth of a JPEG's time."""
_START = 30.0
"""Seconds within which a worker must be ready, even on a busy machine."""
_END = 5.0
"""Seconds within which a process that has closed its socket must be gone."""
_ERROR = re.compile("[Ee]rror")
_SAID = 4096
"""Bytes of its last words that are read."""


class WorkerDied(Exception):
    """The process ended or was stopped before it answered."""


class WorkerMissing(Exception):
    """No process could be started, or it ended before it was ready."""


class Budget(msgspec.Struct, frozen=True):
    """What an image may take: seconds, bytes of address space, and pixels to decode."""

    seconds: float
    memory: int
    max_pixels: int


class WorkerProcess:
    """One child process that fits images, one after the other."""

    def __init__(self, budget: Budget) -> None:
        """Start the process, which takes about 2 ms. Raises: WorkerMissing."""
        self._budget = budget
        self._ready = self._killed = False
        try:
            self._start()
        except (OSError, ValueError, MemoryError, subprocess.SubprocessError) as error:
            reason = f"{type(error).__name__}: {error}"
        else:
            return
        raise WorkerMissing(reason)

    def _start(self) -> None:
        python = find_python()
        arguments = [os.getpid(), self._budget.memory, self._budget.max_pixels, *_module_paths()]
        mine, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [python, "-P", "-s", "-S", "-c", _BOOT, *map(str, arguments)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent's group, not it
            )
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(mine)

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def transform(self, data: bytes, limits: ImageLimits) -> FittedImage:
        """Return the image within `limits`.

        Raises: UnsupportedError when it cannot be made to fit, TimeoutError, WorkerDied,
        WorkerMissing. After the last three the process has ended.
        """
        try:
            self._await_ready()
            return self._ask(data, limits)
        except UnsupportedError:
            raise
        except TimeoutError:
            self.stop()
            if self._ready:
                raise
            reason = f"it was not ready within {_START:g} s"
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            reason = self._fate(error)
        if self._ready or self._killed or self._process.returncode == -signal.SIGKILL:
            raise WorkerDied(reason)
        raise WorkerMissing(reason)

    def _await_ready(self) -> None:
        if self._ready:
            return
        self._channel.until = monotonic() + _START
        self._channel.receive()
        self._ready = True
        # Nobody reads what libraries write about images, and a full pipe would stop the worker.
        self._close_words()

    def _ask(self, data: bytes, limits: ImageLimits) -> FittedImage:
        self._channel.until = monotonic() + self._budget.seconds
        self._channel.send(msgspec.json.encode(limits), data)
        head, made = self._channel.receive()
        answer = msgspec.json.decode(head, type=ResultHead)
        if answer.refusal:
            raise UnsupportedError(answer.refusal)
        return FittedImage(made, answer.mime, answer.width, answer.height)

    def kill(self) -> None:
        """End the process at once, from any thread; a thread that waits for it gets WorkerDied."""
        self._killed = True
        self._process.kill()

    def stop(self) -> None:
        """End the process, reap it and close the socket."""
        self._process.kill()
        self._process.wait()
        self._close_words()
        self._channel.close()

    def abandon(self) -> None:
        """Close what a forked process has of it; it belongs to the parent."""
        self._process.returncode = 0  # it is not this process's child, so nothing is to be reaped
        self._close_words()
        self._channel.close()

    def _fate(self, error: Exception) -> str:
        """Stop the process; return how it ended and why."""
        if isinstance(error, EOFError | ConnectionError):
            # It ends by itself: `stop` would hide the signal that ended it.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_END)
        code = self._process.poll()
        words = self._last_words() if code is not None else ""
        self.stop()
        if code == -signal.SIGKILL and not self._killed:
            return "ended by SIGKILL: perhaps the machine ran out of memory"
        if code is not None and code < 0:
            return f"ended by {signal.Signals(-code).name}"
        return f"ended ({words or str(error) or type(error).__name__})"

    def _last_words(self) -> str:
        """Return the last line about an error that it wrote, else the last one."""
        pipe = self._process.stderr
        if pipe is None or pipe.closed:
            return ""
        os.set_blocking(pipe.fileno(), False)
        try:
            said = os.read(pipe.fileno(), 1 << 16)[-_SAID:]
        except OSError:
            return ""
        lines = [line.strip() for line in said.decode(errors="replace").split("\n")]
        return next(filter(_ERROR.search, lines[::-1]), "") or next(filter(None, lines[::-1]), "")

    def _close_words(self) -> None:
        if self._process.stderr is not None:
            self._process.stderr.close()


def environment() -> dict[str, str]:
    """Return the environment of a worker."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    if not sys.flags.ignore_environment:
        kept |= {name: os.environ[name] for name in _KEPT_FOR_PYTHON if name in os.environ}
    return kept | _HEAP


def _module_paths() -> list[str]:
    """Return the folder of aiollm, then the folders where this process finds modules."""
    places: dict[str, None] = {}
    for place in sys.path:
        with suppress(OSError):  # the current folder may have been deleted
            places[str(Path(place).absolute())] = None
    return [str(_ROOT), *places]
