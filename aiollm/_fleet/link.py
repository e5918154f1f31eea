"""The link: one connection to Redis that pipelines commands, always reads, and comes back.

Callers get futures and never touch the connection, so a cancelled one cannot put it out of step.
Replies come in the order of the commands; what others publish comes between them (RESP3 pushes).
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeAlias

from aiollm._fleet.address import Address
from aiollm._fleet.refusals import mistake_in
from aiollm._time_limits import TimeLimit, wait
from aiollm.errors import ConfigError

if TYPE_CHECKING:
    from redis.asyncio import Connection

Argument: TypeAlias = bytes | str | int | float

CONNECT_TIMEOUT = 2.0
"""Seconds a connection may take; only the first call waits for it."""

RETRY_FIRST, RETRY_MOST = 0.1, 2.0
"""Seconds between two attempts to connect; doubled, with jitter, so that no fleet comes at once."""


A_TURN = 32
"""Replies and messages between two turns of the event loop: in a large fleet, a read may hold a
thousand."""


class Push(list[Any]):
    """A message that Redis sent by itself."""


class Link:
    """One connection; `is_up` says whether it answers in time."""

    def __init__(
        self,
        address: Address,
        *,
        greet: Callable[[], Awaitable[None]],
        hear: Callable[[Sequence[Any]], None],
        lost: Callable[[], None],
    ) -> None:
        """`greet` makes a new connection ready, `hear` takes messages, `lost` learns of its end."""
        self.address = address
        self.is_up = False
        self.trouble = ""
        """The class of what ended the last connection, or kept it from being made."""
        self._greet = greet
        self._hear = hear
        self._lost = lost
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._unsent: list[bytes] = []
        self._wakes = asyncio.Event()
        self._made = asyncio.Event()
        self._connection: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._first: asyncio.Future[None] | None = None
        self._broken: asyncio.Future[None] | None = None

    async def open(self) -> None:
        """Connect, or go on trying in the background where that fails.

        Raises: ConfigError for what only a person can mend; the next call tries again.
        """
        if self._task is None or self._task.done():
            loop = self._loop = asyncio.get_running_loop()
            self._first, self._made = loop.create_future(), asyncio.Event()
            self._task = loop.create_task(self._run(), name="aiollm fleet")
        assert self._first is not None
        await self._made.wait()  # importing the client is not the server's time
        await wait(self._first, CONNECT_TIMEOUT)
        if self._first.done():
            self._first.result()

    @property
    def is_open(self) -> bool:
        """Whether it connects, or has connected, by itself."""
        return self._task is not None and not self._task.done()

    def send(self, *command: Argument) -> asyncio.Future[Any]:
        """Send a command; return a future of its reply, an exception where Redis refuses it.

        Its loop need not run at the moment.
        """
        loop = self._loop or asyncio.get_running_loop()
        future = loop.create_future()
        if self._connection is None:
            _fail(future, ConnectionError("there is no connection to Redis"))
            return future
        self._unsent += self._connection.pack_command(*command)
        self._waiting.append(future)
        self._wakes.set()
        return future

    def give_up(self) -> None:
        """End a connection that does not answer, so that another follows."""
        if self._broken is not None and not self._broken.done():
            self._broken.set_exception(ConnectionError("Redis does not answer"))

    async def aclose(self) -> None:
        """End the connection; idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait([task])

    def kill(self) -> None:
        """End the connection at once, without a running loop."""
        task, self._task = self._task, None
        connection, self._connection = self._connection, None
        self.is_up = False  # or its task, when it ends, would say that it was lost
        is_closed = self._loop is not None and self._loop.is_closed()
        writer = getattr(connection, "_writer", None)
        if writer is not None:
            with suppress(RuntimeError):  # it closes at once, and tells its loop if there is one
                writer.transport.abort()
        if task is not None and not is_closed:
            task.cancel()

    async def _run(self) -> None:
        pause = RETRY_FIRST
        while True:
            mistake = ""
            try:
                await self._serve()
            except ConfigError as error:
                mistake = str(error)
            except Exception as error:  # noqa: BLE001 - whatever ends a connection, another follows
                mistake = self._mistake_in(error)
                self.trouble = type(error).__name__
            finally:
                was_up = self._drop()
            if not self._goes_on_after(mistake):
                return
            pause = RETRY_FIRST if was_up else min(RETRY_MOST, pause * 2)
            await asyncio.sleep(random.uniform(pause / 2, pause))

    def _goes_on_after(self, mistake: str) -> bool:
        """Answer whoever waits for the first connection; return whether another is tried."""
        first = self._first
        if first is None or first.done():
            return True
        if mistake:
            _fail(first, ConfigError(mistake))
            return False
        first.set_result(None)
        return True

    async def _serve(self) -> None:
        """Connect and serve one connection until it ends."""
        try:
            await asyncio.to_thread(self.address.load)
        finally:
            self._made.set()
        async with TimeLimit(CONNECT_TIMEOUT):
            url = await self.address.find()
        # In a thread, for it reads files.
        connection = await asyncio.to_thread(self.address.new_connection, url)
        try:
            async with TimeLimit(CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
            self._connection = connection
            self._broken = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._write(connection))
                group.create_task(self._read(connection))
                group.create_task(self._end_with(self._broken))
                async with TimeLimit(CONNECT_TIMEOUT):
                    await self._greet()
                self.is_up = True
                if self._first is not None and not self._first.done():
                    self._first.set_result(None)
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            with suppress(Exception):
                await connection.disconnect(nowait=True)

    async def _write(self, connection: Connection) -> None:
        while True:
            await self._wakes.wait()
            self._wakes.clear()
            unsent, self._unsent = self._unsent, []
            await connection.send_packed_command(b"".join(unsent), check_health=False)

    async def _read(self, connection: Connection) -> None:
        from redis.exceptions import ResponseError

        parser: Any = connection._parser  # noqa: SLF001 - as redis-py's own PubSub does
        parser.set_pubsub_push_handler(_as_push)
        for count in itertools.count():
            if count % A_TURN == 0:
                await asyncio.sleep(0)
            try:
                reply = await connection.read_response(disable_decoding=True, push_request=True)
            except ResponseError as error:
                _fail(self._waiting.popleft(), error)
                continue
            if type(reply) is Push and reply[0] != b"subscribe":
                self._hear(reply)
                continue
            if type(reply) is Push and reply[2] != 1:
                continue  # the answer to a command that names several channels comes in several
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(reply)

    @staticmethod
    async def _end_with(broken: asyncio.Future[None]) -> None:
        await broken

    def _drop(self) -> bool:
        """Forget the connection; return whether it was up."""
        was_up, self.is_up = self.is_up, False
        self._connection = None
        self._unsent = []
        waiting, self._waiting = self._waiting, deque()
        for future in waiting:
            _fail(future, ConnectionError("the connection to Redis was lost"))
        if was_up:
            self._lost()
        return was_up

    def _mistake_in(self, error: BaseException) -> str:
        """Return what a person has to mend, "" where time may."""
        meaning = mistake_in(error)
        return f"the fleet's Redis at {self.address.place} {meaning}" if meaning else ""


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not (future.done() or future.get_loop().is_closed()):
        future.set_exception(error)
        future.exception()  # or asyncio would complain where nobody asks for it


async def _as_push(message: list[Any]) -> Push:
    return Push(message)
