"""The anthropic SDK, `messages.create(stream=True)`: the cheaper of its two ways."""

from __future__ import annotations

from collections.abc import AsyncIterator

from anthropic import AsyncAnthropic


class Contender:
    def __init__(self, _wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._clients: dict[str, AsyncAnthropic] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        client = self._clients.get(path)
        if client is None:
            client = AsyncAnthropic(api_key="k", base_url=f"{self._root}/{path}", max_retries=0)
            self._clients[path] = client
        async with await client.messages.create(
            model=self._model,
            max_tokens=4096,
            messages=[{"role": "user", "content": prompt}],
            stream=True,
        ) as events:
            async for event in events:
                if event.type == "content_block_delta" and event.delta.type == "text_delta":
                    yield event.delta.text

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
