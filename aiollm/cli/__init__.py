"""The command `aiollm`."""

from __future__ import annotations

from collections.abc import Sequence

from aiollm.cli.codes import (
    BROKEN_PIPE,
    FAILED,
    INTERRUPTED,
    OK,
    STOPPED,
    TERMINATED,
    USAGE,
)

__all__ = [
    "BROKEN_PIPE",
    "FAILED",
    "INTERRUPTED",
    "OK",
    "STOPPED",
    "TERMINATED",
    "USAGE",
    "main",
]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    try:
        # A Ctrl-C may come while this is imported, which takes most of a command's start.
        from aiollm.cli.running import run

        return run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
