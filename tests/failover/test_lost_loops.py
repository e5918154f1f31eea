"""Calls that are collected together with their closed loop end without a word."""

from __future__ import annotations

import pytest

from tests.programs import run_program

PROGRAM = """
import asyncio, gc, sys
from aiollm import Registry
from aiollm.testing import NEVER, FakeProvider

async def begin(reg):
    asyncio.create_task(reg.stream("a/m", "hi").collect())
    await fake.wait_calls(within=None)
    await asyncio.sleep(0)

fake = FakeProvider(default=[NEVER])
reg = Registry(env={})
reg.register("a", fake.provider())
loop = asyncio.new_event_loop()
loop.run_until_complete(begin(reg))
loop.close()
if sys.argv[1] == "collected":
    gc.collect()
print("the end")
"""

GOES_ON = """
import asyncio, queue, threading
from aiollm import Registry
from aiollm.testing import FaultServer, Gate, Raw

EVENT = b'data: {"choices": [{"delta": {"content": "Hi"}}]}\\n\\n'
HEAD = b"HTTP/1.1 200 OK\\r\\nContent-Type: text/event-stream\\r\\nContent-Length: 999\\r\\n\\r\\n"

async def serve():
    async with FaultServer(default=Raw((HEAD + EVENT, Gate()))) as server:
        urls.put(server.url)
        await asyncio.Event().wait()

async def begin():
    stream = reg.stream("a/m", "hi")
    streams.append(stream)
    async for delta in stream:
        return print(delta.text)

async def go_on():
    async with reg:
        await begin()

urls, streams = queue.Queue(), []
threading.Thread(target=asyncio.run, args=(serve(),), daemon=True).start()
reg = Registry(env={"LLM_A": f"openai+{urls.get()}/v1?api=chat"})
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
loop.close()
asyncio.run(go_on())
print("the end", flush=True)
"""

BUDGET = """
import asyncio, gc, sys
from aiollm import Budget

async def hold():
    held.append(await budget.reserve(0.75))
    tasks.append(asyncio.create_task(budget.reserve(0.5)))
    await asyncio.sleep(0)

async def go_on():
    for usd in (0.25, 0.5):
        (await budget.reserve(usd)).release()
        held[0].release()

budget, held, tasks = Budget(usd=1.0), [], []
loop = asyncio.new_event_loop()
loop.run_until_complete(hold())
loop.close()
if sys.argv[1] == "collected":
    tasks.clear()
    gc.collect()
asyncio.run(go_on())
print(budget)
"""


@pytest.mark.parametrize("when", ["collected", "at the end"])
def test_a_program_that_closes_its_loop_under_a_call_hears_only_of_its_task(when):
    done = run_program(PROGRAM, when)
    assert done.stdout == "the end\n"
    assert "Task was destroyed but it is pending" in done.stderr
    assert "Exception ignored" not in done.stderr


def test_a_registry_goes_on_after_a_loop_was_closed_under_an_answer():
    done = run_program(GOES_ON)
    assert (done.stdout, done.stderr) == ("Hi\nHi\nthe end\n", "")


@pytest.mark.parametrize("when", ["collected", "at the end"])
def test_who_waited_for_a_budget_on_a_loop_that_was_closed_is_in_nobodys_way(when):
    done = run_program(BUDGET, when)
    assert done.stdout == "Budget(usd=1, spent=0, reserved=0)\n"
    assert "Exception ignored" not in done.stderr
