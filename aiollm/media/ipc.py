"""Frames between a pool and its workers: two lengths, a JSON head, then the image bytes.

Nothing is pickled: a worker reads untrusted images, so its answers are untrusted, too.
"""

from __future__ import annotations

import select
import socket
import struct
from time import monotonic

import msgspec

_LENGTHS = struct.Struct(">IQ")
_HEAD_LIMIT = 64 * 1024
_DATA_LIMIT = 1 << 30
_BLOCK = 1 << 20
_REST = 5.0
"""Seconds within which a frame must be complete once it has begun, whatever the deadline."""


class ResultHead(msgspec.Struct, frozen=True):
    """The head of a worker's frame; `refusal` says why no image follows, "" if one does."""

    mime: str = ""
    width: int = 0
    height: int = 0
    refusal: str = ""


class Channel:
    """One end of a socket pair; `until` is the deadline, in monotonic seconds."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.until: float | None = None

    def send(self, head: bytes, data: bytes = b"") -> None:
        """Send one frame, without copying `data`. Raises: OSError, TimeoutError."""
        self._arm()
        self.socket.sendall(_LENGTHS.pack(len(head), len(data)) + head)
        if data:
            self._arm()
            self.socket.sendall(data)

    def receive(self) -> tuple[bytes, bytes]:
        """Return head and data of one frame.

        Raises: EOFError at the end of the stream, ValueError for lengths out of bounds, OSError,
        TimeoutError.
        """
        head, data = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if head > _HEAD_LIMIT or data > _DATA_LIMIT:
            raise ValueError(f"a frame of {head} + {data} bytes is out of bounds")
        if self.until is not None:
            # It is made by now, though this process may have stood still in between.
            self.until = max(self.until, monotonic() + _REST)
        return self._exactly(head), self._exactly(data)

    def wait(self, seconds: float) -> bool:
        """Return whether a frame or the end of the stream arrives within `seconds`."""
        return bool(select.select([self.socket], [], [], seconds)[0])

    def close(self) -> None:
        """Close this end; the other end reads the end of the stream."""
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        pieces: list[bytes] = []
        missing = size
        while missing:
            self._arm()
            piece = self.socket.recv(min(missing, _BLOCK), socket.MSG_WAITALL)
            if not piece:
                raise EOFError("the stream ended inside a frame" if pieces else "the stream ended")
            pieces.append(piece)
            missing -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _arm(self) -> None:
        if self.until is None:
            return
        left = self.until - monotonic()
        if left <= 0:
            raise TimeoutError
        self.socket.settimeout(left)
