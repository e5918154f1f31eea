"""Images whose fitting is cancelled before any callback leave no job behind."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from aiollm.media import MediaPool
from aiollm.media.limits import ImageLimits
from aiollm.types import ImagePart
from tests.broken_off import cancelled_everywhere, settled

pytest.importorskip("PIL")

SMALL = ImageLimits(("image/jpeg",), 60)


@pytest.mark.parametrize("workers", [0, 1])
async def test_the_fitting_of_an_image(make, workers):
    seeds = itertools.count()
    async with MediaPool(workers) as pool:

        async def call():
            picture = make.photo(120, 90, next(seeds))
            await pool.fit(ImagePart(make.save(picture, "JPEG")), SMALL)

        async def check():
            await settled(lambda: not pool._jobs)
            return len(pool._jobs)

        await call()
        await cancelled_everywhere(call, check, least=2)


@pytest.mark.parametrize("workers", [0, 1])
async def test_the_fitting_of_an_image_that_another_call_waits_for(make, workers):
    seeds = itertools.count()
    async with MediaPool(workers) as pool:

        async def call():
            picture = ImagePart(make.save(make.photo(120, 90, next(seeds)), "JPEG"))
            other = asyncio.ensure_future(pool.fit(picture, SMALL))
            await asyncio.sleep(0)
            try:
                await pool.fit(picture, SMALL)
            finally:
                await asyncio.wait([other])

        async def check():
            await settled(lambda: not pool._jobs)
            return len(pool._jobs)

        await call()
        await cancelled_everywhere(call, check, least=2)
