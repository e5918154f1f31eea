"""Servers without the route of embeddings, scores or images: their chat goes on."""

from __future__ import annotations

import pytest

from aiollm import FailoverError, ImageRequest, ModelNotFoundError
from aiollm.testing import Answer

ASKED = {
    "embed": lambda reg, spec: reg.embed(spec, ["red panda"]),
    "rerank": lambda reg, spec: reg.rerank(spec, "panda", ["red panda", "bear"]),
    "images": lambda reg, spec: reg.generate_images(spec, ImageRequest("a panda")),
}
NO_ROUTE = {
    "llama.cpp": {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}},
    "vLLM": {"detail": "Not Found"},
    "Dynamo": b"",
}
NO_MODEL = {
    "vLLM": {"error": {"message": "The model `m` does not exist.", "code": 404}},
    "OpenAI": {"error": {"message": "Not there", "code": "model_not_found"}},
    "Azure": {"error": {"code": "DeploymentNotFound", "message": "No such API deployment"}},
}


async def state_after(registry, serve, asked, body) -> str:
    server = await serve(Answer(404, {}, body))
    reg = registry({"s": server.dsn()})
    with pytest.raises(FailoverError) as caught:
        await ASKED[asked](reg, "s/m")
    assert isinstance(caught.value.last, ModelNotFoundError)
    return reg.health("s/m")[0].state


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("server", NO_ROUTE)
async def test_a_server_without_the_route_keeps_its_health(registry, serve, asked, server):
    assert await state_after(registry, serve, asked, NO_ROUTE[server]) == "healthy"


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("server", NO_MODEL)
async def test_a_model_that_is_not_there_is_set_aside(registry, serve, asked, server):
    assert await state_after(registry, serve, asked, NO_MODEL[server]) == "cooling"


async def test_chat_without_a_route_is_set_aside(registry, serve):
    server = await serve(Answer(404, {}, NO_ROUTE["vLLM"]))
    reg = registry({"s": server.dsn()})
    with pytest.raises(FailoverError):
        await reg.generate("s/m", "hi")
    assert reg.health("s/m")[0].state == "cooling"
