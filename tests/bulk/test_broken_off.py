"""A bulk run that is cancelled before any callback leaves complete lines, and can be resumed."""

from __future__ import annotations

import asyncio
import itertools
import json

import pytest

from aiollm import Limits, Registry
from aiollm._bulk.output import lock
from aiollm.testing import FakeProvider
from tests.broken_off import cancelled_everywhere, held


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
