"""The Registry: resolves names, starts streams, and owns connections, health and processes."""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec

from aiollm._failover.attempt import Route
from aiollm._failover.chain import Failover, OnInterrupt, Policy, check_seconds
from aiollm._failover.deadlines import Clock
from aiollm._failover.health import Health, TargetHealth
from aiollm._failover.openers import CallRoute, ImageRoute, Shared
from aiollm._http.unary import Caller, Unopened, patient
from aiollm._streams.accumulator import Accumulator
from aiollm._streams.image_stream import ImageStream
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, as_request, check
from aiollm.asking import Asking
from aiollm.capabilities import Capabilities
from aiollm.errors import ClosedError, ConfigError, SpecError
from aiollm.events import Event, Hook
from aiollm.images import ImageRequest, ImageResult, as_image_request
from aiollm.provider import Provider
from aiollm.providers.catalog import Catalog, SchemeFactory
from aiollm.servers.management import LlamaSwap, Ollama
from aiollm.servers.warming import Servers
from aiollm.spec import Plan
from aiollm.types import (
    Message,
    Request,
    Target,
    TextPart,
    Timeouts,
)

if TYPE_CHECKING:
    from aiollm._http.transport import HttpTransport
    from aiollm.media import MediaPool

IMAGE_SECONDS = 300.0
"""Seconds that each wait for an image may take: two minutes are common (wire facts)."""

_log = logging.getLogger("aiollm")


class Closeable(Protocol):
    """What a registry can own: it is closed with it."""

    async def close(self) -> None:
        """End it, waiting until it has ended."""

    def kill(self) -> None:
        """End it at once, without a running loop."""


class Registry(Asking):
    """Providers by name, and everything that can be asked of them.

    Nothing runs and no connection exists before the first use. One registry belongs to one
    event loop at a time. Leave it with `async with` or `aclose()`.
    """

    def __init__(  # noqa: PLR0913 - settings, all by keyword
        self,
        *,
        env: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        retries: int = 2,
        max_wait: float = 10.0,
        cooldown: float = 1.0,
        stagger: float | None = None,
        on_interrupt: OnInterrupt = "raise",
        image_workers: int | None = None,
        fetch_images: bool = False,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """Read providers and aliases from `env`, by default the process's environment.

        `timeouts`: deadlines of all calls. `retries`: more attempts once the last target failed,
        0 for none, each after at most `max_wait` seconds. `cooldown`: seconds a failed target is
        first set aside. `stagger`: seconds between the starts of a race, None to learn them.
        `image_workers`: processes that fit images to targets, None for one a core and at most 4,
        0 for a thread. `fetch_images`: fetch image URLs for targets that do not do so themselves.
        """
        check_seconds("cooldown", cooldown)
        self._timeouts = _checked(timeouts) or Timeouts()
        self._catalog = Catalog(env, self._timeouts)
        self._policy = Policy(on_interrupt, retries, max_wait, stagger, self._timeouts.total)
        self._uniform = uniform
        self._health = Health(base=cooldown, uniform=uniform)
        self._image_workers = image_workers
        self._fetch_images = fetch_images
        self._hooks: list[Hook] = []
        self._owned: list[Closeable] = []
        self._transport: HttpTransport | None = None
        self._pool: MediaPool | None = None
        self._calls = 0
        self._closed = False
        self._clock: Clock | None = None
        self._shared = Shared(Unopened(self._open_transport), self._fit)
        self._caller = Caller(self._open_transport)
        self._servers = Servers(self._catalog, self._caller, self._health)

    # Names

    def register(self, name: str, provider: Provider | str) -> None:
        """Add a provider in code, as a row or a DSN; it wins over the environment.

        Raises: ConfigError.
        """
        self._catalog.register(name, provider)

    def alias(self, name: str, spec: str) -> None:
        """Give a spec a name; it is expanded wherever the bare name stands. Raises: ConfigError."""
        self._catalog.alias(name, spec)

    def register_scheme(self, name: str, factory: SchemeFactory) -> None:
        """Teach DSNs a scheme: `factory(name, dsn)` returns the provider. Raises: ConfigError."""
        self._catalog.register_scheme(name, factory)

    def provider(self, name: str) -> Provider:
        """Return the resolved provider. Raises: ConfigError."""
        return self._catalog.provider(name)

    def providers(self) -> dict[str, str]:
        """Return all provider names with their origin: code, environment or built-in."""
        return self._catalog.providers()

    def aliases(self) -> dict[str, str]:
        """Return all aliases with their specs."""
        return self._catalog.aliases()

    def parse(self, spec: str | Plan) -> Plan:
        """Parse a spec, aliases expanded. Raises: SpecError."""
        return self._catalog.parse(spec)

    def describe(self) -> str:
        """Return all providers and aliases as text, tokens masked."""
        return self._catalog.describe()

    # Calls

    def stream(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        timeouts: Timeouts | None = None,
        retries: int | None = None,
        on_interrupt: OnInterrupt | None = None,
        stagger: float | None = None,
    ) -> Stream:
        """Return the lazy stream of an answer; nothing is sent before its first chunk.

        The keywords override the registry's for this call. Raises: SpecError, ConfigError here;
        while iterating LLMError, FailoverError.
        """
        plan, providers = self._catalog.resolve(spec, _checked(timeouts))
        if isinstance(request, str) and request:
            checked = Request((Message("user", (TextPart(request),)),))
        else:
            checked = as_request(request)
            check(checked)
        policy = self._policy_for(timeouts, retries, on_interrupt, stagger)
        route = CallRoute(checked, providers, self._shared)
        return Stream(lambda total: self._start(plan, route, policy, total))

    def stream_images(
        self,
        spec: str | Plan,
        request: str | ImageRequest,
        *,
        timeouts: Timeouts | None = None,
        retries: int | None = None,
        on_interrupt: OnInterrupt | None = None,
        stagger: float | None = None,
    ) -> ImageStream:
        """Return the lazy stream of drafts and, last, the result.

        The keywords are those of `stream`; without `timeouts` each wait for an image may take
        `IMAGE_SECONDS`. Raises: SpecError, ConfigError here; while iterating LLMError,
        FailoverError.
        """
        plan, providers = self._catalog.resolve(spec, _checked(timeouts))
        asked = as_image_request(request)
        if timeouts is None:
            providers = {target: patient(each, IMAGE_SECONDS) for target, each in providers.items()}
        policy = self._policy_for(timeouts, retries, on_interrupt, stagger)
        route = ImageRoute(asked, providers, self._shared)
        return ImageStream(lambda total: self._start(plan, route, policy, total))

    async def generate_images(
        self, spec: str | Plan, request: str | ImageRequest, **options: Any
    ) -> ImageResult:
        """Make images, along a chain like any call; `options` are those of `stream_images`.

        Raises: as `stream_images`.
        """
        return await self.stream_images(spec, request, **options).collect()

    # Servers

    def llama_swap(self, name: str) -> LlamaSwap:
        """Return the management of a llama-swap server. Raises: ConfigError."""
        return self._servers.managed(name, LlamaSwap)

    def ollama(self, name: str = "ollama") -> Ollama:
        """Return the management of a server that speaks Ollama's API. Raises: ConfigError."""
        return self._servers.managed(name, Ollama)

    async def warmup(self, spec: str | Plan | None = None) -> None:
        """Load what the first request needs, off the loop; with a spec, its codecs too.

        Nothing is sent: `warm` loads models. Raises: SpecError, ConfigError.
        """
        plan = None if spec is None else self.parse(spec)
        await self._open_transport()
        await self._open_pool()
        if plan is not None:
            for provider in self._catalog.providers_of(plan, None).values():
                provider.codec.decoder()

    async def warm(
        self, spec: str | Plan | None = None, *, timeouts: Timeouts | None = None
    ) -> tuple[Target, ...]:
        """Load what the first request needs; with a spec, its models where servers can do that.

        llama-swap, Ollama and foreman can. Returns the targets whose models are loaded; those
        that failed are set aside as after a failed call. What a server tells of a model is
        heeded as by `learn`. Without `timeouts` a model may take five minutes.
        Raises: SpecError, ConfigError; FailoverError when models could be loaded and none was.
        """
        await self.warmup(spec)
        return () if spec is None else await self._servers.warm(self.parse(spec), timeouts)

    async def learn(
        self, spec: str | Plan, *, timeouts: Timeouts | None = None
    ) -> dict[Target, Capabilities]:
        """Ask llama-swap and Ollama servers what the models of a spec can do; heed it from now on.

        Facts that the provider was given in code, and options of its DSN, still win.
        Raises: SpecError, ConfigError; FailoverError when servers were asked and none told.
        """
        return await self._servers.learn(self.parse(spec), timeouts)

    async def models(self, name: str) -> tuple[str, ...]:
        """Return the names of the provider's models. Raises: LLMError."""
        provider = self.provider(name)
        codec = provider.codec
        return codec.model_names(await self._caller.call(provider, codec.models(provider)))

    # Health and events

    def health(self) -> tuple[TargetHealth, ...]:
        """Return snapshots of the health of all targets used so far."""
        return self._health.snapshot()

    def reset_health(self, target: Target | str | None = None) -> None:
        """Forget the failures of a target, or of all. Raises: SpecError."""
        if isinstance(target, str):
            provider, slash, model = target.partition("/")
            if not slash:
                raise SpecError("a target is provider/model", spec=target)
            target = Target(provider, model)
        self._health.reset(target)

    def on_event(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with every event; return what takes it off again.

        A hook must not block; an exception in it is logged and changes nothing.
        """
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook) if hook in self._hooks else None

    # Lifetime

    def own(self, closeable: Closeable) -> None:
        """Close `closeable` with the registry."""
        self._owned.append(closeable)

    async def aclose(self) -> None:
        """Close connections, worker processes and what the registry owns; idempotent."""
        self._closed = True
        mine: tuple[Closeable | None, ...] = (self._pool, self._transport)
        left = [*(each for each in mine if each is not None), *self._owned]
        self._owned, self._pool = [], None
        if self._clock is not None:
            self._clock.close()
        try:
            while left:
                await left[-1].close()
                left.pop()
        finally:
            # Whatever a failure or a cancellation left open ends at once.
            for each in left:
                each.kill()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or (self._transport is None and not self._owned):
            return
        warnings.warn("a Registry was not closed: use `async with`", ResourceWarning, stacklevel=2)
        if self._transport is not None:
            self._transport.kill()
        for each in (*self._owned, *filter(None, [self._pool])):
            each.kill()

    # Inside

    def _policy_for(
        self,
        timeouts: Timeouts | None,
        retries: int | None,
        on_interrupt: OnInterrupt | None,
        stagger: float | None,
    ) -> Policy:
        if timeouts is None and on_interrupt is None and retries is None and stagger is None:
            return self._policy
        given = {"on_interrupt": on_interrupt, "retries": retries, "stagger": stagger}
        changes: dict[str, Any] = {name: new for name, new in given.items() if new is not None}
        if timeouts is not None:
            changes["total"] = timeouts.total
        return msgspec.structs.replace(self._policy, **changes)

    def _start(self, plan: Plan, route: Route, policy: Policy, total: Accumulator) -> Failover:
        clock = self._bind_loop()
        self._calls += 1
        return Failover(
            plan,
            route,
            self._health,
            policy,
            clock=clock,
            partial=total.response,
            emit=self._teller(),
            number=self._calls,
            uniform=self._uniform,
        )

    async def _fit(
        self, request: Request, capabilities: Capabilities
    ) -> tuple[Request, tuple[str, ...]]:
        from aiollm import media

        pool = await self._open_pool()
        fetch = self._fetch if self._fetch_images else None
        return await media.normalize_with_notes(request, capabilities, pool=pool, fetch=fetch)

    async def _open_pool(self) -> MediaPool:
        if self._pool is None:
            self._bind_loop()
            # Its modules take some 10 ms to import: not on the loop.
            made = await asyncio.to_thread(_new_pool, self._image_workers)
            self._bind_loop()  # that the registry was closed meanwhile
            if self._pool is None:
                self._pool = made
        return self._pool

    async def _fetch(self, url: str) -> bytes:
        transport = await self._open_transport()
        return await transport.fetch(url)

    def _bind_loop(self) -> Clock:
        if self._closed:
            raise ClosedError("the registry is closed")
        clock = self._clock
        loop = asyncio.get_running_loop()
        if clock is not None:
            if clock.loop is loop:
                return clock
            if clock.loop.is_running():
                raise ConfigError(
                    "this Registry is in use on another event loop: make one Registry per loop"
                )
        self._shared.slots.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()
        self._clock = Clock()
        return self._clock

    async def _open_transport(self) -> HttpTransport:
        if self._transport is None:
            self._bind_loop()  # one that exists asks about its loop itself
            # aiohttp takes some 150 ms to import: not on the loop.
            made = await asyncio.to_thread(_new_transport)
            self._bind_loop()  # it may have been closed meanwhile
            if self._transport is None:
                self._transport = self._shared.transport = made
        return self._transport

    def _teller(self) -> Callable[[Event], None] | None:
        return self._emit if self._hooks else None

    def _emit(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the caller's code, the call is not its
                _log.exception("an event hook failed")


def _new_pool(workers: int | None) -> MediaPool:
    from aiollm.media import MediaPool, normalize_with_notes  # noqa: F401 - for the call that comes

    return MediaPool(workers)


def _new_transport() -> HttpTransport:
    from aiollm._http.transport import HttpTransport

    return HttpTransport()


def _checked(timeouts: Timeouts | None) -> Timeouts | None:
    if timeouts is not None and type(timeouts) is not Timeouts:
        raise ConfigError(f"timeouts is {timeouts!r:.80}: expected aiollm.Timeouts, or None")
    return timeouts
