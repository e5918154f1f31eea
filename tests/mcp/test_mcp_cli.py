"""`aiollm ask` and `chat` with tools: calls are shown as they run, without control characters."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiollm.testing import Answer, FaultServer, chat
from tests.programs import python

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("fake_server.py")
MODULE = "def double(number: int) -> str:\n    return f'{2 * number}\\x1b[31m'\n"


def asked(text: str, *calls: tuple[str, dict]) -> Answer:
    """Return an answer that calls tools."""
    made = [
        {
            "index": index,
            "id": f"call_{index}",
            "type": "function",
            "function": {"name": name, "arguments": json.dumps(arguments, separators=(",", ":"))},
        }
        for index, (name, arguments) in enumerate(calls)
    ]
    return chat(text, {"tool_calls": made}, finish="tool_calls")


async def command(*arguments: str, model: FaultServer, folder: Path, typed: str = ""):
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "LLM_BOX": f"openai+http://key@127.0.0.1:{model.port}/v1?api=chat",
        "AIOLLM_MCP_FILES": f"stdio:{python('-S', SCRIPT, 'ok')}",
    }
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "aiollm", *arguments, "-m", "box/m"],
        env=env,
        cwd=folder,
        input=typed,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


async def test_ask_runs_tools_of_servers_and_functions_and_shows_them(tmp_path):
    (tmp_path / "mine.py").write_text(MODULE)
    calls = asked("Hm.", ("echo", {"text": "a\nb"}), ("double", {"number": 4}))
    async with FaultServer([calls, chat("All done.")]) as model:
        tools = ("--mcp", "files", "--tools", "mine:double")
        done = await command("ask", "hi", *tools, model=model, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "Hm.\nAll done.\n"
    assert '-> echo {"text":"a\\nb"}' in done.stderr
    assert "echo: a\\nb" in done.stderr
    assert "8[31m" in done.stderr
    assert "\x1b" not in done.stderr


async def test_chat_keeps_calls_and_results_in_its_history(tmp_path):
    calls = asked("", ("fail", {}))
    async with FaultServer([calls, chat("It failed."), chat("As I said.")]) as model:
        arguments = ("chat", "--mcp", "files")
        done = await command(*arguments, model=model, folder=tmp_path, typed="one\ntwo\n")
        last = model.requests[-1].body.decode()
    assert done.returncode == 0, done.stderr
    assert done.stdout == "It failed.\nAs I said.\n"
    assert "failed: no such file" in done.stderr
    assert "no such file" in last
    assert "It failed." in last


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--tools", "nothing"), "expected MODULE:FUNCTION"),
        (("--tools", "no_such_module:x"), "No module named"),
        (("--tools", "os:nothing"), "no attribute"),
        (("--mcp", "unknown"), "AIOLLM_MCP_UNKNOWN"),
    ],
)
async def test_tools_that_are_not_there_are_a_mistake_of_the_call(tmp_path, arguments, words):
    async with FaultServer([]) as model:
        done = await command("ask", "hi", *arguments, model=model, folder=tmp_path)
    assert done.returncode == 2
    assert words in done.stderr
