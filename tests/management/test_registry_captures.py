"""What real llama-swap, llama.cpp and Ollama servers said, replayed through a registry."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from aiollm import Registry
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    FailoverError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    RateLimitError,
    ServerError,
    StreamInterrupted,
    UnsupportedFeatureError,
)
from aiollm.testing import Exchange, FaultServer, ReplayServer, Serve, chat, load_exchanges
from aiollm.types import Restart, Status, Target, TextDelta

CAPTURES = Path(__file__).parents[1] / "captures"
EXCHANGES = {
    f"{folder}/{each.name}": each
    for folder in ("llama-native", "llama-swap", "llama-xllama-tools", "ollama")
    for each in load_exchanges(CAPTURES / folder)
}
WIRES = {
    "/v1/chat/completions": ("openai", {}),
    "/v1/responses": ("openai", {"api": "responses"}),
    "/v1/messages": ("anthropic", {}),
    "/api/chat": ("ollama", {}),
}
ERRORS: dict[str, type[LLMError]] = {
    "llama-native/auth-missing": AuthenticationError,
    "llama-native/auth-wrong": AuthenticationError,
    "llama-native/loading-chat": OverloadedError,
    "llama-swap/auth-anthropic": AuthenticationError,
    "llama-swap/auth-missing": AuthenticationError,
    "llama-swap/bad-json": ModelNotFoundError,
    "llama-swap/broken": ServerError,
    "llama-swap/broken-stream": ServerError,
    "llama-swap/limit-c-429-anthropic": RateLimitError,
    "llama-swap/never-ready": ServerError,
    "llama-xllama-tools/err-bad-json": InvalidRequestError,
    "llama-xllama-tools/err-bad-type": InvalidRequestError,
    "llama-xllama-tools/err-context-exceeded": ContextLengthError,
    "llama-xllama-tools/err-no-messages": InvalidRequestError,
    "ollama/err-405": ModelNotFoundError,
    "ollama/err-bad-json": InvalidRequestError,
    "ollama/err-bad-option": InvalidRequestError,
    "ollama/err-no-think": UnsupportedFeatureError,
    "ollama/err-no-tools": UnsupportedFeatureError,
    "ollama/err-unknown": ModelNotFoundError,
    "ollama/v1-unknown": ModelNotFoundError,
}
ANSWERS = sorted(
    name for name, each in EXCHANGES.items() if each.path in WIRES and name not in ERRORS
)


def dsn(server: ReplayServer, each: Exchange, name: str) -> str:
    scheme, options = WIRES[each.path]
    if name.startswith("llama-swap/") and scheme == "openai":
        scheme = "llama-swap"
    return server.dsn(scheme, **options)


def objects(body: bytes) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a body, whatever its framing."""
    if body.lstrip()[:1] == b"{" and b"\n{" not in body:
        yield json.loads(body)
        return
    for line in body.decode().splitlines():
        text = line.removeprefix("data: ")
        if text.startswith("{"):
            yield json.loads(text)


def said(value: dict[str, Any]) -> str:
    """Return the text that one object of any wire holds, read as naively as possible."""
    match value:
        case {"choices": [{"index": 0, "delta": {"content": str() as text}}, *_]}:
            return text
        case {"choices": [{"index": 0, "message": {"content": str() as text}}, *_]}:
            return text
        case {"message": {"content": str() as text}} | {"delta": {"text": str() as text}}:
            return text
        case {"type": "response.output_text.delta", "delta": text}:
            return text
        case {"type": "message", "content": list() as blocks}:
            return "".join(block.get("text", "") for block in blocks)
        case {"object": "response", "output": list() as items}:
            parts = [part for item in items for part in item.get("content") or ()]
            return "".join(part["text"] for part in parts if part["type"] == "output_text")
        case _:
            return ""


def written(value: Any) -> int:
    """Return the highest count of output tokens anywhere in a value."""
    names = ("completion_tokens", "output_tokens", "eval_count")
    match value:
        case dict():
            own = [value[name] for name in names if isinstance(value.get(name), int)]
            return max([0, *own, *map(written, value.values())])
        case list():
            return max([0, *map(written, value)])
        case _:
            return 0


@pytest.mark.parametrize("pieces", ["recorded", 7])
@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_comes_out_as_the_server_said_it(name, pieces):
    each = EXCHANGES[name]
    found = list(objects(each.parsed().body))
    async with ReplayServer(each, pieces=pieces) as server:
        async with Registry(env={"LLM_X": dsn(server, each, name)}, retries=0) as reg:
            response = await reg.generate("x/smol", "hi")
    assert response.text == "".join(map(said, found))
    assert response.finish_reason is not None
    assert response.usage.output_tokens == max(map(written, found))


@pytest.mark.parametrize("name", sorted(ERRORS))
async def test_an_error_becomes_its_class(name):
    each, kind = EXCHANGES[name], ERRORS[name]
    asked = Exchange("POST", each.path, each.pieces, each.end)
    async with ReplayServer(asked) as server:
        async with Registry(env={"LLM_X": dsn(server, each, name)}, retries=0) as reg:
            with pytest.raises(LLMError) as caught:
                await reg.generate("x/smol", "hi")
            (health,) = reg.health()
    error = caught.value
    if isinstance(error, FailoverError):
        (error,) = error.exceptions
    assert type(error) is kind
    assert error.target == Target("x", "smol")
    assert error.status == each.parsed().status
    assert (health.state == "cooling") is (kind.harms != "no")


def test_every_capture_of_a_wire_is_an_answer_or_a_known_error():
    assert len(ANSWERS) == 43
    assert all(EXCHANGES[name].parsed().status >= 400 for name in ERRORS)
    assert all(EXCHANGES[name].parsed().status == 200 for name in ANSWERS)


async def test_loading_notes_are_status_and_the_answer_follows():
    each = EXCHANGES["llama-swap/chat-loading-state-stream"]
    async with ReplayServer(each) as server:
        async with Registry(env={"LLM_LS": server.dsn("llama-swap")}) as reg:
            chunks = [chunk async for chunk in reg.stream("ls/smol-loading", "hi")]
    notes = "".join(chunk.message for chunk in chunks if isinstance(chunk, Status))
    first_text = next(n for n, chunk in enumerate(chunks) if isinstance(chunk, TextDelta))
    assert "loading model: smol-loading" in notes
    assert not any(isinstance(chunk, Status) for chunk in chunks[first_text:])


async def test_the_wait_that_llama_swap_asks_for_is_kept():
    each = EXCHANGES["llama-swap/limit-c-429-anthropic"]
    async with ReplayServer(each) as server:
        async with Registry(env={"LLM_X": server.dsn("anthropic")}, retries=0) as reg:
            with pytest.raises(FailoverError):
                await reg.generate("x/gemma", "hi")
            (limits,) = reg.limits()
    assert 0.5 < limits.blocked_for <= 1.0


@pytest.mark.parametrize(
    ("name", "scheme", "models"),
    [
        (
            "llama-swap/auth-ok",
            "llama-swap",
            ("broken", "gemma", "never-ready", "smol", "smol-loading"),
        ),
        ("ollama/v1-models", "openai", ("smol-tools:latest", "smol:latest")),
        ("ollama/tags", "ollama", ("smol-tools:latest", "smol:latest")),
        ("ollama/tags", "foreman", ("smol-tools:latest", "smol:latest")),
    ],
)
async def test_the_models_of_a_real_server(name, scheme, models):
    async with ReplayServer(EXCHANGES[name]) as server:
        async with Registry(env={"LLM_X": server.dsn(scheme)}) as reg:
            assert await reg.models("x") == models


@pytest.mark.parametrize(
    ("name", "scheme", "kind"),
    [
        ("llama-swap/auth-wrong", "llama-swap", AuthenticationError),
        ("llama-native/loading-models", "openai", OverloadedError),
    ],
)
async def test_a_model_list_that_is_refused_becomes_its_class(name, scheme, kind):
    async with ReplayServer(EXCHANGES[name]) as server:
        async with Registry(env={"LLM_X": server.dsn(scheme, token="sk-wrong-key-77")}) as reg:
            with pytest.raises(kind) as caught:
                await reg.models("x")
    assert "sk-wrong-key-77" not in str(caught.value)


def unloaded_in_mid_stream(name: str, mark: bytes) -> Serve:
    """Return a recorded stream whose body ends, properly, where its server let the model go."""
    body = EXCHANGES[name].parsed().body
    frames = body.split(b"\n\n")
    last = next(n for n, frame in enumerate(frames) if mark in frame)
    return Serve(b"\n\n".join(frames[:last]) + b"\n\n", "text/event-stream")


UNLOADED = unloaded_in_mid_stream("llama-swap/swap-during-a", b'"finish_reason":"')


async def test_a_model_unloaded_in_mid_stream_is_an_interruption_with_what_came():
    async with FaultServer(UNLOADED) as server:
        async with Registry(env={"LLM_LS": server.dsn("llama-swap")}, retries=0) as reg:
            with pytest.raises(StreamInterrupted) as caught:
                await reg.generate("ls/smol", "Tell a story")
            (health,) = reg.health()
    assert caught.value.partial.text.startswith("Once upon")
    assert caught.value.partial.finish_reason is None
    assert health.state == "cooling"


@pytest.mark.parametrize("second", ["box/gemma", "ls/smol"])
async def test_after_an_unload_the_chain_goes_on_from_the_start(second):
    async with FaultServer(UNLOADED, chat("A story.")) as swap, FaultServer(chat("B.")) as box:
        env = {"LLM_LS": swap.dsn("llama-swap"), "LLM_BOX": box.dsn()}
        spec = "ls/smol" if second == "ls/smol" else f"ls/smol,{second}"
        async with (
            Registry(env=env, cooldown=0.01) as reg,
            reg.stream(spec, "Tell a story", on_interrupt="restart") as stream,
        ):
            chunks = [chunk async for chunk in stream]
    (restart,) = [chunk for chunk in chunks if isinstance(chunk, Restart)]
    assert str(restart.target) == second
    assert stream.response.text == {"box/gemma": "B.", "ls/smol": "A story."}[second]
    assert [each.outcome for each in stream.attempts] == ["failed", "success"]


async def test_an_unload_does_not_cut_a_stream_of_ollama():
    each = EXCHANGES["ollama/unload-during-stream"]
    async with ReplayServer(each) as server:
        async with Registry(env={"LLM_X": server.dsn("ollama")}) as reg:
            response = await reg.generate("x/smol", "Tell a long story")
    assert response.finish_reason == "length"
    assert response.usage.output_tokens == 60


@pytest.mark.parametrize(
    ("name", "act", "result"),
    [
        ("running-3", lambda swap: swap.running(), ()),
        ("version", lambda swap: swap.version(), "v250-5-g0bdb3720"),
        ("health", lambda swap: swap.health(), True),
        ("unload-model", lambda swap: swap.unload("smol-loading"), None),
        ("unload-alias", lambda swap: swap.unload("gpt-4o-mini"), None),
        ("unload-slash", lambda swap: swap.unload("org/smol:latest"), None),
        ("unload-not-running", lambda swap: swap.unload("smol"), None),
        ("unload-while-busy", lambda swap: swap.unload("gemma"), None),
    ],
)
async def test_management_of_a_real_llama_swap(name, act, result):
    async with ReplayServer(EXCHANGES[f"llama-swap/{name}"]) as server:
        async with Registry(env={"LLM_LS": server.dsn("llama-swap")}) as reg:
            assert await act(reg.llama_swap("ls")) == result
        assert server.unmatched == 0
        assert server.requests[0].headers["authorization"] == "Bearer test-key"
