"""Events that come together give what they give one by one, whatever is among them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.batch import Batch
from aiollm.errors import LLMError
from aiollm.provider import Codec
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.types import Finish, Item, TextDelta, UsageUpdate

MANY = 40
"""Events of one read that are certainly read together."""


def sse(*data: str, end: str = "\n\n") -> list[bytes]:
    return [f"data: {each}{end}".encode() for each in data]


def choice(delta: str, rest: str = "") -> str:
    return f'{{"id":"c","choices":[{{"index":0,"delta":{delta}{rest}}}]}}'


COUNTS = '"promptTokenCount":3,"candidatesTokenCount":4'


def candidate(part: str, rest: str = "", counts: str = COUNTS) -> str:
    return (
        f'{{"candidates":[{{"content":{{"parts":[{part}]}},"index":0{rest}}}],'
        f'"usageMetadata":{{{counts}}}}}'
    )


def event(name: str, rest: str, *, named: bool = True) -> bytes:
    head = f"event: {name}\n" if named else ""
    return f'{head}data: {{"type":"{name}"{rest}}}\n\n'.encode()


def delta(inner: str) -> bytes:
    return event("content_block_delta", f',"index":0,"delta":{{{inner}}}')


def line(message: str, rest: str = '"done":false') -> bytes:
    return f'{{"model":"m","message":{{"role":"assistant",{message}}},{rest}}}\n'.encode()


START = (
    event("message_start", ',"message":{"usage":{"input_tokens":3}}')
    + event("content_block_start", ',"index":0,"content_block":{"type":"text","text":""}')
)  # fmt: skip
TOOL = '"tool_calls":[{"index":0,"id":"i","function":{"name":"f","arguments":"{}"}}]'

WIRES: dict[str, tuple[Codec, bytes, bytes, list[bytes]]] = {
    "openai": (
        ChatCodec(),
        b"",
        sse(choice('{"content":" word"}', ',"logprobs":null,"finish_reason":null'))[0],
        [
            *sse(
                choice('{"role":"assistant","content":""}'),
                choice('{"reasoning_content":"hm"}'),
                choice(f"{{{TOOL}}}"),
                choice('{"content":"a"}', ',"logprobs":{"content":[]}'),
                choice('{"content":"b","annotations":[{"url":"u"}]}'),
                choice('{"content":"c"}', ',"content_filter_results":{}'),
                choice('{"content":"\\ud83e"}'),
                choice('{"content":""}'),
                choice('{"content":"h"}', ',"native_finish_reason":null'),
                choice('{"content":"i","refusal":null}', ',"usage":null'),
                choice("{}", ',"finish_reason":"stop"'),
                choice('{"content":"d"}', ',"finish_reason":"stop"'),
                '{"id":"c","choices":[{"index":1,"delta":{"content":"other"}}]}',
                '{"id":"c","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}',
                '{"error":{"message":"m","code":503}}',
                "[DONE]",
                '{"id":',
            ),
            *sse(choice('{"content":"e"}'), end="\r\n\r\n"),
            b": a comment\n\n",
            b'{"error": {"message": "raw"}}\n',
            b"data: " + choice('{"content":"f"}').replace(",", ",\ndata: ", 1).encode() + b"\n\n",
            b"data: " + choice('{"content":"g"}').replace(",", ",\n", 1).encode() + b"\n\n",
        ],
    ),
    "anthropic": (
        AnthropicCodec(),
        START,
        delta('"type":"text_delta","text":" word"'),
        [
            delta('"type":"text_delta","text":""'),
            delta('"type":"text_delta","text":"\\ud83e"'),
            delta('"type":"citations_delta","citation":{"url":"u"}'),
            delta('"type":"thinking_delta","thinking":"hm"'),
            event("content_block_delta", ',"delta":{"type":"text_delta","text":"a"}', named=False),
            event("ping", ""),
            event("error", ',"error":{"type":"overloaded_error","message":"m"}'),
            event("content_block_stop", ',"index":0'),
            event("message_delta", ',"delta":{"stop_reason":"end_turn"},"usage":{}'),
            event("message_stop", ""),
            delta('"type":"text_delta","text":"b"').replace(b"\n", b"\r\n"),
            delta('"type":"text_delta","text":"c"').replace(b",", b",\n", 1),
            b"event: content_block_delta\ndata: \n\n",
            b"event: content_block_delta\n\n",
            b"event: content_block_delta\ndata: {\n\n",
            b": a comment\n\n",
            b"[DONE]\n\n",
        ],
    ),
    "google": (
        GoogleCodec(),
        b"",
        sse(candidate('{"text":" word"}'), end="\r\n\r\n")[0],
        [
            *sse(
                candidate('{"text":"hm","thought":true}'),
                candidate('{"text":"a","thoughtSignature":"s"}'),
                candidate('{"functionCall":{"name":"f","args":{}}}'),
                candidate('{"text":"b"}', ',"finishReason":"STOP"'),
                candidate('{"text":"c"},{"text":"d"}'),
                candidate('{"text":"\\ud83e"}'),
                candidate('{"text":""}'),
                candidate('{"text":"f"}', ',"avgLogprobs":-0.1'),
                candidate('{"text":"g"}', counts='"promptTokenCount":5,"candidatesTokenCount":9'),
                candidate('{"text":"h"}', counts='"candidatesTokenCount":7'),
                candidate('{"text":"i"}', counts='"promptTokenCount":3,"thoughtsTokenCount":"x"'),
                '{"candidates":[{"content":{"parts":[{"text":"j"}]}}]}',
                '{"candidates":[{"content":{"parts":[{"text":"k"}]},"index":1}]}',
                '{"usageMetadata":{"candidatesTokenCount":9}}',
                '{"error":{"code":503,"message":"m"}}',
                "[DONE]",
                '{"candidates":',
                end="\r\n\r\n",
            ),
            *sse(candidate('{"text":"e"}')),
            b": a comment\r\n\r\n",
        ],
    ),
    "ollama": (
        OllamaCodec(),
        b"",
        line('"content":" word"'),
        [
            line('"content":""'),
            line('"content":"","thinking":"hm"'),
            line('"content":"a","thinking":"hm"'),
            line('"content":"","tool_calls":[{"function":{"name":"f","arguments":{}}}]'),
            line('"content":"\\ud83e"'),
            line('"content":"b"', '"done":true,"done_reason":"stop","eval_count":2'),
            line('"content":""', '"done":true,"done_reason":"length"'),
            line('"content":"c"', '"done":null,"error":"e"'),
            line('"content":"d"').replace(b",", b",\n", 1),
            line('"content":"e"').replace(b"\n", b"\r\n"),
            b'{"error":"m"}\n',
            b'{"done":false}\n',
            b" \n\n",
            b"[DONE]\n",
            b"{}{}\n",
        ],
    ),
}  # fmt: skip


def read(codec: Codec, reads: list[bytes]) -> tuple[str, str, str]:
    """Return the items, ids that are made up at random masked, how the reply ended, its counts.

    Counts on the way are left out: how often they are told may differ.
    """
    framer, decoder, out, end = codec.framing(), codec.decoder(), list[Item](), ""
    batch = Batch()
    try:
        for each in reads:
            decoder.feed(framer.feed(each), batch)
            assert [*map(TextDelta, batch.texts)] == batch[: len(batch.texts)]
            out += batch
            batch = Batch()
            if decoder.finished:
                break
        else:
            decoder.feed(framer.close(), batch)
            decoder.close(batch)
    except LLMError as error:
        end = repr(error)
    out += batch
    said = [item for item in out if not isinstance(item, UsageUpdate)]
    counts = [item.usage for item in out if isinstance(item, Finish | UsageUpdate)]
    return re.sub(r"call_[0-9a-f]{16}", "call", repr(said)), end, repr(counts[-1:])


@pytest.mark.parametrize("wire", WIRES)
@given(data=st.data())
def test_events_that_come_together_give_what_they_give_one_by_one(wire, data) -> None:
    codec, start, plain, odd = WIRES[wire]
    runs = st.lists(st.tuples(st.sampled_from([0, 1, MANY]), st.sampled_from(odd)), max_size=4)
    events = [start] if start else []
    for count, other in data.draw(runs):
        events += [*[plain] * count, other]
    events += [plain] * MANY
    alone = read(codec, events)
    assert read(codec, [b"".join(events)]) == alone
    place = data.draw(st.integers(0, len(b"".join(events))))
    assert read(codec, [b"".join(events)[:place], b"".join(events)[place:]]) == alone


@pytest.mark.parametrize("wire", WIRES)
def test_each_odd_event_amid_many_gives_what_it_gives_alone(wire) -> None:
    codec, start, plain, odd = WIRES[wire]
    many = plain * MANY
    for other in odd:
        events = [start, *[plain] * MANY, other, *[plain] * MANY]
        alone = read(codec, [each for each in events if each])
        assert read(codec, [start + many + other + many]) == alone
        assert read(codec, [start + many, other + many]) == alone
        assert read(codec, [start + many + other, many]) == alone


@pytest.mark.parametrize("wire", WIRES)
def test_an_empty_text_is_no_chunk_wherever_it_comes(wire) -> None:
    codec, start, plain, _ = WIRES[wire]
    events = [*[plain] * MANY, plain.replace(b" word", b""), *[plain] * MANY]
    for reads in ([start + b"".join(events)], [start, *events][not start :]):
        assert read(codec, reads)[0].count("TextDelta(") == 2 * MANY
