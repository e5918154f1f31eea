"""Files that a reply holds as base64 of any form."""

from __future__ import annotations

import binascii

from aiollm.errors import ProtocolError


def from_text(text: str) -> bytes:
    """Decode base64 or a data URL: either alphabet, with or without padding and line breaks.

    Raises: ProtocolError.
    """
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass  # another form of base64: normalizing it takes several passes, so it comes second
    text = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return binascii.a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except ValueError as error:
        reason = str(error)
    raise ProtocolError(f"a file in the reply is not base64: {reason}")
