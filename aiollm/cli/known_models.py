"""The names of models that `aiollm models` and `aiollm` have listed, kept for completion.

A file in the user's cache folder, one target a line. Nothing else reads it.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

MOST = 5_000
"""Names that are kept of a provider."""

SAFE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/@+-]*")
"""Names that mean only themselves to a shell: a server chooses them, and completion types them."""


def keep(listed: Mapping[str, Sequence[str]]) -> None:
    """Keep the models of these providers in place of what was kept of them."""
    if not listed:
        return
    others = (each for each in known() if each.partition("/")[0] not in listed)
    new = (f"{name}/{model}" for name, models in listed.items() for model in models[:MOST])
    lines = sorted({each for each in (*others, *new) if SAFE.fullmatch(each)})
    path = file()
    with suppress(OSError):  # a command must not fail for the sake of completion
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = path.with_name(f"{path.name}.{os.getpid()}")
        made.write_text("".join(f"{each}\n" for each in lines), encoding="ascii")
        made.replace(path)


def known() -> list[str]:
    """Return the targets that are kept."""
    try:
        lines = file().read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
    return [each for each in lines if SAFE.fullmatch(each)]


def file() -> Path:
    """Return where they are kept."""
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    given = os.environ.get(variable, "")
    folder = Path(given) if given else Path.home() / ".cache"
    return folder / "aiollm" / "models"
