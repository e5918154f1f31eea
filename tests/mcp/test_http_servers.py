"""Servers over streamable HTTP: a request that fails costs itself alone."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from pathlib import Path

import pytest

from aiollm import ClosedError, ConnectError, ProtocolError
from aiollm._mcp.http import CONNECTIONS
from aiollm._mcp.posts import Posts

_spec = importlib.util.spec_from_file_location(
    "fake_mcp_server", Path(__file__).with_name("fake_server.py")
)
fake_server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_server)

TOKEN = "sk-token-of-the-user"


@pytest.fixture
def http():
    """Return a function that starts a scripted server."""
    started = []

    def start(mode="json"):
        started.append(fake_server.Http(mode))
        return started[-1]

    yield start
    for each in started:
        each.close()


async def until(holds):
    """Wait until something holds in a thread of the server."""
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.01)


async def cancelled_calls(server, fake, count):
    """Return calls that were cancelled while they hung at the server or waited to be sent."""
    hanging = [asyncio.ensure_future(server.call("hang")) for _ in range(count)]
    await until(lambda: fake.hanging == min(count, CONNECTIONS))
    for each in hanging:
        each.cancel()
    return hanging


@pytest.mark.parametrize("mode", ["json", "sse"])
async def test_tools_are_called_over_http(http, registry, mode):
    fake = http(mode)
    async with registry() as reg:
        async with reg.mcp(fake.url, token=TOKEN, headers={"x-team": "search"}) as server:
            (echo,) = await server.tools("echo")
            assert (await echo(text="hi")).text == "echo: hi"
            assert (await server.call("cut")).text == "half of \ufffd"
            assert (await server.call("nan")).text == '{"celsius":null}'
            assert server.status.pid is None
    assert fake.deleted == 1
    assert {each.get("authorization") for each in fake.seen} == {f"Bearer {TOKEN}"}
    assert {each.get("x-team") for each in fake.seen} == {"search"}


async def test_many_calls_at_once_share_a_session(http, registry):
    fake = http()
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        found = await asyncio.gather(*(server.call("echo", {"text": str(n)}) for n in range(300)))
    assert [each.text for each in found] == [f"echo: {n}" for n in range(300)]
    assert len(fake.sessions) == 1


@pytest.mark.parametrize("mode", ["json", "sse"])
@pytest.mark.parametrize("name", ["big", "die", "half", "secret", "noise", "bad_result"])
async def test_a_request_that_fails_costs_itself_alone(http, registry, mode, name):
    fake = http(mode)
    async with registry() as reg, reg.mcp(fake.url, token=TOKEN) as server:
        await server.start()
        with pytest.raises(ProtocolError) as caught:
            await server.call(name)
        assert TOKEN not in str(caught.value)
        assert (await server.call("echo", {"text": "on"})).text == "echo: on"
        assert server.status.starts == 1


async def test_a_cancelled_call_does_not_wait_for_a_server_that_is_busy(http, registry):
    fake = http("deaf")
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        hanging = await cancelled_calls(server, fake, 30)
        # The SDK waits for the answer to each notice, and those behind it wait for 5 s.
        await asyncio.wait(hanging)
        assert (await server.call("echo", {"text": "on"}, timeout=4.0)).text == "echo: on"
        assert all(each.cancelled() for each in hanging)
        await until(lambda: fake.notices == 16)  # and no more: each holds a connection
        fake.mode = "json"
        await until(lambda: fake.notices == 30)  # the others, once there is room


@pytest.mark.parametrize("mode", ["json", "sse", "deaf"])
async def test_cancelled_calls_leave_their_connections_to_others(http, registry, mode):
    fake = http(mode)
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        hanging = await cancelled_calls(server, fake, 200)  # most wait for a connection
        await asyncio.wait(hanging)
        assert (await server.call("echo", {"text": "on"}, timeout=4.0)).text == "echo: on"
        await until(lambda: len(fake.connections) <= 20)  # of notices, and of the last call
        assert fake.resumed == 0
        assert server.status.starts == 1


@pytest.mark.parametrize("mode", ["json", "sse"])
@pytest.mark.parametrize("turns", range(5))
async def test_a_call_that_is_cancelled_twice_leaves_no_connection(http, registry, mode, turns):
    fake = http(mode)
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        hanging = await cancelled_calls(server, fake, 10)
        for _ in range(turns):
            await asyncio.sleep(0)
        for each in hanging:
            each.cancel()
        await asyncio.wait(hanging)
        assert all(each.cancelled() for each in hanging)
        await until(lambda: len(fake.connections) <= 1 + fake.notices)
        await until(lambda: len(server._connection._transport._posts) == 0)


@pytest.mark.parametrize("mode", ["json", "sse"])
async def test_answers_that_come_while_it_is_closed_are_no_errors_in_a_log(
    http, registry, mode, caplog
):
    fake = http(mode)
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        calls = [asyncio.ensure_future(server.call("echo", {"late": True})) for _ in range(8)]
        await until(lambda: len(fake.late) == len(calls))
        await server.aclose()
        ends = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ends} == {ClosedError}
    assert fake.deleted == 1
    assert [each.getMessage() for each in caplog.records if each.levelname != "DEBUG"] == []


async def test_a_call_that_is_cancelled_before_it_is_sent_is_not_waited_for():
    posts = Posts()
    posts.end(7)
    for number in range(1000, 1090):
        posts.end(number)
    with pytest.raises(TimeoutError):
        await posts.begin(7).within(asyncio.get_running_loop().create_future())


async def test_a_call_may_be_ended_twice_while_the_first_end_is_under_way():
    posts = Posts()
    post = posts.begin(7)
    waiting = asyncio.ensure_future(post.within(asyncio.get_running_loop().create_future()))
    for _ in range(2):
        await asyncio.sleep(0)
        posts.end(7)
    with pytest.raises(TimeoutError):
        await waiting


async def test_a_key_in_a_url_is_sent_and_not_shown(http, registry, caplog):
    caplog.set_level("DEBUG")
    fake = http("refuse")
    key = "sk-key-of-the-query"
    async with registry() as reg:
        server = reg.mcp(f"{fake.url}?api_key={key}")
        with pytest.raises(ConnectError, match=r"HTTP 401.*api_key=\*\*\*") as caught:
            await server.tools()
        assert key not in f"{caught.value} {server.status} {server!r} {caplog.text}"
    assert "HTTP Request: POST" in caplog.text


def refusal(message, code=-32000, **fields):
    error = {"code": code, "message": message}
    return json.dumps({"jsonrpc": "2.0", "error": error, **fields}).encode()


@pytest.mark.parametrize(
    "said",
    [
        (404, b""),
        (404, b'{"error":"Session not found"}'),
        (400, refusal("Bad Request: No valid session ID provided")),
        (400, refusal("Bad Request: Unknown Mcp-Session-Id header", id=None)),
        (400, refusal("Bad Request: Server not initialized", id=None)),
        (400, b"Invalid or expired session ID"),
        (400, b"session s-1 has expired"),
        (401, b"Unauthorized: Session not found"),
        (200, refusal("session not found", -32001, id=None)),
        (200, refusal("Session expired", -32001, id=None, result=None)),
    ],
)
async def test_a_session_that_is_forgotten_is_begun_anew(http, registry, said):
    fake = http()
    fake.unknown = said
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        fake.sessions.clear()
        assert (await server.call("echo", {"text": "x"})).text == "echo: x"
        assert server.status.starts == 2


@pytest.mark.parametrize(
    "said",
    [
        (400, refusal("the session of user 7 has expired", id=3)),
        (400, refusal("Invalid arguments", -32602)),
        (400, b"the database session could not be opened"),
        (403, b""),
    ],
)
async def test_another_refusal_is_not_a_forgotten_session(http, registry, said):
    fake = http()
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        fake.unknown, kept = said, set(fake.sessions)
        fake.sessions.clear()
        with pytest.raises(ProtocolError):
            await server.call("echo", {"text": "x"})
        fake.sessions |= kept
        assert (await server.call("echo", {"text": "on"})).text == "echo: on"
        assert server.status.starts == 1


@pytest.mark.parametrize(
    "answer",
    [
        {"content": [], "structuredContent": {"code": -32001, "message": "session not found"}},
        {"content": [{"type": "text", "text": "session expired", "_meta": {"code": -32001}}]},
    ],
)
async def test_a_call_whose_result_speaks_of_a_session_is_not_made_again(http, registry, answer):
    fake = http()
    ran = []

    def call(to, request):
        ran.append(request["params"]["name"])
        fake.result(to, request, answer)

    fake.call = call
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        await server.call("echo", {"text": "x"})
        assert ran == ["echo"]
        assert server.status.starts == 1


async def test_an_error_of_a_call_that_speaks_of_a_session_is_not_a_lost_one(http, registry):
    fake = http()

    def call(to, request):
        body = refusal("the session of user 7 has expired", id=request["id"])
        fake.reply(to, 200, body, content_type="application/json")

    fake.call = call
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        with pytest.raises(ProtocolError, match="user 7"):
            await server.call("echo", {"text": "x"})
        assert server.status.starts == 1


async def test_a_server_that_went_away_is_an_error_that_says_so(http, registry):
    fake = http()
    async with registry() as reg, reg.mcp(fake.url) as server:
        await server.start()
        fake.close()
        with pytest.raises(ConnectError, match="'echo' has no result: ConnectError at 127"):
            await server.call("echo", {"text": "x"})


async def test_a_refusal_says_why_without_the_token(http, registry):
    fake = http("refuse")
    async with registry() as reg, reg.mcp(fake.url, token=TOKEN) as server:
        with pytest.raises(ConnectError, match="HTTP 401") as caught:
            await server.tools()
    assert TOKEN not in str(caught.value)


async def test_where_no_session_has_begun_a_refusal_that_speaks_of_one_is_shown(http, registry):
    fake = http("refuse")
    async with registry() as reg:
        with pytest.raises(ConnectError, match=r"HTTP 401: .*unknown_session"):
            await reg.mcp(f"{fake.url}/unknown_session").tools()


async def test_a_server_that_is_not_there_is_an_error(registry):
    async with registry() as reg:
        with pytest.raises(ConnectError, match=r"did not start: .* at 127\.0\.0\.1: "):
            await reg.mcp("http://127.0.0.1:9/mcp").tools()
