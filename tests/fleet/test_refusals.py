"""What Redis keeps from a process ends its first call, or is decided alone: it never flaps."""

from __future__ import annotations

import logging

import pytest

from aiollm import ConfigError, FailoverError, Limits
from aiollm._fleet import member, refusals, scripts
from aiollm.events import FleetAway
from aiollm.testing import Answer, FaultServer, chat
from tests.fleet.conftest import until
from tests.programs import free_port

RIGHTS = ("&aiollm:1:*", "+@read", "+@write", "+@connection", "+@pubsub", "+@scripting", "+time")


@pytest.fixture(autouse=True)
def quickly(monkeypatch):
    monkeypatch.setattr(member, "BEAT", 0.02)


@pytest.fixture
async def server():
    async with FaultServer(chat("well")) as server:
        yield server


def beats(registry):
    return registry._resources._member._beats


async def after_beats(registry, count):
    last = beats(registry) + count
    await until(lambda: beats(registry) >= last)


def watch(registry):
    seen = []
    registry.on_event(lambda event: seen.append(event) if isinstance(event, FleetAway) else None)
    return seen


def user(*rights):
    return ("--user", "u", "on", ">p", *RIGHTS, *rights)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (user("~{aiollm:1:x}*"), "use these keys"),
        (user("~{aiollm:1:*", "-zrank"), "use these keys"),
        (user("~{aiollm:1:*", "-publish"), "use these keys"),
        (user("~{aiollm:1:*", "resetchannels", "&other"), "use these keys"),
        (("--cluster-enabled", "yes", "--cluster-port", "0"), "is a cluster"),
    ],
    ids=["keys", "command", "publish", "channels", "cluster"],
)
async def test_rights_that_are_missing_are_known_before_the_first_call(
    own_redis, members, server, arguments, words
):
    redis = own_redis(*(str(free_port()) if each == "0" else each for each in arguments))
    login = "u:p@" if "u" in arguments else ""
    reg = members(f"redis://{login}127.0.0.1:{redis.port}?namespace=x", {"a": server})
    with pytest.raises(ConfigError, match=words):
        await reg.generate("a/m", "hi")
    assert not server.requests


async def test_a_cluster_of_one_server_is_refused_too(own_redis, members, server):
    """It has all keys, but no script may use those of two slots."""
    redis = own_redis("--cluster-enabled", "yes", "--cluster-port", str(free_port()))
    await redis.ask("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
    while "cluster_state:ok" not in await redis.ask("CLUSTER", "INFO"):
        pass
    with pytest.raises(ConfigError, match="is a cluster"):
        await members(redis.url, {"a": server}).generate("a/m", "hi")
    assert not server.requests


async def test_what_tries_the_rights_leaves_nothing(redis, members, server):
    url = redis.url
    reg = members(url, {"a": server})
    await reg._resources._member.open()
    while await redis.ask("KEYS", f"*{reg.fleet.namespace}:check*"):
        pass
    assert reg.fleet.state == "linked"


async def spoil_by_a_foreign_key(redis, reg, end):
    await redis.ask("DEL", name := key_of(reg, end))
    await redis.ask("SET", name, "mine")
    return lambda: redis.ask("DEL", name)


async def spoil_by_taking_rights(redis, reg, end):
    fleet = f"{{aiollm:1:{reg.fleet.namespace}"
    other = key_of(reg, end, "b").partition("}")[0]
    mine = [f"~{each}*" for each in (fleet + "}", fleet + ":check", fleet + ":http", other)]
    await redis.ask("ACL", "SETUSER", "default", "resetkeys", *mine)
    return lambda: redis.ask("ACL", "SETUSER", "default", "~*")


def key_of(reg, end, name="a"):
    """Return a key of the target's."""
    found = reg._resources._member
    if end == "h":
        line = next(each for target, each in reg._gate._lines.items() if target.provider == name)
        return found.health.places.get(line.target)
    shared = next(s for s in found.limits.scopes if any(t.provider == name for t in s.lines))
    return shared.name + end


@pytest.mark.parametrize("end", ["q", "n", "w", "h"])
@pytest.mark.parametrize(
    "spoil", [spoil_by_a_foreign_key, spoil_by_taking_rights], ids=["foreign key", "rights"]
)
async def test_one_refused_key_is_decided_alone_and_all_else_is_shared(
    own_redis, members, server, caplog, monkeypatch, end, spoil
):
    monkeypatch.setattr(refusals, "FIRST", 0.01)
    caplog.set_level(logging.WARNING, "aiollm")
    redis = own_redis()
    async with FaultServer(chat("well")) as other:
        reg = members(redis.url, {"a": server, "b": other}, cooldown=0.01)
        for name in "ab":
            reg.limit(name, Limits(rpm=600_000, max_concurrency=2))
            await reg.generate(f"{name}/m", "hi")
        joined = reg._resources._member
        seen = watch(reg)
        mend = await spoil(redis, reg, end)
        for _ in range(3):
            server.behave(Answer(503))
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", max_wait=0, patience=1)
            server.behave(chat("well"))
            assert (await reg.generate("a/m", "hi", max_wait=5)).text == "well"
            assert (await reg.generate("b/m", "hi")).text == "well"
            await after_beats(reg, 4)
        assert (reg.fleet.state, seen) == ("linked", [])
        assert joined.refusals
        assert key_of(reg, "h" if end == "h" else "q", "b") not in joined.refusals._waits
        warnings = [each.getMessage() for each in caplog.records if "Redis" in each.getMessage()]
        assert len(warnings) == 1
        await mend()
        while joined.refusals:
            server.behave(Answer(503))
            with pytest.raises(FailoverError):
                await reg.generate("a/m", "hi", max_wait=0)
            server.behave(chat("well"))
            for name in "ab":
                await reg.generate(f"{name}/m", "hi", max_wait=5)
            await after_beats(reg, 2)
        assert seen == []


async def test_a_refusal_is_asked_again_ever_less_often():
    class NoPermissionError(Exception):
        pass

    now = 0.0
    found = refusals.Refusals("here", lambda: now)
    waits = []
    for _ in range(8):
        began = now
        for _ in range(3):  # of those under way at one time, one counts
            assert found.note(["k"], NoPermissionError())
        while "k" in found:
            now += 1.0
        waits.append(now - began)
    assert waits == [2, 4, 8, 16, 32, 60, 60, 60]
    found.worked(["k"])
    assert not found


async def test_a_server_that_refuses_scripts_but_no_beat_is_left_for_ever_longer(
    own_redis, members, server, monkeypatch
):
    """Nobody knows what it is: a person has to mend it, and calls go on."""
    monkeypatch.setattr(scripts, "enter", broken := scripts.Script("error('none of it')"))
    monkeypatch.setattr(scripts, "ALL", (*scripts.ALL, broken))
    redis = own_redis()
    reg = members(redis.url, {"a": server})
    reg.limit("a", Limits(rpm=600_000))
    seen = watch(reg)
    await reg._resources._member.open()
    for _ in range(60):
        assert (await reg.generate("a/m", "hi")).text == "well"
        await after_beats(reg, 1)
    assert 2 <= len(seen) <= 10
