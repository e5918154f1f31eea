"""google-genai."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google import genai
from google.genai import types


class Contender:
    def __init__(self, _wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._clients: dict[str, genai.Client] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        client = self._clients.get(path)
        if client is None:
            options = types.HttpOptions(base_url=f"{self._root}/{path}")
            client = self._clients[path] = genai.Client(api_key="k", http_options=options)
        async for chunk in await client.aio.models.generate_content_stream(
            model=self._model, contents=prompt
        ):
            if text := chunk.text:
                yield text

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aio.aclose()
