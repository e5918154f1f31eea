"""The ImageStream handle: drafts of images as they are made, and the result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import msgspec

from aiollm._streams.accumulator import Accumulator
from aiollm._streams.stream import BaseStream
from aiollm.errors import ClosedError
from aiollm.images import ImageResult, PartialImage
from aiollm.types import Finish, Restart, Status


class ImageAccumulator(Accumulator):
    """Keeps the result and forgets the drafts."""

    __slots__ = ("result",)

    hidden = Accumulator.hidden | {Finish, Status}

    def __init__(self) -> None:
        super().__init__()
        self.result: ImageResult | None = None

    def _draft(self, _: PartialImage) -> None:
        """Keep nothing: the finished image comes later."""

    def _result(self, result: ImageResult) -> None:
        self.result = result

    def _images(self) -> int:
        return 0 if self.result is None else len(self.result.images)

    adders: ClassVar[dict[type, Callable[[Any, Any], None]]] = {
        **Accumulator.adders,
        PartialImage: _draft,
        ImageResult: _result,
    }


class ImageStream(BaseStream[PartialImage | ImageResult | Restart]):
    """Images as they are made: drafts, if the request asked for them, then the ImageResult.

    With `on_interrupt="restart"`, discard the drafts before a `Restart`.
    """

    __slots__ = ()

    _accumulator = ImageAccumulator
    _total: ImageAccumulator

    async def __anext__(self) -> PartialImage | ImageResult | Restart:
        """Return the next draft or, last, the result. Raises: as `Stream`."""
        item = await super().__anext__()
        return self.result if type(item) is ImageResult else item

    async def collect(self) -> ImageResult:
        """Exhaust the stream and return the result. Raises: LLMError, FailoverError."""
        await self._exhaust()
        return self.result

    @property
    def result(self) -> ImageResult:
        """The images. Raises: ClosedError before the stream has ended."""
        result = self._total.result
        if result is None:
            raise ClosedError("the images are not complete: read the stream to its end first")
        response = self._total.response(self._source, self._ended_at)
        return msgspec.structs.replace(
            result,
            target=response.target,
            warnings=(*result.warnings, *response.warnings),
            attempts=response.attempts,
            timings=response.timings,
            cost=response.cost,
        )
