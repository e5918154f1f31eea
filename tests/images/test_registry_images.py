"""Images through a registry: chains, health, deadlines, races, limits, dialects, files."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zlib

import pytest

from aiollm import Finish, ImageResult, Registry
from aiollm.errors import (
    ClosedError,
    ConfigError,
    ContentFilterError,
    DeadlineError,
    FailoverError,
    GenerationError,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    ServerError,
    SpecError,
    TransportError,
    UnsupportedError,
)
from aiollm.images import ImageRequest
from aiollm.provider import HttpRequest, HttpResponse, Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.images_codec import OpenAIImages
from aiollm.testing import Answer, Cut, FakeProvider, Gate, Hang, Reset, chat, html
from aiollm.types import ImagePart, LLMError, Request, Target, Timeouts, Usage

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG64 = base64.b64encode(PNG).decode()
MADE = Answer(
    200,
    {},
    {
        "created": 1795300000,
        "data": [{"b64_json": PNG64, "revised_prompt": "a small paper boat"}],
        "usage": {"input_tokens": 12, "output_tokens": 272, "total_tokens": 284},
    },
)
DRAWN = Answer(
    200,
    {},
    {
        "candidates": [
            {
                "content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": PNG64}}]},
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 4, "candidatesTokenCount": 1290},
    },
)
PAINTED = Answer(200, {}, {"images": [PNG64], "info": "{}"})
BUSY = Answer(503, {}, {"error": {"message": "no capacity", "code": "overloaded"}})


def error(status: int, code: str = "", message: str = "no") -> Answer:
    return Answer(status, {}, {"error": {"message": message, "code": code}})


def picture(width: int, height: int) -> bytes:
    """Return a PNG of one colour."""
    rows = zlib.compress((b"\0" + b"\x80\x20\x40" * width) * height)
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    chunks = ((b"IHDR", size + b"\x08\x02\0\0\0"), (b"IDAT", rows), (b"IEND", b""))
    body = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
        for kind, data in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + body


def size_of(data: bytes) -> tuple[int, int]:
    import PIL.Image

    return PIL.Image.open(io.BytesIO(data)).size


async def test_a_prompt_becomes_an_image_with_all_that_is_known_of_it(serve, registry):
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    result = await reg.generate_images("a/gpt-image-2", "a paper boat")
    assert server.requests[0].path == "/v1/images/generations"
    assert server.requests[0].json()["prompt"] == "a paper boat"
    assert result.images == (ImagePart(PNG, mime="image/png"),)
    assert result.usage == Usage(12, 272, certainty="exact")
    assert result.revised_prompt == "a small paper boat"
    assert str(result.target) == "a/gpt-image-2"
    assert [each.outcome for each in result.attempts] == ["success"]
    assert 0 <= result.timings.first_output <= result.timings.total


async def test_an_image_is_saved_to_a_path(serve, registry, tmp_path):
    path = tmp_path / "boat.png"
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    result = await reg.generate_images("a/m", "a paper boat")
    await asyncio.to_thread(result.images[0].save, path)
    assert path.read_bytes() == PNG


async def test_the_connection_is_used_again(serve, registry):
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    for _ in range(3):
        await reg.generate_images("a/m", "x")
    assert server.counts.opened == 1


async def test_what_was_dropped_is_told_as_a_warning(serve, registry):
    server = await serve(DRAWN)
    reg = registry({"g": server.dsn("google")})
    result = await reg.generate_images("g/gemini-3-pro-image", ImageRequest("x", quality="low"))
    assert result.warnings == ("Gemini has no quality setting for images: it is dropped",)


@pytest.mark.parametrize("request_", [Request("a boat"), 5, None, ["a boat"]])
async def test_what_is_no_image_request_is_refused_before_any_byte(serve, registry, request_):
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    with pytest.raises(ConfigError, match="a prompt or an ImageRequest"):
        reg.stream_images("a/m", request_)
    with pytest.raises(SpecError):
        reg.stream_images("nobody/m", "x")
    assert server.counts.requests == 0


async def test_a_closed_registry_makes_no_images(registry):
    reg = registry({"a": "openai+http://127.0.0.1:9"})
    await reg.aclose()
    with pytest.raises(ClosedError):
        await reg.generate_images("a/m", "x")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (BUSY, OverloadedError),
        (error(429, "rate_limit_exceeded"), RateLimitError),
        (error(404, "model_not_found"), ModelNotFoundError),
        (Reset(), TransportError),
        (Cut(10, MADE), TransportError),
        (Answer(200, {}, b" "), ServerError),
        (html(), ServerError),
        (Answer(200, {}, {"data": []}), GenerationError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_a_failure_moves_on_to_the_next_target(serve, registry, fault, kind):
    first = await serve(fault)
    second = await serve(DRAWN)
    reg = registry({"a": first.dsn(), "g": second.dsn("google")})
    result = await reg.generate_images("a/gpt-image-2,g/gemini-3-pro-image", "x")
    assert second.requests[0].path == "/v1beta/models/gemini-3-pro-image:generateContent"
    assert str(result.target) == "g/gemini-3-pro-image"
    assert [each.outcome for each in result.attempts] == ["failed", "success"]
    assert isinstance(result.attempts[0].error, kind)


async def test_a_target_that_failed_is_not_asked_again(serve, registry):
    first = await serve(BUSY)
    second = await serve(MADE)
    servers = {"a": first.dsn(), "b": second.dsn()}
    reg = registry(servers, cooldown=60)
    for _ in range(3):
        await reg.generate_images("a/m,b/m", "x")
    states = {str(each.target): each.state for each in reg.health()}
    assert (first.counts.requests, second.counts.requests) == (1, 3)
    assert states == {"a/m": "cooling", "b/m": "healthy"}


async def test_one_target_survives_a_hiccup(serve, registry):
    server = await serve(BUSY, MADE)
    reg = registry({"a": server.dsn()}, retries=1, cooldown=0.01)
    result = await reg.generate_images("a/m", "x")
    assert len(result.attempts) == 2


async def test_every_target_failing_raises_all_their_errors(serve, registry):
    first = await serve(BUSY)
    second = await serve(error(401, "invalid_api_key"))
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m,b/m", "x")
    assert [str(each.target) for each in caught.value.exceptions] == ["a/m", "b/m"]


async def test_a_refused_prompt_ends_the_chain(serve, registry):
    first = await serve(error(400, "moderation_blocked"))
    second = await serve(MADE)
    reg = registry({"a": first.dsn(), "b": second.dsn()})
    with pytest.raises(ContentFilterError):
        await reg.generate_images("a/m,b/m", "x")
    assert second.counts.requests == 0
    result = await reg.generate_images("a/m,b/m", "x", on_refusal="next")
    assert [str(each.target) for each in result.attempts] == ["a/m", "b/m"]


@pytest.mark.parametrize("scheme", ["anthropic", "ollama", "foreman"])
async def test_a_provider_without_images_is_passed_over_unharmed(serve, registry, scheme):
    first = await serve(chat("x"))
    second = await serve(MADE)
    reg = registry({"a": first.dsn(scheme), "b": second.dsn()})
    result = await reg.generate_images("a/m,b/m", "x")
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m", "x")
    assert all(each.state == "healthy" for each in reg.health())
    assert first.counts.requests == 0
    assert isinstance(result.attempts[0].error, UnsupportedError)
    assert "a does not make images" in str(caught.value)


async def test_an_option_that_a_target_does_not_take_moves_on_before_any_byte(serve, registry):
    first = await serve(DRAWN)
    second = await serve(MADE)
    reg = registry({"g": first.dsn("google"), "b": second.dsn()})
    result = await reg.generate_images("g/m,b/m", ImageRequest("x", count=2))
    assert first.counts.requests == 0
    assert second.requests[0].json()["n"] == 2
    assert "one image per request" in str(result.attempts[0].error)


async def test_a_race_is_won_by_the_first_image_and_leaves_nothing(serve, registry):
    never, go_on = Gate(), Gate()
    slow = await serve(Hang(0, MADE, never))
    fast = await serve(Hang(0, MADE, go_on))
    reg = registry({"a": slow.dsn(), "b": fast.dsn()})
    race = asyncio.create_task(reg.generate_images("a/m|b/m", "x", stagger=0.0))
    await slow.wait_requests()
    go_on.open()
    result = await race
    await slow.wait_closed()
    assert str(result.target) == "b/m"
    assert {each.outcome for each in result.attempts} == {"success", "abandoned"}


async def test_as_many_images_are_made_at_once_as_the_provider_allows(serve, registry):
    gate = Gate()
    server = await serve(Hang(0, MADE, gate))
    dsn = server.dsn(max_concurrency=1)
    reg = registry({"a": dsn})
    both = asyncio.gather(*(reg.generate_images("a/m", "x") for _ in range(2)))
    await gate.reached()
    assert server.counts.requests == 1
    gate.open()
    assert len(await both) == 2


async def test_hooks_see_a_call_that_makes_images(serve, registry):
    seen = []
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    reg.on_event(seen.append)
    await reg.generate_images("a/m", "x")
    assert [type(each).__name__ for each in seen] == [
        "CallStarted", "AttemptStarted", "FirstOutput", "AttemptEnded", "CallEnded",
    ]  # fmt: skip
    assert seen[0].operation == "generate_content"
    assert seen[-1].outcome == "success"


async def test_a_key_that_the_server_echoes_is_not_shown(serve, registry):
    echo = error(401, "invalid_api_key", "Incorrect API key provided: sk-very-secret-key-9")
    server = await serve(echo)
    reg = registry({"a": server.dsn(token="sk-very-secret-key-9")})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m", "x")
    assert "sk-very-secret-key-9" not in repr(caught.value) + str(caught.value)


async def test_a_reply_beyond_all_measure_is_given_up(serve, registry, monkeypatch):
    monkeypatch.setattr("aiollm._http.image_streaming.MAX_IMAGE_REPLY", 100)
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m", "x")
    assert "exceeds 100 bytes" in str(caught.value)


async def test_a_server_that_hangs_hits_a_deadline_and_the_next_one_draws(serve, registry):
    first = await serve(Hang())
    reg = registry({"a": first.dsn()})
    reg.register("b", FakeProvider().provider())  # needs no time
    result = await reg.generate_images("a/m,b/m", "x", timeouts=Timeouts(first_output=0.05))
    failed = result.attempts[0].error
    assert isinstance(failed, DeadlineError)
    assert failed.which == "first_output"


async def test_the_whole_chain_has_one_total(serve, registry):
    server = await serve(Hang())
    reg = registry({"a": server.dsn(), "b": server.dsn()})
    with pytest.raises(DeadlineError) as caught:
        await reg.generate_images("a/m,b/m", "x", timeouts=Timeouts(total=0.05))
    assert caught.value.which == "total"


@pytest.mark.parametrize(
    ("general", "given", "waits"),
    [
        (Timeouts(), None, (300, 300, 300)),
        (Timeouts(first_output=5, idle=5, stall=5), None, (300, 300, 300)),
        (Timeouts(first_output=None, idle=900, stall=None), None, (None, 900, None)),
        (Timeouts(), Timeouts(first_output=7, idle=8, stall=9), (7, 8, 9)),
    ],
)
async def test_an_image_gets_five_minutes_for_each_wait_unless_told_otherwise(
    registry, general, given, waits
):
    asked_under: list[Timeouts] = []

    async def adapter(provider, transport, target, request, timeouts):
        asked_under.append(timeouts)
        yield [ImageResult((ImagePart(b"made"),)), Finish("stop")]

    reg = registry({}, timeouts=general)
    operations = {"images": Operation(adapter=adapter)}
    reg.register("a", Provider("a", "x", "http://a", ChatCodec(), operations=operations))
    await reg.generate_images("a/m", "x", timeouts=given)
    (seen,) = asked_under
    assert (seen.first_output, seen.idle, seen.stall) == waits
    assert seen.connect == 5


async def test_input_images_are_made_to_fit_and_the_request_is_left_alone(serve, registry):
    large = ImagePart(picture(300, 200))
    asked = ImageRequest("a hat on it", images=large)
    server = await serve(DRAWN)
    dsn = server.dsn("google", max_image_dimension=100)
    reg = registry({"g": dsn}, image_workers=0)
    await reg.generate_images("g/gemini-3-pro-image", asked)
    parts = server.requests[0].json()["contents"][0]["parts"]
    sent = base64.b64decode(parts[1]["inlineData"]["data"])
    assert max(size_of(sent)) == 100
    assert asked.images == (large,)


async def test_an_image_that_fits_is_sent_byte_for_byte(serve, registry):
    image = ImagePart(picture(30, 20))
    server = await serve(MADE)
    reg = registry({"a": server.dsn()})
    await reg.generate_images("a/m", ImageRequest("a hat on it", images=image))
    assert server.requests[0].path == "/v1/images/edits"
    assert image.data in server.requests[0].body


async def test_an_image_with_a_mask_keeps_its_size(serve, registry):
    image, mask = ImagePart(picture(300, 200)), ImagePart(picture(300, 200)[:-1] + b"\x83")
    server = await serve(MADE)
    reg = registry({"a": server.dsn(max_image_dimension=100)})
    await reg.generate_images("a/m", ImageRequest("a hat", images=image, mask=mask))
    assert image.data in server.requests[0].body
    assert mask.data in server.requests[0].body


async def test_no_input_image_is_left_out_to_fit(serve, registry):
    two = (ImagePart(picture(30, 20)), ImagePart(picture(20, 30)))
    asked = ImageRequest("put the first into the second", images=two)
    first = await serve(MADE)
    second = await serve(MADE)
    servers = {"a": first.dsn(max_images=1), "b": second.dsn()}
    reg = registry(servers)
    result = await reg.generate_images("a/m,b/m", asked)
    assert first.counts.requests == 0
    assert isinstance(result.attempts[0].error, UnsupportedError)
    assert all(image.data in second.requests[0].body for image in two)


async def test_what_is_no_image_is_unsupported_by_every_target(serve, registry):
    asked = ImageRequest("x", images=ImagePart(b"%PDF-1.7 nothing to see"))
    server = await serve(MADE)
    reg = registry({"a": server.dsn()}, image_workers=0)
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("a/m", asked)
    assert isinstance(caught.value.exceptions[0], UnsupportedError)
    assert server.counts.requests == 0


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_llama_swap_that_knows_only_sdapi_is_asked_that_way(serve, registry, status):
    script = {"/v1/images/generations": error(status), "/sdapi/v1/txt2img": PAINTED}
    server = await serve(paths=script)
    reg = registry({"ls": server.dsn("llama-swap")})
    result = await reg.generate_images("ls/sdxl", ImageRequest("a boat", seed=7))
    assert [each.outcome for each in result.attempts] == ["success"]
    assert [each.path for each in server.requests] == list(script)
    assert server.requests[1].headers["authorization"] == "Bearer test-key"
    assert server.requests[1].json() == {"model": "sdxl", "prompt": "a boat", "seed": 7}
    assert result.images == (ImagePart(PNG, mime="image/png"),)
    assert result.warnings == ()


async def test_images_to_edit_find_their_way_to_sdapi(serve, registry):
    script = {"/v1/images/edits": error(404), "/sdapi/v1/img2img": PAINTED}
    image = ImagePart(picture(30, 20))
    server = await serve(paths=script)
    reg = registry({"ls": server.dsn("llama-swap")})
    await reg.generate_images("ls/sdxl", ImageRequest("a hat", images=image))
    sent = server.requests[1].json()["init_images"]
    assert base64.b64decode(sent[0]) == image.data


@pytest.mark.parametrize("status", [400, 401, 429, 500, 502, 503])
async def test_no_other_status_leads_to_a_second_dialect(serve, registry, status):
    server = await serve(error(status))
    reg = registry({"ls": server.dsn("llama-swap")})
    with pytest.raises(LLMError):
        await reg.generate_images("ls/sdxl", "a boat")
    assert server.counts.requests == 1


async def test_a_model_that_no_dialect_knows_is_not_found(serve, registry):
    unknown = Answer(
        404,
        {},
        {"src": "llama-swap", "error": {"message": "no router", "code": "not_found"}},
    )
    server = await serve(unknown)
    reg = registry({"ls": server.dsn("llama-swap")})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("ls/nope", "a boat")
    await server.wait_requests(2)
    assert isinstance(caught.value.exceptions[0], ModelNotFoundError)


async def test_a_dialect_that_cannot_do_it_says_so_after_the_other_is_unknown(serve, registry):
    image = ImagePart(picture(30, 20))
    asked = ImageRequest("a hat", images=image, mask=image)
    server = await serve(error(404))
    reg = registry({"ls": server.dsn("llama-swap")})
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("ls/sdxl", asked)
    assert "masks by brightness" in str(caught.value)
    assert server.counts.requests == 1


async def test_a_provider_with_images_of_its_own_needs_one_codec(serve, registry):
    class Plain:
        """A wire that nobody else speaks."""

        def encode_images(self, provider: Provider, target: Target, request: ImageRequest):
            body = OpenAIImages().encode_images(provider, target, request).body
            return HttpRequest(f"{provider.base_url}/draw", {}, body)

        def decode_images(self, reply: HttpResponse):
            return OpenAIImages().decode_images(reply)

        def image_decoder(self) -> None:
            """Return None: it never streams."""

        def error(self, reply: HttpResponse):
            return OpenAIImages().error(reply)

    server = await serve(paths={"/draw": MADE})
    reg = registry({})
    row = Provider(
        "own", "x", server.url, ChatCodec(), operations={"images": Operation(lambda: (Plain(),))}
    )
    reg.register("own", row)
    result = await reg.generate_images("own/m", "x")
    assert json.loads(server.requests[0].body)["prompt"] == "x"
    assert result.images[0].data == PNG


@pytest.mark.parametrize("depth", [100, 300, 450, 900, 5000])
@pytest.mark.parametrize("name", ["openai", "google", "llama-swap"])
async def test_an_answer_that_nests_too_deeply_is_an_error_of_ours(serve, registry, name, depth):
    nested = '[{"a":' * depth + "1" + "}]" * depth
    content = '{"parts":[{"odd":X}]},"finishReason":"STOP","groundingMetadata":{"a":X}'
    body = f'{{"candidates":[{{"content":{content}}}],"data":X,"images":X}}'.replace("X", nested)
    server = await serve(Answer(200, {"content-type": "application/json"}, body))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": server.dsn(name)}).generate_images("a/m", "x")
    assert isinstance(caught.value.last, ProtocolError | GenerationError)


URLS = b",".join([b'{"url":""}'] * 100_000)


@pytest.mark.parametrize("name", ["openai", "google", "llama-swap"])
@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"data": [%s], "images": [%s]}' % (URLS, URLS), "strings"),
        (b'{"words": "%s"}' % (b"word " * 2_000_000), "more than 4194304 bytes beside its files"),
    ],
    ids=["objects", "words"],
)
async def test_a_reply_that_would_hold_up_the_loop_is_refused(serve, registry, name, body, said):
    """It is decoded in one go, so what it has beside files, and the objects in it, have a limit."""
    server = await serve(Answer(200, {"content-type": "application/json"}, body))
    with pytest.raises(FailoverError) as caught:
        await registry({"a": server.dsn(name)}).generate_images("a/m", "x")
    assert said in str(caught.value.last)


async def test_a_field_of_a_request_that_is_given_as_an_option_is_told_from_one():
    async with Registry(env={}) as reg:
        reg.register("a", FakeProvider().provider())
        with pytest.raises(TypeError, match=r"'size' .*: pass ImageRequest\(.*, size="):
            await reg.generate_images("a/m", "a boat", size=(64, 64))
        with pytest.raises(TypeError, match="did you mean 'timeouts'"):
            await reg.generate_images("a/m", "a boat", timeout=3)
