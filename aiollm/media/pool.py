"""The pool that a registry owns: workers, and a cache so that each image is fitted only once."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from aiollm._validation import check_count
from aiollm.errors import ConfigError, LocalError, UnsupportedError
from aiollm.media.cache import Cache, digest
from aiollm.media.fitting import misfit
from aiollm.media.limits import MAX_PIXELS, FittedImage, ImageLimits
from aiollm.media.process import Budget
from aiollm.media.workers import Job, Workers
from aiollm.types import ImagePart, _shown

_AT_ONCE = 64 * 1024
"""Up to this many bytes are hashed on the loop, which is faster than using a thread."""
_MEMORY = 2 << 30
_PER_PIXEL = 24
"""Bytes per decoded pixel: 4 for each of the copies that conversions and filters make."""
_SOURCE = "source"

Key = tuple[bytes, ImageLimits]


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot: live processes; images prepared, refused, found in the cache; bytes cached."""

    processes: int
    prepared: int
    refused: int
    reused: int
    bytes: int


class MediaPool:
    """Worker processes, started when first needed, and a cache of their results.

    `workers`: processes at a time; None means one per core, at most 4; 0 means a thread of this
    process, which is then not protected from malicious images. `time_limit`: seconds per image,
    without the wait for a free worker. `memory_limit`: bytes of address space per worker; None
    means 2 GiB, and more where `max_pixels` needs it. `cache_limit`: bytes of prepared images to
    keep. `max_pixels`: the most pixels that are decoded, and accepted for targets without a number
    of their own. Use it from one event loop at a time. Raises: ConfigError.

        async with MediaPool(workers=2) as pool:
            fitted = await pool.fit(image, ImageLimits(mime=("image/jpeg",), max_dimension=1568))
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        time_limit: float = 30.0,
        memory_limit: int | None = None,
        cache_limit: int = 128 << 20,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        if type(cache_limit) is not int or cache_limit < 0:
            raise ConfigError(f"cache_limit is {_shown(cache_limit)}: expected bytes, 0 or more")
        check_count("max_pixels", max_pixels)
        memory = max(_MEMORY, _PER_PIXEL * max_pixels) if memory_limit is None else memory_limit
        self.max_pixels = max_pixels
        self._workers = Workers(workers, Budget(time_limit, memory, max_pixels))
        self._cache = Cache(cache_limit)
        self._jobs: dict[Key, Job] = {}
        self._hasher: ThreadPoolExecutor | None = None
        self._prepared = self._refused = self._reused = 0
        self._owner = os.getpid()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def statistics(self) -> PoolStatistics:
        """Return the counts so far."""
        return PoolStatistics(
            len(self._workers.processes),
            self._prepared,
            self._refused,
            self._reused,
            self._cache.size,
        )

    def peek(self, image: ImagePart, limits: ImageLimits) -> FittedImage | None:
        """Return the cached result for this part object and these limits, None if there is none."""
        content = self._cache.known(image)
        made = self._cache.get((content, limits)) if content is not None else None
        return made if isinstance(made, FittedImage) else None

    async def fit(self, image: ImagePart, limits: ImageLimits) -> FittedImage:
        """Return the image within `limits`.

        Callers that want the same result share one job. Its worker is stopped when the last of
        them is cancelled. Raises: UnsupportedError with the reason, ClosedError, LocalError.
        """
        key = (await self._content(image), limits)
        found = self._cache.get(key)
        if isinstance(found, FittedImage):
            self._reused += 1
            return found
        if found is not None:
            raise UnsupportedError(found)
        job = self._jobs.get(key)
        if job is None:
            job = self._jobs[key] = self._workers.start(image.data, limits)
        await self._done(key, job)
        return self._result(key, job)

    def source(self, link: ImagePart) -> ImagePart | None:
        """Return the image loaded earlier for this URL part object, None if it is not cached."""
        content = self._cache.known(link)
        found: ImagePart | None = self._cache.get((content, _SOURCE))
        return found

    async def keep_source(self, link: ImagePart, loaded: ImagePart) -> None:
        """Keep the image that was loaded for a URL part."""
        content = await self._content(loaded)
        self._cache.know(link, content)
        self._cache.put((content, _SOURCE), loaded, len(loaded.data))

    async def aclose(self) -> None:
        """End the workers; idempotent. Images in progress fail with ClosedError."""
        self._leave_to_parent()
        if self._workers.kill() or self._hasher is not None:
            try:
                await asyncio.to_thread(self._reap, join=True)
            except RuntimeError:  # no thread can be started
                self._reap(join=False)

    def kill(self) -> None:
        """End the workers within milliseconds, also without an event loop."""
        self._workers.kill()
        self._reap(join=False)

    def _reap(self, *, join: bool) -> None:
        self._leave_to_parent()
        self._workers.reap(join=join)
        if self._hasher is not None:
            self._hasher.shutdown(wait=join)

    def _leave_to_parent(self) -> None:
        """Forget, in a process that was forked, the threads that it does not have."""
        if self._owner != os.getpid():
            self._owner, self._jobs, self._hasher = os.getpid(), {}, None

    async def _content(self, image: ImagePart) -> bytes:
        self._leave_to_parent()
        content = self._cache.known(image)
        if content is None:
            data = image.data
            content = digest(data) if len(data) <= _AT_ONCE else await self._hashed(data)
            self._cache.know(image, content)
        return content

    async def _hashed(self, data: bytes) -> bytes:
        # Only one thread: several would leave no processor for the loop on a small machine.
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1, thread_name_prefix="aiollm-hash")
        try:
            hashing = self._hasher.submit(digest, data)
        except RuntimeError as error:
            reason = f"no thread can be started to read an image: {error}"
        else:
            return await asyncio.wrap_future(hashing)
        raise LocalError(reason)

    async def _done(self, key: Key, job: Job) -> None:
        """Wait for the end of a job; abandon it when nobody waits for it any longer."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()

        def wake(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits
                loop.call_soon_threadsafe(_settle, mine)

        job.waiting += 1
        job.future.add_done_callback(wake)
        try:
            await mine
        except BaseException:
            if job.waiting == 1 and self._jobs.get(key) is job:
                del self._jobs[key]
                if not job.future.done():
                    self._workers.give_up(job)
            raise
        finally:
            job.waiting -= 1

    def _result(self, key: Key, job: Job) -> FittedImage:
        first = self._jobs.pop(key, None) is job
        try:
            made = _checked(job.future.result(), job.limits)
        except UnsupportedError as error:
            self._refused += first
            if type(error) is UnsupportedError:
                self._cache.put(key, error.message, len(error.message))
            refusal = error.message
        else:
            if first:
                self._prepared += 1
                self._cache.put(key, made, len(made.data))
            return made
        raise UnsupportedError(refusal)


def _checked(made: FittedImage, limits: ImageLimits) -> FittedImage:
    """Return a worker's image if it keeps the limits; its answers are not trusted."""
    if reason := misfit(made.data, limits):
        raise UnsupportedError(f"the worker returned an unusable image: {reason}")
    return made


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
