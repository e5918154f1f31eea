"""The Registry: resolves names, starts streams, and owns connections, health and processes."""

from __future__ import annotations

import asyncio
import logging
import random
import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, TypeVar, overload

import msgspec

from aiollm.accumulator import Accumulator
from aiollm.capabilities import Capabilities
from aiollm.catalog import Catalog, SchemeFactory
from aiollm.errors import ClosedError, ConfigError, DeadlineError, LLMError, SpecError
from aiollm.events import Event, Hook
from aiollm.failover import Failover, OnInterrupt, Policy
from aiollm.health import Health, TargetHealth
from aiollm.provider import HttpReply, HttpRequest, Provider, Reply
from aiollm.replies import redacted
from aiollm.request import as_request, check
from aiollm.route import CallRoute
from aiollm.slots import Slots
from aiollm.spec import Plan
from aiollm.stream import Stream
from aiollm.types import (
    Message,
    Request,
    Response,
    Target,
    TextPart,
    Timeouts,
)
from aiollm.watch import Clock

if TYPE_CHECKING:
    from aiollm.media import MediaPool
    from aiollm.transport import HttpTransport

T = TypeVar("T")

Prompt: TypeAlias = "str | Message | Sequence[Message] | Request"

MAX_REPLY = 64 * 1024 * 1024
"""Bytes of a reply that is no stream, such as a model list."""

_log = logging.getLogger("aiollm")


class Closeable(Protocol):
    """What a registry can own: it is closed with it."""

    async def close(self) -> None:
        """End it, waiting until it has ended."""

    def kill(self) -> None:
        """End it at once, without a running loop."""


class Registry:
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
        self._timeouts = timeouts or Timeouts()
        self._catalog = Catalog(env, self._timeouts)
        self._policy = Policy(on_interrupt, retries, max_wait, stagger, self._timeouts.total)
        self._uniform = uniform
        self._health = Health(base=cooldown, uniform=uniform)
        self._image_workers = image_workers
        self._fetch_images = fetch_images
        self._slots: dict[str, Slots] = {}
        self._hooks: list[Hook] = []
        self._owned: list[Closeable] = []
        self._transport: HttpTransport | None = None
        self._pool: MediaPool | None = None
        self._calls = 0
        self._closed = False
        self._clock: Clock | None = None

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
        request: Prompt,
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
        plan = self.parse(spec)
        if isinstance(request, str) and request:
            checked = Request((Message("user", (TextPart(request),)),))
        else:
            checked = as_request(request)
            check(checked)
        policy = self._policy
        if timeouts is not None:
            policy = msgspec.structs.replace(policy, total=timeouts.total)
        given = {"on_interrupt": on_interrupt, "retries": retries, "stagger": stagger}
        changes = {name: value for name, value in given.items() if value is not None}
        if changes:
            policy = msgspec.structs.replace(policy, **changes)
        providers = self._catalog.providers_of(plan, timeouts)
        return Stream(lambda total: self._start(plan, providers, checked, policy, total))

    @overload
    async def generate(
        self, spec: str | Plan, request: Prompt, *, output: type[T], **options: Any
    ) -> T: ...

    @overload
    async def generate(
        self, spec: str | Plan, request: Prompt, *, output: None = None, **options: Any
    ) -> Response: ...

    async def generate(
        self, spec: str | Plan, request: Prompt, *, output: Any = None, **options: Any
    ) -> Any:
        """Return the whole response, or with `output` the reply decoded as that type.

        `options` are those of `stream`. Raises: as `stream`, OutputError.
        """
        checked = as_request(request)
        if output is not None:
            checked = msgspec.structs.replace(checked, output=output)
        response = await self.stream(spec, checked, **options).collect()
        return response if output is None else response.parse(output)

    async def models(self, name: str) -> tuple[str, ...]:
        """Return the names of the provider's models. Raises: LLMError."""
        provider = self.provider(name)
        codec = provider.codec
        return codec.model_names(await self._call(provider, codec.models(provider)))

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

    async def warmup(self, spec: str | Plan | None = None) -> None:
        """Load what the first request needs, off the loop; with a spec, its codecs too."""
        providers = (
            [] if spec is None else self._catalog.providers_of(self.parse(spec), None).values()
        )
        await self._open_transport()
        for provider in providers:
            provider.codec.decoder()

    async def aclose(self) -> None:
        """Close connections, worker processes and what the registry owns; idempotent."""
        self._closed = True
        owned, self._owned = self._owned, []
        pool, self._pool = self._pool, None
        if self._clock is not None:
            self._clock.close()
        try:
            if self._transport is not None:
                await self._transport.close()
        finally:
            for each in (*owned, *filter(None, [pool])):
                await each.close()

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

    def _start(
        self,
        plan: Plan,
        providers: Mapping[Target, Provider],
        request: Request,
        policy: Policy,
        total: Accumulator,
    ) -> Failover:
        clock = self._bind_loop()
        self._calls += 1
        route = CallRoute(providers, request, self._slots, self._open_transport, self._fit)
        return Failover(
            plan,
            route,
            self._health,
            policy,
            clock=clock,
            partial=total.response,
            emit=self._emit if self._hooks else None,
            number=self._calls,
            uniform=self._uniform,
        )

    async def _fit(
        self, request: Request, capabilities: Capabilities
    ) -> tuple[Request, tuple[str, ...]]:
        from aiollm import media

        if self._pool is None:
            self._pool = media.MediaPool(self._image_workers)
        fetch = self._fetch if self._fetch_images else None
        return await media.normalize_with_notes(request, capabilities, pool=self._pool, fetch=fetch)

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
        self._slots.clear()
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.kill()
        self._clock = Clock()
        return self._clock

    async def _open_transport(self) -> HttpTransport:
        self._bind_loop()
        if self._transport is None:
            # aiohttp takes some 150 ms to import: not on the loop.
            made = await asyncio.to_thread(_new_transport)
            if self._transport is None:
                self._transport = made
        return self._transport

    def _emit(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the caller's code, the call is not its
                _log.exception("an event hook failed")

    async def _call(self, provider: Provider, request: HttpRequest) -> HttpReply:
        """Send a request that is no stream and return its whole reply. Raises: LLMError."""
        reply = await self._open(provider, request)
        seconds = provider.timeouts.first_output
        try:
            body = await reply.read_whole(MAX_REPLY, seconds)
            return HttpReply(reply.status, reply.headers, body, request.url)
        finally:
            reply.close()

    async def _open(self, provider: Provider, request: HttpRequest) -> Reply:
        """Send a request and return its reply with the body unread. Raises: LLMError."""
        transport = await self._open_transport()
        seconds = provider.timeouts.first_output
        failure: LLMError
        try:
            async with asyncio.timeout(seconds):
                reply = await transport.send(request, provider.timeouts.connect)
            if 200 <= reply.status < 300:
                return reply
            try:
                body = await reply.read_whole(MAX_REPLY, 1.0)
                whole = HttpReply(reply.status, reply.headers, body, request.url)
            finally:
                reply.close()
            failure = provider.codec.error(whole)
        except LLMError as error:
            failure = error
        except TimeoutError:
            failure = DeadlineError(
                f"no answer within {seconds:g} s", which="first_output", after=seconds or 0.0
            )
        raise redacted(failure, provider.token)


def _new_transport() -> HttpTransport:
    from aiollm.transport import HttpTransport

    return HttpTransport()
