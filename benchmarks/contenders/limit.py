"""The limit: the least that can be done with aiohttp and still be a stream of typed text.

aiohttp's `iter_any`, a split, msgspec into minimal structs, one generator.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import aiohttp
import msgspec


class OpenAIDelta(msgspec.Struct):
    content: str | None = None


class OpenAIChoice(msgspec.Struct):
    delta: OpenAIDelta


class OpenAIChunk(msgspec.Struct):
    choices: list[OpenAIChoice]


class AnthropicDelta(msgspec.Struct):
    text: str = ""


class AnthropicEvent(msgspec.Struct):
    type: str
    delta: AnthropicDelta | None = None


class GooglePart(msgspec.Struct):
    text: str = ""


class GoogleContent(msgspec.Struct):
    parts: list[GooglePart] = []


class GoogleCandidate(msgspec.Struct):
    content: GoogleContent | None = None


class GoogleChunk(msgspec.Struct):
    candidates: list[GoogleCandidate]


class OllamaMessage(msgspec.Struct):
    content: str = ""


class OllamaLine(msgspec.Struct):
    message: OllamaMessage


def _texts(wire: str) -> Callable[[bytes], str | None]:
    """Return the cheapest frame-to-text function of a wire, None for what is no JSON."""
    match wire:
        case "openai":
            openai = msgspec.json.Decoder(OpenAIChunk).decode

            def text(event: bytes) -> str | None:
                if event[6:12] == b"[DONE]":
                    return None
                choices = openai(event[6:]).choices
                return choices[0].delta.content if choices else None
        case "anthropic":
            anthropic = msgspec.json.Decoder(AnthropicEvent).decode

            def text(event: bytes) -> str | None:
                found = anthropic(event[event.index(b"data: ") + 6 :])
                return found.delta.text if found.delta is not None else None
        case "google":
            google = msgspec.json.Decoder(GoogleChunk).decode

            def text(event: bytes) -> str | None:
                content = google(event[6:]).candidates[0].content
                return content.parts[0].text if content is not None else None
        case _:
            ollama = msgspec.json.Decoder(OllamaLine).decode

            def text(event: bytes) -> str | None:
                return ollama(event).message.content

    return text


class Contender:
    def __init__(self, wire: str, root: str, model: str) -> None:
        self._root = root
        self._model = model
        self._text = _texts(wire)
        self._separator = {"google": b"\r\n\r\n", "ollama": b"\n"}.get(wire, b"\n\n")
        self._session: aiohttp.ClientSession | None = None

    async def texts(self, path: str, prompt: str = "hi") -> AsyncIterator[str]:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=None),
                connector=aiohttp.TCPConnector(limit=0),
            )
        messages = [{"role": "user", "content": prompt}]
        body = msgspec.json.encode({"model": self._model, "messages": messages, "stream": True})
        headers = {"Content-Type": "application/json", "Authorization": "Bearer k"}
        url = f"{self._root}/{path}/x"
        text, separator = self._text, self._separator
        async with self._session.post(url, data=body, headers=headers) as response:
            rest = b""
            async for data in response.content.iter_any():
                *events, rest = (rest + data).split(separator)
                for event in events:
                    found = text(event)
                    if found:
                        yield found

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
