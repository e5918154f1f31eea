"""The pace after a 429: what was accepted lately, or a guess that searches upwards."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from aiollm._failover.pace import Pace


def ask(pace, now, seconds, at_once, limit, *, burst=None, answers_in=0.0):
    """Ask as often as the pace lets, at first `at_once`; return what was accepted and refused.

    The server is a token bucket that fills with `limit` a second, up to `burst`, and answers what
    it accepts after `answers_in` seconds.
    """
    full = tokens = limit if burst is None else burst
    filled = now
    end = now + seconds
    accepted, refused, answers = 0, 0, []
    while now < end:
        while answers and answers[0] <= now:
            answers.pop(0)
            pace.answered()
        wait = pace.wait(now)
        if pace.is_active or at_once == 0:
            now += max(wait, 0.001)
        if wait > 0:
            continue
        at_once = max(0, at_once - 1)
        tokens = min(full, tokens + (now - filled) * limit)
        filled = now
        bucket = pace.book(now)
        if tokens >= 1:
            tokens -= 1
            accepted += 1
            answers.append(now + answers_in)
        else:
            refused += 1
            pace.refused(now, 1.0, bucket)
    return accepted, refused


def test_nothing_is_paced_before_a_refusal():
    pace = Pace()
    for _ in range(1000):
        assert pace.wait(0.0) == 0
        pace.book(0.0)
        pace.answered()
    assert not pace.is_active


@pytest.mark.parametrize("answers_in", [0.0, 5.0])
def test_the_pace_follows_what_was_not_refused(answers_in):
    """An answer may come long after the time in which its request was taken."""
    accepted, refused = ask(Pace(), 100.0, 60.0, 64, 20.0, answers_in=answers_in)
    assert accepted >= 0.9 * 20 * 60
    assert refused <= 0.08 * accepted


def test_a_burst_refused_for_milliseconds_does_not_bring_the_pace_down():
    """The server says when it takes one more, and not when it takes all that wait."""
    pace, now = Pace(), 100.0
    buckets = [pace.book(now) for _ in range(40)]
    for bucket in buckets[20:]:
        pace.refused(now, 0.05, bucket)
    now += pace.wait(now)
    before = pace.meter.limit if pace.wait(now) == 0 else 0.0
    again = []
    while pace.wait(now) == 0:
        again.append(pace.book(now))
    assert len(again) > 5
    for bucket in again[1:]:
        pace.refused(now, 0.05, bucket)
    assert pace.wait(now) > 0.9, "a second, in which it fills"
    pace.wait(now + 1.0)
    assert pace.meter.limit >= 0.7 * before


def test_a_burst_that_the_service_had_saved_up_is_not_taken_for_its_rate():
    """Sixty a minute, all of which may go at once."""
    accepted, refused = ask(Pace(), 100.0, 60.0, 64, 1.0, burst=60)
    assert accepted >= 0.9 * 120
    assert refused <= 64


def test_a_service_that_takes_one_at_a_time_gets_them_one_at_a_time():
    """Twenty a second, but never two together."""
    accepted, refused = ask(Pace(), 100.0, 60.0, 8, 20.0, burst=1)
    assert accepted >= 0.6 * 20 * 60
    assert refused <= 0.05 * accepted


def test_a_429_without_anything_accepted_blocks_and_then_searches_upwards():
    pace = Pace()
    assert pace.refused(0.0, 1.0, pace.book(0.0)) == 1.0
    assert pace.wait(0.5) == 0.5
    assert pace.wait(1.0) == 0
    pace.book(1.0)
    assert 0 < pace.wait(1.0) <= 1.1
    before = pace.meter.limit
    pace.wait(11.0)
    assert pace.meter.limit > 5 * before


def test_the_pace_grows_faster_the_longer_nothing_is_refused():
    """Others who shared the limit may have gone."""
    pace = Pace()
    for _ in range(20):
        bucket = pace.book(0.0)
    pace.refused(0.0, 1.0, bucket)
    pace.wait(1.0)
    rates = []
    for now in range(1, 62, 20):
        pace.wait(float(now))
        rates.append(pace.meter.limit)
    growth = [after / before for before, after in pairwise(rates)]
    assert growth == sorted(growth)
    assert growth[-1] > 1.5


def test_without_retry_after_the_block_doubles_to_half_a_minute():
    pace = Pace()
    now, blocks = 0.0, []
    for _ in range(8):
        blocks.append(pace.refused(now, None, pace.book(now)))
        now += blocks[-1]
    assert blocks == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_wait_of_less_than_a_second_that_is_always_in_vain_is_no_longer_believed():
    pace = Pace()
    now, blocks = 0.0, []
    for said in (0.0, 0.2, 0.0, 0.0, 0.9, 0.0, 7.0, 0.0, 0.0):
        blocks.append(pace.refused(now, said, pace.book(now), in_vain=True))
        now += blocks[-1] + 2.0
    assert blocks == pytest.approx([0.0, 0.2, 0.0, 1.0, 2.0, 4.0, 7.0, 16.0, 30.0])
    pace.answered()
    assert pace.refused(now, 0.5, pace.book(now), in_vain=True) == pytest.approx(0.5)


def test_a_short_wait_is_believed_while_other_requests_are_under_way():
    pace = Pace()
    for number in range(20):
        now = 2.0 * number
        assert pace.refused(now, 0.1, pace.book(now)) == pytest.approx(0.1)


def test_a_target_that_says_429_for_days_still_blocks_for_half_a_minute():
    pace = Pace()
    for _ in range(2000):
        now = pace.blocked_until + 60.0
        assert pace.refused(now, None, pace.book(now)) <= 30.0


def test_requests_refused_together_are_one_refusal():
    pace = Pace()
    assert [pace.refused(0.0, None, pace.book(0.0)) for _ in range(50)] == [1.0] * 50


def test_a_shorter_wait_never_shortens_a_longer_one():
    pace = Pace()
    pace.refused(0.0, 10.0, pace.book(0.0))
    assert pace.refused(0.1, 1.0, pace.book(0.1)) == 9.9
    assert math.isclose(pace.wait(5.0), 5.0)


def test_a_wait_of_years_is_an_hour():
    pace = Pace()
    assert pace.refused(0.0, 1e9, pace.book(0.0)) == 3600


def heard(pace, now, seconds, *, is_paced=False):
    """Let the pace hear that another process was refused, as often as its fleet says it."""
    for _ in range(3):
        pace.block(now, now + seconds, is_paced=is_paced)


def goes(pace, now, seconds):
    """Return when requests go that wait from `now` on, for so many seconds."""
    times, end = [], now + seconds
    while now < end:
        if wait := pace.wait(now):
            now += wait
        else:
            pace.book(now)
            times.append(now)
    return times


def test_what_waited_while_another_process_was_refused_does_not_go_all_at_once():
    pace = Pace()
    for number in range(80):
        pace.wait(number / 10)
        pace.book(number / 10)  # ten a second
    heard(pace, 8.0, 2.0)
    times = goes(pace, 8.0, 12.0)
    assert times[0] >= 10.0
    assert 50 <= len(times) <= 100
    assert sum(each < times[0] + 0.4 for each in times) <= 8


def test_processes_of_which_one_was_refused_do_not_begin_at_one_moment():
    begins = set()
    for _ in range(20):
        heard(pace := Pace(), 8.0, 2.0)
        begins.add(goes(pace, 8.0, 12.0)[0])
    assert len(begins) == 20
    assert 10.0 <= min(begins) <= max(begins) <= 11.0


def test_what_others_are_refused_starves_no_process():
    """One that asks much is refused again and again; the other one, which asks little, is not."""
    pace, now = Pace(), 0.0
    for _ in range(20):
        last = pace.book(now)
        now += 0.1
    pace.refused(now, 1.0, last)
    for _ in range(300):
        now += 1.0 + pace.wait(now + 1.0)
        pace.book(now)
        heard(pace, now, 1.0)
    assert pace.meter.limit >= 60.0
    pace.refused(now, 5.0, pace.book(now))
    pace.wait(now + 6.0)
    assert pace.meter.limit < 60.0, "its own refusals count"


def test_limits_that_processes_share_pace_them_already():
    heard(pace := Pace(), 8.0, 2.0, is_paced=True)
    assert pace.wait(8.0) == 2.0
    assert pace.wait(10.0) == 0.0
    assert pace.meter is None


def test_hearing_of_its_own_refusal_slows_no_process_down_twice():
    pace = Pace()
    for number in range(80):
        bucket = pace.book(number / 10)
    pace.refused(8.0, 0.001, bucket)
    assert pace.wait(8.002) == 0.0
    limit = pace.meter.limit
    heard(pace, 8.003, 0.001)
    assert pace.wait(8.1) == 0.0
    assert pace.meter.limit == limit


def test_only_a_refusal_soon_after_a_cut_says_little():
    """A second later the pace follows what was taken, however far that is below."""
    pace, now = Pace(), 100.0
    buckets = [pace.book(now) for _ in range(40)]
    for bucket in buckets[20:]:
        pace.refused(now, 0.05, bucket)
    limits = []
    for after in (0.5, 5.0):
        now += max(after, pace.wait(now))
        assert pace.wait(now) == 0.0
        limits.append(pace.meter.limit)
        again = [pace.book(now) for _ in range(10)]
        for bucket in again[1:]:
            pace.refused(now, 0.05, bucket)
    now += pace.wait(now)
    pace.wait(now)
    limits.append(pace.meter.limit)
    assert limits[1] >= 0.7 * limits[0]
    assert limits[2] < 0.5 * limits[1]


def test_refusals_within_a_second_are_one_also_where_each_blocks_for_milliseconds():
    pace = Pace()
    for now in (0.0, 0.2, 0.4):
        pace.refused(now, 0.05, pace.book(now))
    assert pace.refused(1.5, None, pace.book(1.5)) == 2.0


def test_what_was_booked_before_a_cut_makes_no_room_after_it():
    """At one time, too: a server may say that nothing is to be waited for."""
    pace = Pace()
    bucket = [pace.book(0.0) for _ in range(2)][-1]
    pace.refused(0.0, 0.0, bucket)
    assert pace.wait(0.0) == 0.0
    pace.book(0.0)
    full = pace.wait(0.0)
    assert full > 0.5
    pace.refund(bucket)
    assert pace.wait(0.0) == full
