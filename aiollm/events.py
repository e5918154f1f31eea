"""Events for `reg.on_event`: what happened to the attempts of a call, typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import msgspec

from aiollm.types import FinishReason, Outcome, Target, Usage


class CallStarted(msgspec.Struct, frozen=True):
    """A call begins; `call` numbers the calls of a registry, `spec` is its plan."""

    call: int
    spec: str
    operation: str = "chat"


class AttemptStarted(msgspec.Struct, frozen=True):
    """A target is tried."""

    call: int
    target: Target


class FirstOutput(msgspec.Struct, frozen=True):
    """A target gave its first output, `seconds` after its attempt began."""

    call: int
    target: Target
    seconds: float


class AttemptEnded(msgspec.Struct, frozen=True):
    """An attempt ended, `seconds` after it began."""

    call: int
    target: Target
    outcome: Outcome
    seconds: float
    error: BaseException | None = None


class TargetOpened(msgspec.Struct, frozen=True):
    """A target is set aside for `seconds`."""

    call: int
    target: Target
    seconds: float
    error: BaseException | None = None


class TargetClosed(msgspec.Struct, frozen=True):
    """A target that was set aside is healthy again."""

    call: int
    target: Target


class ImageElided(msgspec.Struct, frozen=True):
    """Images were left out of a request to fit the target's limits."""

    call: int
    target: Target
    message: str


class CallEnded(msgspec.Struct, frozen=True):
    """A call ended: `target` is the one that answered, if any did."""

    call: int
    outcome: Outcome
    seconds: float
    target: Target | None = None
    finish_reason: FinishReason | None = None
    usage: Usage = Usage()
    error: BaseException | None = None


Event: TypeAlias = (
    CallStarted
    | AttemptStarted
    | FirstOutput
    | AttemptEnded
    | TargetOpened
    | TargetClosed
    | ImageElided
    | CallEnded
)
Hook: TypeAlias = Callable[[Event], None]
