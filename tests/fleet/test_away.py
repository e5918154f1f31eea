"""Without its Redis a process decides alone, no caller sees an error, and it comes back."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import warnings

import pytest

from aiollm import BusyError, FailoverError, Limits, Registry
from aiollm._fleet import link, member
from aiollm.events import AttemptStarted, FleetAway, FleetBack
from aiollm.testing import Answer, FaultServer, Gate, chat
from tests.fleet.conftest import SlowWay, until


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(member, "BEAT", 0.05)
    monkeypatch.setattr(link, "RETRY_FIRST", 0.01)
    monkeypatch.setattr(link, "RETRY_MOST", 0.02)


@pytest.fixture
async def server():
    async with FaultServer(chat("well")) as server:
        yield server


def events(registry, *kinds):
    seen = []
    registry.on_event(lambda event: seen.append(event) if isinstance(event, kinds) else None)
    return seen


def quick(url):
    return url.replace("timeout=5", "timeout=0.02")


async def break_by_killing(redis):
    redis.kill()
    return redis.start


async def break_by_stopping(redis):
    os.kill(redis.pid, signal.SIGSTOP)
    return lambda: os.kill(redis.pid, signal.SIGCONT)


async def break_by_filling(redis):
    await redis.ask("CONFIG", "SET", "maxmemory", "1")
    return lambda: redis.ask("CONFIG", "SET", "maxmemory", "0")


async def break_by_a_new_password(redis):
    await redis.ask("CONFIG", "SET", "requirepass", "new")
    await redis.ask("CLIENT", "KILL", "TYPE", "pubsub", password="new")
    return lambda: redis.ask("CONFIG", "SET", "requirepass", "", password="new")


@pytest.mark.parametrize(
    "break_it",
    [break_by_killing, break_by_stopping, break_by_filling, break_by_a_new_password],
    ids=["killed", "stopped", "full", "password changed"],
)
async def test_calls_go_on_while_redis_is_away_and_the_fleet_is_joined_again(
    own_redis, members, server, break_it
):
    redis = own_redis()
    reg = members(quick(redis.url), {"a": server})
    seen = events(reg, FleetAway, FleetBack)
    assert (await reg.generate("a/m", "hi")).text == "well"
    await until(lambda: reg.fleet.state == "linked")
    seen.clear()
    mend = await break_it(redis)
    await until(lambda: reg.fleet.state == "away")
    for _ in range(3):
        assert (await reg.generate("a/m", "hi")).text == "well"
    assert reg.fleet.reason
    mended = mend()
    if mended is not None:
        await mended
    await until(lambda: reg.fleet.state == "linked")
    assert [type(each) for each in seen] == [FleetAway, FleetBack]


async def test_a_process_starts_alone_where_redis_is_down(own_redis, members, server):
    redis = own_redis()
    redis.kill()
    reg = members(redis.url, {"a": server})
    seen = events(reg, FleetAway, FleetBack)
    assert (await reg.generate("a/m", "hi")).text == "well"
    assert reg.fleet.state == "away"
    redis.start()
    await until(lambda: reg.fleet.state == "linked")
    assert [type(each) for each in seen] == [FleetAway, FleetBack]


@pytest.mark.parametrize("lose", ["restart", "flush"])
async def test_what_redis_lost_is_brought_back_by_whoever_remembers_it(
    own_redis, members, server, lose
):
    server.behave(Answer(503))
    redis = own_redis()
    url = redis.url
    reg = members(url, {"a": server}, cooldown=60)
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi", max_wait=0)
    await until(lambda: reg._resources._member.health._known)
    if lose == "restart":
        redis.kill()
        redis.start()
    else:
        await redis.ask("FLUSHALL")
        await redis.ask("SCRIPT", "FLUSH")
    other = members(url, {"a": server})
    await other._resources._member.open()
    await until(lambda: other._resources._member.health._known)
    with pytest.raises(FailoverError):
        await other.generate("a/m", "hi", max_wait=0)
    assert len(server.requests) == 1


async def test_a_breaker_that_was_open_for_the_fleet_is_probed_alone_while_away(
    own_redis, members, server
):
    server.behave(Answer(503))
    redis = own_redis()
    reg = members(redis.url, {"a": server}, cooldown=0.05)
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi", max_wait=0)
    await until(lambda: reg._resources._member.health._known)
    redis.kill()
    await until(lambda: reg.fleet.state == "away")
    server.behave(chat("well"))
    assert (await reg.generate("a/m", "hi")).text == "well"


async def test_those_who_wait_for_a_slot_of_the_fleet_do_not_all_go_when_redis_is_away(
    own_redis, members, server
):
    """Each process has an equal share of the slots then."""
    gate = Gate()
    server.behave(chat(gate, "well"))
    redis = own_redis()
    url = redis.url
    first, second = members(url, {"a": server}), members(url, {"a": server})
    for reg in (first, second):
        reg.limit("a", Limits(max_concurrency=4))
        await reg.preload()
    regs = (first, first, second, second)
    running = [asyncio.create_task(reg.generate("a/m", "hi")) for reg in regs]
    await gate.reached(4)
    waiting = [asyncio.create_task(second.generate("a/m", "hi")) for _ in range(6)]
    await until(lambda: second.limits()[0].waiting == 6 and second.fleet.processes == 2)
    await until(lambda: any("full" in states_of(each) for each in second._gate._tickets))
    redis.kill()
    await until(lambda: second.fleet.state == "away")
    assert [each.held for each in second.limits()] == [2]
    gate.open()
    texts = [each.text for each in await asyncio.gather(*running, *waiting)]
    assert texts == ["well"] * 10
    assert len(server.requests) == 10


async def test_a_process_whose_redis_is_slow_takes_no_slot_that_others_hold(redis, members, server):
    gate = Gate()
    server.behave(chat(gate, "well"))
    async with SlowWay().to(redis.port) as way:
        url = redis.url
        near = members(url, {"a": server})
        far = members(quick(url).replace(str(redis.port), str(way.port)), {"a": server})
        for reg in (near, far):
            reg.limit("a", Limits(max_concurrency=2))
            await reg._resources._member.open()
        running = [asyncio.create_task(near.generate("a/m", "hi")) for _ in range(2)]
        await gate.reached(2)
        way.seconds = 0.1
        waiting = [asyncio.create_task(far.generate("a/m", "hi")) for _ in range(4)]
        await until(lambda: far.fleet.state == "away")
        await until(lambda: any("full" in states_of(each) for each in far._gate._tickets))
        assert [reg.limits()[0].held for reg in (near, far)] == [2, 0]
        gate.open()
        texts = [each.text for each in await asyncio.gather(*running, *waiting)]
        assert texts == ["well"] * 6
        way.seconds = 0.0
        await until(lambda: far.fleet.state == "linked")
        await far.aclose()


async def test_a_redis_that_hangs_is_not_waited_for_by_those_who_want_a_slot(
    own_redis, members, server
):
    redis = own_redis()
    reg = members(quick(redis.url), {"a": server})
    reg.limit("a", Limits(max_concurrency=1))
    await reg.preload()
    await reg._resources._member.open()
    os.kill(redis.pid, signal.SIGSTOP)
    calls = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(3)]
    assert [each.text for each in await asyncio.gather(*calls)] == ["well"] * 3
    os.kill(redis.pid, signal.SIGCONT)
    await until(lambda: reg.fleet.state == "linked")


async def test_processes_that_lose_redis_together_do_not_all_send_at_once(
    own_redis, members, server, monkeypatch
):
    """The first request of each waits for a random part of the time that its share allows it."""
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    redis = own_redis()
    url = redis.url
    first, second = members(url, {"a": server}), members(url, {"a": server})
    for reg in (first, second):
        reg.limit("a", Limits(rpm=2))
        await reg.preload("a/m")
        await reg._resources._member.open()
        reg._gate.line(reg.parse("a/m").targets[0], reg.provider("a"))
    await until(lambda: first.fleet.processes == 2)
    redis.kill()
    await until(lambda: first.fleet.state == "away")
    with pytest.raises(FailoverError) as caught:
        await first.generate("a/m", "hi", patience=0)
    assert type(caught.value.exceptions[0]) is BusyError
    redis.start()
    await until(lambda: first.fleet.state == "linked")
    assert (await first.generate("a/m", "hi", patience=0)).text == "well"


def states_of(ticket):
    return [each.state for each in (ticket.grants or {}).values()]


async def test_a_redis_that_knows_no_script_any_more_and_takes_none_is_away(
    own_redis, members, server
):
    redis = own_redis()
    reg = members(redis.url, {"a": server})
    assert (await reg.generate("a/m", "hi")).text == "well"
    await redis.ask("ACL", "SETUSER", "default", "-script|load")
    await redis.ask("SCRIPT", "FLUSH")
    server.behave(Answer(503))
    with pytest.raises(FailoverError):
        await reg.generate("a/m", "hi", max_wait=0)
    await until(lambda: reg.fleet.state == "away")
    assert "NoScriptError" in reg.fleet.reason


def test_a_process_that_was_forked_leaves_the_link_of_its_parent_alone(own_redis):
    redis = own_redis()
    with FaultServer(chat("well")).in_thread() as server, asyncio.Runner() as runner:
        env = {"LLM_A": f"openai+http://k@127.0.0.1:{server.port}/v1"}
        reg = Registry(env=env, fleet=redis.url, retries=0)
        assert runner.run(reg.generate("a/m", "hi")).text == "well"
        name = reg.fleet.process

        async def child():
            await reg.aclose()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: threads
            forked = os.fork()
        if not forked:
            try:
                asyncio.run(child())
            except BaseException:  # noqa: BLE001 - it must not go on as a test
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]) == 0

        async def look():
            processes = await redis.ask(
                "ZRANGE", f"{{{reg._resources._member.channel}}}p", "0", "9"
            )
            assert name in processes
            await until(lambda: reg.fleet.state == "linked")
            await reg.aclose()

        runner.run(look())


async def test_what_was_sent_without_redis_is_booked_when_it_is_back(
    redis, members, server, monkeypatch
):
    """A burst of each process would follow it else."""
    monkeypatch.setattr(member, "BEAT", 600.0)  # none finds Redis quick again
    reg = members(redis.url, {"a": server})
    reg.limit("a", Limits(rpm=1))
    await reg._resources._member.open()
    joined = reg._resources._member
    joined._go_away("for a test", is_slow=True)
    await reg.generate("a/m", "hi")
    joined._come_back()
    (shared,) = joined.limits.scopes
    while (at := await redis.ask("HGET", shared.name + "q", "at|requests")) is None:
        pass
    assert float(at) > 0
    assert reg.fleet.state == "linked"


async def test_who_finds_a_slow_redis_quick_again_says_so_to_all(
    redis, members, server, monkeypatch
):
    """Or some use the limits in full, and others beside them their shares, for a beat."""
    url = redis.url
    first, *others = (members(url, {"a": server})._resources._member for _ in range(3))
    for each in (first, *others):
        await each.open()
    monkeypatch.setattr(member, "BEAT", 600.0)
    for each in (first, *others):
        each._go_away("it is slow", is_slow=True)
        each._next_beat()
    first._next_beat(0.0)
    await until(lambda: not any(each.away for each in (first, *others)))


async def test_a_race_that_is_won_waits_for_no_answer_of_the_fleet(redis, members):
    async with SlowWay().to(redis.port) as way, FaultServer(chat("well")) as server:
        url = redis.url.replace(str(redis.port), str(way.port))
        reg = members(url, {"a": server, "b": server}, stagger=0.0)
        for name in "ab":
            reg.register(name, reg.provider(name), limits=Limits(rpm=1000))
        await reg.generate("a/m|b/m", "hi")
        seen = []

        def hook(event):
            seen.append(type(event))
            if type(event) is AttemptStarted:
                way.seconds = 1000.0  # what is asked from now on has no answer

        reg.on_event(hook)
        response = await reg.generate("a/m|b/m", "hi")
        assert [str(each.target) for each in response.attempts] == ["a/m"]
        assert FleetAway not in seen
        way.seconds = 0.0
