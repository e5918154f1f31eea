"""Recorder: a loopback proxy that writes the exchanges with a real server to a cassette."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Unpack
from urllib.parse import urlsplit

from aiollm._settings.redactor import Redactor
from aiollm.testing.cassette import Ending, Exchange, dump, ending_of
from aiollm.testing.connection import AnswerSteps
from aiollm.testing.faults import AnswerStep, End
from aiollm.testing.http1 import HEAD_END, Parser
from aiollm.testing.loopback import Loopback, LoopbackOptions
from aiollm.testing.marks import override
from aiollm.testing.masking import (
    PRIVATE_HEADERS,
    is_credential,
    mask,
    mask_payload,
    mask_query,
    mask_response,
    redactor_for,
)
from aiollm.testing.server_record import SeenRequest

_NOT_FORWARDED = frozenset(
    {"accept-encoding", "connection", "content-length", "expect", "host", "transfer-encoding"}
)
READ_SIZE = 65536


class Recorder(Loopback):
    """Forwards each request to `upstream`, and writes the exchanges to `path` when it ends.

    Keys, cookies, identities and each of `secrets` are masked, in every form, before anything is
    kept. Responses are requested uncompressed and passed on as they arrive; one that comes in an
    encoding other than gzip or deflate cannot be masked, and fails the block. An exchange that the
    peer leaves before its end is not recorded. `upstream_ssl` is a context for a server with a
    private certificate. The other keywords are those of `Loopback`.
    """

    def __init__(
        self,
        upstream: str,
        path: str | Path,
        *,
        secrets: Sequence[str] = (),
        upstream_ssl: ssl.SSLContext | None = None,
        **options: Unpack[LoopbackOptions],
    ) -> None:
        """Check `upstream`, a base URL. Raises: ValueError if it is not http or https."""
        super().__init__(**options)
        self.path: Path = Path(path)
        self.exchanges: list[Exchange] = []
        self._secrets = tuple(secrets)
        self._upstream = urlsplit(upstream.rstrip("/"))
        if self._upstream.scheme not in {"http", "https"} or not self._upstream.hostname:
            raise ValueError(f"upstream is not an http or https URL: {mask_query(upstream)}")
        secure = self._upstream.scheme == "https"
        self._context = (upstream_ssl or ssl.create_default_context()) if secure else None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, error, trace)
        finally:
            await asyncio.to_thread(self._save)

    def _save(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_bytes(dump(self.exchanges))

    @override
    def answer(self, request: SeenRequest) -> AnswerSteps:
        """Return the upstream's response as it arrives."""
        return self._forward(request)

    async def _forward(self, request: SeenRequest) -> AsyncIterator[AnswerStep]:
        host = self._upstream.hostname
        port = self._upstream.port or (443 if self._context else 80)
        reader, writer = await asyncio.open_connection(host, port, ssl=self._context)
        try:
            writer.write(self._request(request))
            pieces: list[bytes] = []
            parser = Parser(reply_to=request.method)
            end: Ending | None = None
            while end is None:
                piece, end = await _read(reader)
                pieces += (piece,) if piece else ()
                if parser.feed(piece):
                    end = ending_of(b"".join(pieces), request.method)
                if end is not None:
                    # Record it before the last piece, because the peer may leave once it has that.
                    self.exchanges.append(self._exchange(request, pieces, end))
                if piece:
                    yield piece
        finally:
            writer.transport.abort()
        if end != "keep":
            yield End(end)

    def _request(self, request: SeenRequest) -> bytes:
        target = self._upstream.path + request.raw_path
        first = f"{request.method} {target} HTTP/1.1\r\nhost: {self._upstream.netloc}\r\n"
        lines = [
            line
            for line in request.head.split(b"\r\n")[1:-2]
            if line.partition(b":")[0].strip().lower().decode("latin-1") not in _NOT_FORWARDED
        ]
        lines.append(b"accept-encoding: identity")
        if request.body or request.method not in {"GET", "HEAD", "DELETE"}:
            lines.append(b"content-length: %d" % len(request.body))
        return first.encode("latin-1") + b"\r\n".join(lines) + HEAD_END + request.body

    def _exchange(self, request: SeenRequest, pieces: Sequence[bytes], end: Ending) -> Exchange:
        redactor = redactor_for(request, self._secrets)
        masked = mask_response(b"".join(pieces), redactor)
        encoding = request.headers.get("content-encoding", "").lower()
        return Exchange(
            method=request.method,
            path=_text(mask_query(request.raw_path), redactor),
            pieces=_cut_like(masked, pieces),
            end=end,
            headers=_headers(request, redactor),
            body=mask_payload(request.body, encoding, redactor),
            name=f"{len(self.exchanges) + 1:03}",
        )


async def _read(reader: asyncio.StreamReader) -> tuple[bytes, Ending | None]:
    """Return the bytes that have arrived, and how the connection ended if it has."""
    try:
        piece = await reader.read(READ_SIZE)
    except ConnectionError:
        return b"", "reset"
    return piece, None if piece else "close"


def _cut_like(data: bytes, pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    if len(data) != sum(map(len, pieces)):  # what was compressed has been masked
        return (data,)
    cut, start = [], 0
    for piece in pieces:
        cut.append(data[start : start + len(piece)])
        start += len(piece)
    return tuple(cut)


def _headers(request: SeenRequest, redactor: Redactor) -> tuple[tuple[str, str], ...]:
    return tuple(
        (name, "***" if _is_masked(name, value) else _text(value, redactor))
        for name, value in request.headers.items()
        if name != "host"
    )


def _is_masked(name: str, value: str) -> bool:
    return name in PRIVATE_HEADERS or is_credential(name, value)


def _text(text: str, redactor: Redactor) -> str:
    return mask(text.encode(), redactor).decode()
