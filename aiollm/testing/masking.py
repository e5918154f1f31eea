"""Masking: remove keys, cookies and identities from a recorded exchange.

A mask is as long as the value it hides, so that content lengths and chunk sizes stay correct.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import quote

from aiollm.testing.http1 import payload_spans
from aiollm.testing.tally import SeenRequest

SECRET_HEADERS = frozenset(
    {
        "api-key",
        "authorization",
        "cookie",
        "proxy-authorization",
        "set-cookie",
        "x-api-key",
        "x-goog-api-key",
    }
)
"""Headers whose values are credentials; the values are masked everywhere else, too."""

PRIVATE_HEADERS = frozenset(
    {
        "anthropic-organization-id",
        "openai-organization",
        "openai-project",
        "x-forwarded-for",
        "x-goog-user-project",
        "x-real-ip",
    }
)
"""Headers that identify the sender; they are masked."""

SECRET_QUERY = frozenset({"access_token", "api_key", "apikey", "key", "sig", "token"})
"""Query parameters whose values are credentials."""

MIN_SECRET = 4
"""A value shorter than this is masked only where it was found: elsewhere it may be a word."""

_QUERY = re.compile(rf"([?&](?:{'|'.join(sorted(SECRET_QUERY))})=)([^&\s#]+)", re.IGNORECASE)
_HEADER = re.compile(
    rb"^(%b):[ \t]*([^\r\n]*)" % "|".join(sorted(SECRET_HEADERS | PRIVATE_HEADERS)).encode(),
    re.IGNORECASE | re.MULTILINE,
)


def secrets_of(request: SeenRequest, known: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the credentials in a request, and the known ones, longest first."""
    found = set(known)
    for name, value in request.headers.items():
        if name in SECRET_HEADERS:
            found |= {value, *value.split(None, 1)[1:]}
    found |= {value for name, value in request.query.items() if name.lower() in SECRET_QUERY}
    found |= {quote(secret, safe="") for secret in found}
    return tuple(sorted((one for one in found if len(one) >= MIN_SECRET), key=len, reverse=True))


def mask(data: bytes, secrets: Iterable[str]) -> bytes:
    """Replace secrets by stars wherever they occur."""
    for secret in secrets:
        data = data.replace(secret.encode(), b"*" * len(secret.encode()))
    return data


def mask_body(data: bytes, secrets: Iterable[str], *, chunked: bool) -> bytes:
    """Replace secrets in a body, even those that HTTP chunks cut in two."""
    if not chunked:
        return mask(data, secrets)
    spans = payload_spans(data)
    payload = mask(b"".join(data[start:end] for start, end in spans), secrets)
    masked = bytearray(data)
    taken = 0
    for start, end in spans:
        masked[start:end] = payload[taken : taken + end - start]
        taken += end - start
    return bytes(masked)


def mask_head(head: bytes, secrets: Iterable[str]) -> bytes:
    """Mask the values of secret and private headers, secrets, and keys in the query."""
    masked = _HEADER.sub(_stars_behind_colon, mask(head, secrets))
    return mask_query(masked.decode("latin-1")).encode("latin-1")


def _stars_behind_colon(match: re.Match[bytes]) -> bytes:
    whole, value = match.group(0), match.group(2)
    return whole[: len(whole) - len(value)] + b"*" * len(value)


def mask_query(text: str) -> str:
    """Mask keys in the query of every URL in a text."""
    return _QUERY.sub(lambda match: match.group(1) + "*" * len(match.group(2)), text)
