"""The meter: no window exceeds the limit, nothing is lost or made, and nobody waits for ever."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aiollm._failover.meter import LEAST, MAX_DEBT, MOST, Meter

START = 5000.0
NAN = math.nan
ODD = [NAN, math.inf, -math.inf, -1.0, 0.0, -1e300, 1e300, 5e-324]

limits = st.floats(1, 1e6)
bursts = st.floats(0, 10)
shares = st.floats(0.0001, 1)
"""Of the limit that a request takes."""
pauses = st.one_of(st.just(0.0), st.floats(0, 3), st.floats(0, 80))
requests = st.lists(st.tuples(pauses, shares, st.booleans()), min_size=1, max_size=60)


def play(meter, requests):
    """Return what went and when: each request goes if it may, or waits its time first."""
    now, went = START, []
    for pause, share, waits in requests:
        now += pause
        units = share * meter.limit
        wait = meter.wait(now, units)
        if wait and waits:
            now += wait
            assert meter.wait(now, units) == 0, "the wait it named was not enough"
        if not wait or waits:
            meter.book(now, units)
            went.append((now, units))
    return went


def windows(went, seconds):
    """Return the units in the window that ends with each request, and of the largest request."""
    for index, (end, _) in enumerate(went):
        held = [units for then, units in went[: index + 1] if then > end - seconds]
        yield sum(held), max(held)


@given(limits, bursts, requests)
def test_no_minute_holds_more_than_the_limit(limit, burst, requests):
    went = play(Meter(limit, burst=burst), requests)
    assert all(units <= limit * (1 + 1e-6) for units, _ in windows(went, 60))


@given(limits, bursts, st.floats(0.01, 300), requests)
def test_no_window_holds_more_than_its_rate_and_the_burst(limit, burst, seconds, requests):
    went = play(Meter(limit, burst=burst), requests)
    rate = limit / (60 + burst)
    for units, largest in windows(went, seconds):
        assert units <= (rate * seconds + max(rate * burst, largest)) * (1 + 1e-6)


@pytest.mark.parametrize("limit", [60, 600, 30_000])
@pytest.mark.parametrize("share", [1 / 600, 1 / 60, 1 / 10, 1 / 3])
def test_requests_of_one_size_use_98_percent(limit, share):
    meter, now = Meter(limit), START
    for _ in range(round(20 / share)):
        now += meter.wait(now, share * limit)
        meter.book(now, share * limit)
    assert (now - START) / 60 == pytest.approx(20 / 0.98, rel=0.06)


def test_a_burst_goes_at_once_and_the_rest_is_spread():
    meter = Meter(6100, burst=1)
    assert [meter.wait(START, 100), meter.wait(START, 101)] == [0, 0]
    meter.book(START, 100)
    assert meter.wait(START, 1) == pytest.approx(0.01)
    assert meter.wait(START + 0.5, 100) == pytest.approx(0.5)
    assert meter.wait(START + 1, 100) == 0


def test_a_request_above_the_burst_waits_for_an_empty_meter():
    meter = Meter(6100)
    meter.book(START, 50)
    assert meter.wait(START, 3000) == pytest.approx(0.5)


def test_a_request_above_the_burst_waits_until_the_minute_has_room_for_it():
    meter = Meter(6100)
    now = START
    for _ in range(30):
        now += meter.wait(now, 100)
        meter.book(now, 100)
    assert meter.wait(now + 1, 3100) == 0
    assert now + 2 + meter.wait(now + 2, 4000) == pytest.approx(START + 61 + 8, abs=1.01)


def test_what_exceeds_a_whole_minute_never_goes():
    meter = Meter(1000)
    assert meter.wait(START, 1000) == 0
    assert meter.wait(START, 1000.01) == math.inf


def test_one_request_may_go_where_the_limit_is_below_one_a_minute():
    meter = Meter(0.7)
    assert meter.wait(START, 1) == 0
    meter.book(START, 1)
    assert meter.wait(START, 1) == pytest.approx(61 / 0.7)
    assert Meter(1e-9).limit == LEAST


@given(limits, requests, shares)
def test_a_refund_leaves_everything_as_if_it_had_never_been_booked(limit, requests, share):
    """Whatever came before, and however long after."""
    one, other = Meter(limit), Meter(limit)
    went = play(one, requests)
    play(other, requests)
    now = went[-1][0] if went else START
    one.book(now, share * limit)
    one.refund(share * limit)
    other._flow(now)
    for later in (0, 0.3, 7, 59, 61):
        assert one.used(now + later) == pytest.approx(other.used(now + later), abs=1e-6 * limit)
        for asked in (0.001, 0.3, 1):
            wait = other.wait(now + later, asked * limit)
            assert one.wait(now + later, asked * limit) == pytest.approx(wait, abs=1e-3)


@given(limits, shares, shares)
def test_a_settled_booking_counts_as_if_it_had_been_right_from_the_start(limit, guess, real):
    one, other = Meter(limit), Meter(limit)
    one.book(START, guess * limit)
    one.settle(guess * limit, real * limit)
    other.book(START, real * limit)
    for later in (0, 0.3, 7, 59):
        assert one.used(START + later) == pytest.approx(other.used(START + later), abs=1e-6 * limit)
        wait = other.wait(START + later, 0.5 * limit)
        assert one.wait(START + later, 0.5 * limit) == pytest.approx(wait, abs=1e-3)


def test_what_was_settled_upwards_on_an_unused_meter_is_booked():
    meter = Meter(6100)
    meter.settle(0, 50)
    assert meter.used(0) == 50


@given(st.lists(st.tuples(pauses, shares, limits), min_size=1, max_size=40))
def test_no_minute_holds_more_than_the_largest_limit_that_was_in_force(steps):
    meter, now, went = Meter(100), START, []
    for pause, share, limit in steps:
        now += pause
        units = share * meter.limit
        now += meter.wait(now, units)
        meter.book(now, units)
        went.append((now, units, meter.limit))
        meter.set_limit(limit)
        assert meter.limit == limit
    for end, _, _ in went:
        inside = [each for each in went if end - 60 < each[0] <= end]
        assert sum(units for _, units, _ in inside) <= max(limit for *_, limit in went) * (1 + 1e-6)


def test_a_new_limit_keeps_what_is_booked_in_units():
    meter = Meter(6100)
    meter.book(START, 300)
    meter.set_limit(610)
    assert meter.used(START) == 300
    assert meter.wait(START, 5) == pytest.approx(29.5)
    meter.set_limit(61_000)
    assert meter.used(START) == 300
    assert meter.wait(START, 1000) == pytest.approx(0.3)


@given(limits, requests, st.floats(0, 2), shares)
def test_holding_only_tightens(limit, requests, available, asked):
    one, other = Meter(limit), Meter(limit)
    went = play(one, requests)
    play(other, requests)
    now = went[-1][0] if went else START
    one.hold(now, available * limit)
    assert one.wait(now, asked * limit) >= other.wait(now, asked * limit) - 1e-6
    assert one.used(now) == pytest.approx(other.used(now), abs=1e-6 * limit)


def test_no_more_goes_than_the_server_has_left():
    meter = Meter(6100)
    meter.hold(START, 40)
    assert meter.wait(START, 40) == 0
    assert meter.wait(START, 41) == pytest.approx(0.01)
    assert meter.wait(START, 1000) == pytest.approx(9.6), "a large one waits for what it lacks"
    meter.hold(START, 2000)
    assert meter.wait(START, 41) == pytest.approx(0.01), "a later answer loosened it"
    meter.book(START, 40)
    assert meter.wait(START, 10) == pytest.approx(0.1)
    assert meter.wait(START + 1, 100) == 0


@pytest.mark.parametrize("available", [0, -5, -math.inf])
def test_a_server_that_has_nothing_left_delays_by_the_units_asked_for(available):
    meter = Meter(6100)
    meter.hold(START, available)
    assert meter.wait(START, 100) == pytest.approx(1)
    assert meter.wait(START, 6100) == pytest.approx(61)


@pytest.mark.parametrize("limit", [LEAST, 0.5, 60, MOST])
@pytest.mark.parametrize("odd", ODD)
def test_nonsense_never_stalls_it(odd, limit):
    meter = Meter(limit)
    for _ in range(5):
        meter.book(START, odd)
        meter.settle(odd, 10)
        meter.settle(10, odd)
        meter.hold(START, odd)
        meter.hold(odd, 0)
        meter.book(odd, 1)
        meter.refund(odd)
        meter.book(odd, odd)
        assert meter.wait(odd, 0.5) >= 0
        assert meter.used(odd) >= 0
    assert 0 <= meter.used(START) < math.inf
    assert meter.wait(START, 0.5) <= MAX_DEBT * 2
    now = START + 10 * MAX_DEBT
    assert meter.wait(now, min(1, limit)) == 0
    assert meter.wait(now, max(1, limit)) == 0


@pytest.mark.parametrize("units", [1e12, math.inf])
def test_no_booking_delays_by_more_than_three_minutes(units):
    meter = Meter(6100)
    for _ in range(3):
        meter.book(START, units)
        assert meter.wait(START, 100) == pytest.approx(MAX_DEBT)
    assert meter.wait(START + MAX_DEBT, 100) == 0
    assert meter.wait(START + MAX_DEBT, 6100) == 0


def test_an_endless_booking_is_forgotten_after_a_while():
    meter, now = Meter(6100), START
    meter.book(now, math.inf)
    for _ in range(40):
        now += 10
        meter.book(now, 10)
    assert meter.wait(now + 1, 6050) == pytest.approx(10)


def test_a_limit_lowered_far_below_what_is_booked_delays_by_three_minutes_at_most():
    meter = Meter(6e6)
    meter.book(START, 3e6)
    meter.set_limit(61)
    assert meter.wait(START, 1) == pytest.approx(MAX_DEBT)


def test_an_empty_server_delays_by_three_minutes_at_most_however_low_the_limit():
    meter = Meter(LEAST)
    meter.hold(START, 0)
    assert meter.wait(START + MAX_DEBT, 1) == 0


@pytest.mark.parametrize("limit", range(1, 100))
def test_requests_that_fill_a_minute_exactly_do_not_wait_for_a_rounding_error(limit):
    meter, now = Meter(limit * 1.1), START
    for _ in range(10):
        now += meter.wait(now, limit * 1.1 / 10)
        meter.book(now, limit * 1.1 / 10)
    assert now - START == pytest.approx(9 * 6.1)


@pytest.mark.parametrize("odd", [NAN, -1.0, 0.0, -math.inf])
def test_a_limit_that_is_none_is_ignored(odd):
    meter = Meter(100)
    meter.set_limit(odd)
    assert meter.limit == 100
    assert Meter(odd).wait(START, 1e9) == 0


@pytest.mark.parametrize("burst", [NAN, -1.0, math.inf, 1e300])
def test_any_burst_gives_a_rate(burst):
    meter = Meter(60, burst=burst)
    meter.book(START, 60)
    assert 0 < meter.wait(START, 60) <= 120


@pytest.mark.parametrize("back", [3600, 1e9])
def test_a_clock_set_back_by_hours_stalls_nobody(back):
    meter = Meter(60)
    meter.book(1e9, 60)
    assert meter.wait(1e9 - back, 1) <= 60
    meter.book(1e9 - back, 1)
    assert meter.wait(1e9 - back + 100, 60) == 0


def test_a_clock_read_a_little_too_early_waits_the_longer():
    meter = Meter(6100)
    meter.book(START, 100)
    assert meter.wait(START - 1, 100) == pytest.approx(2)
    meter.book(START - 1, 100)
    assert meter.used(START) == 200
    assert meter.used(START - 1) == 300


def test_it_remembers_no_more_than_a_minute():
    meter = Meter(1e6)
    for step in range(100_000):
        meter.book(START + step / 100, 1)
    assert len(meter._slots) <= 62


class Machine(RuleBasedStateMachine):
    """Any order of calls keeps what is booked equal to what was given, and lets nobody starve."""

    def __init__(self):
        super().__init__()
        self.meter = Meter(100)
        self.now = START
        self.went = []
        self.highest = self.meter.limit
        self.booked, self.at = 0.0, START

    def model(self):
        """Return what is booked; a new limit lets it flow off faster from the last booking on."""
        return max(0.0, self.booked - self.meter.limit / 61 * (self.now - self.at))

    def booked_is(self, units):
        self.booked, self.at = units, self.now

    @rule(seconds=st.floats(0, 100))
    def time_passes(self, seconds):
        self.now += seconds

    @rule(share=shares)
    def one_goes_when_it_may(self, share):
        units = share * self.meter.limit
        if self.meter.wait(self.now, units) == 0:
            self.booked_is(self.model() + units)
            self.meter.book(self.now, units)
            self.went.append((self.now, units))

    @rule(share=shares)
    def one_is_booked_and_never_sent(self, share):
        before = self.model()
        units = share * self.meter.limit
        if before + units < self.meter.limit * 2.9:
            self.meter.book(self.now, units)
            self.meter.refund(units)
            self.booked_is(before)

    @rule(share=shares, error=st.floats(0.1, 1))
    def one_is_booked_too_high_and_corrected(self, share, error):
        units = share * self.meter.limit
        if self.meter.wait(self.now, units) == 0:
            self.booked_is(self.model() + units * error)
            self.meter.book(self.now, units)
            self.meter.settle(units, units * error)
            self.went.append((self.now, units * error))

    @rule(limit=st.floats(50, 500))
    def the_limit_changes(self, limit):
        self.meter.set_limit(limit)
        self.highest = max(self.highest, limit)
        self.booked = min(self.booked, limit / 61 * MAX_DEBT)

    @rule(share=st.floats(0, 0.99))
    def the_server_says_what_is_left(self, share):
        self.booked_is(self.model())
        self.meter.hold(self.now, share * self.meter.limit)
        assert self.meter.wait(self.now, self.meter.limit * (share + 0.01)) > 0

    @rule(odd=st.sampled_from(ODD))
    def the_server_talks_nonsense(self, odd):
        if not 0 < odd < math.inf:
            self.meter.set_limit(odd if odd < 1 else NAN)
        self.meter.settle(NAN, odd)
        self.meter.refund(min(odd, 0))

    @invariant()
    def what_is_booked_is_what_was_given(self):
        assert self.meter.used(self.now) == pytest.approx(self.model(), abs=1e-6 * self.highest)

    @invariant()
    def nobody_starves(self):
        for share in (0.001, 0.02, 0.5, 1):
            units = share * self.meter.limit
            wait = self.meter.wait(self.now, units)
            assert 0 <= wait <= 2 * MAX_DEBT
            assert self.meter.wait(self.now + wait, units) == 0

    @invariant()
    @precondition(lambda self: self.went)
    def no_minute_holds_more_than_the_limit(self):
        end = self.went[-1][0]
        assert sum(u for then, u in self.went if then > end - 60) <= self.highest * (1 + 1e-6)


TestMachine = Machine.TestCase
