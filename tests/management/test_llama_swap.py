"""Management of llama-swap against what a real one answered."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import pytest

from aiollm.errors import (
    AuthenticationError,
    ConfigError,
    InvalidRequestError,
    ModelNotFoundError,
    ProtocolError,
    ServerError,
)
from aiollm.provider import HttpRequest
from aiollm.servers import (
    ActivityLogged,
    InFlight,
    InFlightRequest,
    LlamaSwap,
    LogData,
    ModelsChanged,
    ModelState,
    OtherEvent,
    ProfileChanged,
    RunningModel,
    SwapModel,
)

if TYPE_CHECKING:
    from conftest import Replay


def event(kind: str, data: Any) -> bytes:
    """Return an event as llama-swap writes it: JSON in a JSON string, no space after colons."""
    envelope = json.dumps({"type": kind, "data": json.dumps(data)})
    return f"event:message\ndata:{envelope}\n\n".encode()


async def test_every_request_carries_the_token(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /running"] = replay.recorded("llama-swap/running-3")
    assert await swap.running() == ()
    assert replay.requests[0][1]["authorization"] == "Bearer sk-swap"


async def test_running_models_have_a_state(swap: LlamaSwap, replay: Replay) -> None:
    body = replay.fixture("llamaswap/running.json")
    replay.answers["GET /running"] = replay.reply(body)
    assert await swap.running() == (
        RunningModel(
            model="qwen",
            state="ready",
            ttl=300,
            name="Qwen 3",
            cmd="llama-server --port 5801 -m qwen.gguf",
            proxy="http://localhost:5801",
        ),
    )


async def test_models_of_a_real_server(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /v1/models"] = replay.recorded("llama-swap/auth-ok")
    models = {model.id: model for model in await swap.models()}
    assert models["smol"] == SwapModel(
        "smol",
        "SmolLM2 135M",
        "tiny instruct model",
        aliases=("gpt-4o-mini", "org/smol:latest"),
        metadata={"kind": "chat", "size_mb": 98},
    )
    assert models["smol"].facts == {}
    assert not any(model.loaded for model in models.values())


async def test_configured_capabilities_become_facts(swap: LlamaSwap, replay: Replay) -> None:
    body = replay.fixture("llamaswap/models.json")
    replay.answers["GET /v1/models"] = replay.reply(body)
    (model,) = await swap.models()
    assert (model.loaded, model.context_length, model.aliases) == (True, 32768, ("q",))
    facts = {"tools": True, "images": True, "audio": False, "context_length": 32768}
    assert model.facts == facts


async def test_one_model_or_all_can_be_unloaded(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers = {
        "POST /api/models/unload": replay.reply(b'{"msg":"ok"}'),
        "POST /api/models/unload/smol": replay.recorded("llama-swap/unload-not-running"),
        "POST /api/models/unload/org%2Fsmol:latest": replay.recorded("llama-swap/unload-slash"),
    }
    await swap.unload()
    await swap.unload("smol")
    await swap.unload("org/smol:latest")
    assert replay.asked == list(replay.answers)


@pytest.mark.parametrize("model", ["a b", "../../unload", "a?b#c", "ü"])
async def test_no_name_leads_to_another_route(swap: LlamaSwap, replay: Replay, model: str) -> None:
    with pytest.raises(ServerError):
        await swap.unload(model)
    (line,) = replay.asked
    path = line.removeprefix("POST /api/models/unload/")
    assert path != line
    assert not set(path) & set("/?# ")


@pytest.mark.parametrize("model", ["", ".", ".."])
async def test_what_is_no_name_is_not_sent(swap: LlamaSwap, replay: Replay, model: str) -> None:
    with pytest.raises(ConfigError):
        await swap.unload(model)
    assert replay.requests == []


async def test_unloading_an_unknown_model_is_model_not_found(
    swap: LlamaSwap, replay: Replay
) -> None:
    error = b'{"src":"llama-swap","error":{"message":"model not found","code":"not_found"}}'
    replay.answers["POST /api/models/unload/nope"] = replay.reply(error, 404)
    with pytest.raises(ModelNotFoundError, match="model not found"):
        await swap.unload("nope")


async def test_a_wrong_key_is_an_authentication_error(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /running"] = replay.recorded("llama-swap/auth-wrong")
    with pytest.raises(AuthenticationError) as caught:
        await swap.running()
    assert "sk-swap" not in str(caught.value)


async def test_health_is_a_yes_or_a_no(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /health"] = replay.recorded("llama-swap/health")
    assert await swap.health() is True
    replay.answers["GET /health"] = replay.recorded("llama-swap/404")
    assert await swap.health() is False


async def test_the_version_is_the_servers(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /api/version"] = replay.recorded("llama-swap/version")
    assert await swap.version() == "v250-5-g0bdb3720"


async def test_props_of_the_server_behind(swap: LlamaSwap, replay: Replay) -> None:
    body = {
        "default_generation_settings": {"n_ctx": 4096, "params": {}},
        "total_slots": 4,
        "model_path": "qwen.gguf",
        "modalities": {"vision": True, "audio": False},
        "build_info": "b10715",
    }
    replay.answers["GET /upstream/org%2Fqwen/props"] = replay.reply(json.dumps(body).encode())
    props = await swap.props("org/qwen")
    assert (props.context_length, props.slots, props.build) == (4096, 4, "b10715")
    assert props.facts == {"images": True, "audio": False, "context_length": 4096}


async def test_a_page_that_is_no_llama_swap_is_a_protocol_error(
    swap: LlamaSwap, replay: Replay
) -> None:
    replay.answers["GET /running"] = replay.reply(b"<html>hello</html>")
    with pytest.raises(ProtocolError):
        await swap.running()


async def test_a_path_before_the_host_is_kept_and_a_pasted_version_is_not(
    replay: Replay, service: Any
) -> None:
    swap = await service(LlamaSwap, f"llama-swap://{replay.host}/box/v1")
    replay.answers["GET /box/running"] = replay.recorded("llama-swap/running-3")
    assert await swap.running() == ()


async def test_events_are_typed_and_their_data_is_decoded_twice(
    swap: LlamaSwap, replay: Replay
) -> None:
    request = {
        "id": "7",
        "model": "qwen",
        "method": "POST",
        "req_path": "/v1/chat/completions",
        "req_headers": {"authorization": "Bearer sk-other"},
        "resp_bytes": 5,
        "elapsed_ms": 12,
    }
    replay.feeds["GET /api/events"] = [
        replay.fixture("llamaswap/events.sse"),
        event("logData", {"source": "proxy", "data": "[INFO] zażółć\n"}),
        event("activity", {"id": 14}),
        event("inflight", {"operation": "upsert", "request": request}),
        event("inflight", {"operation": "remove", "id": "7"}),
        event("profileChanged", {"active": None}),
        event("uiConfig", {"title": "x"}),
        event("somethingNew", [1]),
    ]
    seen = []
    async with aclosing(swap.events()) as events:
        async for each in events:
            seen.append(each)
            if isinstance(each, OtherEvent) and each.type == "somethingNew":
                break
    assert seen == [
        ModelsChanged((ModelState("qwen", "Qwen 3", state="starting"),)),
        InFlight("snapshot"),
        LogData("proxy", "[INFO] zażółć\n"),
        ActivityLogged(14),
        InFlight(
            "upsert",
            request=InFlightRequest("7", "qwen", "POST", "/v1/chat/completions", 5, 12),
        ),
        InFlight("remove", id="7"),
        ProfileChanged(None),
        OtherEvent("uiConfig", b'{"title": "x"}'),
        OtherEvent("somethingNew", b"[1]"),
    ]
    assert [each.data for each in seen[-2:]] == [{"title": "x"}, [1]]
    assert "sk-other" not in repr(seen)
    await asyncio.wait_for(replay.left.wait(), 5)


async def test_logs_come_as_text_and_leaving_closes_the_connection(
    swap: LlamaSwap, replay: Replay
) -> None:
    replay.feeds["GET /logs/stream"] = ["[INFO] <proxy> gęś\n".encode()]
    got = ""
    async with aclosing(swap.logs()) as logs:
        async for piece in logs:
            got += piece
            if got.endswith("\n"):
                break
    assert got == "[INFO] <proxy> gęś\n"
    await asyncio.wait_for(replay.left.wait(), 5)


async def test_a_character_split_over_two_reads_comes_whole(swap: LlamaSwap) -> None:
    text = "gęś\n".encode()
    reads = [text[:2], text[2:], b""]

    class Reply:
        closed = False

        async def read(self) -> bytes:
            return reads.pop(0)

        def close(self) -> None:
            self.closed = True

    reply = Reply()

    async def stream(request: HttpRequest) -> Any:
        return reply

    split = LlamaSwap(swap._provider, swap._send, stream)
    assert [piece async for piece in split.logs()] == ["g", "ęś\n"]
    assert reply.closed


async def test_breaking_out_of_a_plain_loop_closes_the_connection(
    swap: LlamaSwap, replay: Replay
) -> None:
    replay.feeds["GET /logs/stream"] = [b"line\n"]
    async for _ in swap.logs():
        break
    await asyncio.wait_for(replay.left.wait(), 5)


async def test_a_log_of_one_source_without_history(swap: LlamaSwap, replay: Replay) -> None:
    replay.answers["GET /logs/stream/org%2Fqwen?no-history="] = replay.reply(b"x")
    replay.answers["GET /logs/stream/org%2Fqwen?no-history"] = replay.reply(b"x")
    assert [piece async for piece in swap.logs("org/qwen", history=False)] == ["x"]


async def test_a_log_that_does_not_exist_is_an_error_at_once(
    swap: LlamaSwap, replay: Replay
) -> None:
    error = b'{"src":"llama-swap","error":{"message":"invalid logger","code":"bad_request"}}'
    replay.answers["GET /logs/stream/nope"] = replay.reply(error, 400)
    with pytest.raises(InvalidRequestError, match="invalid logger"):
        await anext(swap.logs("nope"))
