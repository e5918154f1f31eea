"""`aiollm image`: make images and save them, showing progress while waiting."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path

from aiollm.cli.terminal import OK, image_from, run, write
from aiollm.errors import ConfigError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.registry import Registry
from aiollm.types import Restart


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("prompt", help="what to draw")
    add("-m", "--model", metavar="SPEC", required=True, help="provider/model, or a chain")
    add("-o", "--output", metavar="FILE", default="image.png", help="default: image.png")
    add("-n", "--count", type=int, default=1, metavar="N", help="how many images (default: 1)")
    add("--size", metavar="WxH", help="pixels or a ratio, such as 1024x1024 or 16:9")
    add("--quality", metavar="WORD", help="low, medium, high")
    add("--seed", type=int, metavar="N", help="for a repeatable image, if the model supports it")
    add("-i", "--image", action="append", default=[], metavar="FILE", help="an image to edit")
    add("--mask", metavar="FILE", help="where to edit: its transparent parts")
    add("--drafts", type=int, default=0, metavar="N", help="save up to N drafts while it is made")


def image(options: argparse.Namespace) -> int:
    """Make the images; return the exit code."""
    request = ImageRequest(
        options.prompt,
        count=options.count,
        size=options.size,
        quality=options.quality,
        seed=options.seed,
        images=tuple(map(image_from, options.image)),
        mask=image_from(options.mask) if options.mask else None,
        partial_images=options.drafts,
    )
    output = Path(options.output)
    if not output.parent.is_dir():
        raise ConfigError(f"the folder {str(output.parent)!r} does not exist")

    async def work(registry: Registry) -> int:
        waiting = asyncio.create_task(_tick())
        try:
            async with registry.stream_images(options.model, request) as stream:
                async for item in stream:
                    if not isinstance(item, Restart):
                        await asyncio.to_thread(_save, item, output)
        finally:
            waiting.cancel()
            _clear()
        return OK

    return run(work)


def _save(item: PartialImage | ImageResult, output: Path) -> None:
    match item:
        case PartialImage(image=draft, index=index):
            draft.save(_numbered(output, f"draft{index + 1}"))
        case ImageResult(images=images):
            for number, made in enumerate(images):
                path = _numbered(output, str(number + 1)) if len(images) > 1 else output
                made.save(path)
                _clear()
                write(f"{path}\n")


def _numbered(output: Path, mark: str) -> Path:
    return output.with_name(f"{output.stem}-{mark}{output.suffix}")


async def _tick() -> None:
    began = time.monotonic()
    while sys.stderr.isatty():
        sys.stderr.write(f"\rmaking the image: {time.monotonic() - began:.0f} s")
        sys.stderr.flush()
        await asyncio.sleep(1)


def _clear() -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
