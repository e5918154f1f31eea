"""The file of a response cache: what is refused, what is survived, and how large it gets."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aiollm import ConfigError, Registry
from aiollm._response_cache import database, worker
from aiollm._response_cache.address import Address, parse_address
from aiollm._response_cache.database import Database
from aiollm.events import CallEnded, ResponseCacheAway
from aiollm.testing import FakeProvider

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys
from aiollm import Registry
from aiollm.testing import FakeProvider

async def main(file, first, count):
    fake = FakeProvider(default=lambda target, request: request.messages[0].text * 50)
    async with Registry(env={}, response_cache=f"sqlite:{file}") as reg:
        reg.register("fake", fake.provider())
        for number in range(first, first + count):
            text = f"question {number} "
            response = await reg.generate("fake/m", text, response_cache="use")
            assert response.text == text * 50
            print(number, response.cached, flush=True)

asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
"""


def started(code: str, *arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def rows(file: Path) -> int:
    with closing(sqlite3.connect(file)) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return db.execute("SELECT count(*) FROM answers").fetchone()[0]


def other_program(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE mine (a)")


def later_version(file: Path) -> None:
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA application_id = {database.APPLICATION}")
        db.execute(f"PRAGMA user_version = {database.VERSION + 1}")


UNUSABLE = {
    "text": (lambda file: file.write_text("my thesis\n" * 1000), "damaged or no SQLite database"),
    "a database of another program": (other_program, "the database of another program"),
    "a later version": (later_version, "a later version of aiollm has written it"),
    "a folder": (Path.mkdir, "it is not a file"),
    "a loop": (lambda file: file.symlink_to(file), "it is not a file"),
    "a pipe": (os.mkfifo, "it is not a file"),
}


@pytest.mark.parametrize(("make", "reason"), UNUSABLE.values(), ids=UNUSABLE)
async def test_what_is_no_cache_is_refused_before_a_call_and_left_as_it_is(
    keeping: Callable, file: Path, make: Callable[[Path], object], reason: str
) -> None:
    make(file)
    before = file.read_bytes() if file.is_file() else None
    fake = FakeProvider()
    reg = await keeping(fake)
    ended: list[Any] = []
    reg.on_event(ended.append)
    for word in ("use", "refresh"):
        with pytest.raises(ConfigError, match=reason):
            await reg.generate("fake/m", "hi", response_cache=word)
        assert isinstance(ended[-1], CallEnded)
        assert ended[-1].outcome == "failed"
    with pytest.raises(ConfigError, match=reason):
        await reg.preload()
    assert not fake.calls
    if before is not None:
        assert file.read_bytes() == before


async def test_a_folder_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with Registry(env={}, response_cache=f"sqlite:{tmp_path}/no/answers.db") as reg:
        reg.register("fake", FakeProvider().provider())
        with pytest.raises(ConfigError, match=r"no/answers\.db' cannot be used: its folder does"):
            await reg.generate("fake/m", "hi", response_cache="use")


async def test_an_empty_file_becomes_a_cache(keeping: Callable, file: Path) -> None:
    file.touch()
    async with await keeping(FakeProvider()) as reg:
        await reg.generate("fake/m", "hi", response_cache="use")
    assert rows(file) == 1


async def test_only_its_owner_may_read_it(keeping: Callable, file: Path) -> None:
    reg = await keeping(FakeProvider())
    await reg.generate("fake/m", "hi", response_cache="use")
    await reg.generate("fake/m", "hi", response_cache="use")  # the first answer has been written
    found = list(file.parent.iterdir())
    assert file in found
    assert {stat.S_IMODE(each.stat().st_mode) for each in found} == {0o600}


async def test_a_damaged_file_ends_no_call(
    keeping: Callable, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "REST", 0.0)
    async with await keeping(FakeProvider(default="Hello " * 2000)) as reg:
        for number in range(50):
            await reg.generate("fake/m", str(number), response_cache="use")
    data = bytearray(file.read_bytes())
    data[4096:] = random.Random(5).randbytes(len(data) - 4096)
    file.write_bytes(data)
    reg, events = await keeping(FakeProvider(default="Hello")), []
    reg.on_event(events.append)
    for number in range(5):
        response = await reg.generate("fake/m", str(number), response_cache="use")
        assert response.text == "Hello"
    (told,) = [each for each in events if isinstance(each, ResponseCacheAway)]
    assert "malformed" in told.reason


async def test_an_answer_that_cannot_be_read_is_asked_for(keeping: Callable, file: Path) -> None:
    first = await keeping(FakeProvider("old"))
    await first.generate("fake/m", "hi", response_cache="use")
    await first.aclose()  # it is written by a thread
    with closing(sqlite3.connect(file)) as db, db:
        assert db.execute("UPDATE answers SET answer = '{\"message\": 5}'").rowcount == 1
    reg = await keeping(FakeProvider("new"))
    assert (await reg.generate("fake/m", "hi", response_cache="use")).text == "new"


FULL = """
import asyncio, resource, sys
from aiollm import Registry
from aiollm.events import ResponseCacheAway
from aiollm.testing import FakeProvider

async def main(file):
    fake, told = FakeProvider(default="Hello " * 1000), []
    def registry():
        reg = Registry(env={}, response_cache=f"sqlite:{file}")
        reg.register("fake", fake.provider())
        return reg
    async with registry() as reg:
        await reg.generate("fake/m", "first", response_cache="use")
    async with registry() as reg:  # the first answer has been written
        reg.on_event(lambda event: told.append(event) if type(event) is ResponseCacheAway else 0)
        assert (await reg.generate("fake/m", "first", response_cache="use")).cached
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        for number in range(200):
            await reg.generate("fake/m", str(number), response_cache="use")
        assert (await reg.generate("fake/m", "first", response_cache="use")).cached
    print(len(fake.calls), *told)

asyncio.run(main(sys.argv[1]))
"""


def test_a_full_disk_ends_no_call_and_what_was_kept_is_found(file: Path) -> None:
    process = started(FULL, file)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.startswith("201 ResponseCacheAway(reason='OperationalError: ")
    assert out.count("Away") == 1
    assert err.count("cannot be used for now") == 1
    assert rows(file) >= 1


async def test_a_locked_file_ends_no_call_and_loses_nothing(keeping: Callable, file: Path) -> None:
    reg = await keeping(FakeProvider(*map(str, range(20))))
    events: list[Any] = []
    await reg.generate("fake/m", "before", response_cache="use")
    assert (await reg.generate("fake/m", "before", response_cache="use")).cached
    reg.on_event(lambda event: events.append(type(event)))
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        for number in range(1, 5):
            await reg.generate("fake/m", str(number), response_cache="use")
            assert (await reg.generate("fake/m", str(number), response_cache="use")).cached
        db.execute("COMMIT")
    await reg.aclose()
    assert rows(file) == 5
    assert ResponseCacheAway not in events


async def test_a_file_that_stays_locked_is_given_up(
    keeping: Callable, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "OPENING", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        reg, events = await keeping(FakeProvider(default="Hello")), []
        reg.on_event(events.append)
        for _ in range(3):
            response = await reg.generate("fake/m", "hi", response_cache="use")
            assert (response.text, response.cached) == ("Hello", False)
    (told,) = [each for each in events if isinstance(each, ResponseCacheAway)]
    assert "locked" in told.reason


def test_opening_waits_for_another_process_that_sets_it_up(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.0)
    with closing(sqlite3.connect(file, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        monkeypatch.setattr(database.time, "sleep", lambda _: other.execute("COMMIT"))
        db = Database(Address(str(file)))
        db.put({b"one": b"1"})
        db.close()
    assert rows(file) == 1


def test_the_file_stays_within_its_bound_and_keeps_what_is_used(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "FRESH", -1.0)
    db = Database(Address(str(file), max_bytes=1_000_000))
    for number in range(3000):
        db.put({b"%d" % number: b"x" * 1000})
        assert db.get(b"0") is not None, number
        assert db.get(b"%d" % number) is not None
    assert db.get(b"1") is None
    db.close()
    assert 500 <= rows(file) <= 1000
    assert file.stat().st_size <= 1_100_000


def test_large_answers_make_room_one_by_one(file: Path) -> None:
    db = Database(Address(str(file), max_bytes=1_000_000))
    for number in range(100):
        db.put({b"%d" % number: b"x" * 60_000})
    db.close()
    assert 10 <= rows(file) <= 17


async def test_an_answer_that_is_too_large_is_not_kept(keeping: Callable) -> None:
    reg = await keeping(FakeProvider(default="x" * 70_000), query="?max_mb=1")
    for _ in range(2):
        assert not (await reg.generate("fake/m", "hi", response_cache="use")).cached


def test_old_answers_are_not_found_and_go(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    monkeypatch.setattr(database.time, "time", lambda: now)
    db = Database(parse_address(f"sqlite:{file}?days=2"))
    db.put({b"one": b"1"})
    now += 86_400
    db.put({b"two": b"2"})
    assert db.get(b"one") == b"1"
    now += 86_401
    assert db.get(b"one") is None
    assert db.get(b"two") == b"2"
    now += 3 * 86_400
    db.put({})
    db.close()
    assert rows(file) == 0


def test_eight_processes_share_one_file(file: Path) -> None:
    processes = [started(WRITER, file, 25 * (number // 2), 50) for number in range(8)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
        assert err == "", "none of them went without the cache"
        assert len(out.splitlines()) == 50
    assert rows(file) == 125
    process = started(WRITER, file, 0, 125)
    out, _ = process.communicate(timeout=60)
    assert out.count("True") == 125


def test_a_writer_that_is_killed_damages_nothing(file: Path) -> None:
    dice, first = random.Random(7), 0
    for _ in range(6):
        process = started(WRITER, file, first, 10_000)
        assert process.stdout is not None
        lines = dice.randrange(1, 60)
        for _ in range(lines):
            assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert rows(file) >= 0, "whatever was written is whole"
        first += lines
    process = started(WRITER, file, 0, first)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.count("True") > 0
    assert rows(file) >= first


FORK = """
import asyncio, os, sys, warnings
from aiollm import Registry
from aiollm.testing import FakeProvider

async def ask(reg, text):
    return (await reg.generate("fake/m", text, response_cache="use")).cached

def registry(file):
    reg = Registry(env={}, response_cache=f"sqlite:{file}")
    reg.register("fake", FakeProvider(default="Hello").provider())
    return reg

async def child(file, inherited):
    for name, reg in (("inherited", inherited), ("own", registry(file))):
        print(name, await ask(reg, "parent"), await ask(reg, name), await ask(reg, name))
        await reg.aclose()

def shown(fd):
    try:
        name = os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""
    return name if "answers.db" in name else ""

def forked(file, reg):
    sys.stdout.flush()
    warnings.simplefilter("ignore", DeprecationWarning)  # of Python 3.12: there are threads
    pid = os.fork()
    if pid == 0:
        asyncio.run(child(file, reg))
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0

async def begin(file):
    reg = registry(file)
    print("parent", await ask(reg, "parent"), await ask(reg, "parent"))
    return reg

async def end(reg):
    print("after", await ask(reg, "own"), await ask(reg, "inherited"))
    await reg.aclose()

with asyncio.Runner() as runner:
    reg = runner.run(begin(sys.argv[1]))
    assert any(map(shown, os.listdir("/proc/self/fd"))), "the file is open in the parent"
    forked(sys.argv[1], reg)
    runner.run(end(reg))
"""


def test_parent_and_child_of_a_fork_use_the_file_each_for_itself(file: Path) -> None:
    process = started(FORK, file)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    assert out.splitlines() == [
        "parent False True",
        "inherited True False True",
        "own True False True",
        "after True True",
    ]
    assert rows(file) == 3


def test_a_child_inherits_no_open_file(file: Path) -> None:
    code = FORK.replace(
        "        asyncio.run(child(file, reg))\n",
        "        print('open:', sorted(map(shown, os.listdir('/proc/self/fd')))[-1:])\n",
    )
    process = started(code, file)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "open: ['']" in out
    assert "after False False" in out


async def test_the_thread_ends_with_its_registry(keeping: Callable, threads: Callable) -> None:
    async with await keeping(FakeProvider()) as reg:
        await reg.generate("fake/m", "hi", response_cache="use")
        (thread,) = threads()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()
    assert not [name for name in open_files() if "answers.db" in name]


def open_files() -> list[str]:
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except OSError:
            continue
    return found


async def test_closing_while_the_file_is_locked_can_be_cancelled(
    keeping: Callable, file: Path, threads: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY", 0.0)
    reg = await keeping(FakeProvider(default="Hello"))
    await reg.generate("fake/m", "0", response_cache="use")
    await reg.generate("fake/m", "0", response_cache="use")
    with closing(sqlite3.connect(file, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        await reg.generate("fake/m", "1", response_cache="use")
        (thread,) = threads()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await reg.aclose()
        db.execute("COMMIT")
    await asyncio.to_thread(thread.join, 20)
    assert not thread.is_alive()
    assert rows(file) == 2, "it went on without the one who waited"
