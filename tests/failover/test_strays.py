"""Single failures of a target that answers many others do not set it aside."""

from __future__ import annotations

import pytest

from aiollm import AuthenticationError, ConnectError, ServerError, Target
from aiollm._failover.health import Health

pytestmark = pytest.mark.loops

TARGET, ORIGIN = Target("a", "x"), "http://a"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock=clock, uniform=lambda _, high: high)


def answer(health: Health, count: int = 1) -> None:
    for _ in range(count):
        permit = health.admit(TARGET, ORIGIN)
        permit.first_output(0.0)
        permit.success()


def fail(health: Health, error: Exception | None = None) -> bool:
    return bool(health.admit(TARGET, ORIGIN).failure(error or ServerError("no", status=500)))


def test_a_target_without_a_record_is_set_aside_by_its_first_failure(health: Health) -> None:
    answer(health, 3)
    assert fail(health)


@pytest.mark.parametrize("answers", [4, 50])
def test_one_failure_in_five_sets_nothing_aside(health: Health, answers: int) -> None:
    for _ in range(40):
        answer(health, answers)
        assert not fail(health)
    assert health.ready_in(TARGET, ORIGIN) == 0
    assert health.of(TARGET, ORIGIN).failed == 40


def test_failures_in_short_order_do(health: Health) -> None:
    answer(health, 100)
    assert [fail(health) for _ in range(5)] == [False, False, False, False, True]


def test_one_failure_in_three_soon_does(health: Health) -> None:
    answer(health, 100)
    results = []
    for _ in range(10):
        answer(health, 2)
        results.append(fail(health))
        if results[-1]:
            break
    assert results[-1]


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("wrong key", status=401),
        ServerError("later", status=503, retry_after=5.0),
        ConnectError("refused"),
    ],
)
def test_what_says_more_than_that_counts_at_once(health: Health, error: Exception) -> None:
    answer(health, 100)
    assert fail(health, error)


def strays(health: Health, error: Exception | None = None) -> int:
    """Return how many failures in short order it may have after many answers; the next opens."""
    answer(health, 100)
    return next(count for count in range(100) if fail(health, error))


def recover(health: Health, clock: Clock, *, failed_probes: int = 0) -> None:
    """Answer a probe after some that failed."""
    for _ in range(failed_probes):
        clock.now += 400.0
        assert fail(health)
    clock.now += 400.0
    answer(health)


def test_who_answers_the_first_probe_may_fail_twice_as_often_next_time_up_to_four_times(
    health: Health, clock: Clock
) -> None:
    counts = []
    for _ in range(4):
        counts.append(strays(health))
        recover(health, clock)
    assert counts == [4, 8, 16, 16]


def test_a_probe_that_fails_takes_all_of_that_back(health: Health, clock: Clock) -> None:
    strays(health)
    recover(health, clock)
    assert strays(health) == 8
    recover(health, clock, failed_probes=1)
    assert strays(health) == 4


def test_a_target_that_came_back_has_to_answer_first(health: Health, clock: Clock) -> None:
    for answers, opens in ((1, True), (2, False)):
        health.reset()
        strays(health)
        recover(health, clock)
        answer(health, answers - 1)
        assert fail(health) is opens


@pytest.mark.parametrize(
    ("error", "pause"),
    [(ServerError("later", status=503, retry_after=5.0), 5.0), (ConnectError("refused"), 0.0)],
)
def test_of_one_that_fails_at_random_those_are_strays_too(
    health: Health, clock: Clock, error: Exception, pause: float
) -> None:
    strays(health)
    recover(health, clock)
    answer(health, 100)
    permit = health.admit(TARGET, ORIGIN)
    assert permit.failure(error) == ()
    assert permit.pause == pause
    assert strays(health, error) == 8


def test_what_a_user_has_to_mend_is_no_stray(health: Health, clock: Clock) -> None:
    strays(health)
    recover(health, clock)
    answer(health, 100)
    assert fail(health, AuthenticationError("wrong key", status=401))


def test_a_target_that_has_been_silent_for_a_second_is_set_aside(
    health: Health, clock: Clock
) -> None:
    answer(health, 100)
    clock.now += 1.5
    assert fail(health)
