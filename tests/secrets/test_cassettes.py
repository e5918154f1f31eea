"""Cassettes hold no key, stay playable, and read nothing outside their folder."""

from __future__ import annotations

import asyncio
import gzip
import json
import pathlib
import zlib
from collections.abc import Sequence
from urllib.parse import quote

import aiohttp
import pytest

from aiollm._settings.redactor import Redactor
from aiollm.testing import Answer, FaultServer, Recorder, ReplayServer
from aiollm.testing.cassette import load_exchanges, parse_response
from aiollm.testing.http1 import chunk_bytes
from aiollm.testing.masking import mask_response

OK = b"HTTP/1.1 200 OK\r\n"


def chunked(*pieces: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(map(chunk_bytes, pieces)) + b"0\r\n" + trailer + b"\r\n"


def of_length(head: bytes, body: bytes) -> bytes:
    return OK + head + b"content-length: %d\r\n\r\n" % len(body) + body


def halves(text: str, at: int = 25) -> Sequence[bytes]:
    return text[:at].encode(), text[at:].encode()


def responses(form: str) -> dict[str, bytes]:
    text = form.encode()
    line = form.encode("ascii", "ignore").replace(b"\n", b"")
    one, two = halves(f'{{"error": "wrong key {form}"}}')
    zipped = gzip.compress(b"wrong key " + text)
    unnamed = gzip.compress(b"well")
    named = unnamed[:3] + b"\x08" + unnamed[4:10] + line.replace(b"\0", b"") + b"\0" + unnamed[10:]
    hints = (
        b"HTTP/1.1 103 Early Hints\r\nLink: <" + line + b">\r\nset-cookie: a=" + line + b"\r\n\r\n"
    )
    deltas = [
        b'data: {"delta": {"content": "%b"}}\n\n' % part
        for part in (text[at : at + 6] for at in range(0, len(text), 6))
    ]
    return {
        "body": of_length(b"", b"wrong key " + text),
        "header": of_length(b"x-echo: " + line + b"\r\n", b"{}"),
        "header in lines": of_length(b"x-echo: a\r\n\tb " + line + b"\r\n", b"{}"),
        "cookie in lines": of_length(b"set-cookie: id=1;\r\n secret=" + line + b"\r\n", b"{}"),
        "interim": hints + of_length(b"", b"wrong key " + text),
        "chunks": OK + b"Transfer-Encoding:chunked\r\n\r\n" + chunked(one, two),
        "chunks in lines": OK + b"transfer-encoding:\r\n chunked\r\n\r\n" + chunked(one, two),
        "interim, then chunks": hints + OK + b"TRANSFER-ENCODING:chunked\r\n\r\n"
        + chunked(one, two),
        "trailer": OK + b"transfer-encoding: chunked\r\n\r\n"
        + chunked(b"{}", trailer=b"x-trace: " + line + b"\r\nset-cookie: a=b-secret\r\n"),
        "gzip": of_length(b"content-encoding: gzip\r\n", zipped),
        "gzip in chunks": OK + b"content-encoding: gzip\r\ntransfer-encoding: chunked\r\n\r\n"
        + chunked(zipped[:9], zipped[9:]),
        "gzip of a file with a name": of_length(b"content-encoding: gzip\r\n", named),
        "deflate": of_length(b"content-encoding: deflate\r\n", zlib.compress(text)),
        "deltas": OK + b"transfer-encoding: chunked\r\n\r\n" + chunked(*deltas),
    }  # fmt: skip


def content(response: bytes) -> str:
    """Return all that a response says, after checking that it is complete."""
    whole = parse_response(response, "POST", at_end=False)
    assert whole is not None
    body = whole.body
    if whole.header("content-encoding") in ("gzip", "deflate"):
        body = zlib.decompress(body, zlib.MAX_WBITS + 32)
    said = body.decode("utf-8", "replace")
    deltas = [
        json.loads(line[6:])["delta"]["content"] for line in said.split("\n\n") if "delta" in line
    ]
    return response.decode("latin-1") + said + "".join(deltas)


def test_a_masked_response_is_complete_and_holds_no_key(form, key, find_leaks):
    for name, response in responses(form).items():
        if name == "deltas" and not form.isascii():
            continue  # characters cut in two are not JSON
        if name == "deltas" and ("\\" in form or "\n" in form):
            continue
        masked = mask_response(response, Redactor([key]))
        assert not find_leaks(content(masked)), name
        assert "secret" not in content(masked), name
        assert len(masked) == len(response) or "gzip" in name or name == "deflate", name


def test_the_name_of_a_header_is_no_part_of_a_key_that_the_one_before_began(key):
    begun, rest = key[: key.index("Q")], key[key.index("Q") :]
    lines = (f"x-echo: {begun}", f"{rest[0]}-more: 1", f"x-folded: {begun}", f" {rest}")
    response = OK + "\r\n".join(lines).encode() + b"\r\n\r\n"
    masked = mask_response(response, Redactor([key]))
    assert b"\r\nQ-more: 1\r\n" in masked
    assert rest.encode() not in masked


async def test_a_recording_masks_the_request_too_and_can_be_replayed(tmp_path, key, find_leaks):
    path = tmp_path / "cassette.json"
    body = (
        b'--x\r\ncontent-disposition: form-data; name="key"\r\n\r\n' + key.encode() + b"\r\n--x--"
    )
    upstream = FaultServer(default=lambda seen: Answer(200, {"x-echo": key}, seen.body))
    target = f"/v1/x?trace={quote(key, safe='')}&key=hidden-one"
    async with upstream, Recorder(upstream.url, path) as proxy, aiohttp.ClientSession() as client:
        headers = {"authorization": f"Bearer {key}", "x-note": f"with {key}"}
        async with client.post(proxy.url + target, data=body, headers=headers) as reply:
            assert key.encode() in await reply.read()
    written = await asyncio.to_thread(path.read_text)
    assert not find_leaks(written)
    assert "hidden-one" not in written
    async with ReplayServer(path) as server, aiohttp.ClientSession() as client:
        async with client.post(f"{server.url}/v1/x", data=b"") as reply:
            assert await reply.read() == body.replace(key.encode(), b"*" * len(key))


async def test_what_cannot_be_masked_fails_the_recording(tmp_path):
    upstream = FaultServer(Answer(200, {"content-encoding": "br"}, b"\x8b\x00"))
    path = tmp_path / "cassette.json"
    with pytest.raises(ValueError, match="encoded as 'br'"):
        async with (
            upstream,
            Recorder(upstream.url, path) as proxy,
            aiohttp.ClientSession() as client,
        ):
            async with client.get(proxy.url) as reply:
                assert reply.status == 500


@pytest.mark.parametrize(
    "name",
    ["../out.json", "a/../../out.json", "/etc/hostname", "C:\\out.json", "c:out.json",
     "..\\out.json", "\\\\host\\x", "", ".", "out\0.json", "link.json", "linked/out.json",
     "folder"],
)  # fmt: skip
def test_an_index_names_only_files_in_its_folder(name, tmp_path):
    (tmp_path / "out.json").write_text("{}")
    inside = tmp_path / "inside"
    (inside / "folder").mkdir(parents=True)
    pathlib.Path(inside / "link.json").symlink_to("../out.json")
    pathlib.Path(inside / "linked").symlink_to("..")
    index = inside / "index.json"
    index.write_text(json.dumps([{"path": name, "endpoint": "/v1"}]))
    with pytest.raises(ValueError, match=r"index\.json names"):
        load_exchanges(index)


GOOD = {
    "format": "aiollm cassette 1",
    "exchanges": [
        {
            "name": "001",
            "request": {"method": "GET", "path": "/", "headers": [], "body": ""},
            "response": {"end": "keep", "pieces": [{"base64": "AAAA"}]},
        }
    ],
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"exchanges"', '"exchanged"'), ('"keep"', '"explode"'), ('"AAAA"', '"A"'), ("[]", "[[1]]"),
        ('"GET"', "null"), ("cassette 1", "cassette 99"), ("[{", "[" * 100_000), ("}]}", ""),
        ('"001"', '"\\ud800"'), ('{"format', '\xff{"format'),
    ],
)  # fmt: skip
def test_a_damaged_cassette_says_what_is_wrong(old, new, tmp_path):
    path = tmp_path / "c.json"
    path.write_bytes(json.dumps(GOOD).encode())
    assert load_exchanges(path)[0].pieces == (b"\0\0\0",)
    path.write_bytes(json.dumps(GOOD).replace(old, new, 1).encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.json is"):
        load_exchanges(path)


def test_a_cut_request_beside_a_capture_says_so(tmp_path):
    (tmp_path / "a.raw").write_bytes(OK + b"\r\n")
    (tmp_path / "a.req").write_bytes(b"POST /v1 HTTP/1.1\r\ncontent-le")
    with pytest.raises(ValueError, match=r"a\.req does not hold a complete"):
        load_exchanges(tmp_path / "a.raw")
