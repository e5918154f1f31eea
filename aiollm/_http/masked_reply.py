"""A reply whose body is followed without an end, such as a log, with the keys in it masked."""

from __future__ import annotations

from collections.abc import Mapping

from aiollm._settings.redactor import Redactor
from aiollm.provider import Reply


class MaskedReply:
    """A `provider.Reply` that masks keys, those included that two pieces share."""

    def __init__(self, reply: Reply, redactor: Redactor) -> None:
        self._reply = reply
        self._redactor = redactor
        self._held = b""

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
        while piece := await self._reply.read():
            # Only what may be the start of a key waits: a log must not lag behind.
            ready, self._held = self._redactor.split(self._held + piece)
            if ready:
                return self._redactor.data(ready)
        rest, self._held = self._held, b""
        return self._redactor.data(rest)

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        """Return the rest of the body, cut at `limit` bytes or after `seconds`."""
        return self._redactor.data(self._held + await self._reply.read_whole(limit, seconds))

    async def drain(self) -> None:
        """Briefly try to read the body to its end, so that the connection can be reused."""
        await self._reply.drain()

    def close(self) -> None:
        """Release the connection, closing it unless the body was read to its end."""
        self._reply.close()
