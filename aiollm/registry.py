"""The Registry: resolves names, starts streams, and owns connections, health and processes."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType, UnionType
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from aiollm._failover.candidates import CallOptions, OnInterrupt, OnRefusal, Policy
from aiollm._failover.chain import Chain
from aiollm._failover.deadlines import at_least
from aiollm._failover.gate import Gate
from aiollm._failover.health import Health, TargetHealth
from aiollm._failover.lines import TargetLimits
from aiollm._failover.openers import ChatOpener, ImageOpener, TargetOpener
from aiollm._resources import Closeable, Resources
from aiollm._streams.accumulator import Accumulator
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike, as_request, check, check_seconds, checked_timeouts
from aiollm.capabilities import Capabilities
from aiollm.dsn import Limits
from aiollm.events import Event, Hook
from aiollm.images import ImageRequest, ImageResult, as_image_request
from aiollm.provider import Provider
from aiollm.providers.catalog import Catalog, SchemeFactory
from aiollm.spec import Plan, parse_target
from aiollm.types import Message, Request, Response, Target, TextPart, Timeouts, Tool

if TYPE_CHECKING:
    from aiollm._agent.run import AgentRun
    from aiollm._streams.image_stream import ImageStream
    from aiollm.servers import LlamaSwap, Ollama
    from aiollm.servers.warming import Servers

T = TypeVar("T")

IMAGE_SECONDS = 300.0
"""Seconds that each wait for an image may take: two minutes are common (wire facts)."""

_log = logging.getLogger("aiollm")


class Registry:
    """Providers by name, and everything that can be asked of them.

    Nothing runs and no connection exists before the first use. One registry belongs to one
    event loop at a time. Leave it with `async with` or `aclose()`.
    """

    _uniform = staticmethod(random.uniform)
    """The source of jitter."""

    def __init__(  # noqa: PLR0913 - settings, all by keyword
        self,
        *,
        env: Mapping[str, str] | None = None,
        timeouts: Timeouts | None = None,
        retries: int = 2,
        patience: float | None = None,
        max_wait: float = 15.0,
        cooldown: float = 1.0,
        stagger: float | None = None,
        on_interrupt: OnInterrupt = "raise",
        on_refusal: OnRefusal = "raise",
        image_workers: int | None = None,
        fetch_images: bool = False,
    ) -> None:
        """Read providers and aliases from `env`, by default the process's environment.

        `timeouts`: deadlines of all calls. `retries`: more attempts once the last target failed,
        0 for none. `patience`: seconds a call waits in line where no target has room, None for
        its first-output deadline. `max_wait`: seconds of these that it waits for failed targets
        to recover. `cooldown`: seconds a failed target is first set aside. `stagger`: seconds
        between the starts of a race, None to learn them. `on_refusal`: "next" asks the next target
        where a provider's policy refuses. `image_workers`: processes that fit
        images to targets, None for one a core and at most 4, 0 for a thread. `fetch_images`:
        fetch image URLs for targets that do not do so themselves.
        """
        check_seconds("cooldown", cooldown)
        timeouts = checked_timeouts(timeouts) or Timeouts()
        self._catalog = Catalog(env, timeouts)
        self._policy = Policy(
            on_interrupt, retries, max_wait, stagger, timeouts.total, patience, on_refusal
        )
        self._health = Health(base=cooldown, uniform=self._uniform)
        self._gate = Gate(self._health)
        self._resources = Resources(self._gate, image_workers, fetch_images=fetch_images)
        self._hooks: list[Hook] = []
        self._calls = 0
        self._runs = 0

    # Names

    def register(
        self, name: str, provider: Provider | str, *, limits: Limits | None = None
    ) -> None:
        """Add a provider in code, as a row or a DSN; it wins over the environment.

        `limits` win over those that it brings. Raises: ConfigError.
        """
        self._catalog.register(name, provider, limits)

    def limit(self, name: str | Target, limits: Limits) -> None:
        """Limit a provider ("box") or a target ("box/qwen3:8b"), in place of what was given here.

        What `limits` leaves open is as the provider itself says. Registering the provider anew
        drops them. Raises: ConfigError.
        """
        self._catalog.limit(name, limits)

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

    def stream(  # noqa: PLR0913 - settings, all by keyword
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        timeouts: Timeouts | None = None,
        retries: int | None = None,
        on_interrupt: OnInterrupt | None = None,
        on_refusal: OnRefusal | None = None,
        stagger: float | None = None,
        patience: float | None = None,
        max_wait: float | None = None,
    ) -> Stream:
        """Return the lazy stream of an answer; nothing is sent before its first chunk.

        The keywords override the registry's for this call. Raises: SpecError, ConfigError here;
        while iterating LLMError, FailoverError.
        """
        plan, providers, deadlines = self._catalog.resolve(spec, checked_timeouts(timeouts))
        if isinstance(request, str) and request:
            checked = Request((Message("user", (TextPart(request),)),))
        else:
            checked = as_request(request)
            check(checked)
        policy = self._policy.overridden(
            timeouts, (retries, on_interrupt, on_refusal, stagger, patience, max_wait)
        )
        opener = ChatOpener(checked, providers, deadlines, self._resources)
        return Stream(lambda total: self._start(plan, opener, policy, total))

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: type[T],
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> T: ...

    @overload
    async def generate(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[CallOptions]
    ) -> Response: ...

    @overload
    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: UnionType | Mapping[str, Any],
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> Any: ...

    async def generate(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any = None,
        repairs: int = 1,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Return the whole response, or with `output` the reply decoded as that type.

        `output` is a type or a JSON schema. A reply that does not fit goes back to the model with
        what is wrong with it, at most `repairs` times. `options` are those of `stream`.
        Raises: as `stream`, OutputError.
        """

        async def ask(asked: Request) -> Response:
            return await self.stream(spec, asked, **options).collect()

        checked = as_request(request)
        if output is None:
            return await ask(checked)
        from aiollm._agent.typed_output import generate_typed  # for typed answers alone

        return await generate_typed(ask, checked, output, repairs)

    def run(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        tools: Sequence[Tool | Callable[..., Any]],
        max_turns: int = 10,
        max_parallel: int = 8,
        tool_timeout: float | None = 60.0,
        **options: Unpack[CallOptions],
    ) -> AgentRun:
        """Return the lazy stream of an agent's work: the model and its tools, turn by turn.

        `max_turns`: how often the model is asked. `max_parallel`: tools at a time.
        `tool_timeout`: seconds a tool may take, None for any time. `options` are those of
        `stream`, for each turn. Raises: SpecError, ConfigError here; while iterating as
        `stream`, TurnLimitError.
        """
        from aiollm._agent.run import new_run  # for agents alone

        plan = self.parse(spec)
        self._runs += 1
        return new_run(
            partial(self.stream, plan, **options),
            as_request(request),
            tools,
            (max_turns, max_parallel, tool_timeout),
            spec=str(plan),
            number=self._runs,
            emit=self._emit if self._hooks else None,
        )

    def stream_images(  # noqa: PLR0913 - settings, all by keyword
        self,
        spec: str | Plan,
        request: str | ImageRequest,
        *,
        timeouts: Timeouts | None = None,
        retries: int | None = None,
        on_interrupt: OnInterrupt | None = None,
        on_refusal: OnRefusal | None = None,
        stagger: float | None = None,
        patience: float | None = None,
        max_wait: float | None = None,
    ) -> ImageStream:
        """Return the lazy stream of drafts and, last, the result.

        The keywords are those of `stream`; without `timeouts` each wait for an image may take
        `IMAGE_SECONDS`. Raises: SpecError, ConfigError here; while iterating LLMError,
        FailoverError.
        """
        from aiollm._streams.image_stream import ImageStream  # for those who make images alone

        plan, providers, deadlines = self._catalog.resolve(spec, checked_timeouts(timeouts))
        asked = as_image_request(request)
        if timeouts is None:
            deadlines = {
                target: at_least(each, IMAGE_SECONDS) for target, each in deadlines.items()
            }
        policy = self._policy.overridden(
            timeouts, (retries, on_interrupt, on_refusal, stagger, patience, max_wait)
        )
        opener = ImageOpener(asked, providers, deadlines, self._resources)
        return ImageStream(lambda total: self._start(plan, opener, policy, total))

    async def generate_images(
        self, spec: str | Plan, request: str | ImageRequest, **options: Unpack[CallOptions]
    ) -> ImageResult:
        """Make images, along a chain like any call; `options` are those of `stream_images`.

        Raises: as `stream_images`.
        """
        return await self.stream_images(spec, request, **options).collect()

    # Servers

    def llama_swap(self, name: str) -> LlamaSwap:
        """Return a llama-swap server, to manage its models. Raises: ConfigError."""
        from aiollm.servers import LlamaSwap

        return self._servers().server(name, LlamaSwap)

    def ollama(self, name: str = "ollama") -> Ollama:
        """Return a server that speaks Ollama's API, to manage its models. Raises: ConfigError."""
        from aiollm.servers import Ollama

        return self._servers().server(name, Ollama)

    async def preload(self, spec: str | Plan | None = None) -> None:
        """Import what the first request needs, in a thread; with a spec, its codecs, too.

        That is aiohttp, the TLS certificates and the image modules, some 150 ms in all. Nothing
        is sent, and no model is loaded. Raises: SpecError, ConfigError.
        """
        plan = None if spec is None else self.parse(spec)
        await self._resources.open_transport()
        await self._resources.open_pool()
        if plan is not None:
            for provider in self._catalog.providers_of(plan).values():
                provider.codec.decoder()

    async def load_models(
        self, spec: str | Plan | None = None, *, timeouts: Timeouts | None = None
    ) -> tuple[Target, ...]:
        """Load the models of a spec on the servers that can: llama-swap, Ollama and foreman.

        Returns the targets whose models are loaded. A target whose model fails to load is set
        aside as after a failed call. The capabilities of loaded models are refreshed. Without
        `timeouts` a model may take five minutes. Calls `preload` first; without a spec, nothing
        else. Raises: SpecError, ConfigError; FailoverError when models could be loaded and none
        was.
        """
        await self.preload(spec)
        if spec is None:
            return ()
        return await self._servers().load_models(self.parse(spec), timeouts)

    async def refresh_capabilities(
        self, spec: str | Plan, *, timeouts: Timeouts | None = None
    ) -> dict[Target, Capabilities]:
        """Ask llama-swap and Ollama servers what the models of a spec can do; loads no model.

        Returns their capabilities, which all calls go by from now on; targets of other services
        are left out. Facts given with the provider in code, and options of its DSN, still win.
        Raises: SpecError, ConfigError; FailoverError when every server that was asked failed.
        """
        return await self._servers().refresh_capabilities(self.parse(spec), timeouts)

    async def models(self, name: str) -> tuple[str, ...]:
        """Return the names of the provider's models. Raises: LLMError."""
        provider = self.provider(name)
        codec = provider.codec
        timeouts = self._catalog.timeouts_of(provider)
        from aiollm._http.unary import UnaryRequester

        requester = UnaryRequester(self._resources)
        reply = await requester.request(provider, timeouts, codec.models(provider))
        return codec.model_names(reply)

    # Health and events

    def health(self) -> tuple[TargetHealth, ...]:
        """Return snapshots of the health of all targets used so far."""
        return self._health.snapshot()

    def limits(self) -> tuple[TargetLimits, ...]:
        """Return snapshots of what bounds all targets used so far: limits, paces, lines."""
        return self._gate.snapshot()

    def reset_health(self, target: Target | str | None = None) -> None:
        """Forget the failures of a target, or of all. Raises: SpecError."""
        if isinstance(target, str):
            target = parse_target(target)
        self._health.reset(target)

    def on_event(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with every event; return a function that unregisters it.

        A hook must not block; an exception in it is logged and changes nothing.
        """
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook) if hook in self._hooks else None

    # Lifetime

    def own(self, closeable: Closeable) -> None:
        """Close `closeable` with the registry."""
        self._resources.own(closeable)

    async def aclose(self) -> None:
        """Close connections, worker processes and what the registry owns; idempotent."""
        await self._resources.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    # Inside

    def _start(self, plan: Plan, opener: TargetOpener, policy: Policy, total: Accumulator) -> Chain:
        watchdog = self._resources.bind_loop()
        self._calls += 1
        return Chain(
            plan,
            opener,
            self._gate,
            policy,
            watchdog=watchdog,
            accumulated=total.response,
            emit=self._emit if self._hooks else None,
            number=self._calls,
        )

    def _servers(self) -> Servers:
        from aiollm._http.unary import UnaryRequester
        from aiollm.servers.warming import Servers  # for those who manage servers alone

        return Servers(self._catalog, UnaryRequester(self._resources), self._health)

    def _emit(self, event: Event) -> None:
        for hook in tuple(self._hooks):
            try:
                hook(event)
            except Exception:  # noqa: BLE001 - a hook is the caller's code, the call is not its
                _log.exception("an event hook failed")
