"""Make an image, show its drafts, and save it in the current folder."""

from __future__ import annotations

import asyncio
import sys

from stand_ins import stand_in

from aiollm import ImageRequest, ImageResult, PartialImage, Registry

SPEC = "ls/sdxl,openai/gpt-image-2"


async def main(path: str) -> None:
    request = ImageRequest("a paper boat on a pond", size=(1024, 1024), partial_images=2)
    async with Registry() as reg:
        stand_in(reg, ls=[], openai=[])
        async with reg.stream_images(SPEC, request) as stream:
            async for made in stream:
                match made:
                    case PartialImage(index=index):
                        print(f"draft {index}")
                    case ImageResult(images=images, target=target):
                        await asyncio.to_thread(images[0].save, path)
                        print(f"{path} by {target}")
                    case _:  # Restart: another target starts over
                        pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else "paper-boat.png"))
