"""LocalServer: a child process that is ready when it says so and never outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiollm import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    FailoverError,
    ImagePart,
    Registry,
    Request,
    Tool,
    UnsupportedError,
    local,
    user,
)
from aiollm.events import CallQueued
from aiollm.local import LocalServer
from tests.programs import is_gone

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("local_model")]

PARENT = """
import asyncio
from aiollm.local import LocalServer
from tests.programs import is_gone

async def main():
    server = await LocalServer().start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""


async def test_it_answers_while_the_registry_lives_and_ends_with_it() -> None:
    async with Registry(env={}) as reg:
        server = await local.start(reg)
        request = Request("Say hello.", max_output_tokens=16)  # small models ramble
        response = await reg.generate("local/smollm2", request)
        assert response.text
        assert server.returncode is None
        assert server.pid is not None
        os.kill(server.pid, 0)
    assert server.returncode == -signal.SIGKILL


async def test_calls_that_it_has_no_slot_for_wait_in_line_here() -> None:
    queued: list[CallQueued] = []
    async with Registry(env={}) as reg:
        await local.start(reg, parallel=2)
        reg.on_event(lambda event: queued.append(event) if isinstance(event, CallQueued) else None)
        request = Request("Say hello.", max_output_tokens=4)
        await asyncio.gather(*(reg.generate("local/smollm2", request) for _ in range(5)))
    assert len(queued) == 3


async def test_an_image_moves_on_from_it_before_any_byte() -> None:
    async with Registry(env={}) as reg:
        server = await local.start(reg)
        assert not reg.provider("local").capabilities(server.model).images
        with pytest.raises(FailoverError) as caught:
            await reg.generate(f"local/{server.model}", user("What is it?", ImagePart(b"\x89PNG")))
        assert isinstance(caught.value.exceptions[0], UnsupportedError)


async def test_a_tool_moves_on_from_the_small_model_whose_template_has_no_place_for_it() -> None:
    async with Registry(env={}) as reg:
        await local.start(reg)
        request = Request("Sun?", tools=[Tool("weather")], max_output_tokens=16)
        with pytest.raises(FailoverError) as caught:
            await reg.generate("local/smollm2", request)
        assert isinstance(caught.value.exceptions[0], UnsupportedError)


async def test_its_key_is_random_and_shown_nowhere() -> None:
    async with LocalServer() as first, Registry(env={}) as reg:
        key = first.dsn.partition("://")[2].partition("@")[0]
        assert len(key) >= 32
        reg.register("local", first.dsn)
        told = repr(first) + repr(reg.provider("local")) + reg.describe() + first.log
        assert key not in told
        assert key not in Path(f"/proc/{first.pid}/cmdline").read_text()


async def test_a_page_in_a_browser_cannot_use_it() -> None:
    async with LocalServer() as server, Registry(env={}) as reg:
        reg.register("anyone", f"openai+http://{server.url.partition('://')[2]}")
        with pytest.raises(FailoverError) as caught:
            await reg.generate("anyone/smollm2", "Say hello.")
        assert isinstance(caught.value.exceptions[0], AuthenticationError)


async def test_a_file_that_is_no_model_fails_with_what_the_server_said(tmp_path: Path) -> None:
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"no model at all")
    server = LocalServer(file)
    with pytest.raises(ConnectError, match=r"did not start \(exit code 1\)") as caught:
        await server.start()
    assert "failed to load model" in str(caught.value)
    await server.aclose()


async def test_a_missing_file_fails_before_anything_is_started() -> None:
    server = LocalServer("/nowhere/model.gguf")
    with pytest.raises(ConfigError, match=r"'/nowhere/model\.gguf' is not a file"):
        await server.start()
    assert server.pid is None


async def test_a_child_that_is_late_is_ended() -> None:
    server = LocalServer(start_timeout=0.05)
    with pytest.raises(DeadlineError, match=r"not ready within 0\.05 s") as caught:
        await server.start()
    assert caught.value.which == "connect"
    await server.aclose()


async def test_a_cancelled_start_leaves_no_process() -> None:
    for turns in (0, 1, 2, 5) * 6:
        server = LocalServer()
        starting = asyncio.create_task(server.start())
        while server.pid is None:
            await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        await server.aclose()
        assert server.returncode == -signal.SIGKILL


async def test_closed_while_it_starts_it_leaves_no_process() -> None:
    for turns in (0, 1, 2, 5, 50):
        server = LocalServer()
        starting = asyncio.create_task(server.start())
        await asyncio.sleep(0)
        for _ in range(turns):
            await asyncio.sleep(0)
        await server.aclose()
        with pytest.raises(
            ConnectError, match=r"did not start \((it was closed|killed by SIGKILL)"
        ):
            await starting
        assert server.pid is None or is_gone(server.pid)


async def test_a_start_that_its_registry_does_not_outlive_leaves_no_process() -> None:
    async with Registry(env={}) as reg:
        starting = asyncio.create_task(local.start(reg))
        await asyncio.sleep(0)
    with pytest.raises(ConnectError):
        await starting
    with pytest.raises(ClosedError):
        await local.start(reg)


def test_uvloop_is_as_good_a_loop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def use() -> LocalServer:
        async with LocalServer() as server:
            assert server.url
        return server

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(use()).returncode == -signal.SIGKILL


async def test_a_crash_is_told_apart_and_closing_still_works() -> None:
    async with LocalServer() as server:
        assert server.pid is not None
        os.kill(server.pid, signal.SIGSEGV)
        while server.returncode is None:
            await asyncio.sleep(0.01)
        assert server.returncode == -signal.SIGSEGV


async def test_killing_needs_no_loop_and_may_be_repeated() -> None:
    server = await LocalServer().start()
    server.kill()
    server.kill()
    await server.aclose()
    await server.aclose()
    server.kill()


async def test_a_server_is_started_once() -> None:
    async with LocalServer() as server:
        with pytest.raises(ConfigError, match="already been started"):
            await server.start()


def test_before_its_start_it_has_no_address() -> None:
    server = LocalServer()
    assert (server.url, server.pid, server.returncode, server.log) == ("", None, None, "")
    with pytest.raises(ConfigError, match="has not been started"):
        _ = server.dsn


def test_no_orphan_survives_a_killed_parent() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent:
        child = int(parent.stdout.readline())
        parent.kill()
    while not is_gone(child):  # the suite's timeout ends what never comes
        time.sleep(0.02)
