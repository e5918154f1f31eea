"""A loopback server that plays steps and controls its sockets down to FIN and RST."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Coroutine
from contextlib import AbstractContextManager, suppress
from functools import partial
from ssl import SSLContext, SSLError
from types import TracebackType
from typing import Any, Literal, Self, TypeAlias, TypedDict, TypeVar, get_args
from urllib.parse import quote, urlencode

from aiollm.testing.connection import NO_LINGER, Connection, Host, Sleep
from aiollm.testing.marks import override
from aiollm.testing.thread import in_thread

OnConnect: TypeAlias = Literal["serve", "close", "reset", "deaf"]
"""What to do with a new connection."""


class LoopbackOptions(TypedDict, total=False):
    """The keywords of every loopback server; see `Loopback`."""

    ssl: SSLContext | None
    host: str
    on_connect: OnConnect
    read_bodies: bool
    sleep: Sleep


class _Listener(socket.socket):
    """A socket whose last connection is not lost when what waits for it is cancelled just then."""

    accepted: socket.socket | None = None

    @override
    def accept(self) -> tuple[socket.socket, Any]:
        found = super().accept()
        self.accepted = found[0]
        return found


SocketT = TypeVar("SocketT", bound=socket.socket)


class Loopback(Host):
    """The base of all servers of the kit, which listen on a free port of this machine.

    For each request it plays the steps that `answer` returns. An exception in `answer` causes a
    500 and is raised when the block ends.

    `ssl`: the context for TLS, None for plain HTTP. `host`: `127.0.0.1` or `[::1]`.
    `on_connect`: `"serve"`; `"close"` or `"reset"` each connection at once, by FIN or RST; or
    `"deaf"`, to accept it and never read, so that uploads stall and the end of the peer is not
    seen. `read_bodies`: False answers once the headers are in, before the request's body. `sleep`:
    called with the seconds of each pause in place of `asyncio.sleep`.
    Raises: ValueError for another `on_connect`.
    """

    def __init__(
        self,
        *,
        ssl: SSLContext | None = None,
        host: str = "127.0.0.1",
        on_connect: OnConnect = "serve",
        read_bodies: bool = True,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        super().__init__()
        if on_connect not in get_args(OnConnect):
            known = ", ".join(get_args(OnConnect))
            raise ValueError(f"on_connect is {on_connect!r}: expected one of {known}")
        self.host = host
        self.read_bodies = read_bodies
        self.sleep = sleep
        self._ssl = ssl
        self._on_connect: OnConnect = on_connect
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._alive: set[Connection] = set()
        self._errors: list[Exception] = []
        self._port = 0
        self._listener: _Listener | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def bind(self) -> None:
        """Reserve the port now; connections queue until the block is entered. Raises: OSError."""
        try:
            self._listener = self._bind(_Listener)
            self._listener.listen(1024)
        except OSError:
            self._shut()
            raise
        self._port = self._listener.getsockname()[1]

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        if self._listener is None:
            self.bind()
        assert self._listener is not None
        try:
            await self.prepare()
        except BaseException:
            self._shut()
            raise
        self._spawn(self._accept(self._listener))
        return self

    async def prepare(self) -> None:
        """Prepare for the first request."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Everything is closed before the first await, so a cancellation here leaks nothing.
        if tasks := self._shut():
            await asyncio.wait(tasks)
        if self._errors and error is None:
            raise self._errors[0]

    def _shut(self) -> set[asyncio.Task[None]]:
        for task in self._tasks:
            task.cancel()
        for connection in tuple(self._alive):
            connection.abort()
        if self._listener is not None:
            self._stop_accepting(self._listener)
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        self._listener = None
        return set(self._tasks)

    def _stop_accepting(self, listener: _Listener) -> None:
        if self._loop is not None:
            # Cancelled, a wait for it ends in the next turn of the loop only: after it is closed.
            with suppress(NotImplementedError):  # Windows' own loop has no readers
                self._loop.remove_reader(listener)
        if listener.accepted is not None:
            listener.accepted.close()

    @property
    def port(self) -> int:
        """The port it listens on. Raises: RuntimeError before `async with`."""
        if not self._port:
            raise RuntimeError("the server is not running: enter its `async with` first")
        return self._port

    @property
    def url(self) -> str:
        """The server's origin, without a trailing slash."""
        return f"{'https' if self._ssl else 'http'}://{self.host}:{self.port}"

    def dsn(
        self,
        scheme: str = "openai",
        token: str = "test-key",  # noqa: S107 - made up
        path: str = "",
        **options: float | str,
    ) -> str:
        """Return the server's DSN for a registry's environment."""
        transport = "https" if self._ssl else "http"
        query = f"?{urlencode(options, quote_via=quote)}" if options else ""
        key = f"{quote(token, safe='')}@" if token else ""
        return f"{scheme}+{transport}://{key}{self.host}:{self.port}{path}{query}"

    def refused_url(self) -> str:
        """Return a new origin that refuses connections while the server runs."""
        return f"http://{self.host}:{self._bind(socket.socket).getsockname()[1]}"

    def unanswered_url(self) -> str:
        """Return a new origin where connecting hangs: its backlog is full (Linux)."""
        listener = self._bind(socket.socket)
        listener.listen(0)
        address = listener.getsockname()
        for _ in range(3):
            filler = socket.socket(listener.family)
            filler.setblocking(False)
            self._sockets.append(filler)
            with suppress(BlockingIOError):
                filler.connect(address)
        return f"http://{self.host}:{address[1]}"

    def in_thread(self) -> AbstractContextManager[Self]:
        """Run in a thread with a separate event loop, for the duration of a `with` block.

        Counts, waits, gates, and methods that change its behaviour may be used from outside.
        """
        return in_thread(self)

    def drop(self, how: Literal["closed", "reset"] = "closed") -> None:
        """End all open connections, by FIN or RST: at once, or soon if it runs in a thread."""
        if self._loop is not None and self._loop is not _running_loop():
            self._loop.call_soon_threadsafe(self._drop, how)
        else:
            self._drop(how)

    def _drop(self, how: Literal["closed", "reset"]) -> None:
        for connection in tuple(self._alive):
            connection.end(how)

    @override
    def failed(self, error: Exception) -> None:
        """Keep an error raised by the script; the first is raised at the end of the block."""
        self._errors.append(error)

    def _bind(self, kind: type[SocketT]) -> SocketT:
        host = self.host.strip("[]")
        bound = kind(socket.AF_INET6 if ":" in host else socket.AF_INET)
        self._sockets.append(bound)
        bound.setblocking(False)
        bound.bind((host, 0))
        return bound

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            self._errors.append(error)

    async def _accept(self, listener: _Listener) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            listener.accepted = None
            # Otherwise a piece waits about 40 ms for the peer's delayed ACK of the one before.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            is_deaf = self._on_connect == "deaf"
            connection = Connection(self, self.opened(loop.time()), sock, is_deaf=is_deaf)
            match self._on_connect:
                case "close" | "reset" as how:
                    self._refuse(sock, connection, how)
                case _:
                    task = self._spawn(self._attend(sock, connection))
                    task.add_done_callback(partial(self._release, sock, connection))

    def _refuse(
        self, sock: socket.socket, connection: Connection, how: Literal["close", "reset"]
    ) -> None:
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
        sock.close()
        connection.end("reset" if how == "reset" else "closed")

    async def _attend(self, sock: socket.socket, connection: Connection) -> None:
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(
                lambda: connection,
                sock,
                ssl=self._ssl,
                ssl_shutdown_timeout=1.0 if self._ssl else None,
            )
        except (OSError, SSLError):
            self.gone(connection.number, "handshake", "peer", loop.time())
            return
        self._alive.add(connection)
        if connection.is_deaf:
            transport.pause_reading()
        await connection.serve()

    def _release(self, sock: socket.socket, connection: Connection, _: asyncio.Task[None]) -> None:
        """Close the connection of a task that was cancelled at any point, even before it began."""
        self._alive.discard(connection)
        connection.abort()
        if connection.transport is None:
            sock.close()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
