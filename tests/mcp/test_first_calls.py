"""The first calls of a process load what connects in a thread, and start one server."""

from __future__ import annotations

import pytest

from tests.programs import ROOT, python, run_program

SCRIPT = ROOT / "tests" / "mcp" / "fake_server.py"

PROGRAM = """
import asyncio, sys
from aiollm import Registry

async def main():
    async with Registry(env={}) as reg:
        server = reg.mcp(sys.argv[1])
        left = asyncio.create_task(server.call("echo", {"text": "left"}))
        closed = reg.mcp(sys.argv[1])
        call = asyncio.create_task(closed.start())
        await asyncio.sleep(0)
        left.cancel()
        await closed.aclose()
        calls = (server.call("echo", {"text": str(number)}) for number in range(3))
        said = [each.content[0].text for each in await asyncio.gather(*calls)]
        assert said == ["echo: 0", "echo: 1", "echo: 2"], said
        assert left.cancelled()
        assert type(call.exception()).__name__ == "ClosedError", call
        assert (server.status.starts, closed.status.starts) == (1, 0)

if sys.argv[2] == "asyncio":
    asyncio.run(main())
else:
    import anyio
    anyio.run(main)
"""


@pytest.mark.parametrize("runner", ["asyncio", "anyio"])
def test_first_calls_at_once_start_one_server_though_one_of_them_is_left(runner: str) -> None:
    done = run_program(PROGRAM, f"stdio:{python(SCRIPT, 'modern')}", runner)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
