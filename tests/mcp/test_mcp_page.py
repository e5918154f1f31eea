"""The page about MCP servers runs as written, with the scripted server in place of others."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from aiollm import Registry
from aiollm.testing import FaultServer, chat
from tests.programs import python

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("fake_server.py")
PAGE = (ROOT / "docs" / "mcp.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
async def world(monkeypatch):
    server = f"stdio:{python('-S', SCRIPT, 'page')}"
    async with FaultServer(default=lambda _: chat("It says ", "hello.")) as model:
        dsn = f"openai+http://key@127.0.0.1:{model.port}/v1?api=chat"
        monkeypatch.setenv("LLM_M5", dsn)
        monkeypatch.setenv("AIOLLM_MCP_FILES", server)
        yield server


@pytest.mark.parametrize("block", BLOCKS)
async def test_the_block_runs(block, world, capsys):
    code = block.replace("stdio:npx -y @modelcontextprotocol/server-filesystem /data", world)
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    made = eval(compile(code, "page", "exec", flags, dont_inherit=True), {"__name__": "page"})
    assert inspect.isawaitable(made)
    await made
    assert capsys.readouterr().out


async def test_the_options_of_the_page_are_those_of_the_code():
    from aiollm import McpOptions

    rows = re.findall(r"^\| (`[a-z_`, ]+`) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)} - {"files"}
    assert named == set(McpOptions.__annotations__)
    assert Registry.mcp
