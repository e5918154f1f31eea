"""Bodies of multipart/form-data: fields, and files with names and types."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec

from aiollm._wire.body import Body
from aiollm._wire.lenient import mend


class File(msgspec.Struct, frozen=True):
    """A file of a form: its field, name, type and bytes."""

    field: str
    name: str
    mime: str
    data: bytes


def multipart(fields: Iterable[tuple[str, str]], files: Iterable[File]) -> tuple[str, Body]:
    """Return the content type with its boundary, and the body."""
    boundary = secrets.token_hex(16)
    segments: list[bytes] = []
    for name, value in fields:
        segments.append(_part(boundary, f'name="{_quoted(name)}"') + mend(value).encode())
    for file in files:
        place = f'name="{_quoted(file.field)}"; filename="{_quoted(file.name)}"'
        segments.append(_part(boundary, place, f"\r\nContent-Type: {file.mime}"))
        segments.append(file.data)
    segments.append(f"\r\n--{boundary}--\r\n".encode())
    segments[0] = segments[0].removeprefix(b"\r\n")
    return f"multipart/form-data; boundary={boundary}", Body(segments)


def _part(boundary: str, place: str, more: str = "") -> bytes:
    head = f"\r\n--{boundary}\r\nContent-Disposition: form-data; {place}{more}\r\n\r\n"
    return head.encode()


def _quoted(name: str) -> str:
    """Escape a name as browsers do (WHATWG)."""
    return mend(name).replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
