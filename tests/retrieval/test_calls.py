"""Calls of many batches: order, failover in one space, crowds, cancellation, limits, budgets."""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import weakref
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    Budget,
    FailoverError,
    ImagePart,
    LLMError,
    Price,
    ServerError,
    UnsupportedError,
)
from aiollm._retrieval.batches import room, split
from aiollm.capabilities import Capabilities
from aiollm.events import CallEnded, CallStarted
from aiollm.testing import NEVER, Answer, FakeProvider, Gate, Reset
from aiollm.types import Usage
from tests.turns import turns


class Embedder:
    """Answers with vectors that hold the number in each text; counts what it answered."""

    def __init__(self, width=3, dies_after=None, gate=None):
        self.width = width
        self.left = dies_after
        self.gate = gate
        self.answered = Counter()
        self.under_way = self.most = 0

    def __call__(self, request):
        inputs = request.json()["input"]
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                return Reset()
        self.answered.update(inputs)
        data = [
            {"index": n, "embedding": [float(text)] + [float(self.width)] * (self.width - 1)}
            for n, text in enumerate(inputs)
        ]
        usage = {"prompt_tokens": len(inputs), "total_tokens": len(inputs)}
        body = json.dumps({"data": data, "usage": usage}).encode()
        return Answer(200, {}, [*([self.gate] if self.gate else []), body])


def texts(count):
    return [str(n) for n in range(count)]


def firsts(found):
    return [int(each[0]) for each in found.vectors]


def dsn(server, **options):
    return server.dsn("openai", path="/v1", **options)


def idle(reg):
    return all((each.held, each.waiting) == (0, 0) for each in reg.limits())


async def test_a_server_that_dies_midway_loses_and_doubles_nothing(serve, registry):
    """Of 200 batches: each vector is there once, in order, of one width."""
    one, two = Embedder(dies_after=100), Embedder()
    reg = registry({"a": dsn(await serve(one)), "b": dsn(await serve(two))})
    found = await reg.embed("a/m,b/m", texts(2000), batch=10)
    assert firsts(found) == list(range(2000))
    assert {len(each) for each in found.vectors} == {3}
    assert found.usage.input_tokens == 2000
    assert one.answered.total() == two.answered.total() == 1000
    assert set((one.answered + two.answered).values()) == {1}


async def test_vectors_of_another_width_are_never_mixed_in(serve, registry):
    one, two = Embedder(dies_after=20), Embedder(width=4)
    reg = registry({"a": dsn(await serve(one)), "b": dsn(await serve(two))})
    with pytest.raises(LLMError) as raised:
        await reg.embed("a/m,b/m", texts(400), batch=10)
    arrived = raised.value.vectors
    assert len(arrived) == 400
    assert {len(each) for each in arrived if each} == {3}
    assert all(each is None or each[0] == n for n, each in enumerate(arrived))


async def test_mixed_models_still_give_the_vectors_of_one(serve, registry):
    one, two = Embedder(dies_after=20), Embedder(width=4)
    reg = registry({"a": dsn(await serve(one)), "b": dsn(await serve(two))})
    found = await reg.embed("a/m,b/n", texts(400), batch=10, mixed=True)
    assert firsts(found) == list(range(400))
    assert {len(each) for each in found.vectors} == {4}
    assert found.target.model == "n"


async def test_models_of_one_width_are_not_mixed_within_a_call_either(serve, registry):
    """Nothing but the target would show it: so no batch of one is sent to the other."""
    one, two = Embedder(dies_after=20), Embedder()
    reg = registry({"a": dsn(await serve(one)), "b": dsn(await serve(two))})
    found = await reg.embed("a/m,b/n", texts(400), batch=10, mixed=True)
    assert firsts(found) == list(range(400))
    assert {each.target.model for each in found.attempts[-40:]} == {"n"}
    assert one.answered.total() == 200
    assert two.answered == Counter(texts(400))


async def test_vectors_that_are_dropped_for_another_model_are_paid_for_and_lost(serve, registry):
    env = {"a": dsn(await serve(Embedder(dies_after=20))), "b": dsn(await serve(Embedder()))}
    reg = registry(env, prices={"a/*": Price(1, 0), "b/*": Price(2, 0)}, retries=0)
    found = await reg.embed("a/m,b/n", texts(400), batch=10, mixed=True)
    outcomes = Counter((each.target.model, each.outcome) for each in found.attempts)
    assert outcomes["m", "success"] == 20
    assert outcomes["m", "failed"] >= 1
    assert outcomes["n", "success"] == 40
    assert found.cost.usd == pytest.approx(400 * 2e-6)
    assert found.cost.lost >= 200 * 1e-6


async def test_what_dropped_vectors_cost_is_unknown_without_their_price(serve, registry):
    env = {"a": dsn(await serve(Embedder(dies_after=20))), "b": dsn(await serve(Embedder()))}
    reg = registry(env, prices={"b/*": Price(2, 0)}, retries=0)
    found = await reg.embed("a/m,b/n", texts(400), batch=10, mixed=True)
    assert found.cost.usd == pytest.approx(400 * 2e-6)
    assert found.cost.lost is None


async def test_when_all_models_fail_the_most_that_came_from_one_is_on_the_error(serve, registry):
    one, two, three = (Embedder(width=n, dies_after=n * 3) for n in (1, 3, 2))
    env = {
        name: dsn(await serve(each)) for name, each in zip("abc", (one, two, three), strict=True)
    }
    with pytest.raises(FailoverError) as raised:
        await registry(env, retries=0).embed("a/m,b/n,c/o", texts(40), batch=1, mixed=True)
    arrived = [each for each in raised.value.vectors if each is not None]
    assert {len(each) for each in arrived} == {3}
    assert {each.target.model for each in raised.value.exceptions} == {"m", "n", "o"}


async def test_another_width_than_was_asked_for_is_an_error(serve, registry):
    reg = registry({"a": dsn(await serve(Embedder()))})
    with pytest.raises(FailoverError) as raised:
        await reg.embed("a/m", "1", dimensions=64)
    assert "not the 64 of `dimensions`" in str(raised.value.last)


@pytest.mark.parametrize("count", [64, 1000])
async def test_a_crowd_cancelled_at_random_leaves_nothing(serve, registry, count):
    """The guards of every test look for tasks and sockets; here it is slots, and a call after."""
    reg = registry({"a": dsn(await serve(Embedder()), max_concurrency=16)})
    chance = random.Random(count)
    calls = [asyncio.create_task(reg.embed("a/m", texts(3), batch=1)) for _ in range(count)]
    for call in chance.sample(calls, count // 2):
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        call.cancel()
    ends = await asyncio.gather(*calls, return_exceptions=True)
    kinds = Counter(type(end).__name__ for end in ends)
    assert kinds.keys() <= {"Embeddings", "CancelledError"}
    assert kinds["Embeddings"] >= count // 2
    assert idle(reg)
    assert firsts(await reg.embed("a/m", texts(5), batch=2)) == list(range(5))


def dies(target, request):
    return ServerError("away") if "bad" in request.inputs else [NEVER]


@pytest.mark.parametrize("inputs", [["bad"], ["1", "2", "bad"]])
async def test_a_failed_call_leaves_no_cycle(registry, inputs):
    """Its error, which has all vectors that came, goes with its last reference."""
    reg = registry({})
    reg.register("fake", FakeProvider(default=dies).provider())
    with pytest.raises(FailoverError):  # loads what the first call of a process needs
        await reg.embed("fake/m", inputs, batch=1, max_wait=0)
    gc.collect()
    gc.disable()
    try:
        try:
            await reg.embed("fake/m", inputs, batch=1, max_wait=0)
        except FailoverError as error:
            gone = weakref.ref(error)
        assert gone() is None
        await asyncio.sleep(0)
        assert not gc.collect()
    finally:
        gc.enable()


async def test_an_image_that_cannot_be_used_is_named_by_its_place(serve, registry):
    """Of ten thousand inputs, and in a batch that is not the first."""
    server = await serve(Answer(200, {}, {"embeddings": [{"values": [1.0]}] * 2}))
    reg = registry({"a": server.dsn("google")})
    broken = ImagePart(b"\x89PNG\r\n\x1a\nbroken", mime="image/png")
    with pytest.raises(FailoverError) as raised:
        await reg.embed("a/gemini-embedding-2", ["1", "2", "3", broken], batch=2)
    assert isinstance(raised.value.last, UnsupportedError)
    assert "inputs[3]: " in str(raised.value.last)


async def test_concurrency_is_kept_to_the_limit(serve, registry):
    gate = Gate()
    server = await serve(Embedder(gate=gate))
    reg = registry({"a": dsn(server, max_concurrency=2)})
    call = asyncio.create_task(reg.embed("a/m", texts(6), batch=1))
    for seen in (2, 4, 6):
        await gate.reached(seen)
        assert len(server.requests) == seen
        gate.let(2)
    assert firsts(await call) == list(range(6))


async def test_eight_batches_are_under_way_where_no_limit_is_known(registry):
    """More would wait at a server of one's own until their deadlines."""
    fake = FakeProvider(default=[NEVER])
    reg = registry({})
    reg.register("fake", fake.provider())
    call = asyncio.create_task(reg.embed("fake/m", texts(20), batch=1))
    while len(fake.embed_requests) < 8:
        await asyncio.sleep(0)
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(fake.embed_requests) == 8
    call.cancel()
    await asyncio.wait([call])


async def test_a_budget_is_not_exceeded_and_what_came_is_kept(serve, registry):
    """At a dollar a byte of these texts, ten dollars are room for ten of them."""
    server = await serve(Embedder())
    reg = registry({"a": dsn(server)}, prices={"a/*": Price(1_000_000, 0)})
    budget = Budget(usd=10)
    found = await reg.embed("a/m", texts(10), batch=1, budget=budget)
    assert found.cost.usd == pytest.approx(10)
    with pytest.raises(LLMError) as raised:
        await reg.embed("a/m", "1", budget=budget)
    causes = getattr(raised.value, "exceptions", [raised.value])
    assert type(causes[-1]).__name__ == "BudgetError"
    assert len(server.requests) == 10


async def test_many_batches_are_joined_in_steps_and_as_if_at_once(registry, monkeypatch):
    """A million inputs are tens of thousands of batches: tens of milliseconds."""
    reg = registry({})
    reg.register("fake", FakeProvider().provider())
    await reg.embed("fake/m", "x")  # what the first call of a process loads takes turns, too
    async with turns() as few:
        one = await reg.embed("fake/m", texts(120), batch=2)
    monkeypatch.setattr("aiollm._retrieval.embed.JOINED_AT_ONCE", 1)
    async with turns() as many:
        other = await reg.embed("fake/m", texts(120), batch=2)
    assert one.vectors == other.vectors
    assert (one.usage, one.target, one.cost) == (other.usage, other.target, other.cost)
    assert len(one.attempts) == len(other.attempts) == 60
    assert other.timings.total >= other.timings.first_output >= 0
    assert len(many) >= len(few) + 59


async def test_no_turn_of_the_loop_reads_a_reply_and_sends_the_next_request(registry, monkeypatch):
    """Replies to all batches under way may be read in one turn, which is work enough."""
    monkeypatch.setattr("aiollm._retrieval.embed.AT_ONCE", 1)
    reg = registry({})
    reg.register("fake", FakeProvider().provider())
    found = {CallStarted: [], CallEnded: []}
    async with turns() as seen:
        reg.on_event(lambda event: found.get(type(event), []).append(len(seen)))
        await reg.embed("fake/m", texts(12), batch=2)
    starts, ends = found.values()
    assert len(starts) == len(ends) == 6
    assert all(start > end for start, end in zip(starts[1:], ends, strict=False))


async def test_half_a_character_is_replaced_as_in_chats(serve, registry):
    """UTF-8 cannot carry it."""
    server = await serve(Answer(200, {}, {"data": [{"embedding": [1.0]}]}))
    await registry({"a": dsn(server)}).embed("a/m", "x\ud800")
    assert server.requests[0].json()["input"] == ["x\ufffd"]


async def test_batches_without_counts_leave_the_sum_uncertain(serve, registry):
    def script(request):
        answer = Embedder()(request)
        return (
            answer
            if request.json()["input"] == ["0"]
            else Answer(200, {}, {"data": [{"embedding": [1.0, 2.0, 3.0]}]})
        )

    found = await registry({"a": dsn(await serve(script))}).embed("a/m", texts(2), batch=1)
    assert found.usage == Usage(input_tokens=1, certainty="partial")


@pytest.mark.parametrize(
    ("limits", "batch", "expected"),
    [
        ([100], None, (100, math.inf)),
        ([2048], None, (256, math.inf)),
        ([None], None, (32, math.inf)),
        ([100, None], None, (32, math.inf)),
        ([100, 2048], 1000, (100, math.inf)),
        ([None], 1000, (1000, math.inf)),
        ([100], 5, (5, math.inf)),
    ],
)
def test_a_batch_has_room_at_all_targets(limits, batch, expected):
    facts = [Capabilities(max_embed_inputs=each) for each in limits]
    assert room(facts, batch) == expected
    facts.append(Capabilities(max_embed_inputs=2048, max_embed_tokens=500))
    assert room(facts, batch) == (expected[0], 1000)


@given(
    st.lists(st.text(min_size=1, max_size=9), min_size=1, max_size=30),
    st.integers(1, 9),
    st.sampled_from([float("inf"), 20.0, 1.0]),
)
def test_batches_hold_all_inputs_in_order_within_the_limits(inputs, most, most_size):
    batches = [*split(inputs, most, most_size)]
    assert [place for batch in batches for place in batch] == list(range(len(inputs)))
    for batch in batches:
        size = sum(len(inputs[place].encode()) for place in batch)
        assert 1 <= len(batch) <= most
        assert size <= most_size or len(batch) == 1
