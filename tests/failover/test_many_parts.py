"""An answer of very many parts is refused while it comes: its message would be made in one go."""

from __future__ import annotations

import json
import re
from contextlib import AsyncExitStack

import pytest

from aiollm import FailoverError, ProtocolError, Registry
from aiollm._failover.attempt import MAX_HELD
from aiollm._wire.kept import MAX_KEPT
from aiollm.testing import Answer, FaultServer

GOOGLE = '{{"candidates":[{{"content":{{"parts":[{}]}}}}]}}'
ANTHROPIC = (
    'data: {{"type":"content_block_start","index":0,"content_block":{}}}\n\n'
    'data: {{"type":"content_block_stop","index":0}}\n\n'
)
RESPONSES = (
    'data: {"type":"response.output_text.delta","output_index":0,"delta":"a"}\n\n'
    'data: {"type":"response.refusal.delta","output_index":0,"delta":"b"}\n\n'
)
FOUND = {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"a": 1}] * 20}
CITED = (
    '{{"candidates":[{{"content":{{"parts":[{{"text":"a"}}]}},"citationMetadata":'
    '{{"citations":[{{"uri":"http://a.example/{}"}}]}}}}]}}'
)
CODE = {"executableCode": {"code": "a"}, "b": [[]] * 20}

EVENTS = {
    "text and reasoning": (
        "openai",
        'data: {"choices":[{"index":0,"delta":{"content":"a","reasoning_content":"b"}}]}\n\n',
    ),
    "text and refusals": ("openai?api=responses", RESPONSES),
    "blocks of text and thinking": (
        "anthropic",
        "".join(
            ANTHROPIC.format(json.dumps({"type": kind, kind: "a"})) for kind in ("text", "thinking")
        ),
    ),
    "results of searches": ("anthropic", ANTHROPIC.format(json.dumps(FOUND))),
    "texts with signatures": (
        "google",
        f"data: {GOOGLE.format(json.dumps({'text': 'a', 'thoughtSignature': 'b'}))}\n\n",
    ),
    "code": ("google", f"data: {GOOGLE.format(json.dumps(CODE))}\n\n"),
    "text and thinking": (
        "ollama",
        '{"message":{"content":"a","thinking":"b"},"done":false}\n',
    ),
}
"""By what an answer has many of: the scheme, and events that add a part or more."""


DELTA = 'data: {{"choices":[{{"index":0,"delta":{}}}]}}\n\n'
WAITING: dict[str, tuple[str, str, str]] = {
    "details of reasoning": (
        "openai",
        "",
        DELTA.format('{"content":"a","reasoning_details":[{"type":"x","index":%d}]}'),
    ),
    "fields of one detail": (
        "openai",
        "",
        DELTA.format('{"reasoning_details":[{"type":"reasoning.text","text":"a","x%d":[[],[]]}]}'),
    ),
    "blocks of thinking": (
        "openai",
        "",
        DELTA.format('{"thinking_blocks":[{"type":"thinking","thinking":"a","signature":"%d"}]}'),
    ),
    "fields of vendors": (
        "openai",
        "",
        DELTA.format('{"content":"a","extra_content":{"google":{"x%d":[[],[]]}}}'),
    ),
    "grounds": (
        "google",
        "",
        'data: {"candidates":[{"content":{},"groundingMetadata":{"x%d":[[],[]]}}]}\n\n',
    ),
    "fields of a block": (
        "anthropic",
        'data: {"type":"content_block_start","index":0,"content_block":{"type":"x"}}\n\n',
        'data: {"type":"content_block_delta","index":0,"delta":{"type":"x","x%d":[[],[]]}}\n\n',
    ),
}
"""What waits for the end of an answer: the scheme, the beginning, and events that add to it."""


async def refused(scheme: str, body: str) -> ProtocolError:
    """Return the error of an answer that goes on for ever."""
    kind = "application/x-ndjson" if scheme == "ollama" else "text/event-stream"
    async with FaultServer(Answer(200, {"content-type": kind}, body.encode())) as server:
        name, _, query = scheme.partition("?")
        dsn = server.url.replace("http://", f"{name}+http://key@") + f"?{query}"
        async with Registry(env={"LLM_X": dsn}, retries=0) as reg:
            with pytest.raises((ProtocolError, FailoverError)) as found:
                await reg.generate("x/m", "hi")
    error = found.value
    error = error.last if isinstance(error, FailoverError) else error
    assert isinstance(error, ProtocolError)
    return error


@pytest.mark.parametrize(("scheme", "events"), EVENTS.values(), ids=EVENTS)
async def test_an_answer_has_a_bounded_number_of_parts(scheme: str, events: str) -> None:
    error = await refused(scheme, events * (MAX_KEPT + 4096))
    assert "the answer holds more than" in str(error)
    assert error.partial is not None
    assert len(error.partial.message.parts) < MAX_KEPT + 4096


@pytest.mark.parametrize(("scheme", "begin", "event"), WAITING.values(), ids=WAITING)
async def test_what_waits_for_the_end_of_an_answer_is_bounded(
    scheme: str, begin: str, event: str
) -> None:
    body = "".join(event.replace("%d", str(at)) for at in range(MAX_KEPT))
    error = await refused(scheme, begin + body)
    assert re.search("more than (4096 details|32768 objects)", str(error))


async def test_an_answer_has_a_bounded_number_of_sources() -> None:
    body = "".join(f"data: {CITED.format(at)}\n\n" for at in range(MAX_KEPT + 4096))
    error = await refused("google", body)
    assert f"more than {MAX_KEPT} parts, sources and warnings" in str(error)
    assert error.partial is not None
    (part,) = error.partial.message.parts
    assert len(part.citations) < MAX_KEPT + 4096


async def test_as_many_parts_as_may_be_are_an_answer() -> None:
    _, event = EVENTS["text and reasoning"]
    end = 'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = event * (MAX_KEPT // 2) + end
    async with FaultServer(
        Answer(200, {"content-type": "text/event-stream"}, body.encode())
    ) as server:
        dsn = server.url.replace("http://", "openai+http://key@")
        async with Registry(env={"LLM_X": dsn}, retries=0) as reg:
            answer = await reg.generate("x/m", "hi")
    assert len(answer.message.parts) == MAX_KEPT


COUNTS = 'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\n'
SAID = 'data: {"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":"stop"}]}\n\n'


@pytest.mark.parametrize("spec", ["x/m", "x/m,y/m", "x/m|y/m"])
async def test_what_comes_before_any_output_is_bounded(spec: str) -> None:
    kind = {"content-type": "text/event-stream"}
    bodies = {"X": COUNTS * (MAX_HELD + 1000), "Y": SAID}
    async with AsyncExitStack() as stack:
        env = {}
        for name, body in bodies.items():
            script = Answer(200, kind, body.encode() + SAID.encode())
            server = await stack.enter_async_context(FaultServer(default=script))
            env[f"LLM_{name}"] = server.url.replace("http://", "openai+http://key@")
        reg = await stack.enter_async_context(Registry(env=env, retries=0))
        if "y" in spec:
            assert str((await reg.generate(spec, "hi")).target) == "y/m"
            return
        with pytest.raises(FailoverError) as found:
            await reg.generate(spec, "hi")
    assert isinstance(found.value.last, ProtocolError)
    assert f"{MAX_HELD} counts, sources and warnings came before" in str(found.value.last)


async def test_as_much_as_may_be_comes_before_the_output() -> None:
    body = (COUNTS * (MAX_HELD - 10) + SAID).encode()
    async with FaultServer(Answer(200, {"content-type": "text/event-stream"}, body)) as server:
        dsn = server.url.replace("http://", "openai+http://key@")
        async with Registry(env={"LLM_X": dsn}, retries=0) as reg:
            assert (await reg.generate("x/m", "hi")).text == "a"


async def test_a_flood_of_one_target_is_not_held_against_the_next_one() -> None:
    """Which may begin with much that is no output, such as an echo of its request."""
    kind = {"content-type": "text/event-stream"}
    flood = EVENTS["text and reasoning"][1] * (MAX_KEPT + 4096)
    answer = 'data: {"choices":[{"index":0,"delta":{"content":"Hi"},"finish_reason":"stop"}]}\n\n'
    echo = ": echo\n\n" * 16384
    async with (
        FaultServer(Answer(200, kind, flood.encode())) as first,
        FaultServer(Answer(200, kind, (echo + answer).encode())) as second,
    ):
        servers = {"LLM_A": first, "LLM_B": second}
        env = {
            name: each.url.replace("http://", "openai+http://key@")
            for name, each in servers.items()
        }
        async with Registry(env=env, retries=0, on_interrupt="restart") as reg:
            assert (await reg.generate("a/m,b/m", "hi")).text == "Hi"
