"""Checks that the fields of a struct hold what their annotations say: msgspec checks none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiollm.errors import ConfigError

Kinds = Mapping[str, type | tuple[type, ...]]
"""The types that fields may have, or that the values of their dictionaries may have."""


def check_fields(row: Any, kinds: Kinds, values: Kinds) -> None:
    """Check fields, and that some of them map strings to values of a kind. Raises: ConfigError."""
    owner = type(row).__name__
    for name, kind in kinds.items():
        found = type(getattr(row, name))  # not the value: tools show variables
        if not issubclass(found, kind):
            wrong = f"of type {found.__name__}"
            raise ConfigError(f"{owner}.{name} must not be {wrong}: see its annotation")
    for name, kind in values.items():
        items = getattr(row, name).items()
        if not all(isinstance(key, str) and isinstance(each, kind) for key, each in items):
            del items, row  # tools show the variables of the frames that an error passes
            raise ConfigError(
                f"{owner}.{name} must map strings to {getattr(kind, '__name__', kind)}"
            )
