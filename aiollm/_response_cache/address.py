"""The address of a response cache: a file, the most it may hold, and for how long."""

from __future__ import annotations

from urllib.parse import parse_qsl

import msgspec

from aiollm.errors import ConfigError
from aiollm.types import _shown

SCHEME = "sqlite:"

MEGABYTE = 1_000_000

DAY = 86_400.0

_MOST = 2**40
"""More than any disk has, in megabytes, and any life, in days."""


class Address(msgspec.Struct, frozen=True):
    """Where answers are kept: `max_bytes` of them at most, each for `seconds`, None for ever."""

    path: str
    max_bytes: int = 1000 * MEGABYTE
    seconds: float | None = None


def parse_address(text: object) -> Address:
    """Read an address such as `sqlite:answers.db?max_mb=1000&days=30`. Raises: ConfigError."""
    if not isinstance(text, str) or not text.startswith(SCHEME):
        raise _refusal(text, "expected 'sqlite:' and the path of a file")
    path, _, query = text.removeprefix(SCHEME).partition("?")
    if path.startswith("//"):
        raise _refusal(text, "write 'sqlite:' and the path, without slashes of a host between them")
    if not path or path.endswith("/") or path.startswith(":") or not path.isprintable():
        raise _refusal(text, "expected the path of a file after 'sqlite:'")
    given: dict[str, float] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("max_mb", "days"):
            raise _refusal(text, f"unknown option {_shown(name)} (known: max_mb, days)")
        given[name] = _number(text, name, value)
    most = int(given.get("max_mb", 1000) * MEGABYTE)
    days = given.get("days")
    return Address(path, most, None if days is None else days * DAY)


def _number(text: str, name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not (1 <= number <= _MOST if name == "max_mb" else 0 < number <= _MOST):
        least = "from 1 up" if name == "max_mb" else "above 0"
        raise _refusal(text, f"{name} is {_shown(value)}, expected a number {least}")
    return number


def _refusal(text: object, reason: str) -> ConfigError:
    has_login = isinstance(text, str) and "@" in text and not text.startswith(SCHEME)
    shown = "an address with a login" if has_login else _shown(text)
    return ConfigError(f"response_cache is {shown}: {reason}")
