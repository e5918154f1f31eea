"""Whole calls against a real llama.cpp server that speaks three wires."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from aiollm import (
    AuthenticationError,
    ConnectError,
    ContextLengthError,
    FailoverError,
    Finish,
    ModelNotFoundError,
    Registry,
    Request,
    StreamInterrupted,
    TextDelta,
    local,
    user,
)

pytestmark = pytest.mark.e2e

WIRES = ("local", "responses", "messages")


class City(msgspec.Struct):
    """What the server must be made to answer."""

    name: str
    country: str


def short(prompt: str = "Count from one to ten.") -> Request:
    return Request(prompt, max_output_tokens=24, temperature=0.0)


def long() -> Request:
    """A request whose answer would take far longer than any test waits."""
    return Request(
        "Write the word tree again and again.",
        max_output_tokens=900,
        temperature=0.0,
        extra={"*": {"logit_bias": [[2, False]], "ignore_eos": True}},
    )


@pytest.fixture
async def busy(server: Any) -> AsyncIterator[Callable[[], Awaitable[int]]]:
    """Return how many slots of the server are at work."""
    key = server.dsn().partition("://")[2].partition("@")[0]
    headers = {"authorization": f"Bearer {key}"}
    async with aiohttp.ClientSession(server.url, headers=headers) as session:

        async def count() -> int:
            async with session.get("/slots") as reply:
                return sum(slot["is_processing"] for slot in await reply.json())

        yield count


async def until_idle(busy: Callable[[], Awaitable[int]]) -> None:
    """Wait until no slot is at work; a long answer would keep one for half a minute."""
    async with asyncio.timeout(15):
        while await busy():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("wire", WIRES)
async def test_a_count_is_what_a_call_then_takes(reg: Registry, wire: str) -> None:
    request = msgspec.structs.replace(short("Größe? \U0001f680 Just say it."), system="Be brief.")
    count = await reg.count_tokens(f"{wire}/smollm2", request)
    answer = await reg.generate(f"{wire}/smollm2", request, max_output_tokens=1)
    assert (count.tokens, count.certainty) == (answer.usage.input_tokens, "exact")


async def test_a_count_with_a_wrong_key_or_path_is_not_a_number_of_the_server(
    reg: Registry,
) -> None:
    with pytest.raises(FailoverError) as caught:
        await reg.count_tokens("wrong-key/smollm2", short())
    assert isinstance(caught.value.last, AuthenticationError)
    assert (await reg.count_tokens("wrong-path/smollm2", short())).certainty == "estimated"


@pytest.mark.parametrize("wire", WIRES)
async def test_an_answer_streams_and_is_counted(reg: Registry, wire: str) -> None:
    stream = reg.stream(f"{wire}/smollm2", short())
    chunks = [chunk async for chunk in stream]
    texts = [chunk for chunk in chunks if type(chunk) is TextDelta]
    assert len(texts) > 5
    assert type(chunks[-1]) is Finish
    response = stream.response
    assert response.text == "".join(chunk.text for chunk in chunks) != ""
    assert response.finish_reason in {"stop", "length"}
    assert response.usage.certainty == "exact"
    assert response.usage.input_tokens > 5
    assert 5 < response.usage.output_tokens <= 24
    assert str(response.target) == f"{wire}/smollm2"
    assert response.timings.first_output is not None


@pytest.mark.parametrize("wire", ["local", "messages"])  # by /v1/responses it says "completed"
async def test_the_output_limit_ends_as_length(reg: Registry, wire: str) -> None:
    request = Request("Count from one to one hundred.", max_output_tokens=8, temperature=0.0)
    response = await reg.generate(f"{wire}/smollm2", request)
    assert response.finish_reason == "length"
    assert response.usage.output_tokens == 8


async def test_a_break_frees_the_slot_of_the_server(
    reg: Registry, busy: Callable[[], Awaitable[int]]
) -> None:
    async for chunk in reg.stream("local/smollm2", long()):
        if chunk.text:
            assert await busy() == 1
            break
    await until_idle(busy)


@pytest.mark.parametrize("wire", WIRES)
async def test_closing_a_stream_frees_the_slot_of_the_server(
    reg: Registry, busy: Callable[[], Awaitable[int]], wire: str
) -> None:
    stream = reg.stream(f"{wire}/smollm2", long())
    async for chunk in stream:
        if chunk.text:
            break
    assert await busy() == 1
    await stream.aclose()
    await until_idle(busy)


async def test_cancelling_the_caller_frees_the_slot_of_the_server(
    reg: Registry, busy: Callable[[], Awaitable[int]]
) -> None:
    task = asyncio.create_task(reg.generate("local/smollm2", long()))
    while not await busy():
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until_idle(busy)


async def test_a_chain_moves_on_from_a_dead_port_and_skips_it_next_time(reg: Registry) -> None:
    first = await reg.generate("down/none,local/smollm2", short())
    assert [str(each.target) for each in first.attempts] == ["down/none", "local/smollm2"]
    assert isinstance(first.attempts[0].error, ConnectError)
    assert first.text
    again = await reg.generate("down/none,local/smollm2", short())
    assert [str(each.target) for each in again.attempts] == ["local/smollm2"]
    assert again.text == first.text


async def test_a_race_leaves_one_winner_and_an_idle_server(
    reg: Registry, busy: Callable[[], Awaitable[int]]
) -> None:
    async with reg.stream("local/smollm2|messages/smollm2", long(), stagger=0.0) as stream:
        async for chunk in stream:
            if chunk.text:
                break
        assert sorted(each.outcome for each in stream.attempts) == ["abandoned", "running"]
    await until_idle(busy)


async def test_two_streams_run_side_by_side(reg: Registry) -> None:
    responses = await asyncio.gather(
        *(reg.generate("local/smollm2", short(f"Say the number {n}.")) for n in range(2))
    )
    assert all(response.text for response in responses)


async def test_a_wrong_path_is_a_404_of_the_target(reg: Registry) -> None:
    with pytest.raises(FailoverError) as caught:
        await reg.generate("wrong-path/smollm2", short())
    (error,) = caught.value.exceptions
    assert isinstance(error, ModelNotFoundError)
    assert error.status == 404


async def test_a_wrong_key_is_refused_and_not_shown(reg: Registry) -> None:
    with pytest.raises(FailoverError) as caught:
        await reg.generate("wrong-key/smollm2", short())
    (error,) = caught.value.exceptions
    assert isinstance(error, AuthenticationError)
    assert error.status == 401
    assert "sk-wrong" not in str(caught.value) + repr(caught.value) + repr(vars(error))


async def test_a_prompt_beyond_the_context_moves_on_unharmed(reg: Registry) -> None:
    with pytest.raises(FailoverError) as caught:
        await reg.generate("local/smollm2", short("word " * 4000))
    (error,) = caught.value.exceptions
    assert isinstance(error, ContextLengthError)
    (health,) = reg.health()
    assert (health.state, health.failures) == ("healthy", 0)


async def test_a_reply_has_the_type_that_was_asked_for(reg: Registry) -> None:
    request = Request(
        (user("Which city is the capital of France?"),), max_output_tokens=100, temperature=0.0
    )
    city = await reg.generate("local/smollm2", request, output=City)
    assert city.name
    assert city.country


async def test_the_models_of_the_server_are_listed(reg: Registry) -> None:
    assert await reg.models("local") == ("smollm2",)


@pytest.mark.usefixtures("local_model")
async def test_a_server_that_dies_in_mid_stream_leaves_the_partial_answer() -> None:
    async with Registry(env={}, retries=0) as reg:
        server = await local.start(reg, context=2048)
        with pytest.raises(StreamInterrupted) as caught:
            async for chunk in reg.stream("local/smollm2", long()):
                if chunk.text:
                    server.kill()
        partial = caught.value.partial
        assert partial is not None
        assert partial.text
        assert partial.finish_reason is None
