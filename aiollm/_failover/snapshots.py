"""What users see of a target: snapshots of its health and its limits."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from aiollm.dsn import Limits
from aiollm.types import Target

HealthState: TypeAlias = Literal["healthy", "cooling", "probing"]
"""Whether a target is asked, set aside for now, or tried with a single call."""


class TargetHealth(msgspec.Struct, frozen=True):
    """A snapshot of a target's health: `failures` in a row, `reopens_in` seconds until a probe.

    Once its cooldown is over (`reopens_in` is 0) it stays `cooling` until a call has probed it.
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
    """A snapshot of a target's limits; those of one host and key are shared by all its models.

    `declared`: the provider's limits, from its DSN or code; `of_target`: those of this target
    alone. By kind (`requests`, `tokens`, `input_tokens`, `output_tokens`), `learnt` has the limits
    a minute that answers announced, and `used` what is booked under all limits. `pace`: requests a
    minute since a 429, None before one. `slots`: streams at a time with this host and key, None for
    any number; `held`: how many run or, without a number, wait for their first output. `waiting`:
    calls in line for this target. `blocked_for`: seconds for which a 429 still holds them back.
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

    `state`: "linked", or "away" while this process decides alone; `reason` says why. `processes`:
    how many of the namespace are alive. `latency`: seconds that the last reply took, None before
    the first.
    """

    place: str
    namespace: str
    process: str
    state: Literal["linked", "away"] = "away"
    reason: str = ""
    processes: int = 0
    latency: float | None = None
