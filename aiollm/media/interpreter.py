"""Find the Python interpreter that workers run, also where `sys.executable` is something else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

_NAMES = ("python", "pypy")


def find_python() -> str:
    """Return the path of an interpreter of this version. Raises: FileNotFoundError.

    In a server that embeds Python, such as uWSGI, `sys.executable` is that server, "" or None.
    Then the interpreter that it was built against is looked for.
    """
    for path in _candidates():
        if os.access(path, os.X_OK) and Path(path).is_file():
            return str(path)
    raise FileNotFoundError(f"sys.executable is {sys.executable!r}, which is not Python")


def _candidates() -> Iterator[str | Path]:
    base = getattr(sys, "_base_executable", None)
    for path in (sys.executable, base):
        if path and Path(path).name.lower().startswith(_NAMES):
            yield path
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for prefix in dict.fromkeys((sys.exec_prefix, sys.base_exec_prefix)):
        yield Path(prefix) / "bin" / version
