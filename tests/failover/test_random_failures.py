"""A service that fails now and then, whoever asks and however often."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable

import pytest

from aiollm import ConnectError, Limits, OverloadedError, ServerError, TransportError
from tests.failover.test_virtual_crowd import Service, VirtualLoop, in_virtual_time, outcome

FAILURES: dict[str, Callable[[], Exception]] = {
    "500": lambda: ServerError("no", status=500),
    "503": lambda: OverloadedError("busy", status=503),
    "503 with a time": lambda: OverloadedError("busy", status=503, retry_after=0.5),
    "reset": lambda: TransportError("reset"),
    "refused": lambda: ConnectError("refused"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("share", [0.1, 0.2])
def test_a_thousand_calls_at_once_are_all_answered(failure: str, share: float) -> None:
    """It is set aside once or twice, then known for what it is."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 1e6, answers_in=0.5)
        dice, takes = random.Random(7), service.stream
        failed = 0

        async def stream(*args: object):
            nonlocal failed
            if dice.random() < share:
                failed += 1
                await asyncio.sleep(0.02)
                error = FAILURES[failure]()
                raise error
            async for batch in takes(*args):
                yield batch

        service.stream = stream
        async with service.registry(limits=Limits(max_concurrency=64)) as reg:
            ends = await asyncio.gather(*(outcome(reg, retries=9) for _ in range(1000)))
        assert Counter(ends) == {"ok": 1000}
        assert failed <= 1.2 * share * (service.accepted + failed) + 10

    in_virtual_time(scenario)


@pytest.mark.parametrize("slots", [16, None])
def test_nobody_is_asked_before_the_time_that_a_stray_failure_states(slots: int | None) -> None:
    """Also where nobody waits and nothing else bounds the target; the line is open after it."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 1e6, answers_in=0.1)
        takes, begun, fails = service.stream, list[float](), False

        async def stream(*args: object):
            begun.append(loop.now)
            if fails:
                raise OverloadedError("busy", status=503, retry_after=2.0)
            async for batch in takes(*args):
                yield batch

        async def ask(count: int) -> list[str]:
            return [await outcome(reg, retries=0) for _ in range(count)]

        service.stream = stream
        async with service.registry(limits=Limits(max_concurrency=slots)) as reg:
            for _ in range(2):  # the first time it is set aside, and answers its probe
                assert await ask(10) == ["ok"] * 10
                fails = True
                assert await ask(1) == ["OverloadedError"]
                fails = False
            (state,) = reg.health()
            assert state.state == "healthy"
            (limits,) = reg.limits()
            assert limits.blocked_for == 2.0
            assert await asyncio.gather(*(outcome(reg) for _ in range(8))) == ["ok"] * 8
        assert begun[-8:] == [pytest.approx(begun[-9] + 2.0)] * 8

    in_virtual_time(scenario)
