"""Images on the way of a call: through a registry, to real servers, one target after the other."""

from __future__ import annotations

import base64
import json

import pytest

from aiollm import FailoverError, ImagePart, Registry, Request, UnsupportedError, user
from aiollm.media import info
from aiollm.testing import Answer, FaultServer, chat

pytest.importorskip("PIL")


def sent(request):
    """Return the images in the body of a chat request."""
    body = json.loads(request.body)
    return [
        base64.b64decode(part["image_url"]["url"].partition(",")[2])
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
        if part["type"] == "image_url"
    ]


def variable(server, options):
    """Return the DSN of an OpenAI-compatible server with these limits."""
    return f"openai+{server.url}/v1?{options}"


async def test_failover_sends_each_target_what_it_accepts(make):
    old, new = (ImagePart(make.save(make.photo(90, 60, seed), "WEBP")) for seed in range(2))
    request = Request((user("first", old), user("second", new)))
    async with (
        FaultServer(Answer(503, body=b"{}")) as busy,
        FaultServer(chat("fine")) as well,
        Registry(
            env={
                "LLM_BUSY": variable(busy, "max_image_dimension=64"),
                "LLM_WELL": variable(well, "max_image_dimension=32&max_images=1"),
            },
            retries=0,
        ) as reg,
    ):
        response = await reg.generate("busy/m,well/m", request)
    assert response.text == "fine"
    assert [info(data).width for data in sent(busy.requests[0])] == [64, 64]
    assert [info(data).width for data in sent(well.requests[0])] == [32]
    assert any("1 older image left out" in warning for warning in response.warnings)
    assert request.messages[0].parts[1] is old


async def test_an_image_that_cannot_fit_moves_the_chain_on_without_harm(make):
    photo = ImagePart(make.save(make.photo(900, 600), "PNG"))
    async with (
        FaultServer(chat("never")) as small,
        FaultServer(chat("fine")) as large,
        Registry(
            env={
                "LLM_SMALL": variable(small, "max_image_bytes=200"),
                "LLM_LARGE": variable(large, "max_image_bytes=90000"),
            },
            retries=0,
        ) as reg,
    ):
        response = await reg.generate("small/m,large/m", Request((user("look", photo),)))
        assert response.text == "fine"
        assert not small.requests
        assert not any(health.failures for health in reg.health())
        with pytest.raises(FailoverError) as caught:
            await reg.generate("small/m", Request((user("look", photo),)))
        assert isinstance(caught.value.exceptions[0], UnsupportedError)
        assert "image 1 of 1 must change" in str(caught.value)


async def test_a_race_prepares_an_image_once(make):
    photo = ImagePart(make.save(make.photo(900, 600), "PNG"))
    async with (
        FaultServer(chat("fine")) as one,
        FaultServer(chat("fine")) as other,
        Registry(
            env={
                "LLM_ONE": variable(one, "max_image_dimension=64"),
                "LLM_OTHER": variable(other, "max_image_dimension=64"),
            },
            retries=0,
        ) as reg,
    ):
        spec = "one/m|other/m"
        response = await reg.generate(spec, Request((user("look", photo),)), stagger=0.0)
        assert response.text == "fine"
        assert reg._resources._pool.statistics().prepared == 1
