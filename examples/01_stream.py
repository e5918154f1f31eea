"""Stream an answer from one target. LLM_M5=ollama+http://m5.local:11434 says where it is."""

from __future__ import annotations

import asyncio
import sys

from stand_ins import stand_in

from aiollm import Finish, ReasoningDelta, Registry, Request, TextDelta, user


async def main() -> None:
    question = user("Why is the sky blue?")
    request = Request(question, system="Answer briefly.", max_output_tokens=400)
    async with Registry() as reg:
        stand_in(reg, m5=[["Blue light ", "is scattered most."]])
        async with reg.stream("m5/qwen3:30b", request) as stream:
            async for chunk in stream:
                match chunk:
                    case ReasoningDelta(reasoning=thought):
                        print(thought, end="", file=sys.stderr, flush=True)
                    case TextDelta(text=text):
                        print(text, end="", flush=True)
                    case Finish(reason=reason, usage=usage):
                        print(f"\n{reason}, {usage.output_tokens} tokens")
                    case _:  # tool calls, images, citations
                        pass
        print(f"{stream.response.target} in {stream.response.timings.total:.2f} s")


if __name__ == "__main__":
    asyncio.run(main())
