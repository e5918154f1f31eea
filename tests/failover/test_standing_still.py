"""A process that stands still, as after Ctrl-Z, waits for nothing meanwhile; in virtual time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from aiollm import (
    Budget,
    BudgetError,
    ConnectError,
    DeadlineError,
    Finish,
    Price,
    Registry,
    Request,
    Timeouts,
    Usage,
)
from aiollm._agent.tool_runner import ToolRunner
from aiollm._failover.counting import _within
from aiollm._http.last_words import LastWords
from aiollm._http.tokens import Tokens
from aiollm._http.transport import HttpTransport
from aiollm._http.unary import UnaryRequester
from aiollm._time_limits import TimeLimit, Timer, wait
from aiollm._wire.tokens import DynamicToken
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.testing import FakeProvider, Gate
from tests.failover.test_deadlines import StoppedLoop

HOUR = 3600.0
Work = Callable[[asyncio.Event], Awaitable[str]]


class Server:
    """Answers with a head, and then with a body: either may wait for an event."""

    status, headers, content_type = 200, {}, "application/json"

    def __init__(self, *events: asyncio.Event | None) -> None:
        self.events = [*events]
        self.pieces = [b"hello", b""]

    def transport_of(self, _: Provider) -> Server:
        return self

    async def send(self, *_: object) -> Server:
        await self._turn()
        return self

    async def read(self) -> bytes:
        await self._turn()
        return self.pieces.pop(0)

    async def _turn(self) -> None:
        event = self.events.pop(0) if self.events else None
        if event is not None:
            await event.wait()

    def close(self) -> None:
        pass


async def request(server: Server) -> str:
    provider = Provider("p", "x", "http://mem.invalid/v1", ChatCodec())
    requester = UnaryRequester(server)
    reply = await requester.request(
        provider, Timeouts(first_output=10.0), HttpRequest("http://mem.invalid/", {})
    )
    return reply.body.decode()


async def a_head(event: asyncio.Event) -> str:
    return await request(Server(event))


async def a_body(event: asyncio.Event) -> str:
    return await request(Server(None, event))


async def a_tool(event: asyncio.Event) -> str:
    async def said() -> str:
        await event.wait()
        return "hello"

    outcome = await ToolRunner(4).run("said", said, 10.0)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


async def a_token(event: asyncio.Event) -> str:
    async def given() -> str:
        await event.wait()
        return "hello"

    return (await Tokens().get(DynamicToken(given), 10.0)).reveal()


async def last_words(event: asyncio.Event) -> str:
    async def read() -> bytes:
        await event.wait()
        return b"hello"

    # Silent for 8 s, half of `idle`; all that it waits for is one silence.
    return (await LastWords(Timeouts(idle=16.0), 4.0, sure=True).read(read)).decode()


async def room_in_a_budget(event: asyncio.Event, **limits: float) -> str:
    """A second call waits until the first, to which all of the budget belongs, has its answer."""
    gate, request = Gate(), Request("hi", max_output_tokens=10)
    end = Finish("stop", "stop", Usage(1, 1, certainty="exact"))
    options: Any = {"budget": Budget(24e-6), "patience": 10.0}
    async with Registry(env={}, prices={"fake/*": Price(0, 1.0)}) as reg:
        reg.register("fake", FakeProvider([gate, "hi", end], ["hello", end]).provider())
        endless = Timeouts(first_output=None, idle=None, stall=None)
        first = asyncio.create_task(reg.generate("fake/m", request, timeouts=endless, **options))
        await gate.reached(within=None)
        timeouts = Timeouts(**limits)
        second = asyncio.create_task(reg.generate("fake/m", request, timeouts=timeouts, **options))
        await event.wait()
        gate.open()
        await first
        return (await second).text


async def a_connection(event: asyncio.Event) -> str:
    """The name of the server is looked up for so long."""

    async def looked_up(*_: object, **__: object) -> object:
        await event.wait()
        raise socket.gaierror(socket.EAI_NONAME, "hello")

    loop: Any = asyncio.get_running_loop()
    loop.getaddrinfo = looked_up
    transport = HttpTransport()
    try:
        with pytest.raises(ConnectError, match="the host name is unknown"):
            await transport.send(HttpRequest("http://gw.invalid/", {}), 10.0)
    finally:
        await transport.aclose()
    return "hello"


WAITS: list[Work] = [a_head, a_body, a_tool, a_token, a_connection, last_words, room_in_a_budget]


def in_stopped_time(scenario: Callable[[StoppedLoop], Awaitable[Any]]) -> Any:
    loop = StoppedLoop()
    try:
        return loop.run_until_complete(scenario(loop))
    finally:
        loop.close()


@pytest.mark.parametrize("work", WAITS, ids=lambda work: work.__name__)
def test_what_this_process_stood_still_for_is_not_waited(work):
    async def scenario(loop):
        event = asyncio.Event()
        waiting = asyncio.create_task(work(event))
        for _ in range(3):
            await asyncio.sleep(1.5)
            loop.stand_still(HOUR)
        await asyncio.sleep(1.5)
        event.set()
        return await waiting

    assert in_stopped_time(scenario) == "hello"


@pytest.mark.parametrize(("limits", "error"), [({}, BudgetError), ({"total": 20.0}, DeadlineError)])
def test_who_waits_for_a_budget_waits_no_longer_than_its_patience_and_all_of_its_time(
    limits, error
):
    """All time counts for the deadline of a whole call."""

    async def scenario(loop):
        event = asyncio.Event()
        waiting = asyncio.create_task(room_in_a_budget(event, **limits))
        await asyncio.sleep(5)
        if limits:
            loop.stand_still(HOUR)
        await asyncio.sleep(7)
        event.set()
        with pytest.raises(error):
            await waiting

    in_stopped_time(scenario)


@pytest.mark.parametrize("seconds", [0.0, 0.3, 1.0, 2.5])
def test_a_limit_of_time_is_as_long_as_it_says(seconds):
    async def scenario(loop):
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with TimeLimit(seconds) as limit:
                await asyncio.Event().wait()
        assert loop.time() - began == pytest.approx(seconds)
        assert limit.spent == pytest.approx(seconds)

    in_stopped_time(scenario)


def test_the_time_of_another_limit_is_not_its_own():
    async def scenario(_):
        inner = TimeLimit(5.0)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0), inner:
                await asyncio.Event().wait()
        assert not inner.expired()
        assert inner.spent == pytest.approx(1.0)

    in_stopped_time(scenario)


@pytest.mark.parametrize("until", [False, True], ids=["seconds", "a time"])
@pytest.mark.parametrize("pieces", [1, 20])
def test_what_came_while_this_process_stood_still_is_read_first(until, pieces):
    """Though the time is up, and however many turns of the loop it takes to read."""

    async def scenario(loop):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)

            async def read():
                async with TimeLimit(None, loop.time() + 0.8) if until else TimeLimit(0.8):
                    for _ in range(pieces):
                        assert await loop.sock_recv(ours, 1) == b"x"

            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            theirs.send(b"x" * pieces)
            loop.stand_still(HOUR)
            await task

    in_stopped_time(scenario)


@pytest.mark.parametrize("until", [False, True], ids=["seconds", "a time"])
def test_a_loop_that_is_always_late_ends_a_wait_all_the_same(until):
    async def scenario(loop):
        async def busy():
            while True:
                loop.now += 0.2
                await asyncio.sleep(0)

        hog = asyncio.create_task(busy())
        began = loop.time()
        with pytest.raises(TimeoutError):
            async with TimeLimit(None, began + 4.0) if until else TimeLimit(4.0):
                await asyncio.Event().wait()
        assert loop.time() - began <= 6.5
        hog.cancel()

    in_stopped_time(scenario)


def test_a_wait_for_a_future_leaves_it_as_it_is_when_its_time_is_up():
    async def scenario(loop):
        future = loop.create_future()
        await wait(future, 2.0)
        assert not future.done()
        loop.call_later(1.0, future.set_result, None)
        await wait(future, None)
        assert future.done()

    in_stopped_time(scenario)


def test_a_timer_that_went_off_or_was_cancelled_is_in_nobodys_way():
    async def scenario(loop):
        called = []
        timer = Timer(1.0, called.append, 1)
        await asyncio.sleep(2.0)
        timer.cancel()
        another = Timer(1.0, called.append, 2)
        another.cancel()
        another.cancel()
        await asyncio.sleep(2.0)
        assert called == [1]

    in_stopped_time(scenario)


def test_a_limit_that_was_kept_is_in_nobodys_way():
    async def scenario(loop):
        faults = []
        loop.set_exception_handler(lambda _, context: faults.append(context))
        async with TimeLimit(1.0):
            await asyncio.sleep(0)
        await asyncio.sleep(2.0)
        assert faults == []

    in_stopped_time(scenario)


def test_what_a_limit_took_leaves_out_what_this_process_stood_still_for():
    async def scenario(loop):
        async with TimeLimit(5.0) as limit:
            loop.call_later(1.5, loop.stand_still, HOUR)
            await asyncio.sleep(1.5)
        assert limit.spent <= 2.0

    in_stopped_time(scenario)


def test_a_count_of_tokens_leaves_it_out_but_for_the_total():
    async def scenario(loop):
        async def count():
            loop.call_later(1.0, loop.stand_still, HOUR)
            await asyncio.sleep(1.5)
            return await asyncio.sleep(2.0, "counted")

        for which in ("first_output", "total"):
            counted = _within(5.0, which, "too late", count())
            if which == "total":
                with pytest.raises(DeadlineError):
                    await counted
            else:
                assert await counted == "counted"

    in_stopped_time(scenario)
