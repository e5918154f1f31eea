"""Lifting: image files in base64 are taken out of JSON while it arrives, piece by piece.

Decoding a reply with an image of 20 MB in one go stalls the loop for as long as that takes: all
JSON and base64 decoders hold the interpreter's lock, so a thread would not help. Here each read
is decoded as it comes, and what a codec decodes is the small rest, where each file is replaced
by a stand-in: base64 of bytes that begin as the file does.
"""

from __future__ import annotations

import binascii
import os
import re

import msgspec

LARGE = 64 * 1024
"""Characters from which a file is lifted: below, decoding takes some 0.1 ms."""

_HEAD = 32
"""Bytes of a file that its stand-in begins with: enough to tell the format."""

_BEGIN = re.compile(
    rb'[",](?='
    rb"iVBORw0KGg"  # PNG
    rb"|\\?/9j\\?/"  # JPEG
    rb"|UklGR"  # WebP
    rb"|R0lGOD"  # GIF
    rb"|AAAA.GZ0eX"  # AVIF, HEIC
    rb"|Qk"  # BMP
    rb"|PHN2Z|PD94bWwg"  # SVG
    rb")"
)
"""Where a JSON string, or the data of a data URL, begins as image files do in base64."""

_MAYBE = re.compile(rb'[",][A-Za-z0-9+/\\]{0,9}\Z')
"""The end of a read in which such a beginning may be cut."""

_ESCAPE = re.compile(rb"\\(?:u00([0-9a-fA-F]{2})|([/nr]))")
_CUT_ESCAPE = re.compile(rb"\\(?:u[0-9a-fA-F]{0,3})?\Z")
_ALPHABET = re.compile(rb"[A-Za-z0-9+/=]")

_BYTES = msgspec.json.Decoder(bytes)
"""The fastest strict decoder of base64 at hand: 2.5 times `binascii`."""


class Lift:
    """Bytes of a body in, the same without its large files out."""

    def __init__(self) -> None:
        self._held = b""
        self._file: _File | None = None
        self._lifted: dict[bytes, list[bytes]] = {}

    def feed(self, data: bytes) -> bytes:
        """Return what the bytes of a read leave, b"" while all of it belongs to files."""
        data, self._held = self._held + data, b""
        out: list[bytes] = []
        while data:
            file = self._file
            data = self._outside(data, out) if file is None else self._inside(file, data, out)
        return b"".join(out)

    def close(self) -> bytes:
        """Return what is still held at the end of the body."""
        file, self._file = self._file, None
        return self._held if file is None else file.text()

    def take(self, data: bytes) -> list[bytes] | None:
        """Give away the pieces of the file that `data` stands for, None where it is no stand-in."""
        return self._lifted.pop(data, None)

    def _outside(self, data: bytes, out: list[bytes]) -> bytes:
        """Pass on what comes before the next file; return the rest."""
        if found := _BEGIN.search(data):
            self._file = _File()
            out.append(data[: found.end()])
            return data[found.end() :]
        if cut := _MAYBE.search(data, max(0, len(data) - _HEAD)):
            self._held = cut[0]
            data = data[: cut.start()]
        out.append(data)
        return b""

    def _inside(self, file: _File, data: bytes, out: list[bytes]) -> bytes:
        """Add to the file until its string ends; return the rest."""
        end = data.find(b'"')
        if end < 0:
            file.add(data)
            return b""
        file.add(data[:end])
        self._file = None
        out.append(self._stand_in(file.pieces) if file.finish() else file.text())
        return data[end:]

    def _stand_in(self, pieces: list[bytes]) -> bytes:
        data = pieces[0][:_HEAD] + os.urandom(16)
        self._lifted[data] = pieces
        return binascii.b2a_base64(data, newline=False)


class _File:
    """A string that began as a file: decoded once it is large, left alone when it is no base64."""

    __slots__ = ("_good", "_rest", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self._rest = bytearray()
        self._good = True

    def add(self, text: bytes) -> None:
        """Take more of the string."""
        self._rest += text
        if self._good and len(self._rest) >= LARGE:
            cut = self._unescape()
            # One character at least stays, for only what follows tells whether this is the end.
            self._good = self._decode((len(self._rest) - cut - 1) // 4 * 4)

    def finish(self) -> bool:
        """Decode the end; say whether the string was a large file."""
        if not self._good or not self.pieces:
            return False
        self._unescape()
        lacking = -len(self._rest) % 4
        if lacking == 3:
            return False
        self._rest += b"=" * lacking
        return self._decode(len(self._rest))

    def text(self) -> bytes:
        """Return the whole string."""
        return binascii.b2a_base64(b"".join(self.pieces), newline=False) + self._rest

    def _unescape(self) -> int:
        """Undo what JSON may escape in base64; return the size of an escape cut at the end."""
        if b"\\" not in self._rest:
            return 0
        self._rest = bytearray(_ESCAPE.sub(_plain, self._rest))
        cut = _CUT_ESCAPE.search(self._rest)
        return len(cut[0]) if cut else 0

    def _decode(self, end: int) -> bool:
        text = bytes(self._rest[:end])
        if end < len(self._rest) and text.endswith(b"="):
            return False
        try:
            self.pieces.append(_BYTES.decode(b'"%b"' % text))
        except msgspec.DecodeError:
            return False
        del self._rest[:end]
        return True


def _plain(escape: re.Match[bytes]) -> bytes:
    code, letter = escape.groups()
    if letter:
        return b"/" if letter == b"/" else b""
    char = bytes((int(code, 16),))
    return char if _ALPHABET.match(char) else escape[0]
