"""A server behind a unix socket is a provider like any other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aiollm import ConfigError, FailoverError, LocalError, Registry
from aiollm.testing import chat
from tests.broken_off import cancelled_everywhere

pytestmark = pytest.mark.loops


@asynccontextmanager
async def listening(path: Path, port: int):
    """Forward what comes in at a socket to a server's port."""
    writers = set()

    async def serve(reader, writer):
        behind_reader, behind = await asyncio.open_connection("127.0.0.1", port)
        writers.update((writer, behind))
        await asyncio.gather(copy(reader, behind), copy(behind_reader, writer))

    async def copy(reader, writer):
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.transport.abort()

    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("dsn", "path"),
    [
        ("openai+unix://5ekret@{}", "/v1/chat/completions"),
        ("openai+unix://5ekret@{quoted}/api/v2", "/api/v2/chat/completions"),
    ],
)
async def test_calls_go_through_the_socket_and_reuse_its_connection(
    serve, registry, tmp_path, dsn, path
):
    server = await serve(chat("well"))
    socket = tmp_path / "a b.sock"
    async with listening(socket, server.port):
        quoted = str(socket).replace(" ", "%20")
        reg = registry({"box": dsn.format(quoted, quoted=quoted.replace("/", "%2F"))})
        for _ in range(2):
            assert (await reg.generate("box/m", "hi")).text == "well"
        await reg.aclose()
    assert server.counts.opened == 1
    request = server.requests[0]
    assert (request.path, request.headers["host"]) == (path, "localhost")
    assert request.headers["authorization"] == "Bearer 5ekret"
    provider = reg.provider("box")
    assert provider.host == f"unix:{socket}"
    assert f"unix:{socket}" in reg.describe()


async def test_two_sockets_are_two_servers(serve, registry, tmp_path):
    server = await serve(chat("well"))
    good, bad = tmp_path / "good.sock", tmp_path / "bad.sock"
    async with listening(good, server.port):
        reg = registry({"good": f"llama-swap+unix://{good}", "bad": f"llama-swap+unix://{bad}"})
        with pytest.raises(FailoverError) as caught:
            await reg.generate("bad/m", "hi")
        assert f"the socket {bad} does not exist" in str(caught.value.last)
        response = await reg.generate("bad/m,good/m", "hi")
        assert response.target.provider == "good"
        await reg.aclose()


async def test_a_registry_that_is_dropped_closes_its_connections_to_sockets(serve, tmp_path):
    server = await serve(chat("well"))
    socket = tmp_path / "a.sock"
    async with listening(socket, server.port):
        reg = Registry(env={"LLM_BOX": f"openai+unix://{socket}"})
        assert (await reg.generate("box/m", "hi")).text == "well"
        with pytest.warns(ResourceWarning, match="a Registry was not closed"):
            del reg
        await server.wait_closed()


@pytest.mark.parametrize("times", [1, 2])
async def test_closing_a_registry_that_is_cancelled_anywhere_closes_all_its_connections(
    serve, registry, tmp_path, times
):
    server = await serve(chat("well"))
    socket = tmp_path / "a.sock"
    async with listening(socket, server.port):
        dsns = {"box": f"openai+unix://{socket}", "host": f"openai+{server.url}/v1"}
        regs = [registry(dsns)]

        async def begin():
            for spec in ("box/m", "host/m"):
                assert (await regs[-1].generate(spec, "hi")).text == "well"

        async def check():
            await regs[-1].aclose()  # it may have been cancelled before it began
            await server.wait_idle()
            regs.append(registry(dsns))
            await begin()

        async def call():
            await regs[-1].aclose()

        await begin()
        await cancelled_everywhere(call, check, times=times, least=2)


async def test_nobody_listening_and_a_path_that_is_too_long_are_named(registry, tmp_path):
    left = tmp_path / "left.sock"
    async with listening(left, 1):
        pass
    if not left.exists():  # from Python 3.13 on the socket goes with its server
        left.touch()
    reg = registry({"left": f"openai+unix://{left}", "long": f"openai+unix:///tmp/{'x' * 200}"})
    with pytest.raises(FailoverError) as caught:
        await reg.generate("left/m", "hi")
    assert f"nobody listens at the socket {left}" in str(caught.value.last)
    with pytest.raises(FailoverError) as caught:
        await reg.generate("long/m", "hi")
    assert isinstance(caught.value.last, LocalError)
    assert "too long" in str(caught.value.last)


@pytest.mark.parametrize("dsn", ["openai+unix://", "openai+unix://host/x", "openai+unix:///x/"])
def test_a_path_is_needed(dsn):
    with pytest.raises(ConfigError, match="expected the path of a unix socket"):
        Registry(env={"LLM_BOX": dsn}).provider("box")


@pytest.mark.parametrize("options", ["ca=/x.pem", "verify=off", "proxy=http://p"])
def test_a_socket_has_neither_tls_nor_a_proxy(options):
    with pytest.raises(ConfigError, match=r"settings of https|not reached through a proxy"):
        Registry(env={"LLM_BOX": f"openai+unix:///run/a.sock?{options}"}).provider("box")
