"""Requests to model servers that are cancelled before any callback leave nothing."""

from __future__ import annotations

from contextlib import aclosing

import pytest

from aiollm import Registry
from aiollm.testing import Answer, FaultServer, sse
from tests.broken_off import cancelled_everywhere, held

JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}
ANSWERS = {
    "/v1/models": Answer(200, JSON, {"data": [{"id": "m"}]}),
    "/running": Answer(200, JSON, {"running": [{"model": "m", "state": "ready"}]}),
    "/upstream/m/health": Answer(200, JSON, {"status": "ok"}),
    "/api/models/unload/m": Answer(200, TEXT, b"OK"),
    "/health": Answer(200, TEXT, b"OK"),
    "/logs/stream": Answer(200, TEXT, (b"one\n", b"two\n"), "chunked"),
    "/api/events": sse({"type": "x", "data": "{}"}, {"type": "y", "data": "{}"}),
}


@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.parametrize(
    "way", ["models", "load", "unload", "health", "logs", "events", "load_models", "refresh"]
)
async def test_a_request_to_a_model_server(way, times):
    async with FaultServer(paths=ANSWERS) as server:
        env = {"LLM_LS": f"llama-swap://127.0.0.1:{server.port}"}
        async with Registry(env=env, cooldown=0.0) as reg:
            swap = reg.llama_swap("ls")

            async def follow():
                async with aclosing(swap.logs() if way == "logs" else swap.events()) as pieces:
                    async for _ in pieces:
                        pass

            calls = {
                "models": swap.models,
                "load": lambda: swap.load("m"),
                "unload": lambda: swap.unload("m"),
                "health": swap.health,
                "load_models": lambda: reg.load_models("ls/m"),
                "refresh": lambda: reg.refresh_capabilities("ls/m"),
            }
            call = calls.get(way, follow)

            async def check():
                found = await held(reg)
                await call()
                return found + [each for each in reg.health("ls/m") if each.state != "healthy"]

            await call()
            await cancelled_everywhere(call, check, times=times, least=4)
