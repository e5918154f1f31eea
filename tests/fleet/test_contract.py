"""What limits promise a caller holds alike for a process of its own and for one of a fleet."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from aiollm import BusyError, ConnectError, FailoverError, Limits, Registry, Request, user
from aiollm.testing import Answer, FaultServer, Gate, chat
from tests.fleet.conftest import until

WELL = {"choices": [{"index": 0, "message": {"content": "well"}, "finish_reason": "stop"}]}


@pytest.fixture(params=["alone", "fleet"])
async def open_registry(request, redis, members) -> Callable[..., Any]:
    """Make registries that are ready, alone or in a fleet of one."""

    async def make(servers: dict[str, FaultServer], **limits: Any) -> Registry:
        in_fleet = request.param == "fleet"
        reg: Registry = members(redis.url if in_fleet else "", servers)
        for name in servers:
            reg.limit(name, Limits(**limits))
        if in_fleet:
            await reg._resources._member.open()
        return reg

    return make


@pytest.fixture
async def server() -> AsyncIterator[FaultServer]:
    async with FaultServer(chat("well")) as server:
        yield server


def ask(reg: Registry, text: str = "hi", spec: str = "a/m", **settings: Any) -> asyncio.Task[Any]:
    return asyncio.create_task(reg.generate(spec, text, **settings))


def asked(server: FaultServer) -> list[str]:
    return [json.loads(each.body)["messages"][-1]["content"] for each in server.requests]


async def waiting(reg: Registry, count: int) -> None:
    await until(lambda: len(reg._gate._tickets) == count)


def busy(error: BaseException) -> BusyError:
    assert isinstance(error, FailoverError)
    (found,) = error.exceptions
    assert isinstance(found, BusyError)
    return found


async def test_slots_are_never_exceeded_and_calls_go_in_their_order(open_registry, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    reg = await open_registry({"a": server}, max_concurrency=2)
    calls = []
    for number in range(8):
        calls.append(ask(reg, str(number)))
        await until(lambda done=number: len(reg._gate._tickets) == max(0, done - 1))
        await gate.reached(min(number + 1, 2))
    for served in range(1, 9):
        await gate.reached(min(8, served + 1))
        assert len(server.requests) == min(8, served + 1)
        gate.let(1)
    await asyncio.gather(*calls)
    assert asked(server) == [str(number) for number in range(8)]
    assert reg.limits()[0].held == 0


async def test_a_newcomer_does_not_overtake_those_who_wait(open_registry, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    reg = await open_registry({"a": server}, max_concurrency=1)
    first = ask(reg, "first")
    await gate.reached()
    second = ask(reg, "second")
    await waiting(reg, 1)
    late = ask(reg, "late", patience=0)
    with pytest.raises(FailoverError) as caught:
        await late
    assert busy(caught.value).kind == "slots"
    gate.open()
    await asyncio.gather(first, second)
    assert asked(server) == ["first", "second"]


async def test_a_rate_admits_one_and_says_when_the_next_may_go(open_registry, server):
    reg = await open_registry({"a": server}, rpm=1)
    answers = await asyncio.gather(
        *(ask(reg, patience=0) for _ in range(4)), return_exceptions=True
    )
    refused = [busy(each) for each in answers if isinstance(each, BaseException)]
    assert len(server.requests) == 1
    assert {each.kind for each in refused} == {"pace"}
    assert all(0 < each.wait < 65 for each in refused)


async def test_tokens_that_an_answer_did_not_take_are_free_again(open_registry, server):
    counted = WELL | {"usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    server.behave(Answer(200, {}, counted))
    reg = await open_registry({"a": server}, tpm=60_000)
    request = Request([user("hi")], max_output_tokens=50_000)
    for _ in range(3):
        assert (await reg.generate("a/m", request, patience=5)).text == "well"


async def test_a_request_above_a_limit_fails_at_once(open_registry, server):
    reg = await open_registry({"a": server}, tpm=1_000)
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", Request([user("hi")], max_output_tokens=50_000))
    assert busy(caught.value).kind == "limit"
    assert not server.requests


async def test_what_was_never_sent_is_refunded(open_registry):
    async with FaultServer() as gone:
        reg = await open_registry({"a": gone}, rpm=1)
    for _ in range(3):
        reg.reset_health()
        with pytest.raises(FailoverError) as caught:
            await reg.generate("a/m", "hi", patience=0)
        assert isinstance(caught.value.exceptions[0], ConnectError)


async def test_a_429_holds_the_target_back_without_harm(open_registry, server):
    server.behave(Answer(429, {"retry-after": "60"}))
    reg = await open_registry({"a": server}, rpm=6_000)
    for _ in range(2):
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "hi", patience=0)
    assert len(server.requests) == 1
    assert 50 < reg.limits()[0].blocked_for <= 60
    assert reg.health("a/m")[0].state == "healthy"


async def test_a_limit_that_an_answer_announces_holds_from_then_on(open_registry, server):
    headers = {"x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0"}
    server.behave(Answer(200, headers, WELL))
    reg = await open_registry({"a": server})
    await reg.generate("a/m", "hi")
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi", patience=0)
    assert busy(caught.value).kind == "pace"
    assert reg.limits()[0].learnt == {"requests": 1.0}


async def test_slots_that_are_found_shrink_with_a_refusal_and_grow_with_answers(
    open_registry, server
):
    gate = Gate()
    server.behave(chat(gate, "well"))
    reg = await open_registry({"a": server}, max_concurrency="auto")
    calls = [ask(reg) for _ in range(20)]
    await gate.reached(8)
    await waiting(reg, 12)
    assert len(server.requests) == 8
    gate.open()
    await asyncio.gather(*calls)
    grown = reg.limits()[0].slots
    assert grown >= 9
    server.behave(Answer(429, {"retry-after": "0.001"}))
    await asyncio.gather(*(ask(reg, patience=0) for _ in range(4)), return_exceptions=True)
    await until(lambda: reg.limits()[0].slots < grown / 2)


async def test_a_chain_goes_on_where_a_target_is_full(open_registry, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    async with FaultServer(chat("other")) as other:
        reg = await open_registry({"a": server, "b": other}, max_concurrency=1)
        first = ask(reg)
        await gate.reached()
        assert (await ask(reg, spec="a/m,b/m")).text == "other"
        gate.open()
        await first


async def test_patience_ends_a_wait_and_leaves_nothing_behind(open_registry, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    reg = await open_registry({"a": server}, max_concurrency=1)
    first = ask(reg)
    await gate.reached()
    with pytest.raises(FailoverError) as caught:
        await ask(reg, patience=0.01)
    assert busy(caught.value).kind == "slots"
    gate.open()
    await first
    assert (await ask(reg, patience=0)).text == "well"


@pytest.mark.parametrize("seed", range(3))
async def test_a_crowd_that_is_cancelled_at_random_leaves_every_slot_free(
    open_registry, server, seed
):
    picks = random.Random(seed)
    reg = await open_registry({"a": server}, max_concurrency=3)
    calls = [ask(reg, str(number)) for number in range(60)]
    for _ in range(200):
        await asyncio.sleep(0)
        picks.choice(calls).cancel() if picks.random() < 0.5 else None
    await asyncio.gather(*calls, return_exceptions=True)
    gate = Gate()
    server.behave(chat(gate, "well"))
    again = [ask(reg) for _ in range(3)]
    await gate.reached(3)
    gate.open()
    assert [each.text for each in await asyncio.gather(*again)] == ["well"] * 3
    assert reg.limits()[0].held == 0
