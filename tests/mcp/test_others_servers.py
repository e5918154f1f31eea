"""Servers that others wrote, where they are installed; each is skipped where it is not."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from aiollm import DocumentPart, ImagePart, ToolEnded, tool
from aiollm.events import McpToolsChanged
from aiollm.testing import FakeProvider, tool_call
from tests.programs import python

NODE = Path(__file__).parents[2] / ".node" / "node_modules" / ".bin"


def python_server(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install --group servers")
    return f"stdio:{python('-m', module)}"


def node_server(name: str) -> str:
    command = shutil.which(name, path=os.pathsep.join([str(NODE), os.environ["PATH"]]))
    if command is None:
        pytest.skip(f"{name} is not installed: run scripts/setup dev where npm is")
    return f"stdio:{shlex.quote(command)}"


async def test_the_time_server_tells_the_time(registry):
    async with registry() as reg, reg.mcp(python_server("mcp_server_time")) as server:
        result = await server.call("get_current_time", {"timezone": "Europe/Madrid"})
        assert "Europe/Madrid" in result.text
        wrong = await server.call("get_current_time", {"timezone": "Nowhere"})
        assert wrong.is_error


async def test_a_run_reads_a_repository_with_the_git_server(registry, tmp_path):
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "The first one"]):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *command], cwd=tmp_path, check=True)  # noqa: ASYNC221
    log = tool_call("git_log", {"repo_path": str(tmp_path)})
    async with registry({"fake": FakeProvider([log], ["done"])}) as reg:
        async with reg.mcp(python_server("mcp_server_git")) as server:
            run = reg.run("fake/m", "?", tools=await server.tools("git_log"))
            (ended,) = [event async for event in run if isinstance(event, ToolEnded)]
    assert "The first one" in ended.result.text


async def test_the_everything_server_gives_every_kind_of_result(registry):
    async with registry() as reg:
        async with reg.mcp(node_server("mcp-server-everything")) as server:
            assert (await server.call("echo", {"message": "hi"})).text == "Echo: hi"
            image = await server.call("get-tiny-image")
            assert any(isinstance(part, ImagePart) for part in image.content)
            links = await server.call("get-resource-links", {"count": 2})
            assert "demo://resource" in links.text
            where = {"resourceType": "Blob", "resourceId": 1}
            resource = await server.call("get-resource-reference", where)
            assert "base64 blob" in resource.text
            structured = await server.call("get-structured-content", {"location": "New York"})
            assert "temperature" in structured.text
            names = [each.name for each in await server.tools()]
            assert "get-sum" in names


async def test_the_filesystem_server_reads_files_and_collides_with_a_tool_of_ours(
    registry, tmp_path
):
    (tmp_path / "a.txt").write_text("what it says")

    @tool
    def read_text_file(path: str) -> str:
        """Read nothing."""
        return "nothing"

    call = tool_call("filesystem_read_text_file", {"path": str(tmp_path / "a.txt")})
    own = tool_call("read_text_file", {"path": "x"})
    async with registry({"fake": FakeProvider([call, own], ["done"])}) as reg:
        address = f"{node_server('mcp-server-filesystem')} {tmp_path}"
        async with reg.mcp(address, name="filesystem") as server:
            tools = [read_text_file, *await server.tools("read_*")]
            run = reg.run("fake/m", "?", tools=tools)
            ended = [event async for event in run if isinstance(event, ToolEnded)]
    assert {each.result.text for each in ended} == {"what it says", "nothing"}


DOCUMENTS = """
import base64
from mcp.server import MCPServer
from mcp_types import BlobResourceContents, EmbeddedResource

server = MCPServer("documents")

@server.tool()
def read() -> list[EmbeddedResource]:
    blob = base64.b64encode(b"%PDF-1.4").decode()
    held = BlobResourceContents(uri="a:///b.pdf", mime_type="application/pdf", blob=blob)
    return [EmbeddedResource(type="resource", resource=held)]

server.run()
"""


async def test_a_document_of_the_sdks_own_server_is_a_part(registry, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(DOCUMENTS)
    async with registry() as reg, reg.mcp(f"stdio:{python(script)}") as server:
        result = await server.call("read")
        assert server.status.protocol >= "2026"
    assert isinstance(result.content[0], DocumentPart)


CHANGING = """
from mcp.server import MCPServer
from mcp.server.mcpserver import Context

server = MCPServer("changing")

@server.tool()
async def grow(ctx: Context) -> str:
    def grown() -> str:
        return "I am new"
    server.add_tool(grown)
    await ctx.notify_tools_changed()
    return "ok"

server.run()
"""


async def test_changes_of_the_tools_of_the_sdks_own_server_are_heard(registry, tmp_path):
    script, heard = tmp_path / "server.py", asyncio.Event()
    script.write_text(CHANGING)

    def hook(event):
        if isinstance(event, McpToolsChanged) and event.added == ("grown",):
            heard.set()

    async with registry() as reg:
        reg.on_event(hook)
        async with reg.mcp(f"stdio:{python(script)}") as server:
            await server.start()
            while not heard.is_set():
                await server.call("grow")  # the subscription may not be there yet
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.wait(), 0.5)
            assert (await server.call("grown")).text == "I am new"
