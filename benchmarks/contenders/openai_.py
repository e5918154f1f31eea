"""The openai SDK."""

from __future__ import annotations

from collections.abc import AsyncIterator

from openai import AsyncOpenAI


class Contender:
    def __init__(self, _wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._clients: dict[str, AsyncOpenAI] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        client = self._clients.get(path)
        if client is None:
            client = AsyncOpenAI(api_key="k", base_url=f"{self._root}/{path}", max_retries=0)
            self._clients[path] = client
        async with await client.chat.completions.create(
            model=self._model, messages=[{"role": "user", "content": prompt}], stream=True
        ) as chunks:
            async for chunk in chunks:
                if chunk.choices and (text := chunk.choices[0].delta.content):
                    yield text

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
