"""Targets: files and connections: image headers, base64 in pieces, cassettes, HTTP/1.1."""

from __future__ import annotations

import base64
import gzip
import io
import re
import struct
import tempfile
import warnings
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from aiollm._settings.redactor import Redactor
from aiollm._wire import base64_stream
from aiollm._wire.base64_files import from_text
from aiollm._wire.image_type import mime_of
from aiollm.errors import ProtocolError
from aiollm.media.sniff import info
from aiollm.testing import cassette
from aiollm.testing.cassette import parse_response
from aiollm.testing.http1 import Parser, payload_spans
from aiollm.testing.masking import mask_response
from tests.fuzz.oracles import bounded_memory, check_error, check_linear, cuts, lines_run, one_in
from tests.fuzz.texts import KEY

ROOT = Path(__file__).parents[2]


def sniff(data: bytes) -> None:
    """Read an image's header: facts or None, in bounded work.

    The size is positive and has at most 32 bits a side. Bytes after the end change nothing but
    whether the file is whole, and half a file has no other size.
    """
    with bounded_memory(data):
        found = info(data)
    kind = mime_of(data)
    assert lines_run(lambda: info(data)) <= 200 + 12 * len(data)
    if found is None:
        return
    assert found.mime == kind
    assert 0 < found.width < 2**32 > found.height > 0
    assert kind == mime_of(data[:300])
    more = info(data + b"\x00" * 9)
    assert more is None or (more.width, more.height) == (found.width, found.height)
    half = info(data[: len(data) // 2])
    if half is not None and kind not in ("image/avif", "image/heic", "image/heif"):
        assert (half.width, half.height) == (found.width, found.height)
    _compare(data, (found.width, found.height))


def _compare(data: bytes, size: tuple[int, int]) -> None:
    """Where Pillow reads the header of a usual file, it reads the same size."""
    try:
        from PIL import Image
    except ImportError:
        return
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(data), formats=("PNG", "GIF", "WEBP", "BMP")) as image,
        ):
            other = image.size
    except Exception:  # noqa: BLE001  it refuses what we need not
        return
    assert other == size or mime_of(data) == "image/gif", (other, size)


def sniff_seeds() -> Iterator[bytes]:
    ihdr = struct.pack(">II5B", 3, 2, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I4s", 13, b"IHDR") + ihdr + struct.pack(">I", zlib.crc32(b"IHDR" + ihdr))
    png = b"\x89PNG\r\n\x1a\n" + chunk
    yield png + struct.pack(">I4s", 0, b"acTL") + b"0000" + b"\0\0\0\0IEND\xaeB`\x82"
    yield png + b"\0\0\0\1IDATx0000" + b"\0\0\0\0IEND\xaeB`\x82"
    yield (
        b"GIF89a\3\0\2\0\x80\0\0"
        + b"\0" * 6
        + b"!\xff\x0bNETSCAPE2.0\3\1\0\0\0"
        + (b",\0\0\0\0\3\0\2\0\0\2\2\x84\x51\0" * 2)
        + b";"
    )
    yield (
        b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xc0\0\x11\x08\0\2\0\3\3"
        b"\1\x22\0\2\x11\1\3\x11\1\xff\xda\0\x0c\3\1\0\2\x11\3\x11\0\x3f\0\xff\xd9"
    )
    yield b"RIFF\x1a\0\0\0WEBPVP8X\x0a\0\0\0\2\0\0\0\2\0\0\1\0\0"
    yield b"RIFF\x1a\0\0\0WEBPVP8L\x0d\0\0\0\x2f\2\x40\0\0\0\0\0\0\0\0\0\0"
    yield b"RIFF\x1a\0\0\0WEBPVP8 \x0d\0\0\0\0\0\0\x9d\1\x2a\3\0\2\0\0\0\0\0"
    yield b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0\3\0\0\0\xfe\xff\xff\xff" + b"\0" * 36
    ispe = struct.pack(">I4sIII", 20, b"ispe", 0, 3, 2)
    ipco = struct.pack(">I4s", 8 + len(ispe), b"ipco") + ispe
    iprp = struct.pack(">I4s", 8 + len(ipco), b"iprp") + ipco
    yield b"\0\0\0\x18ftypavif\0\0\0\0avifmif1" + (
        struct.pack(">I4sI", 12 + len(iprp), b"meta", 0) + iprp
    )
    yield b"\0\0\0\x14ftypheic\0\0\0\0msf1"
    yield b"II*\0\x08\0\0\0"


def lifting(data: bytes) -> None:
    """Take base64 files out of JSON while it comes, from 24 characters on.

    Put back, the files give the same strings as before, but for strings that begin like a file and
    are none, and cuts change neither text nor files.
    """
    seen: set[bytes] = set()
    usual, base64_stream.LARGE = base64_stream.LARGE, 24
    try:
        for pieces in ([data], *cuts(data)):
            seen.add(_lifted(pieces))
    finally:
        base64_stream.LARGE = usual
    (made,) = {_normal(text) for text in seen}
    # "!" stands for what is no file, and one that is cut leaves nothing.
    text, at = _normal(data), 0
    for part in made.split(b"!"):
        found = text.find(part, at)
        assert found >= 0, (seen, data)
        at = found + len(part)


def _lifted(pieces: list[bytes]) -> bytes:
    """Return the text with each file put back as plain base64."""
    lift = base64_stream.Lift()
    text = b"".join(map(lift.feed, pieces)) + lift.close()

    def back(found: re.Match[bytes]) -> bytes:
        try:
            file = lift.take(base64.b64decode(found[0] + b"=" * (-len(found[0]) % 4)))
        except ValueError:
            return found[0]
        return found[0] if file is None else base64.b64encode(b"".join(file))

    made = re.sub(rb"[A-Za-z0-9+/]{22,}={0,2}", back, text)
    assert not lift._lifted, "a file without its placeholder"
    return made


def _normal(text: bytes) -> bytes:
    """Undo what JSON and base64 can write in two ways."""
    text = re.sub(rb"\\u00([0-9a-fA-F]{2})", lambda found: bytes([int(found[1], 16)]), text)
    text = re.sub(rb"\\[nr]|[\\=\s]", b"", text).translate(bytes.maketrans(b"-_", b"+/"))
    # The last character may have bits that belong to no byte.
    return re.sub(rb"(?<=[A-Za-z0-9+/]{16})[A-Za-z0-9+/](?![A-Za-z0-9+/])", b"", text)


def lifting_seeds() -> Iterator[bytes]:
    file = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(range(90)))
    yield b'{"data":[{"b64_json":"' + file + b'"}]}'
    yield b'{"a":"data:image/png;base64,' + file.replace(b"/", b"\\/") + b'","b":"x"}'
    yield b'["' + file[:40] + b"\\n" + file[40:].replace(b"=", b"\\u003d") + b'","R0lGOD!"]'
    yield b'["iVBORw0KGg","' + file.rstrip(b"=") + b'"'


def base64_texts(data: bytes) -> None:
    """Decode base64 or a data URL of any form: bytes that encode to the same, or ProtocolError."""
    text = data.decode("latin-1")
    try:
        made = from_text(text)
    except ProtocolError as error:
        check_error(error)
        return
    assert len(made) <= len(text)


def base64_text_seeds() -> Iterator[bytes]:
    yield b"data:image/png;base64,aGVs\nbG8_-w"
    yield b"aGVsbG8="


def cassettes(data: bytes) -> None:
    """Load a cassette, a capture or an index: exchanges, or a ValueError that says which file.

    No file outside of its directory is read. A cassette that was loaded is the same when it is
    written and loaded again.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tapes"
        folder.mkdir()
        outside = Path(name) / "outside.txt"
        outside.write_bytes(b"SECRET OUTSIDE")
        (folder / "body.json").write_bytes(b'{"a":1}')
        for path in (folder / "tape.json", folder / "tape.raw"):
            path.write_bytes(data)
            try:
                found = cassette.load_exchanges(path)
            except ValueError as error:
                check_text(str(error))
                continue
            except FileNotFoundError:
                continue
            assert not any(b"SECRET OUTSIDE" in one.response for one in found)
            again = folder / "again.json"
            again.write_bytes(cassette.dump(found))
            assert cassette.load_exchanges(again) == found


def check_text(text: str) -> None:
    """A message that names a file is short and can be printed."""
    assert len(text) <= 1200
    text.encode()


def cassette_seeds() -> Iterator[bytes]:
    one = cassette.exchange("POST", "/v1/x", b"data: x\n\n", headers=[("a", "b")], name="n")
    two = cassette.exchange("GET", "/", b"\xff\xfe", content_type="application/json", status=404)
    yield cassette.dump([one, two])
    yield one.response
    yield two.response
    record = '"endpoint":"/x","status":200,"content_type":"","headers":{}'
    yield f'[{{"path":"body.json",{record}}}]'.encode()
    yield f'[{{"path":"../outside.txt",{record}}}]'.encode()
    yield b'{"format":"aiollm cassette 1","exchanges":[]}'


def recordings(data: bytes) -> None:
    """Mask a response as a recorder does, in which KEY is the caller's key.

    It becomes as many bytes without the key, also where chunks cut it, or a ValueError for a body
    that cannot be read. What was masked stays as it is when it is masked again.
    """
    redactor = Redactor([KEY])
    said = data.replace(b"KEY", KEY.encode())
    assert KEY not in redactor.text(said.decode("utf-8", "replace"))
    try:
        masked = mask_response(said, redactor)
    except ValueError as error:
        check_text(str(error))
        return
    assert KEY.encode() not in masked
    if b"ncoding" not in data:
        assert len(masked) == len(said)
    with suppress(ValueError):
        assert mask_response(masked, redactor) == masked
        message = parse_response(masked, "POST")
        assert message is None or KEY.encode() not in message.body


def recording_seeds() -> Iterator[bytes]:
    head = b"HTTP/1.1 200 OK\r\nset-cookie: a=KEY\r\nx-y: KEY\r\n"
    yield head + b'content-length: 15\r\n\r\n{"a":"x KEY y"}'
    chunks = b'a\r\n{"a":"KE\r\n5\r\nY",1}\r\n0\r\nt: KEY\r\n\r\n'
    yield head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    key = KEY.encode()
    half = len(key) // 2
    pieces = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (b"x" + key[:half], key[half:]))
    yield head + b"transfer-encoding: chunked\r\n\r\n" + pieces + b"0\r\n\r\n"
    yield head + b"content-encoding: gzip\r\n\r\n" + gzip.compress(key * 3, mtime=0)
    events = (b'data: {"d":"%b"}\n\n' % piece for piece in (key[:half], key[half:]))
    interim = b"HTTP/1.1 103 x\r\nlink: KEY\r\n\r\nHTTP/1.1 400 no\r\n\r\n"
    yield interim + b"".join(events)
    yield b"x-api-key: KEY\r\n GET /?key=KEY&sig=KEY"


def http_messages(data: bytes) -> None:
    """Parse HTTP/1.1: messages or a ValueError; cuts change nothing; memory and work are linear."""
    for reply_to in ("", "POST", "HEAD"):
        whole = _messages([data], reply_to)
        for pieces in cuts(data):
            assert _messages(pieces, reply_to) == whole
        assert sum(len(body) for body in whole[0]) <= 2 * len(data)
    with bounded_memory(data):
        payload_spans(data)
    if one_in(200, data):
        check_linear(lambda body: _messages([body], "POST"), b"", data[:300], b"")


def _messages(pieces: list[bytes], reply_to: str) -> tuple[list[bytes], str]:
    parser = Parser(reply_to=reply_to)
    bodies: list[bytes] = []
    try:
        for piece in pieces:
            bodies += [message.body for message in parser.feed(piece)]
        if last := parser.close():
            bodies.append(last.body)
    except ValueError as error:
        return [], str(error)[:30]
    return bodies, ""


def http_message_seeds() -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n0\r\nt: v\r\n\r\n"
    yield b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nabcdHTTP/1.1 204 No\r\n\r\n"
    yield b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest"
    yield b"POST /v1/x HTTP/1.1\r\nhost: h\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n{}"
    for path in sorted((ROOT / "tests/captures").rglob("*.raw"))[:40:5]:
        yield path.read_bytes()[:3000]
