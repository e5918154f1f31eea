"""What a registry owns: connections, image workers, the gate of its calls, and their loop."""

from __future__ import annotations

import asyncio
import os
import warnings
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, get_args

from aiollm._failover.chain import Chain
from aiollm._failover.deadlines import Watchdog
from aiollm._failover.gate import Gate
from aiollm._failover.health import Health
from aiollm._failover.loading import in_thread, load_modules
from aiollm._failover.openers import LONG, ChatOpener, TargetOpener
from aiollm._failover.policy import Policy
from aiollm._validation import (
    RequestLike,
    as_request,
    checked_request,
)
from aiollm.capabilities import Capabilities
from aiollm.errors import ClosedError, ConfigError
from aiollm.provider import HttpRequest, Provider, Reply, Transport
from aiollm.providers.lazy import loader_of
from aiollm.types import Request, ResponseCacheUse, Target, Timeouts, _shown

if TYPE_CHECKING:
    from aiollm._agent.tool_runner import ToolRunner
    from aiollm._failover.conversations import Conversations
    from aiollm._failover.keywords import StreamOptions
    from aiollm._failover.sessions import Sessions
    from aiollm._failover.snapshots import FleetStatus
    from aiollm._fleet.member import Member
    from aiollm._http.tokens import Tokens
    from aiollm._http.transport import HttpTransport
    from aiollm._http.unary import UnaryRequester
    from aiollm._response_cache.cache import ResponseCache
    from aiollm._streams.stream import CallSource
    from aiollm.events import Event
    from aiollm.media import MediaPool
    from aiollm.prices.book import PriceBook


USUAL = (
    "aiollm._agent.options",
    "aiollm._agent.run",
    "aiollm._failover.keywords",
    "aiollm._http.last_words",
    "aiollm._settings.network",
    "aiollm._wire.quota",
)
"""What calls with options, and runs of agents, import where they are made."""


class Closeable(Protocol):
    """Something that a registry can own, and close when it is closed."""

    async def aclose(self) -> None:
        """End it, and wait until it has ended."""

    def kill(self) -> None:
        """End it at once, without a running loop."""


def _paid(make: Callable[..., Chain]) -> Callable[..., Chain]:
    """Return a function that makes the same kind of call, but counts money."""
    if make is Chain:
        from aiollm._failover.paid import PaidChain  # only calls with prices or a budget need it

        return PaidChain
    from aiollm._failover.paid_sessions import paid_session

    return paid_session(make)


def new_gate(health: Health, fleet: str) -> Gate:
    """Return a gate, one that asks its fleet where there is one."""
    if fleet == "":
        return Gate(health)
    from aiollm._failover.fleet_gate import FleetGate  # only fleets need it

    return FleetGate(health)


class Resources:
    """All that a registry owns; also the transport of its calls, opened by the first of them.

    It does not refer to its registry: a cycle would leave open sockets to the garbage collector.
    """

    def __init__(
        self,
        gate: Gate,
        image_workers: int | None = None,
        max_pixels: int = 80_000_000,
        tool_threads: int = 64,
        *,
        fetch_images: bool = False,
        book: PriceBook | None = None,
    ) -> None:
        """Keep the gate of all calls and the settings of what is made later; open nothing."""
        self.gate = gate
        self._book = book
        self.closed = False
        self._image_workers = image_workers
        self._max_pixels = max_pixels
        self._fetch_images = fetch_images
        self._tool_threads = tool_threads
        self._owned: list[Closeable] = []
        self._owner = os.getpid()
        self._transport: HttpTransport | None = None
        self._pool: MediaPool | None = None
        self._tokens: Tokens | None = None
        self._watchdog: Watchdog | None = None
        self._runner: ToolRunner | None = None
        self._member: Member | None = None
        self._sessions: Sessions | None = None
        self._conversations: Conversations | None = None
        self._response_cache: ResponseCache | None = None

    def opener_of(
        self,
        request: RequestLike,
        check_extra: Callable[[Mapping[str, Any]], object],
        providers: Mapping[Target, Provider],
        timeouts: Mapping[Target, Timeouts],
    ) -> ChatOpener:
        """Return the opener of a request, perhaps a long conversation's. Raises: ConfigError."""
        asked = as_request(request)
        if len(asked.messages) < LONG:
            checked_request(asked, check_extra)
            if not ((len(asked.messages) > 1 or asked.tools) and ChatOpener.has_images(asked)):
                return ChatOpener(asked, providers, timeouts, self)
        from aiollm._failover.conversations import Conversations  # for what goes on for long alone

        self._conversations = self._conversations or Conversations()
        return self._conversations.opener(asked, check_extra, providers, timeouts, self)

    def source_of(
        self, policy: Policy, opener: TargetOpener, options: StreamOptions
    ) -> Callable[..., CallSource]:
        """Return a function that makes a call, cached if asked for. Raises: ConfigError."""
        make = self.chain_of(policy, opener, options.get("session"))
        use = options.get("response_cache")
        if use is None:
            return make
        from aiollm._response_cache.call import CachedCall  # few programs keep answers

        if use not in get_args(ResponseCacheUse):
            expected = f"expected one of {', '.join(get_args(ResponseCacheUse))}, or None"
            raise ConfigError(f"response_cache is {_shown(use)}: {expected}")
        if self._response_cache is None:
            raise ConfigError(
                "the call is to use the response cache, but its registry has none: "
                "Registry(response_cache='sqlite:answers.db')"
            )
        return partial(CachedCall, self._response_cache, use, make)

    def chain_of(
        self, policy: Policy, opener: TargetOpener | None = None, session: object = None
    ) -> Callable[..., Chain]:
        """Return a function that makes the chain of a call, perhaps in a session.

        Raises: ConfigError.
        """
        make: Callable[..., Chain] = Chain
        if session is not None:
            from aiollm._failover.sessions import Sessions  # only such calls need it

            assert isinstance(opener, ChatOpener)
            self._sessions = sessions = self._sessions or Sessions()
            make = sessions.chain(session, opener)
        return make if (policy.book or policy.budget) is None else _paid(make)

    def bind_loop(self) -> Watchdog:
        """Bind to the running loop; return its watchdog. Raises: ClosedError, ConfigError."""
        if self.closed:
            raise ClosedError("the registry is closed")
        watchdog, loop = self._watchdog, asyncio.get_running_loop()
        if watchdog is not None:
            if watchdog.loop is loop:
                return watchdog
            self._check_loop(watchdog.loop)
        self.gate.bind_loop(loop)
        # The workers of an earlier loop cannot be awaited on this one; new ones start when needed.
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()
        self._watchdog, self._owner = Watchdog(), os.getpid()
        return self._watchdog

    def _check_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        """Raise ConfigError where this loop, which is not the running one, runs in a thread."""
        # A process that was forked has a copy of its parent's loop, which seems to run.
        if loop.is_running() and self._owner == os.getpid():
            raise ConfigError(
                "this Registry is in use on another event loop: make one Registry per loop"
            )

    def transport_of(self, provider: Provider) -> Transport:
        """Return the transport for the requests of a provider."""
        if provider.is_ordinary:
            return self
        from aiollm._http.access import Access  # most providers need nothing of it

        return Access(provider, self)

    def requester(self) -> UnaryRequester:
        """Return the object that sends requests without a stream."""
        from aiollm._http.unary import UnaryRequester  # calls that stream need none

        return UnaryRequester(self, self.load)

    def open_tokens(self) -> Tokens:
        """Return the tokens of callables. Raises: ClosedError, ConfigError."""
        self.bind_loop()
        if self._tokens is None:
            from aiollm._http.tokens import Tokens  # most tokens are texts

            self._tokens = Tokens()
            self._owned.append(self._tokens)
        return self._tokens

    def send(self, request: HttpRequest, connect: float | None) -> Coroutine[Any, Any, Reply]:
        """Send a request over the transport. Raises: as `Transport.send`."""
        if self._transport is not None:
            return self._transport.send(request, connect)
        return self._send_first(request, connect)

    async def _send_first(self, request: HttpRequest, connect: float | None) -> Reply:
        transport = await self.open_transport()
        return await transport.send(request, connect)

    async def fit(
        self, request: Request, capabilities: Capabilities
    ) -> tuple[Request, tuple[str, ...]]:
        """Fit the images of a request; return the request, and notes about what was left out."""
        from aiollm import media

        pool = await self.open_pool()
        fetch = self._fetch if self._fetch_images else None
        return await media.normalize_with_warnings(request, capabilities, pool=pool, fetch=fetch)

    async def _fetch(self, url: str) -> bytes:
        transport = await self.open_transport()
        return await transport.fetch(url)

    async def open_transport(self) -> HttpTransport:
        """Return the transport, which the first call makes."""
        if self._transport is None:
            self.bind_loop()  # a transport that exists checks its loop itself
            # Importing aiohttp takes about 150 ms, so do it in a thread.
            made = await in_thread(_new_transport)
            self.bind_loop()  # the registry may have been closed meanwhile
            if self._transport is None:
                self._transport = made
        return self._transport

    async def open_pool(self) -> MediaPool:
        """Return the pool of image workers, which the first call makes."""
        if self._pool is None:
            self.bind_loop()
            # Importing its modules takes about 10 ms, so do it in a thread.
            made = await in_thread(partial(_new_pool, self._image_workers, self._max_pixels))
            self.bind_loop()  # the registry may have been closed meanwhile
            if self._pool is None:
                self._pool = made
        return self._pool

    async def load(self, *modules: str, codec: object = None) -> None:
        """Import modules and a codec in a thread, where that is not done. Raises: LocalError."""
        await load_modules(*modules)
        if (load := loader_of(codec)) is not None:
            await in_thread(load)

    async def preload(self, load: Callable[[], object]) -> None:
        """Make what the first call would make, and call `load` in a thread.

        Raises: ClosedError, ConfigError.
        """
        await in_thread(load)
        await self.load(*USUAL)
        await self.open_transport()
        await self.open_pool()
        if self._book is not None:
            await self._book.load()
        if self._member is not None:
            await self._member.open()
        await self.open_response_cache()

    async def open_response_cache(self) -> None:
        """Open the file of the response cache, if there is one. Raises: ConfigError."""
        if self._response_cache is not None:
            await self._response_cache.find(())

    def open_runner(self) -> ToolRunner:
        """Return what runs tools on this loop, which the first tool call makes."""
        self.bind_loop()
        if self._runner is None or self._runner.loop is not asyncio.get_running_loop():
            from aiollm._agent.tool_runner import ToolRunner

            self._runner = ToolRunner(self._tool_threads)
        return self._runner

    def join(self, fleet: str, emit: Callable[[Event], None]) -> None:
        """Share what is learnt of targets over a Redis server, "" for none. Raises: ConfigError."""
        if fleet == "":
            return
        from aiollm._failover.fleet_gate import FleetGate  # only fleets need it
        from aiollm._fleet.address import parse_address
        from aiollm._fleet.member import Member

        assert isinstance(self.gate, FleetGate)
        self._member = Member(parse_address(fleet), self.gate, emit)

    def keep_answers(self, address: object, emit: Callable[[Event], None]) -> None:
        """Keep complete answers in a file, where an address is given. Raises: ConfigError."""
        if address is None:
            return
        from aiollm._response_cache.cache import ResponseCache  # few programs keep answers

        self._response_cache = ResponseCache(address, self._max_pixels, emit)
        self._owned.append(self._response_cache)

    @property
    def fleet(self) -> FleetStatus | None:
        """A snapshot of the fleet, None without one."""
        return None if self._member is None else self._member.status

    def own(self, closeable: Closeable) -> None:
        """Close `closeable` together with the rest. Raises: ClosedError."""
        if self.closed:
            raise ClosedError("the registry is closed")
        self._owned.append(closeable)

    def disown(self, closeable: Closeable) -> None:
        """Forget `closeable`, which was closed by itself."""
        self._owned = [each for each in self._owned if each is not closeable]

    async def aclose(self) -> None:
        """End all calls, then close everything; idempotent. Raises: ConfigError."""
        loop = None if self.closed or self._watchdog is None else self._watchdog.loop
        if loop is not None and loop is not asyncio.get_running_loop():
            self._check_loop(loop)
        self.closed = True
        mine: tuple[Closeable | None, ...] = (self._member, self._pool, self._transport)
        left = [*(each for each in mine if each is not None), *self._owned]
        self._owned, self._pool = [], None
        if self._watchdog is not None:
            self._watchdog.close()
        self.gate.close()
        try:
            while left:
                await left[-1].aclose()
                left.pop()
        finally:
            # If closing failed or was cancelled, end what is left without waiting.
            for each in left:
                each.kill()

    def __del__(self) -> None:
        if getattr(self, "closed", True):
            return
        mine = (self._transport, self._pool, self._member)
        left = [*self._owned, *(each for each in mine if each is not None)]
        if not any(getattr(each, "was_opened", True) for each in left):
            return
        warnings.warn("a Registry was not closed: use `async with`", ResourceWarning, stacklevel=2)
        loop = self._watchdog.loop if self._watchdog is not None else None
        if loop is None or not loop.is_running() or loop is _running_loop():
            _kill(left)
            return
        # The last reference was dropped in another thread, which may not touch what the loop uses.
        try:
            loop.call_soon_threadsafe(_kill, left)
        except RuntimeError:  # the loop was closed a moment ago
            _kill(left)


def _kill(left: list[Closeable]) -> None:
    for each in left:
        each.kill()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _new_pool(workers: int | None, max_pixels: int) -> MediaPool:
    from aiollm.media import MediaPool, normalize_with_warnings  # noqa: F401 - for the first call

    return MediaPool(workers, max_pixels=max_pixels)


def _new_transport() -> HttpTransport:
    from aiollm._http.aiohttp_tuning import system_context
    from aiollm._http.local_faults import trusts_anyone
    from aiollm._http.streaming import stream  # noqa: F401 - for the first call
    from aiollm._http.transport import HttpTransport

    context = system_context()
    return HttpTransport(trusts_anyone=context is None or trusts_anyone(context))
