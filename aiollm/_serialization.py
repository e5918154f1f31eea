"""Saving: requests, messages and responses as JSON, and back."""

from __future__ import annotations

from typing import Any, TypeVar, get_origin

import msgspec

from aiollm._wire.lenient import encode
from aiollm._wire.schema import type_schema
from aiollm.errors import LLMError

T = TypeVar("T")


def to_json(value: Any) -> bytes:
    """Encode a request, a message, a response, or a list of them.

    Values JSON cannot represent are described instead: an output type becomes its schema, an
    exception its text, a tool's function null.
    Raises: TypeError for any other value, ConfigError for an output type without a schema.
    """
    return encode(value, described)


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Decode a `kind` that `to_json` encoded. Raises: ValueError (msgspec.ValidationError)."""
    return msgspec.json.decode(data, type=kind, dec_hook=_restored)


def described(value: Any) -> Any:
    """Describe a value that JSON cannot represent, as a hook of msgspec. Raises: TypeError."""
    match value:
        case BaseException():
            return f"{type(value).__name__}: {value}"
        case _ if isinstance(value, type) or get_origin(value) is not None:
            return type_schema(value)
        case _ if callable(value):
            return None
        case _:
            raise TypeError(f"{type(value).__name__} cannot be saved as JSON")


def _restored(kind: type, value: Any) -> Any:
    if kind is Exception and isinstance(value, str):
        return LLMError(value)
    raise ValueError(f"{kind} cannot be read from JSON")
