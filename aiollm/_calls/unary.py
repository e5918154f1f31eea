"""Calls that return everything at once: a response, a typed value, images, a token count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack, overload

from aiollm._calls.base import RegistryBase
from aiollm._validation import RequestLike
from aiollm.errors import ConfigError
from aiollm.spec import Plan
from aiollm.types import Response, TokenCount

if TYPE_CHECKING:
    from aiollm._agent.typed_output import Typed
    from aiollm._failover.keywords import CallOptions, CountOptions, GenerateOptions
    from aiollm._streams.image_stream import ImageStream
    from aiollm._streams.stream import Stream
    from aiollm.images import ImageRequest, ImageResult

T = TypeVar("T")


class UnaryCalls(RegistryBase):
    """The calls of a registry that return all of an answer at once."""

    stream: Callable[..., Stream]
    stream_images: Callable[..., ImageStream]

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: type[T],
        with_response: Literal[True],
        repairs: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> Typed[T]: ...

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: type[T],
        with_response: Literal[False] = False,
        repairs: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> T: ...

    @overload
    async def generate(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[GenerateOptions]
    ) -> Response: ...

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any,
        with_response: Literal[True],
        repairs: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> Typed[Any]: ...

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any,
        with_response: Literal[False] = False,
        repairs: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> Any: ...

    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any = None,
        with_response: bool = False,
        repairs: int = 1,
        **options: Unpack[GenerateOptions],
    ) -> Any:
        """Return the complete response or, with `output`, the reply decoded as that type.

        `output` is a type or a JSON schema. A reply that does not fit is sent back to the model,
        with what is wrong with it, at most `repairs` times. `with_response` returns a `Typed`: the
        value, and the response beside it. `options` are those of `stream`.
        Raises: as `stream`, OutputError.
        """
        from aiollm._failover.keywords import parted

        request, own = parted(request, options, "output", "with_response", "repairs")

        async def ask(asked: RequestLike) -> Response:
            return await self.stream(spec, asked, **own).collect()

        if output is None:
            if with_response:
                raise ConfigError("with_response is for typed answers: give an output, too")
            return await ask(request)
        await self._resources.load("aiollm._agent.typed_output")
        from aiollm._agent.typed_output import generate_typed  # only typed answers need it

        typed = await generate_typed(ask, request, output, repairs)
        return typed if with_response else typed.value

    async def generate_images(
        self, spec: str | Plan, request: str | ImageRequest, **options: Unpack[CallOptions]
    ) -> ImageResult:
        """Make images and return the result. Options and errors are those of `stream_images`."""
        return await self.stream_images(spec, request, **options).collect()

    async def count_tokens(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[CountOptions]
    ) -> TokenCount:
        """Return how many input tokens a request takes at the first target that can be asked.

        A service that can count is asked, and generates nothing; for others it is an estimate.
        `options`: fields of the request, `timeouts` and `on_unsupported`. Raises: as `generate`.
        """
        await self._resources.load("aiollm._failover.counting")
        from aiollm._failover.counting import count_tokens  # few programs count

        parts = self._catalog, self._resources, self._gate, self._policy
        return await count_tokens(*parts, spec, request, options)
