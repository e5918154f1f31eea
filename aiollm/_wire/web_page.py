"""Bodies that are not an answer: a proxy's web page, or an empty body."""

from __future__ import annotations

from aiollm.errors import ServerError

WEB_PAGE = "an HTML page: a proxy answers, or the base URL is wrong"


def is_web_page(body: bytes, media_type: str = "") -> bool:
    """Return whether a body is HTML, by its media type or its first character."""
    return "html" in media_type or body.lstrip()[:1] == b"<"


def check_answer(body: bytes, status: int) -> None:
    """Raise ServerError if a complete body is empty or a web page."""
    if is_web_page(body):
        raise ServerError(f"the answer is {WEB_PAGE}", status=status, body=body)
    if not body.strip():
        raise ServerError("the answer is empty", status=status, body=body)
