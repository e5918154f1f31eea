"""Races: the first output wins, the others are gone before the caller sees it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from aiollm import (
    ConfigError,
    ContentFilterError,
    FailoverError,
    InvalidRequestError,
    Limits,
    ServerError,
    StreamInterrupted,
    Target,
    Timeouts,
)
from aiollm._failover.attempt import ActiveAttempt
from aiollm.provider import Operation
from aiollm.testing import NEVER, Answer, Cut, FakeProvider, Gate, Hang, chat
from aiollm.types import Finish, TextDelta

pytestmark = pytest.mark.loops

OK = chat("Hel", "lo")
HANG = 1000.0
"""A stagger that no test waits for."""


async def test_output_decides_not_headers(serve, registry):
    """A rival whose headers come at once loses to one whose output comes first."""
    never = Gate()
    early_headers = await serve(Hang(after=0, gate=never))
    output = await serve(OK)
    reg = registry({"a": early_headers, "b": output})
    stream = reg.stream("a/m|b/m", "hi", stagger=0.01)
    first = await anext(stream)
    assert first.text == "Hel"
    assert str(stream.target) == "b/m"
    assert [attempt.outcome for attempt in stream.attempts] == ["abandoned", "running"]
    await early_headers.wait_closed()
    assert (await stream.collect()).text == "Hello"


async def test_the_loser_is_closed_before_the_winners_first_chunk(serve, registry, monkeypatch):
    order: list[str] = []
    close = ActiveAttempt.close

    def noted(self, outcome, error=None):
        if outcome == "abandoned":
            order.append(f"closed {self.target}")
        close(self, outcome, error)

    monkeypatch.setattr(ActiveAttempt, "close", noted)
    loser, winner = await serve(Hang(after=0, gate=Gate())), await serve(OK)
    stream = registry({"a": loser, "b": winner}).stream("a/m|b/m", "hi", stagger=0.01)
    order.append((await anext(stream)).text)
    assert order[0] == "closed a/m"
    assert order[-1] == "Hel"
    await stream.aclose()


async def test_a_failure_starts_the_next_without_waiting_for_the_stagger(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server.refused_url(), "b": server}, timeouts=Timeouts(total=30))
    response = await reg.stream("a/m|b/m", "hi", stagger=HANG).collect()
    assert response.text == "Hello"
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]


async def test_the_first_alone_is_asked_while_it_answers_in_time(serve, registry):
    one, two = await serve(OK), await serve(OK)
    response = await registry({"a": one, "b": two}).stream("a/m|b/m", "hi", stagger=HANG).collect()
    assert str(response.target) == "a/m"
    assert two.counts.opened == 0


async def test_cancelling_the_caller_closes_every_racer(serve, registry):
    gates = Gate(), Gate()
    one, two = [await serve(Hang(after=0, gate=gate)) for gate in gates]
    reg = registry({"a": one, "b": two})
    task = asyncio.create_task(reg.stream("a/m|b/m", "hi", stagger=0.0).collect())
    for gate in gates:
        await gate.reached()
    before = asyncio.all_tasks()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.wait_closed()
    await two.wait_closed()
    assert asyncio.all_tasks() <= before - {task}
    assert [(h.succeeded, h.failed, h.state) for h in reg.health()] == [(0, 0, "healthy")] * 2


async def test_two_cancellations_leave_nothing_either(serve, registry):
    gates = Gate(), Gate()
    one, two = [await serve(Hang(after=0, gate=gate)) for gate in gates]
    reg = registry({"a": one, "b": two})
    task = asyncio.create_task(reg.stream("a/m|b/m", "hi", stagger=0.0).collect())
    for gate in gates:
        await gate.reached()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await one.wait_closed()
    await two.wait_closed()


async def test_when_all_racers_fail_the_chain_goes_on(serve, registry):
    bad, worse, good = await serve(Cut()), await serve(Cut(after=0)), await serve(OK)
    reg = registry({"a": bad, "b": worse, "c": good})
    response = await reg.stream("a/m|b/m,c/m", "hi", stagger=0.0).collect()
    assert str(response.target) == "c/m"
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "failed", "success"]


async def test_all_failed_has_an_error_of_each(serve, registry):
    bad, worse = await serve(Cut()), await serve(Cut(after=0))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": bad, "b": worse}).stream("a/m|b/m", "hi", stagger=0.0).collect()
    assert len(caught.value.exceptions) == 2


async def test_an_error_that_stays_ends_the_race(serve, registry):
    filtered = {"message": "no", "code": "content_filter"}
    both = Gate()
    bad = await serve(Hang(after=0, answer=Answer(400, {}, {"error": filtered}), gate=both))
    slow = await serve(Hang(after=0, gate=Gate()))
    call = registry({"a": slow, "b": bad}).stream("a/m|b/m", "hi", stagger=0.0).collect()
    task = asyncio.create_task(call)
    await slow.wait_requests()
    both.open()
    with pytest.raises(ContentFilterError):
        await task
    await slow.wait_closed()


@pytest.mark.parametrize("spec", ["well/m|bad/m", "bad/m|well/m"])
async def test_an_error_that_stays_and_an_output_at_the_same_time_leave_no_slot(registry, spec):
    gate = Gate()
    well = FakeProvider(default=[gate, "Hello"], name="well")
    bad = FakeProvider(default=[gate, ContentFilterError("no")], name="bad")
    reg = registry({})
    for fake in (well, bad):
        reg.register(fake.name, fake.provider(), limits=Limits(max_concurrency=1))
    task = asyncio.create_task(reg.generate(spec, "hi", stagger=0.0))
    await well.wait_calls()
    await bad.wait_calls()
    gate.open()
    await asyncio.wait((task,))
    if spec.startswith("well"):
        assert task.result().text == "Hello", "who is first has won"
    else:
        assert isinstance(task.exception(), ContentFilterError)
    assert [each.held for each in reg.limits()] == [0, 0]
    assert well.running == bad.running == 0


async def test_a_cooling_target_takes_no_part(serve, registry):
    gate = Gate()
    bad, good = await serve(Cut()), await serve(chat(gate, "Hello"))
    reg = registry({"a": bad, "b": good}, cooldown=1000)
    first = asyncio.create_task(reg.generate("a/m|b/m", "hi", stagger=0.0))
    while not any(each.failed for each in reg.health()):
        await asyncio.sleep(0)
    gate.open()
    await first
    for _ in range(2):
        await reg.stream("a/m|b/m", "hi", stagger=0.0).collect()
    assert bad.counts.requests == 1
    assert bad.unscripted == 0


async def test_the_stagger_is_learned_from_first_output_latencies(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server})
    target = Target("a", "m")
    for _ in range(19):
        await reg.stream("a/m", "hi").collect()
    assert reg._health.stagger(target) is None
    await reg.stream("a/m", "hi").collect()
    learned = reg._health.stagger(target)
    assert learned is not None
    assert learned == reg.health()[0].first_output_p95


async def test_a_winner_can_be_interrupted_and_restarted(serve, registry):
    winner = await serve(chat("Half", finish=None, done=False))
    good = await serve(OK)
    reg = registry({"a": winner, "b": good, "c": good})
    stream = reg.stream("a/m|b/m,c/m", "hi", stagger=HANG, on_interrupt="restart")
    response = await stream.collect()
    assert response.text == "Hello"
    assert str(response.target) == "b/m"  # it never joined the race, and comes before the next step


async def test_who_lost_a_race_is_asked_again_when_the_winner_is_cut(registry):
    reg, gate = registry({}), Gate()
    winner = FakeProvider([gate, "Half", StreamInterrupted("cut")], name="a")
    loser = FakeProvider(NEVER, "Hello", name="b")
    refuses = FakeProvider(InvalidRequestError("no", status=400), name="c")
    for each in (winner, loser, refuses):
        reg.register(each.name, each.provider())
    stream = reg.stream("a/m|b/m|c/m", "hi", stagger=0.0, on_interrupt="restart")
    answer = asyncio.create_task(stream.collect())
    await refuses.wait_calls()
    await refuses.wait_idle()
    gate.open()
    assert (await answer).text == "Hello"
    assert [str(each.target) for each in stream.attempts] == ["a/m", "b/m", "c/m", "b/m"]


async def test_a_race_whose_answers_fail_behind_their_end_asks_each_target_once(registry):
    async def fails_behind_its_end(provider, transport, target, request, timeouts):
        asked.append(str(target))
        assert len(asked) <= 2
        yield [TextDelta("Hello"), Finish("stop")]
        raise ServerError("late", status=500)

    asked = []
    reg = registry({"a": "http://127.0.0.1:1", "b": "http://127.0.0.2:1"})
    operations = {"chat": Operation(adapter=fails_behind_its_end)}
    for name in ("a", "b"):
        reg.register(name, msgspec.structs.replace(reg.provider(name), operations=operations))
    with pytest.raises(FailoverError):
        await reg.stream("a/m|b/m", "hi", stagger=HANG, on_interrupt="restart").collect()
    assert asked == ["a/m", "b/m"]


async def test_the_rest_of_a_spread_is_asked_once_when_the_chosen_one_is_cut(registry):
    reg = registry({})
    cut = FakeProvider(["Half", StreamInterrupted("cut")], name="a")
    refuses = FakeProvider(*[InvalidRequestError("no", status=400)] * 2, name="b")
    for each in (cut, refuses):
        reg.register(each.name, each.provider())
    stream = reg.stream("9*a/m&b/m", "hi", on_interrupt="restart", retries=0)
    with pytest.raises(FailoverError):
        await stream.collect()
    assert [str(each.target) for each in stream.attempts] == ["a/m", "b/m"]


async def test_who_never_joined_a_race_goes_on_from_what_its_winner_said(registry):
    reg = registry({})
    cut = FakeProvider(["Hel", StreamInterrupted("cut")], name="a")
    takes_prefill = FakeProvider("lo", name="b")
    reg.register("a", cut.provider())
    reg.register("b", takes_prefill.provider(facts={"prefill": True}))
    stream = reg.stream("a/m|b/m", "hi", stagger=HANG, on_interrupt="continue")
    assert (await stream.collect()).text == "Hello"
    assert takes_prefill.requests[0].messages[-1].text == "Hel"


async def test_bad_configuration_of_one_racer_fails_before_any_byte(serve, registry):
    server = await serve(OK)
    reg = registry({"a": server, "b": "//nonsense"})
    with pytest.raises(ConfigError):
        reg.stream("a/m|b/m", "hi")
    assert server.counts.opened == 0
