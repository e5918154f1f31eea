"""Rows from any iterable: keys, bad rows, sources that block, and bounded memory."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from aiollm import ConfigError, Message, Registry, Request, user
from aiollm._bulk.keys import Keys
from aiollm._bulk.run import WINDOW
from aiollm._bulk.source import Reading, Source
from aiollm.testing import FakeProvider, Gate
from aiollm.types import Target


def echo(_: Target, request: Request) -> str:
    """Answer a request with its own text."""
    return request.messages[-1].text


async def numbers(count: int) -> AsyncIterator[str]:
    for number in range(count):
        yield f"q{number}"


@pytest.mark.parametrize(
    ("rows", "keys"),
    [
        (["a", Request("b"), user("c"), [user("d")]], ["1", "2", "3", "4"]),
        ([("x", "a"), (7, "b"), ("y", [user("c")])], ["x", "7", "y"]),
        (enumerate("abc"), ["0", "1", "2"]),
        ({"a": 0, "b": 0}.keys(), ["1", "2"]),
        (numbers(3), ["1", "2", "3"]),
        ([], []),
    ],
)
async def test_any_iterable_has_rows_with_keys_or_numbers(
    registry: Registry, rows: Any, keys: list[str]
) -> None:
    registry.register("m", FakeProvider(default=echo).provider())
    async with registry.map("m/x", rows, ordered=True) as run:
        got = [row async for row in run]
    assert [row.key for row in got] == keys
    assert all(row.response and row.response.text == echo(None, row.request) for row in got)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with Python 3.12")
@pytest.mark.parametrize("rows", [map(str, range(100)), numbers(100)])
async def test_rows_keep_their_order_where_tasks_begin_at_once(
    registry: Registry, rows: Any
) -> None:
    asyncio.get_running_loop().set_task_factory(getattr(asyncio, "eager_task_factory", None))
    registry.register("m", FakeProvider(default=echo).provider())
    async with registry.map("m/x", rows, ordered=True) as run:
        got = [row.number async for row in run]
    assert got == [*range(1, 101)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (7, "not of type int"),
        (("key", 7), "not of type int"),
        ((None, "a"), "keys are texts or integers"),
        (Request([Message("tool", "a")]), "a message of role 'tool' may hold"),
        (("1", "the key of the first row"), "an earlier row has the key '1', too"),
        (ConfigError("line 2: it is no JSON"), "line 2: it is no JSON"),
        (("\ud800", "a"), "surrogates not allowed"),
    ],
)
async def test_a_bad_row_is_named_and_the_others_are_asked(
    registry: Registry, row: Any, said: str, tmp_path: Any
) -> None:
    registry.register("m", FakeProvider(default=echo).provider())
    into = tmp_path / "out.jsonl"
    async with registry.map("m/x", ["one", row, "three"], into=into, ordered=True) as run:
        first, bad, last = [each async for each in run]
    assert first.error is None
    assert last.error is None
    assert isinstance(bad.error, ConfigError)
    assert str(bad.error).startswith("row 2: ")
    assert said in str(bad.error)
    assert into.read_text().count("\n") == 2  # a bad row could take the place of another's answer


class Unreadable:
    """An iterable that cannot be iterated."""

    def __iter__(self) -> Any:
        raise TypeError("rows are an iterable of requests, but not these")


@pytest.mark.parametrize("rows", ["a prompt", {"key": "prompt"}, 7, b"a", Unreadable()])
async def test_what_has_no_rows_is_refused_at_once_and_leaves_no_file(
    registry: Registry, rows: Any, tmp_path: Path
) -> None:
    registry.register("m", FakeProvider(default=echo).provider())
    into = tmp_path / "out.jsonl"
    with pytest.raises((ConfigError, TypeError), match="rows are an iterable of requests"):
        async with registry.map("m/x", rows, into=into):
            pass
    assert not into.exists()
    async with registry.map("m/x", ["a"], into=into) as run:  # nobody holds it
        assert (await run.finish()).answered == 1


async def test_a_source_that_blocks_does_not_stop_the_loop_or_the_end(registry: Registry) -> None:
    registry.register("m", FakeProvider(default=echo).provider())
    blocked, over = threading.Event(), threading.Event()
    waited: list[bool] = []

    def rows() -> Iterator[str]:
        yield "first"
        blocked.set()
        waited.append(over.wait(30))
        yield "second"

    async with registry.map("m/x", rows()) as run:
        assert (await anext(run)).key == "1"
        while not blocked.is_set():
            await asyncio.sleep(0)
    assert waited == []
    over.set()


async def test_rows_are_pulled_only_as_there_is_room(registry: Registry) -> None:
    gate = Gate()
    fake = FakeProvider(default=[gate, "done"])
    registry.register("m", fake.provider())
    pulled = 0

    async def rows() -> AsyncIterator[str]:
        nonlocal pulled
        for number in range(1_000_000):
            pulled += 1
            yield f"{number}"

    async with registry.map("m/x", rows(), concurrency=3) as run:
        await fake.wait_calls(3)
        for _ in range(300):
            await asyncio.sleep(0)
        assert len(fake.calls) == 3
        assert pulled < 200
        gate.open()
        await anext(run)
        assert pulled < 300


@pytest.mark.parametrize("ordered", [False, True])
async def test_answers_that_nobody_takes_hold_back_the_rows(
    registry: Registry, *, ordered: bool
) -> None:
    gate = Gate()

    def script(_: Target, request: Request) -> Any:
        return [gate, "late"] if echo(_, request) == "q0" else "done"

    fake = FakeProvider(default=script)
    registry.register("m", fake.provider())
    async with registry.map("m/x", numbers(100_000), concurrency=8, ordered=ordered) as run:
        await fake.wait_calls(WINDOW)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(fake.calls) <= WINDOW + 8
        gate.open()
        for _ in range(3 * WINDOW):
            await anext(run)


async def test_the_end_of_the_rows_is_never_seen_without_what_pulling_raised() -> None:
    def rows() -> Iterator[str]:
        yield "first"
        raise OSError("the file is gone")

    source = Source(rows(), Reading(lambda asked: Request(str(asked)), Keys()), lambda: None)
    try:
        source.take()
        while not source.is_over:
            await asyncio.sleep(0)
            source.take()
        assert isinstance(source.error, OSError)
    finally:
        source.close()
        await source.gone()


async def test_what_pulling_raises_ends_the_run_after_the_rows_before_it(
    registry: Registry,
) -> None:
    registry.register("m", FakeProvider(default=echo).provider())

    def rows() -> Iterator[str]:
        yield "first"
        raise OSError("the file is gone")

    got = []
    async with registry.map("m/x", rows()) as run:
        with pytest.raises(OSError, match="the file is gone"):
            async for row in run:
                got.append(row.key)  # noqa: PERF401
    assert got == ["1"]
