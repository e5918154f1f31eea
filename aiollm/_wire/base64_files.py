"""Files that a reply holds as base64 of any form."""

from __future__ import annotations

import binascii

from aiollm.errors import ProtocolError

_USUAL = bytes.maketrans(b"-_", b"+/")


def plain(text: bytes | bytearray) -> bytes:
    """Return base64 of any form in the usual alphabet, without white space."""
    # In one pass: to split a text at white space makes an object for each word.
    return bytes(text.translate(_USUAL, b" \t\r\n\v\f"))


def from_text(text: str) -> bytes:
    """Decode base64 or a data URL: either alphabet, with or without padding and line breaks.

    Raises: ProtocolError.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    data = text.encode("ascii", "replace")
    if (made := _decoded(data)) is None:
        usual = plain(data)  # takes as long again, so it comes second
        made = None if usual == data else _decoded(usual)
    if made is None:
        raise ProtocolError("a file in the reply is not base64")
    return made


def _decoded(data: bytes) -> bytes | None:
    data = data.rstrip(b"=")
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except ValueError:
        return None
