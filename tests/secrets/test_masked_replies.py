"""Masking what a server sends of any size: keys are found, others run, and little waits."""

from __future__ import annotations

import asyncio

import pytest

from aiollm._http.masked_reply import MAX_ESCAPES, MAX_HELD, SLICE, MaskedReply, masked
from aiollm._settings.redactor import MAX_FOUND, Redactor
from aiollm.errors import ProtocolError
from tests.turns import turns

LINE = b'{"id": "a", "text": "some log"},\n'


class Body:
    """A reply whose reads are given."""

    def __init__(self, *reads: bytes) -> None:
        self.reads = list(reads)

    async def read(self) -> bytes:
        return self.reads.pop(0) if self.reads else b""


async def test_others_run_between_the_slices_of_a_body(key):
    body = LINE * (20 * SLICE // len(LINE))
    async with turns() as seen:
        assert await masked(body, Redactor([key])) == body
    assert len(seen) >= 20


async def test_others_run_between_the_slices_of_one_read(key):
    body = LINE * (20 * SLICE // len(LINE))
    reply = MaskedReply(Body(body), Redactor([key]))
    said = []
    async with turns() as seen:
        while piece := await reply.read():
            said.append(piece)
    assert b"".join(said) == body
    assert len(seen) >= 19


@pytest.mark.parametrize("shown", [slice(None), slice(-14, None), slice(14), slice(3, 17)])
async def test_a_key_is_found_wherever_a_slice_ends(key, shown, find_leaks):
    part = key[shown].encode()
    for at in range(SLICE - 2 * len(part), SLICE + 4):
        body = b"a " * (at // 2) + b"x" * (at % 2) + b' "' + part + b'" ' + LINE
        said = await masked(body, Redactor([key]))
        assert not find_leaks(said.decode())
        assert said.endswith(LINE)


async def test_line_ends_within_a_key_do_not_make_a_log_wait_for_ever(key):
    """What begins as a key does may go on in the next line, but not after thousands of them."""
    reads = [key[:9].encode(), *[b"\n" * SLICE] * 3]
    body = Body(*reads, b"more")
    reply = MaskedReply(body, Redactor([key]))
    assert len(await reply.read()) >= MAX_HELD
    assert body.reads


async def test_masking_ends_as_soon_as_its_call_does(key):
    """A deadline cancels it, so a server cannot make it long."""
    work = asyncio.create_task(masked(LINE * 100_000, Redactor([key])))
    for _ in range(3):
        await asyncio.sleep(0)
    work.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert work.cancelled()


@pytest.mark.parametrize("unit", [b"\\n", b"\\u0041", b"%41", b"&#65;"])
async def test_escapes_are_searched_in_smaller_slices_and_too_many_are_refused(unit, key):
    body = b"a" * SLICE + unit * (2 * MAX_FOUND)
    async with turns() as seen:
        assert await masked(body, Redactor([key])) == body
    assert len(seen) >= 3
    with pytest.raises(ProtocolError, match="escapes"):
        await masked(unit * (MAX_ESCAPES + 1), Redactor([key]))
