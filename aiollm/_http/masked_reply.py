"""Masks the keys in a reply while others run: in a complete body, or in a log that has no end."""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Iterator, Mapping

from aiollm._settings.redactor import Redactor
from aiollm.errors import ProtocolError
from aiollm.provider import Reply

SLICE = 4 * 1024
MAX_SIGNS = 512
"""Bytes that are searched at once, some 0.1 milliseconds, or fewer where they have more signs of an
escape, each of which takes some 0.8 microseconds."""

MAX_HELD = 4 * 1024
"""Bytes that may wait for the rest of a key: nothing but junk has so many line ends within one."""

MAX_ESCAPES = 64 * 1024
"""Escapes in one body, which take 60 milliseconds; texts of a list of models have a tenth."""

_ESCAPES = (b"\\", b"%", b"&")


async def masked(body: bytes, redactor: Redactor | None) -> bytes:
    """Return a body without the keys in it; None for a provider that has none.

    Raises: ProtocolError for a body of nothing but escapes, any of which may hide a key.
    """
    if redactor is None:
        return body
    if (escapes := sum(map(body.count, _ESCAPES))) > MAX_ESCAPES:
        reason = f"the reply holds {escapes} escapes, too many to search for keys"
        raise ProtocolError(reason, frame=body)
    masking = _Masking(redactor)
    done: list[bytes] = []
    for piece in _slices(body, redactor):
        done.append(masking.feed(piece))
        await sleep(0)
    return b"".join((*done, masking.close()))


def _slices(data: bytes, redactor: Redactor) -> Iterator[bytes]:
    """Cut data between words, where it has some, so that no cut makes a key too short to find."""
    at = 0
    while at < len(data):
        end = at + len(redactor.start_of(data[at : at + SLICE], MAX_SIGNS))
        if end < len(data):
            end = max(data.rfind(sign, at, end) for sign in _BETWEEN) + 1 or end
        yield data[at:end]
        at = end


_BETWEEN = (b'"', b",", b" ", b"\n")


class _Masking:
    """Masks pieces of one body, keys included that two pieces share."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, piece: bytes) -> bytes:
        """Return what is masked. Only what may be the start of a key waits for the next piece."""
        ready, self._held = self._redactor.masked_start(self._held + piece)
        if len(self._held) > MAX_HELD:
            held, self._held = self._held, b""
            return ready + self._redactor.data(held)
        return ready

    def close(self) -> bytes:
        """Return what has waited."""
        rest, self._held = self._held, b""
        return self._redactor.data(rest)


class MaskedReply:
    """A `provider.Reply` that masks keys, those included that two pieces share."""

    def __init__(self, reply: Reply, redactor: Redactor) -> None:
        self._reply = reply
        self._redactor = redactor
        self._masking = _Masking(redactor)
        self._slices: Iterator[bytes] = iter(())

    @property
    def status(self) -> int:
        """The HTTP status."""
        return self._reply.status

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case."""
        return self._reply.headers

    @property
    def content_type(self) -> str:
        """The media type in lower case, "" when the server sent none."""
        return self._reply.content_type

    @property
    def has_body(self) -> bool:
        """Whether any of the body has arrived."""
        return self._reply.has_body

    async def read(self) -> bytes:
        """Wait for bytes and return them, b"" at the end of the body. Raises: TransportError."""
        while piece := await self._slice():
            if ready := self._masking.feed(piece):  # a log must not lag behind
                return ready
        return self._masking.close()

    async def _slice(self) -> bytes:
        """Return the next bytes, b"" at the end; others run between two slices of one read."""
        if piece := next(self._slices, b""):
            await sleep(0)
            return piece
        self._slices = _slices(await self._reply.read(), self._redactor)
        return next(self._slices, b"")

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        """Return the rest of the body, cut at `limit` bytes or after `seconds`."""
        rest = await self._reply.read_whole(limit, seconds)
        done: list[bytes] = []
        for piece in (*self._slices, *_slices(rest, self._redactor)):
            done.append(self._masking.feed(piece))
            await sleep(0)
        return b"".join((*done, self._masking.close()))

    async def drain(self) -> None:
        """Briefly try to read the body to its end, so that the connection can be reused."""
        await self._reply.drain()

    def close(self) -> None:
        """Release the connection, closing it unless the body was read to its end."""
        self._reply.close()
