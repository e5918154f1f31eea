"""Tokens from callables: kept until they expire, one flight for many, renewed once after a 401."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import threading
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from aiollm import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    FailoverError,
    LLMError,
    LocalError,
)
from aiollm._http.tokens import UNKNOWN_LIFE, Tokens
from aiollm._wire.tokens import DynamicToken
from aiollm.testing import Answer, chat

DENIED = Answer(401, {"content-type": "application/json"}, b'{"error": {"message": "expired"}}')


class AccessToken(NamedTuple):
    """What azure-identity returns."""

    token: str
    expires_on: int


class Credentials:
    """What google-auth has after a refresh; its expiry has no zone."""

    token = "ya29.t"
    expiry = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)


def only(*good: str):
    """Answer well to these tokens alone."""

    def answer(request):
        return chat("well") if request.headers.get("authorization") in good else DENIED

    return answer


def numbered(calls: list[int], life: float = 3600.0):
    async def get_token():
        calls.append(len(calls) + 1)
        await asyncio.sleep(0)
        return f"token-{len(calls)}", time.time() + life

    return get_token


async def failure(reg, spec: str = "gw/m") -> Exception:
    with pytest.raises(FailoverError) as caught:
        await reg.generate(spec, "hi")
    return caught.value.last


SOON = time.time() + 3600


@pytest.mark.parametrize(
    ("given", "scheme", "header", "value"),
    [
        ("t", "openai", "authorization", "Bearer t"),
        (("t", SOON), "openai", "authorization", "Bearer t"),
        (("t", datetime.now(UTC) + timedelta(hours=1)), "openai", "authorization", "Bearer t"),
        (AccessToken("t", int(SOON)), "openai", "authorization", "Bearer t"),
        (Credentials(), "google", "authorization", "Bearer ya29.t"),
        (AccessToken("t", int(SOON)), "anthropic", "authorization", "Bearer t"),
        ("Bearer t", "anthropic", "authorization", "Bearer t"),
        ("t", "anthropic", "x-api-key", "t"),
        ("t", "google", "x-goog-api-key", "t"),
        ("t", "ollama", "authorization", "Bearer t"),
        ("t", "llama-swap", "authorization", "Bearer t"),
    ],
)
async def test_what_a_callable_may_return_and_where_it_goes(
    serve, registry, given, scheme, header, value
):
    server = await serve(Answer(500, {}, b""))
    reg = registry()
    reg.register("gw", server.dsn(scheme, token=""), token=lambda: given)
    for work in (reg.generate("gw/m", "hi"), reg.models("gw")):
        with contextlib.suppress(LLMError):
            await work
    assert server.requests
    for request in server.requests:
        sent = {"authorization", "x-api-key", "x-goog-api-key"} & request.headers.keys()
        assert sent == {header}
        assert request.headers[header] == value


class Callables:
    """The same token by every kind of callable, and the thread it was asked on."""

    def __init__(self) -> None:
        self.threads: list[int] = []

    def plain(self) -> str:
        self.threads.append(threading.get_ident())
        return "t"

    async def coroutine(self) -> str:
        return self.plain()

    def __call__(self) -> str:
        return self.plain()


class AsyncCall(Callables):
    async def __call__(self) -> str:
        return self.plain()


@pytest.mark.parametrize(
    ("make", "on_loop"),
    [
        (lambda each: each.plain, False),
        (lambda each: each, False),
        (lambda each: functools.partial(each.plain), False),
        (lambda each: each.coroutine, True),
        (lambda each: functools.partial(each.coroutine), True),
        (lambda each: lambda *_: each.coroutine(), True),
    ],
)
async def test_a_callable_may_block_or_await(serve, registry, make, on_loop):
    server = await serve(only("Bearer t"))
    source = Callables()
    reg = registry()
    reg.register("gw", server.dsn(), token=make(source))
    assert (await reg.generate("gw/m", "hi")).text == "well"
    assert (source.threads == [threading.get_ident()]) == on_loop


async def test_an_object_with_an_async_call_is_awaited(serve, registry):
    server = await serve(only("Bearer t"))
    reg = registry()
    reg.register("gw", server.dsn(), token=AsyncCall())
    assert (await reg.generate("gw/m", "hi")).text == "well"


async def test_200_calls_share_one_flight_and_one_renewal(serve, registry):
    calls: list[int] = []
    server = await serve(only("Bearer token-2"))
    reg = registry()
    reg.register("gw", server.dsn(), token=numbered(calls))
    answers = await asyncio.gather(*(reg.generate("gw/m", "hi") for _ in range(200)))
    assert {each.text for each in answers} == {"well"}
    assert calls == [1, 2]
    assert all(len(each.attempts) == 1 for each in answers)
    assert [each.failed for each in reg.health()] == [0]
    await reg.generate("gw/m", "hi")
    assert calls == [1, 2]


async def test_a_token_that_stays_refused_is_renewed_once_a_call(serve, registry):
    calls: list[int] = []
    server = await serve(DENIED)
    reg = registry()
    reg.register("gw", server.dsn(), token=numbered(calls))
    assert isinstance(await failure(reg), AuthenticationError)
    assert (len(calls), len(server.requests)) == (2, 2)
    reg.register("same", server.dsn(), token=lambda: "t")
    assert isinstance(await failure(reg, "same/m"), AuthenticationError)
    assert len(server.requests) == 3, "the same token was tried again"


async def test_a_token_expires_shortly_before_its_time():
    now = 1000.0
    calls: list[int] = []
    tokens = Tokens(clock=lambda: now)
    source = DynamicToken(numbered(calls, life=3600))
    for at, expected in [(0, 1), (3500, 1), (3545, 2), (3600, 2), (7150, 3)]:
        now = 1000.0 + at
        await tokens.get(source, 5)
        assert len(calls) == expected, at


@pytest.mark.parametrize(("life", "kept"), [(10, 9), (None, UNKNOWN_LIFE), (-5, 0)])
async def test_short_unknown_and_past_expiries(monkeypatch, life, kept):
    now, calls = 0.0, []
    monkeypatch.setattr(time, "time", lambda: 1e9)  # a part of a second counts

    async def get_token():
        calls.append(1)
        return "t" if life is None else ("t", 1e9 + life)

    tokens = Tokens(clock=lambda: now)
    source = DynamicToken(get_token)
    await tokens.get(source, 5)
    now = kept - 0.5
    await tokens.get(source, 5)
    assert len(calls) == (1 if kept else 2), "one that has expired is used, but not kept"
    now = kept + 0.5
    await tokens.get(source, 5)
    assert len(calls) == (2 if kept else 3)


def raises(error: BaseException):
    def get_token():
        raise error

    return get_token


class NoToken:
    token = None


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (raises(OSError("login expired")), "raised OSError: login expired"),
        (raises(StopIteration()), "raised RuntimeError: StopIteration"),
        (raises(SystemExit(3)), "raised RuntimeError: SystemExit"),
        (raises(ConfigError("my own")), "raised ConfigError: my own"),
        (lambda: None, "returned NoneType: return a str"),
        (lambda: b"t", "returned bytes"),
        (lambda: "", "returned no text"),
        (lambda: "Bearer ", "returned no text"),
        (lambda: "t\n", "strip() it"),
        (lambda: "t\r\nX: y", "returned no token"),
        (lambda: ("t", "soon"), "expiry is of type str"),
        (lambda: ("t", 1, 2), "returned tuple"),
        (lambda: {"access_token": "t"}, "returned dict"),
        (NoToken, "returned NoneType"),
    ],
)
async def test_a_callable_that_fails_is_named_and_harms_no_server(serve, registry, call, reason):
    server = await serve(chat("well"))
    reg = registry({"ok": server.dsn()})
    reg.register("gw", server.dsn(), token=call)
    error = await failure(reg)
    assert isinstance(error, LocalError)
    assert reason in str(error)
    assert server.counts.opened == 0
    assert [each.state for each in reg.health()] == ["healthy"]
    assert (await reg.generate("gw/m,ok/m", "hi")).target.provider == "ok"


async def test_a_cancelled_callable_is_a_failure_and_not_the_callers(serve, registry):
    async def get_token():
        raise asyncio.CancelledError

    reg = registry()
    reg.register("gw", "openai://h", token=get_token)
    assert "was cancelled" in str(await failure(reg))


@pytest.mark.parametrize("kind", ["async", "blocking"])
async def test_one_that_hangs_meets_the_connect_deadline(serve, registry, kind):
    server = await serve(chat("well"))
    started: list[int] = []
    threads = set(threading.enumerate())
    release = threading.Event()

    async def waits():
        started.append(1)
        await asyncio.Event().wait()

    def blocks():
        release.wait()
        return "t"

    reg = registry()
    reg.register("gw", server.dsn(connect_timeout=0.05), token=waits if kind == "async" else blocks)
    for _ in range(2):
        error = await failure(reg)
        assert isinstance(error, LocalError)
        assert "gave no token within 0.05 s (connect)" in str(error)
    names = [each.name for each in set(threading.enumerate()) - threads]
    release.set()
    if kind == "async":
        assert len(started) == 2
    else:
        assert names.count("aiollm-token") == 1, "a second thread was started"
    assert [each.state for each in reg.health()] == ["healthy"]


async def test_cancelling_one_caller_leaves_the_flight_to_the_others(serve, registry):
    server = await serve(only("Bearer t"))
    gate, calls = asyncio.Event(), []

    async def get_token():
        calls.append(1)
        await gate.wait()
        return "t"

    reg = registry()
    reg.register("gw", server.dsn(), token=get_token)
    tasks = [asyncio.create_task(reg.generate("gw/m", "hi")) for _ in range(3)]
    await until(lambda: calls)
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    gate.set()
    assert [(await each).text for each in tasks[1:]] == ["well", "well"]
    assert calls == [1]


async def test_the_last_caller_who_leaves_ends_the_flight(registry):
    ended = asyncio.Event()
    began = asyncio.Event()

    async def get_token():
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    reg = registry()
    reg.register("gw", "openai://h", token=get_token)
    task = asyncio.create_task(reg.generate("gw/m", "hi"))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await ended.wait()


@pytest.mark.parametrize("work", ["chat", "models"])
async def test_closing_the_registry_ends_the_wait(registry, work):
    began = asyncio.Event()

    async def get_token():
        began.set()
        await asyncio.Event().wait()

    reg = registry()
    reg.register("gw", "openai://h", token=get_token)
    calling = reg.generate("gw/m", "hi") if work == "chat" else reg.models("gw")
    task = asyncio.create_task(calling)
    await began.wait()
    await reg.aclose()
    with pytest.raises(ClosedError):
        await task


async def test_a_crowd_of_calls_survives_tokens_that_expire_and_callers_who_leave(serve, registry):
    calls: list[int] = []
    current = {"n": 0}

    async def get_token():
        calls.append(1)
        await asyncio.sleep(0.001)
        current["n"] += 1
        return f"token-{current['n']}", time.time() + 0.02

    server = await serve(lambda _: chat("well"))
    reg = registry()
    reg.register("gw", server.dsn(), token=get_token)
    tasks = [asyncio.create_task(reg.generate("gw/m", "hi")) for _ in range(200)]
    for number, task in enumerate(tasks):
        await asyncio.sleep(0)
        if number % 3 == 0:
            task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    others = [each for number, each in enumerate(results) if number % 3]
    assert {each.text for each in others} == {"well"}
    assert len(calls) < 200
    assert all(
        each.headers["authorization"].startswith("Bearer token-") for each in server.requests
    )


async def test_a_real_token_server_is_asked_by_a_blocking_client(serve, registry):
    def issue(_request):
        body = {"access_token": "issued", "expires_in": 3600}
        return Answer(200, {"content-type": "application/json"}, json.dumps(body).encode())

    issuer, server = await serve(issue), await serve(only("Bearer issued"))

    def get_token():
        with urllib.request.urlopen(issuer.url) as reply:
            answer = json.load(reply)
        return answer["access_token"], time.time() + answer["expires_in"]

    reg = registry()
    reg.register("gw", server.dsn(), token=get_token)
    for _ in range(3):
        assert (await reg.generate("gw/m", "hi")).text == "well"
    assert len(issuer.requests) == 1


async def test_a_token_that_is_echoed_is_masked_also_after_a_renewal(serve, registry):
    def echo(request):
        said = request.headers["authorization"].removeprefix("Bearer ")
        body = json.dumps({"error": {"message": f"bad {said}"}}).encode()
        return Answer(401, {"content-type": "application/json"}, body)

    server = await serve(echo)
    reg = registry()
    reg.register("gw", server.dsn(), token=numbered([]))
    with pytest.raises(FailoverError) as caught:
        await reg.generate("gw/m", "hi")
    shown = f"{caught.value.last!r}{caught.value.last}{vars(caught.value.last)}{reg.describe()}"
    assert "token-1" not in shown
    assert "token-2" not in shown


async def test_a_callable_does_for_the_vendors_own_host_and_replaces_a_key():
    from aiollm import Registry

    reg = Registry(env={})
    reg.register("a", "openai://api.openai.com", token=lambda: "t")
    reg.register("b", "openai://old@h", token="new")
    assert reg.provider("a").token.changes
    assert reg.provider("b").token.reveal() == "new"
    for wrong in ("", 5):
        with pytest.raises(ConfigError, match="token: expected"):
            reg.register("c", "openai://h", token=wrong)


async def until(holds) -> None:
    while not holds():
        await asyncio.sleep(0)
