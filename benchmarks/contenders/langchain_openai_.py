"""langchain-openai."""

from __future__ import annotations

from collections.abc import AsyncIterator

from langchain_openai import ChatOpenAI


class Contender:
    def __init__(self, _wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._models: dict[str, ChatOpenAI] = {}

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        model = self._models.get(path)
        if model is None:
            model = self._models[path] = ChatOpenAI(
                model=self._model, base_url=f"{self._root}/{path}", api_key="k", max_retries=0
            )
        async for chunk in model.astream(prompt):
            if text := chunk.content:
                yield text

    async def close(self) -> None:
        """It offers no way to close."""
