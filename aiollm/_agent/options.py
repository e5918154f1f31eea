"""The options of runs that last: approval, saving, and shorter histories."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from aiollm._agent.compaction import CompactHook
from aiollm._failover.keywords import TurnOptions, parted
from aiollm._failover.sessions import in_session
from aiollm._serialization import SavedRun, check_version
from aiollm._validation import RequestLike
from aiollm.errors import ConfigError
from aiollm.types import Request, ToolCallPart, _shown

Approval: TypeAlias = bool | str | Mapping[str, Any] | None
"""What is decided about a tool call: True lets it run, a mapping does so with these arguments in
place of its own, False or a reason refuses it, and None leaves it for later."""

ApproveHook: TypeAlias = Callable[[ToolCallPart], Approval | Awaitable[Approval]]
"""Decides about a tool call; a plain function runs in a thread, so it may wait for a person."""

SaveHook: TypeAlias = Callable[[SavedRun], object]
"""Keeps a run as far as it is, sync or async; a plain function runs in a thread."""


class AgentOptions(TurnOptions, total=False):
    """The keywords of `run`, except `tools`, `output` and `repairs`: also `TurnOptions`.

    `approve`: is asked about each tool call, except those of tools with `approve=False`.
    `approvals`: decisions about the calls of a saved run, by call id. `compact`: is called before
    each turn, and may return a shorter history. `save`: gets the run after each answer, before and
    after each tool, and when it waits for approval; what it raises ends the run. `max_turns`,
    `max_parallel` and `tool_timeout` are described at `Registry.run`.
    """

    approve: ApproveHook | None
    approvals: Mapping[str, Approval] | None
    compact: CompactHook | None
    save: SaveHook | None
    max_turns: int
    max_parallel: int
    tool_timeout: float | None


class Lasting(msgspec.Struct, frozen=True):
    """The options of a run that make it last, and the saved run to go on from."""

    approve: ApproveHook | None = None
    approvals: Mapping[str, Approval] = {}
    compact: CompactHook | None = None
    save: SaveHook | None = None
    saved: SavedRun | None = None


OWN = ("max_turns", "max_parallel", "tool_timeout", "output", "repairs")
NAMES = ("approve", "approvals", "compact", "save")


def taken(
    request: RequestLike | SavedRun, options: Any
) -> tuple[RequestLike, dict[str, Any], Lasting]:
    """Return a run's request, the options of its turns, and what lasts. Raises: ConfigError."""
    saved = request if isinstance(request, SavedRun) else None
    asked = _opened(request) if isinstance(request, SavedRun) else request
    asked, others = parted(asked, options, *OWN, *NAMES)
    own = in_session(others)
    given = {name: own.pop(name) for name in NAMES if name in own}
    return asked, own, _lasting(given, saved)


def _opened(saved: SavedRun) -> Request:
    check_version(saved.version)
    return msgspec.structs.replace(saved.request, messages=saved.messages)


def _lasting(options: dict[str, Any], saved: SavedRun | None) -> Lasting:
    given = {name: value for name, value in options.items() if value is not None}
    for name, value in given.items():
        if name != "approvals" and not callable(value):
            raise ConfigError(f"{name} is {_shown(value)}: expected a function")
    approvals: object = given.get("approvals", {})
    if not isinstance(approvals, Mapping):
        raise ConfigError(f"approvals is {_shown(approvals)}: expected a mapping of ids of calls")
    if approvals and saved is None:
        raise ConfigError("approvals are for a saved run: pass one instead of a request")
    for id_, approval in approvals.items():
        check_approval(approval, f"approvals[{_shown(id_)}]")
    return Lasting(**given, saved=saved)


def check_approval(approval: object, name: str) -> None:
    """Raise ConfigError unless it is an `Approval`."""
    if approval is not None and not isinstance(approval, bool | str | Mapping):
        expected = "True, False, a reason, a mapping of arguments, or None for later"
        raise ConfigError(f"{name} is {_shown(approval)}: expected {expected}")
