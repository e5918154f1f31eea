"""A circuit breaker: what is known of one target, or of one host, and whether it may be asked."""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import msgspec

from aiollm.errors import ConnectError, DeadlineError

LATENCIES = 64
"""First-output latencies remembered per target."""


STRAYS = 4
"""Failures in short order that a busy target may have without being set aside."""

ANSWERS_A_STRAY = 4
"""Answers that make up for one of them: a target that fails more often is not well."""

LENIENCY = 4
"""Times as many that a target may have whose first probe is answered each time it is set aside.

It fails at random, and each time that it is set aside costs a crowd some seconds.
"""

LATELY = 1.0
"""Seconds since the last first output within which a target counts as one that answers."""


def hang_of(error: BaseException, seconds: float, *, answered: bool) -> float:
    """Return for how long an attempt had waited in vain when it failed.

    `seconds`: since it began, or since its target answered another one. Whoever got output waited
    for no more than a deadline says. What goes beyond a deadline that counts from the start is the
    time that this process stood still, of which the target knows nothing.
    """
    if isinstance(error, DeadlineError) and (
        answered or error.which in {"connect", "first_output"}
    ):
        return min(seconds, error.after or seconds)
    return 0.0 if answered else seconds


def is_connection_failure(error: BaseException) -> bool:
    return isinstance(error, ConnectError) or (
        isinstance(error, DeadlineError) and error.which == "connect"
    )


class SharedOpening:
    """What a breaker that is open for a whole fleet knows of it.

    `generation` counts the fleet's openings. Only the process that holds the claim probes; another
    one's ends at `claim_ends`, on this process's clock, 0 where none holds it.
    """

    __slots__ = ("claim_ends", "generation", "is_claimed")

    def __init__(self, generation: int) -> None:
        self.generation: int = generation
        self.is_claimed: bool = False
        self.claim_ends: float = 0.0


class SharedState(msgspec.Struct, frozen=True):
    """The state of one breaker in a fleet; times are seconds from now.

    `openings` in a row, 0 where it is closed. `reopens`, `probes` and `not_before`: when it is
    half open for any call, for one that waits, and before when for none. `holder`: the process
    that probes, "" for none, for `claim` seconds. `error`: the class and `status` of the failure.
    """

    generation: int = 0
    openings: int = 0
    reopens: float = 0.0
    probes: float = 0.0
    not_before: float = 0.0
    claim: float = 0.0
    holder: str = ""
    error: str = ""
    status: int = 0


class Breaker:
    """The failures in a row of a target or host; open where there were any that count."""

    __slots__ = (
        "_answers",
        "_leniency",
        "_strays",
        "answered_from",
        "error",
        "failed",
        "failures",
        "generation",
        "last_error",
        "latencies",
        "not_before",
        "openings",
        "probe",
        "probe_at",
        "shared",
        "stated_at",
        "succeeded",
        "until",
    )

    def __init__(self) -> None:
        self.failures: int = 0
        self.openings: int = 0
        self.until: float = 0.0
        """When it is half-open for any call."""
        self.probe_at: float = 0.0
        """When it is half-open for a call that waits for it."""
        self.not_before: float = 0.0
        """The time before which nobody probes, by the server's word or the length of a hang."""
        self.stated_at: float = -math.inf
        """When the server stated the time in `not_before`."""
        self.error: Exception | None = None
        self.probe: Any = None
        self.succeeded: int = 0
        self.failed: int = 0
        self.last_error: str = ""
        self.latencies: deque[float] = deque(maxlen=LATENCIES)
        self.generation: int = 0
        self.shared: SharedOpening | None = None
        self.answered_from: float = 0.0
        """When the attempt began that gave the last first output."""
        self._strays: float = STRAYS
        """Failures that no answers have made up for: all, as a new target has to answer first."""
        self._answers: int = 0
        self._leniency: int = 1

    def is_stray(self, now: float, *, is_telling: bool) -> bool:
        """Note a failure; return whether it is one of few among many answers.

        Such a failure opens nothing: else a busy target would be set aside for a second each time,
        although it answers all other calls. `is_telling`: it says more than that one request
        failed, so it is none unless the target is known to fail at random.
        """
        made_up = (self.succeeded - self._answers) / ANSWERS_A_STRAY
        self._answers = self.succeeded
        self._strays = max(0.0, self._strays - made_up) + 1 / self._leniency
        if self.openings or now - self.answered_at > LATELY or (is_telling and self._leniency == 1):
            return False
        return self._strays <= STRAYS

    @property
    def answered_at(self) -> float:
        """When the last first output came, 0 where none did."""
        return self.answered_from + (self.latencies[-1] if self.latencies else 0.0)

    def first_output(self, share: float) -> float:
        """Return the latency that this share of the first outputs did not exceed."""
        ordered = sorted(self.latencies)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    @property
    def is_open(self) -> bool:
        """Whether calls are kept away."""
        return self.openings > 0

    @property
    def is_unclaimed(self) -> bool:
        """Whether it is open for a whole fleet, and this process may not probe."""
        return self.openings > 0 and self.shared is not None and not self.shared.is_claimed

    @property
    def claim_ends(self) -> float:
        """When the probe of another process counts as lost; 0 where none probes."""
        return 0.0 if self.shared is None else self.shared.claim_ends

    def half_open_at(self, *, waiting: bool) -> float:
        """Return when one call may probe; a call that waits for the target may do so earlier."""
        if waiting:
            return max(self.not_before, self.probe_at)
        return self.until

    def rest(self, now: float, stated: float) -> None:
        """Keep away for the seconds that the server states."""
        if now + stated > self.not_before:
            self.stated_at = now
            self.not_before = now + stated
        self.until = max(self.until, self.not_before)

    def rests(self, since: float, now: float) -> bool:
        """Return whether it rests for a time that the server stated after the time `since`.

        An answer to an attempt that began before that does not end the rest.
        """
        return since <= self.stated_at and now < self.not_before

    def close(self) -> None:
        """Forget the failures."""
        if self.openings:
            is_first_probe = self.openings == 1
            self._leniency = min(LENIENCY, 2 * self._leniency) if is_first_probe else 1
            self._strays, self._answers = STRAYS, self.succeeded
        self.failures = 0
        self.openings = 0
        self.until = 0.0
        self.probe_at = 0.0
        self.not_before = 0.0
        self.last_error = ""
        self.error = None
        self.shared = None

    def hear(self, state: SharedState, error: Exception, now: float, *, is_mine: bool) -> None:
        """Take the state that it has in a fleet; `error` is remembered where there is none yet.

        `is_mine`: it is this process that may probe. What is open here alone stays so.
        """
        if not state.openings:
            if self.shared is not None:
                self.close()
            return
        shared = self.shared
        if shared is None or shared.generation != state.generation:
            self.generation += 1  # what is under way began before this opening
            self.shared = shared = SharedOpening(state.generation)
        self.openings = state.openings
        self.failures = max(1, self.failures)
        self.until = now + state.reopens
        self.probe_at = now + state.probes
        self.not_before = min(self.not_before, now + state.not_before)
        self.rest(now, state.not_before)
        if self.error is None:
            self.error = error
            self.last_error = type(error).__name__
        shared.is_claimed = is_mine
        shared.claim_ends = now + state.claim if state.holder and not is_mine else 0.0
