"""Embedding through aiollm and through the official SDKs: the same requests, the same vectors."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from array import array
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from aiollm.testing import Answer, FaultServer

WORKER = Path(__file__).parent / "embed_worker.py"
VECTORS = [[0.5, -1.25], [3.0, 4.5]]
ITEMS = [
    {"object": "embedding", "index": n, "embedding": b64encode(array("f", each)).decode()}
    for n, each in enumerate(VECTORS)
]
NUMBERS = [item | {"embedding": each} for item, each in zip(ITEMS, VECTORS, strict=True)]
AROUND = {"object": "list", "model": "m", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
CASES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "openai base64": ("openai", "/v1", "m", AROUND | {"data": ITEMS}),
    "openai numbers": ("openai", "/v1", "m", AROUND | {"data": NUMBERS}),
    "google": (
        "google",
        "/v1beta",
        "gemini-embedding-001",
        {"embeddings": [{"values": each} for each in VECTORS]},
    ),
    "ollama": ("ollama", "", "m", {"model": "m", "embeddings": VECTORS}),
}


async def theirs(python: str, sdk: str, url: str) -> list[list[float]]:
    """Return the vectors that an SDK gets."""
    process = await asyncio.create_subprocess_exec(
        python,
        str(WORKER),
        sdk,
        url,
        stdout=subprocess.PIPE,
        env={"PATH": os.defpath, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    found: list[list[float]] = json.loads(out)
    return found


@pytest.mark.parametrize("name", CASES)
async def test_an_sdk_sends_the_same_and_gets_the_same_vectors(name: str, peers: str) -> None:
    sdk, path, model, body = CASES[name]
    async with FaultServer(default=Answer(200, {}, body)) as server:
        async with Registry(env={"LLM_A": server.dsn(sdk, path=path)}) as reg:
            kind: Any = "query" if sdk == "google" else None
            found = await reg.embed(f"a/{model}", ["x", "y"], dimensions=2, kind=kind)
        assert await theirs(peers, sdk, server.url) == VECTORS
    assert [each.tolist() for each in found.vectors] == VECTORS
    ours, other = server.requests
    assert ours.path.split("/")[-2:] == other.path.split("/")[-2:]  # versions differ
    assert _known(ours.json()) == _known(other.json())


def _known(body: dict[str, Any]) -> dict[str, Any]:
    """Return a body without the roles of contents, which a vector has no use for."""
    for each in body.get("requests", ()):
        each["content"].pop("role", None)
    return body
