"""`aiollm chat`: talk turn by turn; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import argparse
import asyncio
import sys
from importlib.util import find_spec

from aiollm._streams.stream import Stream
from aiollm.cli.terminal import (
    INTERRUPTED,
    OK,
    complain,
    describe,
    image_from,
    show,
    spec_of,
    write,
)
from aiollm.errors import ConfigError, LLMError
from aiollm.registry import Registry
from aiollm.types import (
    ImagePart,
    Message,
    Request,
    Restart,
    TextPart,
    ToolCallPart,
    assistant,
    user,
)

_HELP = """/image FILE  show the model an image with your next message
/new         start a new conversation
/model SPEC  continue with another model
/exit        leave, like Ctrl-D
Ctrl-C stops the answer."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("-m", "--model", metavar="SPEC", help="provider/model, an alias, a chain 'a/x,b/y'")
    add("-s", "--system", default="", metavar="TEXT", help="the system prompt")
    add(
        "-i",
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help="an image for the first message",
    )


def chat(options: argparse.Namespace) -> int:
    """Talk until the end of input; return the exit code."""
    images = [image_from(path) for path in options.image]
    with asyncio.Runner() as runner:
        registry = Registry()
        try:
            spec = runner.run(spec_of(options.model, registry))
            registry.parse(spec)
            talk = _Talk(runner, registry, spec, options.system, images)
            return talk.run()
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            runner.run(registry.aclose())


class _Talk:
    """The conversation so far, and the images for the next message."""

    def __init__(
        self,
        runner: asyncio.Runner,
        registry: Registry,
        spec: str,
        system: str,
        images: list[ImagePart],
    ) -> None:
        self._runner = runner
        self._registry = registry
        self._spec = spec
        self._system = system
        self._images = images
        self._messages: list[Message] = []

    def run(self) -> int:
        """Read and answer until the end of input; return the exit code."""
        if sys.stdin.isatty():
            complain(f"talking with {self._spec}; /help lists the commands")
        while True:
            try:
                line = input("> " if sys.stdin.isatty() else "").strip()
            except EOFError:
                write("\n" if sys.stdin.isatty() else "")
                return OK
            except KeyboardInterrupt:
                write("\n")
                continue
            if line == "/exit":
                return OK
            if line.startswith("/"):
                self._command(*line.split(None, 1))
            elif line:
                self._turn(line)

    def _command(self, name: str, value: str = "") -> None:
        try:
            match name:
                case "/image" if value:
                    self._images.append(image_from(value))
                case "/new":
                    self._messages.clear()
                case "/model" if value:
                    self._registry.parse(value)
                    self._spec = value
                case _:
                    complain(_HELP)
        except ConfigError as error:
            complain(str(error))

    def _turn(self, line: str) -> None:
        asked = user(*self._images, TextPart(line))
        request = Request((*self._messages, asked), system=self._system)
        stream: Stream | None = None
        try:
            stream = self._registry.stream(self._spec, request)
            self._runner.run(_shown(stream))
        except KeyboardInterrupt:
            write("\n")
            complain("stopped")
        except LLMError as error:
            complain(describe(error))
        said = _kept(stream.partial.message) if stream is not None else assistant()
        if said.text or any(not isinstance(part, TextPart) for part in said.parts):
            # Keep what was said before a stop, but forget a turn that had no answer at all.
            self._messages += [asked, said]
            self._images = []


def _kept(said: Message) -> Message:
    """Leave out tool calls: a chat has no tools, and a call without a result is refused."""
    return assistant(*(part for part in said.parts if not isinstance(part, ToolCallPart)))


async def _shown(stream: Stream) -> None:
    async with stream:
        if _draws():
            await _show_markdown(stream)
        else:
            await show(stream)


def _draws() -> bool:
    """Return whether standard output can redraw what it shows."""
    if not sys.stdout.isatty() or find_spec("rich") is None:
        return False
    from rich.console import Console

    return not Console().is_dumb_terminal


async def _show_markdown(stream: Stream) -> None:
    from rich.live import Live
    from rich.markdown import Markdown

    with Live(Markdown(""), vertical_overflow="visible", refresh_per_second=12) as live:
        text = ""
        async for chunk in stream:
            text = "" if isinstance(chunk, Restart) else text + chunk.text
            live.update(Markdown(text))
