"""Refusals that do not depend on the pace: a service that answers 429 now and then, however slow.

Pure: it only counts.
"""

from __future__ import annotations

from typing import NamedTuple

UNEXPLAINED = 4
SENT = 12
SHARE = 0.45
"""Refusals are random if so many more of them than not are unexplained, and of so many requests or
more they are this share at most."""

TIMES = 2.0
FEW = 3.0
"""They depend on the pace after all if their share grows so many times, and by so many requests."""

MEMORY = 256
"""Requests after which older ones count half."""

FASTEST = 1e6
"""Requests a minute to which a pace is doubled at most."""


class Speed(NamedTuple):
    """Requests a minute, and the seconds of them that may go at once."""

    limit: float
    burst: float


class RandomRefusals:
    """Tells refusals at random from those of a service that counts, by what lowering a pace does.

    A service that counts takes again what it has taken, and refuses more only once the pace has
    grown. If it goes on refusing without that, lowering the pace is useless: it would fall until
    refusals are rare, to four requests a second where a twentieth is refused.
    """

    __slots__ = ("_kept", "_needed", "_refused", "_sent", "_share", "_unexplained")

    def __init__(self) -> None:
        self._needed = UNEXPLAINED
        self._unexplained = 0
        self._sent = self._refused = 0.0
        self._share: float | None = None
        """What is refused at random; None as long as nothing is known to be."""
        self._kept = Speed(0.0, 0.0)
        """The speed at the first unexplained refusal, and later what it had fallen to."""

    def speed(
        self, now: Speed, sent: float, refused: float, explained: float, taken: float
    ) -> Speed | None:
        """Return how fast to go on after refusals at a speed, None if they are not random.

        `sent` and `refused` are counted since that speed was set; that it has grown since has
        `explained` so many refusals. `taken`: the requests a minute that were not refused.
        """
        if self._share is None:
            return self._suspected(now, sent, refused, explained)
        self._sent += sent
        self._refused += refused
        most = min(TIMES * self._share, (1 + self._share) / 2)
        if self._refused > most * self._sent + FEW:
            self._share, self._unexplained = None, 0
            self._needed *= 2  # each time that it was wrong has cost refusals
            return Speed(max(self._kept.limit, taken), self._kept.burst)
        if self._sent > MEMORY:
            self._sent, self._refused = self._sent / 2, self._refused / 2
        return Speed(min(2 * now.limit, FASTEST), 2 * now.burst)

    def _suspected(self, now: Speed, sent: float, refused: float, explained: float) -> Speed | None:
        if not self._unexplained:
            self._kept, self._sent, self._refused = now, 0.0, 0.0
        events = min(1.0, refused)  # those after the first were under way by then
        if explained < events / 2:
            self._unexplained += 1
        elif self._unexplained:
            self._unexplained -= 1
        self._sent += sent
        self._refused += refused
        if self._unexplained < self._needed or self._sent < SENT:
            return None
        if self._refused > SHARE * self._sent:
            return None
        self._share, self._sent, self._refused = self._refused / self._sent, 0.0, 0.0
        first, self._kept = self._kept, now
        return first
