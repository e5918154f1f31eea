"""Deadlines: each kind of slow server hits the right one, and the error says so."""

from __future__ import annotations

import asyncio
import socket

import pytest

from aiollm import (
    BusyError,
    DeadlineError,
    FailoverError,
    Finish,
    Registry,
    TextDelta,
    Timeouts,
)
from aiollm._failover.deadlines import AttemptDeadlines, Watchdog
from aiollm._http import streaming
from aiollm.events import AttemptStarted
from aiollm.provider import Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.testing import (
    NEVER,
    Answer,
    EndlessHeaders,
    FakeProvider,
    Flood,
    Gate,
    Hang,
    Raw,
    Trickle,
    chat,
)
from tests.virtual_time import VirtualLoop

pytestmark = pytest.mark.loops

OK = chat("Hel", "lo")
PING, HALF = b": ping\n\n", b'data: {"choices":[{"index":0,"delta":{"content":"Half"}}]}\n\n'
NONE = Timeouts(connect=None, first_output=None, idle=None, stall=None, total=None)


def only(**limits: float) -> Timeouts:
    return Timeouts(**{name: limits.get(name) for name in NONE.__struct_fields__})


async def failed(reg: Registry, spec: str = "a/m", **options) -> DeadlineError:
    with pytest.raises((FailoverError, DeadlineError)) as caught:
        await reg.stream(spec, "hi", **options).collect()
    error = caught.value
    if isinstance(error, FailoverError):
        (error,) = error.exceptions
    assert isinstance(error, DeadlineError)
    assert isinstance(error, TimeoutError)
    return error


def test_the_defaults_are_the_documented_ones():
    assert Timeouts() == Timeouts(connect=5, first_output=60, idle=60, stall=300, total=None)


async def test_a_server_that_accepts_no_connection_meets_the_connect_deadline(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server.unanswered_url()})
    error = await failed(reg, timeouts=only(connect=0.1))
    assert error.which == "connect"
    assert error.after == 0.1


@pytest.mark.parametrize("fault", [Hang(), Hang(after=0), Trickle(0.01), EndlessHeaders(0.05)])
async def test_a_server_without_output_meets_the_first_output_deadline(serve, registry, fault):
    server = await serve(fault)
    error = await failed(registry({"a": server}), timeouts=only(first_output=0.1))
    assert error.which == "first_output"
    assert str(error.target) == "a/m"
    await server.wait_idle()  # the time may be over before it has accepted the connection


async def test_headers_and_then_nothing_is_idle(serve, registry):
    server = await serve(Hang(after=0))
    error = await failed(registry({"a": server}), timeouts=only(idle=0.1, first_output=30))
    assert error.which == "idle"


async def test_silence_after_output_is_idle_and_keeps_the_partial(serve, registry):
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    server = await serve(Raw((head + HALF, Gate())))  # at once: no silence comes between them
    error = await failed(registry({"a": server}), timeouts=only(idle=0.1))
    assert error.which == "idle"
    assert error.partial.text == "Half"


async def test_comments_are_life(serve, registry):
    server = await serve(Flood(every=0.01))
    error = await failed(registry({"a": server}), timeouts=only(idle=5, first_output=0.2))
    assert error.which == "first_output"


async def test_comments_after_output_are_no_output(serve, registry):
    server = await serve(Flood(PING, every=0.01))
    error = await failed(registry({"a": server}), timeouts=only(idle=5, stall=0.2))
    assert error.which == "stall"
    server.behave(Flood(HALF, every=0.01))
    error = await failed(registry({"a": server}), timeouts=only(stall=5, total=0.2))
    assert error.which == "total"


async def test_a_byte_at_a_time_is_life_but_no_output(serve, registry):
    server = await serve(Trickle(0.01))
    error = await failed(registry({"a": server}), timeouts=only(idle=5, stall=0.2))
    assert error.which == "stall"


async def test_a_retry_never_waits_past_the_total(serve, registry):
    server = await serve(Hang())
    reg = registry({"a": server}, retries=2, cooldown=60)
    error = await failed(reg, timeouts=only(first_output=0.05, total=10))
    assert error.which == "first_output"
    assert server.counts.requests <= 1  # the time may be over before it has come


async def test_deadlines_of_the_dsn_win_over_the_registrys_and_the_calls_over_both(serve):
    server = await serve(Hang())
    dsn = f"openai+{server.url}/v1?first_output_timeout=0.05"
    async with Registry(env={"LLM_A": dsn}, retries=0, timeouts=Timeouts(idle=30)) as reg:
        assert reg._catalog.timeouts_of(reg.provider("a")) == Timeouts(first_output=0.05, idle=30)
        assert (await failed(reg)).after == 0.05
        reg.reset_health()
        assert (await failed(reg, timeouts=only(first_output=0.07))).after == 0.07


async def test_a_deadline_leaves_the_callers_own_timeout_alone(serve, registry):
    server = await serve(Hang())
    reg = registry({"a": server})
    with pytest.raises(TimeoutError) as caught:
        async with asyncio.timeout(0.1):
            await reg.stream("a/m", "hi").collect()
    assert not isinstance(caught.value, DeadlineError)
    assert reg.health()[0].failed == 0


async def test_at_most_max_concurrency_streams_run_and_waiters_are_first_come_first_served(serve):
    gate = Gate()
    server = await serve(chat("x", gate))
    dsn = f"openai+{server.url}/v1?max_concurrency=2"
    async with Registry(env={"LLM_A": dsn}) as reg:
        events = []
        reg.on_event(events.append)
        tasks = [
            asyncio.create_task(reg.stream(f"a/m{number}", "hi").collect()) for number in range(5)
        ]
        await gate.reached(2)
        assert server.counts.requests == 2
        gate.open()
        await asyncio.gather(*tasks)
        # Not in the order in which the server sees them: a new connection takes its time.
        order = [each.target.model for each in events if isinstance(each, AttemptStarted)]
        assert order == ["m0", "m1", "m2", "m3", "m4"]
        assert server.counts.requests == 5
        assert {each.held for each in reg.limits()} == {0}


async def test_a_wait_for_a_slot_ends_with_the_patience_and_harms_nobody(serve):
    gate = Gate()
    server = await serve(chat("x", gate))
    dsn = f"openai+{server.url}/v1?max_concurrency=1"
    async with Registry(env={"LLM_A": dsn}, retries=0) as reg:
        running = asyncio.create_task(reg.stream("a/m", "hi").collect())
        await gate.reached()
        for options in ({"timeouts": only(first_output=0.05)}, {"patience": 0.05}):
            with pytest.raises(FailoverError) as caught:
                await reg.generate("a/m", "hi", **options)
            (error,) = caught.value.exceptions
            assert isinstance(error, BusyError)
            assert error.kind == "slots"
            assert "1 of 1 slots are held by calls 1" in str(error)
        assert reg.health()[0].failed == 0
        gate.open()
        await running
        assert reg.limits()[0].held == 0
        assert server.counts.requests == 1


async def test_a_slot_granted_to_a_cancelled_waiter_goes_to_the_next(serve):
    server = await serve(OK)
    dsn = f"openai+{server.url}/v1?max_concurrency=1"
    async with Registry(env={"LLM_A": dsn}, retries=0) as reg:
        holder = reg.stream("a/m", "hi")
        await anext(holder)
        first, second = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(2)]
        while reg.limits()[0].waiting < 2:
            await asyncio.sleep(0)
        await holder.aclose()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).text == "Hello"
        assert (reg.limits()[0].held, reg.limits()[0].waiting) == (0, 0)


async def test_a_cancelled_waiter_takes_no_slot(serve):
    server = await serve(OK)
    dsn = f"openai+{server.url}/v1?max_concurrency=1"
    async with Registry(env={"LLM_A": dsn}, retries=0) as reg:
        holder = reg.stream("a/m", "hi")
        await anext(holder)
        waiter = asyncio.create_task(reg.generate("a/m", "hi"))
        while not reg.limits()[0].waiting:
            await asyncio.sleep(0)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert reg.limits()[0].waiting == 0
        await holder.aclose()
        assert reg.limits()[0].held == 0


async def test_a_deadline_leaves_no_cancellation_behind(serve, registry):
    server = await serve(Hang())
    await failed(registry({"a": server}), timeouts=only(first_output=0.05))
    assert asyncio.current_task().cancelling() == 0


@pytest.mark.parametrize("idle", [None, 30])
async def test_a_stall_is_noticed_although_all_other_deadlines_are_later(serve, registry, idle):
    pings = Answer(200, {"content-type": "text/event-stream"}, (b": ping\n\n", Gate()), "chunked")
    server = await serve(pings)
    reg = registry({"a": server})
    error = await failed(reg, timeouts=only(stall=0.1, first_output=30, idle=idle))
    assert error.which == "stall"


@pytest.mark.parametrize(
    ("limits", "after_output", "when", "which"),
    [
        ({"stall": 2, "first_output": 15, "idle": 15}, False, 2, "stall"),
        ({"stall": 2, "first_output": 15, "idle": 15}, True, 3, "stall"),
        ({"stall": 2, "first_output": 15}, True, 3, "stall"),
        ({"stall": 2}, True, 3, "stall"),
        ({"stall": 2, "idle": 1}, True, 3, "stall"),
        ({"stall": 20, "first_output": 2}, True, 21, "stall"),
        ({"stall": 20, "first_output": 2}, False, 2, "first_output"),
        ({"stall": 20, "total": 5}, True, 5, "total"),
    ],
)
def test_a_stall_is_over_to_the_second_whatever_the_other_deadlines(
    limits, after_output, when, which
):
    """A server pings twice a second, and says something after one second, or never."""

    class Pinging(VirtualReply):
        async def read(self):
            await asyncio.sleep(0.5)
            said = after_output and loop.time() == 1.0
            return HALF if said else PING

    def adapter(provider, _, target, request, timeouts):
        return streaming.stream(provider, Pinging(), target, request, timeouts)

    async def call():
        chat = {"chat": Operation(adapter=adapter)}
        row = Provider("a", "openai", "http://mem.invalid/v1", ChatCodec(), operations=chat)
        async with Registry(env={}, retries=0) as reg:
            reg.register("a", row)
            error = await failed(reg, timeouts=only(**limits))
            assert loop.time() == when
            assert error.which == which
            assert not after_output or error.partial.text == "Half"

    loop = VirtualLoop(0.0)
    try:
        loop.run_until_complete(call())
    finally:
        loop.close()


def test_one_total_covers_the_whole_chain_and_harms_no_target():
    async def call():
        async with Registry(env={}, retries=0) as reg:
            for name in "ab":
                hangs = FakeProvider(default=[NEVER])
                reg.register(name, hangs.provider(base_url=f"fake://{name}"))
            error = await failed(reg, "a/m,b/m", timeouts=only(first_output=15, total=20))
            assert (error.which, loop.time()) == ("total", 20)
            assert [(str(h.target), h.failed) for h in reg.health()] == [("a/m", 1), ("b/m", 0)]

    loop = VirtualLoop(0.0)
    try:
        loop.run_until_complete(call())
    finally:
        loop.close()


class VirtualReply:
    """A transport and its only reply."""

    status = 200
    content_type = "text/event-stream"
    has_body = True

    def __init__(self):
        self.headers = {}

    async def send(self, request, connect):
        return self

    def close(self):
        pass


class StoppedLoop(VirtualLoop):
    """A virtual loop whose process can be stopped: it goes on with a turn that reads nothing."""

    reads_nothing = False

    def stand_still(self, seconds):
        self.now += seconds
        self.reads_nothing = True

    def _process_events(self, event_list):
        if self.reads_nothing:
            self.reads_nothing = False
        else:
            super()._process_events(event_list)


@pytest.mark.parametrize("pieces", [1, 20])
def test_bytes_that_came_while_this_process_stood_still_are_not_late(pieces):
    """However many turns of the loop it takes to read them."""

    async def call():
        watchdog = Watchdog()
        deadlines = AttemptDeadlines(watchdog, only(first_output=10.0), None)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)

            async def read():
                deadlines.begin(asyncio.current_task())
                for _ in range(pieces):
                    assert await loop.sock_recv(ours, 1) == b"x"
                assert not deadlines.end()

            task = asyncio.create_task(read())
            await asyncio.sleep(0)
            theirs.send(b"x" * pieces)
            loop.stand_still(30.0)
            await task
        deadlines.stop()
        watchdog.close()

    loop = StoppedLoop()
    try:
        loop.run_until_complete(call())
    finally:
        loop.close()


@pytest.mark.parametrize("end", ["deadline", "closed"])
async def test_an_answer_that_is_complete_is_lost_neither_to_a_deadline_nor_to_a_close(end):
    lingers = asyncio.Event()

    async def answer(provider, transport, target, request, timeouts):
        yield [TextDelta("Hello"), Finish("stop")]
        lingers.set()
        await asyncio.Event().wait()

    async def close():
        await lingers.wait()
        await reg.aclose()

    reg = Registry(env={}, timeouts=only(idle=0.1) if end == "deadline" else NONE)
    chat = {"chat": Operation(adapter=answer)}
    row = Provider("mem", "openai", "http://mem.invalid/v1", ChatCodec(), operations=chat)
    reg.register("mem", row)
    async with reg, asyncio.TaskGroup() as tasks, reg.stream("mem/m", "hi") as stream:
        if end == "closed":
            tasks.create_task(close())
        response = await stream.collect()
    assert response.text == "Hello"
    assert [each.outcome for each in stream.attempts] == ["success"]
