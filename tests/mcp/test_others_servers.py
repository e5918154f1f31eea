"""Servers that others wrote, where they are installed; each is skipped where it is not."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aiollm import DocumentPart, ImagePart, ToolEnded, tool
from aiollm.testing import FakeProvider, tool_call

NODE = Path(__file__).parents[2] / ".node" / "node_modules" / ".bin"
PACKAGES = ("server-everything", "server-filesystem")
INSTALL = "npm install --prefix .node " + " ".join(f"@modelcontextprotocol/{x}" for x in PACKAGES)


def python_server(module: str) -> str:
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed: pip install --group test")
    return f"stdio:{sys.executable} -m {module}"


def node_server(name: str) -> str:
    command = shutil.which(name, path=os.pathsep.join([str(NODE), os.environ["PATH"]]))
    if command is None:
        pytest.skip(f"{name} is not installed: {INSTALL}")
    return f"stdio:{command}"


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


async def test_a_document_of_the_sdks_own_server_is_a_part(registry, tmp_path):
    script = tmp_path / "server.py"
    script.write_text(
        "import base64\n"
        "from mcp.server import MCPServer\n"
        "from mcp_types import BlobResourceContents, EmbeddedResource\n"
        "server = MCPServer('documents')\n"
        "@server.tool()\n"
        "def read() -> list[EmbeddedResource]:\n"
        "    blob = base64.b64encode(b'%PDF-1.4').decode()\n"
        "    kind = 'application/pdf'
"
        "    held = BlobResourceContents(uri='a:///b.pdf', mime_type=kind, blob=blob)
"
        "    return [EmbeddedResource(type='resource', resource=held)]\n"
        "server.run()\n"
    )
    async with registry() as reg, reg.mcp(f"stdio:{sys.executable} {script}") as server:
        result = await server.call("read")
        assert server.status.protocol >= "2026"
    assert isinstance(result.content[0], DocumentPart)
