"""Embedding: batches side by side, all of one model, joined in the order of the inputs."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any

from msgspec.structs import replace

from aiollm._agent.totals import total_cost, total_usage
from aiollm._failover.keywords import CallOptions
from aiollm._failover.policy import Policy
from aiollm._retrieval.batches import room, split
from aiollm._retrieval.calls import Calls
from aiollm._retrieval.openers import EmbedOpener, Space
from aiollm._time_limits import TimeLimit
from aiollm.errors import ConfigError, DeadlineError, FailoverError, LLMError
from aiollm.provider import Provider
from aiollm.retrieval import Embeddings, EmbedRequest, Vector
from aiollm.retrieval.vectors import Vectors
from aiollm.spec import Plan, Step
from aiollm.types import Attempt, Cost, Target, Timeouts, Timings

AT_ONCE = 8
"""Batches under way at most: a server of one's own works on some at a time, and lets others wait
until their deadline. What a target allows is the gate's matter."""

JOINED_AT_ONCE = 512
"""Batches that are joined between two turns of the event loop: some 1 ms of work."""


async def embed(
    calls: Calls,
    spec: str | Plan,
    request: EmbedRequest,
    batch: int | None,
    options: CallOptions,
    *,
    mixed: bool,
) -> Embeddings:
    """Return the vectors of all inputs. Raises: LLMError, FailoverError, with what had arrived."""
    policy, (plan, providers, deadlines) = calls.resolve(spec, options)
    targets = providers, deadlines
    errors: list[FailoverError] = []
    clock = asyncio.get_running_loop().time
    seconds = policy.total
    end = None if seconds is None else clock() + seconds
    models = _models(plan, mixed=mixed)
    tried: list[Attempt] = []
    for model in models:
        own = _of_model(plan, model)
        facts = [providers[target].capabilities(model) for target in own.targets]
        call = _EmbedCall(calls, own, request, policy, targets, room(facts, batch), end)
        call.tried = tried if len(models) > 1 else None
        before = (*tried,)
        try:
            return _after(before, await call.run())
        except FailoverError as error:
            error.__traceback__ = None
            errors.append(error)
    try:
        raise _all_failed(plan, errors)
    finally:
        errors.clear()  # the error's traceback holds this frame: a cycle, with all vectors


def _models(plan: Plan, *, mixed: bool) -> Sequence[str]:
    """Return the models of a plan. Raises: ConfigError for several that must not be mixed."""
    models = [*dict.fromkeys(target.model for target in plan.targets)]
    if len(models) == 1 or mixed:
        return models
    raise ConfigError(
        f"{plan} names several models ({', '.join(models)}), whose vectors must not be mixed: "
        "name one model, or pass mixed=True if these are one model under several names, or if "
        "nothing is compared with vectors of other calls"
    )


def _after(before: Sequence[Attempt], found: Embeddings) -> Embeddings:
    """Return a result with the attempts at other models, whose vectors were dropped."""
    if not before:
        return found
    usd = [each.usd for each in before]
    lost = None if None in usd else math.fsum(filter(None, usd))
    cost = found.cost + Cost(0.0, "billed", lost)
    return replace(found, attempts=(*before, *found.attempts), cost=cost)


def _all_failed(plan: Plan, errors: Sequence[FailoverError]) -> FailoverError:
    if len(errors) == 1:
        return errors[0]
    causes = [each for error in errors for each in error.exceptions]
    attempts = [each for error in errors for each in error.attempts]
    failure = FailoverError(f"every model of {plan} failed", causes, attempts)
    failure.vectors = max((each.vectors for each in errors), key=_count)
    return failure


def _let_go(workers: list[asyncio.Task[None]]) -> None:
    """Forget tasks: the traceback of a cancelled one leads to itself, and to all vectors."""
    for each in workers:
        if each.cancelled():
            with suppress(asyncio.CancelledError):
                each.result()
    workers.clear()


def _count(vectors: Sequence[Vector | None]) -> int:
    return sum(each is not None for each in vectors)


def _of_model(plan: Plan, model: str) -> Plan:
    """Return the plan without the targets of other models."""
    steps: list[Step] = []
    for step in plan.steps:
        weights = step.weights or (1,) * len(step.targets)
        kept = [pair for pair in zip(step.targets, weights, strict=True) if pair[0].model == model]
        if kept:
            targets, their = zip(*kept, strict=True)
            steps.append(Step(targets, step.mode, their if step.weights else ()))
    return Plan(tuple(steps))


class _EmbedCall:
    """The batches of one call at the targets of one model."""

    def __init__(
        self,
        calls: Calls,
        plan: Plan,
        request: EmbedRequest,
        policy: Policy,
        targets: tuple[Mapping[Target, Provider], Mapping[Target, Timeouts]],
        limits: tuple[int, float],
        end: float | None,
    ) -> None:
        self._calls, self._plan, self._end = calls, plan, end
        self._request, self._policy, self._targets = request, policy, targets
        self._left: Iterator[range] = split(request.inputs, *limits)
        self._found: dict[range, Embeddings | None] = {}
        """Each batch that has begun, in order, with its vectors."""
        self._space = Space()
        self._error: LLMError | None = None
        self.tried: list[Attempt] | None = None
        """What the attempts are added to, failed and cancelled ones included."""

    async def run(self) -> Embeddings:
        """Return the vectors of all inputs. Raises: LLMError, FailoverError."""
        began = asyncio.get_running_loop().time()
        try:
            await self._within()
        except LLMError as error:
            error.vectors = self._arrived()
            raise
        return await self._joined(asyncio.get_running_loop().time() - began)

    async def _within(self) -> None:
        """Ask for all batches, within the seconds of the whole call."""
        limit = TimeLimit(None, until=self._end)
        try:
            async with limit:
                return await self._ask_all()
        except TimeoutError:
            if not limit.expired():  # it is another one's, such as the caller's
                raise
        seconds = self._policy.total
        reason = f"the call took longer than {seconds:g} s"
        raise DeadlineError(reason, which="total", after=seconds or 0.0)

    async def _ask_all(self) -> None:
        first, second = next(self._left), next(self._left, None)
        if second is None:
            await self._ask(first)
            return
        self._left = chain((first, second), self._left)
        workers: list[asyncio.Task[None]] = []
        try:
            async with asyncio.TaskGroup() as group:
                workers += (group.create_task(self._worker(workers)) for _ in range(AT_ONCE))
        finally:
            _let_go(workers)
        if self._error is not None:
            error, self._error = self._error, None
            try:
                raise error
            finally:
                del error  # its traceback holds this frame: a cycle

    async def _worker(self, others: Sequence[asyncio.Task[None]]) -> None:
        """Ask for one batch after another; on failure end the `others`, too."""
        for batch in self._left:
            try:
                await self._ask(batch)
            except LLMError as error:
                self._error = self._error or error
                for each in others:
                    if each is not asyncio.current_task():
                        each.cancel()
                return
            await asyncio.sleep(0)  # all replies of a turn are read in it, which is work enough

    async def _ask(self, batch: range) -> None:
        request, self._found[batch] = self._request, None
        if len(batch) < len(request.inputs):
            request = replace(request, inputs=request.inputs[batch.start : batch.stop])
        opener = EmbedOpener(
            request, *self._targets, self._calls.resources, self._space, batch.start
        )
        self._found[batch] = await self._calls.ask(self._plan, opener, self._policy, self.tried)

    def _arrived(self) -> tuple[Any, ...]:
        """Return a vector for each input, None where it has not come; nothing if none has."""
        if not any(self._found.values()):
            return ()
        arrived = [
            each
            for batch, found in self._found.items()
            for each in (found.vectors if found else [None] * len(batch))
        ]
        return (*arrived, *[None] * (len(self._request.inputs) - len(arrived)))

    async def _joined(self, seconds: float) -> Embeddings:
        """Return the vectors of all batches as one result, joined in steps."""
        parts = [each for each in self._found.values() if each is not None]
        if len(parts) == 1:
            return parts[0]
        some: list[Embeddings] = []
        for at in range(0, len(parts), JOINED_AT_ONCE):
            some.append(_join(parts[at : at + JOINED_AT_ONCE]))
            await asyncio.sleep(0)
        return replace(_join(some), timings=replace(some[0].timings, total=seconds))


def _join(parts: Sequence[Embeddings]) -> Embeddings:
    """Return several results as one, in their order."""
    firsts = [each.timings.first_output for each in parts]
    return Embeddings(
        _in_order([each.vectors for each in parts]),
        total_usage([each.usage for each in parts]),
        parts[0].target,
        tuple(dict.fromkeys(warning for each in parts for warning in each.warnings)),
        tuple(attempt for each in parts for attempt in each.attempts),
        Timings(min((each for each in firsts if each is not None), default=None)),
        total_cost([each.cost for each in parts]),
    )


def _in_order(parts: Sequence[Sequence[Vector]]) -> Sequence[Vector]:
    found = [each for each in parts if isinstance(each, Vectors)]
    # An adapter may have made any sequence.
    return Vectors.joined(found) if len(found) == len(parts) else tuple(chain.from_iterable(parts))
