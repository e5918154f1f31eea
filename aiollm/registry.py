"""The Registry: resolves names, starts streams, and owns connections, health and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack, overload

from aiollm._calls.retrieval import Retrieval
from aiollm._calls.settings import Settings
from aiollm._calls.unary import UnaryCalls
from aiollm._failover.hooks import emit
from aiollm._failover.jitter import uniform
from aiollm._failover.policy import OnInterrupt, OnRefusal, OnUnsupported, Policy, book_of
from aiollm._validation import RequestLike, checked_request, checked_timeouts
from aiollm.capabilities import Capabilities
from aiollm.errors import ConfigError
from aiollm.hosted import ToolBase
from aiollm.providers.catalog import Catalog
from aiollm.providers.names import Names
from aiollm.spec import Plan, as_target
from aiollm.types import Target, Timeouts

if TYPE_CHECKING:
    from aiollm._agent.options import AgentOptions
    from aiollm._agent.run import AgentRun, TypedRun
    from aiollm._agent.typed_stream import TypedStream
    from aiollm._bulk.run import MapRun
    from aiollm._bulk.source import MapRows
    from aiollm._bulk.start import MapOptions
    from aiollm._failover.keywords import CallOptions, GenerateOptions, StreamOptions
    from aiollm._failover.snapshots import FleetStatus, TargetHealth, TargetLimits
    from aiollm._mcp.server import McpOptions, McpServer
    from aiollm._resources import Closeable
    from aiollm._serialization import SavedRun
    from aiollm._streams.image_stream import ImageStream
    from aiollm._streams.stream import Stream
    from aiollm.events import Hook
    from aiollm.images import ImageRequest
    from aiollm.prices import Price
    from aiollm.servers import LlamaSwap, Ollama
    from aiollm.servers._warming import Servers

T = TypeVar("T")

_SERVERS = "aiollm.servers._warming"
"""What manages servers."""


class Registry(UnaryCalls, Retrieval, Names):
    """Providers by name, and all calls to them.

    Nothing runs, and no connection is open, before the first use. A registry belongs to one
    event loop at a time. Use it in `async with`, or close it with `aclose()`.
    """

    _uniform = staticmethod(uniform)
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
        on_unsupported: OnUnsupported = "next",
        image_workers: int | None = None,
        max_pixels: int = 80_000_000,
        fetch_images: bool = False,
        tool_threads: int = 64,
        trust_env: bool = False,
        fleet: str | None = None,
        prices: Mapping[str, Price | bool] | bool = False,
        response_cache: str | None = None,
    ) -> None:
        """Read providers and aliases from `env`, by default the process's environment.

        `timeouts`: deadlines of all calls. `retries`: further attempts after the last target has
        failed. `patience`: seconds a call waits in line when no target has room; None means its
        first-output deadline. `max_wait`: how many of these seconds it waits while no failed target
        recovers. `cooldown`: seconds a failed target is set aside at first. `stagger`: seconds
        between the starts of a race; None learns them from latencies. `on_interrupt`: when an
        answer is cut, "restart" has the next target start over, "continue" has it go on from the
        text so far. `on_refusal`: "next" asks the next target when a provider's policy refuses.
        `on_unsupported`: "drop" leaves out files that a target does not take, with a placeholder
        and a warning. `image_workers`: processes that fit images to targets; None means one per
        core, at most 4; 0 means a thread. `max_pixels`: the most pixels of an image that is
        decoded, or sent to a target without a limit of its own. `fetch_images`: load image URLs for
        targets that do not. `tool_threads`: threads for tools that are plain functions; those that
        overran keep theirs. `trust_env`: use HTTPS_PROXY and the like. `fleet`: the URL of a Redis
        server over which processes share what they learn, by default AIOLLM_FLEET of `env`; "" for
        none. `prices`: what targets cost, by patterns like "box/*"; True, for a pattern or in place
        of the mapping, means the list of `aiollm-client[prices]`. `response_cache`: the file of
        answers for calls with `response_cache=`, as "sqlite:answers.db". Raises: ConfigError.
        """
        timeouts = checked_timeouts(timeouts) or Timeouts()
        self._catalog = Catalog(env, timeouts, trust_env=trust_env)
        on = (on_interrupt, on_refusal, on_unsupported)
        book = book_of(prices)
        self._policy = Policy(*on, retries, max_wait, stagger, timeouts.total, patience, book=book)
        if fleet is None:
            fleet = (os.environ if env is None else env).get("AIOLLM_FLEET", "")
        self._settings = Settings(
            cooldown=cooldown,
            uniform=self._uniform,
            image_workers=image_workers,
            max_pixels=max_pixels,
            tool_threads=tool_threads,
            fetch_images=fetch_images,
            fleet=fleet,
            response_cache=response_cache,
        )
        self._hooks: list[Hook] = []
        self._runs = 0
        if self._settings.has_address:
            _ = self._starter  # it checks the address

    # Calls

    @overload
    def stream(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: type[T],
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[T]: ...

    @overload
    def stream(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[GenerateOptions]
    ) -> Stream: ...

    @overload
    def stream(
        self,
        spec: str | Plan,
        request: RequestLike,
        *,
        output: Any,
        **options: Unpack[GenerateOptions],
    ) -> TypedStream[Any]: ...

    def stream(
        self, spec: str | Plan, request: RequestLike, **options: Unpack[StreamOptions]
    ) -> Stream:
        """Return the answer as a stream; nothing is sent until it is iterated.

        `options`: fields of the request, replacing its own, and settings that override the
        registry's. With `output`, a type or a JSON schema, the stream is a `TypedStream`. Raises:
        SpecError, ConfigError and TypeError at once; LLMError and FailoverError while iterating.
        """
        if options and options.get("output") is not None:
            from aiollm._agent.typed_stream import typed_stream  # only typed answers need it

            return typed_stream(partial(self.stream, spec), request, options)
        return self._starter.stream(spec, request, options)

    @overload
    def run(
        self,
        spec: str | Plan,
        request: RequestLike | SavedRun,
        *,
        tools: ToolBase | Callable[..., Any] | Sequence[ToolBase | Callable[..., Any]],
        output: type[T],
        repairs: int = 1,
        **options: Unpack[AgentOptions],
    ) -> TypedRun[T]: ...

    @overload
    def run(
        self,
        spec: str | Plan,
        request: RequestLike | SavedRun,
        *,
        tools: ToolBase | Callable[..., Any] | Sequence[ToolBase | Callable[..., Any]],
        **options: Unpack[AgentOptions],
    ) -> AgentRun: ...

    @overload
    def run(
        self,
        spec: str | Plan,
        request: RequestLike | SavedRun,
        *,
        tools: ToolBase | Callable[..., Any] | Sequence[ToolBase | Callable[..., Any]],
        output: Any,
        repairs: int = 1,
        **options: Unpack[AgentOptions],
    ) -> TypedRun[Any]: ...

    def run(
        self,
        spec: str | Plan,
        request: RequestLike | SavedRun,
        *,
        tools: ToolBase | Callable[..., Any] | Sequence[ToolBase | Callable[..., Any]],
        max_turns: int = 10,
        max_parallel: int = 8,
        tool_timeout: float | None = 60.0,
        output: Any = None,
        repairs: int = 1,
        **options: Any,
    ) -> AgentRun:
        """Return a run of an agent as a stream: the model and its tools, turn by turn.

        It starts with a request, or continues a saved run. `max_turns`: how many times the model is
        asked. `max_parallel`: tools that run at a time. `tool_timeout`: seconds a tool may take;
        None means no limit. `output`: the type of `run.value`; an answer that does not fit is sent
        back to the model at most `repairs` times. `options`: see `AgentOptions`; those of a call
        apply to each turn, and a run is a session of its own by default. Raises: SpecError and
        ConfigError at once; while iterating, as `stream`, and TurnLimitError.
        """
        from aiollm._agent.options import taken  # only agents need it
        from aiollm._agent.run import new_run

        plan = self.parse(spec)
        request, own, lasting = taken(request, options)
        self._runs += 1
        return new_run(
            partial(self.stream, plan, **own),
            request,
            tools,
            (max_turns, max_parallel, tool_timeout),
            self._resources.open_runner,
            lasting=lasting,
            spec=str(plan),
            number=self._runs,
            output=output,
            repairs=repairs,
            emit=partial(emit, self._hooks) if self._hooks else None,
        )

    @overload
    def map(
        self, spec: str | Plan, rows: MapRows, *, output: type[T], **options: Unpack[MapOptions]
    ) -> MapRun[T]: ...

    @overload
    def map(
        self, spec: str | Plan, rows: MapRows, *, output: Any = None, **options: Unpack[MapOptions]
    ) -> MapRun[Any]: ...

    def map(
        self, spec: str | Plan, rows: MapRows, *, output: Any = None, **options: Unpack[MapOptions]
    ) -> MapRun[Any]:
        """Return a bulk run over the requests of an iterable; nothing is sent until it is entered.

        A row is a request, or a pair of a key and a request; without a key its number, from 1, is
        its key. `output` is the type of its answer, or a JSON schema. `options`: see `MapOptions`.
        Raises: SpecError, ConfigError and TypeError at once; while it runs, as `MapRun`.
        """
        from aiollm._bulk.start import new_map  # only bulk runs need it

        given: Any = {**options, "output": output}
        check = partial(checked_request, check_extra=self._catalog.check_extra)
        plan, *_ = self._catalog.resolve(spec, None)
        return new_map(plan, rows, given, check, self._starter.caller, self._resources)

    def stream_images(
        self, spec: str | Plan, request: str | ImageRequest, **options: Unpack[CallOptions]
    ) -> ImageStream:
        """Return the drafts of images and, last, the result as a stream.

        `options`: see `CallOptions`; without `timeouts`, each wait for an image may take
        `aiollm.images.IMAGE_SECONDS`. Raises: as `stream`.
        """
        return self._starter.stream_images(spec, request, options)

    # Servers

    def llama_swap(self, name: str) -> LlamaSwap:
        """Return a llama-swap server, to manage its models. Raises: ConfigError."""
        from aiollm.servers import LlamaSwap

        return self._servers().server(name, LlamaSwap)

    def ollama(self, name: str = "ollama") -> Ollama:
        """Return a server that speaks Ollama's API, to manage its models. Raises: ConfigError."""
        from aiollm.servers import Ollama

        return self._servers().server(name, Ollama)

    def mcp(self, address: str, **options: Unpack[McpOptions]) -> McpServer:
        """Return an MCP server: 'stdio:COMMAND ...', a URL, or the NAME of AIOLLM_MCP_<NAME>.

        It is started when its tools are needed. Raises: ConfigError, TypeError.
        """
        from aiollm._mcp.start import new_server  # only such tools need it

        parts = self._catalog.environment(), self._resources, partial(emit, self._hooks)
        return new_server(address, *parts, options)

    async def preload(self, spec: str | Plan | None = None) -> None:
        """Import what the first request needs, in a thread; with a spec, also its codecs.

        These are aiohttp, the TLS certificates and the image modules, about 150 ms in all. It also
        joins the fleet, loads prices and opens the response cache, if there are any. No provider is
        asked. Raises: SpecError, ConfigError.
        """
        plan = None if spec is None else self.parse(spec)
        await self._resources.preload(partial(self._catalog.load, plan.targets if plan else ()))
        if plan is not None:
            self._catalog.providers_of(plan)

    async def load_models(
        self, spec: str | Plan | None = None, *, timeouts: Timeouts | None = None
    ) -> tuple[Target, ...]:
        """Load the models of a spec on the servers that can: llama-swap, Ollama and foreman.

        Returns the targets whose models are loaded, and refreshes their capabilities. A target
        whose model fails to load is set aside as after a failed call. Without `timeouts`, a model
        may take five minutes. Calls `preload` first and, without a spec, does nothing else.
        Raises: SpecError, ConfigError; FailoverError when every attempt to load one failed.
        """
        await self.preload(spec)
        if spec is None:
            return ()
        await self._resources.load(_SERVERS)
        return await self._servers().load_models(self.parse(spec), timeouts)

    async def refresh_capabilities(
        self, spec: str | Plan, *, timeouts: Timeouts | None = None
    ) -> dict[Target, Capabilities]:
        """Ask llama-swap and Ollama servers what the models of a spec can do, without loading any.

        Returns their capabilities, which apply to all calls from now on; targets of other services
        are left out. Facts given with the provider in code, and options of its DSN, override them.
        Raises: SpecError, ConfigError; FailoverError when every server that was asked failed.
        """
        await self._resources.load(_SERVERS)
        return await self._servers().refresh_capabilities(self.parse(spec), timeouts)

    async def models(self, name: str) -> tuple[str, ...]:
        """Return the names of the provider's models. Raises: LLMError."""
        provider = self.provider(name)
        await self._resources.load("aiollm._http.unary", codec=provider.codec)
        requester = self._resources.requester()
        return await requester.models(provider, self._catalog.timeouts_of(provider))

    # Health and events

    def health(self, spec: str | Plan | None = None) -> tuple[TargetHealth, ...]:
        """Return snapshots of the health of all targets used so far.

        With a spec, return those of its targets, used or not. A failing host counts against all its
        targets there. Raises: SpecError, ConfigError.

            ready = any(target.reopens_in == 0 for target in reg.health("m5/a,m1/b"))
        """
        if spec is None:
            return self._health.snapshot()
        providers = self._catalog.providers_of(self.parse(spec))
        return tuple(self._health.of(target, each.origin) for target, each in providers.items())

    def limits(self) -> tuple[TargetLimits, ...]:
        """Return snapshots of the limits, paces and waiting lines of all targets used so far."""
        return self._gate.snapshot()

    @property
    def fleet(self) -> FleetStatus | None:
        """A snapshot of the fleet that this process belongs to, None without one."""
        return self._resources.fleet

    def reset_health(self, target: Target | str | None = None) -> None:
        """Forget the failures and 429s of a target and its host, or of all targets.

        Calls that wait in line look again at once. Raises: SpecError, ConfigError.
        """
        known = None if target is None else as_target(target)
        self._gate.reset(known, "" if known is None else self.provider(known.provider).origin)

    def on_event(self, hook: Hook) -> Callable[[], None]:
        """Call `hook` with every event; return a function that unregisters it.

        A hook must not block; an exception in it is only logged. Raises: ConfigError.
        """
        if not callable(hook):
            raise ConfigError(f"a hook is a function, not of type {type(hook).__name__}")
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook) if hook in self._hooks else None

    def own(self, closeable: Closeable) -> None:
        """Close `closeable` when the registry is closed. Raises: ClosedError if it is already."""
        self._resources.own(closeable)

    async def aclose(self) -> None:
        """Close connections, worker processes and all else that the registry owns; idempotent.

        Raises: ConfigError where another running event loop uses it.
        """
        await self._resources.aclose()

    async def __aenter__(self) -> Self:
        _ = self._starter  # a program that starts can wait for it, its first request should not
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _servers(self) -> Servers:
        from aiollm.servers._warming import Servers  # only managing servers needs it

        return Servers(self._catalog, self._resources, self._gate)
