"""Fields of a request as keywords of a call: what is asked then, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aiollm import (
    CallOptions,
    ConfigError,
    GenerateOptions,
    Registry,
    Request,
    RequestFields,
    StreamOptions,
    Timeouts,
    Tool,
    TurnOptions,
    assistant,
    tool,
    user,
)
from aiollm._failover.policy import OPTIONS
from aiollm.testing import FakeProvider, ToolCallStep

TOOL = Tool("by_hand")
FIELDS: dict[str, Any] = {
    "system": "Be brief.",
    "tool_choice": "auto",
    "parallel_tool_calls": False,
    "max_output_tokens": 5,
    "temperature": 0,
    "top_p": 0.5,
    "stop": ("a", "b"),
    "seed": 7,
    "reasoning": "low",
    "extra": {"*": {"top_k": 5}},
    "prompt_cache": "1h",
    "cache_key": "k",
}


class Answer(msgspec.Struct):
    """A type to ask for."""

    ok: bool


async def streamed(reg: Registry, request: Any, **options: Any) -> None:
    await reg.stream("fake/m", request, **options).collect()


async def generated(reg: Registry, request: Any, **options: Any) -> None:
    await reg.generate("fake/m", request, **options)


async def ran(reg: Registry, request: Any, **options: Any) -> None:
    await reg.run("fake/m", request, tools=[], **options).collect()


CALLS = [streamed, generated, ran]
Call = Callable[..., Any]


@pytest.fixture
async def asked():
    """Make a call with a new registry; return the request that the provider got."""

    async def ask(call: Call, request: Any, **options: Any) -> Request:
        fake = FakeProvider(default='{"ok": true}')
        async with Registry(env={}) as reg:
            reg.register("fake", fake.provider())
            await call(reg, request, **options)
        return fake.requests[0]

    return ask


def of_target(request: Request, extra: Any = None) -> Request:
    return msgspec.structs.replace(request, extra=extra or {})


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "request_", ["hi", user("hi"), [user("hi"), assistant("so?"), user("so")], Request("hi")]
)
async def test_whatever_is_asked_gets_the_fields(asked, call, request_) -> None:
    plain = request_ if isinstance(request_, Request) else Request(request_)
    wanted = of_target(Request(plain.messages, **FIELDS), {"top_k": 5})
    assert await asked(call, request_, **FIELDS) == wanted
    options = {"timeouts": Timeouts(idle=5), "retries": 0}
    assert await asked(call, request_, **FIELDS, **options) == wanted
    assert await asked(call, request_, **options) == plain


@pytest.mark.parametrize("call", CALLS)
async def test_a_keyword_replaces_the_field_of_a_ready_request(asked, call) -> None:
    ready = Request("hi", temperature=1, seed=3, extra={"*": {"a": 1}, "fake": {"b": 2}})
    wanted = Request("hi", seed=3, stop=("x",))
    got = await asked(call, ready, temperature=None, stop="x", extra={"fake/m": {"c": 3}})
    assert got == of_target(wanted, {"c": 3})
    assert (ready.temperature, ready.stop) == (1, ())


async def test_tools_and_an_output_are_fields_where_a_call_gives_them_no_other_sense(asked) -> None:
    wanted = Request("hi", tools=TOOL, output=Answer)
    assert await asked(streamed, "hi", tools=TOOL, output=Answer) == wanted
    assert await asked(generated, "hi", tools=[TOOL]) == Request("hi", tools=[TOOL])
    assert await asked(ran, "hi", output=Answer) == Request("hi", output=Answer)


async def test_a_typed_answer_keeps_the_fields_when_it_is_asked_for_again() -> None:
    fake = FakeProvider("{}", '{"ok": true}')
    async with Registry(env={}) as reg:
        reg.register("fake", fake.provider())
        answer = await reg.generate("fake/m", "hi", output=Answer, temperature=0, seed=1)
    assert answer == Answer(ok=True)
    assert [(each.temperature, each.seed) for each in fake.requests] == [(0, 1), (0, 1)]


async def test_every_turn_of_a_run_has_the_fields() -> None:
    @tool
    def weather() -> str:
        """Say how it is."""
        return "rain"

    fake = FakeProvider([ToolCallStep("weather")], "it rains")
    async with Registry(env={}) as reg:
        reg.register("fake", fake.provider())
        run = reg.run("fake/m", "hi", tools=[weather], seed=1, extra={"fake": {"k": 2}})
        await run.collect()
    assert [(each.seed, each.extra) for each in fake.requests] == [(1, {"k": 2})] * 2


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"max_tokens": 5}, TypeError, "unknown option 'max_tokens'; did you mean 'max_output_"),
        ({"timeout": 5}, TypeError, "unknown option 'timeout'; did you mean 'timeouts'"),
        ({"top_k": 5}, TypeError, r"'top_k'; .* goes into extra=\{'\*': \{'top_k': \.\.\.\}\}"),
        ({"stop_sequences": "."}, TypeError, "'stop_sequences'; did you mean 'stop'"),
        ({"api_key": "k"}, TypeError, "'api_key'; it belongs to a provider: set LLM_NAME="),
        ({"stream": True}, TypeError, r"'stream'; stream\(\) yields .*, generate\(\) returns"),
        ({"messages": "hi"}, TypeError, r"unknown option 'messages' \(known: system, "),
        ({"x" * 5000: 1}, TypeError, "unknown option 'xxx"),
        ({"temperature": "hot"}, ConfigError, "temperature is 'hot'"),
        ({"stop": 5}, ConfigError, "stop must be a str"),
        ({"extra": {"k": 1}}, ConfigError, "write extra="),
    ],
)
async def test_a_wrong_keyword_is_refused_before_anything_is_asked(
    call, options, error, reason
) -> None:
    fake = FakeProvider()
    async with Registry(env={}) as reg:
        reg.register("fake", fake.provider())
        with pytest.raises(error, match=reason) as caught:
            await call(reg, "hi", **options)
    assert len(str(caught.value)) < 500
    assert not fake.calls


async def test_a_misspelled_keyword_of_the_method_itself_is_recognized() -> None:
    async with Registry(env={}) as reg:
        with pytest.raises(TypeError, match="did you mean 'max_turns'"):
            reg.run("openai/x", "hi", tools=[], max_turn=3)
        with pytest.raises(TypeError, match="did you mean 'repairs'"):
            await reg.generate("openai/x", "hi", output=Answer, repair=3)
        with pytest.raises(TypeError, match="did you mean 'output'"):
            await reg.generate("openai/x", "hi", response_format=Answer)
        with pytest.raises(TypeError, match="did you mean 'retries'"):
            reg.stream_images("openai/x", "a boat", retry=3)


def test_the_keywords_are_the_fields_of_a_request() -> None:
    hints = {kind: set(kind.__annotations__) for kind in (StreamOptions, GenerateOptions)}
    fields = set(Request.__struct_fields__) - {"messages"}
    assert fields <= hints[StreamOptions]
    assert hints[StreamOptions] - hints[GenerateOptions] == {"output"}
    assert hints[StreamOptions] - set(TurnOptions.__annotations__) == {"tools", "output"}
    assert set(RequestFields.__annotations__) == fields - {"tools", "output"} == set(FIELDS)


def test_the_settings_that_a_call_may_override_are_those_of_its_options():
    assert tuple(CallOptions.__annotations__) == OPTIONS
