"""Dialects of chat completions: what the hosts that speak it call things, and take back."""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec


class Dialect(msgspec.Struct, frozen=True):
    """How one kind of host reads a request; the defaults suit most servers."""

    hosts: tuple[str, ...] = ("*",)
    max_tokens: str = "max_tokens"
    seed: str = "seed"
    system: str = "system"
    pads: bool | None = None


OPENAI = Dialect(
    hosts=("api.openai.com", "*.api.openai.com"),
    max_tokens="max_completion_tokens",
    system="developer",
    pads=False,
)
COMPATIBLE = Dialect()

DIALECTS = (OPENAI, COMPATIBLE)
"""The first whose hosts match wins."""


def dialect_of(host: str) -> Dialect:
    """Return the dialect of a `host[:port]`."""
    name = host.rpartition(":")[0] or host
    return next(row for row in DIALECTS if any(fnmatchcase(name, own) for own in row.hosts))
