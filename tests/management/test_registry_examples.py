"""The examples that manage a llama-swap and make an image, against recorded exchanges."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec

from aiollm.testing import Exchange, ReplayServer, exchange, load_exchanges

ROOT = Path(__file__).parents[2]
MODEL = "qwen3:14b"


def run(example: str, *arguments: str, **servers: str) -> str:
    """Run an example as a user does; its providers are these servers."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("LLM_")}
    env |= {f"LLM_{name.upper()}": dsn for name, dsn in servers.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / example), *arguments],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def llama_swap() -> list[Exchange]:
    """Return what a real llama-swap answered, as if of the example's model."""
    names = ("auth-ok", "running-3", "chat-stream-cold", "unload-not-running")
    recorded = load_exchanges(ROOT / "tests" / "captures" / "llama-swap", *names)
    *others, unload = recorded
    health = exchange("GET", f"/upstream/{MODEL}/health", b'{"status":"ok"}')
    return [*others, msgspec.structs.replace(unload, path=f"/api/models/unload/{MODEL}"), health]


def test_a_llama_swap_is_managed():
    with ReplayServer(*llama_swap()).in_thread() as server:
        output = run("08_local_boxes.py", ls=server.dsn("llama-swap"))
        assert server.unmatched == 0
    assert "smol" in output
    assert f"loaded ls/{MODEL}" in output
    assert [each.path for each in server.requests][-1] == f"/api/models/unload/{MODEL}"


def test_an_image_is_made(tmp_path):
    path = tmp_path / "boat.png"
    index = ROOT / "tests" / "fixtures" / "index.json"
    made = "openai_images/generate.json"
    with ReplayServer(index, names=[made]).in_thread() as server:
        dsns = {"ls": server.dsn("llama-swap"), "openai": server.dsn()}
        output = run("07_images_out.py", str(path), **dsns)
        assert server.unmatched == 0
    assert str(path) in output
    assert path.read_bytes().startswith(b"\x89PNG")
