"""Counting the input tokens of a request: a target that can is asked, of others they are estimated.

A count says little about calls: its route may fail while calls succeed, and it has limits of its
own. So it looks at health to choose a target, and changes neither health nor limits.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Iterable, Sequence
from typing import Any, ClassVar, TypeVar

from aiollm._failover.gate import Gate
from aiollm._failover.health import without_frames
from aiollm._failover.keywords import CountOptions, parted
from aiollm._failover.openers import Batches, ChatOpener, SharedResources, close_now
from aiollm._failover.policy import Policy, check_names
from aiollm._http.unary import UnaryRequester
from aiollm._time_limits import TimeLimit
from aiollm._validation import RequestLike, checked_request, checked_timeouts
from aiollm._wire.lenient import load
from aiollm.errors import DeadlineError, DeadlineName, FailoverError, LLMError, ProtocolError
from aiollm.provider import HttpRequest, Provider, TokenCodec
from aiollm.providers.catalog import Catalog
from aiollm.providers.error_bodies import is_error
from aiollm.spec import Plan
from aiollm.types import Attempt, Request, Target, TokenCount

T = TypeVar("T")

NO_SUCH_ROUTE = (404, 405, 501)
"""Statuses that may mean that a server cannot count; a 404 may be about the model, too."""


async def count_tokens(
    catalog: Catalog,
    resources: SharedResources,
    gate: Gate,
    policy: Policy,
    spec: str | Plan,
    request: RequestLike,
    options: CountOptions,
) -> TokenCount:
    """Return the count of the first target that can be asked. Raises: as a call."""
    resources.bind_loop()
    check_names(options, CountOptions.__annotations__)
    request, own = parted(request, options)
    plan, providers, deadlines = catalog.resolve(spec, checked_timeouts(own.get("timeouts")))
    policy = policy.overridden(own)
    checked = checked_request(request, catalog.check_extra)
    opener = CountOpener(checked, providers, deadlines, resources)
    opener.leaves_out = policy.on_unsupported == "drop"
    work = _Counting(plan, opener, gate).first()
    return await _within(policy.total, "total", "the call took longer than {} s", work)


class CountOpener(ChatOpener):
    """Asks the targets of one count; what they are asked is prepared as for a chat call."""

    __slots__ = ()

    operation: ClassVar[str] = "count_tokens"

    async def count(self, target: Target) -> TokenCount | None:
        """Return what the target counts, None where it cannot. Raises: LLMError."""
        found: TokenCount | None = None
        batches: Any = self.open(target, "")
        try:
            async for batch in batches:
                for item in batch:
                    found = item if isinstance(item, TokenCount) else found
        finally:
            close_now(batches)
        return found

    def _run(self, provider: Provider, target: Target, request: Request) -> Batches:
        own = provider.operations.get("count")
        if own is not None and own.adapter is not None:
            transport = self._resources.transport_of(provider)
            return own.adapter(provider, transport, target, request, self.timeouts[target])
        if own is not None:
            return self._asked(provider, target, request, own.codecs())
        # A codec may be any object with the methods of one, and few count.
        counters = getattr(provider.codec, "counters", None) if provider.base_url else None
        return self._asked(provider, target, request, counters(provider) if counters else ())

    async def _asked(
        self, provider: Provider, target: Target, request: Request, codecs: Sequence[TokenCodec]
    ) -> AsyncGenerator[Sequence[Any], None]:
        """Ask in the first of the dialects that the server knows."""
        for codec in codecs:
            http = codec.encode_count(provider, target, request)
            if http is None:
                continue
            tokens = await self._counted(provider, target, codec, http)
            if tokens is not None:
                yield [TokenCount(tokens, "exact", target)]
                return

    async def _counted(
        self, provider: Provider, target: Target, codec: TokenCodec, http: HttpRequest
    ) -> int | None:
        requester = UnaryRequester(self._resources)
        try:
            reply = await requester.request(provider, self.timeouts[target], http)
            try:
                return codec.decode_count(reply)
            except ProtocolError:
                if not is_error(load(reply.body)):
                    raise
            raise provider.codec.error(reply)
        except LLMError as error:
            if not _is_unknown(error, http.url[http.url.rindex("/") :]):
                raise
        return None


class _Counting:
    """One count over the targets of a plan."""

    def __init__(self, plan: Plan, opener: CountOpener, gate: Gate) -> None:
        self._plan = plan
        self._opener = opener
        self._gate = gate
        self._began = gate.now()
        self._attempts: list[Attempt] = []

    async def first(self) -> TokenCount:
        """Return the count of the first target that does not fail. Raises: LLMError."""
        for target in self._in_order():
            attempt = Attempt(target, self._gate.now() - self._began)
            self._attempts.append(attempt)
            try:
                found = await self._ask(target)
            except LLMError as error:
                attempt.outcome, attempt.error = "failed", without_frames(error)
                if not error.moves_on:
                    raise
            else:
                return self._estimated(target) if found is None else self._taught(found)
            finally:
                attempt.ended = self._gate.now() - self._began
        errors = [each.error for each in self._attempts if each.error is not None]
        message = f"no target of {self._plan} could count ({len(errors)} asked)"
        raise FailoverError(message, errors, self._attempts)

    def _in_order(self) -> Iterable[Target]:
        """Return the targets as a call would ask them: those set aside come last."""
        health, providers = self._gate.health, self._opener.providers

        def is_sick(target: Target) -> bool:
            return health.remembered(target, providers[target].origin) is not None

        return sorted(self._plan.targets, key=is_sick)

    async def _ask(self, target: Target) -> TokenCount | None:
        opener = self._opener
        seconds = opener.timeouts[target].first_output
        try:
            asked = opener.count(target)
            return await _within(seconds, "first_output", "no count within {} s", asked)
        except LLMError as error:
            opener.clean(target, error)
            raise
        except BaseException as error:
            opener.forget(error)
            raise

    def _taught(self, count: TokenCount) -> TokenCount:
        """Return a count, from which the estimates of later calls learn."""
        if count.certainty == "exact":
            line = self._gate.line(count.target, self._opener.providers[count.target])
            line.estimate.learn_input(self._opener.size_at(line), count.tokens)
        return count

    def _estimated(self, target: Target) -> TokenCount:
        line = self._gate.line(target, self._opener.providers[target])
        line.learn_always()
        tokens, _ = line.estimate.reserve(self._opener.request, self._opener.size_at(line))
        return TokenCount(math.ceil(tokens), "estimated", target)


def _is_unknown(error: LLMError, route: str) -> bool:
    """Return whether an error says that the server does not know a route.

    Some name it with a status of their own: LM Studio's is 200 (2026).
    """
    status = getattr(error, "status", None)
    if status in NO_SUCH_ROUTE:
        about = f"{getattr(error, 'code', '')} {error.message}".lower()
        return route in error.message or "model" not in about
    return status in (200, 400) and route in error.message


async def _within(seconds: float | None, which: DeadlineName, text: str, work: Awaitable[T]) -> T:
    """Return the result of `work`. Raises: DeadlineError when it takes longer."""
    # All the time of a call counts, but of a server's not that for which this process stood still.
    until = asyncio.get_running_loop().time() + (math.inf if seconds is None else seconds)
    limit = TimeLimit(None, until) if which == "total" else TimeLimit(seconds)
    try:
        async with limit:
            return await work
    except TimeoutError:
        if not limit.expired():  # it is another one's, such as the caller's
            raise
        late = seconds or 0.0
    raise DeadlineError(text.format(f"{late:g}"), which=which, after=late)
