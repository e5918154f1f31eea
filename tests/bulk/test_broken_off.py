"""A bulk run that is cancelled before any callback leaves complete lines, and can be resumed."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading

import pytest

from aiollm import Limits, Registry
from aiollm._bulk.output import lock
from aiollm._bulk.thread import WorkThread
from aiollm.testing import FakeProvider
from tests.broken_off import cancelled_everywhere, held
from tests.programs import run_program

LOST = """
import asyncio, gc, sys, threading
from aiollm import Registry
from aiollm.testing import NEVER, FakeProvider

async def rows():
    for each in "xyz":
        yield each, each

async def go():
    own = rows() if sys.argv[2] == "async" else [(each, each) for each in "xyz"]
    async with reg.map("a/m", own, into=sys.argv[1], resume=True) as run:
        async for row in run:
            print(row.key, row.text)

async def begin():
    asyncio.create_task(go())
    await fake.wait_calls(2, within=None)

fake = FakeProvider([NEVER], [NEVER], default="hi")
reg = Registry(env={})
reg.register("a", fake.provider())
loop = asyncio.new_event_loop()
loop.run_until_complete(begin())
loop.close()
asyncio.run(reg.generate("a/m", "hi"))  # from now on it knows nothing of the closed loop
for _ in range(100):  # a thread may still hold it for a moment
    gc.collect()
    for each in threading.enumerate():
        if each.daemon:
            each.join(0.1)
asyncio.run(go())
"""


@pytest.mark.parametrize("score", [None, lambda _: 1.0])
async def test_a_bulk_run_into_a_file(tmp_path, score):
    numbers = itertools.count()
    fake = FakeProvider(default="hi", name="a")
    file = tmp_path / "first"
    async with Registry(env={}, cooldown=0.0) as reg:
        reg.register("a", fake.provider(), limits=Limits(rpm=1_000_000, max_concurrency=2))

        def run(*, resume=False):
            return reg.map("a/m", ["x", "y", "z"], into=file, score=score, resume=resume)

        async def call():
            nonlocal file
            file = tmp_path / str(next(numbers))
            async with run() as running:
                async for row in running:
                    assert row.error is None

        async def check():
            found = await held(reg)
            if fake.running:
                found.append("a call still runs")
            async with run(resume=True) as running:
                await running.finish()
            lines = file.read_text().splitlines(keepends=True)
            assert len(lines) == 3
            assert all(json.loads(each)["key"] for each in lines)
            return found

        await call()
        await cancelled_everywhere(call, check, least=10)


async def test_a_file_whose_opening_is_cancelled_is_free_again_at_once(tmp_path):
    numbers = itertools.count()
    async with Registry(env={}) as reg:
        reg.register("a", FakeProvider(default="hi").provider())

        async def call():
            file = tmp_path / str(next(numbers))
            run = reg.map("a/m", ["x"], into=file)
            try:
                await run.__aenter__()
            except asyncio.CancelledError:
                with file.open("ab") as again:
                    lock(again.fileno(), "it")
                raise
            await run.__aexit__(None, None, None)

        await call()
        await cancelled_everywhere(call, least=3)


@pytest.mark.parametrize("rows", ["list", "async"])
def test_a_run_whose_loop_was_closed_leaves_its_file_to_the_next_one(tmp_path, rows):
    done = run_program(LOST, str(tmp_path / "file"), rows)
    assert sorted(done.stdout.splitlines()) == ["x hi", "y hi", "z hi"]
    assert "Exception ignored" not in done.stderr


def test_what_a_thread_was_given_is_done_although_its_loop_was_closed(tmp_path):
    """As where a line is being written while the loop is closed, and the file is closed later."""
    may_end, file = threading.Event(), (tmp_path / "file").open("wb")

    async def begin():
        thread = WorkThread("test")
        thread.run(may_end.wait)
        thread.run(file.close)
        return thread

    thread = asyncio.run(begin())
    worker = thread._thread
    may_end.set()
    thread.stop()
    worker.join(10.0)
    assert file.closed
