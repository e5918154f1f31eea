"""Bodies that are not an answer: a proxy's web page, or an empty body."""

from __future__ import annotations

import re

from aiollm.errors import ServerError

_SEARCHED = 4096
"""Bytes of a page in which its title is looked for."""

_LONGEST = 100
"""Characters of a title that is shown. A longer one is left out: a part of a key might be at the
cut."""

_TITLE = re.compile(rb"<(title|h1)[^>]{0,100}>([^<]{1,1000})</\1", re.IGNORECASE)


def is_web_page(body: bytes, media_type: str = "") -> bool:
    """Return whether a body is HTML, by its media type or its first character."""
    return "html" in media_type or body.lstrip()[:1] == b"<"


def shown_page(body: bytes) -> str:
    """Return how a message names a page: with its title, which often says what happened."""
    title = _title(body)
    named = f" ({title})" if title else ""
    return f"an HTML page{named}: a proxy answers, or the base URL is wrong"


def _title(body: bytes) -> str:
    found = _TITLE.search(body[:_SEARCHED])
    if found is None:
        return ""
    from html import unescape  # for failures alone

    text = " ".join(unescape(found[2].decode("utf-8", "replace")).split())
    return text if len(text) <= _LONGEST and text.isprintable() else ""


def check_answer(body: bytes, status: int) -> None:
    """Raise ServerError if a complete body is empty or a web page."""
    if is_web_page(body):
        raise ServerError(f"the answer is {shown_page(body)}", status=status, body=body)
    if not body.strip():
        raise ServerError("the answer is empty", status=status, body=body)
