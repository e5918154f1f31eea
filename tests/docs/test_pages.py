"""Every Python block of the README and the docs runs, against loopback servers."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import re
from pathlib import Path

import msgspec
import pytest

import aiollm
from aiollm import ImagePart, Registry, Request, user
from aiollm.testing import FaultServer, chat, sse

ROOT = Path(__file__).parents[2]
ELSEWHERE = {"testing.md", "images-out.md", "local-servers.md", "mcp.md"}
ELSEWHERE |= {"recipes/pytest.md", "recipes/celery.md", "recipes/llama-swap.md"}
"""Pages whose blocks are tests themselves, or need other servers: they have tests of their own."""

CONTINUED = {"README.md", "recipes/jupyter.md"}
"""Pages whose blocks go on from what was said before. Any other block can be pasted as it is."""

MODELS = {
    *("openai/gpt-6.1-sol", "openai/gpt-image-2", "openai/gpt-image-2.5-flare"),
    *("anthropic/claude-sonnet-5-5", "anthropic/claude-opus-4-8", "google/gemini-3.8-flash"),
}
"""What the vendors' lists of models have (November 2026)."""

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [
    pytest.param(place, block, id=f"{place}-{number}")
    for page in PAGES
    if (place := page.relative_to(ROOT).as_posix().removeprefix("docs/")) not in ELSEWHERE
    for number, block in enumerate(BLOCK.findall(page.read_text()))
]
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


VALUES = {
    "City": ['{"name": "Granada", ', '"country": "Spain"}'],
    "list_City": ['{"value": [{"name": "Granada", ', '"country": "Spain"}]}'],
    "Trip": ['{"title": "North", "stops": [{"place": "Os', 'lo", "days": 1', "2}]}"],
}
"""What is answered where a schema of this name is asked for."""


class City(msgspec.Struct):
    name: str
    country: str


def answer(request: object) -> object:
    """Answer as a model would: JSON where a schema is asked for, else a story."""
    body = json.loads(request.body) if request.body else {}
    if request.path.endswith("/models"):
        return aiollm.testing.Answer(200, {}, {"data": [{"id": "qwen3:30b"}]})
    if request.path.endswith(("/input_tokens", "/count_tokens")):
        return aiollm.testing.Answer(200, {}, {"input_tokens": 35})
    if request.path.endswith("/messages"):
        return messages(
            '{"name": "Granada", "country": "Spain"}' if "output_config" in body else ""
        )
    if request.path.endswith("/embeddings"):
        vectors = [
            {"embedding": [0.6, 0.8] * (body.get("dimensions", 4) // 2)} for _ in body["input"]
        ]
        usage = {"prompt_tokens": len(vectors)}
        return aiollm.testing.Answer(200, {}, {"data": vectors, "usage": usage})
    if request.path.endswith("/rerank"):
        scores = [
            {"index": n, "relevance_score": 1 / (n + 1)} for n in range(len(body["documents"]))
        ]
        return aiollm.testing.Answer(200, {}, {"results": scores})
    if "response_format" in body:
        name = body["response_format"]["json_schema"]["name"]
        return chat(*VALUES.get(name, VALUES["City"]))
    return chat("One, two, ", "seven.", usage=(3, 4))


def messages(text: str) -> object:
    """Return an answer of Anthropic's, which has searched before it says its text."""
    use = {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {"query": "plums"}}
    page = {"type": "web_search_result", "url": "https://a.test/", "title": "A"}
    found = {"type": "web_search_tool_result", "tool_use_id": "s1", "content": [page]}
    source = {"type": "web_search_result_location", "url": "https://a.test/", "title": "A"}
    searched = [] if text else [use, found]
    said = {"type": "text", "text": text or "One, two, seven.", "citations": [source]}
    usage = {"output_tokens": 4, "server_tool_use": {"web_search_requests": len(searched) // 2}}
    return sse(
        {"type": "message_start", "message": {"usage": {"input_tokens": 3}}},
        *(
            event
            for at, block in enumerate([*searched, said])
            for event in (
                {"type": "content_block_start", "index": at, "content_block": block},
                {"type": "content_block_stop", "index": at},
            )
        ),
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage},
        {"type": "message_stop"},
    )


@pytest.fixture
async def world(monkeypatch, tmp_path):
    """An environment in which every name that the pages use is a loopback server."""
    async with FaultServer(default=answer) as server:
        monkeypatch.setenv("LLM_ANTHROPIC", server.dsn("anthropic"))
        for name in ("M5", "M1", "OPENAI", "GOOGLE", "BOX"):
            dsn = f"openai+http://key@127.0.0.1:{server.port}/v1?api=chat"
            monkeypatch.setenv(f"LLM_{name}", dsn)
        monkeypatch.setenv("LLM_LS", f"llama-swap://127.0.0.1:{server.port}")
        monkeypatch.setenv("LLM_THINKING", "alias:m5/qwen3:30b,m1/qwen3:30b")
        monkeypatch.chdir(tmp_path)
        for name in ("duck.png", "IMG_4211.HEIC", "lease.pdf"):
            (tmp_path / name).write_bytes(PNG)
        yield server


@pytest.mark.parametrize(("place", "block"), BLOCKS)
async def test_the_block_runs(place, block, world):
    async with Registry() as reg:
        given = {
            "reg": reg,
            "request": Request((user("What is it?", ImagePart(PNG)),)),
            "City": City,
            "show": lambda text: None,
            "clear": lambda: None,
            "count": lambda usage: None,
        }
        names = {"__name__": "page"} | (given if place in CONTINUED else {})
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(block, "page", "exec", flags, dont_inherit=True)
        if "asyncio.run(" in block:  # a complete program needs a thread without a loop
            await asyncio.to_thread(exec, code, names)
        elif inspect.isawaitable(value := eval(code, names)):
            await value


def test_models_are_named_as_their_vendors_name_them():
    text = "".join(page.read_text() for page in [*PAGES, *(ROOT / "examples").glob("*.py")])
    named = set(
        re.findall(r"\b((?:openai|anthropic|google)/(?:gpt|claude|gemini)-\w[\w.-]*\w)", text)
    )
    assert named <= MODELS
