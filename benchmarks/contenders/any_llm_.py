"""any-llm."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from any_llm import AnyLLM


class Contender:
    def __init__(self, wire: str, root: str, model: str) -> None:
        self._wire = {"google": "gemini"}.get(wire, wire)
        self._root = root
        self._model = model
        self._clients: dict[str, Any] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        client = self._clients.get(path)
        if client is None:
            client = AnyLLM.create(self._wire, api_key="k", api_base=f"{self._root}/{path}")
            self._clients[path] = client
        async for chunk in await client.acompletion(
            model=self._model, messages=[{"role": "user", "content": prompt}], stream=True
        ):
            if chunk.choices and (text := chunk.choices[0].delta.content):
                yield text

    async def close(self) -> None:
        """It offers no way to close."""
