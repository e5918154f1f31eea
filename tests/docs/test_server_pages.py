"""Every Python block of the pages on images and servers of one's own runs, on loopback."""

from __future__ import annotations

import ast
import base64
import inspect
import json
import re
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from aiollm.testing import Answer, FaultServer, chat, load_exchanges, ndjson, sse

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(block, id=f"{name}-{number}")
    for name in ("images-out.md", "local-servers.md", "recipes/llama-swap.md")
    for number, block in enumerate(BLOCK.findall((ROOT / "docs" / name).read_text()))
]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
IMAGES = Answer(200, {}, {"data": [{"b64_json": base64.b64encode(PNG).decode()}] * 2})
RUNNING, TAGS, VERSION, PS = (
    Answer(200, {}, each.parsed().body)
    for name in ("llama-swap/running-3", "ollama/tags", "llama-swap/version", "ollama/ps-1")
    for each in load_exchanges(ROOT / "tests" / "captures" / f"{name}.raw")
)
PROPS = {"default_generation_settings": {"n_ctx": 8192}, "modalities": {"vision": True}}


def told(kind: str, data: Any) -> tuple[str, dict[str, str]]:
    return "message", {"type": kind, "data": json.dumps(data)}


SWAP = {
    "/v1/chat/completions": chat("Hello."),
    "/v1/images/generations": IMAGES,
    "/v1/images/edits": IMAGES,
    "/v1/models": Answer(200, {}, {"data": [{"id": "qwen3:14b", "status": {"value": "loaded"}}]}),
    "/running": RUNNING,
    "/health": Answer(200, {}, "OK"),
    "/api/version": VERSION,
    "/api/models/unload/qwen3:14b": Answer(200, {}, "OK"),
    "/upstream/qwen3:14b/health": Answer(200, {}, {"status": "ok"}),
    "/upstream/qwen3:14b/props": Answer(200, {}, PROPS),
    "/logs/stream/upstream": Answer(200, {}, "a line\n"),
    "/api/events": sse(
        told("modelStatus", [{"id": "qwen3:14b", "state": "ready"}]),
        told("logData", {"source": "proxy", "data": "a line\n"}),
    ),
}
OLLAMA = {
    "/api/tags": TAGS,
    "/api/ps": PS,
    "/api/show": Answer(200, {}, {"capabilities": ["completion", "tools"]}),
    "/api/generate": Answer(200, {}, {"done": True}),
    "/api/chat": ndjson({"message": {"content": "Hello."}}, {"done": True, "done_reason": "stop"}),
}


@pytest.mark.parametrize("block", BLOCKS)
async def test_the_block_runs(block, monkeypatch, tmp_path, capsys):
    (tmp_path / "duck.png").write_bytes(PNG)
    monkeypatch.chdir(tmp_path)
    async with FaultServer(paths=SWAP) as swap, FaultServer(paths=OLLAMA) as ollama:
        monkeypatch.setenv("LLM_LS", swap.dsn("llama-swap"))
        monkeypatch.setenv("LLM_OPENAI", swap.dsn("openai"))
        monkeypatch.setenv("LLM_M5", ollama.dsn("ollama"))
        code = compile(block, "page", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        names: dict[str, Any] = {"__name__": "page"}
        value = eval(code, names)
        assert inspect.isawaitable(value)
        await value
        assert not swap.unscripted
        assert not ollama.unscripted
    assert "every target" not in capsys.readouterr().out


async def test_the_servers_of_the_page_are_valid():
    page = (ROOT / "docs" / "local-servers.md").read_text()
    env = dict(re.findall(r"^export (LLM_\w+)=(\S+)", page, re.MULTILINE))
    async with Registry(env=env) as reg:
        assert reg.llama_swap("ls")
        assert reg.ollama("m5")
        assert reg.ollama("farm")
