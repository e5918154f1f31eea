"""Frames between a pool and its workers: two lengths, a JSON head, then the image as it is.

Nothing is pickled: a worker reads untrusted pictures, so what it answers is untrusted, too.
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


class ResultHead(msgspec.Struct, frozen=True):
    """The head of a worker's frame: `refusal` tells why there is no image behind it."""

    mime: str = ""
    width: int = 0
    height: int = 0
    refusal: str = ""


class Channel:
    """One end of a socket pair; `until` is the monotonic time by which it must be done."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.until: float | None = None

    def send(self, head: bytes, data: bytes = b"") -> None:
        """Send one frame, `data` without a copy. Raises: OSError, TimeoutError."""
        self._arm()
        self.socket.sendall(_LENGTHS.pack(len(head), len(data)) + head)
        if data:
            self._arm()
            self.socket.sendall(data)

    def receive(self) -> tuple[bytes, bytes]:
        """Return head and data of one frame.

        Raises: EOFError at the end of the stream, OSError, TimeoutError, ValueError for lengths
        that are out of bounds.
        """
        head, data = _LENGTHS.unpack(self._exactly(_LENGTHS.size))
        if head > _HEAD_LIMIT or data > _DATA_LIMIT:
            raise ValueError(f"a frame of {head} + {data} bytes is out of bounds")
        return self._exactly(head), self._exactly(data)

    def wait(self, seconds: float) -> bool:
        """Say whether a frame, or the end of the stream, comes within `seconds`."""
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
