"""When a stream has ended: at its terminal event, at EOF, or after a silence that fits its pace.

Time is virtual: a wait costs nothing and moves the clock exactly.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from itertools import chain, repeat
from typing import Any

import pytest

from aiollm import errors
from aiollm._http import answer, streaming
from aiollm._streams.stream import Accumulator
from aiollm.provider import Codec, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import Request, Response, Target, Timeouts, user
from tests.virtual_time import VirtualLoop

Script = Iterable[tuple[float, bytes]]
"""Seconds to wait, then the bytes of a read; b"" is the end of the body."""


class Scripted:
    """A transport and its only reply."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012  the reply's own
    has_body = True
    closed = False

    def __init__(self, script: Script, content_type: str) -> None:
        self._script = iter(script)
        self.content_type = content_type

    async def send(self, _request: object, _connect: object) -> Scripted:
        return self

    async def read(self) -> bytes:
        seconds, data = next(self._script, (1e6, b""))
        await asyncio.sleep(seconds)
        if data == b"RESET":
            raise errors.StreamInterrupted("the connection broke off inside the body")
        return data

    async def drain(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a way to stream a script: it returns the response and when the stream ended."""

    def run(
        codec: Codec, script: Script, timeouts: Timeouts | None = None, kind: str = "event-stream"
    ) -> tuple[Response, float]:
        loop = VirtualLoop(0.0)
        monkeypatch.setattr(answer, "monotonic", loop.time)
        transport = Scripted(script, f"text/{kind}")
        provider = Provider("p", "x", "http://mem.invalid/v1", codec)
        request = Request((user("hi"),))

        async def whole() -> tuple[Response, float]:
            total = Accumulator()
            async for batch in streaming.stream(
                provider, transport, Target("p", "m"), request, timeouts or Timeouts()
            ):
                total.add(batch)
            return total.response(), loop.time()

        try:
            with asyncio.Runner(loop_factory=lambda: loop) as runner:
                return runner.run(whole())
        finally:
            assert transport.closed

    return run


def chat(text: str | None = None, finish: str | None = None) -> bytes:
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return b"data: %s\n\n" % json.dumps({"id": "c", "choices": [choice]}).encode()


def gemini(text: str = "", finish: str | None = None) -> bytes:
    parts = [{"text": text}] if text else []
    candidate = {"content": {"parts": parts}, "finishReason": finish}
    return b"data: %s\n\n" % json.dumps({"candidates": [candidate]}).encode()


DONE = b"data: [DONE]\n\n"
STOP = chat(finish="stop")
PINGS = repeat((0.5, b": ping\n\n"))
NAMED_PINGS = repeat((0.5, b'event: ping\ndata: {"type":"ping"}\n\n'))
EMPTY = repeat((0.5, b'data: {"id":"c","choices":[]}\n\n'))
TEXTS = [(1.0, chat("a")), (0.5, chat("b"))]


@pytest.mark.parametrize(
    ("script", "text", "ended"),
    [
        pytest.param([*TEXTS, (0.1, STOP), (0.1, DONE)], "ab", 1.7, id="the end mark ends it"),
        pytest.param([*TEXTS, (0.1, STOP), (0.3, b"")], "ab", 1.9, id="or the body's end"),
        pytest.param([*TEXTS, (0.1, STOP), (0.3, b"RESET")], "ab", 1.9, id="or its break"),
        pytest.param([*TEXTS, (0.1, STOP)], "ab", 3.6, id="silence after separate pieces"),
        pytest.param(chain([*TEXTS, (0.1, STOP)], PINGS), "ab", 3.6, id="pings are silence"),
        pytest.param(chain([*TEXTS, (0.1, STOP)], EMPTY), "ab", 3.6, id="empty chunks are, too"),
        pytest.param([(1.0, chat("ab", "stop"))], "ab", 5.0, id="a finish with the first piece"),
        pytest.param([(1.0, chat("ab") + STOP)], "ab", 5.0, id="all in one read"),
        pytest.param([(1.0, STOP)], "", 11.0, id="nothing was said"),
        pytest.param(
            [(9.0, chat("a")), (2.0, chat("b")), (0.1, STOP)], "ab", 19.1, id="a slow pace"
        ),
        pytest.param(
            [(9.0, chat("a")), (5.0, chat("b")), (0.1, STOP)], "ab", 24.1, id="a slower pace"
        ),
        pytest.param(
            [(1.0, chat("a", "stop")), (3.5, chat("b", "stop")), (9.0, chat("c", "stop"))],
            "abc",
            23.5,
            id="a finish reason in every chunk, with pauses",
        ),
        pytest.param(
            chain([(1.0, chat("a", "stop")), (3.5, chat("b", "stop"))], PINGS),
            "ab",
            14.5,
            id="the same, then pings",
        ),
        pytest.param(
            [(1.0, STOP), (4.0, STOP), (4.0, chat("a")), (0.1, DONE)],
            "a",
            9.1,
            id="late text",
        ),
    ],
)
def test_an_answer_ends_when_no_more_can_be_expected(
    play: Any, script: Script, text: str, ended: float
) -> None:
    response, when = play(ChatCodec(), script)
    assert (response.text, response.finish_reason) == (text, "stop")
    assert when == pytest.approx(ended)


@pytest.mark.parametrize(
    ("timeouts", "ended"),
    [(Timeouts(idle=1), 2.1), (Timeouts(stall=3), 3.1), (Timeouts(idle=None, stall=None), 3.6)],
)
def test_no_deadline_fails_an_answer_that_has_its_finish(
    play: Any, timeouts: Timeouts, ended: float
) -> None:
    response, when = play(ChatCodec(), chain([*TEXTS, (0.1, STOP)], PINGS), timeouts)
    assert response.text == "ab"
    assert when == pytest.approx(ended)


def test_googles_answer_ends_with_its_body(play: Any) -> None:
    script = [(1.0, gemini("a")), (1.0, gemini("b", "STOP")), (0.2, b"")]
    response, when = play(GoogleCodec(), script)
    assert (response.text, response.finish_reason) == ("ab", "stop")
    assert when == pytest.approx(2.2)


def test_googles_text_after_empty_stops_is_kept(play: Any) -> None:
    stops = [(1.0, gemini(finish="STOP")), (3.0, gemini(finish="STOP"))]
    response, when = play(GoogleCodec(), [*stops, (3.0, gemini("a")), (3.0, gemini("b", "STOP"))])
    assert response.text == "ab"
    assert when == pytest.approx(20.0)


def test_anthropics_pings_do_not_keep_an_answer_open(play: Any) -> None:
    events = (
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": "a"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    )
    script = [(1.0, b"data: %s\n\n" % json.dumps(event).encode()) for event in events]
    response, when = play(AnthropicCodec(), chain(script, NAMED_PINGS))
    assert (response.text, response.finish_reason) == ("a", "stop")
    assert when == pytest.approx(5.0)


def test_a_finish_whose_blank_line_a_broken_connection_took_counts(play: Any) -> None:
    script = [*TEXTS, (0.1, STOP[:-1]), (0.1, b"RESET")]
    assert play(ChatCodec(), script)[0].finish_reason == "stop"


def test_a_break_is_an_interruption_where_a_finish_reason_was_not_the_end(play: Any) -> None:
    pieces = [(1.0, chat("a", "stop")), (1.0, chat("b", "stop"))]
    with pytest.raises(errors.StreamInterrupted, match="broke off"):
        play(ChatCodec(), [*pieces, (1.0, b"RESET")])
    assert play(ChatCodec(), [*pieces, (1.0, b"")])[0].text == "ab"


def test_half_an_event_is_an_interruption(play: Any) -> None:
    for end in (b"", b"RESET"):
        with pytest.raises(errors.StreamInterrupted):
            play(ChatCodec(), [*TEXTS, (0.1, STOP[:-4]), (0.1, end)])


WHOLE = {
    ChatCodec: {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]},
    GoogleCodec: {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "STOP"}]},
    AnthropicCodec: {"content": [{"type": "text", "text": "a"}], "stop_reason": "end_turn"},
    ResponsesCodec: {
        "status": "completed",
        "output": [{"type": "message", "content": [{"type": "output_text", "text": "a"}]}],
    },
}


@pytest.mark.parametrize("codec", WHOLE)
def test_a_json_answer_may_be_labelled_as_events(play: Any, codec: type[Codec]) -> None:
    """Some gateways label whatever a streaming request gets."""
    body = json.dumps(WHOLE[codec], indent=1).encode()
    response, _ = play(codec(), [(0.1, body[:9]), (0.1, body[9:]), (0.1, b"")])
    assert (response.text, response.finish_reason) == ("a", "stop")


def test_json_before_the_first_event_is_an_error(play: Any) -> None:
    with pytest.raises(errors.ProtocolError):
        play(ChatCodec(), [(0.1, b'{"status":"starting"}\n\n'), *TEXTS, (0.1, STOP), (0.1, b"")])
