"""litellm."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network
os.environ["REPEATED_STREAMING_CHUNK_LIMIT"] = "1000000"  # the same word comes 2,000 times

import litellm

PREFIXES = {
    "openai": "openai",
    "anthropic": "anthropic",
    "google": "gemini",
    "ollama": "ollama_chat",
}


class Contender:
    def __init__(self, wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = f"{PREFIXES[wire]}/{model}"

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        chunks = await litellm.acompletion(
            model=self._model,
            messages=[{"role": "user", "content": prompt}],
            api_base=f"{self._root}/{path}",
            api_key="k",
            stream=True,
            num_retries=0,
        )
        async for chunk in chunks:
            if text := chunk.choices[0].delta.content:
                yield text

    async def close(self) -> None:
        """Nothing is owned here: its connections are global."""
