"""A provider that is an adapter alone: no base URL, so nothing is sent for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

import pytest

from aiollm import (
    Finish,
    Provider,
    Registry,
    Request,
    Target,
    TextDelta,
    Timeouts,
    UnsupportedError,
)
from aiollm.codecs import Item, Operation, Transport, codec_of


async def echo(
    provider: Provider, transport: Transport, target: Target, request: Request, timeouts: Timeouts
) -> AsyncGenerator[Sequence[Item]]:
    del provider, transport, target, timeouts
    yield [TextDelta(request.messages[-1].text), Finish("stop")]


@pytest.fixture
async def reg() -> AsyncIterator[Registry]:
    async with Registry(env={}) as reg:
        operations = {"chat": Operation(adapter=echo)}
        row = Provider("echo", "echo", "", codec_of("openai"), operations=operations)
        reg.register("echo", row)
        yield reg


async def test_it_answers(reg: Registry) -> None:
    assert (await reg.generate("echo/m", "hi")).text == "hi"


async def test_its_tokens_are_estimated(reg: Registry) -> None:
    assert (await reg.count_tokens("echo/m", "Hello there")).certainty == "estimated"


async def test_its_models_are_not_asked_for(reg: Registry) -> None:
    with pytest.raises(UnsupportedError, match="echo has no list of models: it has no base URL"):
        await reg.models("echo")
