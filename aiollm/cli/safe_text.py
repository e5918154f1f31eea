"""What a terminal may be shown of text that others wrote, and how it is written as JSON."""

from __future__ import annotations

import json

import msgspec

from aiollm._wire.printable import one_line, printable

__all__ = ["one_line", "printable"]


def as_json(value: object) -> str:
    """Return a value as JSON in ASCII: exact in any encoding, and without control characters."""
    plain = msgspec.to_builtins(value, enc_hook=str)
    text = json.dumps(plain, ensure_ascii=True, separators=(",", ":"))
    return text.replace("\x7f", "\\u007f")  # the one control character that JSON lets through
