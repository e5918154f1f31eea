"""Tool calls that wait for a yes, and that are saved before and after they run."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
from msgspec.structs import replace

from aiollm._agent.options import Approval, Lasting, check_approval
from aiollm._agent.tool_calls import ToolCalls, failed
from aiollm._agent.tool_runner import Bound, ToolRunner
from aiollm._agent.tools import bind
from aiollm._serialization import CallState, SavedCall, described
from aiollm._wire.lenient import encode
from aiollm.errors import ConfigError, LLMError, OutputError
from aiollm.events import ApprovalAsked, ApprovalDecided, Decision
from aiollm.types import TextPart, Tool, ToolCallPart, ToolResultPart, _shown

_REFUSED = "not run: it was not approved"
_WAITS = "not run: it waits for approval"
_UNKNOWN = "the program ended while this call ran: whether it took effect is not known"

A_TURN = 64
"""Calls that are started between two turns of the event loop; each takes some 20 us."""


class ApprovalNeeded(msgspec.Struct, frozen=True):
    """The last event of a run whose calls wait for approval: it goes on from `run.saved`."""

    text: ClassVar[str] = ""
    calls: tuple[ToolCallPart, ...]


class GuardedCalls(ToolCalls):
    """The tool calls of one turn, of which each runs once it may, and at most once."""

    def __init__(
        self,
        calls: Sequence[ToolCallPart],
        *parts: Any,
        lasting: Lasting,
        save: Callable[[], Awaitable[None]] | None,
        **named: Any,
    ) -> None:
        """Prepare the calls; the other parameters are those of `ToolCalls`."""
        super().__init__(calls, *parts, **named)
        self._lasting = lasting
        self._save = save
        self._states: list[CallState] = ["open"] * len(calls)
        self._notes: dict[int, str] = {}
        self._approvals: Mapping[str, Approval] = {}

    def restore(self, saved: Sequence[SavedCall]) -> None:
        """Begin with what was saved: results stay, and what had been started is not run again.

        The approvals of the run are for these calls alone: later ones may have the same ids.
        """
        self._approvals = self._lasting.approvals
        for index, call in enumerate(saved):
            if call.result is not None:
                self._results[index] = call.result
                self._states[index] = "done"
                self._pending -= 1
            elif call.state == "started" and not _is_yes(self._approvals.get(call.id)):
                self._finish(index, failed(self._calls[index], _UNKNOWN))
            else:
                self._states[index] = "open" if call.state == "open" else "waiting"

    def start(self) -> None:
        """Start all calls that may run; the others start when they are approved."""
        if len(self._calls) <= A_TURN:
            self._ask_about(self._started(range(len(self._calls))))
        else:
            self._in_background(self._start_in_turns())

    async def _start_in_turns(self) -> None:
        """Start many calls, with turns for others between them."""
        held: list[tuple[int, Tool, Bound]] = []
        for at in range(0, len(self._calls), A_TURN):
            held += self._started(range(at, min(at + A_TURN, len(self._calls))))
            await asyncio.sleep(0)
        self._ask_about(held)

    def _started(self, indices: Iterable[int]) -> list[tuple[int, Tool, Bound]]:
        """Start those of these calls that may run; return the others."""
        held: list[tuple[int, Tool, Bound]] = []
        for index in indices:
            if index in self._results:
                continue
            if (found := self._found(index, self._calls[index])) is None:
                continue
            if self._is_held(index, found[0]):
                held.append((index, *found))
            else:
                self._launch(index, *found)
        return held

    def _ask_about(self, held: list[tuple[int, Tool, Bound]]) -> None:
        if held:
            for index, *_ in held:
                self._states[index] = "waiting"
            held.sort(key=lambda each: self._calls[each[0]].id not in self._approvals)
            self._in_background(self._decide(held))

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        task.add_done_callback(self._decided)
        self._tasks.append(task)

    @property
    def waiting(self) -> tuple[ToolCallPart, ...]:
        """The calls that nobody has decided about, once all others have their results."""
        if self._pending:
            return ()
        pairs = enumerate(self._calls)
        return tuple(call for index, call in pairs if self._waits(index))

    def saved(self) -> tuple[SavedCall, ...]:
        """Return how far each call is."""
        results, states = self._results, self._states
        return tuple(
            SavedCall(call.id, "done" if index in results else states[index], results.get(index))
            for index, call in enumerate(self._calls)
        )

    def _waits(self, index: int) -> bool:
        return self._states[index] == "waiting" and index not in self._results

    def _missing(self, index: int) -> ToolResultPart:
        if self._waits(index):
            return failed(self._calls[index], _WAITS)
        return super()._missing(index)

    def _is_held(self, index: int, wanted: Tool) -> bool:
        if self._states[index] == "waiting" or self._calls[index].id in self._approvals:
            return True
        if wanted.approve is None:
            return self._lasting.approve is not None
        return wanted.approve is not False

    async def _decide(self, held: Sequence[tuple[int, Tool, Bound]]) -> None:
        """Ask about one call after the other, as a person can answer."""
        for index, wanted, bound in held:
            call, began = self._calls[index], time.monotonic()
            if self._emit:
                self._emit(ApprovalAsked(self._run, call.name, call))
            decision = self._apply(index, wanted, bound, await self._approval(call))
            if self._emit:
                seconds = time.monotonic() - began
                self._emit(ApprovalDecided(self._run, call.name, call, decision, seconds))

    async def _approval(self, call: ToolCallPart) -> Approval:
        hook = self._lasting.approve
        if call.id in self._approvals or hook is None:
            return self._approvals.get(call.id)
        approval: Approval = await called(self._runner, "approve", hook, call)
        check_approval(approval, f"the answer of the approve hook to {_shown(call.name)}")
        return approval

    def _apply(self, index: int, wanted: Tool, bound: Bound, approval: Approval) -> Decision:
        match approval:
            case None:
                self._happened.put_nowait(None)
                return "later"
            case True:
                self._launch(index, wanted, bound)
                return "approved"
            case False | str():
                reason = f"{_REFUSED}: {approval}" if approval else _REFUSED
                self._finish(index, failed(self._calls[index], reason))
                return "refused"
            case _:
                return self._change(index, wanted, approval)

    def _change(self, index: int, wanted: Tool, arguments: Mapping[str, Any]) -> Decision:
        """Run a call with other arguments; the history keeps those that the model wrote."""
        text = encode(dict(arguments), described).decode()
        call = self._calls[index]
        changed = replace(call, arguments=text, valid=True)
        try:
            bound = bind(wanted, changed)
        except OutputError as error:
            self._finish(index, failed(call, error.message), 0.0, error)
            return "refused"
        self._calls = [*self._calls[:index], changed, *self._calls[index + 1 :]]
        self._notes[index] = f"Run with other arguments than yours: {text}\n"
        self._launch(index, wanted, bound)
        return "changed"

    async def _before(self, index: int) -> None:
        before, self._states[index] = self._states[index], "started"
        if self._save is None:
            return
        try:
            await self._save()
        except BaseException:
            self._states[index] = before
            raise

    async def _after(self, index: int, result: ToolResultPart) -> ToolResultPart:
        if (note := self._notes.get(index)) is not None:
            result = replace(result, content=(TextPart(note), *result.content))
        self._results[index] = result
        if self._save is not None:
            await self._save()
        return result

    def _decided(self, task: asyncio.Task[None]) -> None:
        if not self._stopped and (error := _error_of(task)) is not None:
            self._happened.put_nowait(error)


def _is_yes(approval: Approval) -> bool:
    return approval is True or isinstance(approval, Mapping)


def _error_of(task: asyncio.Task[None]) -> BaseException | None:
    if task.cancelled():
        return LLMError("the wait for approvals was cancelled")
    return task.exception()


async def called(runner: ToolRunner, name: str, hook: Callable[[Any], Any], value: object) -> Any:
    """Call a hook as tools are called, plain ones in threads. Raises: what it raises."""
    outcome = await runner.run(f"{name} hook", functools.partial(hook, value), None)
    match outcome.error:
        case None:
            return outcome.value
        case asyncio.CancelledError():
            raise LLMError(f"the {name} hook was cancelled")
        case error:
            raise error


def check_calls(
    calls: Sequence[ToolCallPart],
    saved: Sequence[SavedCall],
    lasting: Lasting,
    tools: Mapping[str, Tool],
) -> None:
    """Raise ConfigError for an approval or a call of a saved run that cannot be honoured."""
    if [call.id for call in calls] != [call.id for call in saved]:
        raise ConfigError("the saved run is damaged: its calls are not those of its last message")
    undone = [call for call, each in zip(calls, saved, strict=True) if each.result is None]
    for id_ in lasting.approvals:
        _check_id(id_, undone)
    for call, each in zip(calls, saved, strict=True):
        runs = each.state != "started" or _is_yes(lasting.approvals.get(call.id))
        if runs and each.result is None and call.name not in tools:
            known = ", ".join(tools) or "none"
            raise ConfigError(
                f"the saved run is to call the tool {_shown(call.name)}, which is not among its "
                f"tools: {known}"
            )


def _check_id(id_: object, undone: Sequence[ToolCallPart]) -> None:
    found = sum(call.id == id_ for call in undone)
    if found == 1:
        return
    waiting = ", ".join(_shown(call.id) for call in undone) or "none"
    about = f"approvals[{_shown(id_)}]"
    if found:
        raise ConfigError(f"{about} is about {found} calls of that id: use an approve hook")
    raise ConfigError(f"{about} is about a call that is gone; those without a result: {waiting}")
