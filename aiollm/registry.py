"""The Registry: resolves names, starts streams, and owns connections, health and processes."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar, cast, overload

import msgspec

from aiollm import engine
from aiollm.dsn import ALIAS, Dsn, parse_dsn
from aiollm.errors import ClosedError, ConfigError, DeadlineError, LLMError, SpecError
from aiollm.events import Event, Hook
from aiollm.failover import Batches, Failover, OnInterrupt, Policy, Slots
from aiollm.health import Health, TargetHealth
from aiollm.provider import HttpReply, HttpRequest, Provider, Reply
from aiollm.providers import BUILTINS, SCHEMES, builtin, from_dsn
from aiollm.replies import redacted
from aiollm.request import as_request, check
from aiollm.spec import Names, Plan, parse_spec
from aiollm.stream import Accumulator, Stream
from aiollm.watch import Clock
from aiollm.types import (
    ImagePart,
    Item,
    Message,
    Request,
    Response,
    Target,
    TextPart,
    Timeouts,
    ToolResultPart,
    assistant,
)

if TYPE_CHECKING:
    from aiollm.media import MediaPool
    from aiollm.transport import HttpTransport

T = TypeVar("T")

Prompt: TypeAlias = "str | Message | Sequence[Message] | Request"
SchemeFactory: TypeAlias = Callable[[str, Dsn], Provider]

MAX_REPLY = 64 * 1024 * 1024
"""Bytes of a reply that is no stream, such as a model list."""

MAX_PLANS = 1024
"""Parsed specs remembered."""

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]*")
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

    def __init__(
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
        self._live = env is None
        self._env = dict(os.environ if env is None else env)
        self._timeouts = timeouts or Timeouts()
        self._policy = Policy(on_interrupt, retries, max_wait, stagger, self._timeouts.total)
        self._uniform = uniform
        self._health = Health(base=cooldown, uniform=uniform)
        self._image_workers = image_workers
        self._fetch_images = fetch_images
        self._aliases: dict[str, str] = {}
        self._coded: dict[str, Provider] = {}
        self._schemes: dict[str, SchemeFactory] = {}
        self._resolved: dict[str, Provider] = {}
        self._plans: dict[str, Plan] = {}
        self._routes: dict[Plan, dict[Target, Provider]] = {}
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
        self._check_name(name)
        if isinstance(provider, str):
            provider = self._from_dsn(name, provider, f"provider {name!r}")
        self._coded[name] = provider
        self._forget_plans()

    def alias(self, name: str, spec: str) -> None:
        """Give a spec a name; it is expanded wherever the bare name stands. Raises: ConfigError."""
        self._check_name(name)
        self._aliases[name] = spec
        self._forget_plans()

    def register_scheme(self, name: str, factory: SchemeFactory) -> None:
        """Teach DSNs a scheme: `factory(name, dsn)` returns the provider. Raises: ConfigError."""
        self._check_name(name)
        self._schemes[name] = factory
        self._forget_plans()

    def provider(self, name: str) -> Provider:
        """Return the resolved provider. Raises: ConfigError."""
        return self._with_timeouts(self._resolve(name))

    def providers(self) -> dict[str, str]:
        """Return all provider names with their origin: code, environment or built-in."""
        found = dict.fromkeys(BUILTINS, "built-in")
        for variable, value in self._env.items():
            name = _name_of(variable)
            if name and not value.strip().startswith(ALIAS):
                found[name] = "environment"
        return found | dict.fromkeys(self._coded, "code")

    def aliases(self) -> dict[str, str]:
        """Return all aliases with their specs."""
        found = {
            _name_of(variable): value.strip().removeprefix(ALIAS)
            for variable, value in self._env.items()
            if _name_of(variable) and value.strip().startswith(ALIAS)
        }
        return found | self._aliases

    def parse(self, spec: str | Plan) -> Plan:
        """Parse a spec, aliases expanded. Raises: SpecError."""
        if isinstance(spec, Plan):
            return spec
        plan = self._plans.get(spec)
        if plan is None:
            names = Names(self._alias, self._is_provider, self._all_names)
            plan = parse_spec(spec, names)
            if len(self._plans) < MAX_PLANS:
                self._plans[spec] = plan
        return plan

    def describe(self) -> str:
        """Return all providers and aliases as text, tokens masked."""
        lines = []
        for name, origin in sorted(self.providers().items()):
            try:
                provider = self._resolve(name)
                key = "key ***" if provider.token is not None else "no key"
                lines.append(f"{name}  {provider.scheme}  {provider.base_url}  {key}  ({origin})")
            except ConfigError as error:
                lines.append(f"{name}  not usable: {error.message}  ({origin})")
        lines += [f"{name} = {spec}" for name, spec in sorted(self.aliases().items())]
        return "\n".join(lines)

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
        providers = self._providers_of(plan, timeouts)
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
        providers = [] if spec is None else self._providers_of(self.parse(spec), None).values()
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

    async def __aenter__(self) -> Registry:
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
        route = _Route(self, providers, request)
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
            self._transport = self._transport or made
        return self._transport

    def _emit(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:
                _log.exception("an event hook failed")

    def _providers_of(self, plan: Plan, timeouts: Timeouts | None) -> dict[Target, Provider]:
        if timeouts is None and (known := self._routes.get(plan)) is not None:
            return known
        found = {
            target: self._with_timeouts(self._resolve(target.provider), timeouts)
            for target in plan.targets
        }
        if timeouts is None and len(self._routes) < MAX_PLANS:
            self._routes[plan] = found
        return found

    def _with_timeouts(self, provider: Provider, timeouts: Timeouts | None = None) -> Provider:
        options = provider.options
        if timeouts is None:
            timeouts = self._timeouts
            own = {
                "connect": options.connect_timeout,
                "first_output": options.first_output_timeout,
                "idle": options.idle_timeout,
            }
            given = {name: value for name, value in own.items() if value is not None}
            if given:
                timeouts = msgspec.structs.replace(timeouts, **given)
        if provider.timeouts == timeouts:
            return provider
        return msgspec.structs.replace(provider, timeouts=timeouts)

    def _resolve(self, name: str) -> Provider:
        provider = self._coded.get(name) or self._resolved.get(name)
        if provider is not None:
            return provider
        variable = _variable(name)
        text = self._variable_value(variable)
        if text is not None and not text.strip().startswith(ALIAS):
            provider = self._from_dsn(name, text, variable)
        elif name in BUILTINS:
            provider = builtin(name, self._env)
        else:
            raise ConfigError(f"unknown provider {name!r}: set {variable} or register it")
        self._resolved[name] = provider
        return provider

    def _from_dsn(self, name: str, text: str, variable: str) -> Provider:
        dsn = parse_dsn(text, variable)
        factory = self._schemes.get(dsn.scheme)
        if factory is not None:
            return factory(name, dsn)
        scheme = SCHEMES.get(dsn.scheme)
        if scheme is None:
            known = ", ".join([*SCHEMES, *self._schemes])
            raise ConfigError(f"{variable}: unknown scheme {dsn.scheme!r} (known: {known})")
        return from_dsn(name, dsn, self._env, scheme)

    def _variable_value(self, variable: str) -> str | None:
        value = self._env.get(variable)
        if value is None and self._live:
            value = os.environ.get(variable)
        return value

    def _alias(self, name: str) -> str | None:
        spec = self._aliases.get(name)
        if spec is not None:
            return spec
        text = self._variable_value(_variable(name)) if _NAME.fullmatch(name) else None
        if text is None or not text.strip().startswith(ALIAS):
            return None
        return text.strip().removeprefix(ALIAS)

    def _is_provider(self, name: str) -> bool:
        if name in self._coded or name in BUILTINS:
            return True
        if not _NAME.fullmatch(name):
            return False
        text = self._variable_value(_variable(name))
        return text is not None and not text.strip().startswith(ALIAS)

    def _all_names(self) -> Iterable[str]:
        return [*self.aliases(), *self.providers()]

    def _forget_plans(self) -> None:
        self._plans.clear()
        self._routes.clear()
        self._resolved.clear()

    @staticmethod
    def _check_name(name: str) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{name!r} is no name: lower-case letters, digits, '-' and '.'")

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


class _Route:
    """The targets of one call as failover sees them."""

    __slots__ = ("_has_images", "_providers", "_registry", "_request")

    def __init__(
        self, registry: Registry, providers: Mapping[Target, Provider], request: Request
    ) -> None:
        self._registry = registry
        self._providers = providers
        self._request = request
        self._has_images = _has_images(request)

    def host(self, target: Target) -> str:
        return self._providers[target].host

    def timeouts(self, target: Target) -> Timeouts:
        return self._providers[target].timeouts

    def slots(self, target: Target) -> Slots | None:
        provider = self._providers[target]
        if provider.max_concurrency is None:
            return None
        return self._registry._slots.setdefault(provider.name, Slots(provider.max_concurrency))

    def takes_prefill(self, target: Target) -> bool:
        return self._providers[target].capabilities(target.model).prefill

    async def open(self, target: Target, prefix: str) -> tuple[Batches, Sequence[Item]]:
        provider = self._providers[target]
        request = self._request
        if prefix:
            messages = (*request.messages, assistant(prefix))
            request = msgspec.structs.replace(request, messages=messages)
        notes: Sequence[Item] = ()
        if self._has_images:
            request, notes = await self._fit_images(provider, target, request)
        adapter = provider.adapter
        transport = await self._registry._open_transport()
        run = engine.stream if adapter is None else adapter
        return cast("Batches", run(provider, transport, target, request)), notes

    async def _fit_images(
        self, provider: Provider, target: Target, request: Request
    ) -> tuple[Request, Sequence[Item]]:
        raise NotImplementedError

    def clean(self, target: Target, error: LLMError) -> None:
        error.target = target
        redacted(error, self._providers[target].token)


def _new_transport() -> HttpTransport:
    from aiollm.transport import HttpTransport

    return HttpTransport()


def _variable(name: str) -> str:
    return f"LLM_{name.upper().replace('-', '_')}"


def _name_of(variable: str) -> str:
    """Return the name that a variable defines, "" where it defines none."""
    if not variable.startswith("LLM_"):
        return ""
    name = variable.removeprefix("LLM_").lower().replace("_", "-")
    return name if _NAME.fullmatch(name) else ""


def _has_images(request: Request) -> bool:
    for message in request.messages:
        for part in message.parts:
            match part:
                case ImagePart():
                    return True
                case ToolResultPart(content=content) if any(
                    isinstance(each, ImagePart) for each in content
                ):
                    return True
    return False
