"""Prepare a request for one target: fit its images, and leave out those beyond the limits."""

from __future__ import annotations

import asyncio
import binascii
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec
from msgspec.structs import replace

from aiollm.capabilities import Capabilities
from aiollm.errors import UnsupportedError
from aiollm.media import fitting
from aiollm.media.limits import (
    INSTALL,
    FittedImage,
    ImageLimits,
    available,
    decodable,
    too_many_pixels,
)
from aiollm.media.locations import Key, Location, find, rebuild
from aiollm.media.pool import MediaPool
from aiollm.media.sniff import info
from aiollm.types import ImagePart, Request, TextPart

Fetch = Callable[[str], Awaitable[bytes]]
"""Loads a URL; its exceptions are passed on unchanged."""

_SLICE = 256 * 1024
"""Characters of a data URL decoded at a time, in under 1 ms; a multiple of 4."""
_HEAD = 256
"""The data of a data URL begins within this many characters."""


async def normalize(
    request: Request,
    capabilities: Capabilities,
    *,
    pool: MediaPool | None = None,
    fetch: Fetch | None = None,
) -> Request:
    """Return the request with images that the target accepts, the same object if it already does.

    Images beyond the target's count or request size are replaced by a short text, oldest first.
    `pool`: does the work; None uses a temporary one. `fetch`: loads URLs for a target that does
    not load them itself. Raises: UnsupportedError for an image that cannot be made to fit.
    """
    return (await normalize_with_warnings(request, capabilities, pool=pool, fetch=fetch))[0]


async def normalize_with_warnings(
    request: Request,
    capabilities: Capabilities,
    *,
    pool: MediaPool | None = None,
    fetch: Fetch | None = None,
) -> tuple[Request, tuple[str, ...]]:
    """Do the same as `normalize`, and also return notes about what was left out."""
    locations = find(request)
    if not locations:
        return request, ()
    fitting.require_images(capabilities)
    if pool is not None:
        return await _Preparation(request, capabilities, pool, fetch, locations).run()
    async with MediaPool() as own:
        return await _Preparation(request, capabilities, own, fetch, locations).run()


class _Item(msgspec.Struct):
    """An image that may stay: its current part, its limits, and why it does not keep them yet."""

    location: Location
    number: int
    image: ImagePart
    limits: ImageLimits
    misfit: str = ""


class _Preparation:
    """The preparation of one request for one target."""

    def __init__(
        self,
        request: Request,
        capabilities: Capabilities,
        pool: MediaPool,
        fetch: Fetch | None,
        locations: Sequence[Location],
    ) -> None:
        self._request = request
        self._capabilities = capabilities
        self._pool = pool
        self._fetch = fetch
        self._locations = locations
        self._changes: dict[Key, ImagePart | TextPart] = {}
        self._notes: list[str] = []
        self._rest: int | None = None
        self._text_bytes = 0
        """Bytes of the texts that replace omitted images."""

    async def run(self) -> tuple[Request, tuple[str, ...]]:
        """Omit, load, fit, and omit again if it is still too much; await only what must change."""
        most = self._capabilities.max_images_per_request
        first = 0 if most is None else max(0, len(self._locations) - most)
        self._leave_out(self._locations[:first], fitting.too_many)
        items = [
            _Item(location, number, location.image, ImageLimits(()))
            for number, location in enumerate(self._locations[first:], start=first + 1)
        ]
        if foreign := [item for item in items if self._is_foreign(item)]:
            await _together([self._load(item) for item in foreign])
        self._decide(items)
        # Before fitting, so that no worker spends time on an image that must be left out anyway;
        # the newest are fitted first, because they are the last to be left out.
        items = self._that_fit(items)
        if changing := [item for item in reversed(items) if item.misfit]:
            await _together([self._fit(item) for item in changing])
            items = self._that_fit(items)
        for item in items:
            if item.image is not item.location.image:
                self._changes[item.location.key] = item.image
        return rebuild(self._request, self._changes), tuple(self._notes)

    def _leave_out(self, locations: Sequence[Location], why: Callable[[Capabilities], str]) -> None:
        """Replace the images in these locations by a text."""
        if not locations:
            return
        reason = why(self._capabilities)
        text = _left_out(reason)
        self._text_bytes += fitting.text_weight(text) * len(locations)
        self._changes |= dict.fromkeys((location.key for location in locations), text)
        self._notes.append(
            f"{len(locations)} older image{'s' * (len(locations) > 1)} left out: {reason}"
        )

    def _is_foreign(self, item: _Item) -> bool:
        """Return whether the image is a URL that the target does not load itself.

        A target of which that is not known gets the bytes where they may be fetched, else the URL.
        """
        url = item.image.url
        if not url or url.startswith("data:"):
            return bool(url)
        takes = self._capabilities.image_urls
        return self._fetch is not None if takes is None else not takes

    async def _load(self, item: _Item) -> None:
        link = item.image
        found = self._pool.source(link)
        if found is None:
            found = replace(link, data=await self._bytes(item), url="", mime="")
            await self._pool.keep_source(link, found)
        item.image = found

    async def _bytes(self, item: _Item) -> bytes:
        url = item.image.url
        if url.startswith("data:"):
            data = await _inline(url)
        elif self._fetch is not None:
            data = await self._fetch(url)
        else:
            raise UnsupportedError(
                f"{self._name(item)} is a URL, which the target cannot load: pass its bytes, "
                "or allow fetching with Registry(fetch_images=True)"
            )
        if not data:
            raise UnsupportedError(f"{self._name(item)} is empty: {url:.100}")
        return data

    def _decide(self, items: Sequence[_Item]) -> None:
        """Set the limits of each image, and use what was prepared before."""
        images = [(item.location.key[0], item.image) for item in items]
        room = self._room([image for _, image in images])
        wanted = fitting.limits(images, self._capabilities, room, self._pool.max_pixels)
        for item, limits in zip(items, wanted, strict=True):
            item.limits = limits
            item.misfit = fitting.misfit(item.image.data, limits) if item.image.data else ""
            if item.misfit and (made := self._pool.peek(item.image, limits)) is not None:
                self._take(item, made)

    def _room(self, images: Sequence[ImagePart]) -> int | None:
        """Return the characters left for images, None if there is no need to count."""
        if not fitting.is_tight(images, self._capabilities):
            return None
        if self._rest is None:
            self._rest = fitting.rest_weight(self._request)
        return fitting.room(self._rest, self._capabilities) - self._text_bytes

    def _that_fit(self, items: list[_Item]) -> list[_Item]:
        """Return the newest images that fit together, leaving the others out.

        An image that is not prepared yet counts as 0 bytes, because its size is not known; this
        runs again after it is prepared.
        """
        room = self._room([item.image for item in items if not item.misfit])
        if room is None:
            return items
        weights = [0 if item.misfit else fitting.weight(item.image) for item in items]
        text = fitting.text_weight(_left_out(fitting.too_large(self._capabilities)))
        total, first = sum(weights), 0
        while first < len(items) and total > room:
            total += text - weights[first]
            first += 1
        self._leave_out([item.location for item in items[:first]], fitting.too_large)
        return items[first:]

    async def _fit(self, item: _Item) -> None:
        if item.misfit == fitting.CUT and not available():
            # Sent as it is: without an image library, only the target can say if it is complete.
            item.misfit = ""
            return
        refusal = _hopeless(item.image, self._pool.max_pixels)
        if not refusal:
            try:
                self._take(item, await self._pool.fit(item.image, item.limits))
            except UnsupportedError as error:
                refusal = error.message
            else:
                return
        if item.misfit == fitting.COLOURS:
            # Slightly wrong colours are better than none.
            item.misfit = ""
            return
        raise UnsupportedError(f"{self._name(item)} must change ({item.misfit}), but {refusal}")

    def _take(self, item: _Item, made: FittedImage) -> None:
        item.image = replace(item.image, data=made.data, url="", mime=made.mime)
        item.misfit = ""

    def _name(self, item: _Item) -> str:
        return f"image {item.number} of {len(self._locations)}"


def _left_out(reason: str) -> TextPart:
    return TextPart(f"[image left out: {reason}]")


def _hopeless(image: ImagePart, max_pixels: int) -> str:
    """Return why no worker needs to try, "" if one should."""
    found = info(image)
    if found is not None:
        size = found.width, found.height
        if not decodable(found.mime, size, max_pixels):
            return too_many_pixels(size, max_pixels)
    return "" if available() else INSTALL


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Run all concurrently; the first error stops the others and is raised unchanged."""
    try:
        async with asyncio.TaskGroup() as group:
            for each in work:
                group.create_task(each)
    except* Exception as failed:  # noqa: BLE001
        first = failed.exceptions[0]
    else:
        return
    raise first


async def _inline(url: str) -> bytes:
    """Decode a data URL in slices, because binascii holds the GIL. Raises: UnsupportedError."""
    head, comma, _ = url[:_HEAD].partition(",")
    start = len(head) + 1
    if not comma or not head.endswith(";base64"):
        raise UnsupportedError(f"not a base64 data URL: {url[:40]!r}")
    pieces = []
    try:
        for position in range(start, len(url), _SLICE):
            pieces.append(binascii.a2b_base64(url[position : position + _SLICE]))
            await asyncio.sleep(0)
    except ValueError as error:
        reason = f"a data URL cannot be decoded: {error}"
    else:
        # bytes.join releases the GIL for large data.
        return await asyncio.to_thread(b"".join, pieces)
    raise UnsupportedError(reason)
