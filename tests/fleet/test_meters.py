"""What Redis books never exceeds a limit, goes in the order of asking, and can be given back."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from redis import Redis as Client

from aiollm._fleet import scripts

MINUTE, SPARE, BURST = 60.0, 62.0, 0.5
EXACT = 1e-4
"""Seconds by which a moment may be off: Redis counts whole microseconds."""

TIMED = """
local reply = (function() %s end)()
return {reply, us(now)}
"""

names = itertools.count()


class Meter:
    """One limit in Redis, asked as processes of a fleet ask it."""

    def __init__(self, client: Client, limit: float) -> None:
        self.limit = limit
        self._client = client
        self._scope = f"{{aiollm:1:meters:{next(names)}}}"

    def _run(self, script: scripts.Script, *arguments: object) -> tuple[Any, float]:
        """Return a script's reply, and Redis's time of it."""
        keys = [self._scope + end for end in "qpnw"]
        text = TIMED % script.text.removeprefix(scripts.PRELUDE)
        reply, micros = self._client.eval(scripts.PRELUDE + text, 4, *keys, *arguments)
        return reply, int(micros) / 1e6

    def ask(
        self, share: float, *, patience: float = 1e9, ahead: float = 0.0
    ) -> tuple[float, float]:
        """Ask for a share of a minute; return when it may go, inf for not in time, and now."""
        booking = ("at|requests", self.limit, self.limit * share, int(ahead * 1e6))
        (word, wait, *_), now = self._run(
            scripts.enter, "c", "me", 3_000_000, int(patience * 1e6), 0, "m", *booking
        )
        return (now + int(wait) / 1e6 if word == b"granted" else math.inf), now

    def owed(self) -> float:
        """Return the seconds until all that is booked has flowed off."""
        seconds, micros = self._client.time()
        at = float(self._client.hget(self._scope + "q", "at|requests") or 0) / 1e6
        return max(0.0, at - seconds - micros / 1e6)

    def block(self, seconds: float) -> None:
        """Note a 429 that keeps the model back."""
        self._run(scripts.learn, "c", "until|m", int(seconds * 1e6), 1)

    def change(self, share: float, verdict: str = "") -> None:
        """Book so much more, or give it back."""
        booking = ("at|requests", self.limit, self.limit * share)
        self._run(scripts.leave, "c", "me", 3_000_000, "0", "0", "0", verdict, *booking)


@pytest.fixture(scope="module")
def meter(shared_redis) -> Iterator[Callable[[float], Meter]]:
    with Client(port=shared_redis.port) as client:
        yield lambda limit: Meter(client, limit)


LIMITS = st.floats(60, 1e6)
SHARES = st.lists(st.floats(1e-4, 0.025), min_size=2, max_size=60)
"""Of a minute's limit, what each request takes: at most one and a half seconds' worth."""


@settings(max_examples=40)
@given(limit=LIMITS, shares=st.lists(st.floats(0.005, 0.025), min_size=80, max_size=120))
def test_no_minute_holds_more_than_the_limit_and_who_asks_first_goes_first(meter, limit, shares):
    asked = meter(limit)
    went = [(asked.ask(share)[0], share) for share in shares]
    went = [each for each in went if each[0] < math.inf]
    times = [at for at, _ in went]
    assert all(later >= earlier - EXACT for earlier, later in itertools.pairwise(times))
    for start in times:
        assert sum(share for at, share in went if start <= at < start + MINUTE) <= 1 + EXACT


@pytest.mark.parametrize("share", [0.025, 0.3, 1.0, 10.0])
def test_however_many_wait_and_however_long_none_goes_before_its_turn(meter, share):
    """What is far ahead is not booked: it would pass for nonsense, and the meter for empty."""
    asked = meter(60)
    went = [at for at in (asked.ask(share)[0] for _ in range(300)) if at < math.inf]
    assert went == sorted(went)
    assert went[-1] - went[0] >= (len(went) - 1) * share * MINUTE - 1
    assert asked.owed() > 60


@settings(max_examples=40)
@given(limit=LIMITS, shares=SHARES)
def test_what_is_given_back_is_free_again(meter, limit, shares):
    asked = meter(limit)
    for share in shares:
        asked.ask(share)
    for share in shares:
        asked.change(-share)
    at, now = asked.ask(0.001)
    assert at - now < EXACT


@settings(max_examples=40)
@given(limit=LIMITS, share=st.floats(0.01, 1.0))
def test_what_took_more_than_was_booked_delays_the_next(meter, limit, share):
    asked = meter(limit)
    first, _ = asked.ask(0.001)
    asked.change(share)
    at, now = asked.ask(0.001)
    assert at == pytest.approx(max(now, first + (share + 0.002) * SPARE - BURST), abs=EXACT)


@settings(max_examples=40)
@given(limit=LIMITS, share=st.floats(0.0005, 0.004))
def test_what_an_answer_did_not_take_moves_no_promise_and_is_the_next_ones(meter, limit, share):
    """Later promises would else be overtaken by new ones that are booked between them."""
    asked = meter(limit)
    promised = [asked.ask(0.01)[0] for _ in range(10)]
    asked.change(-2 * share, "answered")
    at, now = asked.ask(share)
    assert at == pytest.approx(now, abs=EXACT)
    assert asked.ask(0.01)[0] >= promised[-1] + 0.01 * SPARE - EXACT


@settings(max_examples=40)
@given(limit=LIMITS, shares=SHARES)
def test_who_does_not_wait_so_long_books_nothing(meter, limit, shares):
    asked = meter(limit)
    asked.change(1e-6)
    for share in (1.0, *shares):
        asked.ask(share)
    before, _ = asked.ask(0.001)
    assert all(asked.ask(share, patience=0)[0] == math.inf for share in shares)
    after, _ = asked.ask(0.001)
    assert after == pytest.approx(before + 0.001 * SPARE, abs=EXACT)


@settings(max_examples=40)
@given(limit=LIMITS, shares=SHARES, seconds=st.floats(60, 100))
def test_nothing_is_booked_for_the_time_of_a_block(meter, limit, shares, seconds):
    """It would all go at once when the block ends."""
    asked = meter(limit)
    asked.ask(0.02)
    asked.block(seconds)
    assert all(asked.ask(share)[0] == math.inf for share in shares)
    asked.change(-0.02)
    assert asked.owed() == 0


@settings(max_examples=40)
@given(limit=LIMITS, ahead=st.floats(0, 170))
def test_a_promise_outlives_what_redis_lost(meter, limit, ahead):
    """A process says how far its promises reach, and the next one goes after them."""
    at, now = meter(limit).ask(0.02, ahead=ahead)
    assert at >= now + ahead - EXACT
