"""What a server wrote before it ended is read, however late."""

from __future__ import annotations

import asyncio
import sys

import pytest

from aiollm._mcp import child


@pytest.mark.loops
@pytest.mark.parametrize("reader", ["late", "slow", "gone"])
async def test_all_that_a_server_wrote_before_it_ended_is_read(monkeypatch, reader):
    """Little of it is read in a turn of the loop, and this one comes to it late."""
    monkeypatch.setattr(child, "_DRAIN", 0.02)
    taken, ended, looks = [], asyncio.Event(), asyncio.Semaphore(0)
    server = child.Child(taken.append, lambda _: ended.set())
    look = server._look_for_more
    monkeypatch.setattr(server, "_look_for_more", lambda *facts: (looks.release(), look(*facts)))
    script = "import os; os.read(0, 1); os.write(1, b'x' * 60_000)"
    await server.spawn([sys.executable, "-I", "-S", "-c", script], child.small_environment(), None)
    server.pause_reading()
    server.write(b"!")
    while not server.has_exited:
        await asyncio.sleep(0.001)
    for _ in range(4 if reader == "slow" else 0):
        await looks.acquire()
    if reader == "gone":
        server.close()
    else:
        server.resume_reading()
        await ended.wait()
    await server.gone()
    assert len(b"".join(taken)) == (0 if reader == "gone" else 60_000)


async def test_an_output_that_something_else_holds_open_is_not_read_for_ever(monkeypatch):
    monkeypatch.setattr(child, "_PIPE", 10_000)
    taken, ended = [], asyncio.Event()
    server = child.Child(taken.append, lambda _: ended.set())
    script = """import os, subprocess
os.read(0, 1)
told, tells = os.pipe()
other = ["sh", "-c", "head -c 30000 /dev/zero; echo >&2; exec yes"]
subprocess.Popen(other, stderr=tells, start_new_session=True)
os.read(told, 1)"""
    await server.spawn([sys.executable, "-I", "-S", "-c", script], child.small_environment(), None)
    server.pause_reading()
    server.write(b"!")
    while not server.has_exited:
        await asyncio.sleep(0.001)
    server.resume_reading()
    await ended.wait()
    await server.gone()
    assert sum(map(len, taken)) > 10_000
