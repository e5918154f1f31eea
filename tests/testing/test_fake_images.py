"""FakeProvider as a provider that makes images: scripts, drafts, failures, chains."""

from __future__ import annotations

import asyncio

import pytest

from aiollm import (
    FailoverError,
    Finish,
    ImagePart,
    ImageRequest,
    ImageResult,
    OverloadedError,
    PartialImage,
    Registry,
    Restart,
    StreamInterrupted,
    UnsupportedError,
    Usage,
)
from aiollm.errors import GenerationError
from aiollm.testing import NEVER, FakeProvider, Gate
from aiollm.types import ImageChunk

BOAT, DUCK = (ImagePart(name, mime="image/png") for name in (b"a boat", b"a duck"))


@pytest.fixture
async def serve():
    """Return a registry of the given fakes by name."""
    made = []

    def make(**fakes: FakeProvider) -> Registry:
        reg = Registry(env={}, retries=0)
        made.append(reg)
        for name, fake in fakes.items():
            reg.register(name, fake.provider())
        return reg

    yield make
    for reg in made:
        await reg.aclose()


async def test_without_a_script_as_many_images_come_as_were_asked_for(serve):
    fake = FakeProvider()
    result = await serve(fake=fake).generate_images("fake/m", ImageRequest("a boat", count=3))
    assert len(result.images) == 3
    assert result.images[0].data.startswith(b"\x89PNG")
    assert fake.image_requests == (ImageRequest("a boat", count=3),)
    assert fake.requests == ()
    assert fake.calls[0].outcome == "finished"


@pytest.mark.parametrize(
    ("script", "images"),
    [
        (BOAT, (BOAT,)),
        ([BOAT], (BOAT,)),
        ([BOAT, DUCK], (BOAT, DUCK)),
        ([[BOAT, DUCK]], (BOAT, DUCK)),
        (ImageResult((DUCK,)), (DUCK,)),
        (lambda target, _: DUCK if target.model == "m" else BOAT, (DUCK,)),
        (lambda _, request: [BOAT] * request.count, (BOAT, BOAT)),
    ],
)
async def test_a_script_is_an_image_a_result_steps_or_a_choice(serve, script, images):
    reg = serve(fake=FakeProvider(script))
    result = await reg.generate_images("fake/m", ImageRequest("x", count=2))
    assert result.images == images


async def test_a_result_keeps_all_it_says(serve):
    told = ImageResult((BOAT,), Usage(3, 4, certainty="exact"), revised_prompt="a big boat")
    result = await serve(fake=FakeProvider(told)).generate_images("fake/m", "a boat")
    assert (result.usage, result.revised_prompt) == (told.usage, "a big boat")
    assert str(result.target) == "fake/m"


async def test_drafts_come_when_the_script_has_them(serve):
    gate = Gate()
    drafts = [PartialImage(DUCK), PartialImage(DUCK, 1)]
    fake = FakeProvider([drafts[0], [], gate, drafts[1], BOAT])
    async with serve(fake=fake).stream_images("fake/m", "x") as stream:
        assert await anext(stream) == drafts[0]
        waiting = asyncio.create_task(anext(stream))
        await gate.reached()
        assert not waiting.done()
        gate.open()
        assert await waiting == drafts[1]
        assert (await anext(stream)).images == (BOAT,)
    assert fake.calls[0].outcome == "finished"


async def test_a_failed_target_moves_on_to_the_next(serve):
    busy, well = FakeProvider(OverloadedError("busy")), FakeProvider(BOAT)
    result = await serve(a=busy, b=well).generate_images("a/m,b/m", "x")
    assert result.images == (BOAT,)
    assert [str(each.target) for each in result.attempts] == ["a/m", "b/m"]
    assert busy.calls[0].outcome == "failed"


async def test_a_cut_after_a_draft_starts_anew_where_the_caller_wants_it(serve):
    cut = FakeProvider([PartialImage(DUCK), StreamInterrupted("the line broke")])
    reg = serve(a=cut, b=FakeProvider(BOAT))
    stream = reg.stream_images("a/m,b/m", "x", on_interrupt="restart")
    kinds = [type(each) async for each in stream]
    assert kinds == [PartialImage, Restart, ImageResult]


async def test_leaving_closes_the_call(serve):
    fake = FakeProvider([PartialImage(DUCK), NEVER])
    async with serve(fake=fake).stream_images("fake/m", "x") as stream:
        await anext(stream)
    assert fake.calls[0].outcome == "closed"
    assert fake.running == 0


async def test_an_error_without_another_target_is_raised(serve):
    reg = serve(fake=FakeProvider(GenerationError("no image today")))
    with pytest.raises(FailoverError) as caught:
        await reg.generate_images("fake/m", "x")
    assert isinstance(caught.value.exceptions[0], GenerationError)


@pytest.mark.parametrize("script", ["Hello", ["Hello"], [Finish("stop")], [PartialImage(BOAT)], []])
async def test_a_script_without_an_image_is_a_fault_of_the_test(serve, script):
    with pytest.raises(AssertionError, match="image"):
        await serve(fake=FakeProvider(script)).generate_images("fake/m", "x")


async def test_a_call_too_many_is_a_fault_of_the_test(serve):
    reg = serve(fake=FakeProvider(BOAT))
    await reg.generate_images("fake/m", "x")
    with pytest.raises(AssertionError, match="used up"):
        await reg.generate_images("fake/m", "x")


async def test_answers_and_images_come_from_one_queue(serve):
    fake = FakeProvider("Hello", BOAT, BOAT)
    reg = serve(fake=fake)
    assert (await reg.generate("fake/m", "hi")).text == "Hello"
    assert (await reg.generate_images("fake/m", "a boat")).images == (BOAT,)
    assert (await reg.generate("fake/m", "show me a boat")).images == (BOAT,)
    assert [type(each.request).__name__ for each in fake.calls] == [
        "Request", "ImageRequest", "Request",
    ]  # fmt: skip
    assert len(fake.requests) == 2
    assert len(fake.image_requests) == 1


async def test_an_image_in_an_answer_is_a_chunk(serve):
    reg = serve(fake=FakeProvider(["Look: ", BOAT]))
    chunks = [chunk async for chunk in reg.stream("fake/m", "hi")]
    assert chunks[1] == ImageChunk(BOAT)


@pytest.mark.parametrize("step", [PartialImage(BOAT), ImageResult((BOAT,))])
async def test_drafts_and_results_are_no_part_of_an_answer(serve, step):
    with pytest.raises(AssertionError, match="only image calls can yield"):
        await serve(fake=FakeProvider([step])).generate("fake/m", "hi")


async def test_a_fake_can_do_without_images():
    async with Registry(env={}) as reg:
        reg.register("fake", FakeProvider().provider(images=False))
        with pytest.raises(FailoverError) as caught:
            await reg.generate_images("fake/m", "x")
    assert isinstance(caught.value.exceptions[0], UnsupportedError)
