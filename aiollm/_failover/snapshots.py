"""What users see of a target: snapshots of its health and of what bounds it."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from aiollm.dsn import Limits
from aiollm.types import Target

HealthState: TypeAlias = Literal["healthy", "cooling", "probing"]
"""Whether a target is asked, set aside for now, or tried with a single call."""


class TargetHealth(msgspec.Struct, frozen=True):
    """A snapshot: `failures` in a row, `reopens_in` seconds until a probe (0 = at once).

    `succeeded` and `failed` count genuine outcomes; `first_output` is the median latency and
    `first_output_p95` its 95th percentile in seconds, None while too little is known.
    """

    target: Target
    state: HealthState = "healthy"
    failures: int = 0
    reopens_in: float = 0.0
    succeeded: int = 0
    failed: int = 0
    first_output: float | None = None
    first_output_p95: float | None = None
    last_error: str = ""


class TargetLimits(msgspec.Struct, frozen=True):
    """A snapshot of what bounds a target; a scope is its host with its key, all models together.

    `declared` is what DSN or code say of the provider, `of_target` of this target alone. `learnt`
    has what its answers announced, `used` what is booked and has not flowed off, by kind
    (`requests`, `tokens`, `input_tokens`, `output_tokens`), a minute. `pace`: requests a minute
    found after a 429, None before one. `slots`: streams of the scope at a time, None for any
    number; `held` of them run. `waiting`: calls in line for this target. `blocked_for`: seconds
    for which a 429 keeps everything back.
    """

    target: Target
    declared: Limits = Limits()
    of_target: Limits = Limits()
    learnt: dict[str, float] = {}
    used: dict[str, float] = {}
    pace: float | None = None
    slots: int | None = None
    held: int = 0
    waiting: int = 0
    blocked_for: float = 0.0


class FleetStatus(msgspec.Struct, frozen=True):
    """A snapshot of the fleet that this process belongs to.

    `state`: "linked", or "away" for `reason` while it decides alone. `processes` of the namespace
    are alive. `latency`: seconds that the last reply took, None before one.
    """

    place: str
    namespace: str
    process: str
    state: Literal["linked", "away"] = "away"
    reason: str = ""
    processes: int = 0
    latency: float | None = None
