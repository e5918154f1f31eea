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


def test_a_target_that_has_been_silent_for_a_second_is_set_aside(
    health: Health, clock: Clock
) -> None:
    answer(health, 100)
    clock.now += 1.5
    assert fail(health)
