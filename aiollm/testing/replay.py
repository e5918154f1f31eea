"""ReplayServer: serves recorded exchanges byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal, TypeAlias, Unpack
from urllib.parse import unquote, urlsplit

import msgspec

from aiollm.testing.cassette import Exchange, load_exchanges, pick
from aiollm.testing.connection import AnswerSteps
from aiollm.testing.faults import Answer, AnswerStep, End, Pause, steps
from aiollm.testing.gate import Gate
from aiollm.testing.loopback import Loopback, LoopbackOptions
from aiollm.testing.marks import override
from aiollm.testing.server_record import SeenRequest

PieceSize: TypeAlias = Literal["recorded", "whole"] | int
"""How a response is cut: as it arrived, not at all, or into pieces of this many bytes."""
RequestMatch: TypeAlias = Literal["path", "body"] | Callable[[SeenRequest, Exchange], bool]
"""What must match the recorded request besides method and path: nothing, or the body."""


class ReplayServer(Loopback):
    """Answers requests with the exchanges recorded for them, byte for byte.

    Sources are exchanges, or paths that `load_exchanges` reads; `names` selects some of them.
    Exchanges that match the same request are used in order, and the last one is repeated. A request
    without a match gets a 404 and is counted in `unmatched`. `between` is a wait before each piece.
    `pieces` and `between` may be changed while the server runs. The other keywords are those of
    `Loopback`.
    """

    def __init__(
        self,
        *sources: Exchange | str | Path,
        names: Sequence[str] = (),
        pieces: PieceSize = "recorded",
        match: RequestMatch = "path",
        between: Gate | Pause | None = None,
        **options: Unpack[LoopbackOptions],
    ) -> None:
        super().__init__(**options)
        self.pieces: PieceSize = pieces
        self.between = between
        self.unmatched: int = 0
        self.exchanges: tuple[Exchange, ...] = ()
        self._sources = sources
        self._names = tuple(names)
        self._match: RequestMatch = match
        self._used: set[int] = set()

    @override
    async def prepare(self) -> None:
        """Read the files."""
        self.exchanges = await asyncio.to_thread(_read, self._sources, self._names)

    @override
    def answer(self, request: SeenRequest) -> AnswerSteps:
        """Return the recorded response of the first matching exchange that is not used yet."""
        found = [index for index, one in enumerate(self.exchanges) if self._matches(request, one)]
        if not found:
            self.unmatched += 1
            return steps(self._unknown(request), request)
        index = next((index for index in found if index not in self._used), found[-1])
        self._used.add(index)
        return self._play(self.exchanges[index])

    def _matches(self, request: SeenRequest, one: Exchange) -> bool:
        path = unquote(urlsplit(one.path).path)
        if one.method not in {"", request.method} or path not in {"", request.path}:
            return False
        match self._match:
            case "path":
                return True
            case "body":
                return same_body(request.body, one.body)
            case matches:
                return matches(request, one)

    def _unknown(self, request: SeenRequest) -> Answer:
        known = sorted({f"{one.method} {one.path}" for one in self.exchanges})
        message = f"nothing recorded for {request.method} {request.path}"
        return Answer(404, {}, {"error": {"message": message, "recorded": known}})

    def _play(self, one: Exchange) -> Iterator[AnswerStep]:
        for piece in cut(one.pieces, self.pieces):
            if self.between is not None:
                yield self.between
            yield piece
        if one.end != "keep":
            yield End(one.end)


def _read(sources: Sequence[Exchange | str | Path], names: Sequence[str]) -> tuple[Exchange, ...]:
    exchanges: list[Exchange] = []
    for source in sources:
        exchanges += (source,) if isinstance(source, Exchange) else load_exchanges(source)
    return pick(exchanges, names) if names else tuple(exchanges)


def cut(pieces: Sequence[bytes], how: PieceSize) -> Iterator[bytes]:
    """Cut a response into pieces: `recorded`, `whole`, or this many bytes each."""
    match how:
        case "recorded":
            yield from pieces
        case "whole":
            yield b"".join(pieces)
        case size:
            whole = b"".join(pieces)
            for start in range(0, len(whole), size):
                yield whole[start : start + size]


def same_body(one: bytes, other: bytes) -> bool:
    """Return whether two bodies are the same JSON or, if they are not JSON, the same bytes."""
    try:
        return bool(msgspec.json.decode(one) == msgspec.json.decode(other))
    except msgspec.DecodeError:
        return one == other
