"""The parent's end of one worker process; its calls block, and only one thread may use it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from time import monotonic

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.media.ipc import Channel, ResultHead
from aiollm.media.limits import FittedImage, ImageLimits

_ROOT = Path(__file__).parents[1]
_BOOT = """
import sys, types
sys.path[:] = sys.argv[4:]
root = types.ModuleType("aiollm")
root.__path__ = [sys.argv[3]]
sys.modules["aiollm"] = root
from aiollm.media.worker import main
main()
"""
"""A bare package replaces aiollm's own, whose imports would double a worker's start and size."""
_KEPT = ("PATH", "LD_", "DYLD_", "LC_", "LANG", "PYTHON", "COVERAGE_")
"""Prefixes of the environment variables a worker gets: it reads images, so it gets no keys."""
_HEAP = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(128 << 20)}
"""Makes glibc reuse memory for the next image: page faults take a fifth of a JPEG's time."""
_START = 30.0
"""Seconds within which a worker must be ready, even on a busy machine."""


class WorkerDied(Exception):
    """The process ended or was stopped before it answered."""


class WorkerProcess:
    """One child process that fits images, one after the other."""

    def __init__(self, memory: int) -> None:
        """Start the process, which takes about 2 ms. Raises: OSError."""
        mine, theirs = socket.socketpair()
        arguments = [str(os.getpid()), str(memory), *_module_paths()]
        try:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-c", _BOOT, *arguments],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,  # Ctrl-C in a terminal reaches the parent's group, not it
            )
        except BaseException:
            mine.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(mine)
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def transform(self, data: bytes, limits: ImageLimits, seconds: float) -> FittedImage:
        """Return the image within `limits`.

        Raises: UnsupportedError when it cannot be made to fit, TimeoutError, WorkerDied. After the
        last two the process has ended.
        """
        try:
            return self._ask(data, limits, seconds)
        except UnsupportedError:
            raise
        except TimeoutError:
            self.stop()
            raise
        except (OSError, EOFError, ValueError, msgspec.DecodeError) as error:
            reason = error
        self.stop()
        raise WorkerDied(self._fate(reason))

    def _ask(self, data: bytes, limits: ImageLimits, seconds: float) -> FittedImage:
        if not self._ready:
            self._channel.until = monotonic() + _START
            self._channel.receive()
            self._ready = True
        self._channel.until = monotonic() + seconds
        self._channel.send(msgspec.json.encode(limits), data)
        head, made = self._channel.receive()
        answer = msgspec.json.decode(head, type=ResultHead)
        if answer.refusal:
            raise UnsupportedError(answer.refusal)
        return FittedImage(made, answer.mime, answer.width, answer.height)

    def kill(self) -> None:
        """End the process at once, from any thread; a thread that waits for it gets WorkerDied."""
        self._process.kill()

    def stop(self) -> None:
        """End the process, reap it and close the socket."""
        self._process.kill()
        self._process.wait()
        self._channel.close()

    def _fate(self, reason: Exception) -> str:
        code = self._process.returncode
        if code < 0 and code != -signal.SIGKILL:  # SIGKILL is how `stop` ends it, not a cause
            return f"ended by {signal.Signals(-code).name}"
        return f"ended ({str(reason) or type(reason).__name__})"


def environment() -> dict[str, str]:
    """Return the environment of a worker."""
    kept = {name: value for name, value in os.environ.items() if name.startswith(_KEPT)}
    return kept | _HEAP


def _module_paths() -> list[str]:
    """Return the folder of aiollm, then the folders where this process finds modules."""
    return [str(_ROOT), *dict.fromkeys(str(Path(place).absolute()) for place in sys.path)]
