"""An agent that reads for hundreds of turns: its history is summarized before it is too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from aiollm import Compacted, Message, Registry, Summarize, tool, user

SPEC = "m5/qwen3:30b"


@tool
def pages() -> list[str]:
    """List the pages of the book."""
    return sorted(path.name for path in Path("book").glob("*.txt"))


@tool
def read(page: str) -> str:
    """Read one page."""
    return (Path("book") / Path(page).name).read_text()


async def main() -> None:
    async with Registry() as reg:

        async def summary(messages: Sequence[Message]) -> str:
            asked = [*messages, user("Summarize what you have read and noticed so far.")]
            answer = await reg.generate(SPEC, asked, tools=[pages, read], tool_choice="none")
            return answer.text

        run = reg.run(
            SPEC,
            "Read the whole book, page by page. Who did it?",
            tools=[pages, read],
            compact=Summarize(6000, by=summary),
            max_turns=500,
        )
        async for event in run:
            match event:
                case Compacted(before=before, after=after):
                    print(f"[{len(before)} messages became {len(after)}]")
                case _:
                    print(event.text, end="", flush=True)
    print(f"\n{run.turns} turns, {len(run.messages)} messages at the end")


if __name__ == "__main__":
    asyncio.run(main())
