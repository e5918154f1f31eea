"""Ask about images: `python 06_images_in.py photo.jpg`. They are fitted to each target.

What does not fit is resized with Pillow: `pip install 'aiollm-client[images]'`.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from stand_ins import stand_in

from aiollm import ImagePart, Registry, Request, user

SPEC = "ls/qwen3-vl:8b,anthropic/claude-sonnet-5-5"


async def main(paths: list[str]) -> None:
    read = [await asyncio.to_thread(ImagePart.from_path, path) for path in paths]
    names = ", ".join(Path(path).name for path in paths)
    request = Request(user(f"What do {names} show?", *read))
    async with Registry() as reg:
        stand_in(reg, ls=["A boat with two sails."], anthropic=["A boat."])
        response = await reg.generate(SPEC, request)
    print(response.text)
    for warning in response.warnings:  # such as an image that had to be left out
        print(f"warning: {warning}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or [str(Path(__file__).with_name("boat.png"))]))
