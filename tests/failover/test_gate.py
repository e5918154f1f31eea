"""The gate under any order of events: nobody overtakes, nobody is forgotten, nothing is left."""

from __future__ import annotations

import asyncio
import gc
import math
import random
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from aiollm._failover import gate as gate_module
from aiollm._failover.admission import Admission
from aiollm._failover.candidates import Candidates
from aiollm._failover.gate import Gate
from aiollm._failover.health import LEASE_CHECK, PROBE_LEASE, Health
from aiollm._failover.lines import Line, Scope
from aiollm._failover.meter import Meter
from aiollm._failover.openers import ChatOpener
from aiollm._failover.policy import Policy
from aiollm._failover.tickets import Demand, Patience, Ticket
from aiollm._wire.quota import Quota
from aiollm.dsn import DsnOptions, Limits, Secret
from aiollm.errors import (
    AuthenticationError,
    BusyError,
    ConnectError,
    ContextLengthError,
    DeadlineError,
    OverloadedError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
    UnsupportedError,
)
from aiollm.provider import Provider
from aiollm.spec import Plan, Step
from aiollm.testing import FakeProvider
from aiollm.types import Request, Target, Timeouts, Usage, user

LATE = 0.0011
"""Seconds by which a timer of the gate may be late."""

TARGETS = [Target("a", "m"), Target("a", "n"), Target("b", "m"), Target("c", "m")]
"""Two of one scope, one of another scope of the same host, one of another host."""

HOSTS = {"a": "one", "b": "one", "c": "two"}

ERRORS: list[tuple[Exception, bool]] = [
    (ServerError("x", status=500), True),
    (OverloadedError("x", status=503), True),
    (OverloadedError("x", status=503, retry_after=3.0), True),
    (OverloadedError("x", status=503, retry_after=40.0), True),
    (RateLimitError("x", status=429), True),
    (RateLimitError("x", status=429, retry_after=0.5), True),
    (RateLimitError("x", status=429, retry_after=9.0), True),
    (AuthenticationError("x", status=401), True),
    (ContextLengthError("x", status=400), True),
    (StreamInterrupted("x"), True),
    (DeadlineError("x", which="first_output"), True),
    (ConnectError("x"), False),
    (UnsupportedError("x"), False),
]
"""What attempts fail with, and whether their request was sent."""


OUTAGES = [each for each in ERRORS if isinstance(each[0], ServerError | ConnectError)]


class JumpingLoop(asyncio.BaseEventLoop):
    """A loop without IO whose clock jumps to its next timer."""

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__()
        self.now = now
        self._selector = self

    def time(self) -> float:
        return self.now

    def select(self, timeout: float | None) -> Sequence[Any]:
        assert timeout is not None, "everything waits, and nothing will ever happen"
        self.now += max(1e-9, timeout)  # every turn takes a little time
        return ()

    def _process_events(self, events: Sequence[Any]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def __del__(self) -> None:
        """Do not warn: it holds nothing, and a warning after a failure fails a later test."""

    @property
    def timers(self) -> list[asyncio.TimerHandle]:
        return [each for each in self._scheduled if not each.cancelled()]


class Bench:
    """A gate on a jumping loop, with two models of a host, another key there, and another host."""

    def __init__(self, *, scheme: str = "fake", **limits: Limits) -> None:
        self.loop = JumpingLoop()
        self.health = Health(clock=lambda: self.loop.now, uniform=lambda low, high: high)
        self.gate = Gate(self.health)
        self.gate.bind_loop(self.loop)
        self.numbers = 0
        self.providers = {
            name: msgspec.structs.replace(
                FakeProvider(name=name).provider(base_url=f"fake://{host}", token=Secret(name)),
                scheme=scheme,
                limits={"*": limits.get(name, Limits())},
            )
            for name, host in HOSTS.items()
        }
        self.look_up()

    def line(self, target: Target) -> Line:
        return self.gate.line(target, self.providers[target.provider])

    def enter(self, line: Line, size: int = 10) -> Admission:
        self.numbers += 1
        admission = self.gate.try_enter(line, self.numbers, demand_of(size))
        assert admission is not None
        return admission

    def waits(
        self, *lines: Line, size: int = 10, room: float = 70.0, recovery: float = 15.0
    ) -> asyncio.Task[Admission | list[Exception]]:
        self.numbers += 1
        number, patience = self.numbers, Patience(room, recovery)
        wait = self.gate.wait(number, lines, demand_of(size), patience, math.inf)
        task = self.loop.create_task(wait)
        self.passes()
        return task

    def passes(self, seconds: float = 0.0) -> None:
        self.loop.run_until_complete(asyncio.sleep(seconds))
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))

    def fails(self, line: Line, error: Exception) -> None:
        self.enter(line).failure(error, was_sent=True)
        assert self.gate.is_sick(line)

    def changes_loop(self) -> None:
        self.loop.close()
        self.loop = JumpingLoop(self.loop.now)
        self.gate.bind_loop(self.loop)
        self.look_up()

    def look_up(self) -> None:
        self.am, self.an, self.bm, self.cm = map(self.line, TARGETS)

    def end(self, *tasks: asyncio.Task[Any]) -> None:
        for task in tasks:
            task.cancel()
        self.passes()
        assert not self.loop.timers
        self.loop.close()


def demand_of(size: int) -> Demand:
    return Demand(Request((user("x"),), max_output_tokens=size))


def went(tasks: Sequence[asyncio.Task[Any]]) -> list[Admission]:
    return [each.result() for each in tasks if each.done() and not each.cancelled()]


def test_what_a_test_that_fails_leaves_makes_no_other_fail():
    bench = Bench(a=Limits(max_concurrency=1))
    bench.enter(bench.am)
    task = bench.waits(bench.am)
    assert not task.done()
    del task, bench
    gc.collect()  # a warning would be an error of this test


def test_a_rest_that_ends_between_two_looks_at_the_clock_is_not_the_end_of_the_wait():
    bench = Bench()
    end = bench.gate.now() + 5.0
    ticket = Ticket(1, demand_of(10), [bench.am], (), 0.0, {bench.am.target: end})
    patience = Patience(70.0, 15.0)
    bench.gate._join(ticket, patience, math.inf)
    assert [*ticket.outside] == [bench.am]
    left, _ = bench.gate._seconds_left(ticket, patience, math.inf, end)
    assert left > 0
    bench.loop.close()


def test_who_goes_elsewhere_holds_up_nobody_behind_it():
    bench = Bench(a=Limits(max_concurrency=1), c=Limits(tpm=6050))
    holder, _ = bench.enter(bench.am), bench.enter(bench.cm, 50)
    big = bench.waits(bench.am, bench.cm, size=6000)
    small = bench.waits(bench.cm, size=10)
    bench.passes(2)
    assert not small.done()
    holder.success(Usage())
    bench.passes()
    assert big.done()
    assert small.done(), "it waits until its predecessor could have gone"
    bench.end()


@pytest.mark.parametrize("error", [None, UnsupportedError("x")])
def test_a_probe_without_a_verdict_hands_on_to_calls_under_another_key(error):
    bench = Bench()
    bench.fails(bench.am, ConnectError("x"))
    bench.passes(3)
    probe = bench.enter(bench.am)
    other = bench.waits(bench.bm)
    assert not other.done()
    if error is None:
        probe.abandoned(was_sent=True)
    else:
        probe.failure(error, was_sent=False)
    bench.passes()
    assert other.result().permit.is_probe
    bench.end()


def test_who_may_not_probe_stops_waiting_when_the_last_probe_ends_without_a_verdict():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    task = bench.loop.create_task(
        bench.gate.wait(
            99, [bench.am], demand_of(10), Patience(70, 15), math.inf, [bench.am.target], math.inf
        )
    )
    bench.passes()
    assert not task.done()
    probe.abandoned(was_sent=True)
    bench.passes()
    assert task.result() == []
    bench.end()


QUOTA = (Quota("requests", 60_000.0, 50_000.0),)


@pytest.mark.parametrize("quotas", [(), QUOTA])
@pytest.mark.parametrize("scheme", ["openai", "fake"])
def test_a_host_that_came_back_gets_one_then_two_then_four(scheme, quotas):
    """Under all its models and keys, though it announces limits, or never answered before."""
    bench = Bench(scheme=scheme)
    bench.fails(bench.am, ConnectError("x"))
    bench.passes(3)
    probe = bench.enter(bench.am)
    crowds = [[bench.waits(line) for _ in range(30)] for line in (bench.am, bench.an, bench.bm)]
    probe.announced(quotas)
    probe.first_output(0.1)
    bench.passes(1.5)
    for rounds in (1, 3, 7, 15):
        for crowd in crowds:
            running = went(crowd)
            assert len(running) == rounds
            for each in running[rounds // 2 :]:
                each.announced(quotas)
                each.first_output(0.1)
        bench.passes()
    bench.end(*(each for crowd in crowds for each in crowd))


def test_a_refusal_shows_that_a_target_is_well_and_lets_the_others_through_one_by_one():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    crowd = [bench.waits(bench.am) for _ in range(10)]
    probe.failure(ContextLengthError("x", status=400), was_sent=True)
    bench.passes()
    assert len(went(crowd)) == 1
    bench.end(*crowd)


def test_the_recovery_of_one_model_does_not_slow_another_of_its_host():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe, window = bench.enter(bench.am), bench.an.window
    probe.first_output(0.1)
    assert bench.an.window == window
    assert bench.am.window == 1
    bench.end()


def test_a_request_above_a_limit_that_is_learnt_while_it_waits_leaves_the_line():
    bench = Bench(scheme="openai")
    first = [bench.enter(bench.am) for _ in range(8)]
    big, small = bench.waits(bench.am, size=5000), bench.waits(bench.am)
    first[0].announced([Quota("tokens", 1000.0, 1000.0)])
    bench.passes()
    (error,) = big.result()
    assert isinstance(error, BusyError)
    assert error.kind == "limit"
    assert isinstance(small.result(), Admission)
    bench.end()


def test_a_call_that_left_a_line_does_not_go_there():
    bench = Bench(a=Limits(max_concurrency=1))
    holder = bench.enter(bench.an)
    bench.fails(bench.cm, AuthenticationError("x", status=401))
    probe = bench.waits(bench.cm)
    bench.passes(6)
    task = bench.waits(bench.an, bench.cm)
    probe.result().failure(AuthenticationError("x", status=401), was_sent=True)
    bench.passes(6)
    assert not task.done(), "it probes what it was just told of"
    holder.success(Usage())
    bench.passes()
    assert task.result().line is bench.an
    bench.end()


def test_a_short_patience_is_spent_on_the_first_answer_of_an_unknown_service():
    bench = Bench(scheme="openai")
    first = [bench.enter(bench.am) for _ in range(8)]
    task = bench.waits(bench.am, room=0.5)
    assert not task.done(), "only what is known for sure ends a wait early"
    first[0].first_output(0.1)
    bench.passes()
    assert isinstance(task.result(), Admission)
    bench.end()


def test_a_reset_lets_those_who_wait_go():
    bench = Bench()
    bench.fails(bench.am, OverloadedError("x", status=503, retry_after=60.0))
    task = bench.waits(bench.am, recovery=70.0)
    bench.gate.reset(bench.am.target)
    bench.passes()
    assert isinstance(task.result(), Admission)
    bench.end()


@pytest.mark.parametrize(("stated", "goes"), [(60.0, False), (10.0, True)])
def test_who_waits_behind_a_probe_rests_as_long_as_the_server_stated_meanwhile(stated, goes):
    bench = Bench()
    old = bench.enter(bench.am)
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    task = bench.waits(bench.am)
    old.failure(OverloadedError("x", status=503, retry_after=stated), was_sent=True)
    probe.first_output(0.1)
    bench.passes()
    assert task.done() == (not goes), "a wait that cannot end in time ends at once"
    assert bench.gate.is_sick(bench.am)
    bench.passes(stated + 1)
    assert isinstance(task.result(), Admission) == goes
    bench.end()


def test_the_end_of_an_answer_lets_those_go_whom_its_beginning_did_not():
    bench = Bench()
    old = bench.enter(bench.am)
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    old.failure(OverloadedError("x", status=503, retry_after=5.0), was_sent=True)
    probe.first_output(0.1)
    bench.passes(6)
    second = bench.enter(bench.am)
    crowd = [bench.waits(bench.am) for _ in range(3)]
    probe.success(Usage())
    bench.passes()
    assert not bench.gate.is_sick(bench.am)
    assert len(went(crowd)) == 1, "one more than waits for its output"
    second.first_output(0.1)
    bench.passes()
    assert len(went(crowd)) == 3
    bench.end(*crowd)


def test_a_host_is_set_aside_by_a_target_that_was_so_before():
    bench = Bench()
    first, second = bench.enter(bench.am), bench.enter(bench.am)
    first.failure(ServerError("x", status=500), was_sent=True)
    second.failure(ConnectError("x"), was_sent=False)
    crowd = [bench.waits(bench.bm) for _ in range(10)]
    bench.passes(3)
    (probe,) = went(crowd)
    probe.first_output(0.1)
    bench.passes()
    assert len(went(crowd)) == 2, "it came back, and is stormed"
    bench.end(*crowd)


def test_who_waits_for_a_slot_learns_that_the_host_is_down():
    bench = Bench(b=Limits(max_concurrency=1))
    first, second = bench.enter(bench.am), bench.enter(bench.am)
    bench.enter(bench.bm)
    task = bench.waits(bench.bm, recovery=2.5)
    first.failure(ServerError("x", status=500), was_sent=True)
    bench.passes()
    second.failure(ConnectError("x"), was_sent=False)
    bench.passes(3)
    assert task.result() == [], "it waits as long as for a slot of a host that is well"
    bench.end()


def test_a_reset_lets_one_more_go_than_wait_for_their_output():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    crowd = [bench.waits(bench.am) for _ in range(10)]
    bench.passes(3)
    assert len(went(crowd)) == 1
    bench.gate.reset(bench.am.target)
    bench.passes()
    assert len(went(crowd)) == 2
    bench.end(*crowd)


def test_slots_that_were_taken_before_their_number_was_declared_are_given_back():
    bench = Bench(a=Limits(max_concurrency="auto"))
    running = [bench.enter(bench.am) for _ in range(3)]
    bench.providers["a"] = msgspec.structs.replace(
        bench.providers["a"], limits={"*": Limits(max_concurrency=3)}
    )
    task = bench.waits(bench.line(bench.am.target))
    assert not task.done()
    for each in running:
        each.success(Usage())
    bench.passes()
    assert isinstance(task.result(), Admission)
    assert bench.am.scope.slots.held == 1
    bench.end()


def test_what_ends_of_a_loop_that_is_gone_is_not_taken_off_this_one():
    bench = Bench(a=Limits(max_concurrency=4))
    old = bench.enter(bench.am)
    bench.changes_loop()
    running = bench.enter(bench.am)
    old.abandoned(was_sent=True)
    assert (bench.am.running, bench.am.pending, bench.am.scope.slots.held) == (1, 1, 1)
    running.success(Usage())
    assert (bench.am.running, bench.am.pending, bench.am.scope.slots.held) == (0, 0, 0)
    bench.end()


def test_a_probe_of_a_loop_that_is_gone_holds_up_nobody():
    bench = Bench()
    bench.fails(bench.am, ConnectError("x"))
    bench.passes(3)
    probe = bench.enter(bench.am)
    probe.permit.is_paused = lambda: False
    bench.changes_loop()
    assert bench.enter(bench.am).permit.is_probe
    bench.end()


def test_a_call_whose_loop_was_closed_leaves_its_line_without_a_timer():
    bench = Bench()
    bench.fails(bench.am, OverloadedError("x", status=503, retry_after=5.0))
    waits = [
        bench.gate.wait(number, [bench.am], demand_of(10), Patience(70, 15), math.inf)
        for number in (1, 2)
    ]
    for each in waits:
        each.send(None)
    bench.loop.close()
    for each in waits:
        each.close()
    assert bench.am.head() is None


def test_a_timer_of_a_scope_that_is_due_need_not_say_when(monkeypatch):
    """As on uvloop, where `call_at` returns the handle of `call_soon` for less than 0.5 ms."""
    bench = Bench()

    def call_at(when, callback, *args, context=None):
        return bench.loop.call_soon(callback, *args, context=context)

    monkeypatch.setattr(bench.loop, "call_at", call_at)
    for seconds in (0.0003, 0.0002, 0.0004):
        bench.gate._set_timer(bench.am.scope, seconds)
    bench.am.scope.stop_timer()
    bench.end()


def test_what_was_never_sent_is_given_back_to_a_pace_too():
    bench = Bench()
    bench.enter(bench.am).failure(RateLimitError("x", status=429, retry_after=1.0), was_sent=True)
    bench.passes(1.1)
    bench.enter(bench.am).abandoned(was_sent=False)
    bench.enter(bench.am).abandoned(was_sent=True)
    assert bench.gate.try_enter(bench.am, 9, demand_of(10)) is None
    bench.end()


def test_a_refund_of_what_came_before_a_pace_gives_nothing_away():
    bench = Bench()
    early = bench.enter(bench.am)
    bench.enter(bench.am).failure(RateLimitError("x", status=429, retry_after=1.0), was_sent=True)
    bench.passes(1.1)
    bench.enter(bench.am)
    early.abandoned(was_sent=False)
    assert bench.gate.try_enter(bench.am, 9, demand_of(10)) is None
    bench.end()


def test_lines_in_use_are_not_forgotten(monkeypatch):
    monkeypatch.setattr(gate_module, "MAX_LINES", 8)
    bench = Bench(a=Limits(max_concurrency=1))
    running = bench.enter(bench.am)
    running.first_output(0.1)
    for number in range(20):
        bench.line(Target("c", str(number)))
    assert bench.line(bench.am.target) is bench.am
    assert bench.gate.try_enter(bench.am, 99, demand_of(10)) is None
    bench.end()


def test_the_time_that_a_step_is_waited_for_counts_for_the_whole_call():
    """`wait=8` at the first step and a second one that is full do not make 18 s of 10."""
    bench = Bench(a=Limits(max_concurrency=1), c=Limits(max_concurrency=1))
    options = DsnOptions(wait=8.0)
    bench.providers["a"] = msgspec.structs.replace(bench.providers["a"], options=options)
    for line in (bench.line(bench.am.target), bench.cm):
        bench.enter(line)
    providers = {target: bench.providers[target.provider] for target in TARGETS}
    timeouts = {target: Timeouts() for target in TARGETS}
    opener = ChatOpener(Request((user("x"),)), providers, timeouts, None)
    plan = Plan((Step((TARGETS[0],)), Step((TARGETS[3],))))
    candidates = Candidates(plan, Policy(patience=100.0), opener, bench.gate, 9)
    assert candidates.next_free() is None
    began = bench.loop.now
    bench.loop.run_until_complete(candidates.wait(10.0, None))
    assert bench.loop.now - began == pytest.approx(10.0, abs=0.01)
    bench.end()


def test_fifty_wait_for_one_slot_and_are_served_as_they_came_but_for_those_who_left():
    bench = Bench(a=Limits(max_concurrency=1))
    holder: Admission | None = bench.enter(bench.am)
    tasks = [bench.waits(bench.am) for _ in range(50)]
    left = random.Random(7).sample(range(50), 10)
    for index in left[:5]:
        tasks[index].cancel()
    served: list[int] = []
    while holder is not None:
        holder.success(Usage())
        if len(served) == 10:
            for index in left[5:]:
                tasks[index].cancel()  # one of them may have been granted in this same turn
        bench.passes()
        new = [index for index, task in enumerate(tasks) if went([task]) and index not in served]
        assert len(new) <= 1, "two hold one slot"
        served += new
        holder = tasks[new[0]].result() if new else None
    gone = {index for index, task in enumerate(tasks) if task.cancelled()}
    assert served == [index for index in range(50) if index not in gone]
    assert bench.am.scope.slots.held == 0
    assert not bench.am.tickets
    bench.end()


@pytest.mark.parametrize("goes", [False, True])
def test_a_line_forgets_those_who_left_though_the_first_still_waits(goes):
    """They cancelled, or went to another target; a request may hold megabytes of images."""
    bench = Bench(a=Limits(max_concurrency=1), c=Limits(max_concurrency=1))
    holder = bench.enter(bench.am)
    other = bench.enter(bench.cm)
    first, second = bench.waits(bench.am), bench.waits(bench.am)
    for _ in range(20):
        brief = bench.waits(bench.am, bench.cm)
        if goes:
            other.success(Usage())
        else:
            brief.cancel()
        bench.passes()
        if goes:
            other = brief.result()
    assert len(bench.am.tickets) <= 4
    assert [each.done() for each in (first, second)] == [False, False]
    holder.success(Usage())
    bench.passes()
    assert [each.done() for each in (first, second)] == [True, False]
    bench.end(second)


def test_a_cooling_model_does_not_block_another_of_its_scope():
    bench = Bench(a=Limits(max_concurrency=1))
    holder = bench.enter(bench.am)
    bench.an.scope.slots.resize(2)
    bench.fails(bench.an, OverloadedError("x", status=503, retry_after=60.0))
    bench.an.scope.slots.resize(1)
    cooling = bench.waits(bench.an, recovery=70.0)
    behind = bench.waits(bench.am)
    holder.success(Usage())
    bench.passes()
    assert isinstance(behind.result(), Admission)
    assert not cooling.done()
    bench.end(cooling)


def test_a_probe_that_streams_for_minutes_holds_up_nobody():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    waiting = bench.waits(bench.am)
    probe.first_output(0.1)
    bench.passes()
    waiting.result().first_output(0.1)
    bench.passes(300)
    bench.enter(bench.am)
    bench.end()


@pytest.mark.parametrize("is_paused", [True, False])
def test_only_a_probe_whose_caller_pauses_is_overtaken_after_its_lease(is_paused):
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    bench.passes(3)
    probe = bench.enter(bench.am)
    probe.permit.is_paused = lambda: is_paused
    waiting = bench.waits(bench.am, recovery=70.0)
    bench.passes(PROBE_LEASE - 0.5)
    assert not waiting.done()
    bench.passes(1)
    assert waiting.done() is is_paused
    probe.abandoned(was_sent=True)
    bench.passes()
    assert waiting.result().permit.is_probe
    bench.end()


def test_so_is_a_paused_probe_of_a_host_by_another_of_its_models():
    bench = Bench()
    bench.fails(bench.am, ConnectError("x"))
    bench.passes(3)
    bench.enter(bench.am).permit.is_paused = lambda: True
    bench.passes(PROBE_LEASE)
    other = bench.enter(bench.an)
    assert other.permit.is_probe
    bench.end()


def test_a_crowd_behind_failing_probes_sends_one_request_each_time():
    bench = Bench()
    bench.fails(bench.am, ServerError("x", status=500))
    crowd = [bench.waits(bench.am) for _ in range(200)]
    for count in range(1, 6):
        bench.passes(2.1)
        running = went(crowd)
        assert len(running) == count
        running[-1].failure(ServerError("x", status=500), was_sent=True)
    bench.end(*crowd)


class Running:
    """An attempt that was admitted and has not ended."""

    def __init__(self, admission: Admission, booked: list[tuple[Meter, float]]) -> None:
        self.admission = admission
        self.line = admission.line
        self.booked = booked
        self.gave_output = False
        self.is_paused = False
        permit = admission.permit
        self.probed = [
            each
            for each in (permit._breaker, permit._host)
            if each.probe is permit and each.is_open
        ]
        if permit.is_probe:
            permit.is_paused = lambda: self.is_paused


class Caller:
    """A call: it enters, or waits in line in a task of its own."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked: list[Target] = []
        self.task: asyncio.Task[Any] | None = None
        self.running: Running | None = None
        self.patience = Patience(0.0, 0.0)


class WatchedGate(Gate):
    """A gate that says whom it admits, before and after."""

    def __init__(self, health: Health, machine: Machine) -> None:
        super().__init__(health)
        self.machine = machine

    def _admit(self, line: Line, number: int, demand: Demand, now: float) -> Admission:
        self.machine.before_admission(line, number)
        needs = [(meter, units) for _, meter, units in line.needs(demand)]
        admission = super()._admit(line, number, demand, now)
        self.machine.admitted(number, Running(admission, needs))
        return admission


def limits() -> st.SearchStrategy[Limits]:
    return st.builds(
        Limits,
        rpm=st.sampled_from([None, None, 20, 600]),
        tpm=st.sampled_from([None, None, 3000]),
        max_concurrency=st.sampled_from([None, 1, 2, 3, "auto", "off"]),
    )


class Machine(RuleBasedStateMachine):
    """Calls enter, wait, are cancelled, win, lose and fail in any order."""

    @initialize(
        of=st.fixed_dictionaries({name: limits() for name in HOSTS}),
        of_target=st.sampled_from([None, Limits(rpm=30), Limits(tpm=2000)]),
        scheme=st.sampled_from(["openai", "fake"]),
    )
    def begin(self, of, of_target, scheme):
        self.loop = JumpingLoop()
        self.health = Health(clock=lambda: self.loop.now, uniform=lambda low, high: high)
        self.gate = WatchedGate(self.health, self)
        self.gate.bind_loop(self.loop)
        self.callers: list[Caller] = []
        self.granted: dict[int, Running] = {}
        self.numbers = 0
        self.ghosts: list[Running] = []
        self.shadows: dict[Meter, Meter] = {}
        self.waves: dict[Line, float] = {}
        self.providers: dict[str, Provider] = {}
        for name, host in HOSTS.items():
            own = {"*": of[name]}
            if name == "a" and of_target is not None:
                own["m"] = of_target
            self.providers[name] = msgspec.structs.replace(
                FakeProvider(name=name).provider(base_url=f"fake://{host}", token=Secret(name)),
                scheme=scheme,
                limits=own,
            )
        for target in TARGETS:
            for meter in self.line(target).scope.meters.values():
                self.shadows[meter] = Meter(meter.limit, burst=meter._burst)

    def line(self, target: Target) -> Line:
        return self.gate.line(target, self.providers[target.provider])

    @property
    def lines(self) -> list[Line]:
        return [self.line(target) for target in TARGETS]

    @property
    def waiting(self) -> list[Caller]:
        return [each for each in self.callers if each.task is not None]

    @property
    def running(self) -> list[Caller]:
        return [each for each in self.callers if each.running is not None]

    def settle(self) -> None:
        """Let everything run that needs no time."""
        for _ in range(5):
            self.loop.run_until_complete(asyncio.sleep(0))
        for caller in self.waiting:
            task = caller.task
            if task is None or not task.done():
                continue
            caller.task = None
            granted = self.granted.pop(caller.number, None)
            if task.cancelled():
                if granted is not None:
                    self.refund(granted)
                self.callers.remove(caller)
            elif isinstance(task.result(), Admission):
                assert granted is not None
                assert task.result() is granted.admission
                caller.running = granted
                caller.asked.append(granted.line.target)
            else:
                assert granted is None
                self.callers.remove(caller)

    # What the gate does

    def before_admission(self, line: Line, number: int) -> None:
        """Nobody overtakes one who could go, and one probe is out at a time."""
        now = self.loop.now
        timer = line.scope.timer
        if timer is not None and timer[0] <= now + LATE:
            return  # others may go from this moment on: it comes to them with the timer
        for other in line.scope.waiting:
            ticket = self.first(other)
            if ticket is None or ticket.number >= number:
                continue
            wait = self.gate._line_wait(other, ticket.demand, now, waiting=True)
            assert wait > 0, f"call {number} overtakes {ticket.number}"
        if self.gate.is_sick(line):
            out = [each.running for each in self.running] + [*self.granted.values()]
            breakers = [self.health._targets.get(line.target), self.health._hosts.get(line.origin)]
            for each in out:
                if each is None or each.gave_output or each.admission.permit._settled:
                    continue
                for breaker in each.probed:
                    if breaker not in breakers or not breaker.is_open:
                        continue
                    overdue = now >= each.admission.permit.started + PROBE_LEASE
                    assert overdue, "two probes at a time"
                    assert each.is_paused, "a probe that is read is overtaken"

    def admitted(self, number: int, running: Running) -> None:
        now = self.loop.now
        for meter, units in running.booked:
            if meter in self.shadows:
                self.shadows[meter].book(now, units)
        self.granted[number] = running

    def refund(self, running: Running) -> None:
        for meter, units in running.booked:
            if meter in self.shadows:
                self.shadows[meter].refund(units)

    def first(self, line: Line):
        """Return who is next in a line: of a sick target the first that may probe it."""
        live = sorted(
            (ticket for ticket in line.tickets.live(line)),
            key=lambda ticket: ticket.number,
        )
        if self.gate.is_sick(line):
            now = self.loop.now
            live = [
                ticket
                for ticket in live
                if line.target not in ticket.retried or ticket.probe_from <= now
            ]
        return live[0] if live else None

    # What callers do

    @rule(
        among=st.lists(st.sampled_from(TARGETS), min_size=1, max_size=3, unique=True),
        room=st.sampled_from([0.0, 5.0, 70.0]),
        recovery=st.sampled_from([2.5, 15.0]),
        size=st.sampled_from([10, 1000, 2500]),
        count=st.integers(1, 6),
    )
    def some_call(self, among, room, recovery, size, count):
        self.call(among, room, recovery, size, count)

    def call(self, among, room, recovery, size, count):
        for _ in range(count):
            self.numbers += 1
            caller = Caller(self.numbers)
            caller.patience = Patience(room, recovery)
            self.callers.append(caller)
            self.enter(caller, among, size)
        self.settle()

    @rule(which=st.sampled_from(TARGETS[:2]), count=st.integers(2, 8))
    def a_crowd_calls(self, which, count):
        self.call([which], 70.0, 15.0, 10, count)

    def enter(self, caller: Caller, targets: Sequence[Target], size: int) -> None:
        demand = Demand(Request((user("x"),), max_output_tokens=size))
        retried = {each for each in targets if each in caller.asked}
        lines = [self.line(target) for target in targets]
        lines = [line for line in lines if line.never_fits(demand) is None]
        for line in lines:
            if line.target in retried:
                continue
            admission = self.gate.try_enter(line, caller.number, demand)
            if admission is not None:
                caller.running = self.granted.pop(caller.number)
                caller.asked.append(line.target)
                return
        waits = self.gate.wait(
            caller.number,
            lines,
            demand,
            caller.patience,
            math.inf,
            retried,
            self.loop.now + 1.0 if len(caller.asked) < 3 else math.inf,
        )
        caller.task = self.loop.create_task(waits)

    def any_of(self, callers: list[Caller], index: int) -> Caller:
        return callers[index % len(callers)]

    def end(self, caller: Caller, *, was_sent: bool) -> Running:
        running = caller.running
        assert running is not None
        caller.running = None
        if not was_sent:
            self.refund(running)
        return running

    @rule()
    def all_take_their_turn(self):
        self.settle()

    @precondition(lambda self: self.waiting)
    @rule(index=st.integers(0, 99))
    def cancel(self, index):
        task = self.any_of(self.waiting, index).task
        assert task is not None
        task.cancel()

    @precondition(lambda self: self.running)
    @rule(
        index=st.integers(0, 99),
        quota=st.sampled_from(
            [None, None, Quota("requests", 120.0, 3.0), Quota("tokens", 5000.0, 1500.0)]
        ),
    )
    def the_headers_come(self, index, quota):
        running = self.any_of(self.running, index).running
        assert running is not None
        running.admission.announced(() if quota is None else (quota,))

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99))
    def the_first_output_comes(self, index):
        self.give_output(self.any_of(self.running, index))

    def give_output(self, caller: Caller) -> None:
        running = caller.running
        assert running is not None
        if running.gave_output:
            return
        running.gave_output = True
        running.is_paused = False
        sick = self.sick_lines()
        admission, line = running.admission, running.line
        pending = {each: each.pending - (each is line) for each in sick}
        admission.first_output(0.1)
        if line in self.waves:
            self.waves[line] += 1
        self.recovered(sick, pending)

    def sick_lines(self) -> list[Line]:
        return [line for line in self.lines if self.gate.is_sick(line)]

    def recovered(self, sick: list[Line], pending: dict[Line, int]) -> None:
        """After a recovery one more may wait for its output than do; each output adds one."""
        for line in sick:
            if not self.gate.is_sick(line):
                self.waves[line] = pending[line] + 1

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99))
    def succeed(self, index):
        caller = self.any_of(self.running, index)
        self.give_output(caller)
        self.end(caller, was_sent=True).admission.success(Usage())
        self.callers.remove(caller)

    @precondition(lambda self: self.running)
    @rule(
        index=st.integers(0, 99),
        error=st.sampled_from(ERRORS),
        again=st.lists(st.sampled_from(TARGETS), max_size=2, unique=True),
    )
    def fail(self, index, error, again):
        failure, was_sent = error
        self.fail_with(self.any_of(self.running, index), failure, was_sent=was_sent, again=again)

    def fail_with(self, caller, failure, *, was_sent, again):
        sick = self.sick_lines()
        running = self.end(caller, was_sent=was_sent)
        line, permit = running.line, running.admission.permit
        pending = {each: each.pending - (each is line and not running.gave_output) for each in sick}
        before = self.reopens(line)
        opened_since = not permit._is_current(permit._breaker)
        running.admission.failure(failure, was_sent=was_sent)
        after = self.reopens(line)
        if opened_since and line in sick:
            stated = getattr(failure, "retry_after", None) or 0.0
            assert all(
                new <= max(old, stated) + 1e-9 for old, new in zip(before, after, strict=True)
            )
        if self.gate.is_sick(line):
            assert all(new >= old - 1e-9 for old, new in zip(before, after, strict=True))
        if isinstance(failure, RateLimitError):
            self.waves.pop(line, None)
        else:
            self.recovered(sick, pending)
        if again and len(caller.asked) < 4:
            self.enter(caller, again, 10)
        else:
            self.callers.remove(caller)

    @precondition(lambda self: self.running)
    @rule(error=st.sampled_from(OUTAGES))
    def all_fail(self, error):
        failure, was_sent = error
        for caller in self.running:
            self.fail_with(caller, failure, was_sent=was_sent, again=())
        self.settle()

    @rule(which=st.sampled_from([None, *TARGETS]))
    def health_is_reset(self, which):
        for line in [*self.waves]:
            if which in (None, line.target) and line.pace.is_active:
                del self.waves[line]  # who forgets its 429s forgets that it came back, too
        sick = self.sick_lines()
        pending = {each: each.pending for each in sick}
        self.gate.reset(which)
        self.recovered(sick, pending)

    def reopens(self, line: Line) -> list[float]:
        """Return when the target's own breaker may be probed: by those that wait, by others."""
        breaker = self.health._targets.get(line.target)
        if breaker is None or not breaker.is_open:
            return [0.0, 0.0]
        now = self.loop.now
        return [max(0.0, breaker.half_open_at(waiting=each) - now) for each in (True, False)]

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), was_sent=st.booleans())
    def lose_a_race(self, index, was_sent):
        caller = self.any_of(self.running, index)
        running = self.end(caller, was_sent=was_sent)
        running.admission.abandoned(was_sent=was_sent)
        self.callers.remove(caller)

    @precondition(lambda self: self.running)
    @rule(index=st.integers(0, 99), is_paused=st.booleans())
    def pause_or_go_on(self, index, is_paused):
        running = self.any_of(self.running, index).running
        assert running is not None
        running.is_paused = is_paused and not running.gave_output

    @rule(seconds=st.sampled_from([0.01, 0.3, 1.0, 2.1, 5.2, 16.0, 70.0]))
    def some_time_passes(self, seconds):
        self.time_passes(seconds)

    def time_passes(self, seconds):
        self.settle()
        self.loop.run_until_complete(asyncio.sleep(seconds))
        self.settle()

    @precondition(lambda self: self.loop.timers)
    @rule()
    def the_next_timer_fires(self):
        first = min(each.when() for each in self.loop.timers)
        self.time_passes(max(0.0, first - self.loop.now))

    @rule()
    def another_loop_takes_over(self):
        self.settle()
        old, self.loop = self.loop, JumpingLoop(self.loop.now)
        lost = [each.task for each in self.waiting]
        runs = [each.running for each in self.running]
        self.callers.clear()
        self.gate.bind_loop(self.loop)
        self.waves.clear()
        self.ghosts += [each for each in runs if each is not None]
        for task in lost:
            if task is not None:
                task.cancel()
        old.run_until_complete(asyncio.sleep(0))
        old.run_until_complete(asyncio.sleep(0))
        assert not old.timers
        old.close()

    @precondition(lambda self: self.ghosts)
    @rule(answers=st.booleans())
    def a_stream_of_a_loop_that_is_gone_ends(self, answers):
        ghost = self.ghosts.pop()
        pending = {each: each.pending for each in self.lines}
        sick = self.sick_lines()
        if answers:
            ghost.admission.first_output(0.1)
        else:
            self.refund(ghost)
        ghost.admission.abandoned(was_sent=answers)
        self.recovered(sick, pending)

    # What holds

    @invariant()
    def slots_and_windows_count_who_runs(self):
        runs = [each.running for each in self.running] + [*self.granted.values()]
        for line in self.lines:
            mine = [each for each in runs if each is not None and each.line is line]
            assert line.running == len(mine)
            assert line.pending == sum(not each.gave_output for each in mine)
            assert line.pending <= self.waves.get(line, math.inf)
            slots = line.scope.slots
            if slots is not None:
                of_scope = [each for each in runs if each and each.line.scope is line.scope]
                assert slots.held == len(slots._holders) == len(of_scope)

    @invariant()
    def meters_hold_what_was_sent(self):
        cancelled = [
            self.granted[each.number]
            for each in self.waiting
            if each.number in self.granted and each.task is not None and each.task.cancelled()
        ]
        if cancelled:
            return
        for meter, shadow in self.shadows.items():
            assert meter.used(self.loop.now) == pytest.approx(shadow.used(self.loop.now), abs=1e-6)

    @invariant()
    def nobody_who_can_go_is_left_waiting(self):
        if self.granted:
            return  # at their next turn they leave the lines of their other targets
        now = self.loop.now
        leases = [self.gate.health.lease_left(line.target, line.origin) for line in self.lines]
        # A probe that took long may be paused from now on, which is seen at the next check.
        late = LATE + (LEASE_CHECK if LEASE_CHECK in leases else 0.0)
        for scope in dict.fromkeys(line.scope for line in self.lines):
            due = self.due(scope, now)
            at = scope.timer[0] if scope.timer is not None else math.inf
            assert at <= now + due + late, (
                f"the next can go in {due} s, and the timer is at {at - now}"
            )

    def due(self, scope: Scope, now: float) -> float:
        """Return the seconds until somebody who waits at a scope can go, as far as time tells."""
        due = math.inf
        heads = []
        for line in self.lines:
            if line.scope is scope and (ticket := self.first(line)) is not None:
                wait = self.gate._line_wait(line, ticket.demand, now, waiting=True)
                if wait <= 0:
                    heads.append((ticket.number, line, ticket))
                else:
                    due = min(due, self.at_its_pace(line, wait))
        if heads:
            _, line, ticket = min(heads, key=lambda head: head[0])
            due = min(due, self.at_its_pace(line, scope.wait(line, ticket.demand, now)))
        return due

    def at_its_pace(self, line: Line, wait: float) -> float:
        """A pace grows while the timer runs that was set by it."""
        return wait if line.pace.meter is None else max(wait, 61.0)

    @invariant()
    def nothing_is_left_of_those_who_are_gone(self):
        if any(each.task is not None for each in self.callers) or self.granted:
            return
        assert not self.loop.timers
        for line in self.lines:
            assert not line.tickets
            assert not line.scope.waiting
            assert line.scope.timer is None

    def teardown(self):
        if not hasattr(self, "loop"):
            return
        self.settle()
        for caller in self.running:
            self.end(caller, was_sent=True).admission.abandoned(was_sent=True)
            self.callers.remove(caller)
        for _ in range(20):
            self.settle()
            for caller in self.running:
                self.end(caller, was_sent=True).admission.abandoned(was_sent=True)
                self.callers.remove(caller)
            self.loop.run_until_complete(asyncio.sleep(20))
        assert not self.waiting, "a call waits longer than its patience"
        self.nothing_is_left_of_those_who_are_gone()
        self.slots_and_windows_count_who_runs()
        self.loop.close()


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestMachine = Machine.TestCase
