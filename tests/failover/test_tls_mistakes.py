"""A mistake with TLS is named, and sets aside nobody but the origin that it was made with."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from pathlib import Path

import pytest

from aiollm import FailoverError, classify
from aiollm.codecs import codec_of
from aiollm.dsn import Secret
from aiollm.provider import Provider
from aiollm.testing import FaultServer, chat

CERTIFICATE = Path(__file__).parents[1] / "testing" / "data" / "localhost.pem"


@pytest.fixture
async def plain():
    """Serve plain HTTP as common servers do: what is no HTTP gets a 400 at once."""
    answer = chat("Hello").body

    async def serve(reader, writer):
        head = await reader.read(65536)
        if head.startswith(b"POST"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n")
            writer.write(b"Connection: close\r\n\r\n" + b"".join(answer))
        else:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture
async def private():
    """Serve HTTPS with a certificate that nobody vouches for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    async with FaultServer(default=chat("Hello"), ssl=context) as server:
        yield server


async def test_https_to_a_plain_server_says_so_and_leaves_the_http_provider_alone(plain, registry):
    reg = registry({"right": f"http://127.0.0.1:{plain}"}, retries=2)
    reg.register("wrong", f"openai://k@127.0.0.1:{plain}/v1")
    with pytest.raises(FailoverError) as caught:
        await reg.generate("wrong/m", "hi")
    error = caught.value.last
    assert "+http" in str(error)
    assert str(plain) in str(error)
    assert len(caught.value.attempts) == 1, "what only a person mends was tried again"
    assert classify(error).harms == "long"
    response = await reg.generate("right/m", "hi")
    assert [attempt.queued for attempt in response.attempts] == [0.0]
    assert [each.state for each in reg.health()] == ["cooling", "healthy"]
    assert (await reg.generate("wrong/other,right/m", "hi")).target.provider == "right"


async def test_a_refused_certificate_names_the_host_and_the_reason(private, registry):
    reg = registry({"a": f"https://localhost:{private.port}"}, retries=2)
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert "localhost" in str(caught.value)
    assert "self-signed" in str(caught.value).replace("self signed", "self-signed")
    assert len(caught.value.attempts) == 1
    assert classify(caught.value.last).harms == "long"


NOBODY = """
import asyncio, sys
from aiollm import FailoverError, LocalError, Registry
async def main():
    async with Registry(env={"LLM_A": sys.argv[1]}) as reg:
        try:
            await reg.generate("a/m", "hi")
        except FailoverError as group:
            assert len(group.attempts) == 1
            assert isinstance(group.last, LocalError), group.last
            assert "SSL_CERT_FILE" in str(group.last)
        assert [each.state for each in reg.health()] == ["healthy"]
asyncio.run(main())
"""


async def test_a_broken_bundle_of_authorities_is_this_process_s_own_fault(private, tmp_path):
    bundle, folder = tmp_path / "bundle.pem", tmp_path / "certs"
    bundle.write_text("broken")
    folder.mkdir()
    env = {**os.environ, "SSL_CERT_FILE": str(bundle), "SSL_CERT_DIR": str(folder)}
    dsn = f"openai://k@localhost:{private.port}/v1"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", NOBODY, dsn, env=env)
    assert await child.wait() == 0


def provider(url: str) -> Provider:
    return Provider("a", "openai", url, codec=codec_of("openai"), token=Secret("k"))


@pytest.mark.parametrize(
    ("url", "host", "origin"),
    [
        ("https://API.openai.com/v1", "api.openai.com", "https://api.openai.com:443"),
        ("https://api.openai.com:443/v1", "api.openai.com", "https://api.openai.com:443"),
        ("https://api.openai.com./v1", "api.openai.com", "https://api.openai.com:443"),
        ("http://box", "box", "http://box:80"),
        ("http://box:443", "box:443", "http://box:443"),
        ("HTTP://box:8080/v1", "box:8080", "http://box:8080"),
        ("http://user:pw@box:1", "box:1", "http://box:1"),
        ("http://[0:0:0:0:0:0:0:1]:80/v1", "[::1]", "http://[::1]:80"),
        ("http://[::1]", "[::1]", "http://[::1]:80"),
        ("https://[FE80::1%25eth0]:1", "[fe80::1%eth0]:1", "https://[fe80::1%eth0]:1"),
        ("https://[odd]:1", "[odd]:1", "https://[odd]:1"),
        ("fake://a", "a", "fake://a"),
        ("", "", "://"),
    ],
)
def test_an_origin_has_one_spelling(url, host, origin):
    made = provider(url)
    assert (made.host, made.origin) == (host, origin)
