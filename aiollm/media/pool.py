"""The pool a registry owns: workers and a memory of what they made, so each image is made once."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.media.cache import Cache, digest
from aiollm.media.fitting import misfit
from aiollm.media.limits import FittedImage, ImageLimits
from aiollm.media.workers import Job, Workers
from aiollm.types import ImagePart

_AT_ONCE = 64 * 1024
"""Bytes that are hashed on the loop, sooner than a thread would answer."""
_SOURCE = "source"

Key = tuple[bytes, ImageLimits]


class PoolStatistics(msgspec.Struct, frozen=True):
    """A snapshot: processes alive, images prepared, refused, found prepared; bytes kept."""

    processes: int
    prepared: int
    refused: int
    reused: int
    bytes: int


class MediaPool:
    """Worker processes, started when first needed, and a cache of what they made.

    `workers`: processes at a time, None for one a core and at most 4, 0 for a thread of this
    process, which nothing protects from a picture. `time_limit`: seconds for one image, the wait
    for a free worker not counted. `memory_limit`: bytes of address space of a worker.
    `cache_limit`: bytes of prepared images that are kept. One event loop at a time.
    """

    def __init__(
        self,
        workers: int | None = None,
        *,
        time_limit: float = 30.0,
        memory_limit: int = 2 << 30,
        cache_limit: int = 128 << 20,
    ) -> None:
        self._workers = Workers(workers, time_limit, memory_limit)
        self._cache = Cache(cache_limit)
        self._jobs: dict[Key, Job] = {}
        self._hasher: ThreadPoolExecutor | None = None
        self._prepared = self._refused = self._reused = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def statistics(self) -> PoolStatistics:
        """Return what was done so far."""
        return PoolStatistics(
            len(self._workers.processes),
            self._prepared,
            self._refused,
            self._reused,
            self._cache.size,
        )

    def peek(self, image: ImagePart, limits: ImageLimits) -> FittedImage | None:
        """Return what was made of this very part for these limits, if it is at hand."""
        content = self._cache.known(image)
        made = self._cache.get((content, limits)) if content is not None else None
        return made if isinstance(made, FittedImage) else None

    async def fit(self, image: ImagePart, limits: ImageLimits) -> FittedImage:
        """Return the image within `limits`. Raises: UnsupportedError with the reason, ClosedError.

        What is being made already is waited for; a worker is stopped once the last who waits for
        it is cancelled.
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
        """Return what was loaded for this very URL part, if it is still at hand."""
        content = self._cache.known(link)
        found: ImagePart | None = self._cache.get((content, _SOURCE))
        return found

    async def keep_source(self, link: ImagePart, loaded: ImagePart) -> None:
        """Keep what was loaded for a URL part."""
        content = await self._content(loaded)
        self._cache.know(link, content)
        self._cache.put((content, _SOURCE), loaded, len(loaded.data))

    async def close(self) -> None:
        """End the workers; idempotent. Images under way fail with ClosedError."""
        if self._workers.kill() or self._hasher is not None:
            await asyncio.to_thread(self._reap, join=True)

    def kill(self) -> None:
        """End the workers where there is no event loop, within milliseconds."""
        self._workers.kill()
        self._reap(join=False)

    def _reap(self, *, join: bool) -> None:
        self._workers.reap(join=join)
        if self._hasher is not None:
            self._hasher.shutdown(wait=join)

    async def _content(self, image: ImagePart) -> bytes:
        content = self._cache.known(image)
        if content is None:
            data = image.data
            content = digest(data) if len(data) <= _AT_ONCE else await self._hashed(data)
            self._cache.know(image, content)
        return content

    async def _hashed(self, data: bytes) -> bytes:
        # One thread alone: several would leave the loop no processor on a small machine.
        if self._hasher is None:
            self._hasher = ThreadPoolExecutor(1, thread_name_prefix="aiollm-hash")
        return await asyncio.get_running_loop().run_in_executor(self._hasher, digest, data)

    async def _done(self, key: Key, job: Job) -> None:
        """Wait for the end of a job; give it up when nobody waits for it any more."""
        loop = asyncio.get_running_loop()
        mine: asyncio.Future[None] = loop.create_future()

        def wake(_: Future[Any]) -> None:
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(_settle, mine)

        job.waiting += 1
        job.future.add_done_callback(wake)
        try:
            await mine
        finally:
            job.waiting -= 1
            if not job.waiting and not job.future.done():
                del self._jobs[key]
                self._workers.give_up(job)

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
    """Return what a worker made if it keeps the limits: who reads pictures is not trusted."""
    if reason := misfit(made.data, limits):
        raise UnsupportedError(f"the worker's answer is no good: {reason}")
    return made


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
