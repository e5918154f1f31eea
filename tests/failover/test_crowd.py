"""Many calls at once: they wait in line, one probes, a 429 paces, spreads share the load."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from aiollm import (
    AuthenticationError,
    BusyError,
    ConfigError,
    FailoverError,
    Limits,
    OverloadedError,
    Registry,
    Request,
    SpecError,
    Usage,
)
from aiollm._failover import health, pace
from aiollm.events import CallQueued, CallReleased, TargetOpened, TargetPaced
from aiollm.testing import NEVER, Answer, FakeProvider, FaultServer, Gate, chat, tool_call
from aiollm.types import Finish

pytestmark = pytest.mark.loops

OK = chat("ok")


def failing(status, **headers):
    return Answer(status, headers, {"error": {"message": "no"}})


async def outcomes(reg, spec, count, **options):
    """Make calls at once; return how many ended in what."""

    async def one():
        try:
            return (await reg.generate(spec, "hi", **options)).text
        except FailoverError as error:
            return type(error.last).__name__

    return Counter(await asyncio.gather(*(one() for _ in range(count))))


def idle(reg):
    return all((each.held, each.waiting) == (0, 0) for each in reg.limits())


@pytest.fixture
async def serve():
    """Start servers that end with the test."""
    running = []

    async def start(*scripts):
        running.append(await FaultServer(*scripts).__aenter__())
        return running[-1]

    yield start
    for server in running:
        await server.__aexit__(None, None, None)


async def test_an_outage_costs_its_probes_and_loses_no_call(serve):
    """The server refuses the attempts under way and two probes; then all calls are let through."""
    left = 12

    def script(_):
        nonlocal left
        left -= 1
        return failing(503) if left > 0 else OK

    server = await serve(script)
    opened = []
    async with Registry(env={"LLM_A": server.dsn("openai")}, cooldown=0.05) as reg:
        reg.on_event(
            lambda event: opened.append(event) if isinstance(event, TargetOpened) else None
        )
        assert await outcomes(reg, "a/m", 100) == {"ok": 100}
        assert idle(reg)
    refused = 11
    assert server.counts.requests == 100 + refused
    # What was under way when it opened lengthens nothing: only failed probes open it again.
    assert len(opened) <= refused - 7


async def test_calls_that_wait_behind_a_probe_of_a_dead_target_send_nothing(serve):
    server = await serve(failing(503))
    async with Registry(env={"LLM_A": server.dsn("openai")}, retries=0, cooldown=1000) as reg:
        assert await outcomes(reg, "a/m", 1) == {"OverloadedError": 1}
        assert await outcomes(reg, "a/m", 50, max_wait=0.2) == {"OverloadedError": 50}
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", "hi", max_wait=0.1)
    assert caught.value.attempts == ()
    assert isinstance(caught.value.last, OverloadedError)
    assert caught.value.last.retry_after > 0
    assert server.counts.requests == 1


async def test_the_verdict_on_a_wrong_key_is_shared(serve, monkeypatch):
    monkeypatch.setattr(health, "MISCONFIGURED_PROBE_EVERY", 0.1)
    server = await serve(failing(401))
    async with Registry(env={"LLM_A": server.dsn("openai")}) as reg:
        await outcomes(reg, "a/m", 1)
        # The next probe is due soon, and the one after it never, however slow the machine is.
        monkeypatch.setattr(health, "MISCONFIGURED_PROBE_EVERY", 1000.0)
        assert await outcomes(reg, "a/m", 200) == {AuthenticationError.__name__: 200}
        assert server.counts.requests == 2
        assert idle(reg)


async def test_a_429_paces_and_is_no_illness(serve, monkeypatch):
    monkeypatch.setattr(pace, "FIRST_BACKOFF", 0.05)
    refusals = iter([False] * 3 + [True] * 5)
    server = await serve(lambda _: failing(429) if next(refusals, False) else OK)
    seen = []
    async with Registry(env={"LLM_A": server.dsn("openai")}, retries=1) as reg:
        reg.on_event(seen.append)
        assert await outcomes(reg, "a/m", 20, patience=30) == {"ok": 20}
        (state,) = reg.health()
        assert (state.state, state.failed) == ("healthy", 0)
        assert reg.limits()[0].pace is not None
        assert idle(reg)
    kinds = Counter(type(event) for event in seen)
    assert kinds[TargetPaced] == 5
    assert kinds[CallQueued] == kinds[CallReleased] >= 5
    assert not kinds[TargetOpened]


async def test_without_retries_each_target_is_asked_once_a_429_included(serve):
    server = await serve(failing(429))
    async with Registry(env={"LLM_A": server.dsn("openai")}, retries=0) as reg:
        assert await outcomes(reg, "a/m", 1) == {"RateLimitError": 1}
    assert server.counts.requests == 1


async def test_a_chain_uses_what_is_free(serve):
    gate = Gate()
    a, b = await serve(chat("a", gate)), await serve(chat("b", gate))
    env = {"LLM_A": a.dsn("openai", max_concurrency=2), "LLM_B": b.dsn("openai", max_concurrency=2)}
    async with Registry(env=env) as reg:
        calls = asyncio.create_task(outcomes(reg, "a/m,b/m", 6))
        await gate.reached(4)
        assert (a.counts.requests, b.counts.requests) == (2, 2)
        gate.open()
        assert sum((await calls).values()) == 6
        assert idle(reg)


async def test_a_spread_shares_the_load_by_weight_and_falls_to_siblings(serve):
    gate = Gate()
    a, b = await serve(chat("a", gate)), await serve(chat("b", gate))
    async with Registry(env={"LLM_A": a.dsn("openai"), "LLM_B": b.dsn("openai")}) as reg:
        calls = asyncio.create_task(outcomes(reg, "3*a/m&b/m", 8))
        await gate.reached(8)
        assert (a.counts.requests, b.counts.requests) == (6, 2)
        gate.open()
        assert await calls == {"a": 6, "b": 2}
        a.behave(failing(503))
        assert await outcomes(reg, "3*a/m&b/m", 8) == {"b": 8}


async def test_races_and_spreads_do_not_mix():
    async with Registry(env={"LLM_A": "openai+http://a", "LLM_B": "openai+http://b"}) as reg:
        with pytest.raises(SpecError, match=r"\^"):
            reg.stream("a/x|b/x&a/y", "hi")


async def test_a_request_above_a_whole_limit_moves_on_at_once(serve):
    a, b = await serve(OK), await serve(OK)
    async with Registry(env={"LLM_A": a.dsn("openai", tpm=10), "LLM_B": b.dsn("openai")}) as reg:
        long = "word " * 100
        assert (await reg.generate("a/m,b/m", long)).target.provider == "b"
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", long)
        assert isinstance(caught.value.last, BusyError)
        assert caught.value.last.kind == "limit"
        with pytest.raises(FailoverError):
            await reg.generate("a/m", Request("hi", max_output_tokens=20))
    assert a.counts.requests == 0


@pytest.mark.parametrize(
    ("limits", "asked"),
    [
        # An answer may be shorter than it is allowed to be.
        ({"otpm": 50}, Request("hi", max_output_tokens=64_000)),
        ({"tpm": 50}, "hi"),
        # The estimate of the prompt may be too high.
        ({"itpm": 90}, "word " * 100),
    ],
)
async def test_a_request_that_may_fit_a_limit_is_sent(serve, limits, asked):
    server = await serve(OK)
    async with Registry(env={"LLM_A": server.dsn("openai", **limits)}) as reg:
        assert (await reg.generate("a/m", asked)).text == "ok"


async def test_input_that_the_cache_held_is_given_back_to_the_limit():
    """Anthropic does not count it."""
    usage = Usage(input_tokens=5000, cached_tokens=4900, output_tokens=10, certainty="exact")
    provider = FakeProvider(["ok", Finish("stop", usage=usage)]).provider()
    async with Registry(env={}) as reg:
        reg.register("a", provider, limits=Limits(itpm=60_000, tpm=60_000))
        reg._health.clock = reg._gate.now = lambda: 1000.0  # what was used flows off with time
        await reg.generate("a/m", "word " * 4000)
        used = reg.limits()[0].used
    assert used["input_tokens"] <= 100
    assert 4900 < used["tokens"] <= 5010


async def test_declared_limits_hold_calls_back_before_anything_is_sent(serve):
    server = await serve(OK)
    async with Registry(env={}) as reg:
        reg.register("a", server.dsn("openai"), limits=Limits(rpm=1))
        assert await outcomes(reg, "a/m", 1) == {"ok": 1}
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", "hi", patience=0.1)
        assert isinstance(caught.value.last, BusyError)
        assert caught.value.last.kind == "pace"
        assert "its limit of 1 requests a minute allows the next" in str(caught.value.last)
        assert 0 < caught.value.retry_after <= 61
    assert server.counts.requests == 1


async def test_two_names_of_one_host_and_key_share_the_lower_limits_with_a_warning(serve, caplog):
    server = await serve(OK)
    env = {"LLM_A": server.dsn("openai", rpm=60), "LLM_B": server.dsn("openai", rpm=6)}
    async with Registry(env=env) as reg:
        assert await outcomes(reg, "a/m", 1) == {"ok": 1}
        assert not caplog.records
        with pytest.raises(FailoverError):
            await reg.generate("b/m", "hi", patience=0)
    assert [record.getMessage() for record in caplog.records] == [
        "a and b share a host and a key, so the lowest of their limits apply to all of them"
    ]


async def test_limits_are_learnt_from_the_headers_of_an_answer(serve):
    headers = {
        "content-type": "text/event-stream",
        "x-ratelimit-limit-requests": "1",
        "x-ratelimit-remaining-requests": "0",
    }
    server = await serve(Answer(200, headers, OK.body, OK.framing))
    async with Registry(env={"LLM_A": server.dsn("openai")}) as reg:
        await reg.generate("a/m", "hi")
        assert reg.limits()[0].learnt == {"requests": 1}
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", "hi", patience=0.1)
        assert isinstance(caught.value.last, BusyError)
    assert server.counts.requests == 1


@pytest.mark.parametrize("turns", range(4))
async def test_calls_cancelled_while_they_wait_leave_nothing(serve, turns):
    gate = Gate()
    server = await serve(chat("ok", gate))
    env = {"LLM_A": server.dsn("openai", max_concurrency=1, rpm=6000)}
    async with Registry(env=env) as reg:
        holder = asyncio.create_task(reg.generate("a/m", "hi"))
        await gate.reached()
        used = reg.limits()[0].used["requests"]
        waiting = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(250)]
        while reg.limits()[0].waiting < len(waiting):
            await asyncio.sleep(0)
        if turns % 2:
            gate.open()  # grants and cancellations meet
        for _ in range(turns):
            await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        gate.open()
        await holder
        assert idle(reg)
        assert reg.limits()[0].used["requests"] <= used + server.counts.requests


async def test_closing_the_registry_ends_every_wait(serve):
    gate = Gate()
    server = await serve(chat("ok", gate))
    reg = Registry(env={"LLM_A": server.dsn("openai", max_concurrency=1)})
    holder = asyncio.create_task(reg.generate("a/m", "hi"))
    await gate.reached()
    waiting = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(20)]
    while reg.limits()[0].waiting < len(waiting):
        await asyncio.sleep(0)
    await reg.aclose()
    ends = await asyncio.gather(holder, *waiting, return_exceptions=True)
    assert all(isinstance(each, Exception) for each in ends)


async def test_a_call_made_while_the_only_slot_is_read_waits_out_its_patience_and_learns_why(serve):
    server = await serve(chat("one", "two"))
    async with Registry(env={"LLM_A": server.dsn("openai", max_concurrency=1)}) as reg:
        async with reg.stream("a/m", "hi") as stream:
            await anext(stream)
            with pytest.raises(FailoverError) as caught:
                await reg.generate("a/m", "inside", patience=0.05)
        assert isinstance(caught.value.last, BusyError)
        assert caught.value.last.kind == "slots"
        assert "1 of 1 slots are held by calls 1 (`max_concurrency`)" in str(caught.value.last)
        assert "`patience` says how long" in str(caught.value.last)
        assert idle(reg)
    assert server.counts.requests == 1


async def test_a_tool_may_call_the_box_whose_only_slot_its_own_run_uses():
    fake = FakeProvider([tool_call("ask", {"about": "x"})], "inner", "done")
    async with Registry(env={}) as reg:
        reg.register("a", fake.provider(name="a"), limits=Limits(max_concurrency=1))

        async def ask(about: str) -> str:
            return (await reg.generate("a/m", about, patience=0)).text

        result = await reg.run("a/m", "hi", tools=[ask]).collect()
        assert result.text == "done"
        assert idle(reg)


async def test_a_slot_is_free_at_the_terminal_event_whatever_the_caller_does_with_the_answer(serve):
    server = await serve(OK)
    async with Registry(env={"LLM_A": server.dsn("openai", max_concurrency=1)}) as reg:
        stream = reg.stream("a/m", "hi")
        async for chunk in stream:
            if isinstance(chunk, Finish):
                assert reg.limits()[0].held == 0
                assert (await reg.generate("a/m", "hi", patience=0)).text == "ok"
        await stream.aclose()


async def test_a_racer_without_room_starts_its_sibling_now(serve):
    gate = Gate()
    a, b = await serve(chat("a", gate)), await serve(chat("b"))
    env = {"LLM_A": a.dsn("openai", max_concurrency=1), "LLM_B": b.dsn("openai")}
    async with Registry(env=env) as reg:
        holder = asyncio.create_task(reg.generate("a/m", "hi"))
        await gate.reached()
        assert (await reg.generate("a/m|b/m", "hi", stagger=1000)).text == "b"
        gate.open()
        await holder
    assert a.counts.requests == 1


@pytest.mark.parametrize("how", ["limit", "register"])
async def test_calls_in_line_go_by_new_limits_at_once(how):
    fake = FakeProvider(default=lambda _, request: NEVER if "hold" in repr(request) else "ok")
    async with Registry(env={}) as reg:
        reg.register("a", fake.provider(), limits=Limits(max_concurrency=1))
        holder = asyncio.create_task(reg.generate("a/m", "hold"))
        await fake.wait_calls()
        calls = [asyncio.create_task(reg.generate("a/n", "hi", patience=2)) for _ in range(3)]
        await asyncio.sleep(0)
        if how == "limit":
            reg.limit("a", Limits(max_concurrency=2))
        else:
            reg.register("a", fake.provider(), limits=Limits(max_concurrency=2))
        assert [each.text for each in await asyncio.gather(*calls)] == ["ok"] * 3
        holder.cancel()
        await asyncio.wait((holder,))


async def test_limits_of_a_provider_that_cannot_be_read_can_be_set():
    async with Registry(env={"LLM_BAD": "nonsense"}) as reg:
        reg.register("a", FakeProvider(default="ok").provider())
        await reg.generate("a/m", "hi")
        reg.limit("bad", Limits(rpm=1))
        with pytest.raises(ConfigError):
            await reg.generate("bad/m", "hi")


@pytest.mark.parametrize("how", ["limit", "register"])
async def test_a_limit_that_was_taken_back_holds_nobody_up(how):
    fake = FakeProvider(default="ok")
    async with Registry(env={}) as reg:
        reg.register("a", fake.provider())
        reg.limit("a/m", Limits(rpm=1))
        await reg.generate("a/m", "hi")
        if how == "limit":
            reg.limit("a/m", Limits())
        else:
            reg.register("a", fake.provider())
        await reg.generate("a/m", "hi", patience=0)
        assert reg.limits()[0].used == {}
