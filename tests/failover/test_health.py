"""Health: a state machine checked against its promises, and the examples of its rules."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aiollm._failover.health import MAX_TARGETS, Health
from aiollm.errors import (
    AuthenticationError,
    ConnectError,
    ContextLengthError,
    DeadlineError,
    ModelNotFoundError,
    OverloadedError,
    QuotaError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from aiollm.types import Target

A, B = Target("a", "m"), Target("b", "m")
HOSTS = {A: "one", B: "one", Target("c", "m"): "two"}

HARMFUL = [
    ServerError("x", status=500),
    OverloadedError("x", status=503, retry_after=7.0),
    OverloadedError("x", status=503, retry_after=10_000.0),
    StreamInterrupted("x"),
    AuthenticationError("x", status=401),
]
HARMLESS = [ContextLengthError("x", status=400), UnsupportedError("x"), TypeError("a bug")]
UNREACHABLE = [ConnectError("x"), DeadlineError("x", which="connect")]


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def health(base: float = 1.0, share: float = 1.0) -> tuple[Health, Time]:
    """Return health whose jitter is always `share` of its range, and its clock."""
    clock = Time()
    return Health(
        base=base, clock=clock, uniform=lambda low, high: low + (high - low) * share
    ), clock


def test_an_answer_of_one_target_frees_its_host_for_the_others():
    tracker, clock = health()
    tracker.admit(A, "one").failure(ConnectError("x"))
    clock.now += 1000
    tracker.admit(B, "one").success()
    other = Target("new", "m")
    tracker.admit(other, "one")
    assert tracker.ready_in(other, "one") == 0, "the host still lets only one probe through"


class Machine(RuleBasedStateMachine):
    """Any interleaving of attempts, outcomes and time keeps the promises."""

    permits = Bundle("permits")

    def __init__(self) -> None:
        super().__init__()
        self.clock = Time()
        self.health = Health(clock=self.clock, uniform=lambda low, high: (low + high) / 2)
        self.succeeded = dict.fromkeys(HOSTS, 0)
        self.failed = dict.fromkeys(HOSTS, 0)

    @rule(target=permits, which=st.sampled_from(list(HOSTS)), force=st.booleans())
    def admit(self, which, force):
        if self.health.ready_in(which, HOSTS[which]) > 0 and not force:
            return (which, None)
        return (which, self.health.admit(which, HOSTS[which]))

    @rule(permit=consumes(permits))
    def succeed(self, permit):
        which, held = permit
        if held is not None:
            held.success()
            self.succeeded[which] += 1

    @rule(permit=consumes(permits), error=st.sampled_from(HARMFUL + UNREACHABLE))
    def fail(self, permit, error):
        which, held = permit
        if held is not None:
            before = self._until(which)
            held.failure(error)
            self.failed[which] += 1
            assert self._until(which) >= before

    @rule(permit=consumes(permits), error=st.sampled_from(HARMLESS))
    def fail_without_harm(self, permit, error):
        if permit[1] is not None:
            permit[1].failure(error)

    @rule(permit=consumes(permits), twice=st.booleans())
    def abandon(self, permit, twice):
        which, held = permit
        if held is None:
            return
        before = self._visible(which)
        held.abandoned()
        assert self._visible(which) == before
        if twice:
            held.success()
            held.failure(HARMFUL[0])
            assert self._visible(which) == before

    @rule(seconds=st.floats(0, 400))
    def wait(self, seconds):
        self.clock.now += seconds

    def _until(self, which):
        """Return when the cooldown of a target ends: a failure never shortens it."""
        return self.health._targets[which].until

    def _visible(self, which):
        return [
            (snap.failures, snap.reopens_in, snap.succeeded, snap.failed)
            for snap in self.health.snapshot()
            if snap.target == which
        ]

    @invariant()
    def at_most_one_probe(self):
        """While a probe is out, nothing else is ready."""
        for which, host in HOSTS.items():
            for breakers, key in ((self.health._targets, which), (self.health._hosts, host)):
                breaker = breakers.get(key)
                if breaker is not None and breaker.is_open and breaker.probe is not None:
                    assert self.health.ready_in(which, host) == math.inf

    @invariant()
    def counters_equal_genuine_outcomes(self):
        for snap in self.health.snapshot():
            assert snap.succeeded == self.succeeded[snap.target]
            assert snap.failed == self.failed[snap.target]


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.5), (1.0, 1.0)])
def test_cooldowns_double_with_equal_jitter_up_to_five_minutes(share, expected):
    tracker, _ = health(share=share)
    lengths = [tracker.cooldown(opening) for opening in (1, 2, 3, 9, 10, 1000)]
    assert lengths == [expected * full for full in (1, 2, 4, 256, 300, 300)]


def test_failed_probes_double_and_a_success_closes():
    tracker, clock = health()
    for expected in (1.0, 2.0, 4.0):
        tracker.admit(A, "one").failure(ServerError("x", status=500))
        assert tracker.ready_in(A, "one") == expected
        clock.now += expected
        assert tracker.ready_in(A, "one") == 0
    assert tracker.snapshot()[0].last_error == "ServerError"
    tracker.admit(A, "one").success()
    (snap,) = tracker.snapshot()
    assert (snap.state, snap.failures, snap.succeeded, snap.failed) == ("healthy", 0, 1, 3)
    assert snap.last_error == ""
    tracker.admit(A, "one").failure(ServerError("x", status=500))
    assert tracker.ready_in(A, "one") == 1.0


def test_exactly_one_probe_and_an_abandoned_one_gives_its_permit_back():
    tracker, clock = health()
    tracker.admit(A, "one").failure(ServerError("x", status=500))
    clock.now += 1
    probe = tracker.admit(A, "one")
    assert tracker.ready_in(A, "one") == math.inf
    assert tracker.snapshot()[0].state == "probing"
    probe.abandoned()
    assert tracker.ready_in(A, "one") == 0


def test_parallel_failures_of_one_outage_are_one_opening():
    tracker, _ = health()
    permits = [tracker.admit(A, "one") for _ in range(10)]
    opened = [permit.failure(ServerError("x", status=500)) for permit in permits]
    assert [len(each) for each in opened] == [1] + [0] * 9
    assert tracker.ready_in(A, "one") == 1.0


def test_the_success_of_an_attempt_older_than_the_outage_does_not_close():
    tracker, _ = health()
    old, new = tracker.admit(A, "one"), tracker.admit(A, "one")
    new.failure(ServerError("x", status=500))
    assert not old.success()
    assert tracker.ready_in(A, "one") == 1.0


@pytest.mark.parametrize(("given", "expected"), [(20.0, 20.0), (None, 0.0)])
def test_an_attempt_older_than_an_outage_that_is_over_counts_by_what_the_server_states(
    given, expected
):
    tracker, clock = health()
    old, new = tracker.admit(A, "one"), tracker.admit(A, "one")
    new.failure(ServerError("x", status=500))
    clock.now += 1
    tracker.admit(A, "one").success()
    old.failure(OverloadedError("x", status=503, retry_after=given))
    assert tracker.ready_in(A, "one") == expected


def told_to_wait_amid_a_probe():
    """Return a target's probe that is under way; an older attempt has been told to wait 20 s."""
    tracker, clock = health()
    old, new = tracker.admit(A, "one"), tracker.admit(A, "one")
    new.failure(ServerError("x", status=500))
    clock.now += 1
    probe = tracker.admit(A, "one")
    old.failure(OverloadedError("x", status=503, retry_after=20.0))
    return tracker, clock, probe


@pytest.mark.parametrize("answers", ["first_output", "success", "refusal"])
def test_a_probe_does_not_end_a_wait_that_was_stated_while_it_was_under_way(answers):
    tracker, clock, probe = told_to_wait_amid_a_probe()
    match answers:
        case "first_output":
            assert not probe.first_output(0.1)
        case "success":
            assert not probe.success()
        case _:
            probe.failure(ContextLengthError("x", status=400))
    assert tracker.ready_in(A, "one") == 20
    clock.now += 20
    assert tracker.admit(A, "one").success()
    assert tracker.ready_in(A, "one") == 0


def test_a_probe_whose_answer_ends_after_a_wait_that_was_stated_meanwhile_closes():
    tracker, clock, probe = told_to_wait_amid_a_probe()
    probe.first_output(0.1)
    clock.now += 21
    assert probe.success()
    assert tracker.ready_in(A, "one") == 0


def test_a_cooldown_is_no_shorter_than_the_failed_attempt_took():
    tracker, clock = health()
    permit = tracker.admit(A, "one")
    clock.now += 60
    permit.failure(DeadlineError("x", which="first_output"))
    assert tracker.ready_in(A, "one") == 60


def test_a_stream_that_breaks_off_late_keeps_nobody_away_for_as_long_as_it_ran():
    tracker, clock = health()
    permit = tracker.admit(A, "one")
    clock.now += 1
    permit.first_output(1.0)
    clock.now += 600
    permit.failure(StreamInterrupted("x"), had_output=True)
    assert tracker.ready_in(A, "one") == 1


@pytest.mark.parametrize("which", ["idle", "stall"])
def test_a_stream_that_falls_silent_keeps_others_away_for_as_long_as_it_was(which):
    tracker, clock = health()
    permit = tracker.admit(A, "one")
    permit.first_output(0.0)
    clock.now += 600
    permit.failure(DeadlineError("x", which=which, after=60.0), had_output=True)
    assert tracker.ready_in(A, "one") == 60


def test_a_target_that_answered_others_did_not_hang_meanwhile():
    tracker, clock = health()
    waits, answered = tracker.admit(A, "one"), tracker.admit(A, "one")
    clock.now += 40
    answered.first_output(40.0)
    clock.now += 3
    waits.failure(StreamInterrupted("x"))
    assert tracker.ready_in(A, "one") == 3


@pytest.mark.parametrize("which", ["connect", "first_output"])
def test_a_cooldown_is_no_longer_for_the_time_that_this_process_stood_still(which):
    tracker, clock = health()
    permit = tracker.admit(A, "one")
    clock.now += 60
    permit.failure(DeadlineError("x", which=which, after=5.0))
    assert tracker.ready_in(A, "one") == 5


@pytest.mark.parametrize(
    ("given", "expected"), [(7.0, 7.0), (0.0, 1.0), (1e9, 3600.0), (None, 1.0)]
)
def test_retry_after_is_a_floor_capped_at_an_hour(given, expected):
    tracker, _ = health()
    tracker.admit(A, "one").failure(OverloadedError("x", status=503, retry_after=given))
    assert tracker.ready_in(A, "one") == expected


def test_a_shorter_wait_never_shortens_a_longer_one():
    tracker, _ = health()
    first, second = tracker.admit(A, "one"), tracker.admit(A, "one")
    first.failure(OverloadedError("x", status=503, retry_after=100.0))
    second.failure(OverloadedError("x", status=503, retry_after=5.0))
    assert tracker.ready_in(A, "one") == 100


@pytest.mark.parametrize("kind", [AuthenticationError, QuotaError, ModelNotFoundError])
def test_misconfigured_targets_are_set_aside_for_five_minutes(kind):
    tracker, _ = health()
    tracker.admit(A, "one").failure(kind("x"))
    assert tracker.ready_in(A, "one") == 300
    assert tracker.ready_in(B, "one") == 0


@pytest.mark.parametrize("error", UNREACHABLE)
def test_connection_failures_set_the_whole_host_aside(error):
    tracker, clock = health()
    tracker.admit(A, "one").failure(error)
    assert tracker.ready_in(B, "one") > 0
    assert tracker.ready_in(B, "two") == 0
    clock.now += 1
    tracker.admit(B, "one").failure(ServerError("it answers", status=500))
    assert tracker.ready_in(Target("d", "m"), "one") == 0


def test_the_health_of_a_target_shows_its_hosts_failures_too():
    tracker, clock = health()
    assert tracker.of(A, "one").state == "healthy"
    tracker.admit(A, "one").failure(ConnectError("refused"))
    unused = tracker.of(B, "one")
    assert (unused.target, unused.state, unused.last_error) == (B, "cooling", "ConnectError")
    assert unused.reopens_in > 0
    assert tracker.of(B, "two").state == "healthy"
    tracker.admit(Target("c", "m"), "three").failure(AuthenticationError("x"))
    assert tracker.of(Target("c", "m"), "three").state == "cooling"
    clock.now += 301
    tracker.admit(B, "one").success()
    assert tracker.of(B, "one").state == "healthy"


def test_a_target_that_nobody_asks_after_its_cooldown_shows_that_it_may_be_asked():
    tracker, clock = health()
    tracker.admit(A, "one").failure(ConnectError("refused"))
    assert tracker.of(A, "one").reopens_in == tracker.of(B, "one").reopens_in > 0
    clock.now += 1000
    for target in (A, B):  # no call, so nothing says that it is well
        assert (tracker.of(target, "one").state, tracker.of(target, "one").reopens_in) == (
            "cooling",
            0,
        )
    assert [each.reopens_in for each in tracker.snapshot()] == [0]


@pytest.mark.parametrize("error", HARMLESS)
def test_what_says_nothing_of_the_target_changes_nothing(error):
    tracker, _ = health()
    tracker.admit(A, "one").failure(error)
    (snap,) = tracker.snapshot()
    assert (snap.state, snap.failed, snap.succeeded) == ("healthy", 0, 0)


def test_no_base_means_no_cooldown_but_a_providers_own_wait_holds():
    tracker, _ = health(base=0)
    tracker.admit(A, "one").failure(ServerError("x", status=500))
    assert tracker.ready_in(A, "one") == 0
    tracker.admit(A, "one").failure(OverloadedError("x", status=503, retry_after=5.0))
    assert tracker.ready_in(A, "one") == 5


def test_reset_forgets_one_target_or_all():
    tracker, _ = health()
    for which in (A, B):
        tracker.admit(which, "one").failure(ServerError("x", status=500))
    tracker.reset(A)
    assert [str(snap.target) for snap in tracker.snapshot()] == ["b/m"]
    tracker.reset()
    assert tracker.snapshot() == ()


def test_the_map_is_bounded():
    tracker, _ = health()
    for number in range(MAX_TARGETS + 10):
        tracker.admit(Target("p", str(number)), f"host{number}").success()
    assert len(tracker.snapshot()) == MAX_TARGETS
    assert len(tracker._hosts) == MAX_TARGETS


def test_latency_is_the_median_and_its_95th_percentile_needs_twenty():
    tracker, _ = health()
    for number in range(19):
        tracker.admit(A, "one").first_output(float(number))
    assert tracker.stagger(A) is None
    tracker.admit(A, "one").first_output(19.0)
    assert tracker.stagger(A) == 19.0
    assert tracker.snapshot()[0].first_output == 10.0
