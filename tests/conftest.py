"""Guards for every test: no leaked task, socket or process, no blocking call on the loop."""

from __future__ import annotations

import ast
import asyncio
import inspect
import os
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from multiprocessing import forkserver, resource_tracker
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, Phase, settings
from hypothesis.internal.conjecture import engine

from tests.loops import FACTORIES, LoopFactory, own_sockets

LOOKS = 1000
"""Looks, each a hundredth of a second after the last, until what is already closing has to be gone.
They are as many where no CPU is free, or where this process stood still."""

# A failure is reported before the time of its test is over, which would hide it: its example is
# made smaller for some seconds only, by default for five minutes, and nothing traces meanwhile.
assert hasattr(engine, "MAX_SHRINKING_SECONDS")
engine.MAX_SHRINKING_SECONDS = 15
settings.register_profile(
    "dev",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    phases=set(Phase) - {Phase.explain},
)
settings.register_profile("ci", settings.get_profile("dev"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

if sys.version_info < (3, 12):
    # pytest parses what is imported, threads import, and Python 3.11 raises SystemError where two
    # of them parse at a time.
    _parse, _parsing = ast.parse, threading.RLock()
    os.register_at_fork(after_in_child=_parsing._at_fork_reinit)

    def _parse_alone(*source: Any, **options: Any) -> Any:
        with _parsing:
            return _parse(*source, **options)

    ast.parse = _parse_alone


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, LoopFactory]:
    """Run tests marked `loops` on each loop; with LOOP in the environment, all on that one."""
    if only := os.environ.get("LOOP"):
        return {only: FACTORIES[only]}
    if item.get_closest_marker("loops"):
        return FACTORIES
    return {"asyncio": FACTORIES["asyncio"]}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End the process where a test hangs on uvloop: it does not let a signal fail the test."""
    for item in items:
        if "uvloop" in re.split(r"[\[\]-]", item.name):
            limit = item.get_closest_marker("timeout")
            seconds = limit.args if limit else ()
            item.add_marker(pytest.mark.timeout(*seconds, method="thread"))


@pytest.fixture(scope="session", autouse=True)
def blocking_calls_fail() -> Iterator[None]:
    """A blocking call that aiollm makes on a running event loop raises BlockingError."""
    with blockbuster_ctx("aiollm") as found:
        for name in ("io.BufferedReader.read", "os.stat", "os.read"):
            # What a caller explicitly reads from a file, it reads where it stands.
            found.functions[name].can_block_in("aiollm/types.py", {"from_path", "save"})
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_is_kept_of_this_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The command line keeps names of models: not those of tests, where a person looks for them."""
    file = tmp_path_factory.mktemp("cache") / "aiollm" / "models"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("aiollm.cli.known_models.file", lambda: file)
        yield


@pytest.fixture(autouse=True)
def guards(request: pytest.FixtureRequest) -> None:
    """Let no test leave a process behind, and no async test a task or a socket."""
    request.getfixturevalue("no_leaked_process")
    if _is_async(request.node):
        request.getfixturevalue("no_leaked_task")
        request.getfixturevalue("no_leaked_socket")


def _is_async(item: pytest.Item) -> bool:
    test = getattr(item, "obj", None)
    hypothesis = getattr(test, "hypothesis", None)
    return inspect.iscoroutinefunction(hypothesis.inner_test if hypothesis else test)


@pytest.fixture
async def no_leaked_task() -> AsyncIterator[None]:
    """Fail when the test leaves tasks running."""
    yield
    me = asyncio.current_task()
    if tasks := await _lasting(lambda: asyncio.all_tasks() - {me}):
        pytest.fail("leaked tasks:\n" + "\n".join(map(repr, tasks)))


@pytest.fixture
async def no_leaked_socket() -> AsyncIterator[None]:
    """Fail when the test leaves sockets open."""
    loop = asyncio.get_running_loop()
    before = open_sockets()
    yield
    if sockets := await _lasting(lambda: open_sockets() - before - own_sockets(loop)):
        pytest.fail(f"leaked sockets: {sockets}")


@pytest.fixture
def no_leaked_process() -> Iterator[None]:
    """Fail when the test leaves child processes running."""
    before = child_processes()
    yield
    for _ in range(LOOKS):
        if not (leaked := child_processes() - before):
            return
        time.sleep(0.01)
    if leaked := child_processes() - before:
        pytest.fail("leaked processes: " + ", ".join(map(_command, leaked)))


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let children hear SIGINT: a script's job in the background ignores it, and hands that on."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


async def _lasting(find: Callable[[], set]) -> set:
    """Return what `find` still finds after all looks; an empty find waits for nothing."""
    for _ in range(LOOKS):
        if not (found := find()):
            return found
        await asyncio.sleep(0.01)
    return find()


def open_sockets() -> set[str]:
    """Return the names of this process's open sockets; empty where /proc does not tell."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            name = str(entry.readlink())
        except OSError:
            continue
        if name.startswith("socket:"):
            found.add(name)
    return found


def child_processes() -> set[int]:
    """Return the ids of live children, without those that multiprocessing keeps on purpose."""
    kept = {
        getattr(resource_tracker._resource_tracker, "_pid", None),
        getattr(forkserver._forkserver, "_forkserver_pid", None),
    }
    found = set()
    for children in Path("/proc/self/task").glob("*/children"):
        try:
            found.update(map(int, children.read_text().split()))
        except OSError:
            continue
    return {pid for pid in found - kept if _alive(pid)}


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ") or str(pid)
    except OSError:
        return str(pid)
