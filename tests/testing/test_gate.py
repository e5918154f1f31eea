"""Gates: who passes, and when."""

from __future__ import annotations

import asyncio
import threading

import pytest

from aiollm.testing import Gate


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_an_open_gate_lets_everyone_through():
    gate = Gate(opened=True)
    await gate.passes()
    await gate.passes()
    assert gate.arrivals == 2


async def test_a_closed_gate_holds_until_it_opens():
    gate = Gate()
    waiting = [asyncio.create_task(gate.passes()) for _ in range(3)]
    await gate.reached(3)
    assert not any(task.done() for task in waiting)
    gate.open()
    await asyncio.gather(*waiting)
    gate.close()
    again = asyncio.create_task(gate.passes())
    await gate.reached(4)
    await settle()
    assert not again.done()
    again.cancel()


async def test_let_admits_as_many_as_it_says_now_or_later():
    gate = Gate()
    gate.let()
    await gate.passes()
    waiting = [asyncio.create_task(gate.passes()) for _ in range(3)]
    await gate.reached(4)
    gate.let(2)
    await settle()
    assert sum(task.done() for task in waiting) == 2
    gate.let()
    await asyncio.gather(*waiting)


async def test_a_waiter_that_was_cancelled_takes_no_permit():
    gate = Gate()
    gone = asyncio.create_task(gate.passes())
    kept = asyncio.create_task(gate.passes())
    await gate.reached(2)
    gone.cancel()
    await settle()
    gate.let()
    await kept


async def test_a_gate_that_nobody_reaches_says_so():
    with pytest.raises(TimeoutError, match="arrival 1 at a gate; so far 0"):
        await Gate().reached(within=0.01)


async def test_a_gate_opens_from_another_thread():
    gate = Gate()
    waiting = asyncio.create_task(gate.passes())
    await gate.reached()
    thread = threading.Thread(target=gate.open)
    thread.start()
    await waiting
    thread.join()


def test_a_gate_outlives_the_loop_of_those_who_waited():
    gate = Gate()

    async def wait_in_vain() -> None:
        task = asyncio.create_task(gate.passes())
        await gate.reached()
        task.cancel()

    asyncio.run(wait_in_vain())
    gate.open()
    asyncio.run(gate.passes())
    assert repr(gate) == "Gate(open, arrivals=2)"
