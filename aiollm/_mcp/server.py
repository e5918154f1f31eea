"""The McpServer handle: starts a server when it is needed, again when it died, and calls it."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, TypedDict

import msgspec

from aiollm._mcp.settings import FailedCallError, NotRunError, NotThereError, Settings
from aiollm.dsn import Secret
from aiollm.errors import (
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    LLMError,
    ProtocolError,
)
from aiollm.events import Event, McpDied, McpRestarted, McpStarted, McpToolsChanged
from aiollm.types import ToolResultPart

if TYPE_CHECKING:
    from aiollm._agent.served_tools import ServedTool
    from aiollm._mcp.connection import Connection
    from aiollm._mcp.tools import Book, Listed
    from aiollm._resources import Resources

_CONNECTING = ("aiollm._mcp.connection", "aiollm._mcp.tools", "aiollm._mcp.results")
"""What a server is started and called with: loaded in a thread where it is first needed."""

CALL_SECONDS = 60.0
"""Seconds of a call outside a run, where the server has no `call_timeout`."""

COOLDOWN, LONGEST = 1.0, 60.0
"""Seconds without an attempt after a failed start; doubled each time, with jitter."""

_MARGIN = 1.0

McpState: TypeAlias = Literal["idle", "starting", "up", "down", "closed"]
"""`down`: it failed, and is started again when it is needed, after its cooldown if it has one."""


class McpOptions(TypedDict, total=False):
    """The keywords of `mcp`.

    `name`: what tools, errors and events call it; by default its variable's, package's or host's.
    `env`: variables for its process, beside a few harmless ones. `cwd`: where it runs. `headers`,
    `token`: for its URL; the token is a bearer token. `start_timeout`: seconds until it must have
    listed its tools (30). `call_timeout`: seconds of a call; None means the run's `tool_timeout`,
    and 60 outside a run. `max_message_bytes`: how much of one message is read (8 MiB). `cooldown`:
    seconds after a failed start in which calls fail at once (1); doubled each time, at most 60.
    """

    name: str
    env: Mapping[str, str]
    cwd: str | os.PathLike[str]
    headers: Mapping[str, str]
    token: str | Secret
    start_timeout: float
    call_timeout: float | None
    max_message_bytes: int
    cooldown: float


class McpStatus(msgspec.Struct, frozen=True):
    """A snapshot of a server.

    `failures`: in a row, without a successful call. `reopens_in`: seconds until it may be started
    again. `pid`: the process whose group it is. `server` and `instructions` are its own words.
    """

    name: str
    state: McpState
    tools: int = 0
    starts: int = 0
    failures: int = 0
    reopens_in: float = 0.0
    reason: str = ""
    pid: int | None = None
    protocol: str = ""
    server: str = ""
    instructions: str = ""


class McpServer:
    """An MCP server and its tools; an async context manager, which ends it.

    Nothing runs before its tools are needed. If it dies, it is restarted when needed again. Its
    process, and everything that it started, ends with this one, however that ends. Closing works
    from any task.

        async with reg.mcp("stdio:uvx mcp-server-git") as git:
            run = reg.run(spec, "What changed?", tools=await git.tools("git_log", "git_diff*"))
    """

    def __init__(self, settings: Any, resources: Any, emit: Any, cooldown: float) -> None:
        """Start nothing; `Registry.mcp` makes it, of parts that are not for others."""
        self._settings: Settings = settings
        self._resources: Resources = resources
        self._emit: Callable[[Event], None] = emit
        self._cooldown = cooldown
        self._owner = os.getpid()
        self._connection: Connection | None = None
        self._leaving: set[Connection] = set()
        self._book: Book | None = None
        self._listed: tuple[Listed, ...] = ()
        self._starts = self._failures = 0
        self._reason = ""
        self._reopens_at = 0.0
        self._closed = False

    def __repr__(self) -> str:
        return f"McpServer({self.name!r}, {self.status.state})"

    @property
    def name(self) -> str:
        """What tools, errors and events call it."""
        return self._settings.name

    async def start(self) -> Self:
        """Start it and list its tools, if it is not up; otherwise the first call does so.

        Raises: ConnectError and DeadlineError where it cannot be started, ClosedError, and
        ConfigError where the official SDK is not installed.
        """
        await self._connected()
        return self

    async def tools(self, *patterns: str, prefix: str | bool = False) -> tuple[ServedTool, ...]:
        """Return its tools, ready for `run`: all of them, or those whose names match a pattern.

        Patterns are those of file names, and `!write_*` leaves tools out. `prefix`: what names
        begin with; True means the server's name. Without it, a run puts the server's name before
        names that another tool has, too. Raises: as `start`; ConfigError if a pattern matches none.
        """
        await self._connected()
        from aiollm._agent.served_tools import prefixed
        from aiollm._mcp.tools import book_of, chosen

        book = self._book
        if book is None:
            timeout = self._settings.call_timeout
            total = None if timeout is None else timeout + self._settings.start_timeout + _MARGIN
            listed = self._listed
            book = await book_of(self.name, listed, self._call, total)
            if listed is self._listed:
                self._book = book
        found = chosen(self.name, book, patterns)
        if prefix:
            start = self.name if prefix is True else prefix
            found = [prefixed(tool, start) for tool in found]
        return tuple(found)

    async def call(
        self,
        name: str,
        arguments: Mapping[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a setting, which the error names
    ) -> ToolResultPart:
        """Call a tool by the server's own name for it, starting the server if it is not up.

        A tool that fails has a result with `is_error`. Raises: ConnectError where the server is
        not there or dies, DeadlineError, ProtocolError for an answer that cannot be used,
        ClosedError where it is closed meanwhile.
        """
        own = self._settings.call_timeout
        seconds = timeout if timeout is not None else CALL_SECONDS if own is None else own
        return await self._called(name, arguments or {}, seconds)

    async def _call(self, name: str, arguments: dict[str, Any]) -> ToolResultPart:
        """Call a tool in a run, which has a time limit of its own."""
        return await self._called(name, arguments, self._settings.call_timeout)

    async def _called(
        self, name: str, arguments: Mapping[str, Any], seconds: float | None
    ) -> ToolResultPart:
        error: LLMError | None = None
        for _ in range(2):  # a call that was not run, because of a lost session, is made again
            connection = await self._connected()
            if all(each.name != name for each in connection.tools):
                known = ", ".join(each.name for each in connection.tools) or "none"
                reason = f"has no tool {name!r:.80}; it has: {connection.redacted(known):.1000}"
                raise self._error(ProtocolError, reason)
            try:
                result = await connection.call(name, arguments, seconds)
            except NotRunError:
                error = self._error(ConnectError, "was lost twice before it ran the call")
                continue
            except TimeoutError:
                reason = f"did not answer {name!r:.80} within {seconds:g} s"
                message = f"MCP server {self.name!r} {reason}"
                error = DeadlineError(message, which="total", after=seconds or 0.0)
            except FailedCallError as failed:
                error = self._failed_call(name, connection, failed)
            else:
                from aiollm._mcp.results import result_of

                self._failures = 0
                return result_of(name, result)
            break
        assert error is not None
        raise error

    def _failed_call(self, name: str, connection: Connection, failed: FailedCallError) -> LLMError:
        if self._closed:
            return ClosedError(f"MCP server {self.name!r} was closed while {name!r:.80} ran")
        if connection.is_over:
            return self._error(ConnectError, f"died while {name!r:.80} ran: {failed}")
        message = f"{name!r:.80} has no result: {connection.redacted(str(failed))}"
        kind = ConnectError if isinstance(failed, NotThereError) else ProtocolError
        return self._error(kind, message)

    def _error(self, kind: type[ConnectError | ProtocolError], reason: str) -> LLMError:
        return kind(f"MCP server {self.name!r} {reason}")

    async def _connected(self) -> Connection:
        """Return a connection that is up. Raises: as `start`."""
        if self._connection is None:
            await self._resources.load(*_CONNECTING)
        connection = self._connection
        if connection is not None and connection.is_up and connection.is_here:
            return connection
        if connection is None or connection.is_over or not connection.is_here:
            connection = self._started()
        # Whoever waits may be cancelled; the start goes on, for others and for the next call.
        await asyncio.wait((connection.ready,))
        if connection.is_up:
            return connection
        raise self._start_error(connection)

    def _started(self) -> Connection:
        if self._closed:
            raise ClosedError(f"MCP server {self.name!r} is closed")
        self._resources.bind_loop()
        loop = asyncio.get_running_loop()
        old = self._connection
        if old is not None and not old.is_here:
            old.kill()
        if self._connection is None or self._owner != os.getpid():
            self._owner = os.getpid()
            self._resources.disown(self)
            self._resources.own(self)
        elif (wait := self._reopens_at - loop.time()) > 0 and old is not None and old.is_here:
            again = f"it is not tried again for {max(wait, 0.1):.1f} s"
            raise self._error(ConnectError, f"is down, and {again}: {self._reason}")
        from aiollm._mcp.connection import Connection

        self._connection = Connection(self._settings, self._is_over, self._is_listed)
        return self._connection

    def _start_error(self, connection: Connection) -> LLMError:
        if connection.error is not None:
            return ConfigError(connection.error.message)
        if self._closed:
            return ClosedError(f"MCP server {self.name!r} was closed")
        if connection.is_late:
            after = self._settings.start_timeout
            message = f"MCP server {self.name!r} did not start: {connection.reason}"
            return DeadlineError(message, which="connect", after=after)
        return self._error(ConnectError, f"did not start: {connection.reason}")

    def _is_listed(self, connection: Connection) -> None:
        """Take the tools of a server that has just started, or of which they changed."""
        before = {each.name for each in self._listed}
        self._listed, self._book = connection.tools, None
        names = {each.name for each in self._listed}
        if not connection.is_new:
            added, removed = tuple(sorted(names - before)), tuple(sorted(before - names))
            self._emit(McpToolsChanged(self.name, added, removed))
            return
        connection.is_new = False
        self._starts += 1
        seconds = asyncio.get_running_loop().time() - connection.began
        if self._starts == 1:
            self._emit(McpStarted(self.name, seconds, len(names)))
        else:
            self._emit(McpRestarted(self.name, seconds, len(names), self._starts - 1))

    def _is_over(self, connection: Connection) -> None:
        """Book the end of a connection, at once."""
        self._leaving.add(connection)
        connection.task.add_done_callback(lambda _: self._leaving.discard(connection))
        if self._closed or connection.error is not None or connection is not self._connection:
            return
        self._reason = connection.reason
        self._failures += 1
        # One that was up and died is started again at once; if it then dies again, it has to wait.
        steps = self._failures - (1 if connection.is_new else 2)
        seconds = min(LONGEST, self._cooldown * 2**steps) if steps >= 0 else 0.0
        seconds = random.uniform(seconds / 2, seconds)
        self._reopens_at = asyncio.get_running_loop().time() + seconds
        self._emit(McpDied(self.name, connection.reason, seconds))

    @property
    def status(self) -> McpStatus:
        """A snapshot of what is known of it."""
        connection, facts = self._connection, {}
        state: McpState = "closed" if self._closed else "idle"
        wait = 0.0
        if connection is not None and not self._closed:
            state = "up" if connection.is_up else "down" if connection.is_over else "starting"
            facts = connection.facts() if connection.is_up else {}
            wait = max(0.0, self._reopens_at - connection.now()) if state == "down" else 0.0
        return McpStatus(
            self.name,
            state,
            tools=len(self._listed),
            starts=self._starts,
            failures=self._failures,
            reopens_in=wait,
            reason=self._reason,
            **facts,
        )

    @property
    def log(self) -> str:
        """The last 8 KiB of what its process wrote to its standard error; its keys are masked."""
        return "" if self._connection is None else self._connection.log

    async def aclose(self) -> None:
        """End it, and wait until it is gone; from any task, at any time, and more than once."""
        self._end()
        while leaving := [each for each in self._leaving if each.is_here]:
            await asyncio.gather(*(each.gone() for each in leaving))
            self._leaving.difference_update(leaving)

    def kill(self) -> None:
        """End it at once, without waiting; it also works after the event loop has closed."""
        self._end()
        if self._connection is not None:
            self._connection.kill()

    def _end(self) -> None:
        self._closed = True
        if self._owner == os.getpid():
            self._resources.disown(self)
            if self._connection is not None and self._connection.is_here:
                self._connection.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()
