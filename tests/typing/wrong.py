"""What mypy and pyright must refuse: an ignore that nothing needs is an error; nothing is run."""

from __future__ import annotations

from aiollm import (
    ImagePart,
    ImageRequest,
    Message,
    Registry,
    Request,
    TextDelta,
    Timeouts,
    ToolResultPart,
    codecs,
    media,
    testing,
    user,
)


def names() -> None:
    """A misspelt name is noticed, also where a module loads its names when they are used."""
    codecs.Codecs  # type: ignore[attr-defined]  # noqa: B018
    media.Pool  # type: ignore[attr-defined]  # noqa: B018
    testing.FaultyServer  # type: ignore[attr-defined]  # noqa: B018


def requests() -> None:
    """Dicts and misspelled words are no requests."""
    Request([{"role": "user", "content": "hi"}])  # type: ignore[list-item]
    Request(["hi"])  # type: ignore[list-item]
    Request(5)  # type: ignore[arg-type]
    Request("hi", temperature="hot")  # type: ignore[arg-type]
    Request("hi", max_tokens=5)  # type: ignore[call-arg]
    Request("hi", reasoning="hard")  # type: ignore[arg-type]
    Request("hi", extra={"top_k": 5})  # type: ignore[dict-item]
    ImageRequest("a boat", extra={"steps": 20})  # type: ignore[dict-item]
    Request("hi", tools=[len])  # type: ignore[list-item]
    Request("hi").seed = 5  # type: ignore[misc]
    Message("robot", "hi")  # type: ignore[arg-type]
    ToolResultPart("1", {"celsius": 21})  # type: ignore[arg-type]
    ImageRequest("a boat", quality="best")  # type: ignore[arg-type]
    Timeouts(read=5)  # type: ignore[call-arg]
    user({"type": "text", "text": "hi"})  # type: ignore[arg-type]
    user(b"...")  # type: ignore[arg-type]
    ImagePart.from_path(b"...")  # type: ignore[arg-type]


async def calls(reg: Registry) -> None:
    """Options are those that exist, and answers have the type that was asked for."""
    reg.stream("a/x", {"messages": []})  # type: ignore[call-overload]
    reg.stream("a/x", "hi", timeout=5)  # type: ignore[call-overload]
    reg.stream("a/x", "hi", on_interrupt="retry")  # type: ignore[call-overload]
    reg.stream("a/x", "hi", temperature="hot")  # type: ignore[call-overload]
    reg.stream("a/x", "hi", max_tokens=5)  # type: ignore[call-overload]
    reg.stream("a/x", "hi", extra={"top_k": 5})  # type: ignore[dict-item]
    await reg.generate("a/x", "hi", max_tokens=5)  # type: ignore[call-overload]
    reg.run("a/x", "hi", tools=[], reasoning="hard")  # type: ignore[call-overload]
    await reg.generate("a/x", "hi", output=int).text  # type: ignore[attr-defined]
    await reg.generate("a/x", "hi", with_response=True)  # type: ignore[call-overload]
    reg.stream("a/x", "hi").partials()  # type: ignore[attr-defined]
    reg.run("a/x", "hi", tools=[]).value  # type: ignore[attr-defined]  # noqa: B018
    reg.run("a/x", "hi", tools=[], repairs=2)  # type: ignore[call-overload]
    await reg.generate_images("a/x", "a boat", timeout=5)  # type: ignore[call-arg]
    await reg.generate_images("a/x", "a boat", retries="2")  # type: ignore[arg-type]
    async for chunk in reg.stream("a/x", "hi"):
        chunk.usage  # type: ignore[union-attr]  # noqa: B018
        match chunk:
            case TextDelta(reasoning=_):  # type: ignore[misc]
                pass
            case _:
                pass
