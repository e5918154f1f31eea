"""A plan's model servers: find them, load their models, refresh capabilities."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

import msgspec

from aiollm._failover.deadlines import at_least
from aiollm._failover.health import Health
from aiollm._resources import Resources
from aiollm.capabilities import Capabilities
from aiollm.errors import ConfigError, FailoverError, ProtocolError, ProviderError
from aiollm.provider import HttpRequest, HttpResponse, Provider, Reply
from aiollm.providers.catalog import Catalog
from aiollm.servers.base import Server
from aiollm.servers.llama_swap import LlamaSwap
from aiollm.servers.ollama import Ollama, is_hosted
from aiollm.spec import Plan
from aiollm.types import Attempt, LLMError, Target, Timeouts

T = TypeVar("T")
S = TypeVar("S", bound=Server)

LOAD_SECONDS = 300.0
"""Seconds that loading a model may take: llama-swap waits 120 s for one, and others queue."""

_SENDING = "aiollm._http.unary"
"""What requests are sent with: loaded in a thread, for a handle is made at once."""

KINDS: dict[str, type[LlamaSwap | Ollama]] = {
    scheme: kind for kind in (LlamaSwap, Ollama) for scheme in kind.schemes
}
"""The class of the servers of each scheme: the one list of schemes that are model servers."""


class Gate(Protocol):
    """The gate of a registry's calls, as loads of models see it."""

    health: Health
    sharing: Any
    """The fleet, None without one."""

    def now(self) -> float:
        """Return the time of its clock."""

    def line(self, target: Target, provider: Provider) -> Any:
        """Return the line of a target."""

    def changed_health(self, origin: str) -> None:
        """Let those who wait at a host look again."""


class Servers:
    """The providers of a registry that are model servers."""

    def __init__(self, catalog: Catalog, resources: Resources, gate: Gate) -> None:
        """Take a registry's parts."""
        self._catalog = catalog
        self._resources = resources
        self._gate = gate

    def server(self, name: str, kind: type[S]) -> S:
        """Return a provider's server. Raises: ConfigError when it is of another kind."""
        provider = self._catalog.provider(name)
        if KINDS.get(provider.scheme) is not kind:
            schemes = " or ".join(scheme for scheme, known in KINDS.items() if known is kind)
            raise ConfigError(
                f"{name!r} is a provider of scheme {provider.scheme!r}, not {schemes}"
            )
        timeouts = self._catalog.timeouts_of(provider)
        return self._make(kind, provider, timeouts, at_least(timeouts, LOAD_SECONDS))

    async def load_models(self, plan: Plan, timeouts: Timeouts | None) -> tuple[Target, ...]:
        """Load the models that servers can load; return their targets. Raises: FailoverError."""

        async def load(target: Target, server: Server) -> None:
            await self._watched_load(target, server)
            try:
                self._catalog.learn(target, await server.facts(target.model))
            except (ProviderError, ProtocolError):
                return  # the model works without known capabilities

        loadable = {
            target: provider
            for target, provider in self._catalog.providers_of(plan).items()
            if not (KINDS.get(provider.scheme) is Ollama and is_hosted(provider, target.model))
        }
        return tuple(await self._each(plan, loadable, timeouts, load))

    async def refresh_capabilities(
        self, plan: Plan, timeouts: Timeouts | None
    ) -> dict[Target, Capabilities]:
        """Ask what the models can do, and apply the answers from now on. Raises: FailoverError."""

        async def ask(target: Target, server: Server) -> Capabilities:
            self._catalog.learn(target, await server.facts(target.model))
            return self._catalog.provider(target.provider).capabilities(target.model)

        return await self._each(plan, self._catalog.providers_of(plan), timeouts, ask)

    async def _watched_load(self, target: Target, server: Server) -> None:
        """Load a model as an attempt that counts for its target's health, also in a fleet."""
        gate = self._gate
        line = gate.line(target, self._catalog.provider(target.provider))
        permit, fleet = gate.health.admit(target, line.origin), gate.sharing
        if permit.is_probe:
            permit.is_paused = _always  # it may take minutes: after a while others may probe
        try:
            await server.load(target.model)
        except Exception as error:
            opened = permit.failure(error)
            if fleet is not None:
                fleet.failed(line, error, opened=opened, took=gate.now() - permit.started)
            raise
        except BaseException:
            permit.abandoned()
            if fleet is not None:
                fleet.released(line)
            raise
        else:
            if permit.success() and fleet is not None:
                fleet.closed(line)
        finally:
            # Calls may wait for this target to recover, or for the probe that the load was.
            gate.changed_health(line.origin)

    async def _each(
        self,
        plan: Plan,
        providers: Mapping[Target, Provider],
        timeouts: Timeouts | None,
        act: Callable[[Target, Server], Awaitable[T]],
    ) -> dict[Target, T]:
        """Act on all targets of model servers: hosts concurrently, one target at a time on each.

        A host's first target comes last, so that it stays loaded if only one model fits.
        """
        hosts: dict[str, list[tuple[Target, Server]]] = {}
        for target, provider in reversed(list(providers.items())):
            if (kind := KINDS.get(provider.scheme)) is not None:
                usual = timeouts or self._catalog.timeouts_of(provider)
                slow = at_least(usual, LOAD_SECONDS) if timeouts is None else usual
                server = self._make(kind, provider, usual, slow)
                hosts.setdefault(provider.host, []).append((target, server))
        outcomes: _Outcomes[T] = _Outcomes(act)
        async with asyncio.TaskGroup() as group:
            for servers in hosts.values():
                group.create_task(outcomes.run(servers))
        return outcomes.result(plan)

    def _make(self, kind: type[S], provider: Provider, usual: Timeouts, slow: Timeouts) -> S:
        # llama-swap sends a log's headers with its first line, which may take any time.
        endless = msgspec.structs.replace(usual, first_output=None)
        return kind(
            provider,
            partial(self._send, provider, usual),
            partial(self._stream, provider, endless),
            partial(self._send, provider, slow),
        )

    async def _send(
        self, provider: Provider, timeouts: Timeouts, request: HttpRequest
    ) -> HttpResponse:
        await self._resources.load(_SENDING)
        return await self._resources.requester().request(provider, timeouts, request)

    async def _stream(self, provider: Provider, timeouts: Timeouts, request: HttpRequest) -> Reply:
        await self._resources.load(_SENDING)
        return await self._resources.requester().open(provider, timeouts, request)


def _always() -> bool:
    return True


class _Outcomes(Generic[T]):
    """The results of acting on many targets."""

    def __init__(self, act: Callable[[Target, Server], Awaitable[T]]) -> None:
        self._act = act
        self._loop = asyncio.get_running_loop()
        self._start = self._loop.time()
        self._done: dict[Target, T] = {}
        self._attempts: dict[Target, Attempt] = {}

    async def run(self, servers: Sequence[tuple[Target, Server]]) -> None:
        """Act on these servers, one after the other."""
        for target, server in servers:
            attempt = self._attempts[target] = Attempt(target, self._loop.time() - self._start)
            try:
                self._done[target] = await self._act(target, server)
                attempt.outcome = "success"
            except LLMError as error:
                error.target = target
                attempt.outcome, attempt.error = "failed", error
            attempt.ended = self._loop.time() - self._start

    def result(self, plan: Plan) -> dict[Target, T]:
        """Return what succeeded, in the plan's order. Raises: FailoverError if nothing did."""
        attempts = [self._attempts[target] for target in plan.targets if target in self._attempts]
        errors = [each.error for each in attempts if each.error is not None]
        if errors and not self._done:
            raise FailoverError(f"the operation failed on every server of {plan}", errors, attempts)
        return {each.target: self._done[each.target] for each in attempts if each.error is None}
