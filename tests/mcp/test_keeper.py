"""The keeper of a server: what ends before it does, and what it leaves where it is killed."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import struct
import subprocess
import sys
import termios
import time

import pytest

from aiollm._mcp import child
from tests.mcp.test_stdio_servers import SCRIPT, members, until
from tests.programs import waited_for


def test_a_keeper_outlives_a_server_that_has_to_be_killed():
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-I", "-S", child._KEEPER, str(theirs.fileno()), str(os.getpid())]
    served = [sys.executable, "-S", str(SCRIPT), "stubborn"]
    started = subprocess.Popen(
        [*command, *served],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=(theirs.fileno(),),
        start_new_session=True,
    )
    with ours, waited_for(started) as keeper:
        theirs.close()
        first = ours.recv(4096)
        ours.shutdown(socket.SHUT_WR)
        said = first + b"".join(iter(lambda: ours.recv(4096), b""))
        keeper.wait()
    assert said.splitlines()[1:] == [b"exit -9"]
    assert not members(keeper.pid)


async def test_a_call_is_not_given_to_a_server_whose_end_is_known(served):
    """Its pipe may not show yet that nobody reads it."""
    async with served("stubborn") as server:
        await server.call("spawn")
        group = server.status.pid
        os.kill(group, signal.SIGKILL)
        while members(group):
            await asyncio.sleep(0)  # the loop may hear of the keeper's end
            time.sleep(0.02)  # noqa: ASYNC251 - but of nothing that follows from it
        assert (await server.call("echo", {"text": "x"})).text == "echo: x"
        assert server.status.starts == 2


async def test_only_so_much_of_a_servers_output_is_read_in_one_turn(served):
    if not isinstance(asyncio.get_running_loop(), asyncio.BaseEventLoop):
        pytest.skip("uvloop's pipes do not show what waits in them")
    async with served() as server:
        await server.start()
        running, sizes = server._connection._transport.child, []
        take = running._received
        running._received = lambda data: (sizes.append(len(data)), take(data))
        running.pause_reading()
        calling = asyncio.ensure_future(server.call("big", {"bytes": 200_000}))
        output = running._pipe(1).get_extra_info("pipe")
        await until(lambda: waiting_in(output) > 2 * child._READ)
        running.resume_reading()
        await calling
    assert max(sizes) == child._READ


def waiting_in(pipe) -> int:
    """Return the bytes that are in a pipe."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]
