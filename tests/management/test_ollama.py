"""Management of Ollama against what a real one answered."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from aiollm.capabilities import lookup
from aiollm.errors import ModelNotFoundError, ProtocolError
from aiollm.servers import ModelDetails, Ollama

if TYPE_CHECKING:
    from conftest import Replay


async def test_models_of_a_real_server(ollama: Ollama, replay: Replay) -> None:
    replay.answers["GET /api/tags"] = replay.recorded("ollama/tags")
    first, second = await ollama.models()
    assert (first.name, first.size) == ("smol-tools:latest", 98363719)
    assert first.capabilities == ("completion", "tools", "thinking")
    assert second.details == ModelDetails(
        "gguf", "llama", ("llama",), "134.52M", "Q4_1", context_length=8192
    )
    assert "authorization" not in replay.requests[0][1]


async def test_running_models_tell_their_context_and_end(ollama: Ollama, replay: Replay) -> None:
    replay.answers["GET /api/ps"] = replay.recorded("ollama/ps-1")
    (model,) = await ollama.running()
    assert (model.name, model.size_vram, model.context_length) == ("smol:latest", 0, 2048)
    assert model.expires_at == datetime(2026, 11, 23, 0, 49, 37, 71213, UTC)


async def test_what_a_model_can_do_becomes_facts(ollama: Ollama, replay: Replay) -> None:
    replay.answers["POST /api/show"] = replay.reply(replay.fixture("ollama/show.json"))
    info = await ollama.show("qwen3-vl:8b")
    assert json.loads(replay.requests[0][2]) == {"model": "qwen3-vl:8b"}
    assert info.context_length == 262144
    assert info.facts == {"images": True, "tools": True, "reasoning": True}
    assert lookup("ollama", **info.facts).images


async def test_a_server_that_does_not_tell_gives_no_facts(ollama: Ollama, replay: Replay) -> None:
    replay.answers["POST /api/show"] = replay.reply(b'{"model_info":{},"capabilities":null}')
    info = await ollama.show("old")
    assert (info.facts, info.context_length) == ({}, None)


async def test_an_unknown_model_is_model_not_found(ollama: Ollama, replay: Replay) -> None:
    replay.answers["POST /api/show"] = replay.recorded("ollama/show-unknown")
    with pytest.raises(ModelNotFoundError, match="model 'nope:latest' not found"):
        await ollama.show("nope")


async def test_one_model_or_all_can_be_unloaded(ollama: Ollama, replay: Replay) -> None:
    replay.answers = {
        "GET /api/ps": replay.recorded("ollama/ps-1"),
        "POST /api/generate": replay.recorded("ollama/unload-generate"),
    }
    await ollama.unload("smol-tools")
    await ollama.unload()
    sent = [json.loads(body) for line, _, body in replay.requests if line.startswith("POST")]
    assert sent == [
        {"model": "smol-tools", "keep_alive": 0, "stream": False},
        {"model": "smol:latest", "keep_alive": 0, "stream": False},
    ]


async def test_version_and_a_bearer_token(replay: Replay, service: Any) -> None:
    foreman = await service(Ollama, f"foreman+http://sk-foreman@{replay.host}")
    replay.answers["GET /api/version"] = replay.reply(b'{"version":"0.33.0"}')
    assert await foreman.version() == "0.33.0"
    assert replay.requests[0][1]["authorization"] == "Bearer sk-foreman"


async def test_a_page_that_is_no_ollama_is_a_protocol_error(ollama: Ollama, replay: Replay) -> None:
    replay.answers["GET /api/tags"] = replay.reply(b"Ollama is running")
    with pytest.raises(ProtocolError):
        await ollama.models()
