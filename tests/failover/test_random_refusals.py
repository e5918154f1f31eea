"""A service that says 429 now and then, however slowly it is asked."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from aiollm import Limits, RateLimitError
from aiollm._failover.pace import BURST, Pace
from aiollm._failover.random_refusals import FASTEST, UNEXPLAINED, RandomRefusals, Speed
from tests.failover.test_virtual_crowd import Service, outcome
from tests.virtual_time import VirtualLoop, in_virtual_time


def refuses_at_random(service: Service, share: float, retry_after: float | None) -> None:
    """Let the service refuse that share of what it would have taken, soon after it came."""
    dice, takes = random.Random(7), service.stream

    async def stream(*args: object):
        if dice.random() < share:
            service.refused += 1
            await asyncio.sleep(0.02)
            raise RateLimitError("busy", status=429, retry_after=retry_after)
        async for batch in takes(*args):
            yield batch

    service.stream = stream


@pytest.mark.parametrize("retry_after", [None, 0.2, 1.0])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.1, 0.2])
@pytest.mark.parametrize("slots", [64, None])
def test_a_thousand_calls_at_once_are_all_answered(
    share: float, retry_after: float | None, slots: int | None
) -> None:
    """Each refusal blocks for its time, but the calls do not become slower and slower."""

    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 1e6, answers_in=0.5)
        refuses_at_random(service, share, retry_after)
        async with service.registry(limits=Limits(max_concurrency=slots)) as reg:
            ends = await asyncio.gather(*(outcome(reg) for _ in range(1000)))
        assert Counter(ends) == {"ok": 1000}
        assert service.refused <= 1.5 * share * service.accepted + 10

    in_virtual_time(scenario)


def test_a_service_that_also_counts_is_not_asked_much_faster_than_it_takes() -> None:
    async def scenario(loop: VirtualLoop) -> None:
        service = Service(loop, 50.0, answers_in=0.5)
        refuses_at_random(service, 0.05, 1.0)
        async with service.registry(limits=Limits(max_concurrency=64)) as reg:
            ends = await asyncio.gather(*(outcome(reg, patience=120.0) for _ in range(1000)))
        assert Counter(ends) == {"ok": 1000}
        assert service.share_refused <= 0.2

    in_virtual_time(scenario)


NOW = Speed(600.0, 0.25)


def suspect(refusals: RandomRefusals, times: int = UNEXPLAINED, sent: int = 10) -> Speed | None:
    """Let one of each ten be refused so often, at a speed that had not grown."""
    found = None
    for _ in range(times):
        found = refusals.speed(NOW, sent, 1, 0.0, 0.0)
    return found


def test_refusals_that_growth_explains_are_not_random() -> None:
    refusals = RandomRefusals()
    for _ in range(100):
        assert refusals.speed(NOW, 100, 1, 1.5, 0.0) is None


def test_unexplained_refusals_are_random_from_the_fourth_on() -> None:
    refusals = RandomRefusals()
    assert refusals.speed(Speed(900.0, 0.5), 10, 1, 0.0, 0.0) is None
    assert suspect(refusals, 2) is None
    assert suspect(refusals, 1) == (900.0, 0.5), "it was lowered in vain"
    assert suspect(refusals, 1) == (1200.0, 0.5)


def test_explained_refusals_make_up_for_unexplained_ones() -> None:
    refusals = RandomRefusals()
    assert suspect(refusals, 3) is None
    assert refusals.speed(NOW, 100, 1, 1.5, 0.0) is None
    assert suspect(refusals, 1) is None
    assert suspect(refusals, 1) is not None


def test_a_service_that_refuses_most_is_not_asked_faster() -> None:
    refusals = RandomRefusals()
    for _ in range(20):
        assert refusals.speed(NOW, 4, 3, 0.0, 0.0) is None


def test_a_share_that_doubles_with_the_speed_is_not_random_and_is_doubted_longer() -> None:
    refusals = RandomRefusals()
    suspect(refusals)
    back = refusals.speed(Speed(4800.0, 0.5), 20, 12, 0.0, 1920.0)
    assert back == (1920.0, 0.25), "what it took lately, at the burst before"
    assert suspect(refusals, 2 * UNEXPLAINED - 1) is None
    assert suspect(refusals, 1) is not None


def test_where_the_share_grows_the_speed_goes_back_to_what_it_had_fallen_to() -> None:
    refusals = RandomRefusals()
    refusals.speed(Speed(900.0, 0.5), 10, 1, 0.0, 0.0)
    suspect(refusals, 3)
    assert refusals.speed(Speed(4800.0, 0.5), 20, 19, 0.0, 240.0) == NOW


def test_what_was_seen_long_ago_counts_less() -> None:
    refusals = RandomRefusals()
    suspect(refusals)
    for _ in range(1000):
        assert suspect(refusals, 1) == (1200.0, 0.5)
    cycles = 0
    while refusals.speed(NOW, 10, 5, 0.0, 0.0) == (1200.0, 0.5):
        cycles += 1
    assert cycles < 20, "half of them were refused, for a while"


def test_a_refusal_that_is_explained_by_half_is_not_random() -> None:
    refusals = RandomRefusals()
    for _ in range(100):
        assert refusals.speed(NOW, 100, 1, 0.5, 0.0) is None
        suspect(refusals, 1)


def test_refusals_of_requests_that_were_under_way_need_no_explanation_of_their_own() -> None:
    refusals = RandomRefusals()
    for _ in range(100):
        assert refusals.speed(NOW, 100, 8, 0.6, 0.0) is None


def test_a_dozen_requests_say_enough() -> None:
    refusals = RandomRefusals()
    assert suspect(refusals, 3, sent=3) is None
    assert suspect(refusals, 1, sent=2) is None
    assert suspect(refusals, 1, sent=3) == NOW


def test_no_share_of_three_quarters_is_random() -> None:
    refusals = RandomRefusals()
    for _ in range(UNEXPLAINED):
        found = refusals.speed(NOW, 10, 4, 0.0, 0.0)
    assert found == NOW
    assert refusals.speed(NOW, 40, 30, 0.0, 0.0) == (1200.0, 0.5), "a few more may be chance"
    assert refusals.speed(Speed(700.0, 0.5), 40, 36, 0.0, 0.0) == NOW, "it was well at that"


def test_no_pace_is_doubled_for_ever() -> None:
    refusals, speed = RandomRefusals(), NOW
    suspect(refusals)
    for _ in range(100):
        speed = refusals.speed(speed, 100, 1, 0.0, 0.0)
    assert speed.limit == FASTEST


def test_no_more_goes_at_once_than_before_the_first_refusal() -> None:
    pace, now = Pace(), 0.0
    for number in range(2000):
        now += pace.wait(now)
        bucket = pace.book(now)
        if number % 20 == 19:
            pace.refused(now, 1.0, bucket)
    assert pace.meter.limit > 10_000
    assert pace.meter.burst == BURST
