"""Lifting: large files leave a reply while it arrives, all else passes as it is."""

from __future__ import annotations

import asyncio
import base64
import json
import random
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm._wire.base64_files import from_text
from aiollm._wire.base64_stream import LARGE, Lift
from aiollm.errors import ProtocolError
from aiollm.images import ImageRequest
from aiollm.provider import HttpResponse, Operation, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.images_codec import OpenAIImages
from aiollm.testing import Answer, sse

DICE = random.Random(7)
WITH_DRAFTS = ImageRequest("x", extra={"*": {"stream": True, "partial_images": 3}})
HEADS = {
    "png": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "webp": b"RIFF\0\0\1\0WEBPVP8 ",
    "gif": b"GIF89a\1\0\1\0",
    "avif": b"\0\0\0\x1cftypavif",
    "heic": b"\0\0\0\x28ftypheic",
    "bmp": b"BM\1\0\0\0",
    "svg": b"<svg xmlns='http://www.w3.org/2000/svg'>",
    "svg with xml": b'<?xml version="1.0"?><svg>',
}


def file_of(size: int, head: bytes = HEADS["png"]) -> bytes:
    """Return an image file of `size` bytes, as far as its head tells."""
    return head + DICE.randbytes(size - len(head))


def text_of(data: bytes) -> str:
    """Return base64."""
    return base64.b64encode(data).decode()


def lifted(body: bytes, *sizes: int) -> tuple[bytes, Lift]:
    """Feed a body in pieces of these sizes, over and over; return what passed."""
    lift, out, at, turn = Lift(), b"", 0, 0
    while at < len(body):
        size = sizes[turn % len(sizes)]
        out += lift.feed(body[at : at + size])
        at, turn = at + size, turn + 1
    return out + lift.close(), lift


def restored(value: Any, lift: Lift) -> Any:
    """Put the files back as bytes, where their stand-ins are found."""
    match value:
        case str():
            head, comma, text = value.rpartition(",")
            try:
                pieces = lift.take(base64.b64decode(text, validate=True))
            except ValueError:
                pieces = None
            return value if pieces is None else (head + comma, b"".join(pieces))
        case list():
            return [restored(each, lift) for each in value]
        case dict():
            return {name: restored(each, lift) for name, each in value.items()}
        case _:
            return value


LARGEST = file_of(LARGE * 3)


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_a_large_image_leaves_a_stand_in_that_begins_as_it_does(head):
    data = file_of(LARGE, head)
    out, lift = lifted(json.dumps({"b64_json": text_of(data)}).encode(), 32 * 1024)
    stand_in = base64.b64decode(json.loads(out)["b64_json"])
    assert len(out) < 100
    assert stand_in[:12] == data[:12]
    assert b"".join(lift.take(stand_in) or ()) == data
    assert lift.take(stand_in) is None


@given(
    st.lists(
        st.one_of(
            st.integers(40, 60_000).map(lambda n: text_of(LARGEST[:n])),
            st.integers(60_000, len(LARGEST)).map(lambda n: text_of(LARGEST[:n])),
            st.sampled_from(
                ["data:image/png;base64," + text_of(LARGEST), "iVBORw0", ",Qk", "/9j/"]
            ),
            st.text(max_size=20),
            st.just("A" * 2 * LARGE),
        ),
        max_size=4,
    ),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=3),
    st.booleans(),
)
def test_however_a_body_is_cut_it_comes_back_whole(texts, sizes, as_ascii):
    value = {"data": texts, "usage": {"tokens": 3}}
    body = json.dumps(value, ensure_ascii=as_ascii).encode()
    sizes = [size + len(body) // 500 for size in sizes]
    out, lift = lifted(body, *sizes)
    for text, back in zip(texts, restored(json.loads(out), lift)["data"], strict=True):
        head, comma, data = text.rpartition(",")
        large = len(data) >= LARGE and data.startswith("iVBOR")
        assert back == ((head + comma, base64.b64decode(data)) if large else text)


def test_a_byte_at_a_time_gives_the_same():
    data = file_of(LARGE)
    out, lift = lifted(b'{"x":1,"b64_json":"%b","y":"/9j"}' % text_of(data).encode(), 1)
    assert restored(json.loads(out), lift) == {"x": 1, "b64_json": ("", data), "y": "/9j"}


@pytest.mark.parametrize(
    "escape",
    [
        lambda text: text.replace("/", "\\/"),
        lambda text: text.replace("+", "\\u002b").replace("=", "\\u003D"),
        lambda text: text.replace("A", "A\\r\\n"),
        lambda text: text.rstrip("="),
    ],
    ids=["slashes", "code points", "lines", "no padding"],
)
@pytest.mark.parametrize("size", [7, 1000, 200_000])
def test_escapes_line_ends_and_missing_padding_do_not_matter(escape, size):
    data = file_of(LARGE + 1)
    out, lift = lifted(b'{"url":"data:image/png;base64,%b"}' % escape(text_of(data)).encode(), size)
    found = restored(json.loads(out), lift)["url"]
    assert found == ("data:image/png;base64,", data)


@pytest.mark.parametrize(
    "odd",
    [
        text_of(LARGEST)[:-200_000] + "!" + "A" * 200_000,
        text_of(LARGEST) + "!",
        text_of(LARGEST[:-1]) + text_of(LARGEST),
        text_of(LARGEST)[: LARGE - 8] + "A\\u0022\\\\",
        text_of(LARGEST) + "A",
        text_of(LARGEST) + "\\ud83d",
    ],
    ids=[
        "a bad letter",
        "a bad end",
        "padding inside",
        "quotes",
        "a letter too many",
        "half a pair",
    ],
)
@pytest.mark.parametrize("size", [1000, 65_536, 10**6])
def test_what_is_no_base64_is_judged_by_the_codec_without_the_rest(odd, size):
    """All of it would be looked at in one go."""
    body = b'{"data":[{"b64_json":"%b"}],"more":[1]}' % odd.encode()
    out, lift = lifted(body, size)
    assert not lift._lifted
    assert len(out) < 100
    with pytest.raises(ProtocolError, match="not base64"):
        OpenAIImages().decode_images(HttpResponse(200, {}, out, ""))


@pytest.mark.parametrize(
    "form",
    [
        lambda text: text.replace("/", "_").replace("+", "-"),
        lambda text: text.replace("/", "_").replace("A", "A\\n"),
        lambda text: text[:100_000] + " " + text[100_000:],
        lambda text: text + "  ",
        lambda text: text + "====",
        lambda text: text[:99] + "\r" + text[99:].replace("A", "A\\n"),
    ],
    ids=["another alphabet", "and lines", "a space", "spaces at the end", "more padding", "raw CR"],
)
@pytest.mark.parametrize("size", [999, 65_536, 10**6])
@pytest.mark.parametrize("data", [LARGEST, LARGEST[:-1], LARGEST[:-2]], ids=["", "=", "=="])
def test_any_form_of_base64_is_decoded_as_it_comes(form, size, data):
    out, lift = lifted(b'{"b64_json":"%b"}' % form(text_of(data)).encode(), size)
    assert restored(json.loads(out, strict=False), lift) == {"b64_json": ("", data)}


def test_to_decode_base64_with_spaces_makes_no_object_for_each_word():
    text = "AAA " * LARGE
    tracemalloc.start()
    try:
        assert len(from_text(text)) == len(text) // 16 * 9
        assert tracemalloc.get_traced_memory()[1] <= 4 * len(text)
    finally:
        tracemalloc.stop()


def test_padding_is_the_end_even_where_a_read_ends_with_it():
    first = b'{"b64_json":"' + text_of(LARGEST[:-1]).encode()
    out, _ = lifted(first + b'AAAA"}', len(first) + 1)
    assert json.loads(out) == {"b64_json": "!"}


def test_padding_without_an_end_is_not_kept():
    lift = Lift()
    lift.feed(b'{"b64_json":"' + text_of(LARGEST[:-1]).encode())
    for _ in range(99):
        assert lift.feed(b"=" * LARGE) == b""
    assert len(lift._file._rest) < 2 * LARGE


def test_a_string_that_is_not_large_passes_as_it_is():
    body = b'{"a":"Qk %b","b":"iVBORw0KGg!"}' % (b"word " * 9999)
    assert lifted(body, 1000)[0] == body


def test_of_a_file_without_its_end_nothing_is_kept():
    body = b'{"b64_json":"' + text_of(LARGEST).encode()[:-5]
    assert lifted(body, 65_536)[0] == b'{"b64_json":"'


def test_the_end_of_an_event_is_never_held_back():
    lift = Lift()
    event = b'data: {"type":"x","b64_json":"iVBORw0"}\n\n'
    assert lift.feed(event) == event
    assert lift.feed(b"data: [DONE]\n\n") == b"data: [DONE]\n\n"


class Watched:
    """OpenAI's wire, which books how many bytes it is given at a time."""

    def __init__(self) -> None:
        self.given: list[int] = []
        self._images = OpenAIImages()

    def encode_images(self, *args: Any) -> Any:
        return self._images.encode_images(*args)

    def decode_images(self, reply: HttpResponse) -> Any:
        self.given.append(len(reply.body))
        return self._images.decode_images(reply)

    def image_decoder(self) -> Any:
        decoder, given = self._images.image_decoder(), self.given

        class Booking:
            finished = property(lambda _: decoder.finished)
            close = staticmethod(decoder.close)

            def feed(self, data: bytes, out: Any) -> None:
                given.append(len(data))
                decoder.feed(data, out)

        return Booking()

    def error(self, reply: HttpResponse) -> Any:
        return self._images.error(reply)


@pytest.fixture
def watched(registry):
    """Register a server under `own`; return the registry and the codec that books."""

    def make(server: Any) -> Any:
        codec = Watched()
        reg = registry({})
        row = Provider(
            "own", "x", server.url, ChatCodec(), operations={"images": Operation(lambda: (codec,))}
        )
        reg.register("own", row)
        return reg, codec

    return make


def whole(*files: bytes) -> Answer:
    """Return the answer that holds these files."""
    return Answer(200, {}, {"data": [{"b64_json": text_of(data)} for data in files]})


def streamed(draft: bytes, last: bytes) -> Any:
    """Return the events that bring a draft and an image."""
    steps = (("partial_image", draft), ("completed", last))
    kinds = [(f"image_generation.{kind}", text_of(data)) for kind, data in steps]
    return sse(*((kind, {"type": kind, "b64_json": text}) for kind, text in kinds))


async def test_no_codec_decodes_a_large_reply_in_one_go(serve, watched):
    files = (file_of(3_000_000), file_of(70_000, HEADS["webp"]), file_of(500, HEADS["jpeg"]))
    reg, codec = watched(await serve(whole(*files)))
    result = await reg.generate_images("own/m", ImageRequest("x", count=3))
    assert [image.data for image in result.images] == list(files)
    assert [image.mime for image in result.images] == ["image/png", "image/webp", "image/jpeg"]
    assert max(codec.given) < 1500


async def test_no_codec_decodes_a_large_event_in_one_go(serve, watched):
    draft, last = file_of(1_500_000), file_of(2_000_000)
    reg, codec = watched(await serve(streamed(draft, last)))
    images = [each async for each in reg.stream_images("own/m", WITH_DRAFTS)]
    assert images[0].image.data == draft
    assert images[1].images[0].data == last
    assert sum(codec.given) < 1500


class Threads(ThreadPoolExecutor):
    """The threads of a loop; while `go` is not set they take work and do not begin."""

    def __init__(self) -> None:
        super().__init__(2)
        self.made: list[Any] = []
        self.asked = asyncio.Event()
        self.go = threading.Event()
        self.go.set()

    def submit(self, function: Any, /, *args: Any, **named: Any) -> Any:
        def work() -> Any:
            assert self.go.wait(5)
            made = function(*args, **named)
            self.made.append(made)
            return made

        self.asked.set()
        return super().submit(work)

    @property
    def files(self) -> list[int]:
        """The sizes of what was put together."""
        return [len(made) for made in self.made if type(made) is bytes]


@pytest.fixture
async def threads():
    """Give the loop threads that can be held."""
    made = Threads()
    asyncio.get_running_loop().set_default_executor(made)
    yield made
    made.go.set()


async def test_a_large_file_is_put_together_in_a_thread(serve, watched, threads):
    reg, _ = watched(await serve(whole(file_of(100_000), file_of(2_000_000))))
    await reg.generate_images("own/m", ImageRequest("x", count=2))
    assert threads.files == [2_000_000]


async def test_cancelling_while_a_thread_works_ends_the_call_at_once(serve, watched, threads):
    server = await serve(streamed(file_of(500), file_of(2_000_000)))
    reg, _ = watched(server)
    stream = reg.stream_images("own/m", WITH_DRAFTS)
    draft = await anext(stream)
    assert len(draft.image.data) == 500
    threads.go.clear()
    threads.asked.clear()
    waiting = asyncio.create_task(anext(stream))
    async with asyncio.timeout(5):
        await threads.asked.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert threads.files == []
    assert stream.attempts[0].outcome == "abandoned"
    threads.go.set()
    again = await reg.generate_images("own/m", WITH_DRAFTS)
    assert len(again.images[0].data) == 2_000_000
