"""A reply that comes after its process has decided alone still says what Redis has booked."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from aiollm import Limits, Registry, Request, ServerError, Target, user
from aiollm._failover.fleet_gate import FleetGate
from aiollm._failover.health import Health
from aiollm._failover.sharing import Grant
from aiollm._failover.tickets import Demand, Patience
from aiollm._fleet import scripts
from aiollm._fleet.refusals import Refusals
from aiollm._fleet.shared_limits import SharedLimits
from tests.fleet.conftest import until


class Member:
    """A process whose Redis replies when the test wants it to."""

    namespace, machine, process, channel, open_ones = "n", "me", "me:1:a", "c", "o"
    refusals = Refusals("here", lambda: 0.0)
    timeout = 0.0
    away = is_slow = False
    is_open = True

    def __init__(self) -> None:
        self.sent: list[tuple[scripts.Script, list[Any], Any]] = []

    def run(
        self, script: Any, keys: Any, arguments: Any, then: Any = None, failed: Any = None
    ) -> None:
        self.sent.append((script, arguments, then))

    def late(self, seconds: float) -> None:
        pass

    def reply(self, *reply: bytes) -> None:
        """Reply to the last question for the right to an attempt."""
        _, _, then = next(each for each in reversed(self.sent) if each[0] is scripts.enter)
        then([*reply])

    @property
    def changes(self) -> list[float]:
        """The units that Redis was told were taken beyond what it had booked."""
        told = [arguments for script, arguments, _ in self.sent if script is scripts.leave]
        return [units for each in told for units in each[9::3]]


@pytest.fixture
def member() -> Member:
    return Member()


@pytest.fixture
async def grant(member) -> tuple[SharedLimits, Grant]:
    """Ask for an attempt, and decide alone."""
    gate = FleetGate(Health())
    gate.limiter = limits = SharedLimits(gate, member)
    reg = Registry(env={"LLM_A": "openai+http://k@h/v1"})
    reg.limit("a", Limits(rpm=60))
    line = gate.line(Target("a", "m"), reg.provider("a"))
    answers = []
    grant = limits.ask(line, Demand(Request([user("hi")])), 1.0, answers.append)
    await until(lambda: answers)
    assert grant.state == "alone"
    return limits, grant


async def test_what_was_sent_stays_booked(member, grant):
    limits, given = grant
    limits.used(given)
    limits.leave(given, {})
    member.reply(b"granted", b"0")
    assert member.changes == []


async def test_what_was_never_sent_is_returned(member, grant):
    limits, given = grant
    limits.used(given)
    limits.leave(given, None)
    member.reply(b"granted", b"0")
    assert member.changes == [-1.0]


async def test_what_nobody_used_is_returned(member, grant):
    limits, given = grant
    limits.give_back(given)
    member.reply(b"granted", b"0")
    assert member.changes == [-1.0]


async def test_what_is_under_way_is_settled_at_its_end(member, grant):
    limits, given = grant
    limits.used(given)
    member.reply(b"granted", b"0")
    assert member.changes == []
    limits.leave(given, None)
    assert member.changes == [-1.0]


async def test_a_refusal_returns_nothing(member, grant):
    limits, given = grant
    limits.give_back(given)
    member.reply(b"busy", b"5000000")
    limits.leave(given, None)
    assert member.changes == []


async def test_a_429_that_lasts_longer_than_a_failure_is_known_beside_it(member):
    """Nobody waits for a probe that cannot be sent in time: the call would only end later."""
    gate = FleetGate(Health())
    gate.bind_loop(asyncio.get_running_loop())
    gate.limiter = SharedLimits(gate, member)
    reg = Registry(env={"LLM_A": "openai+http://k@h/v1"})
    reg.limit("a", Limits(rpm=60))
    line = gate.line(Target("a", "m"), reg.provider("a"))
    line.pace.refused(gate.now(), 60.0, line.pace.book(gate.now()))
    gate.health.admit(line.target, line.origin).failure(ServerError("down", status=503))
    async with asyncio.timeout(10):
        ended = await gate.wait(
            1, [line], Demand(Request([user("hi")])), Patience(60.0, 15.0), math.inf
        )
    assert ended == []
    gate.close()
