"""Local servers: see what is running, load a model beforehand, unload it after the work."""

from __future__ import annotations

import asyncio

from stand_ins import box

from aiollm import Registry

MODEL = "qwen3:14b"


async def main() -> None:
    # LLM_LS=llama-swap://gpu1:8080?max_concurrency=2 says where it is.
    async with Registry() as reg, box(reg, "ls", MODEL):
        swap = reg.llama_swap("ls")
        print("has", ", ".join(model.id for model in await swap.models()))
        print("runs", ", ".join(model.model for model in await swap.running()) or "nothing")
        loaded = await reg.load_models(f"ls/{MODEL}")  # may take minutes
        print("loaded", *loaded)
        try:
            questions = [f"What is {n} times {n}?" for n in (12, 13, 14)]
            answers = await asyncio.gather(*(reg.generate(f"ls/{MODEL}", q) for q in questions))
            for question, answer in zip(questions, answers, strict=True):
                print(question, answer.text)
        finally:
            await swap.unload(MODEL)


if __name__ == "__main__":
    asyncio.run(main())
