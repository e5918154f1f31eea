"""One accepted connection: reads requests, plays steps, and records who ended it."""

from __future__ import annotations

import asyncio
import socket
import struct
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import Literal, TypeAlias, cast

from aiollm.testing.faults import Answer, AnswerStep, End, Pause, steps
from aiollm.testing.gate import Gate
from aiollm.testing.http1 import HttpMessage, Parser
from aiollm.testing.marks import override
from aiollm.testing.server_record import SeenRequest, ServerRecord, seen

AnswerSteps: TypeAlias = Iterable[AnswerStep] | AsyncIterator[AnswerStep]
"""An answer, step by step."""
Sleep: TypeAlias = Callable[[float], Awaitable[None]]
"""Waits for a number of seconds."""

NO_LINGER = struct.pack("ii", 1, 0)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_BROKEN = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Host(ServerRecord, ABC):
    """What a connection needs from its server."""

    read_bodies = True
    sleep: Sleep = staticmethod(asyncio.sleep)

    @abstractmethod
    def answer(self, request: SeenRequest) -> AnswerSteps:
        """Return the steps that answer a request."""

    @abstractmethod
    def failed(self, error: Exception) -> None:
        """Keep an error raised by the script."""


class Connection(asyncio.Protocol):
    """A connection of a loopback server."""

    def __init__(
        self, host: Host, number: int, sock: socket.socket, *, is_deaf: bool = False
    ) -> None:
        self.transport: asyncio.Transport | None = None
        self.is_deaf = is_deaf
        self.number = number
        self._sock = sock
        self._host = host
        self._loop = asyncio.get_running_loop()
        self._parser = Parser(bodies=host.read_bodies)
        self._asked: asyncio.Queue[SeenRequest] = asyncio.Queue()
        self._lost = self._loop.create_future()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None
        self._on_reuse: Literal["closed", "reset"] | None = None

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        # A cast, not an isinstance: uvloop's transports do not derive from asyncio's.
        self.transport = cast("asyncio.Transport", transport)
        # Drain each step into the kernel, so that a later RST or wait cannot overtake it. Not 0:
        # asyncio's TLS transport would then pause for an empty buffer, forever.
        self.transport.set_write_buffer_limits(high=1, low=0)

    @override
    def data_received(self, data: bytes) -> None:
        """Record and queue the requests that `data` completes."""
        if self.is_deaf:  # what had come before reading was paused
            return
        try:
            messages = self._parser.feed(data)
        except (ValueError, IndexError):
            self._write(_BROKEN)
            self.end("closed")
            return
        if self._parser.expects_continue and not messages:
            self._parser.expects_continue = False
            self._write(_CONTINUE)
        for message in messages:
            self._receive(message)

    def _receive(self, message: HttpMessage) -> None:
        request = seen(message, self._loop.time(), self.number)
        self._host.asked(request)
        self._asked.put_nowait(request)

    @override
    def eof_received(self) -> None:
        """End the connection: the peer sent a FIN, and half-closed connections are not served."""
        self._over("closed", "peer")

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Record the end, unless it is recorded already."""
        self._over("closed" if exc is None else "reset", "peer")
        self._writable.set()
        if not self._lost.done():
            self._lost.set_result(None)

    @override
    def pause_writing(self) -> None:
        """Hold the script until the peer reads."""
        self._writable.clear()

    @override
    def resume_writing(self) -> None:
        """Let the script continue."""
        self._writable.set()

    def _over(self, end: Literal["closed", "reset"], by: Literal["peer", "server"]) -> None:
        self._host.gone(self.number, end, by, self._loop.time())
        if self._task is not None and by == "peer":
            self._task.cancel()

    def end(self, how: Literal["closed", "reset"]) -> None:
        """End the connection: by FIN after all pending writes, or by RST at once."""
        self._over(how, "server")
        if self.transport is None:
            return
        if how == "closed":
            self.transport.close()
            return
        if self._sock.fileno() >= 0:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        self.transport.abort()

    def abort(self) -> None:
        """End the connection at once, discarding unsent data."""
        self._over("closed", "server")
        if self.transport is not None:
            self.transport.abort()

    async def serve(self) -> None:
        """Answer requests until the connection is gone."""
        self._task = asyncio.current_task()
        if self._lost.done() or (self.transport is not None and self.transport.is_closing()):
            return
        while True:
            request = await self._asked.get()
            if self._on_reuse is not None:
                self.end(self._on_reuse)
                break
            if not await self._answer(request):
                break
        await self._lost

    async def _answer(self, request: SeenRequest) -> bool:
        """Answer a request; return whether the connection is kept alive."""
        try:
            script = self._host.answer(request)
            ending = await self._play(script)
        except Exception as error:  # noqa: BLE001 - a bug in a user's script must surface
            self._host.failed(error)
            ending = await self._play(steps(Answer(500, {}, "the script failed"), request))
        if ending is not None:
            return await self._finish(ending)
        if not self._host.read_bodies and self.transport is not None:
            # Closing while the peer still sends would cause a RST, which can destroy the answer.
            if self.transport.can_write_eof():
                self.transport.write_eof()
            return False
        if request.headers.get("connection", "").lower() == "close":
            self.end("closed")
            return False
        return True

    async def _finish(self, ending: End) -> bool:
        match ending.how:
            case "close":
                self.end("closed")
            case "reset":
                self.end("reset")
            case "hang":
                await self._lost
            case "close_on_reuse":
                self._on_reuse = "closed"
                return True
            case "reset_on_reuse":
                self._on_reuse = "reset"
                return True
        return False

    async def _play(self, script: AnswerSteps) -> End | None:
        if isinstance(script, AsyncIterator):
            return await self._play_async(script)
        for step in script:
            if isinstance(step, End):
                return step
            await self._step(step)
        return None

    async def _play_async(self, script: AsyncIterator[AnswerStep]) -> End | None:
        async with aclosing(script) as running:  # type: ignore[type-var]
            async for step in running:
                if isinstance(step, End):
                    return step
                await self._step(step)
        return None

    async def _step(self, step: bytes | Gate | Pause) -> None:
        match step:
            case bytes():
                await self._send(step)
            case Gate():
                await step.passes()
            case Pause(seconds):
                await self._host.sleep(seconds)

    async def _send(self, data: bytes) -> None:
        self._write(data)
        await self._writable.wait()
        # The peer may run on this loop, too: let it read before the next piece.
        await asyncio.sleep(0)

    def _write(self, data: bytes) -> None:
        if self.transport is not None and data and not self.transport.is_closing():
            self.transport.write(data)
            self._host.sent(self.number, len(data))
