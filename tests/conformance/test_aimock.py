"""Against aimock, a mock server by third parties: all wires, tools, errors, cuts, images."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from aiollm import Registry, RunResult, tool
from aiollm.errors import (
    AuthenticationError,
    ContextLengthError,
    FailoverError,
    InvalidRequestError,
    LLMError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    ProviderError,
    RateLimitError,
    ServerError,
    TransportError,
)
from aiollm.images import ImageRequest
from aiollm.types import (
    ImagePart,
    Request,
    Restart,
    TextDelta,
    Tool,
    ToolResultPart,
    Usage,
    assistant,
    system,
    tool_results,
    user,
)

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
WIRES: dict[str, tuple[str, str, dict[str, str]]] = {
    "chat": ("openai", "/v1", {"api": "chat"}),
    "responses": ("openai", "/v1", {"api": "responses"}),
    "anthropic": ("anthropic", "", {}),
    "gemini": ("google", "", {}),
    "ollama": ("ollama", "", {}),
}
STORY = "Za górami 🏔️, za lasami 🌲🌲 żył sobie smok 🐉. " * 3

Expect = Callable[..., Awaitable[Registry]]


@pytest.fixture(params=WIRES)
def wire(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def expect(aimock: Any, registry: Callable[..., Registry]) -> Expect:
    """Give aimock fixtures, in order of precedence; return a registry that knows all its wires."""

    async def give(*fixtures: dict[str, Any], **options: Any) -> Registry:
        await aimock.ask("/__aimock/fixtures", {"fixtures": list(fixtures)})
        dsns = {
            name: aimock.dsn(scheme, path, **given) for name, (scheme, path, given) in WIRES.items()
        }
        return registry(dsns, **options)

    return give


def says(text: Any, match: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"match": match or {}, "response": {"content": text}, **more}


def fails(
    status: int, message: str = "no", match: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    response = {"error": {"message": message, "type": "made_up"} | more, "status": status}
    return {"match": match or {}, "response": response}


def calls(*names: str, match: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    made = [{"name": name, "arguments": {"city": f"{name} ✓"}} for name in names]
    return {"match": match or {}, "response": {"toolCalls": made, **more}}


async def test_a_text_comes_whole_however_it_is_cut(expect, wire):
    reg = await expect(says(STORY))
    async with reg.stream(f"{wire}/m", "Tell a story") as stream:
        pieces = [chunk.text async for chunk in stream if isinstance(chunk, TextDelta)]
    assert "".join(pieces) == STORY
    assert len(pieces) > 5
    assert not any("\ud800" <= char <= "\udfff" for piece in pieces for char in piece)
    assert stream.response.finish_reason == "stop"


async def test_usage_is_what_the_server_counted(expect, wire):
    counts = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    if wire in ("responses", "anthropic"):
        counts = {"input_tokens": 11, "output_tokens": 7}
    if wire == "gemini":
        counts = {"promptTokenCount": 11, "candidatesTokenCount": 7, "totalTokenCount": 18}
    fixture = says("Hi")
    fixture["response"]["usage"] = counts
    reg = await expect(fixture)
    usage = (await reg.generate(f"{wire}/m", "hi")).usage
    if wire == "ollama":
        assert usage.certainty != "missing"
    else:
        assert usage == Usage(11, 7, certainty="exact")


async def test_an_answer_at_its_limit_says_so(expect, wire):
    fixture = says("Once upon a")
    fixture["response"]["finishReason"] = "length"
    reg = await expect(fixture)
    response = await reg.generate(f"{wire}/m", "Tell a story")
    assert response.text == "Once upon a"
    # aimock's Responses say incomplete but not why, its Ollama always says stop.
    assert response.finish_reason == {"responses": "other", "ollama": "stop"}.get(wire, "length")


async def test_calls_come_whole_and_in_order(expect, wire):
    reg = await expect(calls("weather", "time"))
    tools = (Tool("weather"), Tool("time"))
    response = await reg.generate(f"{wire}/m", Request("Oslo?", tools=tools))
    assert [call.name for call in response.tool_calls] == ["weather", "time"]
    assert [call.parsed()["city"] for call in response.tool_calls] == ["weather ✓", "time ✓"]
    assert len({call.id for call in response.tool_calls}) == 2
    assert response.finish_reason == "tool_calls"


async def test_text_and_calls_of_one_answer_are_both_kept(expect, wire):
    reg = await expect(calls("weather", content="Let me look."))
    response = await reg.generate(f"{wire}/m", Request("Oslo?", tools=(Tool("weather"),)))
    assert response.text == "Let me look."
    assert [call.name for call in response.tool_calls] == ["weather"]


async def test_a_tool_is_run_and_its_result_understood(expect, wire):
    asked = []

    @tool
    async def weather(city: str) -> str:
        """Tell the weather."""
        asked.append(city)
        return "drizzle, 7 degrees"

    result = {"toolResultContains": "drizzle"}
    reg = await expect(says("It drizzles.", result), calls("weather"))
    events = [event async for event in reg.run(f"{wire}/m", "Oslo?", tools=[weather])]
    assert asked == ["weather ✓"]
    assert isinstance(events[-1], RunResult)
    assert events[-1].response.text == "It drizzles."


async def test_a_conversation_begun_on_one_wire_goes_on_another(expect, wire):
    tools = (Tool("weather"),)
    reg = await expect(says("It drizzles.", {"toolResultContains": "drizzle"}), calls("weather"))
    first = await reg.generate(f"{wire}/m", Request("Oslo?", tools=tools))
    (call,) = first.tool_calls
    told = tool_results(ToolResultPart(call.id, "drizzle", name=call.name))
    request = Request((user("Oslo?"), first.message, told), tools=tools)
    for other in WIRES:
        assert (await reg.generate(f"{other}/m", request)).text == "It drizzles."


@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic", "gemini"])
async def test_reasoning_is_told_apart_from_the_answer(expect, wire):
    fixture = says("42.")
    fixture["response"]["reasoning"] = "Six by nine, then."
    reg = await expect(fixture)
    response = await reg.generate(f"{wire}/o3", Request("Six by nine?", reasoning="low"))
    assert response.text == "42."
    assert response.reasoning == "Six by nine, then."


async def test_the_system_prompt_and_earlier_turns_arrive(expect, wire):
    match = {"systemMessage": "like a pirate", "userMessage": "Again", "turnIndex": 1}
    reg = await expect(says("Arr.", match))
    turns = (user("Hello"), assistant("Ahoy."), user("Again"))
    for request in (
        Request(turns, system="Speak like a pirate"),
        Request((system("Speak like a pirate"), *turns)),
    ):
        assert (await reg.generate(f"{wire}/m", request)).text == "Arr."


class City(msgspec.Struct):
    """A place."""

    name: str
    people: int


async def test_an_answer_fits_the_type_that_was_asked_for(expect, wire):
    reg = await expect(says({"name": "Oslo", "people": 700_000}))
    assert await reg.generate(f"{wire}/m", "Where?", output=City) == City("Oslo", 700_000)


async def test_an_image_in_the_prompt_is_no_obstacle(expect, wire):
    reg = await expect(says("A dot.", {"userMessage": "What is it"}))
    request = Request((user("What is it?", ImagePart(PNG)),))
    assert (await reg.generate(f"{wire}/m", request)).text == "A dot."


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (401, AuthenticationError),
        (403, AuthenticationError),
        (404, ModelNotFoundError),
        (429, RateLimitError),
        (500, ServerError),
        (503, OverloadedError),
        (529, OverloadedError),
    ],
)
async def test_an_error_status_becomes_its_class(expect, wire, status, kind):
    reg = await expect(fails(status, "so it is"))
    with pytest.raises(LLMError) as caught:
        await reg.generate(f"{wire}/m", "hi")
    error = caught.value.exceptions[0] if isinstance(caught.value, FailoverError) else caught.value
    assert isinstance(error, kind)
    assert isinstance(error, ProviderError)
    assert error.status == status
    assert "so it is" in str(error)


async def test_the_wait_a_server_asks_for_is_kept(expect, wire):
    fixture = fails(429)
    fixture["response"]["retryAfter"] = 17
    reg = await expect(fixture)
    with pytest.raises(FailoverError) as caught:
        await reg.generate(f"{wire}/m", "hi")
    assert caught.value.exceptions[0].retry_after == 17
    (limits,) = reg.limits()
    assert 16 < limits.blocked_for <= 17


async def test_a_prompt_that_is_too_long_moves_on(expect):
    message = "This model's maximum context length is 8 tokens."
    code = {"code": "context_length_exceeded"}
    reg = await expect(fails(400, message, {"model": "small"}, **code), says("Hi"))
    response = await reg.generate("chat/small,anthropic/large", "hi")
    assert response.text == "Hi"
    assert isinstance(response.attempts[0].error, ContextLengthError)


async def test_a_failure_before_the_answer_is_not_seen(expect, wire):
    other = next(name for name in WIRES if name != wire)
    reg = await expect(fails(503, match={"model": "down"}), says("Hi"))
    response = await reg.generate(f"{wire}/down,{other}/up", "hi")
    assert response.text == "Hi"
    assert str(response.target) == f"{other}/up"


async def test_a_stream_that_is_cut_is_no_success(expect, wire):
    reg = await expect(says(STORY, truncateAfterChunks=6, latency=5))
    with pytest.raises(TransportError) as caught:
        await reg.generate(f"{wire}/m", "Tell a story")
    assert STORY.startswith(caught.value.partial.text)
    assert caught.value.partial.finish_reason is None


async def test_after_a_cut_the_next_target_answers_from_the_start(expect, wire):
    other = next(name for name in WIRES if name != wire)
    reg = await expect(says(STORY, {"model": "cut"}, truncateAfterChunks=6, latency=5), says("Hi"))
    spec = f"{wire}/cut,{other}/whole"
    async with reg.stream(spec, "Tell a story", on_interrupt="restart") as stream:
        chunks = [chunk async for chunk in stream]
    assert any(isinstance(chunk, Restart) for chunk in chunks)
    assert stream.response.text == "Hi"


async def test_an_answer_that_is_no_json_is_a_failure(expect, wire):
    reg = await expect(says("Hi", {"model": "odd"}, chaos={"malformedRate": 1}), says("Hi"))
    other = next(name for name in WIRES if name != wire)
    response = await reg.generate(f"{wire}/odd,{other}/m", "hi")
    assert isinstance(response.attempts[0].error, (ProtocolError, TransportError, ServerError))
    assert str(response.target) == f"{other}/m"


async def test_a_connection_that_is_dropped_is_a_failure(expect, wire):
    reg = await expect(says("Hi", {"model": "odd"}, chaos={"disconnectRate": 1}), says("Hi"))
    other = next(name for name in WIRES if name != wire)
    response = await reg.generate(f"{wire}/odd,{other}/m", "hi")
    assert isinstance(response.attempts[0].error, TransportError)


async def test_what_no_fixture_matches_is_an_overload(expect, wire):
    reg = await expect(says("Hi", {"userMessage": "something else"}))
    with pytest.raises(FailoverError) as caught:
        await reg.generate(f"{wire}/m", "hi")
    assert isinstance(caught.value.exceptions[0], OverloadedError)


async def test_a_race_over_all_wires_has_one_answer(expect):
    reg = await expect(says("Hi"))
    spec = "|".join(f"{name}/m" for name in WIRES)
    response = await reg.generate(spec, "hi", stagger=0.0)
    assert response.text == "Hi"
    assert not any(each.error for each in response.attempts)
    assert response.target in [each.target for each in response.attempts]


async def test_many_streams_at_once_do_not_mix(expect, wire):
    fixtures = [says(f"{n} " * 40, {"userMessage": f"number {n:02}"}) for n in range(20)]
    reg = await expect(*fixtures)
    answers = await asyncio.gather(
        *(reg.generate(f"{wire}/m", f"number {n:02}") for n in range(20))
    )
    assert [each.text for each in answers] == [f"{n} " * 40 for n in range(20)]


@pytest.mark.parametrize("wire", ["chat", "responses", "anthropic", "ollama"])
async def test_models_are_listed(expect, wire):
    reg = await expect(says("Hi", {"model": "gpt-from-fixture"}))
    assert "gpt-from-fixture" in await reg.models(wire)


async def test_an_image_is_made(expect):
    image = {"b64Json": base64.b64encode(PNG).decode(), "revisedPrompt": "a small boat"}
    match = {"endpoint": "image", "userMessage": "paper boat"}
    reg = await expect({"match": match, "response": {"image": image}})
    result = await reg.generate_images("chat/gpt-image-2", "a paper boat")
    assert result.images == (ImagePart(PNG, mime="image/png"),)
    assert result.revised_prompt == "a small boat"


async def test_several_images_come_in_order_as_bytes_or_addresses(expect):
    images = [{"url": "https://example.com/1.png"}, {"b64Json": base64.b64encode(PNG).decode()}]
    reg = await expect({"match": {"endpoint": "image"}, "response": {"images": images}})
    result = await reg.generate_images("chat/gpt-image-2", ImageRequest("a boat", count=2))
    assert result.images == (
        ImagePart(url="https://example.com/1.png"),
        ImagePart(PNG, mime="image/png"),
    )


async def test_an_image_is_edited(expect, aimock):
    image = {"b64Json": base64.b64encode(PNG).decode()}
    match = {"endpoint": "image", "userMessage": "a hat on it"}
    reg = await expect({"match": match, "response": {"image": image}})
    asked = ImageRequest("put a hat on it", images=ImagePart(PNG), mask=ImagePart(PNG))
    result = await reg.generate_images("chat/gpt-image-2", asked)
    assert result.images[0].data == PNG
    journal = await aimock.ask("/__aimock/journal")
    assert [each["path"] for each in journal] == ["/v1/images/edits"]


async def test_images_fail_over_as_chat_does(expect):
    image = {"b64Json": base64.b64encode(PNG).decode()}
    reg = await expect(
        fails(429, match={"endpoint": "image", "model": "busy"}),
        {"match": {"endpoint": "image"}, "response": {"image": image}},
    )
    result = await reg.generate_images("anthropic/x,chat/busy,responses/gpt-image-2", "a boat")
    assert str(result.target) == "responses/gpt-image-2"
    assert [type(each.error).__name__ for each in result.attempts] == [
        "UnsupportedError", "RateLimitError", "NoneType",
    ]  # fmt: skip
