"""One connection to a server, from its start to its end.

It is in the hands of one task, which enters the SDK's contexts and leaves them: when another task
leaves them, the SDK's client raises RuntimeError.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from aiollm._agent.tool_runner import OVERRAN
from aiollm._mcp.address import Http
from aiollm._mcp.http import HttpTransport
from aiollm._mcp.lines import MAX_ITEMS
from aiollm._mcp.sdk import Sdk, load
from aiollm._mcp.settings import FailedCallError, NotRunError, NotThereError, Settings
from aiollm._mcp.stdio import LAST_WORDS, StdioTransport
from aiollm._mcp.tools import Listed
from aiollm._mcp.traffic import CLOSED, NOT_THERE, SESSION_LOST, WHOLE, Traffic
from aiollm._time_limits import TimeLimit, Timer
from aiollm._wire.printable import printable
from aiollm.errors import ConfigError

MAX_PAGES = 50
"""Pages of a list of tools, at most."""

PAUSE = 0.1
"""Seconds after a change of the tools in which others may follow, before they are listed."""

LEAVE = 2.0
"""Seconds for leaving the SDK's contexts, each time that it is asked to."""

SILENT_CALLS = 3
"""Calls in a row that pass their deadline while nothing comes, after which a server hangs."""

_LISTEN_FIRST, _LISTEN_MOST = 1.0, 60.0
"""Seconds between two attempts to subscribe to changes."""

_LOG_LINES = 8


class Connection:
    """A server while it is up, from its start to its end."""

    def __init__(
        self,
        settings: Settings,
        over: Callable[[Connection], None],
        listed: Callable[[Connection], None],
    ) -> None:
        """Start; `over` is told of the end at once, `listed` of each list of tools."""
        loop = asyncio.get_running_loop()
        self.settings = settings
        self.reason = ""
        self.error: ConfigError | None = None
        """What no other attempt would mend."""
        self.is_late = self.is_over = self.is_up = False
        self.is_new = True
        """Whether it has not been up yet."""
        self.tools: tuple[Listed, ...] = ()
        self.ready: asyncio.Future[None] = loop.create_future()
        self.began = loop.time()
        self._loop, self._owner = loop, os.getpid()
        self._told_over = over
        self._told_listed = listed
        self._over: asyncio.Future[None] = loop.create_future()
        self._changed = asyncio.Event()
        self._silent = 0
        self._client: Any = None
        self._sdk: Sdk
        self._traffic: Traffic
        self._transport: StdioTransport | HttpTransport | None = None
        self._timer: Timer | None = None
        self.task: asyncio.Task[None] = loop.create_task(
            self._live(), name=f"aiollm MCP server {settings.name}"
        )

    async def _live(self) -> None:
        try:
            self._sdk = await load()
            # Loading it takes its time once; the server is not to blame for that.
            seconds = self.settings.start_timeout
            self._timer = Timer(seconds, self._late)
            await self._stay()
        except ConfigError as error:
            self.error = error
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it ends the connection
            self._end(_words(error))
        finally:
            self._end("it was closed")
            if self._transport is not None:
                self._transport.close()
                if isinstance(self._transport, StdioTransport):
                    await self._transport.child.gone()

    async def _stay(self) -> None:
        sdk = self._sdk
        self._traffic = Traffic(sdk, self._end, self._changed.set)
        self._transport = transport = self._new_transport(self._traffic)
        async with sdk.Client(transport, cache=None, client_info=sdk.about) as client:
            self._client = client
            self.tools = await self._list()
            self._is_ready()
            listening = None
            if client.protocol_version in sdk.modern and self._changes:
                listening = asyncio.create_task(self._listen())
            try:
                await self._follow()
            finally:
                if listening is not None:
                    listening.cancel()
                    await asyncio.wait((listening,))

    def _new_transport(self, traffic: Traffic) -> StdioTransport | HttpTransport:
        own, most = self.settings, self.settings.max_message_bytes
        if isinstance(own.address, Http):
            headers, seconds = own.request_headers(), own.start_timeout
            return HttpTransport(traffic, own.address.url, headers, seconds, most)
        return StdioTransport(traffic, own.address.command, own.environment(), own.cwd, most)

    def _is_ready(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self.is_up = not self.is_over
        if self.is_up:
            self._told_listed(self)
            self.ready.set_result(None)

    async def _follow(self) -> None:
        """Wait for the end; list the tools again whenever they change."""
        while not self._over.done():
            changing = asyncio.ensure_future(self._changed.wait())
            await self._first(changing)
            if self._over.done():
                return
            await asyncio.wait((self._over,), timeout=PAUSE)
            self._changed.clear()
            listing = asyncio.ensure_future(self._list())
            await self._first(listing)
            if self._over.done():
                return
            if listing.exception() is None:
                self.tools = listing.result()
                self._told_listed(self)

    async def _first(self, work: asyncio.Future[Any]) -> None:
        """Wait for `work`, but not after the end."""
        try:
            await asyncio.wait((self._over, work), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait((work,))

    async def _list(self) -> tuple[Listed, ...]:
        """Return the tools of the server, which may not have any."""
        client, found, cursor = self._client, [], None
        if client.server_capabilities.tools is None:
            return ()
        async with TimeLimit(self.settings.start_timeout):
            for _ in range(MAX_PAGES):
                page = await client.list_tools(cursor=cursor)
                found += page.tools
                cursor = page.next_cursor
                if not cursor or len(found) >= MAX_ITEMS:
                    break
        some = found[:MAX_ITEMS]
        schemas = (each.input_schema.get(WHOLE, each.input_schema) for each in some)
        pairs = zip(some, schemas, strict=True)
        return tuple(Listed(each.name, each.description or "", schema) for each, schema in pairs)

    @property
    def _changes(self) -> bool:
        return bool(self._client.server_capabilities.tools)

    async def _listen(self) -> None:
        """Subscribe to changes of the tools, as long as the server takes subscriptions."""
        wait = _LISTEN_FIRST
        while True:
            try:
                async with self._client.listen(tools_list_changed=True) as changes:
                    wait = _LISTEN_FIRST
                    async for _ in changes:
                        pass  # what has changed was noted as it came
            except self._sdk.Error:
                return  # it has no subscriptions
            except Exception:  # noqa: BLE001 - it was lost, for whatever reason
                wait = min(_LISTEN_MOST, 2 * wait)
            await asyncio.sleep(wait)
            self._changed.set()

    async def call(self, name: str, arguments: Mapping[str, Any], seconds: float | None) -> Any:
        """Call a tool; return the SDK's result.

        Raises: TimeoutError, NotRunError, NotThereError, FailedCallError.
        """
        if isinstance(self._transport, StdioTransport) and not self._transport.child.is_open:
            if self._transport.child.has_exited:
                await self._transport.child.told(LAST_WORDS)  # the others' answers, and the reason
            self._end("it closed its input")
            raise NotRunError
        heard = self._traffic.heard
        sdk, reason = self._sdk, ""
        try:
            async with TimeLimit(seconds):
                result = await self._client.call_tool(name, dict(arguments))
        except (TimeoutError, asyncio.CancelledError) as error:
            if isinstance(error, TimeoutError) or error.args == (OVERRAN,):
                self._is_silent(heard)
            raise
        except sdk.Error as error:
            if error.error.code == SESSION_LOST:
                self._end("it has forgotten the session")
                raise NotRunError from None
            if error.error.code == NOT_THERE:
                raise NotThereError(error.error.message) from None
            if error.error.code == CLOSED and self.pid is not None:
                self._end("the connection ended")
            reason = self.reason if self.is_over else error.error.message
        except sdk.ValidationError as error:
            reason = f"the result is not valid: {error.errors()[0]['msg']}"
        except Exception as error:  # noqa: BLE001 - a fault of the SDK ends no run
            reason = self.reason if self.is_over else f"{type(error).__name__}: {error}"
        else:
            self._silent = 0
            return result
        raise FailedCallError(reason)

    def _is_silent(self, heard: int) -> None:
        """Note that a call has passed its deadline, and whether anything came meanwhile."""
        self._silent = self._silent + 1 if self._traffic.heard == heard else 0
        if self._silent >= SILENT_CALLS:
            self._end(f"it was silent in {SILENT_CALLS} calls")

    def _late(self) -> None:
        self.is_late = True
        self._end(f"it was not ready within {self.settings.start_timeout:g} s")

    def _end(self, reason: str) -> None:
        """Note the end; synchronous, so that no call is given to a server that is gone."""
        if self.is_over:
            return
        self.reason = self._explained(reason)
        self.is_over, was_up, self.is_up = True, self.is_up, False
        if self._timer is not None:
            self._timer.cancel()
        for waiting in (self._over, self.ready):
            if not waiting.done():
                waiting.set_result(None)
        if was_up and self._transport is not None:
            self._transport.close()
        elif asyncio.current_task(self._loop) is not self.task:
            self.task.cancel()  # once: a second one would break off its cleanup
        self._told_over(self)

    def _explained(self, reason: str) -> str:
        """Return a reason with the end of the log of a server that did not start."""
        log = self.log.strip().splitlines()[-_LOG_LINES:] if not self.is_up else []
        full = ":\n  ".join([reason, "\n  ".join(log)]) if log else reason
        return self.redacted(full)

    def redacted(self, text: str) -> str:
        """Return what the server said without the keys that it was given."""
        return printable(self._masked(text))

    def _masked(self, text: str) -> str:
        from aiollm._settings.redactor import Redactor  # for failures alone

        return Redactor(self.settings.secrets()).text(text)

    @property
    def is_here(self) -> bool:
        """Whether it belongs to the running loop, and to this process."""
        try:
            return self._loop is asyncio.get_running_loop() and self._owner == os.getpid()
        except RuntimeError:
            return False

    def now(self) -> float:
        """Return the time of its loop's clock."""
        return self._loop.time()

    def facts(self) -> dict[str, Any]:
        """Return what the server says of itself."""
        client = self._client
        info = client.server_info
        about = "" if info is None else f"{info.name} {info.version}".strip()
        return {
            "pid": self.pid,
            "protocol": client.protocol_version,
            "server": printable(about),
            "instructions": printable(client.instructions or ""),
        }

    @property
    def log(self) -> str:
        """The last 8 KiB of what the server wrote to its standard error, without its keys."""
        transport = self._transport
        if not isinstance(transport, StdioTransport):
            return ""
        return self._masked(transport.child.log.decode("utf-8", "replace"))

    @property
    def pid(self) -> int | None:
        """The id of the process whose group is the server's."""
        transport = self._transport
        return transport.child.pid if isinstance(transport, StdioTransport) else None

    def close(self) -> None:
        """End; at once, and idempotent. `gone` waits for it."""
        self._end("it was closed")

    async def gone(self) -> None:
        """Wait until the task has left everything, or does not within its time."""
        for _ in range(2):
            done, _ = await asyncio.wait((self.task,), timeout=LEAVE + self._grace)
            if done:
                return
            self.task.cancel()

    @property
    def _grace(self) -> float:
        return LEAVE if self.pid is not None else 0.0

    def kill(self) -> None:
        """End at once, without a running loop."""
        with suppress(RuntimeError):  # the loop is closed
            self.close()
        if isinstance(self._transport, StdioTransport):
            self._transport.child.kill()


def _words(error: BaseException) -> str:
    """Return what went wrong: groups of errors hold it inside."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = str(error).strip()
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
