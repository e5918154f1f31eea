"""Crowds in virtual time: what calls at once cost a service that counts, fails and comes back.

The service is a token bucket; a call that it takes is answered after `answers_in` seconds.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace

from aiollm import (
    ConnectError,
    DeadlineError,
    FailoverError,
    Limits,
    RateLimitError,
    Registry,
    ServerError,
    Timeouts,
    TransportError,
)
from aiollm._wire.quota import Quota
from aiollm.codecs import DsnOptions
from aiollm.provider import Operation
from aiollm.testing import FakeProvider
from aiollm.types import AnnouncedLimits, Finish, TextDelta
from tests.virtual_time import VirtualLoop, in_virtual_time


class Service:
    """Takes `rate` requests a second and `burst` at once; says 429 to others, 503 while down."""

    def __init__(
        self,
        loop: VirtualLoop,
        rate: float,
        *,
        burst: float | None = None,
        answers_in: float = 0.2,
        announces: bool = False,
    ) -> None:
        self.loop = loop
        self.rate = rate
        self.full = self.tokens = rate if burst is None else burst
        self.filled_at = self.began = loop.now
        self.answers_in = answers_in
        self.announces = announces
        self.retry_after = 1.0
        self.down_until = 0.0
        self.accepted = self.refused = 0
        self.failed: list[float] = []

    async def stream(self, *_: object):
        await asyncio.sleep(0.001)
        now = self.loop.now
        if now < self.down_until:
            self.failed.append(now)
            raise ServerError("down", status=503)
        self.tokens = min(self.full, self.tokens + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.tokens < 1:
            self.refused += 1
            raise RateLimitError("slow down", status=429, retry_after=self.retry_after)
        self.tokens -= 1
        self.accepted += 1
        if self.announces:
            quota = Quota("requests", self.rate * 60, self.tokens)
            yield [AnnouncedLimits((quota,))]
        await asyncio.sleep(self.answers_in)
        yield [TextDelta("ok"), Finish("stop")]

    def registry(self, **settings: Any) -> Registry:
        """Return a registry on the loop's clock that knows the service as `a`."""
        reg = Registry(env={})
        reg._health.uniform = lambda low, high: (low + high) / 2
        reg._health.clock = reg._gate.now = self.loop.time
        operations = {"chat": Operation(adapter=self.stream)}
        row = FakeProvider().provider(name="a", scheme="openai", operations=operations)
        reg.register("a", row, **settings)
        return reg

    @property
    def allowed(self) -> float:
        """Requests that it could have taken until now."""
        return self.full + self.rate * (self.loop.now - self.began)

    @property
    def share_refused(self) -> float:
        return self.refused / (self.refused + self.accepted)


async def outcome(reg: Registry, **options: Any) -> str:
    try:
        return (await reg.generate("a/m", "hi", **options)).text
    except FailoverError as error:
        return type(error.last).__name__


SETTINGS = {
    "declared": ({"limits": Limits(rpm=1200)}, {}),
    "announced": ({}, {"announces": True}),
    "unknown": ({}, {}),
}


@pytest.mark.parametrize("calls", [1, 8])
def test_a_service_that_asks_for_no_wait_but_takes_nothing_is_asked_ever_less(calls: int) -> None:
    """Each request may count against its limit, so that it would never take any."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 0.0)
        service.retry_after = 0.0
        async with service.registry() as reg:
            ends = await asyncio.gather(*(outcome(reg, patience=60) for _ in range(calls)))
        assert Counter(ends) == {"RateLimitError": calls}
        assert service.refused <= calls + 10

    in_virtual_time(scenario)


def test_a_service_that_asks_for_no_wait_and_takes_some_loses_no_call() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 20.0)
        service.retry_after = 0.0
        async with service.registry() as reg:
            ends = await asyncio.gather(*(outcome(reg) for _ in range(300)))
        assert Counter(ends) == {"ok": 300}
        assert service.allowed <= 1.2 * 300

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("known", "longest", "refused"),
    [("declared", 1.1, 0.0), ("announced", 1.1, 0.01), ("unknown", 1.1, 0.05)],
)
def test_a_burst_of_calls_all_get_their_answer(known: str, longest: float, refused: float) -> None:
    settings, service_settings = SETTINGS[known]

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 20.0, **service_settings)
        async with service.registry(**settings) as reg:
            ends = await asyncio.gather(*(outcome(reg) for _ in range(300)))
        assert Counter(ends) == {"ok": 300}
        ideal = (300 - service.full) / service.rate + service.answers_in
        assert loop.now - service.began <= longest * ideal
        assert service.share_refused <= refused

    in_virtual_time(scenario)


@pytest.mark.parametrize(
    ("known", "service_settings", "used", "refused"),
    [
        ("declared", {}, 0.95, 0.0),
        ("announced", {}, 0.95, 0.01),
        ("unknown", {}, 0.95, 0.05),
        ("unknown", {"answers_in": 2.0}, 0.9, 0.06),
        ("unknown", {"rate": 100.0}, 0.95, 0.05),
        ("unknown", {"rate": 1.0, "burst": 60.0}, 0.95, 0.3),
        ("unknown", {"burst": 1.0}, 0.35, 0.1),
    ],
)
def test_callers_in_a_loop_use_what_is_allowed(
    known: str, service_settings: dict[str, float], used: float, refused: float
) -> None:
    """Slow answers, a large rate, a saved-up burst, and one that never takes two together."""
    settings, more = SETTINGS[known]

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, **{"rate": 20.0, **service_settings, **more})
        async with service.registry(**settings) as reg:

            async def caller() -> None:
                while True:
                    await outcome(reg)

            callers = [asyncio.create_task(caller()) for _ in range(100)]
            await asyncio.sleep(20.0)
            assert service.accepted >= used * service.allowed
            assert service.share_refused <= refused
            for each in callers:
                each.cancel()
            await asyncio.gather(*callers, return_exceptions=True)
            assert [(each.held, each.waiting) for each in reg.limits()] == [(0, 0)]

    in_virtual_time(scenario)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("rate", [0.5, 10.0, 100.0])
def test_an_outage_under_traffic_loses_no_call(seconds: float, rate: float) -> None:
    """It costs its probes and what was under way, and is noticed within 2 s of its end."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0)
        async with service.registry() as reg:
            calls = []
            for number in range(int(rate * (seconds + 6))):
                if number == int(rate):
                    service.down_until = loop.now + seconds
                calls.append(asyncio.create_task(outcome(reg)))
                await asyncio.sleep(1 / rate)
            ends = Counter(await asyncio.gather(*calls))
        assert ends == {"ok": len(calls)}
        under_way = 1 + int(rate * service.answers_in)
        assert len(service.failed) <= under_way + 1 + seconds / 2 + 2

    in_virtual_time(scenario)


def test_a_target_that_stays_dead_costs_each_call_its_max_wait_and_the_probes() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0)
        service.down_until = float("inf")
        async with service.registry() as reg:
            ends = Counter(await asyncio.gather(*(outcome(reg) for _ in range(200))))
        assert ends == {"ServerError": 200}
        waited = loop.now - service.began
        assert waited <= 15.1
        first = [at for at in service.failed if at - service.failed[0] < 0.1]
        assert len(first) <= 8
        assert len(service.failed) - len(first) <= waited / 2 + 2

    in_virtual_time(scenario)


class Sleeper(Service):
    """A box on the local network that sleeps at first: for 3 s nothing answers, then no route."""

    async def stream(self, *request: object):
        if self.loop.now < self.down_until:
            self.failed.append(self.loop.now)
            await asyncio.sleep(3.0)
            raise ConnectError("no connection: No route to host")
        async for chunks in super().stream(*request):
            yield chunks


@pytest.mark.parametrize("calls", [1, 64, 1000])
def test_calls_with_the_time_for_it_outlast_the_sleep_of_a_box(calls: int) -> None:
    """As the recipe for llama-swap says: they share the tries, one every few seconds."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Sleeper(loop, 10_000.0)
        service.down_until = loop.now + 30.0
        async with service.registry() as reg:
            patient = {"retries": 10, "max_wait": 60.0}
            ends = await asyncio.gather(*(outcome(reg, **patient) for _ in range(calls)))
        assert Counter(ends) == {"ok": calls}
        first = [at for at in service.failed if at - service.began < 3.0]
        assert len(first) <= 64
        assert len(service.failed) - len(first) <= 30 / 3

    in_virtual_time(scenario)


def test_a_wait_that_is_too_short_for_the_clock_is_over() -> None:
    """At 1000 s the clock's steps are 1e-13 s: what is left of a wait may be less."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0, answers_in=5.0)
        async with service.registry(limits=Limits(max_concurrency=1)) as reg:
            holder = asyncio.create_task(outcome(reg))
            await asyncio.sleep(0.1)
            assert await outcome(reg, patience=1e-14) == "BusyError"
            assert await holder == "ok"

    in_virtual_time(scenario)


def test_a_call_whose_time_is_over_at_a_step_that_it_waits_for_asks_no_later_one() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service, later = Service(loop, 10_000.0, answers_in=60.0), FakeProvider(name="b")
        options = DsnOptions(wait=5.0, max_concurrency=1)
        async with service.registry() as reg:
            reg.register("a", replace(reg.provider("a"), options=options))
            reg.register("b", later.provider())
            holder = asyncio.create_task(outcome(reg))
            await asyncio.sleep(0.1)
            with pytest.raises(DeadlineError) as caught:
                await reg.generate("a/m,b/m", "hi", timeouts=Timeouts(total=2.0))
            assert (caught.value.which, later.calls) == ("total", [])
            holder.cancel()
            await asyncio.wait((holder,))

    in_virtual_time(scenario)


def test_the_deadline_of_a_call_in_line_is_told_by_a_loop_whose_clock_lags_behind() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0, answers_in=60.0)
        async with service.registry(limits=Limits(max_concurrency=1)) as reg:
            holder = asyncio.create_task(outcome(reg))
            await asyncio.sleep(0.1)

            def lag() -> None:
                reg._health.clock = reg._gate.now = lambda: loop.time() + 0.01
                reg.reset_health()  # it wakes those who wait

            loop.call_later(1.995, lag)
            with pytest.raises(DeadlineError) as caught:
                await reg.generate("a/m", "hi", timeouts=Timeouts(total=2.0))
            assert caught.value.which == "total"
            holder.cancel()
            await asyncio.wait((holder,))

    in_virtual_time(scenario)


@pytest.mark.parametrize("options", [{"patience": 10.0}, {"max_wait": 10.0}])
def test_the_time_for_which_the_process_stood_still_is_not_waited(options: dict[str, Any]) -> None:
    """As where it is stopped with Ctrl-Z: those in line for a slot, or for a probe, go on."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0)
        async with service.registry(limits=Limits(max_concurrency=4)) as reg:
            if "max_wait" in options:
                service.down_until = loop.now + 60.0
            calls = [asyncio.create_task(outcome(reg, **options)) for _ in range(100)]
            await asyncio.sleep(0.1)
            loop.now += 60.0
            ends = Counter(await asyncio.gather(*calls))
        assert ends == {"ok": 100}
        assert loop.now - service.began <= 70.0

    in_virtual_time(scenario)


def test_a_fleet_is_told_of_a_wait_without_the_time_that_the_process_stood_still() -> None:
    """It is asked again for room in the time that is left."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0, answers_in=100.0)
        async with service.registry(limits=Limits(max_concurrency=1)) as reg:
            calls = [asyncio.create_task(outcome(reg, patience=10.0)) for _ in range(2)]
            await asyncio.sleep(0.1)
            loop.now += 20.0
            await asyncio.sleep(0.1)
            (ticket,) = reg._gate._tickets
            assert loop.now + 8.0 <= ticket.until <= loop.now + 10.0
            for call in calls:
                call.cancel()
            await asyncio.wait(calls)

    in_virtual_time(scenario)


def test_the_deadline_of_a_whole_call_ends_it_though_the_process_stood_still() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 10_000.0, answers_in=60.0)
        async with service.registry(limits=Limits(max_concurrency=1)) as reg:
            holder = asyncio.create_task(outcome(reg))
            await asyncio.sleep(0.1)
            call = asyncio.create_task(outcome(reg, timeouts=Timeouts(total=5.0)))
            await asyncio.sleep(0.1)
            loop.now += 20.0
            with pytest.raises(DeadlineError) as caught:
                await call
            assert caught.value.which == "total"
            assert loop.now - service.began <= 21.0
            holder.cancel()
            await asyncio.wait((holder,))

    in_virtual_time(scenario)


def test_a_box_that_restarts_late_in_long_answers_loses_no_call_that_waits() -> None:
    """It cuts four streams and its queue after 40 s: those in line did not wait for a hang."""

    async def scenario(loop: VirtualLoop) -> None:
        queue: list[object] = []
        restarts_at = loop.now + 40.0

        async def stream(*_: object):
            began, left, place = loop.now, 30, object()
            queue.append(place)
            try:
                while left:
                    await asyncio.sleep(1.0)
                    if began < restarts_at <= loop.now:
                        raise TransportError("the server closed the connection")
                    if place in queue[:4]:
                        left -= 1
                        yield [TextDelta("x")]
                yield [Finish("stop")]
            finally:
                queue.remove(place)

        service = Service(loop, 1.0)
        service.stream = stream
        async with service.registry(limits=Limits(max_concurrency=12)) as reg:
            calls = [outcome(reg, patience=1000.0) for _ in range(24)]
            ends = await asyncio.gather(*calls, return_exceptions=True)
        assert Counter(map(str, ends)) == {"x" * 30: 20, "a/m: the server closed the connection": 4}

    in_virtual_time(scenario)


def test_a_service_that_is_down_now_and_then_answers_all_of_a_crowd() -> None:
    """It is down for some seconds again and again; those in line wait out each time anew."""

    async def scenario(loop: VirtualLoop) -> None:
        async def stream(*_: object):
            await asyncio.sleep(0.001)
            if (loop.now - service.began) % 5.0 < 3.0:
                raise ServerError("down", status=503)
            await asyncio.sleep(0.2)
            yield [TextDelta("ok"), Finish("stop")]

        service = Service(loop, 1.0)
        service.stream = stream
        async with service.registry(limits=Limits(max_concurrency=4)) as reg:
            calls = (outcome(reg, patience=1000.0, retries=9) for _ in range(150))
            ends = await asyncio.gather(*calls)
        assert loop.now - service.began > 15.0
        assert Counter(ends) == {"ok": 150}

    in_virtual_time(scenario)
