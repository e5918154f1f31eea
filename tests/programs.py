"""Runs the programs of tests, each in a process of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def python(*words: object) -> str:
    """Return a command of this Python in the words of a shell: folders may have spaces."""
    return shlex.join([sys.executable, *map(str, words)])


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
