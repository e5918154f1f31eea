"""The ollama package."""

from __future__ import annotations

from collections.abc import AsyncIterator

from ollama import AsyncClient


class Contender:
    def __init__(self, _wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._clients: dict[str, AsyncClient] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        client = self._clients.get(path)
        if client is None:
            client = self._clients[path] = AsyncClient(host=f"{self._root}/{path}")
        messages = [{"role": "user", "content": prompt}]
        async for line in await client.chat(model=self._model, messages=messages, stream=True):
            if text := line.message.content:
                yield text

    async def close(self) -> None:
        for client in self._clients.values():
            await client._client.aclose()
