"""The names of models that `aiollm models` and `aiollm` have listed, kept for completion.

A file in the user's cache folder, one target a line. Nothing else reads it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

MOST = 5_000
"""Names that are kept of a provider."""

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]{0,254}")
"""Names that mean only themselves to a shell: a server chooses them, and completion types them."""

_MAX_FILE = 8 << 20
"""Bytes that are read: whoever shares the folder may have put anything there."""

_NOWHERE = (OSError, RuntimeError)
"""What is raised where there is no such file; the latter for a user without a home."""


def keep(listed: Mapping[str, Sequence[str]]) -> None:
    """Keep the models of these providers in place of what was kept of them."""
    if not listed:
        return
    others = (each for each in known() if each.partition("/")[0] not in listed)
    new = (f"{name}/{model}" for name, models in listed.items() for model in models[:MOST])
    lines = sorted({each for each in (*others, *new) if SAFE.fullmatch(each)})
    with suppress(*_NOWHERE):  # a command must not fail for the sake of completion
        path = file()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # A name that nobody knows before, and never a link: others may write to the folder.
        number, made = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
        try:
            with os.fdopen(number, "w", encoding="ascii") as anew:
                anew.writelines(f"{each}\n" for each in lines)
            Path(made).replace(path)
        except BaseException:
            Path(made).unlink()
            raise


def known() -> list[str]:
    """Return the targets that are kept."""
    try:
        # A pipe without a writer would let the shell wait for ever.
        number = os.open(file(), os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with os.fdopen(number, "rb") as kept:
            lines = kept.read(_MAX_FILE).decode("ascii", "replace").splitlines()
    except _NOWHERE:
        return []
    return [each for each in lines if SAFE.fullmatch(each)]


def file() -> Path:
    """Return where they are kept."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = os.environ.get(variable, "")
    folder = Path(given) if given else Path.home() / ".cache"
    return folder / "aiollm" / "models"
