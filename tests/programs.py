"""Runs the programs of tests, each in a process of its own."""

from __future__ import annotations

import os
import random
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import AnyStr

ROOT = Path(__file__).parents[1]


def python(*words: object) -> str:
    """Return a command of this Python in the words of a shell: folders may have spaces."""
    return shlex.join([sys.executable, *map(str, words)])


def ending_with_us(*command: object) -> list[str]:
    """Return a command that Linux ends with the thread that starts it, as where pytest is killed.

    For servers that do not notice the end of their standard input.
    """
    setpriv = shutil.which("setpriv")
    return [*([setpriv, "--pdeathsig", "KILL"] if setpriv else []), *map(str, command)]


def run_program(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that imports this checkout, for a minute at most."""
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@contextmanager
def waited_for(process: subprocess.Popen[AnyStr]) -> Iterator[subprocess.Popen[AnyStr]]:
    """Wait for a process at the end of a block, and kill it where the block fails.

    `with process` alone would then wait for it however long it runs, and so hold up all tests.
    """
    with process:
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def free_port() -> int:
    """Return a port for a program that has to be told one.

    It is below those that the kernel gives to connections: until the program listens, or while it
    is started again, one of another test could get it.
    """
    chance = random.SystemRandom()  # others seed what all of a process share
    while True:
        port = chance.randrange(10_000, 32_768)
        with suppress(OSError), socket.socket() as taken:
            taken.bind(("127.0.0.1", port))
            return port
