"""aiollm with a race of two targets; the second waits for its stagger, as it does by default."""

from __future__ import annotations

import aiollm_


class Contender(aiollm_.Contender):
    def spec(self, a: str, b: str, _c: str) -> str:
        return f"{a}/{self._model}|{b}/{self._model}"
