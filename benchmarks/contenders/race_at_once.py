"""aiollm with a race of two targets that start at once: the loser costs its connection."""

from __future__ import annotations

import race


class Contender(race.Contender):
    stagger = 0.0
