"""What one process learns of a target's health, all processes of its fleet know."""

from __future__ import annotations

import asyncio
import math

import pytest

from aiollm import FailoverError, Registry
from aiollm._failover.tickets import Demand, Patience
from aiollm._fleet import scripts, shared_health
from aiollm._fleet.address import parse_address
from aiollm._fleet.membership import service_name
from aiollm._fleet.overview import look
from aiollm.errors import ConnectError, OverloadedError, ServerError
from aiollm.spec import parse_target
from aiollm.testing import Answer, FaultServer, Gate, Reset, chat
from aiollm.types import Request, user
from tests.fleet.conftest import SlowWay, state, until

DOWN = Answer(503)


@pytest.fixture
async def server():
    async with FaultServer(chat("well")) as server:
        yield server


async def fails(registry, spec="a/m"):
    with pytest.raises(FailoverError) as caught:
        await registry.generate(spec, "hi", max_wait=0)
    return caught.value


async def test_an_opening_is_known_to_a_process_that_never_asked_the_target(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    first, second = members(url, {"a": server}), members(url, {"a": server})
    await second._resources._member.open()
    await fails(first)
    await until(lambda: second._resources._member.health._known)
    error = await fails(second)
    assert len(server.requests) == 1
    assert "another process" in str(error.exceptions[0])


async def test_what_a_model_load_finds_is_known_to_all(redis, members):
    async with FaultServer(DOWN) as server:
        url = redis.url
        two = [members(url, {}, cooldown=60.0) for _ in range(2)]
        for reg in two:
            reg.register("o", f"ollama+http://127.0.0.1:{server.port}")
            await reg._resources._member.open()
        with pytest.raises(FailoverError):
            await two[0].load_models("o/m")
        await until(lambda: two[1]._resources._member.health._known)
        await fails(two[1], "o/m")
        assert len(server.requests) == 1
        server.behave(Answer(200, {}, {"done": True}))
        await two[0].load_models("o/m")
        await until(lambda: state(two[1], "o/m") == "healthy")


async def test_a_process_that_joins_later_knows_what_is_open(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    await fails(members(url, {"a": server}))
    late = members(url, {"a": server})
    await late._resources._member.open()
    await until(lambda: late._resources._member.health._known)
    await fails(late)
    assert len(server.requests) == 1


async def test_the_first_call_of_a_process_does_not_ask_what_others_found_open(
    redis, members, server
):
    server.behave(DOWN)
    url = redis.url
    first, *later = (members(url, {"a": server}, cooldown=60.0) for _ in range(4))
    await fails(first)
    await until(lambda: first._resources._member.health._known)
    await asyncio.gather(*map(fails, later))
    assert len(server.requests) == 1


async def test_one_call_of_all_processes_probes_and_the_others_wait_for_it(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    regs = [members(url, {"a": server}, cooldown=0.05) for _ in range(4)]
    for reg in regs:
        await reg._resources._member.open()
    await fails(regs[0])
    for reg in regs:
        await until(lambda reg=reg: reg._resources._member.health._known)
    gate = Gate()
    server.push(chat(gate, "probe"))
    server.behave(chat("well"))
    server.push(chat(gate, "probe"))
    calls = [asyncio.create_task(reg.generate("a/m", "hi")) for reg in regs for _ in range(8)]
    await gate.reached()
    for reg in regs:
        await until(lambda reg=reg: state(reg) != "healthy")
    assert len(server.requests) == 2  # the failure, and the probe
    gate.open()
    texts = [response.text for response in await asyncio.gather(*calls)]
    assert sorted(set(texts)) == ["probe", "well"]
    assert texts.count("probe") == 1
    for reg in regs:
        await until(lambda reg=reg: state(reg) == "healthy")


async def test_a_probe_that_fails_doubles_the_cooldown_of_all_once(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    first, second = (members(url, {"a": server}, cooldown=0.05) for _ in range(2))
    await second._resources._member.open()
    await fails(first)
    key, known = await opened(second)
    for openings in (2, 3):
        # A probe that took long is followed by a rest as long, which they wait for.
        calls = (reg.generate("a/m", "hi", max_wait=20) for reg in (first, second))
        ended = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(each) for each in ended] == [FailoverError] * 2
        await until(lambda at=openings: known()[key].openings >= at)


async def opened(registry):
    health = registry._resources._member.health
    await until(lambda: health._known)
    return next(iter(health._known)), lambda: health._known


async def test_a_cancelled_probe_hands_on_to_another_process(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    first, second = (members(url, {"a": server}, cooldown=0.05) for _ in range(2))
    await second._resources._member.open()
    await fails(first)
    await opened(second)
    gate = Gate()
    server.behave(chat(gate, "probe"))
    probe = asyncio.create_task(first.generate("a/m", "hi"))
    await gate.reached()
    server.behave(chat("well"))
    waiting = asyncio.create_task(second.generate("a/m", "hi"))
    await until(lambda: second.limits() and second.limits()[0].waiting == 1)
    probe.cancel()
    assert (await waiting).text == "well"
    with pytest.raises(asyncio.CancelledError):
        await probe


async def test_a_connection_failure_is_the_fleets_only_when_a_second_machine_reports_it(
    redis, members
):
    async with FaultServer(Reset()) as server:
        url = redis.url
        regs = [members(url, {"a": server}) for _ in range(3)]
        for reg, machine in zip(regs, ("one", "one", "two"), strict=True):
            reg._resources._member.machine = machine
            await reg._resources._member.open()
        watcher = members(url, {"a": server})
        await watcher._resources._member.open()
        await fails(regs[0])
        await fails(regs[1])
        assert state(watcher) == "healthy"
        assert len(server.requests) == 2
        await fails(regs[2])
        await until(lambda: watcher._resources._member.health._known)
        await fails(watcher)
        assert len(server.requests) == 3


async def test_what_was_under_way_when_a_host_was_set_aside_does_not_double_its_cooldown(
    redis, members, server
):
    url = redis.url
    first, second = (members(url, {"a": server}) for _ in range(2))
    other, attempts = await under_way(first, "a/m"), await under_way(second, "a/m", "a/n")
    health = second._resources._member.health
    first._resources._member.machine = "another"
    other[0].failure(ConnectError("x"), was_sent=False)
    await until(lambda: not first._resources._member.health._reports)
    attempts[0].failure(ConnectError("x"), was_sent=False)
    await until(lambda: len(health._known) == 2)
    attempts[1].failure(ConnectError("x"), was_sent=False)
    await until(lambda: not health._reports)
    assert [each.openings for each in health._known.values() if each.openings] == [1, 1]


async def test_a_host_that_is_down_does_not_double_the_cooldown_of_a_target_that_failed_before(
    redis, members, server
):
    (reg,) = [members(redis.url, {"a": server})]
    attempts = await under_way(reg, "a/m", "a/m")
    health = reg._resources._member.health
    attempts[0].failure(ServerError("x", status=500), was_sent=True)
    await until(lambda: health._known)
    attempts[1].failure(ConnectError("x"), was_sent=False)
    await until(lambda: not health._reports)
    assert [each.openings for each in health._known.values() if each.openings] == [1]


async def test_a_probe_does_not_end_a_wait_that_was_stated_to_another_process(
    redis, members, server, monkeypatch
):
    monkeypatch.setattr(shared_health, "UNUSED", 60.0)  # a claim does not end by itself
    monkeypatch.setattr(shared_health, "PROBE_LEASE", 60.0)
    url = redis.url
    first, second = (members(url, {"a": server}, cooldown=0.01) for _ in range(2))
    second._gate.bind_loop(asyncio.get_running_loop())
    (old,), (failing,) = await under_way(first, "a/m"), await under_way(second, "a/m")
    failing.failure(ServerError("x", status=500), was_sent=True)
    key, known = await opened(second)
    line = second._gate.line(parse_target("a/m"), second.provider("a"))
    probe = await second._gate.wait(
        1, [line], Demand(Request((user("hi"),))), Patience(20, 20), math.inf
    )
    assert probe.permit.is_probe
    old.failure(OverloadedError("x", status=503, retry_after=60.0), was_sent=True)
    await until(lambda: known()[key].not_before > 50e6)
    assert not probe.first_output(0.1)
    await until(lambda: not known()[key].holder)
    assert [state(each) for each in (first, second)] == ["cooling", "cooling"]


async def under_way(registry, *specs):
    """Return the admissions of calls to some targets, which have not failed yet."""
    await registry._resources._member.open()
    gate, demand = registry._gate, Demand(Request((user("hi"),)))
    lines = [gate.line(parse_target(each), registry.provider("a")) for each in specs]
    return [await gate.ask(line, number, demand) for number, line in enumerate(lines)]


async def test_a_claim_of_a_process_that_died_ends(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    reg = members(url, {"a": server}, cooldown=0.05)
    await fails(reg)
    key, known = await opened(reg)
    member = reg._resources._member
    await until(lambda: known()[key].openings)
    dead = (member.channel, "dead:1:abc", 300_000, 1)
    while True:
        replies = []
        member.run(scripts.claimed, [key, member.open_ones], dead, replies.append)
        await until(replies.copy)
        if b"dead" in replies[0]:
            break
    server.behave(chat("well"))
    assert (await reg.generate("a/m", "hi")).text == "well"


async def test_a_target_that_is_declared_well_is_so_everywhere(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    first, second = (members(url, {"a": server}) for _ in range(2))
    await second._resources._member.open()
    await fails(first)
    await opened(second)
    await fails(second)
    assert state(second) == "cooling"
    first.reset_health()
    await until(lambda: state(second) == "healthy")


async def test_a_target_is_declared_well_before_redis_answers_that_it_fails(redis, members, server):
    server.behave(DOWN)
    async with SlowWay().to(redis.port) as way:
        url = redis.url
        first = members(url.replace(str(redis.port), str(way.port)), {"a": server}, cooldown=60.0)
        second = members(url, {"a": server}, cooldown=60.0)
        for each in (first, second):
            await each._resources._member.open()
        way.seconds = 0.1
        await fails(first)
        await opened(second)
        await fails(second)
        assert not first._resources._member.health._known
        first.reset_health()
        assert state(first) == "healthy"
        await until(lambda: state(second) == "healthy")
        await until(lambda: not first._resources._member.health._reports)
        await until(lambda: state(first) == "healthy")
    assert len(server.requests) == 1


async def test_nothing_secret_gets_into_redis(redis, members):
    async with FaultServer(
        Answer(500, {}, {"error": {"message": "words of the server"}})
    ) as server:
        url = redis.url
        reg = members(url, {"a": server})
        with pytest.raises(FailoverError):
            await reg.generate("a/m", "words of the prompt", max_wait=0)
        await opened(reg)
        namespace = reg.fleet.namespace
        found = [str(key) for key in await redis.ask("KEYS", f"*:{namespace}*")]
        held = [*found]
        for key in found:
            kind = await redis.ask("TYPE", key)
            command = {"hash": ("HGETALL", key), "zset": ("ZRANGE", key, "0", "-1")}[kind]
            held.append(str(await redis.ask(*command)))
        text = "\n".join(held)
        assert "ServerError" in text
        for secret in ("secret-key", "words of"):
            assert secret not in text


async def test_services_behind_one_host_and_key_are_told_apart():
    dsns = {
        "A": "openai+http://k@gateway/one",
        "B": "openai+http://k@gateway/two",
        "C": "openai+http://k@gateway/one?header.X-Service=three",
        "D": "openai+http://k@gateway/one?query.service=four",
        "E": "openai+http://another@gateway/one",
        "SAME": "openai+http://k@gateway/one",
    }
    async with Registry(env={f"LLM_{name}": dsn for name, dsn in dsns.items()}) as reg:
        names = {each: service_name(reg.provider(each.lower()), "n") for each in dsns}
    assert len(set(names.values())) == 5
    assert names["A"] == names["SAME"]
    assert "k@" not in str(names)


async def test_a_late_reply_of_a_redis_that_is_away_closes_nothing(redis, members, server):
    server.behave(DOWN)
    url = redis.url
    first, second = (members(url, {"a": server}) for _ in range(2))
    await second._resources._member.open()
    await fails(first)
    key, known = await opened(second)
    await fails(second)
    member = second._resources._member
    replies = []
    member.run(scripts.states, [key], [], replies.append)
    await until(replies.copy)
    member._go_away("it is slow")
    member.health._heard_all(replies[0])
    assert not known()
    assert second._health.breaker_of(parse_target("a/m")).shared is None


@pytest.mark.parametrize("status", ["word", "1e9", "-1", "nan", "9" * 5000])
async def test_a_status_that_is_none_ends_no_connection(redis, members, server, status):
    server.behave(DOWN)
    url = redis.url
    first, second = (members(url, {"a": server}) for _ in range(2))
    await fails(first)
    key, _ = await opened(first)
    await redis.ask("HSET", key, "status", status)
    await second._resources._member.open()
    second._gate.line(parse_target("a/m"), second.provider("a"))
    _, known = await opened(second)
    assert known()
    assert second.fleet.state == "linked"
    (found,) = (await look(parse_address(url))).set_aside
    assert found.status == 0
