"""`aiollm image`: make images and save them, showing progress while waiting."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from contextlib import suppress
from pathlib import Path

from aiollm.cli.codes import OK
from aiollm.cli.safe_text import one_line
from aiollm.cli.session import add_images, image_from, run
from aiollm.cli.terminal import clear_progress, complain, is_animated, show_progress, write
from aiollm.errors import ConfigError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.registry import Registry
from aiollm.types import ImagePart, Restart

MOST_CHECKED = 1000
"""Of more names, only the first are checked before the request is sent."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("prompt", help="what to draw")
    add("-m", "--model", metavar="SPEC", required=True, help="provider/model, or a chain")
    add("-o", "--into", metavar="FILE", default="image.png", help="default: image.png")
    add("-n", "--count", type=int, default=1, metavar="N", help="how many images (default: 1)")
    add("--size", metavar="WxH", help="pixels or a ratio, such as 1024x1024 or 16:9")
    add("--quality", metavar="WORD", help="low, medium, high")
    add("--seed", type=int, metavar="N", help="for a repeatable image, if the model supports it")
    add_images(parser, "an image to edit")
    add("--mask", metavar="FILE", help="where to edit: its transparent parts")
    add("--drafts", type=int, default=0, metavar="N", help="save up to N drafts on the way")
    add("-f", "--force", action="store_true", help="replace files that exist")


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
    files = Files(Path(options.into), request, replace=options.force)

    async def work(registry: Registry) -> int:
        waiting = asyncio.create_task(_tick())
        try:
            async with registry.stream_images(options.model, request) as stream:
                async for item in stream:
                    if not isinstance(item, Restart):
                        await asyncio.to_thread(files.keep, item)
        finally:
            waiting.cancel()
            clear_progress()
        for warning in stream.result.warnings:
            complain(warning)
        write("".join(f"{one_line(place)}\n" for place in files.made))
        return OK

    return run(work)


class Files:
    """Where drafts and images are saved. Raises: ConfigError before anything is paid for."""

    def __init__(self, into: Path, request: ImageRequest, *, replace: bool) -> None:
        if not into.parent.is_dir():
            raise ConfigError(f"the folder {str(into.parent)!r} does not exist")
        if into.is_dir():
            raise ConfigError(f"{str(into)!r} is a folder: -o names a file")
        self._into = into
        self._count = request.count
        self._replace = replace
        self.made: list[Path | str] = []
        drafts = (self._draft(number) for number in range(request.partial_images))
        images = (self._image(number) for number in range(min(request.count, MOST_CHECKED)))
        for path in () if replace else (*images, *drafts):
            if path.exists():
                raise ConfigError(f"{str(path)!r} exists: give another file with -o, or --force")

    def keep(self, item: PartialImage | ImageResult) -> None:
        """Save a draft or the images, and note where these are."""
        match item:
            case PartialImage(image=draft, index=index):
                self._save(draft, self._draft(index))
            case ImageResult(images=images):
                for number, made in enumerate(images):
                    # A few servers answer with an address, which may need a key: the user's turn.
                    self.made.append(made.url or self._save(made, self._image(number)))

    def _draft(self, number: int) -> Path:
        return self._into.with_stem(f"{self._into.stem}-draft{number + 1}")

    def _image(self, number: int) -> Path:
        if self._count == 1:
            return self._into
        return self._into.with_stem(f"{self._into.stem}-{number + 1}")

    def _save(self, image: ImagePart, path: Path) -> Path:
        if not image.data:
            return path
        if self._replace:
            image.save(path)
            return path
        path = _reserved(path)
        try:
            image.save(path)
        except OSError:
            with suppress(OSError):  # else the next try would find a file that nobody wants
                path.unlink()
            raise
        return path


def _reserved(path: Path) -> Path:
    """Create the file; under another name if it has come to exist since the images were asked for.

    They are paid for, so failing now would be worse than a name that nobody chose.
    """
    free, number = path, 1
    while True:
        with suppress(FileExistsError):
            free.touch(exist_ok=False)
            return free
        number += 1
        free = path.with_stem(f"{path.stem}_{number}")


async def _tick() -> None:
    began = time.monotonic()
    while is_animated(sys.stderr):
        show_progress(f"making the image: {time.monotonic() - began:.0f} s")
        await asyncio.sleep(1)
