"""Asking one row of a bulk run: the call, its typed value, its score, and its record."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from aiollm._agent.typed_output import generate_typed
from aiollm._bulk.fate import Fate, Fates
from aiollm._bulk.row import Asks, Row, record_of
from aiollm._bulk.source import RowToAsk
from aiollm._bulk.width import Width
from aiollm._resources import Resources
from aiollm._streams.stream import Stream
from aiollm.bulk.record import Record
from aiollm.errors import DeadlineError, FailoverError, LLMError, OutputError
from aiollm.types import Request, Response

PAUSE = 0.5
"""Seconds before a row that failed for its targets is asked again: it must not spin."""


class Typing(msgspec.Struct, frozen=True):
    """The type of answers, None for plain ones, and how often a misfit is sent back."""

    output: Any = None
    repairs: int = 1


class Asker:
    """Asks rows, and tells what became of them."""

    def __init__(
        self,
        stream: Callable[[Request], Stream],
        typing: Typing,
        score: Callable[[Row[Any]], Any] | None,
        resources: Resources,
        *,
        fates: Fates,
        width: Width,
        run: str,
    ) -> None:
        """`stream` starts a call, `run` is the hash of the run, for its file."""
        self._stream = stream
        self._typing = typing
        self._score = score
        self._resources = resources
        self._fates = fates
        self._width = width
        self._run = run
        self.under_way = 0

    async def ask(self, asked: RowToAsk) -> tuple[Row[Any], Record] | Fate:
        """Ask a row; return it and its record, or what becomes of it instead."""
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        self._fates.asks(asked, is_first=not asked.began)
        if not asked.began:
            asked.began, asked.started = asked_at, time.time()
        asks = Asks([], [*asked.attempts])
        value, error = None, None
        try:
            value = await self._answer(asked, asks)
        except Exception as raised:  # noqa: BLE001 - whatever it is, it is the error of this row
            error = raised
            error.__traceback__ = None  # its frames would keep the call for as long as the row
        if error is not None and not isinstance(error, OutputError):
            fate = self._failed(error, asked, asks, asked_at)
            if fate != "failed":
                return fate
        else:
            self._fates.answered()
        row = _row(asked, asks, value, error)
        if self._score is not None and error is None:
            row = await self._scored(row)
        return row, self._record(row, asked, asks, asked_at)

    async def _answer(self, asked: RowToAsk, asks: Asks) -> Any:
        ask = partial(self._collect, asks)
        if self._typing.output is None:
            await ask(asked.request)
            return None
        typed = await generate_typed(ask, asked.request, self._typing.output, self._typing.repairs)
        return typed.value

    async def _collect(self, asks: Asks, request: Request) -> Response:
        stream = self._stream(request)
        self.under_way += 1
        try:
            await stream.ready()
            self._started(stream)
            response = await stream.collect()
        finally:
            self.under_way -= 1
            asks.attempts += stream.attempts
        asks.responses.append(response)
        return response

    def _started(self, stream: Stream) -> None:
        """Let the width see how long the first output took, once it was this row's turn."""
        attempt = stream.attempts[-1]
        if attempt.first_output is not None and not attempt.cached:
            seconds = attempt.first_output - attempt.started
            self._width.first_output(attempt.target, seconds, self.under_way)

    def _failed(self, error: Exception, asked: RowToAsk, asks: Asks, asked_at: float) -> Fate:
        for cause in error.exceptions if isinstance(error, FailoverError) else ():
            if isinstance(cause, DeadlineError) and cause.which == "first_output":
                self._width.too_slow()
                break
        fate = self._fates.of(error, asked, asked_at, asyncio.get_running_loop().time())
        if fate == "later":
            asked.attempts = tuple(asks.attempts)
        return fate

    async def _scored(self, row: Row[Any]) -> Row[Any]:
        """Return the row with its score; a plain function runs in a thread, as tools do."""
        assert self._score is not None
        runner = self._resources.open_runner()
        outcome = await runner.run("score", partial(self._score, row), None)
        if outcome.error is None:
            return msgspec.structs.replace(row, score=outcome.value)
        error = outcome.error
        if not isinstance(error, Exception):
            error = LLMError(f"the score failed: {outcome.reason}")
        error.__traceback__ = None
        return msgspec.structs.replace(row, error=error)

    def _record(self, row: Row[Any], asked: RowToAsk, asks: Asks, asked_at: float) -> Record:
        first_output = row.response.timings.first_output if row.response is not None else None
        if first_output is not None:
            first_output += asked_at - asked.began
        seconds = asyncio.get_running_loop().time() - asked.began
        times = (asked.started, seconds, first_output)
        return record_of(row, asks.usage(), times, (self._run, asked.asked))

    def refused(self, asked: RowToAsk) -> tuple[Row[Any], Record]:
        """Return a row that cannot be asked, and its record."""
        row: Row[Any] = Row(asked.key, asked.number, asked.request, error=asked.error)
        return row, record_of(row, Asks([], []).usage(), (time.time(), 0.0, None), ("", ""))


def _row(asked: RowToAsk, asks: Asks, value: Any, error: Exception | None) -> Row[Any]:
    response = asks.responses[-1] if asks.responses else None
    if error is not None and not isinstance(error, OutputError):
        response = None
    attempts, cost = tuple(asks.attempts), asks.cost()
    return Row(asked.key, asked.number, asked.request, response, value, error, None, attempts, cost)
