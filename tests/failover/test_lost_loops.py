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
    await fake.wait_calls()
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


@pytest.mark.parametrize("when", ["collected", "at the end"])
def test_a_program_that_closes_its_loop_under_a_call_hears_only_of_its_task(when):
    done = run_program(PROGRAM, when)
    assert done.stdout == "the end\n"
    assert "Task was destroyed but it is pending" in done.stderr
    assert "Exception ignored" not in done.stderr
