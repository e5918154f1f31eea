"""Whatever becomes of single keys in Redis, a slot that nobody holds is soon free again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis as Client

from aiollm._fleet import scripts

LEASE = 3_000_000
FAR = 3_600_000_000

names = itertools.count()


class Scope:
    """Slots in Redis, asked for as processes of a fleet do."""

    def __init__(self, client: Client, slots: str) -> None:
        self.client = client
        self.slots = slots
        self.name = f"{{aiollm:1:lost:{next(names)}}}"

    def _run(self, script: scripts.Script, *arguments: object) -> Any:
        return self.client.eval(script.text, 4, *(self.name + end for end in "qpnw"), *arguments)

    def enter(self, process: str, *, patience: float = 0.0) -> str:
        """Ask for a slot; return what Redis says."""
        word, _ = self._run(
            scripts.enter, "c", process, LEASE, int(patience * 1e6), self.slots, "m"
        )
        return str(word.decode())

    def beat(self, process: str, *, held: int = 0, waits: bool = False) -> None:
        """Say how many slots a process holds."""
        arguments = ("c", process, LEASE, f"={held}", self.slots, int(waits), "")
        self._run(scripts.leave, *arguments)

    def now(self) -> int:
        seconds, micros = self.client.time()
        return int(seconds * 1_000_000 + micros)

    @property
    def sum(self) -> int:
        return int(self.client.hget(self.name + "n", "#") or 0)


@pytest.fixture
def scope(shared_redis) -> Iterator[Callable[..., Scope]]:
    with Client(port=shared_redis.port) as client:
        yield lambda slots="1": Scope(client, slots)


def lose_the_living(scope: Scope) -> None:
    """Redis evicts the key that says who is alive; the holder dies before its next beat."""
    scope.enter("dead")
    scope.client.delete(scope.name + "p")


def lose_all_but_the_waiting(scope: Scope) -> None:
    scope.enter("holder")
    scope.enter("dead", patience=9)
    scope.client.delete(scope.name + "p", scope.name + "n")


def set_the_clock_back(scope: Scope) -> None:
    scope.enter("dead")
    scope.client.zadd(scope.name + "p", {"dead": scope.now() + FAR})


def write(key: str, field: str, value: str) -> Callable[[Scope], None]:
    def spoil(scope: Scope) -> None:
        scope.beat("other")
        scope.client.hset(scope.name + key, field, value)

    return spoil


SPOILT = {
    "the living are lost": lose_the_living,
    "all but those who wait is lost": lose_all_but_the_waiting,
    "the clock is set back": set_the_clock_back,
    **{
        f"{field} is {value}": write(key, field, value)
        for key, field in (("n", "#"), ("n", "other"), ("n", "gone"), ("q", "slots"), ("q", "cut"))
        for value in ("9", "-9", "nan", "word")
        if (field, value) != ("slots", "9")
    },
}


@pytest.mark.parametrize("slots", ["1", "~1"], ids=["declared", "found"])
@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_slots_are_counted_right_again(scope, spoil, slots):
    asked = scope(slots)
    spoil(asked)
    for _ in range(1000):
        asked.beat("me")
        asked.beat("other")
        if asked.sum == 0 and asked.enter("me") == "granted":
            break
    else:
        pytest.fail("no slot is ever free again")
    assert asked.sum == 1
    assert [asked.enter(who) for who in ("me", "other")] == ["full", "full"]


@pytest.mark.parametrize("value", ["nan", "-nan", "inf", "-inf", "word", "", "1e300"])
def test_what_is_not_a_time_holds_nobody_back_and_lets_nobody_pass_a_limit(scope, value):
    asked = scope("0")
    for field in ("at|requests", "until|m"):
        asked.client.hset(asked.name + "q", field, value)
    booking = ("at|requests", 60, 1, 0)
    ask = ("c", "me", LEASE, 0, "0", "m", *booking)
    assert asked._run(scripts.enter, *ask)[0] == b"granted"
    assert asked._run(scripts.enter, *ask)[0] == b"busy"


def test_nothing_stays_for_ever(scope):
    asked = scope("~1")
    asked.enter("me", patience=9)
    asked.enter("other", patience=9)
    asked._run(scripts.leave, "c", "me", LEASE, "1", "~1", 0, "refused")
    keys = asked.client.keys(asked.name + "*")
    assert keys
    assert all(asked.client.pttl(key) > 0 for key in keys)
