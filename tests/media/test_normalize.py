"""Requests made fit for a target: counts, budgets, copy on write, failover, long agent loops."""

from __future__ import annotations

import asyncio
import base64
import gc
import io
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm import media
from aiollm.capabilities import Capabilities, lookup
from aiollm.errors import ConnectError, UnsupportedError
from aiollm.media import MediaPool, info, normalize, normalize_with_warnings
from aiollm.media.locations import find
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    ProviderData,
    Request,
    TextPart,
    Tool,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)

COMMON = ("image/jpeg", "image/png", "image/gif", "image/webp")
CAPS = Capabilities(allowed_image_mime=COMMON)


def caps(**facts):
    """Return limits with these facts."""
    return Capabilities(**({"allowed_image_mime": COMMON} | facts))


def images(request):
    """Return the images of a request, in order."""
    return [place.image for place in find(request)]


def texts(request):
    """Return the text parts of a request, those in tool results included."""
    found = []
    for message in request.messages:
        for part in message.parts:
            pieces = part.content if isinstance(part, ToolResultPart) else (part,)
            found += [piece.text for piece in pieces if isinstance(piece, TextPart)]
    return found


@pytest.fixture
def dots(make):
    """Return any number of small images that fit everywhere, each of its own colour."""
    return lambda count: [
        ImagePart(make.png((2, 1), bytes([0, number % 251, number // 251, 7, 0, 0, 0])))
        for number in range(count)
    ]


# What fits passes.


async def test_a_request_without_images_is_the_same_object():
    request = Request("hello")
    assert await normalize(request, caps(images=False)) is request


def test_what_fits_is_the_same_object_and_nothing_is_awaited(dots):
    request = Request((user("look", *dots(3)),))
    step = normalize_with_warnings(request, lookup("anthropic"))
    with pytest.raises(StopIteration) as end:
        step.send(None)
    assert end.value.value == (request, ())
    assert end.value.value[0] is request


async def test_what_fits_passes_without_any_image_library(dots, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    request = Request((user(*dots(2)),))
    assert await normalize(request, CAPS) is request


async def test_what_does_not_fit_says_what_to_install(dots, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(UnsupportedError, match=r"aiollm-client\[images\].*aiollm-client\[simd\]"):
        await normalize(Request((user(*dots(1)),)), caps(max_image_dimension=1))


async def test_an_odd_end_is_believed_where_nothing_can_decode_it(dots, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    odd = Request((user(ImagePart(dots(1)[0].data[:-4] + bytes(70_000))),))
    assert await normalize(odd, CAPS) is odd


# Targets without images, URLs.


@pytest.mark.parametrize("facts", [{"images": False}, {"max_images_per_request": 0}])
async def test_a_target_without_images_refuses_them(dots, facts):
    with pytest.raises(UnsupportedError, match="does not accept images"):
        await normalize(Request((user(*dots(1)),)), caps(**facts))


async def test_urls_pass_where_the_target_loads_them():
    request = Request((user(ImagePart(url="https://example.com/a.png")),))
    assert await normalize(request, caps(image_urls=True)) is request


async def test_urls_are_refused_where_nobody_loads_them():
    request = Request((user("a", ImagePart(url="https://example.com/a.png")),))
    with pytest.raises(UnsupportedError, match=r"image 1 of 1 is a URL.*fetch_images=True"):
        await normalize(request, caps(image_urls=False))


async def test_a_target_of_which_it_is_not_known_is_asked_to_load_a_url():
    request = Request((user("a", ImagePart(url="https://example.com/a.png")),))
    assert await normalize(request, CAPS) is request


async def test_urls_are_loaded_once_where_that_is_allowed(dots, thread):
    asked = []
    (dot,) = dots(1)

    async def fetch(url):
        asked.append(url)
        return dot.data

    request = Request((user(ImagePart(url="https://example.com/a.png", detail="low")),))
    first = await normalize(request, CAPS, pool=thread, fetch=fetch)
    again = await normalize(request, CAPS, pool=thread, fetch=fetch)
    assert asked == ["https://example.com/a.png"]
    assert images(first) == images(again) == [ImagePart(dot.data, detail="low")]


async def test_what_loading_raises_passes_through(thread):
    async def fetch(url):
        raise ConnectError("refused")

    link = ImagePart(url="https://example.com/a.png")
    with pytest.raises(ConnectError):
        await normalize(Request((user(link, link),)), CAPS, pool=thread, fetch=fetch)


@pytest.mark.parametrize("urls", [True, False])
async def test_data_urls_are_bytes_in_disguise(dots, thread, urls):
    (dot,) = dots(1)
    url = "data:image/png;base64," + base64.b64encode(dot.data).decode()
    request = Request((user(ImagePart(url=url)),))
    made = await normalize(request, caps(image_urls=urls), pool=thread)
    assert images(made)[0].data == dot.data


@pytest.mark.parametrize("url", ["data:image/png,abc", "data:;base64,a", "data:", "data:;base64,"])
async def test_data_urls_that_do_not_decode_are_refused(thread, url):
    with pytest.raises(UnsupportedError, match=r"data URL|empty"):
        await normalize(Request((user(ImagePart(url=url)),)), CAPS, pool=thread)


# Counts and bodies.


async def test_the_oldest_images_beyond_the_count_become_text(dots):
    one, two, three, four = dots(4)
    result = ToolResultPart("id", (TextPart("shot"), two))
    turns = (user("a", one), assistant("b"), tool_results(result), user(three, "c", four))
    request = Request(turns)
    made, notes = await normalize_with_warnings(request, caps(max_images_per_request=2))
    gone = "[image left out: the target accepts at most 2 images a request]"
    assert images(made) == [three, four]
    assert texts(made) == ["a", gone, "b", "shot", gone, "c"]
    assert notes == ("2 older images left out: the target accepts at most 2 images a request",)
    assert [message.role for message in made.messages] == ["user", "assistant", "tool", "user"]


async def test_only_what_changes_is_copied(dots):
    request = Request((user("a", *dots(1)), assistant("b"), user("c", *dots(2))), system="s")
    before = repr(request)
    made = await normalize(request, caps(max_images_per_request=2))
    assert made is not request
    assert made.messages[1] is request.messages[1]
    assert made.messages[2] is request.messages[2]
    assert made.messages[0].parts[0] is request.messages[0].parts[0]
    assert repr(request) == before


async def test_the_oldest_images_beyond_the_body_become_text(make):
    def noise(seed):
        rows = bytes(3001) if seed is None else Random(seed).randbytes(30_000)
        rows = b"".join(b"\0" + rows[at : at + 300] for at in range(0, 30_000, 300))
        return ImagePart(make.png((100, 100), rows))

    shots = [noise(seed) for seed in range(10)]
    request = Request(tuple(user("shot", shot) for shot in shots))
    room = 64 * 1024 + 3 * 41_500 + 200
    made, notes = await normalize_with_warnings(request, caps(max_body_bytes=room))
    assert images(made) == shots[-3:]
    assert notes == (
        f"7 older images left out: the target accepts at most {room:,} bytes a request",
    )


async def test_text_and_files_count_into_the_body(make, dots):
    rows = b"".join(b"\0" + Random(at).randbytes(300) for at in range(100))
    shot = ImagePart(make.png((100, 100), rows))
    limits = caps(max_body_bytes=64 * 1024 + 100_000)
    assert len(images(await normalize(Request((user(shot, shot),)), limits))) == 2
    for more in (
        user("ä" * 10_000),
        assistant("x\ny" * 10_000),
        user(DocumentPart(bytes(20_000))),
        user(AudioPart(bytes(20_000))),
        user("\ud800" * 5000),
    ):
        made = await normalize(Request((more, user(shot, shot))), limits)
        assert len(images(made)) == 1
    tool = Tool("f", "x" * 30_000, function=print)
    assert len(images(await normalize(Request((user(shot, shot),), tools=(tool,)), limits))) == 1


async def test_a_body_without_room_for_images_is_refused(dots):
    request = Request((user("x" * 1000, *dots(1)),))
    with pytest.raises(UnsupportedError, match="no room for images"):
        await normalize(request, caps(max_body_bytes=500))


@pytest.mark.usefixtures("need_pil")
async def test_the_images_of_one_message_share_the_body(make, thread):
    photos = [
        ImagePart(make.save(make.photo(1200, 900, seed), "JPEG", quality=98, subsampling=0))
        for seed in range(4)
    ]
    assert min(len(photo.data) for photo in photos) > 200_000
    limits = caps(max_body_bytes=64 * 1024 + 4 * 190_000)
    made, notes = await normalize_with_warnings(
        Request((user("compare", *photos),)), limits, pool=thread
    )
    assert notes == ()
    assert len(images(made)) == 4
    assert all(len(image.data) <= 131_072 for image in images(made))


# What is made fits.


@pytest.mark.usefixtures("need_pil")
async def test_more_than_so_many_images_have_a_smaller_edge(make, thread):
    wide = ImagePart(make.save(make.photo(90, 60)))
    limits = caps(max_image_dimension=80, many_images=2, many_images_dimension=40)
    for count, edge in ((2, 80), (3, 40)):
        made = await normalize(Request((user(*[wide] * count),)), limits, pool=thread)
        assert {info(image).width for image in images(made)} == {edge}


@pytest.mark.usefixtures("need_pil")
async def test_the_byte_budget_is_counted_as_the_provider_counts(make, thread):
    data = make.save(make.photo(300, 200), "JPEG", quality=95)
    plain = caps(max_image_bytes=len(data))
    in_base64 = caps(max_image_bytes=len(data), image_bytes_in_base64=True)
    request = Request((user(ImagePart(data)),))
    assert await normalize(request, plain, pool=thread) is request
    made = await normalize(request, in_base64, pool=thread)
    assert len(base64.b64encode(images(made)[0].data)) <= len(data)


@pytest.mark.usefixtures("need_pil")
async def test_a_changed_image_keeps_what_the_caller_said_of_it(make, thread):
    state = ProviderData("google", {"thoughtSignature": "x"})
    part = ImagePart(
        make.save(make.photo(90, 60)), mime="image/png", detail="high", provider_data=state
    )
    (made,) = images(
        await normalize(Request((user(part),)), caps(max_image_dimension=30), pool=thread)
    )
    assert (made.detail, made.provider_data) == ("high", state)
    assert made.mime == info(made).mime


@pytest.mark.usefixtures("need_pil")
async def test_an_animation_becomes_its_first_frame(make, thread):
    frames = [make.photo(40, 30, seed) for seed in range(3)]
    gif = make.save(frames[0], "GIF", save_all=True, append_images=frames[1:])
    (made,) = images(await normalize(Request((user(ImagePart(gif)),)), CAPS, pool=thread))
    assert info(gif).animated
    assert not info(made).animated


@pytest.mark.usefixtures("need_pil")
async def test_an_image_that_cannot_be_made_to_fit_is_named(make, thread, dots):
    broken = ImagePart(make.save(make.photo(300, 200))[:2000])
    request = Request((user(*dots(2), broken),))
    with pytest.raises(
        UnsupportedError, match=r"image 3 of 3 must change \(its end is missing\), but the PNG"
    ):
        await normalize(request, CAPS, pool=thread)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"%PDF-1.7 hello", "format is unknown.*only these formats"),
        (b"\x89PNG\r\n\x1a\n", "damaged"),
    ],
)
@pytest.mark.usefixtures("need_pil")
async def test_bytes_that_are_no_image_are_refused(thread, data, reason):
    with pytest.raises(UnsupportedError, match=reason):
        await normalize(Request((user(ImagePart(data)),)), CAPS, pool=thread)


@pytest.mark.usefixtures("need_pil")
async def test_a_bomb_reaches_no_worker(make, pool):
    bomb = ImagePart(make.png((30_000, 30_000), b""))
    with pytest.raises(UnsupportedError, match="30000 x 30000 pixels"):
        await normalize(Request((user(bomb),)), caps(max_image_dimension=2000), pool=pool)
    assert pool.statistics().processes == 0


@pytest.mark.usefixtures("need_pil")
async def test_without_a_pool_the_call_has_one_of_its_own(make):
    request = Request((user(ImagePart(make.save(make.photo(90, 60)))),))
    (made,) = images(await normalize(request, caps(max_image_dimension=30)))
    assert info(made).width == 30


# Targets in turn, turns in a row.


@pytest.mark.usefixtures("need_pil")
async def test_each_target_of_a_chain_gets_what_it_accepts(make, thread):
    photo = ImagePart(make.save(make.photo(600, 400), "WEBP"))
    gif = ImagePart(make.save(make.photo(64, 48), "GIF"))
    request = Request((user(photo, gif),))
    first = caps(max_image_dimension=500)
    second = caps(max_image_dimension=200, allowed_image_mime=("image/png", "image/jpeg"))
    for limits in (first, second, first):
        made = [info(image) for image in images(await normalize(request, limits, pool=thread))]
        assert all(each.mime in limits.allowed_image_mime for each in made)
        assert [each.width for each in made] == [limits.max_image_dimension, 64]
    assert images(request) == [photo, gif]
    assert thread.statistics().prepared == 3


@pytest.mark.usefixtures("need_pil")
async def test_equal_bytes_in_another_part_are_not_prepared_again(make, thread):
    data = make.save(make.photo(900, 600), "BMP")
    limits = caps(max_image_dimension=30)
    for _ in range(3):
        copy = bytes(bytearray(data))
        await normalize(Request((user(ImagePart(copy)),)), limits, pool=thread)
    assert thread.statistics().prepared == 1
    assert thread.statistics().reused == 2


@pytest.mark.usefixtures("need_pil")
async def test_an_image_that_was_refused_is_not_tried_again(make, thread):
    request = Request((user(ImagePart(make.save(make.photo(300, 200))[:2000])),))
    for _ in range(3):
        with pytest.raises(UnsupportedError, match="damaged"):
            await normalize(request, CAPS, pool=thread)
    assert thread.statistics().refused == 1


@pytest.mark.usefixtures("need_pil")
async def test_what_was_prepared_is_found_again_without_awaiting(make, thread):
    request = Request((user(ImagePart(make.save(make.photo(900, 600), "BMP"))),))
    made = await normalize(request, caps(max_image_dimension=30), pool=thread)
    step = normalize(request, caps(max_image_dimension=30), pool=thread)
    with pytest.raises(StopIteration) as end:
        step.send(None)
    assert end.value.value == made


@pytest.mark.usefixtures("need_pil")
async def test_the_cache_is_bounded(make):
    async with MediaPool(0, cache_limit=20_000) as pool:
        for seed in range(12):
            part = ImagePart(make.save(make.photo(200, 150, seed), "JPEG"))
            await normalize(Request((user(part),)), caps(max_image_dimension=150), pool=pool)
            assert pool.statistics().bytes <= 20_000
        assert pool.statistics().bytes > 5_000


@pytest.mark.usefixtures("need_pil")
async def test_two_hundred_turns_with_a_screenshot_each_just_work(make, thread):
    limits = caps(
        max_images_per_request=8,
        max_image_dimension=200,
        max_image_bytes=40_000,
        image_bytes_in_base64=True,
        max_body_bytes=500_000,
    )
    request = Request((user("play"),))
    screen = make.screenshot(320, 200)
    for turn in range(200):
        screen.putpixel((turn, 1), (255, 0, 0, 255))
        shot = ImagePart(make.save(screen, "PNG"))
        result = tool_results(ToolResultPart(str(turn), ("done", shot)))
        request = Request((*request.messages, assistant("click"), result))
        made, notes = await normalize_with_warnings(request, limits, pool=thread)
        sent = images(made)
        assert len(sent) == min(turn + 1, 8)
        assert len(images(request)) == turn + 1
        assert all(max(info(image).width, info(image).height) <= 200 for image in sent)
        assert all(len(base64.b64encode(image.data)) <= 40_000 for image in sent)
        assert len(notes) == (turn >= 8)
    done = thread.statistics()
    assert done.prepared == 200
    assert done.bytes <= 128 << 20
    del request, made, sent, shot, result
    gc.collect()
    assert thread._cache._digests == {}


@pytest.mark.usefixtures("need_pil")
async def test_a_history_larger_than_body_and_cache_is_prepared_once_all_the_same(make):
    thread = MediaPool(0, cache_limit=30_000)
    limits = caps(max_image_dimension=120, max_body_bytes=64 * 1024 + 20_000)
    request = Request(())
    for turn in range(30):
        shot = ImagePart(make.save(make.photo(160, 120, turn), "JPEG"))
        request = Request((*request.messages, user("x" * turn, shot)))
        made = await normalize(request, limits, pool=thread)
        assert sum(4 * len(image.data) / 3 for image in images(made)) <= 20_000
    assert thread.statistics().prepared == 30
    await thread.aclose()


# Whatever comes.


@pytest.mark.parametrize("kept", range(1, 16))
async def test_the_texts_in_place_of_images_count_too(make, thread, kept):
    """A body that is full to the last byte takes no text for what was left out of it."""
    image = ImagePart(make.save(make.photo(40, 40), "JPEG"))
    request = Request(tuple(user(image) for _ in range(16)))
    rest = media.fitting.rest_weight(request)
    full = rest + media.fitting.MARGINS.body + kept * media.fitting.weight(image)
    limits = caps(max_body_bytes=full)
    made = await normalize(request, limits, pool=thread)
    assert len(images(made)) == kept - 1
    assert await normalize(made, limits, pool=thread) is made


def picture(size, kind, seed):
    """Return a picture without fixtures, for hypothesis."""
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    made = image.frombytes("RGB", size, Random(seed).randbytes(3 * size[0] * size[1]))
    made.save(out, kind)
    return ImagePart(out.getvalue())


parts = st.lists(
    st.builds(
        picture,
        st.tuples(st.integers(1, 90), st.integers(1, 90)),
        st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "BMP"]),
        st.integers(0, 50),
    )
    | st.text(max_size=9),
    min_size=1,
    max_size=4,
)
limits_of = st.builds(
    Capabilities,
    max_images_per_request=st.none() | st.integers(1, 6),
    max_image_dimension=st.none() | st.integers(8, 80),
    max_image_bytes=st.none() | st.integers(6000, 12_000),
    image_bytes_in_base64=st.booleans(),
    max_body_bytes=st.none() | st.integers(90_000, 120_000),
    many_images=st.none() | st.integers(1, 4),
    many_images_dimension=st.integers(8, 80),
    allowed_image_mime=st.sets(st.sampled_from(COMMON), min_size=1).map(sorted).map(tuple),
)


@pytest.mark.usefixtures("need_pil")
@settings(max_examples=60, deadline=None)
@given(turns=st.lists(parts, min_size=1, max_size=5), limits=limits_of)
def test_every_request_keeps_the_limits_and_the_order(turns, limits):
    request = Request(tuple(user(*turn) for turn in turns))
    before = [list(message.parts) for message in request.messages]

    async def both():
        async with MediaPool(0) as pool:
            made = await normalize(request, limits, pool=pool)
            assert await normalize(made, limits, pool=pool) is made
            return made

    made = asyncio.run(both())
    old, sent = images(request), images(made)
    most = limits.max_images_per_request
    assert most is None or len(sent) <= most
    assert [list(message.parts) for message in request.messages] == before
    assert len(made.messages) == len(request.messages)
    weight = 0
    for was, now in zip(old[len(old) - len(sent) :], sent, strict=True):
        head, past = info(now), info(was)
        weight += len(base64.b64encode(now.data))
        assert head.mime in limits.allowed_image_mime
        assert limits.max_image_dimension is None or max(head.width, head.height) <= (
            limits.max_image_dimension
        )
        counted = base64.b64encode(now.data) if limits.image_bytes_in_base64 else now.data
        assert limits.max_image_bytes is None or len(counted) <= limits.max_image_bytes
        assert head.width <= past.width
        assert head.height <= past.height
        assert abs(head.width / past.width - head.height / past.height) <= 1 / min(
            past.width, past.height
        )
    assert limits.max_body_bytes is None or weight <= limits.max_body_bytes
    if made is not request:
        for message, same in zip(request.messages, made.messages, strict=True):
            assert (message is same) == (message.parts == same.parts)


def test_the_package_is_cheap_to_import():
    assert media.normalize is normalize
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        media.nothing  # noqa: B018
