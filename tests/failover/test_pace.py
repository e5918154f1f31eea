"""The pace after a 429: what was accepted lately, or a guess that searches upwards."""

from __future__ import annotations

import math

from aiollm._failover.pace import Pace


def ask(pace, now, seconds, rate, limit):
    """Ask as often as the pace lets, against a server that takes `limit` a second."""
    tokens, at, accepted, refused = limit, now, 0, 0
    end = now + seconds
    while now < end:
        wait = max(pace.wait(now), 1 / rate)
        now += wait
        tokens = min(limit, tokens + (now - at) * limit)
        at = now
        bucket = pace.book(now)
        if tokens >= 1:
            tokens -= 1
            accepted += 1
            pace.accepted(bucket)
        else:
            refused += 1
            pace.refused(now, 1.0)
    return accepted, refused


def test_nothing_is_paced_before_a_refusal():
    pace = Pace()
    for _ in range(1000):
        assert pace.wait(0.0) == 0
        pace.accepted(pace.book(0.0))
    assert not pace.is_active


def test_the_pace_follows_what_was_accepted():
    pace = Pace()
    accepted, refused = ask(pace, 100.0, 60.0, 1000.0, 20.0)
    assert accepted >= 0.9 * 20 * 60
    assert refused <= 0.05 * accepted


def test_a_429_without_anything_accepted_blocks_and_then_searches_upwards():
    pace = Pace()
    pace.book(0.0)
    assert pace.refused(0.0, 1.0) == 1.0
    assert pace.wait(0.5) == 0.5
    assert pace.wait(1.0) == 0
    pace.book(1.0)
    assert 0 < pace.wait(1.0) <= 1.1
    before = pace.meter.limit
    pace.wait(11.0)
    assert pace.meter.limit > 5 * before


def test_without_retry_after_the_block_doubles_to_half_a_minute():
    pace = Pace()
    now, blocks = 0.0, []
    for _ in range(8):
        blocks.append(pace.refused(now, None))
        now += blocks[-1]
    assert blocks == [1, 2, 4, 8, 16, 30, 30, 30]


def test_requests_refused_together_are_one_refusal():
    pace = Pace()
    assert [pace.refused(0.0, None) for _ in range(50)] == [1.0] * 50


def test_a_shorter_wait_never_shortens_a_longer_one():
    pace = Pace()
    pace.refused(0.0, 10.0)
    assert pace.refused(0.1, 1.0) == 9.9
    assert math.isclose(pace.wait(5.0), 5.0)
