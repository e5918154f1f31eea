"""Counting the input tokens of a request: who is asked, with what, and what becomes of answers."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from msgspec.structs import replace

from aiollm import (
    AuthenticationError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    DocumentPart,
    FailoverError,
    ImagePart,
    Limits,
    ModelNotFoundError,
    OverloadedError,
    ProtocolError,
    RateLimitError,
    Registry,
    Request,
    Secret,
    ServerError,
    Target,
    Timeouts,
    TokenCount,
    Tool,
    ToolCallPart,
    ToolResultPart,
    UnsupportedError,
    Usage,
    assistant,
    tool_results,
    user,
)
from aiollm.provider import Operation
from aiollm.testing import Answer, Cut, FakeProvider, FaultServer, Hang, html
from aiollm.testing.fake_script import PIXEL
from aiollm.types import Finish

KEY = "sk-made-up-for-counting"
DSNS = {
    "anthropic": "anthropic+http://{key}@{place}",
    "google": "google+http://{key}@{place}",
    "chat": "openai+http://{key}@{place}?api=chat",
    "responses": "openai+http://{key}@{place}?api=responses",
    "swap": "llama-swap+http://{key}@{place}",
}
WIRES = tuple(DSNS)
ROUTES = {
    "anthropic": "/v1/messages/count_tokens",
    "google": "/v1beta/models/m:countTokens",
    "chat": "/v1/chat/completions/input_tokens",
    "responses": "/v1/responses/input_tokens",
    "swap": "/upstream/m/v1/chat/completions/input_tokens",
}
TOKENIZE = {"chat": "/tokenize", "swap": "/upstream/m/tokenize"}
FIELDS = {"google": "totalTokens"}
"""Where a reply has its count, if not in `input_tokens`."""

TOOL = Tool("weather", "Of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
CITY = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
FULL = Request(
    (
        user("What is it like in Rome?", PIXEL),
        assistant(ToolCallPart("call_1", "weather", '{"city": "Rome"}')),
        tool_results(ToolResultPart("call_1", "mild", "weather")),
        user("And now?"),
    ),
    system="Be brief.",
    tools=(TOOL,),
    tool_choice="auto",
    max_output_tokens=4000,
)
SHORT = Request("x" * 400)
ESTIMATED = 104
"""Tokens of it by bytes alone, 16 of them for the message."""


def counted(wire: str, tokens: Any = 42) -> Answer:
    return Answer(200, {}, {FIELDS.get(wire, "input_tokens"): tokens})


class Place:
    """A registry whose providers are all wires of one server."""

    def __init__(self, server: FaultServer, reg: Registry) -> None:
        self.server = server
        self.reg = reg

    async def count(self, wire: str, *scripts: Any, **options: Any) -> TokenCount:
        self.server.push(*scripts)
        return await self.reg.count_tokens(f"{wire}/m", SHORT, **options)

    @property
    def paths(self) -> list[str]:
        return [each.path for each in self.server.requests]


@pytest.fixture
async def place() -> AsyncIterator[Place]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FaultServer())
        where = f"127.0.0.1:{server.port}"
        env = {
            f"LLM_{name.upper()}": dsn.format(key=KEY, place=where) for name, dsn in DSNS.items()
        }
        reg = await stack.enter_async_context(Registry(env=env, retries=0, image_workers=0))
        yield Place(server, reg)


@pytest.fixture
async def fakes() -> AsyncIterator[Callable[..., Registry]]:
    """Make a registry of fake providers by name; it ends with the test."""
    async with AsyncExitStack() as stack:

        async def make(**given: FakeProvider) -> Registry:
            reg = await stack.enter_async_context(Registry(env={}, retries=0))
            for name, fake in given.items():
                reg.register(name, fake.provider())
            return reg

        yield make


class TestWires:
    @pytest.mark.parametrize("wire", WIRES)
    async def test_a_service_that_counts_is_asked_once(self, place: Place, wire: str) -> None:
        count = await place.count(wire, counted(wire))
        assert count == TokenCount(42, "exact", Target(wire, "m"))
        assert place.paths == [ROUTES[wire]]
        (asked,) = place.server.requests
        assert KEY in "".join(asked.headers.values())

    async def test_what_makes_the_prompt_is_sent_and_nothing_that_only_a_call_takes(
        self, place: Place
    ) -> None:
        bodies = {}
        for wire in WIRES:
            place.server.push(counted(wire))
            await place.reg.count_tokens(f"{wire}/m", FULL, reasoning="low", output=CITY)
            bodies[wire] = place.server.requests[-1].json()
        asked = bodies["google"].pop("generateContentRequest")
        assert bodies.pop("google") == {}
        assert asked.keys() == {
            "model",
            "contents",
            "systemInstruction",
            "tools",
            "toolConfig",
            "generationConfig",
        }
        assert asked["model"] == "models/m"
        given = {"model", "messages", "tools", "tool_choice"}
        assert bodies["anthropic"].keys() == given | {"system", "thinking", "output_config"}
        # Beside tools these servers are asked for the schema in the prompt.
        more = {"max_tokens", "reasoning_effort"}
        assert bodies["chat"].keys() == bodies["swap"].keys() == given | more
        assert bodies["responses"].keys() == {
            "model",
            "input",
            "instructions",
            "tools",
            "tool_choice",
            "reasoning",
        }

    async def test_vllm_is_asked_at_a_route_beside_v1(self, place: Place) -> None:
        for wire, path in TOKENIZE.items():
            missing = Answer(404, {}, {"detail": "Not Found"})
            reply = {"count": 7, "max_model_len": 99, "tokens": [1] * 7}
            place.server.push(missing, Answer(200, {}, reply))
            count = await place.reg.count_tokens(f"{wire}/m", SHORT, tools=TOOL)
            assert (count.tokens, count.certainty) == (7, "exact")
            assert place.paths[-2:] == [ROUTES[wire], path]
            assert place.server.requests[-1].json().keys() == {"model", "messages", "tools"}

    async def test_vllm_is_not_asked_about_files_that_it_counts_as_one_token(
        self, place: Place
    ) -> None:
        result = tool_results(ToolResultPart("call_1", [PIXEL], "weather"))
        for last in (user("What is it?", PIXEL), result):
            messages = [user("hi"), assistant(ToolCallPart("call_1", "weather", "{}")), result]
            request = Request([last] if last.role == "user" else messages)
            place.server.push(Answer(404))
            assert (await place.reg.count_tokens("chat/m", request)).certainty == "estimated"
        assert set(place.paths) == {ROUTES["chat"]}

    async def test_vendors_that_do_not_count_for_chat_are_not_asked(self) -> None:
        async with Registry(env={}) as reg:
            for host in ("api.openai.com", "openrouter.ai/api", "api.groq.com/openai"):
                reg.register("vendor", f"openai://{KEY}@{host}/v1?api=chat")
                assert (await reg.count_tokens("vendor/m", SHORT)).certainty == "estimated"

    @pytest.mark.parametrize("wire", ["anthropic", "responses"])
    async def test_fields_of_extra_are_sent_but_for_those_that_only_a_call_takes(
        self, place: Place, wire: str
    ) -> None:
        extra = {wire: {"speed": "fast", "metadata": {"user_id": "u"}, "service_tier": "auto"}}
        await place.count(wire, counted(wire), extra=extra)
        body = place.server.requests[0].json()
        assert body["speed"] == "fast"
        assert not body.keys() & {"metadata", "service_tier"}


NO_ROUTE = {
    "llama.cpp": Answer(404, {}, {"error": {"code": 404, "message": "File Not Found"}}),
    "FastAPI": Answer(404, {}, {"detail": "Not Found"}),
    "Go": Answer(404, {}, "404 page not found"),
    "a page": html("<title>Not here</title>", status=404),
    "nothing": Answer(404),
    "LiteLLM": Answer(405, {}, {"detail": "Method Not Allowed"}),
    "not implemented": Answer(501, {}, {"error": "not implemented"}),
}
NAMED = "Unexpected endpoint or method. (POST {path})"


class TestNoRoute:
    @pytest.mark.parametrize("wire", WIRES)
    @pytest.mark.parametrize("said", NO_ROUTE)
    async def test_a_server_without_the_route_gets_an_estimate(
        self, place: Place, wire: str, said: str
    ) -> None:
        count = await place.count(wire, *[NO_ROUTE[said]] * 2)
        assert count == TokenCount(ESTIMATED, "estimated", Target(wire, "m"))

    @pytest.mark.parametrize("status", [200, 400, 404])
    @pytest.mark.parametrize("wire", WIRES)
    async def test_so_does_one_that_names_the_route(
        self, place: Place, wire: str, status: int
    ) -> None:
        paths = [ROUTES[wire], TOKENIZE.get(wire, "")]
        scripts = [Answer(status, {}, {"error": NAMED.format(path=path)}) for path in paths]
        assert (await place.count(wire, *scripts)).certainty == "estimated"

    async def test_an_older_llama_cpp_whose_tokenize_reads_texts_gets_one(
        self, place: Place
    ) -> None:
        count = await place.count("chat", NO_ROUTE["llama.cpp"], Answer(200, {}, {"tokens": []}))
        assert count.certainty == "estimated"

    @pytest.mark.parametrize(
        ("wire", "body"),
        [
            ("anthropic", {"error": {"type": "not_found_error", "message": "model: m"}}),
            ("google", {"error": {"status": "NOT_FOUND", "message": "models/m is not found"}}),
            ("responses", {"error": {"code": "model_not_found", "message": "no 'm' for you"}}),
            ("chat", {"error": {"message": "The model `m` does not exist.", "code": 404}}),
            ("swap", {"src": "llama-swap", "error": {"message": "no router for requested model"}}),
        ],
    )
    async def test_a_model_that_is_not_found_is_an_error(
        self, place: Place, wire: str, body: Any
    ) -> None:
        with pytest.raises(FailoverError) as caught:
            await place.count(wire, Answer(404, {}, body))
        assert isinstance(caught.value.last, ModelNotFoundError)


BAD: dict[str, tuple[Any, type[Exception]]] = {
    "nothing": (Answer(200), ProtocolError),
    "no object": (Answer(200, {}, b"[42]"), ProtocolError),
    "no number": (Answer(200, {}, {"tokens": 42}), ProtocolError),
    "cut": (Answer(200, {}, b'{"input_tokens": 4'), ProtocolError),
    "deep": (Answer(200, {}, b"[" * 100_000), ProtocolError),
    "a page": (html("<title>Log in</title>"), ServerError),
    "an error": (Answer(200, {}, {"error": {"message": "it is night"}}), ServerError),
    "broken": (Cut(5, Answer(200, {}, {"input_tokens": 42})), ConnectError.__mro__[1]),
    "401": (Answer(401, {}, {"error": {"message": "Invalid"}}), AuthenticationError),
    "401 that names the route": (Answer(401, {}, {"error": "/count_tokens"}), AuthenticationError),
    "429": (Answer(429, {"retry-after": "7"}, {}), RateLimitError),
    "500": (Answer(500, {}, {"error": {"message": "oh"}}), ServerError),
    "503": (Answer(503, {}, {}), OverloadedError),
}
NUMBERS = [-1, 4.5, "42", None, True, [42], 1e300, 10**30, {"n": 1}]


class TestBadAnswers:
    @pytest.mark.parametrize("said", BAD)
    @pytest.mark.parametrize("wire", WIRES)
    async def test_a_bad_answer_is_an_error(self, place: Place, wire: str, said: str) -> None:
        script, kind = BAD[said]
        with pytest.raises(FailoverError) as caught:
            await place.count(wire, script)
        (error,) = caught.value.exceptions
        assert isinstance(error, kind), repr(error)
        assert error.target == Target(wire, "m")
        (attempt,) = caught.value.attempts
        assert (attempt.outcome, attempt.target) == ("failed", error.target)

    @pytest.mark.parametrize("wire", WIRES)
    async def test_what_is_no_count_is_none(self, place: Place, wire: str) -> None:
        for number in NUMBERS:
            with pytest.raises(FailoverError) as caught:
                await place.count(wire, counted(wire, number))
            assert isinstance(caught.value.last, ProtocolError), number

    async def test_a_whole_number_may_be_written_as_a_float(self, place: Place) -> None:
        assert (await place.count("anthropic", counted("anthropic", 42.0))).tokens == 42

    @pytest.mark.parametrize("wire", WIRES)
    async def test_an_error_shows_no_key(self, place: Place, wire: str) -> None:
        said = {"error": {"message": f"wrong key {KEY}"}}
        for answer in (Answer(401, {}, said), Answer(200, {}, said), Answer(200, {}, f"x{KEY}")):
            with pytest.raises(FailoverError) as caught:
                await place.count(wire, answer)
            assert KEY not in repr(caught.value) + str(vars(caught.value.last))

    async def test_nor_does_that_of_an_adapter(self, fakes: Any) -> None:
        reg = await fakes()
        fake = FakeProvider(tokens=ServerError(f"wrong key {KEY}"))
        reg.register("fake", fake.provider(token=Secret(KEY)))
        with pytest.raises(FailoverError) as caught:
            await reg.count_tokens("fake/m", SHORT)
        assert KEY not in repr(caught.value) + str(caught.value)


class TestTargets:
    async def test_the_next_target_is_asked_where_one_fails(self, place: Place) -> None:
        place.server.push(Answer(503, {}, {}), counted("google", 9))
        count = await place.reg.count_tokens("anthropic/m,google/m", SHORT)
        assert count == TokenCount(9, "exact", Target("google", "m"))

    async def test_one_that_cannot_count_is_not_passed_over(self, place: Place) -> None:
        """The count is about the target that a call would go to."""
        place.server.push(Answer(404))
        count = await place.reg.count_tokens("anthropic/m,google/m", SHORT)
        assert (count.certainty, count.target.provider) == ("estimated", "anthropic")
        assert len(place.paths) == 1

    async def test_one_that_is_set_aside_is_asked_last(self, fakes: Any) -> None:
        sick = FakeProvider(*[ServerError("down")] * 5, tokens=1)
        reg = await fakes(sick=sick, well=FakeProvider(tokens=2))
        with pytest.raises(FailoverError):
            await reg.generate("sick/m", "x")
        assert (await reg.count_tokens("sick/m,well/m", SHORT)).tokens == 2
        assert (await reg.count_tokens("sick/m", SHORT)).tokens == 1

    async def test_a_count_changes_no_health_and_takes_no_room(self, fakes: Any) -> None:
        failing = FakeProvider(tokens=AuthenticationError("no"))
        reg = await fakes(failing=failing, fine=FakeProvider(tokens=5))
        reg.limit("fine", Limits(rpm=1, tpm=1000, max_concurrency=1))
        for _ in range(20):
            with pytest.raises(FailoverError):
                await reg.count_tokens("failing/m", SHORT)
            await reg.count_tokens("fine/m", SHORT)
        (health,) = reg.health("failing/m")
        assert (health.state, health.failed) == ("healthy", 0)
        assert (await reg.generate("fine/m", "x")).text == "Hello"

    async def test_errors_that_no_target_mends_are_raised_at_once(self, fakes: Any) -> None:
        first, second = FakeProvider(tokens=ConfigError("wrong")), FakeProvider(tokens=2)
        reg = await fakes(first=first, second=second)
        with pytest.raises(ConfigError, match="wrong"):
            await reg.count_tokens("first/m,second/m", SHORT)
        assert second.counted == []

    async def test_a_target_that_cannot_take_the_request_is_passed_over(self, fakes: Any) -> None:
        plain, able = FakeProvider(tokens=1), FakeProvider(tokens=2)
        reg = await fakes(able=able)
        reg.register("plain", plain.provider(facts={"tools": False}))
        count = await reg.count_tokens("plain/m,able/m", SHORT, tools=TOOL)
        assert count.target.provider == "able"
        with pytest.raises(FailoverError) as caught:
            await reg.count_tokens("plain/m", SHORT, tools=TOOL)
        assert isinstance(caught.value.last, UnsupportedError)

    async def test_a_failed_count_leaves_no_cycle(self, fakes: Any) -> None:
        reg = await fakes(a=FakeProvider(tokens=ServerError("no")), b=FakeProvider(tokens=2))
        await reg.count_tokens("a/m,b/m", SHORT)
        gc.collect()
        gc.disable()
        try:
            await reg.count_tokens("a/m,b/m", SHORT)
            assert gc.collect() == 0
        finally:
            gc.enable()


class TestRequests:
    async def test_keywords_are_fields_of_the_request(self, fakes: Any) -> None:
        fake = FakeProvider(tokens=lambda target, request: len(request.system) + len(target.model))
        reg = await fakes(fake=fake)
        request = Request("hi", system="old", max_output_tokens=5)
        count = await reg.count_tokens("fake/m", request, system="newer", tools=[TOOL], output=dict)
        assert count.tokens == 6
        (asked,) = fake.counted
        assert (asked.tools, asked.max_output_tokens) == ((TOOL,), 5)
        assert request.system == "old"

    @pytest.mark.parametrize(
        ("request_", "options", "error"),
        [
            ([], {}, ConfigError),
            ("hi", {"temperature": -1}, ConfigError),
            ("hi", {"extra": {"top_k": 1}}, ConfigError),
            ("hi", {"timeouts": 5}, ConfigError),
            ("hi", {"on_unsupported": "maybe"}, ConfigError),
            ("hi", {"retries": 1}, TypeError),
            ("hi", {"sytem": "x"}, TypeError),
        ],
    )
    async def test_a_wrong_request_is_refused_before_anything_is_asked(
        self, fakes: Any, request_: Any, options: Any, error: type[Exception]
    ) -> None:
        fake = FakeProvider(tokens=1)
        reg = await fakes(fake=fake)
        with pytest.raises(error):
            await reg.count_tokens("fake/m", request_, **options)
        assert fake.counted == []

    async def test_images_are_prepared_as_for_a_call(self, place: Place) -> None:
        # A vendor that takes no GIF as it is gets what a call would send.
        place.server.push(counted("google"), *[Answer(500, {}, {})] * 2)
        request = Request(user("What is it?", PIXEL, ImagePart(PIXEL.data, mime="image/gif")))
        await place.reg.count_tokens("google/m", request)
        with pytest.raises(FailoverError):
            await place.reg.generate("google/m", request)
        count, call = (each.json() for each in place.server.requests[:2])
        assert count["generateContentRequest"]["contents"] == call["contents"]

    async def test_files_that_a_target_does_not_take_can_be_left_out(self, fakes: Any) -> None:
        fake = FakeProvider(tokens=1)
        reg = await fakes()
        reg.register("fake", fake.provider(facts={"documents": False}))
        request = Request(user("Sum it up.", DocumentPart(b"%PDF-1.4", mime="application/pdf")))
        await reg.count_tokens("fake/m", request, on_unsupported="drop")
        assert not any(isinstance(part, DocumentPart) for part in fake.counted[0].messages[0].parts)


class TestFakes:
    async def test_a_fake_counts_what_it_is_given_and_remembers_the_requests(
        self, fakes: Any
    ) -> None:
        """A number, an error that is not shared between counts, a function of both."""
        fake = FakeProvider(tokens=3)
        reg = await fakes(fake=fake)
        assert await reg.count_tokens("fake/m", SHORT) == TokenCount(
            3, "exact", Target("fake", "m")
        )
        fake.tokens = ServerError("down")
        seen = []
        for _ in range(2):
            with pytest.raises(FailoverError) as caught:
                await reg.count_tokens("fake/m", SHORT)
            seen.append(caught.value.last)
        assert seen[0] is not seen[1]
        assert fake.tokens.target is None
        fake.tokens = lambda target, request: ServerError(target.model + request.system)
        with pytest.raises(FailoverError) as caught:
            await reg.count_tokens("fake/m", SHORT, system="-sys")
        assert "m-sys" in str(caught.value.last)
        assert (len(fake.counted), fake.calls) == (4, [])


class TestDeadlines:
    @pytest.mark.parametrize("after", [None, 3], ids=["no headers", "in the body"])
    async def test_a_server_that_hangs_is_given_up(self, place: Place, after: int | None) -> None:
        hang = Hang(after, Answer(200, {}, {"input_tokens": 1}))
        with pytest.raises(FailoverError) as caught:
            await place.count("anthropic", hang, timeouts=Timeouts(first_output=0.05))
        assert isinstance(caught.value.last, DeadlineError)
        assert caught.value.last.which == "first_output"

    async def test_the_total_deadline_holds_for_all_targets_together(self, place: Place) -> None:
        place.server.push(Hang(), Hang())
        limits = Timeouts(first_output=30, total=0.05)
        with pytest.raises(DeadlineError) as caught:
            await place.reg.count_tokens("anthropic/m,google/m", SHORT, timeouts=limits)
        assert caught.value.which == "total"
        assert len(place.paths) <= 1

    async def test_a_closed_registry_counts_nothing(self) -> None:
        reg = Registry(env={"LLM_BOX": "ollama+http://127.0.0.1:9"})
        await reg.aclose()
        with pytest.raises(ClosedError):
            await reg.count_tokens("box/m", SHORT)


class TestEstimates:
    async def test_an_estimate_learns_from_answers(self, fakes: Any) -> None:
        """Only where somebody has asked for one: it costs nothing elsewhere."""
        said = Finish("stop", usage=Usage(208, 1, certainty="exact"))
        reg = await fakes(fake=FakeProvider(default=["hi", said]))
        assert (await reg.count_tokens("fake/m", SHORT)).tokens == ESTIMATED
        for _ in range(20):
            await reg.generate("fake/m", SHORT)
        count = await reg.count_tokens("fake/m", SHORT)
        assert count.certainty == "estimated"
        assert abs(count.tokens - 208) < 20

    async def test_the_limits_of_calls_learn_from_a_count(self, fakes: Any) -> None:
        """By bytes alone the request would take more than the limit of a minute."""
        long = Request("x" * 40_000)
        reg = await fakes(fake=FakeProvider(tokens=1000))
        reg.limit("fake", Limits(itpm=4000))
        (before,) = reg.limits() or (None,)
        assert before is None
        for _ in range(12):
            await reg.count_tokens("fake/m", long)
        await reg.generate("fake/m", long, max_output_tokens=1)
        (after,) = reg.limits()
        assert after.used["input_tokens"] < 1500

    async def test_a_row_may_count_with_codecs_of_its_own(self, place: Place) -> None:
        class Own:
            def encode_count(self, provider: Any, target: Any, request: Any) -> Any:
                (known,) = provider.codec.counters(provider)
                return known.encode_count(provider, target, request)

            def decode_count(self, reply: Any) -> int:
                return len(reply.body)

        row = place.reg.provider("anthropic")
        place.reg.register("own", replace(row, operations={"count": Operation(lambda: (Own(),))}))
        assert (await place.count("own", Answer(200, {}, "12345"))).tokens == 5
