"""How much work hostile answers are, in bytecode instructions a byte: bounded, and linear.

The shapes are those of `benchmarks/hostile.py`, which measures time, stalls and memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib.util
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aiollm import FailoverError, LLMError, Message, ProtocolError, Registry, TextPart, Timeouts
from aiollm._http import answer, streaming, turns
from aiollm._http.unary import UnaryRequester
from aiollm._streams.accumulator import Accumulator
from aiollm._user_types import density
from aiollm._wire.base64_stream import Lift
from aiollm._wire.framing import SSE
from aiollm._wire.runs import Run
from aiollm.dsn import Secret
from aiollm.provider import Operation, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google import decode as google_decode
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.model_lists import listed_names
from aiollm.providers.ollama import decode as ollama_decode
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai import chat_decode
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.chat_tool_calls import ToolCallAssembler
from aiollm.providers.openai.chat_wire import Lane
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.servers import LlamaSwap, Ollama, llama_swap
from aiollm.types import Finish, Request, Target, TextDelta, ToolCallDelta

HERE = Path(__file__).parent


def loaded(path: Path) -> Any:
    """Return a module that is no package's."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hostile = loaded(HERE.parents[1] / "benchmarks/hostile.py")
streams = loaded(HERE / "test_work.py")

CODECS = {
    "chat": ChatCodec,
    "responses": ResponsesCodec,
    "anthropic": AnthropicCodec,
    "google": GoogleCodec,
    "ollama": OllamaCodec,
}
SIZE = 4 * 1024
READ = 2048
ONCE = 20_000
"""Instructions that a call takes whatever comes: encoding, failover, errors, the first modules."""

A_BYTE = 24
"""Instructions a byte: a blank line takes 14, an empty event of ten bytes some 220."""


MANAGED = 50
"""The same of what model servers send, all of which is searched for keys: each takes 900."""

LARGE = 128 * 1024
"""Bytes of a read that is cut into pieces."""

A_PART = 600
"""Instructions that one part of a frame takes, such as a choice or a call."""


A_CALL = 900
"""Those that a call or an item of an output takes, whose parts are objects, too."""


@pytest.fixture(autouse=True)
def _clock_that_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine pieces become smaller, and so more."""
    monkeypatch.setattr(turns, "monotonic", lambda: 1.0)


async def work(name: str, size: int, read: int = READ) -> int:
    """Return the instructions that it takes to read one answer to whatever end."""
    wire, make = hostile.ALL[name]
    body = make(size)
    reads = [body[at : at + read] for at in range(0, len(body), read)]

    def adapter(provider, _, target, request, timeouts):
        return streaming.stream(provider, streams.Memory(reads), target, request, timeouts)

    chat = {"chat": Operation(adapter=adapter)}
    row = Provider("mem", wire, "http://mem.invalid/v1", CODECS[wire](), operations=chat)
    async with Registry(env={}, retries=0) as reg:
        reg.register("mem", row)
        with streams.Counter() as counter:
            with contextlib.suppress(LLMError, FailoverError):
                await reg.stream("mem/model", "hi").collect()
    return counter.count


@pytest.mark.parametrize("name", hostile.SHAPES)
def test_a_hostile_byte_costs_few_instructions_and_many_cost_no_more(name):
    asyncio.run(work(name, SIZE))  # all is imported
    small, large = asyncio.run(work(name, SIZE)), asyncio.run(work(name, 4 * SIZE))
    assert large <= ONCE + A_BYTE * 4 * SIZE
    assert large <= 4.4 * small + 2 * ONCE


@pytest.mark.parametrize("wire", CODECS)
def test_reads_that_are_too_large_cost_no_more_the_more_there_are(wire):
    few, many = (asyncio.run(work(f"{wire}: one text", size * LARGE, LARGE)) for size in (8, 32))
    assert many <= 4.4 * few


@pytest.mark.parametrize("size", [3 * LARGE, 8 * LARGE], ids=["not dense", "dense"])
@pytest.mark.parametrize("name", [name for name in hostile.SHAPES if "many values" in name])
def test_one_large_frame_has_few_parts_or_is_refused(name, size):
    """Its parts are read without a turn of the loop between two of them."""
    asyncio.run(work(name, SIZE))
    assert asyncio.run(work(name, size, size)) <= ONCE + A_PART * 512


@pytest.mark.parametrize("wire", CODECS)
def test_the_read_that_ends_a_large_event_copies_it_once_or_twice(wire):
    """Each copy of a megabyte holds up the loop, for nothing else can run."""
    framer, size = CODECS[wire]().framing(), 8 * LARGE
    body = hostile.SHAPES[f"{wire}: one text"][1](size)
    at = body.rfind(b"word") - LARGE // 4
    for begin in range(0, at, LARGE // 8):
        framer.feed(body[begin : min(begin + LARGE // 8, at)])
    end = body[at:]
    tracemalloc.start()
    try:
        frames = framer.feed(end)
        assert tracemalloc.get_traced_memory()[1] <= (2.3 if wire == "ollama" else 1.3) * size
    finally:
        tracemalloc.stop()
    assert frames


@pytest.mark.parametrize("name", ["chat: names", "responses: names", "anthropic: names"])
def test_what_is_too_dense_is_refused_before_all_of_it_has_come(name):
    wire, make = hostile.SHAPES[name]
    framer, body, read = CODECS[wire]().framing(), make(32 * LARGE), LARGE // 8
    with pytest.raises(ProtocolError, match="more than 24576 strings"):
        for at in range(0, len(body), read):
            framer.feed(body[at : at + read])
    assert at < 8 * LARGE


@pytest.mark.parametrize("name", hostile.LIMITS)
def test_what_is_just_below_a_limit_costs_few_instructions(name):
    """One frame is decoded without a turn of the loop: 100,000 take a millisecond."""
    asyncio.run(work(name, SIZE))
    assert asyncio.run(work(name, 0, 2**24)) <= ONCE + A_CALL * 512


class Loaded:
    """A transport of one reply, which it has in memory."""

    def __init__(self, reads, content_type):
        self._reply = streams.Reply(reads)
        self._reply.content_type = content_type

    def transport_of(self, _provider):
        return self

    async def send(self, request, connect):
        return self._reply


async def managed_work(name: str, size: int, read: int = READ) -> int:
    """Return the instructions that it takes to read what a model server sends."""
    wire, make = hostile.servers.SHAPES[name]
    _, head, call = hostile.servers.CALLS[wire]
    body = make(size)
    reads = [body[at : at + read] for at in range(0, len(body), read)]
    requester = UnaryRequester(Loaded(reads, head.decode().removeprefix("Content-Type: ")))
    row = Provider(
        "x", wire, "http://mem.invalid/v1", ChatCodec(), token=Secret("key-0123456789abcdef")
    )
    given = [partial(each, row, Timeouts()) for each in (requester.request, requester.open)]
    managers = {"llama_swap": LlamaSwap(row, *given), "ollama": Ollama(row, *given)}
    reg = SimpleNamespace(**{kind: lambda _, it=it: it for kind, it in managers.items()})
    with streams.Counter() as counter, contextlib.suppress(LLMError):
        await call(reg)
    return counter.count


@pytest.mark.parametrize("name", hostile.servers.SHAPES)
def test_a_hostile_byte_of_a_model_server_costs_few_instructions_and_many_cost_no_more(name):
    asyncio.run(managed_work(name, SIZE))
    small, large = (asyncio.run(managed_work(name, size)) for size in (2 * SIZE, 8 * SIZE))
    assert large <= ONCE + MANAGED * 8 * SIZE
    assert large <= 4.4 * small + 2 * ONCE


DENSE = ("names", "texts", "objects", "lists in lists", "objects with a name", "numbers")
"""What is small as JSON and large as Python's objects."""
UNWANTED = [
    f"{wire}: {value} in {place}"
    for wire, place in (
        *((wire, "error") for wire in CODECS),
        *(("chat", "arguments"), ("google", "arguments"), ("ollama", "arguments")),
        ("anthropic", "input"),
    )
    for value in DENSE
]


@pytest.mark.parametrize("name", UNWANTED)
def test_nothing_is_made_of_what_becomes_text_or_is_not_read(name):
    """An object of Python takes 56 bytes or more, and the time to make it and let it go."""
    wire, make = hostile.LIMITS[name]
    codec = CODECS[wire]()
    frames, decoder = codec.framing().feed(make(0)), codec.decoder()
    size = max(len(frame[-1]) if isinstance(frame, tuple) else len(frame) for frame in frames)
    copies = 5 if isinstance(frames, Run) else 4  # a run of lines is split by the decoder
    gc.collect()
    tracemalloc.start()
    try:
        with contextlib.suppress(LLMError):
            decoder.feed(frames, [])
        assert tracemalloc.get_traced_memory()[1] <= copies * size + 64 * 1024
    finally:
        tracemalloc.stop()


def test_nothing_is_made_of_an_event_that_is_not_known():
    body = hostile.servers.SHAPES["events: as many values in an event as may be"][1](64 * 1024)
    (frame,) = SSE().feed(body)
    tracemalloc.start()
    try:
        assert llama_swap._event(frame).type == "a"
        assert tracemalloc.get_traced_memory()[1] <= 2 * len(frame)
    finally:
        tracemalloc.stop()


async def turns_before_the_end(name: str) -> list[bool]:
    """Return of each batch of an answer whether others could run after it."""
    wire, make = hostile.LIMITS[name]
    provider = Provider("mem", wire, "http://mem.invalid/v1", CODECS[wire]())
    target, request = Target("mem", "m"), Request((Message("user", (TextPart("hi"),)),))
    turned: list[bool] = []
    batches = streaming.stream(provider, streams.Memory([make(0)]), target, request, Timeouts())
    async with contextlib.aclosing(batches):
        with contextlib.suppress(LLMError):
            async for _ in batches:
                turned.append(False)
                place = len(turned) - 1
                asyncio.get_running_loop().call_soon(turned.__setitem__, place, True)
        return [*turned]


@pytest.mark.parametrize("name", ["chat: names in error", "google: names in error"])
def test_others_run_before_a_failed_answer_is_dealt_with(name):
    assert asyncio.run(turns_before_the_end(name))[-1]


@pytest.mark.parametrize(
    "name", ["chat: names in arguments", "anthropic: names in input", "ollama: names in arguments"]
)
def test_others_run_between_a_large_frame_and_the_end_that_comes_with_it(name):
    """Both are looked at as a whole: what a call has, and whether it is complete."""
    *_, large, end = asyncio.run(turns_before_the_end(name))
    assert large
    assert end


class Told:
    """A decoder that notes whether it was told that a frame is large, and others ran before it."""

    ending = finished = told = have_turned = False

    def __init__(self):
        self.seen: list[tuple[int, bool, bool]] = []

    def expect_large(self):
        self.told = True

    def close(self, out):
        pass

    def feed(self, frames, out):
        self.seen += [(len(frame), self.told, self.told and self.have_turned) for frame in frames]
        self.told = self.have_turned = False
        asyncio.get_running_loop().call_soon(setattr, self, "have_turned", True)


def test_others_run_before_a_large_frame_of_which_its_decoder_knows():
    """It would try it as a plain chunk, and take as long again to find out that it is none."""
    frames = [b'"%b"' % (b"a" * size) for size in (9, 8 * LARGE, 9, 9 * LARGE, 9)]
    body = b"".join(b"data: %s\n\n" % frame for frame in frames)
    decoder = Told()

    async def read() -> None:
        whole = answer.Answer(streams.Reply([body, b""]), SSE(), decoder, Timeouts())
        while whole.goes_on:
            got = whole.take()
            if not isinstance(got, list):
                await got

    asyncio.run(read())
    sizes = [*map(len, frames)]
    assert decoder.seen == [(size, size > LARGE, size > LARGE) for size in sizes]


def never(_):
    raise AssertionError("it was tried as a plain chunk")


@pytest.mark.parametrize("wire", ["chat", "google", "ollama"])
def test_a_large_frame_is_not_tried_as_a_plain_one(wire, monkeypatch):
    decoder = CODECS[wire]().decoder()
    decoder.expect_large()
    monkeypatch.setattr(chat_decode, "USUAL", Lane(never, TextDelta))
    monkeypatch.setattr(google_decode, "decode_plain", never)
    monkeypatch.setattr(ollama_decode, "_decode_plain", never)
    out = []
    decoder.feed([hostile.TEXT[wire] % b'"a"'], out)
    assert out == [TextDelta("a")]


@pytest.mark.parametrize(
    "name",
    ["chat: objects with a name in content", "anthropic: objects with a name in block"],
)
def test_garbage_is_not_looked_for_while_a_large_frame_is_decoded(name, monkeypatch):
    wire, make = hostile.ALL[name]
    body = make(0)
    monkeypatch.setitem(hostile.ALL, name, (wire, lambda _: body))
    asyncio.run(work(name, 0, 2**24))
    began = []
    gc.callbacks.append(lambda phase, info: began.append(info) if phase == "start" else None)
    try:
        asyncio.run(work(name, 0, 2**24))
    finally:
        gc.callbacks.pop()
    assert len(began) <= 8
    assert gc.isenabled()


class Noting:
    """A decoder that notes whether garbage is looked for, and fails."""

    ending = finished = False
    looked_for = None

    def decode_with(self, decoder):
        pass

    def feed(self, frames, out):
        self.looked_for = gc.isenabled()
        raise ProtocolError("no JSON")


@pytest.mark.parametrize("on", [True, False])
def test_a_large_frame_that_fails_leaves_the_collector_as_it_was(on, monkeypatch):
    monkeypatch.setattr(answer, "_COLLECTS_WHILE_DECODING", True)
    decoder, others = Noting(), Noting()
    if not on:
        gc.disable()
    try:
        with pytest.raises(ProtocolError):
            answer._LargeFrameDecoder(decoder, others).feed([b"{}"], [])
        assert (decoder.looked_for, gc.isenabled()) == (False, on)
    finally:
        gc.enable()


def test_the_lines_of_a_long_event_are_joined_while_they_come():
    """To join them takes 80 bytes for each, and so the more time the more there are."""
    framer, piece = SSE(), b"data:\n" * 2500
    for _ in range(24):
        assert framer.feed(piece) == []
    tracemalloc.start()
    try:
        (frame,) = framer.feed(b"\n")
        assert tracemalloc.get_traced_memory()[1] <= 4 * len(frame)
    finally:
        tracemalloc.stop()
    assert frame == b"\n" * (24 * 2500 - 1)


def test_the_names_of_many_models_are_looked_at_as_one():
    """Each model takes some 0.1 microseconds, and its reply is read in one go."""
    body = b'{"data":[%b]}' % b",".join([b'{"id":"a"}'] * 1000)
    with streams.Counter() as counter:
        assert len(listed_names(body)) == 1000
    assert counter.count <= 12 * 1000


def test_no_decoder_looks_at_the_white_space_around_a_list_of_models():
    blank = b" " * 2**18
    assert listed_names(blank + b'{"data":[{"id":"a"}]}' + blank) == ("a",)
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            listed_names(blank)  # of which a lenient one makes a text
        assert tracemalloc.get_traced_memory()[1] <= 64 * 1024
    finally:
        tracemalloc.stop()


def test_pieces_of_arguments_that_are_too_many_are_not_looked_at():
    frame = hostile.ALL["google: many paths"][1](2**20)
    asyncio.run(work("google: many paths", SIZE))
    assert asyncio.run(work("google: many paths", 2**20, 2**24)) <= ONCE + 20 * 512
    assert len(frame) > LARGE


@pytest.mark.parametrize("name", hostile.calls.STREAMED)
def test_an_answer_in_a_rare_form_costs_few_instructions_and_more_of_it_no_more(name):
    asyncio.run(work(name, SIZE))
    small, large = asyncio.run(work(name, SIZE)), asyncio.run(work(name, 4 * SIZE))
    assert large <= ONCE + A_BYTE * 4 * SIZE
    assert large <= 4.4 * small + 2 * ONCE


@pytest.mark.parametrize("name", ["escapes in a file", "escaped slashes in a file"])
def test_escapes_in_a_file_are_not_looked_at_one_by_one(name):
    body, lift = hostile.calls.SHAPES[f"pictures: {name}"][1](4 * LARGE), Lift()
    with streams.Counter() as counter:
        left = [lift.feed(body[at : at + LARGE]) for at in range(0, len(body), LARGE)]
    assert len(b"".join(left)) < 100
    assert counter.count <= 2000


def test_short_texts_that_begin_like_files_cost_few_instructions():
    body, lift = hostile.calls.SHAPES["pictures: starts of files"][1](LARGE), Lift()
    with streams.Counter() as counter:
        assert lift.feed(body) + lift.close() == body
    assert counter.count <= 8 * LARGE


@pytest.mark.parametrize("text", ['"%s"' % ("a" * 4096), '"}",' * 999 + "1", r'"\"}",' * 999 + "1"])
def test_the_pieces_of_arguments_are_not_looked_at_one_by_one(text):
    """They may be a million, all of which are looked at before the call is run."""
    calls = ToolCallAssembler()
    calls.add(0, "a", "f", "")
    for piece in ('{"a":[', *text, "]}"):
        calls.extend(0, piece)
    with streams.Counter() as counter:
        assert calls.whole(ended=True)
    assert counter.count <= 300


def batches_of(reads: list[bytes], content_type: str) -> list[list[str]]:
    """Return the texts of each batch of an answer of chat."""
    reply = streams.Reply([*reads, b""])
    reply.content_type = content_type
    codec, found = ChatCodec(), []

    async def read() -> None:
        whole = answer.Answer(reply, codec.framing(), codec.decoder(), Timeouts())
        while whole.goes_on:
            got = whole.take()
            if isinstance(got, list):
                found.append([item.text for item in got if type(item) is TextDelta])
            else:
                await got
        assert whole.failure is None

    asyncio.run(read())
    return found


@pytest.mark.parametrize("kind", ["application/json", "text/html"])
@pytest.mark.parametrize("size", [1, 9, 64])
@pytest.mark.parametrize(
    "first", [b"", b"\n\n", b": PROCESSING\n\n", b"id: 1\n", b"retry: 3\n\n", b"\xef\xbb\xbf"]
)
def test_events_that_are_labelled_as_a_document_are_read_as_they_come(first, kind, size):
    body = first + b"".join(streams.replay.WIRES["openai"](9))
    reads = [body[at : at + size] for at in range(0, len(body), size)]
    streamed = batches_of(reads, "text/event-stream")
    assert batches_of(reads, kind) == streamed
    assert sum(map(bool, streamed)) > 3


def test_a_document_with_white_space_before_it_is_no_stream():
    body = b"\n" * 9999 + b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    assert batches_of([body[:5000], body[5000:]], "application/json")[-1] == ["a"]


@pytest.mark.parametrize(
    ("name", "copies"), [("text", 1.3), ("foreign text", 1.9), ("brackets alone", 1.3)]
)
def test_large_arguments_are_copied_as_seldom_as_may_be(name, copies):
    """The system clears the memory of each copy, which takes longer than to read it."""
    arguments = hostile.calls._ARGUMENTS[name](5 * 2**18)
    text, total, calls = arguments.decode(), Accumulator(), ToolCallAssembler()
    pieces = [text[at : at + 4000] for at in range(0, len(text), 4000)]
    calls.add(0, "a", "f", "")
    for piece in pieces:
        total.add([ToolCallDelta(0, "a", "f", piece)])
        calls.extend(0, piece)
    total.add([Finish("tool_calls")])
    for look in (total.message, partial(calls.whole, ended=True)):
        gc.collect()
        tracemalloc.start()
        try:
            look()
            assert tracemalloc.get_traced_memory()[1] <= copies * len(arguments)
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("name", ["brackets in texts", "names", "objects"])
def test_nothing_is_made_to_find_out_whether_arguments_are_an_object(name):
    """To count their parts takes longer than to decode them, and makes a text of each."""
    calls = ToolCallAssembler()
    arguments = hostile.calls._ARGUMENTS[name](300_000).decode()
    calls.add(0, "a", "f", arguments)
    tracemalloc.start()
    try:
        assert calls.whole(ended=False)
        assert tracemalloc.get_traced_memory()[1] <= 16 * 1024
    finally:
        tracemalloc.stop()


def test_arguments_of_brackets_are_refused_at_the_first_of_them():
    """To count a byte that is everywhere takes a search for each."""
    text = '{"":' + "{" * 2**20
    tracemalloc.start()
    try:
        assert density.is_dense(text)
        assert tracemalloc.get_traced_memory()[1] <= len(text) // 2
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("body", "kind", "is_left"),
    [
        (b" ", "application/json", True),
        (b"[", "application/json", True),
        (b" ", "text/html", False),
    ],
)
def test_the_rest_of_a_reply_that_is_refused_is_not_read(body, kind, is_left):
    """A page is, for it is told apart from an answer by all of it."""
    reads = iter([body * LARGE] * 31)
    requester = UnaryRequester(Loaded(reads, kind))
    row = Provider("x", "models", "http://mem.invalid/v1", ChatCodec(), token=Secret("k" * 16))
    request = row.codec.models(row)
    with contextlib.suppress(LLMError):
        asyncio.run(requester.request(row, Timeouts(), request))
    assert (next(reads, None) is not None) == is_left
