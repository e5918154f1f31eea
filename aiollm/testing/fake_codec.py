"""The codec of a FakeProvider's row, which never speaks HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from aiollm._wire.framing import NDJSON
from aiollm.errors import UnsupportedError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider
from aiollm.types import Item, LLMError, Request, Target


class FakeCodec(Codec):
    """The codec of a row that never speaks HTTP."""

    def __init__(self, family: str) -> None:
        self.family = family

    def framing(self) -> NDJSON:
        """Return a framer that is never fed."""
        return NDJSON()

    def decoder(self) -> FakeDecoder:
        """Return a decoder that is never fed."""
        return FakeDecoder()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Refuse: there is no wire."""
        del target, request
        _no_wire(provider)

    def error(self, reply: HttpResponse) -> LLMError:
        """Name the status."""
        return LLMError(f"HTTP {reply.status}")

    def models(self, provider: Provider) -> HttpRequest:
        """Refuse: there is no wire."""
        _no_wire(provider)

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Return nothing."""
        del reply
        return ()


class FakeDecoder:
    """A decoder that is never fed."""

    finished = True
    ending = False

    def feed(self, frames: Sequence[bytes], out: list[Item]) -> None:
        """Take nothing."""

    def whole(self, body: bytes, out: list[Item]) -> None:
        """Take nothing."""

    def close(self, out: list[Item]) -> None:
        """Add nothing."""


def _no_wire(provider: Provider) -> NoReturn:
    raise UnsupportedError(f"{provider.name!r} is a FakeProvider: it speaks no HTTP")
