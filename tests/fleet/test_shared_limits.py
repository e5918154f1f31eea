"""The limits of a target hold for all processes of a fleet together."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import BusyError, FailoverError, Limits, Target
from aiollm._failover.estimate import Estimate
from aiollm._failover.meter import Meter
from aiollm._fleet import scripts
from aiollm.events import FleetAway
from aiollm.testing import Answer, FaultServer, Gate, chat
from aiollm.types import Usage
from tests.fleet.conftest import until


@pytest.fixture
async def server():
    async with FaultServer(chat("well")) as server:
        yield server


async def linked(members, url, servers, count, **limits):
    made = [members(url, servers) for _ in range(count)]
    for reg in made:
        for name in servers:
            reg.limit(name, Limits(**limits))
        await reg._resources._member.open()
        assert reg.fleet.state == "linked"
    return made


async def test_slots_are_one_number_for_all_processes(redis, members, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    regs = await linked(members, redis.url, {"a": server}, 3, max_concurrency=2)
    calls = [asyncio.create_task(reg.generate("a/m", "hi")) for reg in regs for _ in range(4)]
    await gate.reached(2)
    waiting = [reg._gate for reg in regs]
    await until(lambda: sum(len(each._tickets) for each in waiting) == 10)
    assert len(server.requests) == 2
    gate.open()
    assert [each.text for each in await asyncio.gather(*calls)] == ["well"] * 12
    held = [each.held for reg in regs for each in reg.limits()]
    assert held == [0, 0, 0]


async def test_a_rate_is_one_number_for_all_processes(redis, members, server):
    regs = await linked(members, redis.url, {"a": server}, 4, rpm=1)
    answers = await asyncio.gather(
        *(reg.generate("a/m", "hi", patience=0) for reg in regs for _ in range(3)),
        return_exceptions=True,
    )
    refused = [each for each in answers if isinstance(each, FailoverError)]
    assert len(answers) - len(refused) == len(server.requests) == 1
    assert all(isinstance(each.exceptions[0], BusyError) for each in refused)
    assert "fleet" in str(refused[0])


async def test_an_answer_that_no_clock_can_hold_keeps_no_call_waiting(
    redis, members, server, monkeypatch
):
    nonsense = scripts.Script("return {'granted', string.rep('9', 400)}")
    monkeypatch.setattr(scripts, "enter", nonsense)
    monkeypatch.setattr(scripts, "ALL", (*scripts.ALL, nonsense))
    (reg,) = await linked(members, redis.url, {"a": server}, 1, rpm=6000)
    async with asyncio.timeout(20):
        assert (await reg.generate("a/m", "hi")).text == "well"


async def test_calls_wait_for_their_moment(redis, members, server):
    regs = await linked(members, redis.url, {"a": server}, 2, rpm=1200)
    calls = [reg.generate("a/m", "hi") for reg in regs for _ in range(10)]
    assert [each.text for each in await asyncio.gather(*calls)] == ["well"] * 20


async def test_a_chain_goes_on_where_the_fleet_has_used_up_a_target(redis, members, server):
    async with FaultServer(chat("other")) as other:
        servers = {"a": server, "b": other}
        first, second = await linked(members, redis.url, servers, 2, rpm=1)
        assert (await first.generate("a/m,b/m", "hi")).text == "well"
        assert (await second.generate("a/m,b/m", "hi")).text == "other"


async def test_what_was_never_sent_is_given_back_to_all(redis, members, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    first, second = await linked(members, redis.url, {"a": server}, 2, max_concurrency=1)
    running = asyncio.create_task(first.generate("a/m", "hi"))
    await gate.reached()
    calls = [asyncio.create_task(second.generate("a/m", "hi")) for _ in range(3)]
    await until(lambda: len(second._gate._tickets) == 3)
    for call in calls[:2]:
        call.cancel()
    gate.open()
    assert (await running).text == "well"
    assert (await calls[2]).text == "well"
    name = f"*:{first.fleet.namespace}:*n"
    keys = await redis.ask("KEYS", name)
    await asyncio.gather(*calls, return_exceptions=True)
    held = [await redis.ask("HGET", key, "#") for key in keys]
    while held != ["0"]:
        held = [await redis.ask("HGET", key, "#") for key in keys]


async def test_what_waited_and_was_cancelled_delays_nobody(redis, members, server):
    (reg,) = await linked(members, redis.url, {"a": server}, 1, rpm=62)
    await reg.generate("a/m", "hi")
    calls = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(20)]
    (shared,) = reg._resources._member.limits.scopes
    await until(lambda: len(shared.granted) == 8)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)
    assert (await reg.generate("a/m", "hi", patience=3)).text == "well"


@pytest.mark.parametrize(
    "message", ["0", "-7", *(f'["learn","%s","until|m","{n}"]' for n in ("inf", "1e30", "nan"))]
)
async def test_a_message_that_makes_no_sense_keeps_nobody_back(redis, members, server, message):
    (reg,) = await linked(members, redis.url, {"a": server}, 1, max_concurrency=4)
    await reg.generate("a/m", "hi")
    member = reg._resources._member
    (shared,) = member.limits.scopes
    text = message.replace("%s", shared.name + "q")
    member._hear([b"message", member.channel.encode(), text.encode()])
    assert reg.fleet.processes == 1
    assert (await reg.generate("a/m", "hi", patience=1)).text == "well"


async def test_a_429_keeps_all_processes_back(redis, members, server):
    url = redis.url
    regs = [members(url, {"a": server}) for _ in range(2)]
    for reg in regs:
        assert (await reg.generate("a/m", "hi")).text == "well"
    server.behave(Answer(429, {"retry-after": "60"}))
    with pytest.raises(FailoverError):
        await regs[0].generate("a/m", "hi", patience=0)
    await until(lambda: regs[1].limits()[0].blocked_for > 0)
    with pytest.raises(FailoverError):
        await regs[1].generate("a/m", "hi", patience=0)
    assert len(server.requests) == 3


async def test_who_joins_after_a_429_is_kept_back_too_and_stays_in_the_fleet(
    redis, members, server
):
    url, away = redis.url, []
    server.behave(Answer(429, {"retry-after": "60"}))
    with pytest.raises(FailoverError):
        await members(url, {"a": server}).generate("a/m", "hi", patience=0)
    second = members(url, {"a": server})
    second.on_event(lambda event: away.append(event) if type(event) is FleetAway else None)
    await second._resources._member.open()
    line = second._gate.line(Target("a", "m"), second.provider("a"))
    await until(lambda: away or line.pace.blocked_until > second._gate.now())
    assert away == []
    assert second.fleet.state == "linked"


async def paced(members, url, servers, count):
    """Return registries with a line each that has answered once and has a pace."""
    regs = await linked(members, url, servers, count)
    for reg in regs:
        assert (await reg.generate("a/m", "hi")).text == "well"
    lines = [next(iter(reg._gate._lines.values())) for reg in regs]
    for line, limit in zip(lines, (120.0, 60.0), strict=True):
        line.pace.meter, line.pace._cut_to = Meter(limit, burst=0.5), limit
    return regs, lines


async def test_all_processes_are_told_what_they_saw_together_before_a_429(redis, members, server):
    regs, lines = await paced(members, redis.url, {"a": server}, 2)
    server.behave(Answer(429, {"retry-after": "60"}))
    with pytest.raises(FailoverError):
        await regs[0].generate("a/m", "hi", patience=0)
    await until(lambda: all(line.pace._fleet for line in lines))
    assert [line.pace._fleet for line in lines] == [(3.0, 1.0, 0.0, 180.0)] * 2


async def test_what_was_seen_before_an_earlier_429_is_not_added(redis, members, server):
    regs, lines = await paced(members, redis.url, {"a": server}, 2)
    for sent, word in ((3.0, "0.2"), (1.0, "60")):
        server.behave(Answer(429, {"retry-after": word}))
        with pytest.raises(FailoverError):
            await regs[0].generate("a/m", "hi", patience=0)
        await until(lambda: all(line.pace._fleet for line in lines))
        assert [line.pace._fleet[:2] for line in lines] == [(sent, 1.0)] * 2
        if word == "0.2":
            await until(lambda: all(each.limits()[0].blocked_for == 0 for each in regs))
            for line in lines:
                line.pace.wait(line.pace.blocked_until)
                line.pace.blocked_until = 0.0


async def test_where_limits_are_shared_nothing_is_told_of_429s(redis, members, server):
    (reg,) = await linked(members, redis.url, {"a": server}, 1, rpm=6000)
    server.behave(Answer(429, {"retry-after": "60"}))
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi", patience=0)
    (line,) = reg._gate._lines.values()
    assert line.pace.may_tell


async def test_who_hears_of_a_429_goes_on_at_a_pace_where_nothing_else_bounds_it(
    redis, members, server
):
    url = redis.url
    first, second = (members(url, {"a": server}) for _ in range(2))
    for reg in (first, second):
        assert (await reg.generate("a/m", "hi")).text == "well"
    server.behave(Answer(429, {"retry-after": "1"}))
    with pytest.raises(FailoverError):
        await first.generate("a/m", "hi", patience=0)
    pace = second._gate.line(*_target(second)).pace
    await until(lambda: pace.blocked_until)  # if only a moment ago
    server.behave(chat("well"))
    assert (await second.generate("a/m", "hi")).text == "well"
    assert second.limits()[0].pace is not None


async def test_clocks_an_hour_apart_agree(redis, members, server):
    """No time of a process reaches another one, only how long something lasts."""
    url = redis.url
    regs = [members(url, {"a": server, "b": server}) for _ in range(3)]
    for number, reg in enumerate(regs):
        reg.limit("a", Limits(rpm=1))
        hours = number - 1
        reg._gate.health.clock = reg._gate.now = lambda hours=hours: loop_time() + 3600 * hours
        await reg._resources._member.open()
    answers = await asyncio.gather(
        *(reg.generate("a/m", "hi", patience=0) for reg in regs for _ in range(2)),
        return_exceptions=True,
    )
    busy = [each for each in answers if isinstance(each, FailoverError)]
    assert (len(busy), len(server.requests)) == (5, 1)
    assert all(0 < each.exceptions[0].wait < 65 for each in busy)
    for reg in regs:
        reg.limit("a", Limits())  # they are those of b, too
        await reg.generate("b/m", "hi")
    server.behave(Answer(503, {"retry-after": "60"}))
    with pytest.raises(FailoverError):
        await regs[2].generate("b/m", "hi", max_wait=0)
    for reg in regs:
        await until(lambda reg=reg: reg.health("b/m")[0].state == "cooling")
        assert 50 < reg.health("b/m")[0].reopens_in <= 60


def loop_time():
    return asyncio.get_running_loop().time()


async def test_a_429_takes_back_what_calls_that_wait_were_promised(redis, members, server):
    """They would all go at once when it is over."""
    gate = Gate()
    server.behave(chat(gate, "well"))
    first, second = await linked(members, redis.url, {"a": server}, 2, rpm=6)
    calls = [asyncio.create_task(first.generate("a/m", "hi")) for _ in range(3)]
    await gate.reached()
    await until(lambda: all_states(first) == ["granted", "granted"])
    line = second._gate.line(*_target(second))
    second._gate.limiter.blocked(line, 60)
    await until(lambda: all_states(first) == [])
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)


async def test_a_limit_that_one_process_is_told_holds_for_all(redis, members):
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"}
    async with FaultServer(Answer(200, headers, ANSWER)) as server:
        url = redis.url
        first, second, third = (members(url, {"a": server}) for _ in range(3))
        await second._resources._member.open()
        second._gate.line(*_target(second))
        await first.generate("a/m", "hi")
        third._gate.line(*_target(third))
        await third._resources._member.open()
        for reg in (second, third):
            await until(lambda reg=reg: reg.limits()[0].learnt)
            assert reg.limits()[0].learnt == {"requests": 60.0}


async def test_slots_that_are_found_are_one_number_for_all_processes(redis, members, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    regs = await linked(members, redis.url, {"a": server}, 3, max_concurrency="auto")
    calls = [asyncio.create_task(reg.generate("a/m", "hi")) for reg in regs for _ in range(6)]
    await gate.reached(8)
    await until(lambda: sum(len(reg._gate._tickets) for reg in regs) == 10)
    assert len(server.requests) == 8
    gate.open()
    await asyncio.gather(*calls)
    found = {reg.limits()[0].slots for reg in regs}
    assert min(found) >= 9
    server.behave(Answer(503))
    with pytest.raises(FailoverError):
        await regs[0].generate("a/m", "hi")
    await until(lambda: {reg.limits()[0].slots for reg in regs} == {1})


async def test_what_one_process_learnt_of_sizes_is_known_to_newcomers(redis, members):
    counted = ANSWER | {"usage": {"prompt_tokens": 700, "completion_tokens": 9}}
    async with FaultServer(Answer(200, {}, counted)) as server:
        url = redis.url
        (first,) = await linked(members, url, {"a": server}, 1, tpm=1_000_000)
        for _ in range(3):
            await first.generate("a/m", "x" * 700)
        (second,) = await linked(members, url, {"a": server}, 1, tpm=1_000_000)
        line = second._gate.line(*_target(second))
        await until(lambda: line.estimate.learnt[-1])
        overhead, ratio, answer, _ = line.estimate.learnt
        assert answer == 9
        assert 400 < overhead + 700 * ratio < 800


async def test_what_a_server_counts_beyond_what_was_booked_holds_all_back(redis, members):
    headers = {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0"}
    async with FaultServer(Answer(200, headers, ANSWER)) as server:
        first, second = await linked(members, redis.url, {"a": server}, 2)
        await first.generate("a/m", "hi")
        second._gate.line(*_target(second))
        await until(lambda: second.limits()[0].learnt)
        with pytest.raises(FailoverError) as caught:
            await second.generate("a/m", "hi", patience=0)
        assert caught.value.exceptions[0].wait > 30


async def test_a_model_that_is_kept_back_keeps_no_slot_from_another(redis, members, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    regs = await linked(members, redis.url, {"a": server}, 3, max_concurrency=1)
    first, second, third = regs
    running = asyncio.create_task(first.generate("a/m", "hi"))
    await gate.reached()
    waiting = asyncio.create_task(second.generate("a/kept", "hi"))
    await until(lambda: any("full" in states_of(each) for each in second._gate._tickets))
    line = first._gate.line(first.parse("a/kept").steps[0].targets[0], first.provider("a"))
    first._resources._member.limits.blocked(line, 60)
    await until(lambda: second.limits()[0].blocked_for > 0)
    gate.open()
    await running
    assert (await third.generate("a/m", "hi", patience=20)).text == "well"
    waiting.cancel()
    await asyncio.wait([waiting])


async def test_a_model_whose_own_limit_is_used_up_keeps_no_slot_from_another(
    redis, members, server
):
    gate = Gate()
    server.behave(chat(gate, "well"))
    regs = await linked(members, redis.url, {"a": server}, 2, max_concurrency=1)
    first, second = regs
    for reg in regs:
        reg.limit("a/rare", Limits(rpm=2))
    calls = [asyncio.create_task(first.generate("a/rare", "hi")) for _ in range(3)]
    await gate.reached()
    gate.open()
    await calls[0]
    await until(lambda: any("aside" in states_of(each) for each in first._gate._tickets))
    for _ in range(3):
        assert (await second.generate("a/m", "hi", patience=20)).text == "well"
    for call in calls[1:]:
        call.cancel()
    await asyncio.wait(calls[1:])


def all_states(reg):
    return [state for ticket in reg._gate._tickets for state in states_of(ticket)]


def states_of(ticket):
    return [each.state for each in (ticket.grants or {}).values()]


async def test_an_estimate_takes_over_what_others_learnt_in_proportion():
    own, other = Estimate(), Estimate()
    for _ in range(100):
        other.learn(1000, Usage(500, 40, certainty="exact"))
    own.adopt(*other.learnt)
    assert own.learnt[:3] == other.learnt[:3]
    own.adopt(0.0, 0.1, 80.0, 20)
    assert own.learnt[2] == 60
    own.adopt(float("nan"), float("inf"), -1.0, 20)
    assert all(0 <= each < 10_000 for each in own.learnt)


def _target(registry):
    target = registry.parse("a/m").steps[0].targets[0]
    return target, registry.provider("a")


MESSAGE = {"role": "assistant", "content": "x"}
ANSWER = {"choices": [{"index": 0, "message": MESSAGE, "finish_reason": "stop"}]}
