"""Runs in the peers' Python: embeds two texts by one official SDK; its vectors go to stdout.

Usage: embed_worker.py openai|google|ollama URL.
"""

from __future__ import annotations

import json
import sys

TEXTS = ["x", "y"]


def by_openai(url: str) -> list[list[float]]:
    from openai import OpenAI

    client = OpenAI(api_key="test-key", base_url=f"{url}/v1", max_retries=0)
    found = client.embeddings.create(model="m", input=TEXTS, dimensions=2)
    return [each.embedding for each in found.data]


def by_google(url: str) -> list[list[float]]:
    from google.genai import Client

    client = Client(api_key="test-key", http_options={"base_url": url})
    found = client.models.embed_content(
        model="gemini-embedding-001",
        contents=TEXTS,
        config={"output_dimensionality": 2, "task_type": "RETRIEVAL_QUERY"},
    )
    return [each.values for each in found.embeddings]


def by_ollama(url: str) -> list[list[float]]:
    from ollama import Client

    found = Client(url).embed("m", TEXTS, truncate=False, dimensions=2)
    return [[*each] for each in found.embeddings]


if __name__ == "__main__":
    ask = {"openai": by_openai, "google": by_google, "ollama": by_ollama}[sys.argv[1]]
    json.dump(ask(sys.argv[2]), sys.stdout)
