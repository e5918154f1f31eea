"""Shared by all that count tokens: the count in a reply, and bodies without some fields."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, TypeAlias

import msgspec

from aiollm._wire.lenient import load
from aiollm.errors import ProtocolError
from aiollm.provider import HttpResponse

MOST = 2**53
"""Tokens that are believed: more cannot be told apart as a JSON number."""

Count: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MOST)]
"""A number of tokens as a reply may say it; any other is left out, as if it had not come."""

Tokens: TypeAlias = Count | None
"""The same, or null."""


def count_from(reply: HttpResponse, field: str) -> int:
    """Return the count in a field of a reply. Raises: ProtocolError."""
    value: Any = load(reply.body)
    count = value.get(field) if isinstance(value, dict) else None
    if isinstance(count, float) and count.is_integer():
        count = int(count)
    if type(count) is not int or not 0 <= count <= MOST:
        raise ProtocolError(f"the reply has no count of tokens in {field!r}", frame=reply.body)
    return count


def without(fields: Collection[str], body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without some fields."""
    return {name: value for name, value in body.items() if name not in fields}
