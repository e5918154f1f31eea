"""A fleet in virtual time: processes that tell each other of 429s, with no limits to share."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aiollm import Limits, Registry
from aiollm._failover.lines import Line
from aiollm._failover.pace import Seen
from tests.failover.test_random_refusals import refuses_at_random
from tests.failover.test_virtual_crowd import Service, VirtualLoop, in_virtual_time, outcome

WAY = 0.001
"""Seconds that a message takes."""


class Wire:
    """What passes between the processes, as Redis and its scripts do it."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.later = loop.call_later
        self.loop = loop
        self.members: list[Member] = []
        self.until = 0.0
        self.seen = Seen(0.0, 0.0, 0.0, 0.0)

    def blocked(self, seconds: float) -> None:
        if self.until <= self.loop.now:
            self.seen = Seen(0.0, 0.0, 0.0, 0.0)
        self.until = max(self.until, self.loop.now + seconds)
        for member in self.members:
            self.later(WAY, member.heard, seconds)

    def told(self, seen: Seen, then: Callable[[Seen], None]) -> None:
        self.seen = Seen(*(each + more for each, more in zip(self.seen, seen, strict=True)))
        self.later(WAY, then, self.seen)


class Member:
    """A process of the fleet, which decides about each call by itself: a `Limiter`."""

    def __init__(self, wire: Wire, registry: Registry) -> None:
        self.wire = wire
        self.gate = registry._gate
        self.lines: dict[Line, None] = {}
        self.gate.limiter = self
        wire.members.append(self)

    def declare(self, line: Line) -> None:
        line.pace.is_shared = True
        self.lines[line] = None

    def bounds(self, _: Line) -> bool:
        return False

    def promised(self, _: Line) -> float:
        return 0.0

    def use(self, line: Line) -> None:
        self.declare(line)

    def learnt(self, *_: Any) -> None:
        """Limits are not shared here."""

    ask = leave = quit = used = give_back = estimated = learnt

    def blocked(self, _: Line, seconds: float) -> None:
        self.wire.later(WAY, self.wire.blocked, seconds)

    def heard(self, seconds: float) -> None:
        now = self.gate.now()
        for line in self.lines:
            line.block(now, now + seconds)
            if line.pace.may_tell:
                self.tell(line)
                self.wire.later(min(0.5, seconds / 2), self.tell, line)
            self.gate.pump(line.scope)

    def tell(self, line: Line) -> None:
        self.wire.later(WAY, self.wire.told, line.pace.tell(), line.pace.hear)


def fleet(loop: VirtualLoop, service: Service, processes: int, **settings: Any) -> list[Registry]:
    random.seed(7)
    wire = Wire(loop)
    registries = [service.registry(**settings) for _ in range(processes)]
    for each in registries:
        Member(wire, each)
    return registries


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
@pytest.mark.parametrize("processes", [1, 3, 10])
def test_a_crowd_in_a_fleet_is_answered_where_refusals_are_random(
    processes: int, share: float
) -> None:
    """No process sees enough of them alone to tell them from those of a service that counts."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 1e6, answers_in=0.5)
        refuses_at_random(service, share, None)
        regs = fleet(loop, service, processes, limits=Limits(max_concurrency=64 // processes))
        ends = await asyncio.gather(*(outcome(regs[i % processes]) for i in range(1000)))
        assert Counter(ends) == {"ok": 1000}
        for each in regs:
            await each.aclose()

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("processes", "rate", "refused", "fair"),
    [(3, 20.0, 0.04, 0.9), (3, 100.0, 0.02, 0.9), (10, 100.0, 0.03, 0.9), (10, 20.0, 0.1, 0.2)],
)
def test_a_service_that_counts_is_used_in_full_and_shared(
    processes: int, rate: float, refused: float, fair: float
) -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, rate)
        regs = fleet(loop, service, processes)
        answers: Counter[int] = Counter()
        ends: Counter[str] = Counter()

        async def caller(number: int) -> None:
            while True:
                end = await outcome(regs[number % processes])
                ends[end] += 1
                answers[number % processes] += end == "ok"

        callers = [asyncio.create_task(caller(number)) for number in range(100)]
        await asyncio.sleep(60.0)
        for each in callers:
            each.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert set(ends) == {"ok"}, "no call lost its patience"
        assert service.accepted >= 0.94 * service.allowed
        assert service.share_refused <= refused
        squares = sum(each * each for each in answers.values())
        assert answers.total() ** 2 / (processes * squares) >= fair
        for each in regs:
            await each.aclose()

    in_virtual_time(scenario)
