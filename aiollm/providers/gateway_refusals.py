"""Gateway refusals: pages of web servers that refuse every request, whatever it asks for."""

from __future__ import annotations

import msgspec

from aiollm.errors import AuthenticationError, ProviderError
from aiollm.provider import HttpResponse

_SEARCHED = 4096
"""Bytes of a page in which the texts of rows are looked for."""


class _Refusal(msgspec.Struct, frozen=True):
    """A row: one of the texts, in lower case, or the status must match."""

    texts: tuple[str, ...]
    status: int
    message: str
    error: type[ProviderError] = AuthenticationError


_REFUSALS = (
    _Refusal(
        ("no required ssl certificate was sent",),
        496,
        "the gateway wants a client certificate: set ?cert=FILE in the DSN",
    ),
    _Refusal(
        ("the ssl certificate error",),
        495,
        "the gateway refuses the client certificate: check that it is the right one, and valid",
    ),
    _Refusal(
        (
            "the plain http request was sent to https port",
            "client sent an http request to an https server",  # Go: Caddy, Traefik
            "you're speaking plain http to an ssl-enabled server port",  # Apache
            "this combination of host and port requires tls",  # Tomcat
        ),
        497,
        "the server speaks TLS, but the base URL is one of plain HTTP: remove +http after the "
        "DSN's scheme, or write +https",
        ProviderError,
    ),
)
"""What nginx calls 495 to 497 it sends as 400 (1.22, November 2026). A wrong request looks the
same, but only a person can mend these."""


def gateway_refusal(reply: HttpResponse) -> ProviderError | None:
    """Return the error for a page that refuses all requests, None for any other reply."""
    if not 400 <= reply.status < 500:
        return None
    text = reply.body[:_SEARCHED].decode("latin-1").lower()
    for row in _REFUSALS:
        if reply.status == row.status or any(each in text for each in row.texts):
            error = row.error(row.message, status=reply.status, body=reply.body)
            error.harms = "long"  # a person mends the DSN
            return error
    return None
