"""Calls that are cancelled at any turn leave nothing: no booking, slot, ticket or timer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm import Limits, Registry
from aiollm._failover.lines import Scope
from aiollm.errors import ServerError, StreamInterrupted
from aiollm.testing import NEVER, FakeProvider, Gate

pytestmark = pytest.mark.loops

ROOM = Limits(rpm=6_000_000, max_concurrency=3)
CUT = ["Half", StreamInterrupted("cut")]
SPECS = ["a/m", "a/m,b/m", "a/m&b/m", "a/m|b/m", "cut/m,a/m", "sick/m", "sick/m,a/m"]
"""Calls that wait for slots, in spreads, races and restarts, and for a target to recover."""


class Clock:
    """A clock that stands, so that what is booked can be counted."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


def stopped(reg: Registry) -> Clock:
    clock = Clock()
    reg._health.clock = reg._gate.now = clock
    return clock


def scopes(reg: Registry) -> list[Scope]:
    return [*reg._gate._scopes.values()]


def nothing_is_left(reg: Registry, sent: dict[str, int]) -> None:
    for each in reg.limits():
        assert (each.held, each.waiting) == (0, 0)
        assert each.used["requests"] == pytest.approx(sent[each.target.provider])
    for scope in scopes(reg):
        assert not scope.waiting
        assert scope.timer is None
    for line in reg._gate._lines.values():
        assert not line.tickets
        assert (line.running, line.pending) == (0, 0)


async def cancelled_crowd(plans: list[tuple[str, int]], releases: int) -> None:
    """Start calls turn by turn, and cancel each after its own number of turns."""
    gate = Gate()
    fakes = {
        "a": FakeProvider(default=[gate, "one", gate, "two"], name="a"),
        "b": FakeProvider(default=[gate, "one", NEVER], name="b"),
        "cut": FakeProvider(default=CUT, name="cut"),
        "sick": FakeProvider(default=ServerError("x", status=500), name="sick"),
    }
    async with Registry(env={}, on_interrupt="restart", stagger=0.0) as reg:
        stopped(reg)
        for name, fake in fakes.items():
            reg.register(name, fake.provider(base_url=f"fake://{name}"), limits=ROOM)
        left: dict[asyncio.Task[object], int] = {}
        before = asyncio.all_tasks()
        todo = [*plans]
        turn = 0
        while todo or left:
            for spec, turns in todo[:20]:
                left[asyncio.create_task(reg.generate(spec, "hi"))] = turn + turns
            del todo[:20]
            if releases and turn % releases == 0:
                gate.let(2)  # grants and cancellations meet
            for task, due in [*left.items()]:
                if due <= turn:
                    task.cancel()
                    del left[task]
            await asyncio.sleep(0)
            turn += 1
        rest = asyncio.all_tasks() - before
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        nothing_is_left(reg, {name: len(fake.calls) for name, fake in fakes.items()})
        gate.open()
        reg.reset_health()
        response = await reg.generate("a/m", "hi")
        assert response.attempts[0].queued == 0


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(SPECS), st.integers(0, 12)), min_size=1, max_size=60),
    st.integers(0, 4),
)
async def test_calls_cancelled_at_any_turn_leave_nothing(plans, releases):
    await cancelled_crowd(plans, releases)


@pytest.mark.parametrize("releases", [0, 1, 3])
async def test_a_thousand_calls_cancelled_at_any_turn_leave_nothing(releases):
    plans = [(SPECS[index % len(SPECS)], index % 13) for index in range(1000)]
    await cancelled_crowd(plans, releases)
