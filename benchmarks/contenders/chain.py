"""aiollm with a chain of three targets, the first of them healthy."""

from __future__ import annotations

import aiollm_


class Contender(aiollm_.Contender):
    def spec(self, a: str, b: str, c: str) -> str:
        return f"{a}/{self._model},{b}/{self._model},{c}/{self._model}"
