"""Runs the programs of tests, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

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


def is_gone(pid: int) -> bool:
    """Return whether a process has ended, even if nobody has waited for it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
