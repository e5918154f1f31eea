"""The output file: complete lines, resuming, files of other runs, full disks, locks."""

from __future__ import annotations

import asyncio
import os
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm import ConfigError, InvalidRequestError, Registry, tool
from aiollm._bulk.keys import Keys
from aiollm._bulk.output import OutputFile
from aiollm._bulk.run import MapRun
from aiollm._bulk.thread import WorkThread
from aiollm.testing import FakeProvider, ToolCallStep
from tests.bulk.conftest import answers, records, records_of
from tests.bulk.test_rows import echo

ROWS = [(f"k{number}", f"what is {number}?") for number in range(5)]


@pytest.fixture
def fake(registry: Registry) -> FakeProvider:
    fake = FakeProvider(default=echo)
    registry.register("m", fake.provider())
    return fake


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


@pytest.fixture
async def whole(registry: Registry, fake: FakeProvider, tmp_path: Path) -> bytes:
    """The bytes of the output file of a run that went to its end."""
    path = tmp_path / "whole.jsonl"
    await finish(registry.map("m/x", ROWS, into=path, concurrency=1))
    return path.read_bytes()


async def finish(run: MapRun[Any]) -> list[str]:
    """Ask all rows; return the keys of those that were asked."""
    async with run:
        return [row.key async for row in run]


async def test_a_file_cut_at_any_byte_has_its_complete_lines_and_no_others(
    whole: bytes, into: Path
) -> None:
    run = records_of(whole)[0].run
    first = whole.index(b"\n")
    near = {cut for cut in range(len(whole) + 1) if b"\n" in whole[max(0, cut - 2) : cut + 1]}
    for cut in sorted({*range(first + 3)} | near):  # all lines are alike
        into.write_bytes(whole[:cut])
        keys, output = Keys(), OutputFile(into, pytest.fail)
        await output.open(run, keys, resume=True)
        output.close()
        await output.gone()
        complete = whole[: cut + 1].count(b"\n")  # but for its end, a line is complete
        assert into.read_bytes().count(b"\n") == len(records(into)) == complete
        met = [keys.meet(each.key, each.asked) for each in records_of(whole)]
        assert met == ["finished"] * complete + ["new"] * (len(ROWS) - complete)


async def test_a_file_that_was_cut_is_completed_without_asking_twice(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes
) -> None:
    first = whole.index(b"\n")
    for cut in (0, 1, 20, first - 1, first, first + 1, first + 2, len(whole) - 1, len(whole)):
        into.write_bytes(whole[:cut])
        asked = await finish(registry.map("m/x", ROWS, into=into, resume=True))
        assert len(asked) == len(ROWS) - whole[: cut + 1].count(b"\n")
        assert answers(into) == dict(ROWS)
        assert len(records(into)) == len(ROWS)


async def test_failed_rows_are_asked_again_and_their_last_line_counts(
    registry: Registry, into: Path
) -> None:
    fake = FakeProvider(InvalidRequestError("no", status=400), "b", default=lambda *_: "again")
    registry.register("m", fake.provider())
    rows = [("a", "1"), ("b", "2"), ("c", "3")]
    async with registry.map("m/x", rows[:2], into=into, concurrency=1) as run:
        assert [type(row.error).__name__ async for row in run] == ["FailoverError", "NoneType"]
    assert await finish(registry.map("m/x", rows, into=into, resume=True)) == ["a", "c"]
    assert [each.key for each in records(into)] == ["a", "b", "a", "c"]
    assert answers(into) == {"a": "again", "b": "b", "c": "again"}


async def test_a_file_that_exists_is_never_touched_without_being_told_to(
    registry: Registry, fake: FakeProvider, into: Path
) -> None:
    into.write_text("my thesis")
    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"exists|not written by a bulk run"):
            await finish(registry.map("m/x", ROWS, into=into, resume=resume))
    assert into.read_text() == "my thesis"
    assert not fake.calls


class City(msgspec.Struct):
    name: str


@pytest.mark.parametrize(
    ("spec", "rows", "options", "said"),
    [
        ("m/y", ROWS, {}, "line 1 of .* belongs to another run, with another spec"),
        (
            "m/x",
            ROWS,
            {"output": City},
            "line 1 of .* belongs to another run, with another spec or type",
        ),
        ("m/x", [("k0", "another question")], {}, "row 1: .* another run for the key 'k0'"),
        ("m/x", ROWS, {"temperature": 1}, "a setting such as `temperature`, has changed"),
    ],
)
async def test_the_file_of_another_run_is_named(
    registry: Registry,
    fake: FakeProvider,
    into: Path,
    whole: bytes,
    spec: str,
    rows: Any,
    options: Any,
    said: str,
) -> None:
    into.write_bytes(whole)
    asked = len(fake.calls)
    with pytest.raises(ConfigError, match=said):
        await finish(registry.map(spec, rows, into=into, resume=True, **options))
    assert into.read_bytes() == whole
    assert len(fake.calls) == asked


@pytest.mark.parametrize("damage", [b"nonsense\n", b'{"key":"k1"\n', b"\x00\xff\n", b"[]\n", b"\n"])
async def test_a_damaged_line_is_named_by_its_number(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes, damage: bytes
) -> None:
    lines = whole.splitlines(keepends=True)
    into.write_bytes(lines[0] + damage + lines[1])
    with pytest.raises(ConfigError, match=r"line 2 of .* was not written by a bulk run"):
        await finish(registry.map("m/x", ROWS, into=into, resume=True))
    assert into.read_bytes() == lines[0] + damage + lines[1]


async def test_two_runs_cannot_write_one_file(
    registry: Registry, fake: FakeProvider, into: Path
) -> None:
    async with registry.map("m/x", ROWS, into=into) as run:
        await anext(run)
        with pytest.raises(ConfigError, match="another process writes the output file"):
            await finish(registry.map("m/x", ROWS, into=into, resume=True))
    await finish(registry.map("m/x", ROWS, into=into, resume=True))
    assert answers(into) == dict(ROWS)


@contextmanager
def limited_files(size: int) -> Iterator[None]:
    """Let no file grow beyond a size, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_ends_the_run_and_loses_no_line(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes
) -> None:
    room = len(whole) // 2
    with limited_files(room), pytest.raises(OSError, match="File too large"):
        await finish(registry.map("m/x", ROWS, into=into))
    written = into.read_bytes()
    assert written.endswith(b"\n")
    assert len(records(into)) < len(ROWS)
    await finish(registry.map("m/x", ROWS, into=into, resume=True))
    assert answers(into) == dict(ROWS)
    assert len(records(into)) == len(ROWS)


async def test_a_file_that_is_not_appended_to_has_no_gap_where_it_was_cut_off(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes
) -> None:
    into.write_bytes(whole[:-20])
    opened = os.open(into, os.O_RDWR)
    try:
        await finish(registry.map("m/x", ROWS, into=opened, resume=True))
    finally:
        os.close(opened)
    assert answers(into) == dict(ROWS)


async def test_nor_where_a_disk_was_full_for_a_while(into: Path) -> None:
    opened = os.open(into, os.O_RDWR | os.O_CREAT)  # as a shell opens what `>` names
    failed = asyncio.Event()
    output = OutputFile(opened, lambda _: failed.set())
    await output.open("", Keys(), resume=False)
    os.close(opened)
    with limited_files(30):
        output.add(b'{"key":"a"}\n', failed.clear)
        output.add(b'{"key":"%s"}\n' % (b"b" * 40), failed.clear)
        await failed.wait()
    output.add(b'{"key":"c"}\n', failed.clear)
    output.close()
    await output.gone()
    assert into.read_bytes() == b'{"key":"a"}\n{"key":"c"}\n'


async def test_a_file_is_resumed_where_nothing_reads_at_a_place(
    registry: Registry,
    fake: FakeProvider,
    into: Path,
    whole: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(os, "pread")  # as on Windows
    for cut in (len(whole), len(whole) - 1):
        into.write_bytes(whole[:cut])
        assert await finish(registry.map("m/x", ROWS, into=into, resume=True)) == []
        assert into.read_bytes() == whole


async def test_a_file_that_is_open_for_writing_alone_cannot_be_resumed(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes
) -> None:
    into.write_bytes(whole)
    opened = os.open(into, os.O_WRONLY | os.O_APPEND)
    try:
        with pytest.raises(ConfigError, match="cannot be resumed: Bad file descriptor"):
            await finish(registry.map("m/x", ROWS, into=opened, resume=True))
    finally:
        os.close(opened)
    assert into.read_bytes() == whole


async def test_a_disk_without_room_for_the_end_of_a_line_is_called_so(
    registry: Registry, fake: FakeProvider, into: Path, whole: bytes
) -> None:
    into.write_bytes(whole[:-1])
    with (
        limited_files(len(whole) - 1),
        pytest.raises(ConfigError, match=r"out\.jsonl cannot be resumed: File too large"),
    ):
        await finish(registry.map("m/x", ROWS, into=into, resume=True))
    assert into.read_bytes() == whole[:-1]


def test_what_is_to_be_written_is_written_after_the_loop_has_been_closed() -> None:
    """As where a second Ctrl-C breaks off the wait for a slow disk."""
    slow, written = threading.Event(), threading.Event()

    async def leave() -> WorkThread:
        thread = WorkThread("output")
        thread.run(slow.wait)
        thread.run(written.set)
        thread.stop()
        return thread

    thread = asyncio.run(leave())
    slow.set()
    assert written.wait(30)
    del thread


async def test_a_device_that_takes_nothing_ends_the_run(
    registry: Registry, fake: FakeProvider
) -> None:
    with pytest.raises(OSError, match="No space left"):
        await finish(registry.map("m/x", ROWS, into="/dev/full"))


async def test_a_pipe_takes_lines_until_it_is_closed(
    registry: Registry, fake: FakeProvider
) -> None:
    reader, writer = os.pipe()
    asked = await finish(registry.map("m/x", ROWS, into=writer))
    assert os.read(reader, 1 << 16).count(b"\n") == len(asked) == len(ROWS)
    os.close(reader)
    with pytest.raises(BrokenPipeError):
        await finish(registry.map("m/x", ROWS, into=writer))
    os.close(writer)


async def test_a_file_that_cannot_be_opened_is_named(
    registry: Registry, fake: FakeProvider, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="cannot be opened: No such file or directory"):
        await finish(registry.map("m/x", ROWS, into=tmp_path / "none" / "out.jsonl"))


@tool
def lookup(city: str) -> str:
    """Look up."""
    return city


class Opaque:
    """A value that JSON cannot hold."""

    def __repr__(self) -> str:
        return "opaque!"


class Unspeakable(Exception):
    """An error, or a value, that cannot say what it is."""

    def __str__(self) -> str:
        raise RuntimeError("no words")

    __repr__ = __str__


@pytest.mark.parametrize(
    ("script", "options", "shown"),
    [
        ("plain", {}, {"text": "plain"}),
        (
            [ToolCallStep("lookup", '{"city":"Rome"}')],
            {"tools": lookup},
            {"finish_reason": "tool_calls"},
        ),
        ('{"name": "Rome"}', {"output": City}, {"value": {"name": "Rome"}}),
        ("half a \ud800 surrogate", {}, {"text": "half a \ufffd surrogate"}),
        ("x", {"score": lambda row: Opaque()}, {"score": "opaque!"}),
        ("x", {"score": lambda row: {1, Unspeakable()}}, {"text": "x", "score": "<set>"}),
        ("x", {"score": lambda row: {"exact": row.key == "k"}}, {"score": {"exact": True}}),
    ],
)
async def test_a_line_has_all_of_an_answer(
    registry: Registry, into: Path, script: Any, options: Any, shown: dict[str, Any]
) -> None:
    registry.register("m", FakeProvider(default=script).provider())
    await finish(registry.map("m/x", [("k", "q")], into=into, **options))
    (record,) = records(into)
    assert {name: getattr(record, name) for name in shown} == shown
    if "tools" in options:
        assert record.message is not None
        assert record.message.parts[0].arguments == '{"city":"Rome"}'


async def test_a_row_whose_error_cannot_say_what_it_is_ends_no_run(
    registry: Registry, fake: FakeProvider, into: Path
) -> None:
    def score(row: Any) -> None:
        raise Unspeakable

    await finish(registry.map("m/x", ROWS, into=into, score=score))
    failures = [each.failure for each in records(into)]
    assert [each and each.message for each in failures] == ["Unspeakable: <Unspeakable>"] * 5
