"""Percent-encoding, of which most settings have none."""

from __future__ import annotations


def unquoted(text: str) -> str:
    """Decode the percent-encoding of a text."""
    if "%" not in text:
        return text
    from urllib.parse import unquote  # takes 2 ms

    return unquote(text)
