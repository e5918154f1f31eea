"""A bulk run: errors as rows, ends before the last row, leaving early, values and scores."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm import (
    AuthenticationError,
    Budget,
    BudgetError,
    ClosedError,
    ConfigError,
    FailoverError,
    InvalidRequestError,
    OutputError,
    Price,
    RateLimitError,
    Registry,
    Request,
    ServerError,
    StoppedError,
    StreamInterrupted,
    TextDelta,
)
from aiollm._bulk.row import Row
from aiollm._bulk.run import WINDOW
from aiollm.testing import NEVER, FakeProvider, Gate
from aiollm.types import Target
from tests.bulk.conftest import answers, records
from tests.bulk.test_rows import echo

FAST = {"cooldown": 0.001}
"""A registry whose targets recover at once."""


class City(msgspec.Struct):
    name: str


async def test_the_error_of_a_row_is_in_its_row_and_ends_nothing(registry: Registry) -> None:
    def script(_: Target, request: Request) -> Any:
        text = echo(_, request)
        return InvalidRequestError("too rude", status=400) if text == "3" else text

    registry.register("m", FakeProvider(default=script).provider())
    async with registry.map("m/x", map(str, range(8))) as run:
        rows = {row.key: row async for row in run}
    assert len(rows) == 8
    assert [key for key, row in rows.items() if row.error is not None] == ["4"]
    assert "too rude" in str(rows["4"].error)
    assert len(rows["4"].attempts) == 1
    assert rows["4"].response is None


@pytest.mark.parametrize("others", ["answered", "failed"])
async def test_in_order_all_others_do_not_fill_the_room_of_a_row_that_was_put_off(
    others: str,
) -> None:
    def script(target: Target, request: Request) -> Any:
        text = echo(target, request)
        if text in ("0", "1") and len(fake.calls) <= 2:
            return ServerError("it starts again", status=500)
        return InvalidRequestError("no", status=400) if others == "failed" and text != "0" else text

    fake = FakeProvider(default=script)
    async with Registry(env={}, **FAST) as registry:
        registry.register("m", fake.provider())
        rows = map(str, range(WINDOW + 100))
        options: Any = {"ordered": True, "concurrency": 2, "retries": 0}
        async with registry.map("m/x", rows, **options) as run, asyncio.timeout(300):
            first, *left = [row async for row in run]
    assert first.text == "0"
    assert [row.key for row in left] == [str(number) for number in range(2, WINDOW + 101)]
    asked = [echo(None, each.request) for each in fake.calls]
    assert asked.count("0") == 2
    assert asked.index("0", 2) < (8 if others == "answered" else WINDOW + 8)


async def test_in_order_a_row_that_its_server_cannot_answer_ends_nothing() -> None:
    def script(target: Target, request: Request) -> Any:
        text = echo(target, request)
        return ServerError("it breaks the server", status=500) if text == "0" else text

    async with Registry(env={}, **FAST) as registry:
        registry.register("m", FakeProvider(default=script).provider())
        options: Any = {"ordered": True, "concurrency": 1, "retries": 0}
        async with registry.map("m/x", map(str, range(20)), **options) as run:
            first, *left = [row async for row in run]
    assert isinstance(first.error, FailoverError)
    assert [row.text for row in left] == [str(number) for number in range(1, 20)]


async def test_rows_that_a_bad_server_cuts_or_fails_are_all_answered() -> None:
    count = 0

    def script(_: Target, request: Request) -> Any:
        nonlocal count
        count += 1
        if count % 7 == 3:
            return ServerError("oops", status=500)
        if count % 7 == 5:
            return [TextDelta("half of "), StreamInterrupted("cut")]
        return echo(_, request)

    async with Registry(env={}, **FAST) as registry:
        registry.register("m", FakeProvider(default=script).provider())
        async with registry.map("m/x", map(str, range(100)), concurrency=10) as run:
            rows = [row async for row in run]
    assert [row.error for row in rows if row.error] == []
    assert {row.response.text for row in rows if row.response} == set(map(str, range(100)))


@pytest.mark.loops
async def test_a_server_that_is_away_for_long_loses_no_row(tmp_path: Path) -> None:
    asked = 0

    def script(_: Target, request: Request) -> Any:
        nonlocal asked
        asked += 1
        return ServerError("restarting", status=500) if 20 < asked < 31 else echo(_, request)

    into = tmp_path / "out.jsonl"
    async with Registry(env={}, **FAST) as registry:
        registry.register("m", FakeProvider(default=script).provider())
        rows = map(str, range(60))
        async with registry.map("m/x", rows, into=into, concurrency=4, retries=1) as run:
            assert [row.error async for row in run] == [None] * 60
    assert len(records(into)) == 60
    assert max(len(each.attempts) for each in records(into)) > 2


async def test_a_run_whose_targets_are_misconfigured_ends_soon_and_can_go_on(
    registry: Registry, tmp_path: Path
) -> None:
    fake = FakeProvider(default=AuthenticationError("the key is wrong", status=401))
    registry.register("m", fake.provider())
    into, rows, got = tmp_path / "out.jsonl", list(map(str, range(500))), []
    with pytest.raises(StoppedError, match="every target of m/x is misconfigured") as caught:
        async with registry.map("m/x", rows, into=into, concurrency=8) as run:
            async for row in run:
                got.append(row)  # noqa: PERF401
    assert "the key is wrong" in str(caught.value)
    assert len(fake.calls) < 10
    assert len(got) == len(records(into)) < 10
    registry.register("m", FakeProvider(default=echo).provider())
    registry.reset_health()
    async with registry.map("m/x", rows, into=into, resume=True) as run:
        assert [row.error async for row in run] == [None] * 500
    assert answers(into) == {str(number + 1): text for number, text in enumerate(rows)}


async def test_a_run_whose_targets_stay_dead_ends_after_max_wait() -> None:
    async with Registry(env={}, **FAST) as registry:
        fake = FakeProvider(default=ServerError("dead", status=500))
        registry.register("m", fake.provider())
        got = []
        with pytest.raises(StoppedError, match="no target of m/x has answered for"):
            async with registry.map("m/x", map(str, range(500)), max_wait=0.2) as run:
                async for row in run:
                    got.append(row)  # noqa: PERF401
    assert got == []


async def test_a_budget_that_is_used_up_ends_the_run_without_errors_as_rows(
    tmp_path: Path,
) -> None:
    async with Registry(env={}, prices={"m/*": Price(0, 1_000_000)}) as registry:
        registry.register("m", FakeProvider(default="ok").provider())
        budget, rows = Budget(usd=10), [Request(str(n), max_output_tokens=16) for n in range(99)]
        into = tmp_path / "out.jsonl"
        with pytest.raises(StoppedError, match="fits into the budget") as caught:
            async with registry.map("m/x", rows, into=into, budget=budget) as run:
                await run.finish()
        assert isinstance(caught.value.__cause__, BudgetError)
        assert all(each.failure is None for each in records(into))


async def test_a_registry_that_is_closed_ends_the_run(registry: Registry) -> None:
    fake = FakeProvider(default=[NEVER])
    registry.register("m", fake.provider())
    async with registry.map("m/x", map(str, range(99))) as run:
        await fake.wait_calls()
        await registry.aclose()
        with pytest.raises(ClosedError):
            await anext(run)


async def test_a_run_that_is_left_before_its_first_row_was_read_ends_quietly(
    registry: Registry,
) -> None:
    async def later() -> AsyncIterator[str]:
        yield "x"

    registry.register("m", FakeProvider(default="hi").provider())
    for rows in (["x"], later()):
        async with registry.map("m/x", rows) as run:
            pass
        assert run.under_way == 0
    gc.collect()  # a warning of what never began is an error here


@pytest.mark.parametrize("way", ["break", "error", "cancel"])
async def test_leaving_ends_all_calls_at_once_and_leaves_complete_lines(
    registry: Registry, tmp_path: Path, way: str
) -> None:
    def script(_: Target, request: Request) -> Any:
        return echo(_, request) if int(echo(_, request)) < 3 else [NEVER]

    fake = FakeProvider(default=script)
    registry.register("m", fake.provider())
    into = tmp_path / "out.jsonl"

    async def work() -> None:
        async with registry.map("m/x", map(str, range(99)), into=into, concurrency=9) as run:
            for _ in range(3):
                await anext(run)
            await fake.wait_calls(12)
            if way == "error":
                raise LookupError
            if way == "cancel":
                await anext(run)

    task = asyncio.create_task(work())
    if way == "cancel":
        await fake.wait_calls(12)
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.wait((task,))
    assert way != "error" or isinstance(task.exception(), LookupError)
    assert way != "cancel" or task.cancelled()
    assert not fake.running
    assert [each.text for each in records(into)] == ["0", "1", "2"]


async def test_rows_come_as_they_end_or_in_order(registry: Registry) -> None:
    for ordered in (False, True):
        gate = Gate()

        def script(_: Target, request: Request, gate: Gate = gate) -> Any:
            return [gate, "late"] if echo(_, request) == "0" else "soon"

        registry.register("m", FakeProvider(default=script).provider())
        async with registry.map("m/x", map(str, range(5)), concurrency=5, ordered=ordered) as run:
            if not ordered:
                assert [(await anext(run)).key for _ in range(4)] == ["2", "3", "4", "5"]
            gate.open()
            got = [row.key async for row in run]
        assert got == (["1", "2", "3", "4", "5"] if ordered else ["1"])


async def test_values_are_typed_and_a_misfit_is_sent_back(registry: Registry) -> None:
    registry.register("m", FakeProvider("Rome!", '{"name": "Rome"}', default="never").provider())
    async with registry.map("m/x", ["a", "b"], output=City, concurrency=1) as run:
        first, second = [row async for row in run]
    assert first.value == City("Rome")
    assert len(first.attempts) == 2
    assert isinstance(second.error, OutputError)
    assert second.value is None
    assert second.response is not None
    assert second.response.text == "never"


async def test_a_score_is_plain_or_async_and_its_error_keeps_the_answer(
    registry: Registry,
) -> None:
    registry.register("m", FakeProvider(default=echo).provider())

    def plain(row: Row[Any]) -> int:
        return 1 // int(row.response.text if row.response else 0)

    async def later(row: Row[Any]) -> int:
        return plain(row)

    for score in (plain, later):
        async with registry.map("m/x", ["1", "0"], score=score, ordered=True) as run:
            good, bad = [row async for row in run]
        assert (good.score, good.error) == (1, None)
        assert isinstance(bad.error, ZeroDivisionError)
        assert bad.response is not None
        assert bad.response.text == "0"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": "many"}, "expected an integer or 'auto'"),
        ({"resume": True}, "into="),
        ({"ordered": 1}, "ordered"),
        ({"shard": "3/2"}, "such as 2/8"),
        ({"patience": -1}, "patience"),
        ({"output": object}, "object is not supported"),
    ],
)
async def test_wrong_settings_are_refused_at_once(
    registry: Registry, options: dict[str, Any], said: str
) -> None:
    registry.register("m", FakeProvider().provider())
    with pytest.raises(ConfigError, match=said):
        registry.map("m/x", ["a"], **options)


async def test_an_unknown_option_is_a_type_error(registry: Registry) -> None:
    registry.register("m", FakeProvider().provider())
    with pytest.raises(TypeError, match="did you mean 'concurrency'"):
        registry.map("m/x", ["a"], concurency=3)  # type: ignore[call-arg]


async def test_a_run_must_be_entered_and_only_once(registry: Registry) -> None:
    registry.register("m", FakeProvider().provider())
    run = registry.map("m/x", ["a"])
    with pytest.raises(ClosedError, match="async with"):
        await anext(run)
    async with run:
        assert [row.key async for row in run] == ["1"]
    with pytest.raises(ClosedError, match="once"):
        await run.__aenter__()


async def test_429s_are_waited_out(registry: Registry) -> None:
    asked = 0

    def script(_: Target, request: Request) -> Any:
        nonlocal asked
        asked += 1
        limited = RateLimitError("slow down", status=429, retry_after=0.01)
        return limited if asked % 20 == 0 else echo(_, request)

    registry.register("m", FakeProvider(default=script).provider())
    async with registry.map("m/x", map(str, range(60)), concurrency=20, retries=1) as run:
        assert [row.error async for row in run] == [None] * 60


async def test_shards_take_each_row_once(registry: Registry) -> None:
    registry.register("m", FakeProvider(default=echo).provider())
    rows = [(f"key {number}", str(number)) for number in range(200)]
    got = []
    for number in (1, 2, 3):
        async with registry.map("m/x", rows, shard=f"{number}/3") as run:
            got.append({row.key async for row in run})
    assert sum(map(len, got)) == len(set.union(*got)) == 200
    assert min(map(len, got)) > 40


async def test_a_row_that_others_cancel_ends_the_run_and_is_not_lost_in_silence(
    registry: Registry,
) -> None:
    gate = Gate()
    fake = FakeProvider(default=[gate, "done"])
    registry.register("m", fake.provider())
    async with registry.map("m/x", list("abcdef"), concurrency=2) as run:
        await fake.wait_calls(2)
        next(iter(run._tasks)).cancel()
        with pytest.raises(StoppedError, match="cancelled from outside"):
            await anext(run)
        assert len(fake.calls) == 2


def test_a_target_without_a_key_is_an_error_before_any_row(tmp_path: Path) -> None:
    reg = Registry(env={})
    with pytest.raises(ConfigError, match="no key for 'openai'"):
        reg.map("openai/gpt-6.1-sol", ["a", "b"], into=tmp_path / "out.jsonl")
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("ended", [False, True], ids=["under way", "ended"])
async def test_a_run_is_read_on_its_own_event_loop_alone(ended: bool):
    """Also once all rows have their answers: else it would depend on who is first."""
    gate = Gate()
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider(default=[gate, "ok"]).provider())
        async with reg.map("fake/m", ["a", "b"]) as run:

            async def read() -> None:
                await anext(run)

            if ended:
                gate.open()
                while run.report.rows < 2:
                    await asyncio.sleep(0)
            with pytest.raises(ConfigError, match="in use on another event loop: read it there"):
                await asyncio.to_thread(lambda: asyncio.run(read()))
            gate.open()
            assert [row.text async for row in run] == ["ok", "ok"]
