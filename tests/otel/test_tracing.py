"""Tracing: a span per call, attempt, run and tool, each ended once; content only on request."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from aiollm import (
    ConfigError,
    FailoverError,
    Finish,
    ImagePart,
    Provider,
    RateLimitError,
    Registry,
    Request,
    ServerError,
    StreamInterrupted,
    Target,
    TurnLimitError,
    Usage,
    WebSearch,
    assistant,
    tool,
    user,
)
from aiollm._failover.hooks import emit
from aiollm.events import RunEnded, RunStarted, TurnStarted
from aiollm.otel import instrument, semconv
from aiollm.testing import NEVER, FakeProvider, chat, tool_call
from aiollm.testing.faultserver import FaultServer
from aiollm.types import (
    DocumentPart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

from opentelemetry import trace  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402


class Spans:
    """The spans that have ended, in order, and a tracer that makes them."""

    def __init__(self) -> None:
        self.exporter = export.InMemorySpanExporter()
        provider = sdk.TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.tracer = provider.get_tracer("test")

    @property
    def all(self) -> list[Any]:
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.all]

    def one(self, name: str) -> Any:
        (span,) = [span for span in self.all if span.name == name]
        return span


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
async def over(spans: Spans) -> AsyncIterator[Callable[..., Registry]]:
    """Make a traced registry of the given fakes."""
    made: list[Registry] = []

    def make(*fakes: FakeProvider, capture_content: bool = False, **options: Any) -> Registry:
        registry = Registry(env={}, **({"retries": 0} | options))
        for fake in fakes:
            registry.register(fake.name, fake.provider())
        instrument(registry, spans.tracer, capture_content=capture_content)
        made.append(registry)
        return registry

    yield make
    for registry in made:
        await registry.aclose()


def parent_of(span: Any, parent: Any) -> bool:
    return span.parent is not None and span.parent.span_id == parent.context.span_id


USED = Usage(10, 5, 4, 2, "exact", 3)


async def test_the_span_of_a_call_says_what_it_cost_where_that_is_known(over, spans):
    billed = Usage(10, 5, certainty="exact", billed_usd=0.002)
    await over(FakeProvider(["Hello", Finish("stop", "end", billed)])).generate("fake/m", "hi")
    attempt, call = spans.all
    assert call.attributes["aiollm.cost.usd"] == 0.002
    assert "aiollm.cost.usd" not in attempt.attributes


async def test_a_call_and_its_attempt_are_spans(over, spans):
    fake = FakeProvider(["Hello", Finish("stop", "end", USED)])
    await over(fake).generate("fake/m", "hi")
    attempt, call = spans.all
    assert (attempt.name, call.name) == ("attempt fake/m", "chat m")
    assert parent_of(attempt, call)
    assert call.kind is attempt.kind is SpanKind.CLIENT
    assert call.status.status_code is StatusCode.UNSET
    first = call.attributes["gen_ai.response.time_to_first_chunk"]
    assert dict(call.attributes) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "fake",
        "gen_ai.request.model": "m",
        "gen_ai.request.stream": True,
        "gen_ai.response.model": "m",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": first,
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 4,
        "gen_ai.usage.cache_creation.input_tokens": 3,
        "gen_ai.usage.reasoning.output_tokens": 2,
        "server.address": "fake",
        "aiollm.spec": "fake/m",
        "aiollm.outcome": "success",
    }
    assert 0 <= first < 60
    assert attempt.attributes["gen_ai.response.time_to_first_chunk"] <= first
    assert "gen_ai.operation.name" not in attempt.attributes
    assert "gen_ai.usage.input_tokens" not in attempt.attributes


async def test_the_settings_of_a_request_are_on_the_span(over, spans):
    request = Request(
        "hi", max_output_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop=("x",), output=dict
    )
    await over(FakeProvider("{}")).generate("fake/m", request)
    found = dict(spans.one("chat m").attributes)
    assert {name: found[f"gen_ai.request.{name}"] for name in ("max_tokens", "seed")} == {
        "max_tokens": 9,
        "seed": 3,
    }
    assert (found["gen_ai.request.temperature"], found["gen_ai.request.top_p"]) == (0.5, 0.9)
    assert found["gen_ai.request.stop_sequences"] == ("x",)
    assert found["gen_ai.output.type"] == "json"


async def test_the_span_current_at_the_first_chunk_is_the_parent(over, spans):
    registry = over(FakeProvider("Hello"))
    stream = registry.stream("fake/m", "hi")
    with spans.tracer.start_as_current_span("request") as outer:
        await stream.collect()
        assert trace.get_current_span() is outer
    assert parent_of(spans.one("chat m"), spans.one("request"))


async def test_a_chain_has_a_span_for_each_attempt_and_tells_who_answered(over, spans):
    one = FakeProvider(RateLimitError("slow down", status=429), name="one")
    two = FakeProvider("Hello", name="two")
    await over(one, two).generate("one/a,two/b", "hi")
    failed, answered, call = spans.all
    assert (failed.name, answered.name, call.name) == ("attempt one/a", "attempt two/b", "chat b")
    assert parent_of(failed, call)
    assert parent_of(answered, call)
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.status.description == "one/a: slow down (HTTP 429)"
    assert failed.attributes["error.type"] == "RateLimitError"
    assert failed.attributes["http.response.status_code"] == 429
    assert failed.attributes["aiollm.outcome"] == "failed"
    assert "error.type" not in answered.attributes
    assert "error.type" not in call.attributes
    assert call.attributes["server.address"] == "two"
    assert call.attributes["gen_ai.request.model"] == "b"
    assert call.attributes["aiollm.spec"] == "one/a,two/b"


async def test_a_call_that_fails_says_why(over, spans):
    with pytest.raises(FailoverError):
        await over(FakeProvider(ServerError("down", status=500))).generate("fake/m", "hi")
    attempt, call = spans.all
    assert attempt.attributes["error.type"] == "ServerError"
    assert call.status.status_code is StatusCode.ERROR
    assert call.attributes["error.type"] == "FailoverError"
    assert "gen_ai.response.finish_reasons" not in call.attributes
    assert "gen_ai.usage.input_tokens" not in call.attributes


async def test_a_failed_call_over_a_spread_shows_its_first_target(over, spans):
    failing = FakeProvider(ServerError("down", status=500), ServerError("down", status=500))
    with pytest.raises(FailoverError):
        await over(failing).generate("3*fake/m&fake/n", "hi")
    call = spans.all[-1]
    assert call.attributes["aiollm.spec"] == "3*fake/m&fake/n"
    assert call.attributes["gen_ai.request.model"] == "m"
    assert call.attributes["server.address"] == "fake"


async def test_a_cut_stream_fails_its_attempt_after_the_first_output(over, spans):
    with pytest.raises(StreamInterrupted):
        await over(FakeProvider(["Hel", StreamInterrupted("cut")])).generate("fake/m", "hi")
    attempt, call = spans.all
    assert attempt.attributes["error.type"] == call.attributes["error.type"] == "StreamInterrupted"
    assert "gen_ai.response.time_to_first_chunk" in attempt.attributes


async def test_every_target_of_a_race_has_a_span_that_ends(over, spans):
    slow = FakeProvider([NEVER], name="slow")
    fast = FakeProvider("Hello", name="fast")
    await over(slow, fast).generate("slow/a|fast/b", "hi", stagger=0.0)
    outcomes = {span.name: span.attributes["aiollm.outcome"] for span in spans.all}
    assert outcomes == {
        "attempt slow/a": "abandoned",
        "attempt fast/b": "success",
        "chat b": "success",
    }
    assert all(parent_of(span, spans.one("chat b")) for span in spans.all[:2])


async def test_leaving_early_ends_the_spans_once_and_is_no_error(over, spans):
    stream = over(FakeProvider(["first", NEVER])).stream("fake/m", "hi")
    async for _ in stream:
        break
    assert spans.all == []
    await stream.aclose()
    await stream.aclose()
    del stream
    assert spans.names == ["attempt fake/m", "chat m"]
    for span in spans.all:
        assert span.attributes["aiollm.outcome"] == "abandoned"
        assert span.status.status_code is StatusCode.UNSET


async def test_dropping_a_stream_ends_its_spans(over, spans):
    async for _ in over(FakeProvider(["first", NEVER])).stream("fake/m", "hi"):
        break
    assert spans.names == ["attempt fake/m", "chat m"]


async def test_cancelling_the_reader_ends_its_spans(over, spans):
    fake = FakeProvider([NEVER])
    task = asyncio.create_task(over(fake).generate("fake/m", "hi"))
    await fake.wait_calls()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert spans.names == ["attempt fake/m", "chat m"]


async def test_calls_side_by_side_do_not_mix(over, spans):
    fake = FakeProvider(default="Hello")
    registry = over(fake)
    await asyncio.gather(*(registry.generate("fake/m", str(n)) for n in range(5)))
    calls = {span.context.span_id for span in spans.all if span.name == "chat m"}
    parents = [span.parent.span_id for span in spans.all if span.name == "attempt fake/m"]
    assert len(calls) == 5
    assert sorted(parents) == sorted(calls)


async def test_uninstrument_ends_what_is_open_and_sees_no_more(spans):
    async with Registry(env={}) as registry:
        registry.register("fake", FakeProvider(["a", NEVER], "b").provider())
        uninstrument = instrument(registry, spans.tracer)
        stream = registry.stream("fake/m", "hi")
        await anext(stream)
        uninstrument()
        uninstrument()
        assert sorted(spans.names) == ["attempt fake/m", "chat m"]
        await stream.aclose()
        await registry.generate("fake/m", "hi")
        assert len(spans.all) == 2


async def test_without_a_tracer_the_global_one_is_used():
    async with Registry(env={}) as registry:
        registry.register("fake", FakeProvider().provider())
        instrument(registry)
        assert (await registry.generate("fake/m", "hi")).text == "Hello"


async def test_without_the_api_instrument_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigError, match=r"pip install 'aiollm-client\[otel\]'"):
        instrument(Registry(env={}))


async def test_the_server_of_a_call_over_the_wire(spans):
    async with FaultServer(chat("Hello", usage=(7, 2))) as server:
        env = {"LLM_A": f"openai+{server.url}/v1"}
        async with Registry(env=env) as registry:
            instrument(registry, spans.tracer)
            await registry.generate("a/m", "hi")
        found = spans.one("chat m").attributes
        assert found["server.address"] == "127.0.0.1"
        assert found["server.port"] == server.port
        assert found["gen_ai.provider.name"] == "openai"
        assert found["gen_ai.usage.input_tokens"] == 7


@pytest.mark.parametrize(
    ("scheme", "base_url", "service", "port"),
    [
        ("openai", "https://api.openai.com/v1", "openai", 443),
        ("openai", "http://box:8080/v1", "openai", 8080),
        ("openai", "https://api.groq.com/openai/v1", "groq", 443),
        ("openai", "https://me.openai.azure.com/openai/v1", "azure.ai.openai", 443),
        ("openai", "https://api.deepseek.com/v1", "deepseek", 443),
        ("anthropic", "https://api.anthropic.com/v1", "anthropic", 443),
        ("google", "https://generativelanguage.googleapis.com/v1beta", "gcp.gemini", 443),
        ("google", "https://aiplatform.googleapis.com/v1", "gcp.vertex_ai", 443),
        ("ollama", "http://127.0.0.1:11434", "ollama", 11434),
        ("llama-swaps", "https://box/v1", "llama-swap", 443),
    ],
)
async def test_services_have_the_names_of_the_conventions(
    over, spans, scheme, base_url, service, port
):
    fake = FakeProvider()
    registry = over(fake)
    row: Provider = msgspec.structs.replace(fake.provider(), scheme=scheme, base_url=base_url)
    registry.register("fake", row)
    await registry.generate("fake/m", "hi")
    found = spans.one("chat m").attributes
    assert found["gen_ai.provider.name"] == service
    assert found["server.port"] == port


# Content


SECRET = "the secret recipe"


def everything_said(spans: Spans) -> str:
    return json.dumps([json.loads(span.to_json()) for span in spans.all])


@tool
async def look(place: str) -> str:
    """Look."""
    if place == "nowhere":
        raise LookupError(f"{SECRET} is not here")
    return f"{SECRET} in {place}"


async def work(registry: Registry) -> None:
    request = Request(SECRET, system=SECRET)
    await registry.run("fake/m", request, tools=[look]).collect()


def script() -> FakeProvider:
    calls = [tool_call("look", {"place": SECRET}), tool_call("look", {"place": "nowhere"}, 1)]
    return FakeProvider(calls, SECRET)


async def test_a_tool_that_the_provider_runs_is_no_function(over, spans):
    tools = [WebSearch(), look]
    await over(FakeProvider("a"), capture_content=True).generate("fake/m", "hi", tools=tools)
    (span,) = [span for span in spans.all if span.name == "chat m"]
    assert json.loads(span.attributes["gen_ai.tool.definitions"]) == [
        {"type": "web_search", "name": "web_search"},
        {"type": "function", "name": "look"},
    ]


async def test_content_is_off_by_default(over, spans):
    await work(over(script()))
    assert len(spans.all) == 7
    assert SECRET not in everything_said(spans)


async def test_content_is_captured_on_request(over, spans):
    await work(over(script(), capture_content=True))
    first, second = [span.attributes for span in spans.all if span.name == "chat m"]
    assert json.loads(first["gen_ai.input.messages"]) == [
        {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    ]
    assert json.loads(first["gen_ai.system_instructions"]) == [{"type": "text", "content": SECRET}]
    assert json.loads(first["gen_ai.tool.definitions"]) == [{"type": "function", "name": "look"}]
    called = {"type": "tool_call", "id": "call_0", "name": "look", "arguments": {"place": SECRET}}
    (said,) = json.loads(first["gen_ai.output.messages"])
    assert (said["role"], said["parts"][0]) == ("assistant", called)
    assert said["finish_reason"] == "tool_calls"
    results = json.loads(second["gen_ai.input.messages"])[2]
    assert results["role"] == "tool"
    assert results["parts"][0] == {
        "type": "tool_call_response",
        "id": "call_0",
        "response": f"{SECRET} in {SECRET}",
    }
    good, bad = [span for span in spans.all if span.name == "execute_tool look"]
    assert json.loads(good.attributes["gen_ai.tool.call.arguments"]) == {"place": SECRET}
    assert good.attributes["gen_ai.tool.call.result"] == f"{SECRET} in {SECRET}"
    assert bad.status.description == f"{SECRET} is not here"


async def test_every_kind_of_part_is_told_in_the_words_of_the_conventions(over, spans):
    state = ProviderData("other", {"k": "v"})
    messages = (
        user("look", ImagePart(b"12345", mime="image/png"), ImagePart(url="https://x/y.png"),
             ImagePart(url="data:image/png;base64,AAAA"), DocumentPart(b"%PDF")),
        assistant(ReasoningPart("hm"), RefusalPart("no"), OpaquePart(state),
                  ToolCallPart("c", "f", '{"cut', valid=False)),
        Message("tool", (ToolResultPart("c", (TextPart("a"), ImagePart(b"1"))),)),
        user("\ud800"),
    )  # fmt: skip
    fake = FakeProvider(name="fake")
    registry = over(capture_content=True)
    row = fake.provider(facts={"images": True, "documents": True, "image_urls": True})
    registry.register("fake", row)
    with pytest.raises(FailoverError):
        # The bytes are no images: what counts is what was asked.
        await registry.generate("fake/m", messages)
    told = json.loads(spans.one("chat m").attributes["gen_ai.input.messages"])
    assert [message["parts"] for message in told] == [
        [
            {"type": "text", "content": "look"},
            {"type": "image", "modality": "image", "mime_type": "image/png", "bytes": 5},
            {"type": "uri", "modality": "image", "uri": "https://x/y.png"},
            {"type": "image", "modality": "image", "bytes": 26},
            {"type": "document", "modality": "document", "mime_type": "application/pdf",
             "bytes": 4},
        ],
        [
            {"type": "reasoning", "content": "hm"},
            {"type": "refusal", "content": "no"},
            {"type": "opaque"},
            {"type": "tool_call", "id": "c", "name": "f", "arguments": '{"cut'},
        ],
        [
            {"type": "tool_call_response", "id": "c", "response": [
                {"type": "text", "content": "a"},
                {"type": "image", "modality": "image", "bytes": 1},
            ]},
        ],
        [{"type": "text", "content": "\ud800"}],
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", ["[1]", '{"a":NaN}', "nonsense"])
async def test_arguments_that_are_no_json_object_are_told_as_they_came(over, spans, arguments):
    asked = assistant(ToolCallPart("c", "f", arguments))
    answered = Message("tool", (ToolResultPart("c", (TextPart("a"),)),))
    registry = over(FakeProvider("ok", name="fake"), capture_content=True)
    await registry.generate("fake/m", [user("hi"), asked, answered])
    told = json.loads(spans.one("chat m").attributes["gen_ai.input.messages"])
    assert told[1]["parts"][0]["arguments"] == arguments


async def test_an_image_call_is_a_span_of_its_own_kind(over, spans):
    from aiollm.images import ImageRequest

    registry = over(FakeProvider(), capture_content=True)
    await registry.generate_images("fake/m", ImageRequest("a boat", count=2, seed=5))
    found = spans.one("generate_content m").attributes
    assert found["gen_ai.output.type"] == "image"
    assert found["gen_ai.request.choice.count"] == 2
    assert json.loads(found["gen_ai.input.messages"])[0]["parts"][0]["content"] == "a boat"


# Runs and tools


async def test_a_run_its_calls_and_its_tools_are_one_tree(over, spans):
    fake = FakeProvider(
        [tool_call("look", {"place": "here"}), Finish("tool_calls", "", USED)],
        ["Found", Finish("stop", "", USED)],
    )
    await over(fake).run("fake/m", "hi", tools=[look]).collect()
    run = spans.one("invoke_agent")
    first, second = [span for span in spans.all if span.name == "chat m"]
    (used,) = [span for span in spans.all if span.name == "execute_tool look"]
    assert all(parent_of(span, run) for span in (first, second, used))
    assert run.kind is used.kind is SpanKind.INTERNAL
    assert run.attributes["gen_ai.operation.name"] == "invoke_agent"
    assert run.attributes["gen_ai.usage.input_tokens"] == 20
    assert run.attributes["aiollm.turns"] == 2
    assert run.attributes["aiollm.outcome"] == "success"
    assert used.attributes["gen_ai.operation.name"] == "execute_tool"
    assert used.attributes["gen_ai.tool.name"] == "look"
    assert used.attributes["gen_ai.tool.type"] == "function"
    assert used.attributes["gen_ai.tool.call.id"] == "call_0"
    assert used.attributes["gen_ai.tool.description"] == "Look."
    assert run.end_time >= second.end_time


async def test_approvals_shorter_histories_and_steering_are_events_of_the_run(over, spans):
    fake = FakeProvider(
        [
            tool_call("look", {"place": "here"}, id="a"),
            tool_call("look", {"place": "there"}, id="b"),
        ]
    )
    run = over(fake, capture_content=True).run(
        "fake/m",
        [user("hi"), assistant("hello"), user("so?")],
        tools=[look],
        approve=lambda call: call.id == "a" or None,
        compact=lambda turn: turn.messages[-1:],
    )
    run.steer(SECRET)
    async for _ in run:
        pass
    span = spans.one("invoke_agent")
    call = {"gen_ai.tool.name": "look", "gen_ai.tool.call.id": "a"}
    later = call | {"gen_ai.tool.call.id": "b"}
    assert [(event.name, dict(event.attributes)) for event in span.events] == [
        ("aiollm.steered", {"aiollm.turn": 1}),
        ("aiollm.compacted",
         {"aiollm.turn": 1, "aiollm.messages.before": 4, "aiollm.messages.after": 1}),
        ("aiollm.approval.asked", call),
        ("aiollm.approval.decided", call | {"aiollm.approval.decision": "approved"}),
        ("aiollm.approval.asked", later),
        ("aiollm.approval.decided", later | {"aiollm.approval.decision": "later"}),
    ]  # fmt: skip
    assert span.attributes["aiollm.waiting"] == 1
    assert span.attributes["aiollm.outcome"] == "success"
    assert [each.name for each in spans.all].count("execute_tool look") == 1


async def test_what_a_tool_does_is_its_child_in_threads_too(over, spans):
    fake = FakeProvider([tool_call("ask"), tool_call("block", {}, 1)], "inner", "outer")
    registry = over(fake)

    @tool
    async def ask() -> str:
        """Ask."""
        return (await registry.generate("fake/inner", "hi")).text

    @tool
    def block() -> None:
        """Work in a thread."""
        spans.tracer.start_span("in a thread").end()

    with spans.tracer.start_as_current_span("request"):
        await registry.run("fake/m", "hi", tools=[ask, block]).collect()
        assert trace.get_current_span().name == "request"
    assert parent_of(spans.one("chat inner"), spans.one("execute_tool ask"))
    assert parent_of(spans.one("in a thread"), spans.one("execute_tool block"))
    assert parent_of(spans.one("invoke_agent"), spans.one("request"))


async def test_a_tool_that_fails_is_an_error_of_the_tool_alone(over, spans):
    fake = FakeProvider([tool_call("look", {"place": "nowhere"})], "Sorry")
    await over(fake).run("fake/m", "hi", tools=[look]).collect()
    used = spans.one("execute_tool look")
    assert used.status.status_code is StatusCode.ERROR
    assert used.attributes["error.type"] == "LookupError"
    assert used.status.description is None
    assert spans.one("invoke_agent").status.status_code is StatusCode.UNSET


async def test_leaving_a_run_ends_its_spans_once(over, spans):
    @tool
    async def hang() -> None:
        """Hang."""
        await asyncio.get_running_loop().create_future()

    fake = FakeProvider([tool_call("hang")])
    async with over(fake).run("fake/m", "hi", tools=[hang]) as run:
        async for event in run:
            if type(event).__name__ == "ToolStarted":
                break
    outcomes = {span.name: span.attributes["aiollm.outcome"] for span in spans.all}
    assert outcomes == {
        "attempt fake/m": "success", "chat m": "success",
        "execute_tool hang": "abandoned", "invoke_agent": "abandoned",
    }  # fmt: skip


async def test_a_run_that_fails_says_why_and_disowns_later_calls(over, spans):
    fake = FakeProvider(default=[tool_call("look", {"place": "here"})])
    registry = over(fake)
    with pytest.raises(TurnLimitError):
        await registry.run("fake/m", "hi", tools=[look], max_turns=1).collect()
    run = spans.one("invoke_agent")
    assert run.attributes["error.type"] == "TurnLimitError"
    assert run.status.status_code is StatusCode.ERROR
    spans.exporter.clear()
    await registry.generate("fake/m", "hi")
    assert spans.one("chat m").parent is None


async def test_a_turn_that_could_not_begin_adopts_no_later_call(over, spans):
    registry = over(FakeProvider())
    for event in (RunStarted(1, "fake/m"), TurnStarted(1, 1), RunEnded(1, "failed", 0.0, 1)):
        emit(registry._hooks, event)
    await registry.generate("fake/m", "hi")
    assert spans.one("chat m").parent is None
    assert spans.one("invoke_agent").attributes["error.type"] == "_OTHER"


async def test_a_broken_tracer_costs_no_call(over, spans, caplog):
    class Broken:
        def start_span(self, *_: Any) -> Any:
            raise RuntimeError("no exporter")

    async with Registry(env={}) as registry:
        registry.register("fake", FakeProvider().provider())
        instrument(registry, Broken())  # type: ignore[arg-type]
        assert (await registry.generate("fake/m", "hi")).text == "Hello"
    assert "an event hook failed" in caplog.text


def test_what_is_not_known_of_a_target_or_request_is_left_out():
    assert semconv.target_attributes(Target("gone", "m"), None) == {
        "gen_ai.provider.name": "gone",
        "gen_ai.request.model": "m",
    }
    assert semconv.request_attributes("what?") == semconv.request_content("what?") == {}
    assert semconv.error_attributes(None) == {"error.type": "_OTHER"}


async def test_a_provider_that_is_gone_costs_no_span(over, spans):
    spans_of_one = over(FakeProvider())
    told = []
    spans_of_one.on_event(told.append)
    await spans_of_one.generate("fake/m", "hi")
    other = Registry(env={})
    instrument(other, spans.tracer)
    spans.exporter.clear()
    for event in told:
        emit(other._hooks, event)
    assert spans.names == ["attempt fake/m", "chat m"]
    assert "server.address" not in spans.one("chat m").attributes
    for event in told[1:]:
        emit(other._hooks, event)
    assert len(spans.all) == 2


async def test_a_batch_of_embeddings_is_a_span_with_the_width_that_is_asked_for(over, spans):
    registry = over(FakeProvider(), capture_content=True)
    await registry.embed("fake/nomic", ["one", ImagePart(url="https://x.example/y.png")])
    await registry.embed("fake/nomic", "two", dimensions=4)
    plain, sized = (each for each in spans.all if each.name == "embeddings nomic")
    assert sized.kind is SpanKind.CLIENT
    assert sized.attributes["gen_ai.operation.name"] == "embeddings"
    assert sized.attributes["gen_ai.embeddings.dimension.count"] == 4
    assert sized.attributes["gen_ai.response.model"] == "nomic"
    assert "gen_ai.embeddings.dimension.count" not in plain.attributes
    assert "gen_ai.request.stream" not in plain.attributes
    (asked,) = json.loads(plain.attributes["gen_ai.input.messages"])
    assert [part.get("content") or part["uri"] for part in asked["parts"]] == [
        "one",
        "https://x.example/y.png",
    ]
    assert parent_of(spans.all[0], plain)


async def test_each_batch_of_one_call_has_a_span_and_a_failed_one_says_why(over, spans):
    registry = over(FakeProvider([], [], ServerError("broken", status=500)))
    with pytest.raises(FailoverError):
        await registry.embed("fake/m", ["one", "two", "three"], batch=1)
    calls = [each for each in spans.all if each.name == "embeddings m"]
    assert [each.attributes["aiollm.outcome"] for each in calls].count("failed") == 1
    assert len(calls) == 3
    assert not any("gen_ai.input.messages" in each.attributes for each in calls)


async def test_reranking_is_a_span_whose_texts_are_content(over, spans):
    registry = over(FakeProvider(), capture_content=True)
    await registry.rerank("fake/bge", "panda?", ["a bear", "a panda"], top=1)
    attributes = spans.one("rerank bge").attributes
    assert attributes["gen_ai.operation.name"] == "rerank"
    assert attributes["gen_ai.retrieval.top_k"] == 1
    assert attributes["gen_ai.retrieval.query.text"] == "panda?"
    documents = json.loads(attributes["gen_ai.retrieval.documents"])
    assert documents[1] == {"id": "1", "content": "a panda"}
    await over(FakeProvider()).rerank("fake/plain", "panda?", ["a bear"])
    assert "gen_ai.retrieval.query.text" not in spans.one("rerank plain").attributes
