"""Saved runs: handed to the `save` hook one after the other, and checked before they go on."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence

from aiollm._agent.approval import called, check_calls
from aiollm._agent.options import Lasting, SaveHook
from aiollm._agent.tool_runner import ToolRunner
from aiollm._serialization import SavedRun
from aiollm.errors import ConfigError
from aiollm.types import Message, Tool, ToolCallPart


class Saver:
    """Calls the `save` hook of a run, never twice at a time: an older state must not come last."""

    def __init__(
        self, hook: SaveHook, state: Callable[[], SavedRun], runner: Callable[[], ToolRunner]
    ) -> None:
        """Take the hook, a method that returns the run as it is, and what calls hooks."""
        self._hook = hook
        # The run has this saver: a strong reference back would make a cycle.
        self._state = weakref.WeakMethod(state)
        self._runner = runner
        self._turn = asyncio.Lock()

    async def __call__(self) -> None:
        """Save the run as it is now. Raises: what the hook raises."""
        async with self._turn:
            state = self._state()
            if state is not None:
                await called(self._runner(), "save", self._hook, state())


def unanswered(
    saved: SavedRun, lasting: Lasting, tools: Mapping[str, Tool]
) -> tuple[tuple[Message, ...], Sequence[ToolCallPart]]:
    """Return the history of a saved run, and the calls at its end that may lack results.

    Raises: ConfigError.
    """
    if not saved.calls:
        check_calls((), (), lasting, tools)
        return saved.messages, ()
    *before, last = saved.messages or (Message("assistant", ()),)
    if last.role != "tool" or not before:
        raise ConfigError("the saved run is damaged: the results of its calls are not its end")
    calls = [part for part in before[-1].parts if isinstance(part, ToolCallPart)]
    check_calls(calls, saved.calls, lasting, tools)
    return tuple(before), calls
