"""aiollm with a race of two targets that start at once."""

from __future__ import annotations

import aiollm_


class Contender(aiollm_.Contender):
    stagger = 0.0

    def spec(self) -> str:
        return f"a/{self._model}|b/{self._model}"
