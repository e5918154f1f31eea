"""Masking: remove keys, cookies and identities from a recorded exchange.

A mask is as long as what it hides, so that content lengths and chunk sizes stay correct.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

from aiollm._settings.redactor import Redactor, is_secret
from aiollm.testing.http1 import HEAD_END, chunk_bytes, header, parse_head, payload_spans
from aiollm.testing.server_record import SeenRequest

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

_USUAL_HEADERS = frozenset({"accept", "content-type", "host", "user-agent"})
"""Headers whose values are never credentials, however long they are."""

MAX_DECODED = 256 * 1024 * 1024
"""Bytes of a compressed body that are searched at most."""

_QUERY = re.compile(rf"([?&](?:{'|'.join(sorted(SECRET_QUERY))})=)([^&\s#]+)", re.IGNORECASE)
_HEADER = re.compile(rb"^([^:\r\n]+):[ \t]*((?:[^\r\n]|\r?\n[ \t])*)", re.MULTILINE)
"""A header with the lines that continue it, a form that old servers still send."""

_FIELD_END = re.compile(rb"(\r?\n(?![ \t]))")
"""What ends a header: a key does not go on in the next one, whose name must stay."""

_LENGTH = re.compile(rb"(?<=\ncontent-length:)[ \t]*[0-9]+", re.IGNORECASE)
_MEMBER = re.compile(rb'"([^"\\]{1,40})"\s*:\s*"((?:[^"\\]|\\.)*)"')
_SHOWN = re.compile(rb"([\r\n]+(?:data:)?[ \t]*)|.", re.DOTALL)
"""What a mask keeps, because a stream is framed by it, or one byte of what it hides."""


def redactor_for(request: SeenRequest, known: Iterable[str] = ()) -> Redactor:
    """Return what finds the credentials in a request, and the known ones."""
    found = set(known)
    for name, value in request.headers.items():
        if is_credential(name, value):
            found.add(value)
        if name == "cookie":
            found |= {each.partition("=")[2].strip() for each in value.split(";")}
    found |= {
        value
        for name, value in request.query.items()
        if name.lower() in SECRET_QUERY or is_secret(name, value)
    }
    return Redactor(found)


def is_credential(name: str, value: str) -> bool:
    """Return whether a request's header is a credential: also one that only a gateway knows."""
    return name in SECRET_HEADERS or (name not in _USUAL_HEADERS and is_secret(name, value))


def mask(data: bytes, redactor: Redactor) -> bytes:
    """Replace credentials by as many stars, wherever and in whatever form they occur."""
    masked = bytearray(data)
    for start, end in redactor.spans(data):
        masked[start:end] = _SHOWN.sub(_star, data[start:end])
    return bytes(masked)


def _star(found: re.Match[bytes]) -> bytes:
    return found[1] or b"*"


def mask_payload(data: bytes, encoding: str, redactor: Redactor) -> bytes:
    """Mask a body, a compressed one inside, which may change its length.

    Raises: ValueError for an encoding that cannot be read, and so cannot be masked.
    """
    if encoding in ("", "identity"):
        masked = bytearray(mask(data, redactor))
        for spans in _by_member(masked).values():
            _mask_joined(masked, spans, redactor)
        return bytes(masked)
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise ValueError(f"a body is encoded as {encoding!r}: keys in it cannot be masked")
    plain = _inflated(data)
    masked_plain = mask_payload(plain, "", redactor)
    if masked_plain == plain and not redactor.spans(data):
        return data  # nor is a key in what comes with compressed bytes, such as a file's name
    wbits = zlib.MAX_WBITS if encoding == "deflate" else zlib.MAX_WBITS + 16
    packer = zlib.compressobj(wbits=wbits)
    return packer.compress(masked_plain) + packer.flush()


def _by_member(data: bytes | bytearray) -> dict[bytes, list[tuple[int, int]]]:
    """Return where the texts are in JSON: events cut a key into deltas of the same name."""
    spans: dict[bytes, list[tuple[int, int]]] = {}
    for found in _MEMBER.finditer(data):
        spans.setdefault(found[1], []).append(found.span(2))
    return {name: found for name, found in spans.items() if len(found) > 1}


def _mask_joined(data: bytearray, spans: Sequence[tuple[int, int]], redactor: Redactor) -> None:
    """Mask in place what several parts of the data say together."""
    masked = mask(b"".join(data[start:end] for start, end in spans), redactor)
    taken = 0
    for start, end in spans:
        data[start:end] = masked[taken : taken + end - start]
        taken += end - start


def _inflated(data: bytes) -> bytes:
    """Decompress gzip or zlib, as far as it came. Raises: ValueError."""
    pieces: list[bytes] = []
    left = MAX_DECODED
    try:
        while data and left > 0:
            unpacker = zlib.decompressobj(zlib.MAX_WBITS + 32)
            pieces.append(unpacker.decompress(data, left))
            left -= len(pieces[-1])
            data = unpacker.unused_data if unpacker.eof else b""
    except zlib.error as error:
        raise ValueError(f"a compressed body cannot be masked: {error}") from None
    if left <= 0:
        raise ValueError(f"a compressed body has more than {MAX_DECODED} bytes: not masked")
    return b"".join(pieces)


def mask_body(
    data: bytes, redactor: Redactor, *, chunked: bool = False, encoding: str = ""
) -> bytes:
    """Mask a body as it came: credentials that HTTP chunks cut in two, and trailers, too.

    Only a compressed body that holds a credential gets other chunks. Raises: ValueError.
    """
    if not chunked:
        return mask_payload(data, encoding, redactor)
    spans = payload_spans(data)
    payload = b"".join(data[start:end] for start, end in spans)
    masked = mask_payload(payload, encoding, redactor)
    end = spans[-1][1] if spans else 0
    tail = mask_head(data[end:], redactor)
    if len(masked) != len(payload):
        return chunk_bytes(masked)[:-2] + tail
    made = bytearray(data[:end])
    taken = 0
    for start, stop in spans:
        made[start:stop] = masked[taken : taken + stop - start]
        taken += stop - start
    return bytes(made) + tail


def mask_head(head: bytes, redactor: Redactor) -> bytes:
    """Mask the values of secret and private headers, credentials, and keys in the query."""
    masked = b"".join(mask(each, redactor) for each in _FIELD_END.split(head))
    masked = _HEADER.sub(_stars_behind_colon, masked)
    return mask_query(masked.decode("latin-1")).encode("latin-1")


def _stars_behind_colon(found: re.Match[bytes]) -> bytes:
    if found[1].strip().lower().decode("latin-1") not in SECRET_HEADERS | PRIVATE_HEADERS:
        return found[0]
    return found[0][: len(found[0]) - len(found[2])] + _SHOWN.sub(_star, found[2])


def mask_response(data: bytes, redactor: Redactor) -> bytes:
    """Mask a response as it came, with the interim ones before it. Raises: ValueError."""
    head, found, body = data.partition(HEAD_END)
    if not found:
        return mask_head(mask(data, redactor), redactor)
    masked = mask_head(head, redactor)
    start, headers = parse_head(head + HEAD_END)
    if start.split(None, 2)[1].startswith("1"):
        return masked + HEAD_END + mask_response(body, redactor)
    chunked = "chunked" in header(headers, "transfer-encoding").lower()
    encoding = header(headers, "content-encoding").lower()
    rest = mask_body(body, redactor, chunked=chunked, encoding=encoding)
    if len(rest) != len(body) and not chunked:
        masked = _LENGTH.sub(b" %d" % len(rest), masked)
    return masked + HEAD_END + rest


def mask_query(text: str) -> str:
    """Mask keys in the query of every URL in a text."""
    return _QUERY.sub(lambda match: match.group(1) + "*" * len(match.group(2)), text)
