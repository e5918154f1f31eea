"""Whatever becomes of messages on their way, one reply of Redis puts a breaker right."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from aiollm import Registry, Target
from aiollm._failover.gate import Gate
from aiollm._failover.health import Health
from aiollm._fleet import scripts
from aiollm._fleet.refusals import Refusals
from aiollm._fleet.shared_health import SharedHealth

TARGET = Target("a", "m")
ME, OTHERS = "me:1:a", ("you:2:b", "they:3:c")
LEASE = 15.0


class Truth:
    """One breaker as Redis has it: what the scripts do, without Redis."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.now = 1000.0
        self.flush()

    def flush(self) -> None:
        self.seq = self.generation = self.openings = 0
        self.until = self.probe = self.not_before = self.lease = 0.0
        self.holder = ""

    def shown(self) -> bytes:
        if self.lease <= self.now:
            self.holder = ""
        times = (self.until, self.probe, self.not_before, self.lease)
        reopens, probes, not_before, lease = (int(max(0, at - self.now) * 1e6) for at in times)
        counts = (self.seq, self.generation, self.openings, reopens, probes, not_before, lease)
        error = ("OverloadedError", "503") if self.openings else ("", "")
        return json.dumps([self.key, *map(str, counts), self.holder, *error]).encode()

    def opened(self, seconds: float) -> bytes:
        self.seq += 1
        self.generation += 1
        self.openings += 1
        self.until = self.now + seconds
        self.probe = self.now + min(2.0, seconds)
        self.holder, self.lease = "", 0.0
        return self.shown()

    def closed(self) -> bytes:
        if self.openings:
            self.seq += 1
            self.openings = 0
            self.until = self.probe = self.not_before = self.lease = 0.0
            self.holder = ""
        return self.shown()

    def claimed(self, who: str) -> bytes:
        self.shown()
        if self.openings and self.holder in ("", who):
            self.seq += self.holder == ""
            self.holder, self.lease = who, self.now + LEASE
        return self.shown()

    def released(self, who: str) -> bytes:
        if self.holder == who:
            self.seq += 1
            self.holder, self.lease = "", 0.0
        return self.shown()

    def restored(self, generation: int, openings: int, *times: int) -> bytes:
        if self.openings == 0 and self.generation < generation:
            self.seq += 1
            self.generation, self.openings = generation, openings
            self.until, self.probe, self.not_before = (self.now + each / 1e6 for each in times)
        return self.shown()


class Member:
    """A process whose Redis is a `Truth`; what it sends arrives with `arrive`."""

    namespace, machine, process, channel, open_ones = "n", "me", ME, "c", "o"
    timeout = 1.0
    away = False
    is_open = True
    refusals = Refusals("here", lambda: 0.0)

    def __init__(self) -> None:
        self.truths: dict[str, Truth] = {}
        self.sent: list[tuple[Truth, Any, Any]] = []

    def run(
        self, script: Any, keys: Any, arguments: Any, then: Any = None, failed: Any = None
    ) -> None:
        if script is scripts.restored and (truth := self.truths.get(keys[0])):
            self.sent.append((truth, arguments, then))

    def arrive(self) -> None:
        """Let Redis run what was sent, and reply."""
        sent, self.sent = self.sent, []
        for truth, (_, generation, openings, *times, _, _), then in sent:
            then(truth.restored(generation, openings, *times))


SECONDS = st.floats(0.01, 300)
WHO = st.sampled_from((ME, *OTHERS))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("opened"), SECONDS),
        st.tuples(st.just("claimed"), WHO),
        st.tuples(st.just("released"), WHO),
        st.tuples(st.just("closed")),
        st.tuples(st.just("time"), SECONDS),
        st.tuples(st.just("flush")),
        st.tuples(st.just("reply")),
        st.tuples(st.just("hear"), st.integers(0, 20)),
    ),
    max_size=30,
)
"""What happens in Redis, and which of its messages this process hears, and how often; at `reply`
it gets the replies to what it asked."""

LOST_AND_CLOSED = [
    ("opened", 1.0),
    ("reply",),
    ("flush",),
    ("reply",),
    ("opened", 1.0),
    ("closed",),
]
"""While this process brings back what Redis lost, another one opens the breaker and closes it."""

LOST_AND_OPENED = [("opened", 1.0), ("opened", 1.0), ("reply",), ("flush",), ("opened", 1.0)]
"""Another process, which knew nothing, opens the breaker anew after Redis lost it."""

RENEWED = [
    ("opened", 1.0),
    ("claimed", OTHERS[0]),
    ("reply",),
    ("time", 9.0),
    ("claimed", OTHERS[0]),
]
"""A probe takes longer than the lease that others heard of."""


class World:
    """One breaker in Redis, and the same one here."""

    def __init__(self) -> None:
        self.member = Member()
        self.health = Health(clock=lambda: self.truth.now)
        self.shared = SharedHealth(gate := Gate(self.health), self.member)
        gate.sharing = self.shared
        provider = Registry(env={"LLM_A": "openai+http://k@h/v1"}).provider("a")
        self.truth = Truth("")
        gate.line(TARGET, provider)
        self.truth.key = self.shared.places.get(TARGET)
        self.member.truths[self.truth.key] = self.truth

    def reply(self) -> None:
        """Let Redis reply to what this process sent, and then to the beat."""
        self.member.arrive()
        self.shared._heard(self.truth.shown())


@example(steps=LOST_AND_CLOSED)
@example(steps=LOST_AND_OPENED)
@example(steps=RENEWED)
@given(steps=STEPS)
def test_a_reply_puts_right_what_lost_doubled_and_late_messages_made_wrong(steps):
    world = World()
    truth = world.truth
    messages: list[bytes] = []
    for what, *how in steps:
        match what:
            case "time":
                truth.now += how[0]
            case "flush":
                truth.flush()
            case "reply":
                world.reply()
            case "hear":
                if messages:
                    world.shared.hear(messages[how[0] % len(messages)])
            case _:
                messages.append(getattr(truth, what)(*how))
    world.reply()
    world.member.arrive()
    same(world)


def same(world: World) -> None:
    """Check that the breaker here is the one in Redis."""
    truth, breaker = world.truth, world.health.breaker_of(TARGET)
    truth.shown()
    assert (breaker.openings if breaker is not None else 0) == truth.openings
    if not truth.openings:
        return
    shared = breaker.shared
    assert shared.generation == truth.generation
    assert shared.is_claimed == (truth.holder == ME)
    is_others = truth.holder not in ("", ME)
    near(world, shared.claim_ends if is_others else 0.0, truth.lease if is_others else 0.0)
    near(world, breaker.until, truth.until)
    near(world, breaker.probe_at, truth.probe)
    near(world, breaker.not_before, truth.not_before)


def near(world: World, here: float, there: float) -> None:
    """Check that two moments are one, but for the way of a message, or both over."""
    now = world.truth.now
    assert abs(max(here, now) - max(there, now)) < 0.1


@given(
    messages=st.lists(
        st.one_of(st.binary(), st.recursive(st.none() | st.text() | st.integers(), st.lists)),
        max_size=5,
    )
)
def test_messages_of_another_program_change_nothing(messages):
    world = World()
    world.shared.hear(world.truth.opened(60))
    for each in messages:
        world.shared.hear(each if isinstance(each, bytes) else json.dumps(each).encode())
    same(world)
