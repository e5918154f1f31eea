"""Local servers: see what is running, load a model beforehand, unload it after the work."""

from __future__ import annotations

import asyncio

from aiollm import Registry

MODEL = "qwen3:14b"


async def main() -> None:
    async with Registry() as reg:  # LLM_LS=llama-swap://gpu1:8080?max_concurrency=2
        box = reg.llama_swap("ls")
        print("has", ", ".join(model.id for model in await box.models()))
        print("runs", ", ".join(model.model for model in await box.running()) or "nothing")
        loaded = await reg.load_models(f"ls/{MODEL}")  # may take minutes
        print("loaded", *loaded)
        try:
            questions = [f"What is {n} times {n}?" for n in (12, 13, 14)]
            answers = await asyncio.gather(*(reg.generate(f"ls/{MODEL}", q) for q in questions))
            for question, answer in zip(questions, answers, strict=True):
                print(question, answer.text)
        finally:
            await box.unload(MODEL)


if __name__ == "__main__":
    asyncio.run(main())
