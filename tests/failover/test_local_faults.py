"""This process's own faults: no target is set aside, and a call outlasts a short one."""

from __future__ import annotations

import asyncio
import errno
import os
import pickle
import resource
import shutil
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from aiollm import ClosedError, FailoverError, LocalError, classify
from aiollm._failover.health import PROBE_EVERY, Health
from aiollm._http.local_faults import local_error
from aiollm.errors import ServerError
from aiollm.events import AttemptEnded, CallQueued, TargetOpened
from aiollm.testing import chat
from aiollm.types import Target

OK = chat("Hel", "lo")


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Forbid this process any further file descriptor, also one that is given back meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))  # the three stay open
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.fixture
async def warm(serve, registry):
    """Make a registry of two servers that has loaded all it needs; they have connections."""

    async def make(**options):
        servers = {"a": await serve(OK), "b": await serve(OK)}
        reg = registry(servers, **options)
        await reg.preload("a/m,b/m")
        return reg, servers

    return make


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_too_many_open_files_harm_no_target_and_say_what_to_do(warm, host):
    reg, servers = await warm()
    for name, server in servers.items():
        reg.register(name, f"openai+http://{host}:{server.port}/v1")
    await asyncio.get_running_loop().getaddrinfo(host, 80)  # glibc reports a lack otherwise then
    await reg.preload("a/m,b/m")
    opened = []
    reg.on_event(lambda event: opened.append(event) if type(event) is TargetOpened else None)
    with no_descriptor_left(), pytest.raises(FailoverError) as caught:
        await reg.generate("a/m,b/m", "hi")
    assert [type(error) for error in caught.value.exceptions] == [LocalError, LocalError]
    assert "ulimit -n" in str(caught.value.last)
    assert [(each.state, each.failed) for each in reg.health()] == [("healthy", 0)] * 2
    assert opened == []
    assert (await reg.generate("a/m", "hi")).text == "Hello"
    assert (await reg.generate("b/m", "hi")).text == "Hello"


def test_the_first_lookup_of_a_process_is_told_from_an_unknown_name():
    """Without its settings and its files glibc knows no name."""
    unknown = socket.gaierror(socket.EAI_NONAME, "x")
    with no_descriptor_left():
        ours = local_error(unknown)
    assert ours is not None
    assert "ulimit -n" in ours.message
    assert local_error(unknown) is None


async def test_a_target_with_a_connection_answers_while_no_other_can_be_opened(warm):
    reg, _ = await warm()
    await reg.generate("b/m", "hi")
    with no_descriptor_left():
        response = await reg.generate("a/m,b/m", "hi")
    assert [str(attempt.target) for attempt in response.attempts] == ["a/m", "b/m"]


async def test_a_call_outlasts_a_short_lack_of_descriptors(warm):
    reg, _ = await warm(retries=1, cooldown=0.01)
    failed = asyncio.Event()
    reg.on_event(lambda event: failed.set() if type(event) is AttemptEnded else None)
    lack = no_descriptor_left()
    lack.__enter__()
    try:
        call = asyncio.create_task(reg.generate("a/m", "hi"))
        await failed.wait()
    finally:
        lack.__exit__(None, None, None)
    response = await call
    assert [attempt.outcome for attempt in response.attempts] == ["failed", "success"]


async def test_a_call_waits_before_it_tries_again_a_target_that_is_well(warm):
    reg, _ = await warm(retries=2, cooldown=100, max_wait=1000, patience=1000)
    queued = asyncio.Event()
    attempts = []

    def watch(event):
        attempts.append(event) if type(event) is AttemptEnded else None
        queued.set() if type(event) is CallQueued else None

    reg.on_event(watch)
    with no_descriptor_left():
        calls = [asyncio.create_task(reg.generate("a/m", "hi")) for _ in range(20)]
        await queued.wait()
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(attempts) == 20, "a call tried again at once"
    assert (await reg.generate("a/m", "others go")).text == "Hello"
    await reg.aclose()
    ended = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(each) for each in ended} == {ClosedError}


async def test_a_call_that_cannot_wait_as_long_fails_at_once(warm):
    reg, _ = await warm(retries=2, cooldown=100)
    with no_descriptor_left(), pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert len(caught.value.attempts) == 1


async def test_other_targets_are_taken_while_a_call_keeps_away_from_one(warm, serve):
    """Its own lack keeps a call from one target, and not from another that is ready first."""
    reg, _ = await warm(retries=1, cooldown=100, max_wait=1000, patience=1000)
    await reg.generate("b/m", "hi")
    gate_of_b = reg._gate.line(Target("b", "m"), reg.provider("b"))
    queued = asyncio.Event()
    reg.on_event(lambda event: queued.set() if type(event) is CallQueued else None)
    reg._health.admit(gate_of_b.target, gate_of_b.origin).failure(ServerError("x", status=500))
    with no_descriptor_left():
        call = asyncio.create_task(reg.generate("a/m,b/m", "hi"))
        await queued.wait()
        reg.reset_health()
        response = await call
    assert [str(attempt.target) for attempt in response.attempts] == ["a/m", "b/m"]


async def test_a_call_whose_probe_could_not_leave_keeps_its_retries(warm):
    reg, _ = await warm(retries=1, max_wait=1000, patience=1000)
    line = reg._gate.line(Target("a", "m"), reg.provider("a"))
    reg._health.base = 1e-9
    reg._health.admit(line.target, line.origin).failure(ServerError("x", status=500))
    reg._health.base = 100
    later = reg._health.clock() + 1.0
    reg._health.clock = reg._gate.now = lambda: later  # the next probe is never due
    queued = asyncio.Event()
    reg.on_event(lambda event: queued.set() if type(event) is CallQueued else None)
    with no_descriptor_left():
        call = asyncio.create_task(reg.generate("a/m", "hi"))
        await queued.wait()
        for _ in range(20):
            await asyncio.sleep(0)
        assert not call.done()
    await reg.aclose()
    with pytest.raises(ClosedError):
        await call


async def test_a_probe_that_could_not_leave_gives_no_verdict_and_the_next_one_waits():
    now = [1000.0]
    health = Health(clock=lambda: now[0])
    target = Target("a", "m")
    health.admit(target, "one").failure(ServerError("x", status=500))
    now[0] += 100
    health.admit(target, "one").failure(LocalError("no files"))
    (snap,) = health.snapshot()
    assert (snap.failures, snap.failed) == (1, 1)
    assert 0 < health.ready_in(target, "one", waiting=True) <= PROBE_EVERY


class NoThread(ThreadPoolExecutor):
    """An executor where no thread can be started."""

    def submit(self, *_args, **_options):
        raise RuntimeError("can't start new thread")


async def test_no_thread_for_a_name_lookup_harms_no_target(warm):
    reg, servers = await warm()
    reg.register("a", f"openai+http://localhost:{servers['a'].port}/v1")
    await reg.preload("a/m")
    loop = asyncio.get_running_loop()
    if not isinstance(loop, asyncio.BaseEventLoop):
        pytest.skip("uvloop has threads of its own")
    loop.set_default_executor(NoThread())
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert isinstance(caught.value.last, LocalError)
    assert "no thread can be started" in str(caught.value)
    assert [each.state for each in reg.health()] == ["healthy"]


async def test_a_transport_that_cannot_be_made_is_a_local_error_too(serve, registry):
    reg = registry({"a": await serve(OK)})
    reg.provider("a")
    asyncio.get_running_loop().set_default_executor(NoThread())
    with pytest.raises(FailoverError) as caught:
        await reg.generate("a/m", "hi")
    assert isinstance(caught.value.last, LocalError)
    assert "can't start new thread" in str(caught.value)


def several(*numbers: int) -> OSError:
    """Return what is raised where a host has several addresses, and each failed in its way."""
    each = ", ".join(f"[Errno {number}] {os.strerror(number)}" for number in numbers)
    return OSError(f"Multiple exceptions: {each}")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.EMFILE, "x"), "ulimit -n"),
        (OSError(errno.ENFILE, "x"), "fs.file-max"),
        (OSError(errno.ENOBUFS, "x"), "buffer"),
        (OSError(errno.ENOMEM, "x"), "memory"),
        (MemoryError(), "memory"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "port"),
        (OSError(errno.ENETDOWN, "x"), "network"),
        (PermissionError(errno.EACCES, "x"), "firewall"),
        (PermissionError(errno.EPERM, "x"), "firewall"),
        (several(errno.ENETUNREACH, errno.EMFILE), "ulimit -n"),
        (several(errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL), "port"),
        (socket.gaierror(socket.EAI_MEMORY, "x"), "memory"),
        (RuntimeError("can't start new thread"), "ulimit -u"),
        (OSError(errno.ECONNREFUSED, "x"), None),
        (OSError(errno.EHOSTUNREACH, "x"), None),
        (OSError(errno.EAFNOSUPPORT, "x"), None),
        (several(errno.ENETUNREACH, errno.ECONNREFUSED), None),
        (several(errno.EADDRNOTAVAIL, errno.ECONNREFUSED), None),
        (ssl.SSLError(errno.EPERM, "its number is none of the system's"), None),
        (socket.gaierror(errno.ENOMEM, "nor is this one"), None),
        (RuntimeError("Session is closed"), None),
    ],
    ids=repr,
)
def test_what_is_this_process_s_own_fault(error, says):
    ours = local_error(error)
    assert (ours is None) == (says is None)
    if ours is not None and says is not None:
        assert says in ours.message
        assert (classify(ours).moves_on, classify(ours).harms) == (True, "no")
        assert ours.may_retry == ("firewall" not in says)
        assert pickle.loads(pickle.dumps(ours)).may_retry == ours.may_retry


UNREACHABLE = """
import asyncio
from aiollm import FailoverError, LocalError, Registry
env = {"LLM_A": "openai+http://192.0.2.1/v1", "LLM_B": "openai+http://[2001:db8::1]/v1",
       "LLM_C": "openai+http://name.example/v1"}
async def main():
    async with Registry(env=env, retries=0) as reg:
        for name in "abc":
            try:
                await reg.generate(f"{name}/m", "hi")
            except FailoverError as group:
                assert isinstance(group.last, LocalError), group.last
        assert {each.state for each in reg.health()} == {"healthy"}
asyncio.run(main())
"""


def test_a_machine_without_a_network_sets_no_target_aside():
    alone = [shutil.which("unshare") or "", "--map-root-user", "--net"]
    if not alone[0] or subprocess.run([*alone, "true"], check=False).returncode:
        pytest.skip("this machine allows no network of its own")
    subprocess.run([*alone, sys.executable, "-c", UNREACHABLE], check=True)
