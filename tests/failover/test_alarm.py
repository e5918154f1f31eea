"""Those who wait: an alarm wakes each at its time, a queue has the first, and both keep nobody."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._failover.tickets import Alarm, Demand, Queue, Ticket
from aiollm.types import Request


class Timers(asyncio.SelectorEventLoop):
    """A loop whose time passes when it is told, and which shows its timers."""

    def __init__(self):
        super().__init__()
        self.at = 0.0
        self.armed: list[asyncio.TimerHandle] = []

    def time(self) -> float:
        return self.at

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context=None):
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.armed.append(handle)
        return handle

    def pending(self) -> list[asyncio.TimerHandle]:
        return [each for each in self.armed if not each.cancelled()]

    def pass_to(self, now: float) -> None:
        self.at = now
        for handle in [each for each in self.pending() if each.when() <= now]:
            self.armed.remove(handle)
            handle._run()


@pytest.fixture
def loop() -> Iterator[Timers]:
    with closing(Timers()) as made:
        yield made


def waiting(loop: Timers, alarm: Alarm, seconds: float) -> Ticket[Any]:
    ticket: Ticket[Any] = Ticket(0, Demand(Request("hi")), [])
    ticket.future = loop.create_future()
    alarm.set(loop, ticket, seconds)
    return ticket


def is_awake(ticket: Ticket[Any]) -> bool:
    return ticket.future is not None and ticket.future.done()


def test_each_is_woken_at_its_time_by_one_timer(loop):
    alarm = Alarm()
    tickets = [waiting(loop, alarm, seconds) for seconds in (5.0, 2.0, 9.0)]
    assert len(loop.pending()) == 1
    for now, awake in ((1.9, []), (2.0, [1]), (5.0, [0, 1]), (9.0, [0, 1, 2])):
        loop.pass_to(now)
        assert [place for place, each in enumerate(tickets) if is_awake(each)] == awake
    assert loop.pending() == []


def test_a_timer_that_is_due_need_not_say_when(loop, monkeypatch):
    """As on uvloop, where `call_at` returns the handle of `call_soon` for less than 0.5 ms."""

    def call_at(when, callback, *args, context=None):
        return loop.call_soon(callback, *args, context=context)

    monkeypatch.setattr(loop, "call_at", call_at)
    alarm = Alarm()
    for seconds in (0.0003, 0.0002, 0.0004):
        waiting(loop, alarm, seconds)
    alarm.stop()


def test_one_that_is_taken_off_sleeps_and_its_request_is_forgotten(loop):
    alarm = Alarm()
    tickets = [waiting(loop, alarm, 1.0 + place) for place in range(10)]
    left = tickets[:8]
    for each in left:
        alarm.take_off(each)
    requests = [weakref.ref(each.demand.request.messages[0]) for each in left[:6]]
    del left, tickets[:8]
    gc.collect()
    assert [each() for each in requests] == [None] * 6
    loop.pass_to(20.0)
    assert all(map(is_awake, tickets))


def test_it_knows_to_a_second_how_long_the_process_stood_still(loop):
    alarm = Alarm()
    ticket = waiting(loop, alarm, 60.0)
    for now in (1.0, 2.0, 2.9, 3.0):
        loop.pass_to(now)
    assert alarm.stood_still == 0.0
    loop.pass_to(30.0)
    assert 26.0 <= alarm.stood_still <= 27.0
    assert not is_awake(ticket)


def test_what_passed_before_a_call_waited_is_not_taken_off_its_wait(loop):
    alarm = Alarm()
    first = waiting(loop, alarm, 60.0)
    loop.at = 30.0  # in the turn that took so long, before the alarm goes off
    second = waiting(loop, alarm, 10.0)
    before = alarm.stood_still
    assert 29.0 <= before <= 30.0
    for now in (30.0, 31.0, 40.0):
        loop.pass_to(now)
    assert is_awake(second)
    assert not is_awake(first)
    assert alarm.stood_still - before == 8.0  # from 32 on


def test_no_timer_is_left_when_nobody_waits(loop):
    alarm = Alarm()
    tickets = [waiting(loop, alarm, 60.0) for _ in range(3)]
    for each in tickets:
        alarm.take_off(each)
    assert loop.pending() == []


def test_one_that_waits_again_is_woken_at_its_new_time_alone(loop):
    alarm = Alarm()
    others = [waiting(loop, alarm, 9.0) for _ in range(3)]
    ticket = waiting(loop, alarm, 1.0)
    alarm.take_off(ticket)
    alarm.set(loop, ticket, 3.0)
    loop.pass_to(1.0)
    assert not is_awake(ticket)
    loop.pass_to(3.0)
    assert is_awake(ticket)
    assert not any(map(is_awake, others))


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_those_who_stay_are_woken_in_order_whoever_leaves(seconds, leave):
    alarm = Alarm()
    with closing(Timers()) as loop:
        tickets = {each: waiting(loop, alarm, float(each)) for each in seconds}
        for each in leave:
            alarm.take_off(tickets[each])
        for now in range(12):
            loop.pass_to(float(now))
            awake = {each for each, ticket in tickets.items() if is_awake(ticket)}
            assert awake == {*range(now + 1)} - leave


def test_a_timer_that_goes_off_a_little_early_wakes_all_the_same(loop):
    alarm = Alarm()
    ticket = waiting(loop, alarm, 0.5)
    loop.at = 0.499
    (timer,) = loop.pending()
    timer._run()
    assert is_awake(ticket)


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_the_first_of_a_queue_is_the_earliest_call_whoever_leaves(joins, leaves):
    queue: Queue[str] = Queue()
    tickets = {number: Ticket(number, Demand(Request("hi")), ["line"]) for number in joins}
    for ticket in tickets.values():
        queue.push(ticket)
    for number in leaves:
        assert queue.first("line") is tickets[min(tickets)]
        tickets.pop(number).is_done = True
        queue.left("line")
    assert queue.first("line") is None
    assert len(queue) == 0
