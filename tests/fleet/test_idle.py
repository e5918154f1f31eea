"""What a process does not use costs its fleet nothing, and is shared again once it is used."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from aiollm import Limits, Registry, Request, Target, user
from aiollm._failover.fleet_gate import FleetGate
from aiollm._failover.health import Health
from aiollm._failover.tickets import Demand
from aiollm._fleet import in_use, scripts
from aiollm._fleet.refusals import Refusals
from aiollm._fleet.shared_health import ASKS, SharedHealth
from aiollm._fleet.shared_limits import SharedLimits
from aiollm._wire.tokens import DynamicToken
from aiollm.dsn import Secret
from aiollm.errors import ServerError
from aiollm.testing import FaultServer, Gate, chat
from tests.fleet.conftest import until

MANY = 10_000


class Member:
    """A process whose Redis never replies."""

    namespace, machine, process, channel, open_ones = "n", "me", "me:1:a", "c", "o"
    timeout = 60.0
    away = is_slow = False
    is_open = True
    refusals = Refusals("here", lambda: 0.0)

    def __init__(self) -> None:
        self.sent: list[tuple[scripts.Script, list[str], Any]] = []

    def run(
        self, script: Any, keys: Any, arguments: Any, then: Any = None, failed: Any = None
    ) -> None:
        self.sent.append((script, [*keys], arguments))

    def late(self, seconds: float) -> None:
        pass


class World:
    """A process with a key for each of many users."""

    def __init__(self) -> None:
        self.now = 0.0
        self.member = Member()
        self.gate = FleetGate(Health(clock=lambda: self.now))
        self.gate.bind_loop(asyncio.get_running_loop())
        self.gate.sharing = self.health = SharedHealth(self.gate, self.member)
        self.gate.limiter = self.limits = SharedLimits(self.gate, self.member)
        reg = Registry(env={"LLM_A": "openai+http://k@h/v1?max_concurrency=4"})
        self.provider = reg.provider("a")

    def line(self, number: int) -> Any:
        key = replace(self.provider, name=f"a{number}", token=Secret(f"key {number}"))
        return self.gate.line(Target(f"a{number}", "m"), key)

    def beat(self) -> Counter[scripts.Script]:
        """Return how often each script is run in two beats."""
        self.member.sent.clear()
        self.limits.beat()
        self.limits.beat()
        self.health.ask()
        return Counter(script for script, _, _ in self.member.sent)

    def ask(self, number: int) -> Any:
        """Ask for an attempt as a call does."""
        line = self.line(number)
        self.health.use(line)
        self.limits.use(line)
        return self.limits.ask(line, Demand(Request([user("hi")])), 1.0, lambda _: None)


@pytest.fixture
async def world():
    return World()


async def test_a_beat_speaks_of_what_is_in_use_alone(world):
    for number in range(MANY):
        world.line(number)
    grant = world.ask(MANY)
    first = world.beat()
    assert first[scripts.states] <= in_use.MOST // ASKS
    assert all(
        len(keys) <= ASKS for script, keys, _ in world.member.sent if script is scripts.states
    )
    assert world.beat() == {scripts.leave: 2}  # the call that waits for an answer
    world.limits.give_back(grant)
    world.limits.scopes.active.popitem()[1].asked.clear()
    assert not world.beat()


async def test_what_was_not_used_for_long_is_forgotten(world):
    for number in range(MANY):
        world.line(number)
    world.beat()
    assert len(world.limits.scopes) <= in_use.MOST
    assert len(world.health.places) <= in_use.MOST
    kept = [*world.limits.scopes]
    world.now += in_use.IDLE + 1
    world.beat()
    assert len(world.limits.scopes) == len(world.health.places) == 0
    assert not world.health._local
    assert all(scope.shared is None for each in kept for scope in each.scopes)


async def test_what_was_forgotten_is_asked_for_again_when_it_is_used(world):
    world.line(1)
    world.beat()
    world.now += in_use.IDLE + 1
    world.beat()
    world.member.sent.clear()
    world.ask(1)
    sent = Counter(script for script, _, _ in world.member.sent)
    assert sent == {scripts.learnt: 1, scripts.states: 1, scripts.enter: 1}
    assert world.beat() == {scripts.leave: 2, scripts.states: 1}


async def test_what_is_held_or_set_aside_is_never_forgotten(world):
    line = world.line(1)
    line.scope.slots.take(holder := object())
    failed = world.line(2)
    world.gate.health.admit(failed.target, failed.origin).failure(ServerError("x"))
    world.beat()
    for _ in range(3):
        world.now += in_use.IDLE + 1
        assert world.beat() == {scripts.leave: 2, scripts.states: 1}
    told = [arguments[3] for script, _, arguments in world.member.sent if script is scripts.leave]
    assert told == ["=1", "=1"]
    line.scope.slots.release(holder)
    assert world.beat() == {scripts.leave: 1, scripts.states: 1}


async def test_calls_of_a_token_that_was_replaced_are_still_counted(world):
    """A token that a function returns counts by the name of its provider."""
    for number in range(2):
        token = DynamicToken(lambda number=number: f"token {number}")
        line = world.gate.line(Target("a", "m"), replace(world.provider, name="a", token=token))
        line.scope.slots.take(object())
    (shared,) = world.limits.scopes
    assert shared.held == 2
    world.beat()
    told = [arguments[3] for script, _, arguments in world.member.sent if script is scripts.leave]
    assert told == ["=2", "=2"]


async def test_a_target_that_was_forgotten_is_still_bounded_by_the_fleet(redis, members):
    gate = Gate()
    async with FaultServer(chat("well")) as server:
        url = redis.url
        first, second = members(url, {"a": server}), members(url, {"a": server})
        for reg in (first, second):
            reg.limit("a", Limits(max_concurrency=1))
        await first.generate("a/m", "hi")
        limits = first._resources._member.limits
        limits.beat()
        limits._forget(0.0)
        assert not [*limits.scopes]
        server.behave(chat(gate, "well"))
        running = asyncio.create_task(second.generate("a/m", "hi"))
        await gate.reached()
        waiting = asyncio.create_task(first.generate("a/m", "hi"))
        await until(lambda: first.limits()[0].waiting)
        gate.open()
        assert {(await each).text for each in (running, waiting)} == {"well"}
