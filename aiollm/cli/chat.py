"""`aiollm chat`: talk turn by turn; Ctrl-C stops the answer, not the program."""

from __future__ import annotations

import argparse
import asyncio
import os
import select
import signal
import socket
import sys

import msgspec

from aiollm._agent.run import AgentRun
from aiollm._streams.stream import Stream
from aiollm.cli import tools
from aiollm.cli.codes import FAILED, INTERRUPTED, OK
from aiollm.cli.session import (
    add_images,
    add_sampling,
    ended_by_sigterm,
    image_from,
    sampling_of,
    spec_of,
)
from aiollm.cli.terminal import complain, describe, note, prompt, show
from aiollm.errors import LLMError
from aiollm.registry import Registry
from aiollm.types import (
    AnyTool,
    ImagePart,
    Message,
    Request,
    TextPart,
    ToolCallPart,
    assistant,
    user,
)

_HELP = """  /image FILE  show the model an image with your next message
  /new         start a new conversation
  /model SPEC  continue with another model
  /help        show this
  /exit        leave, like Ctrl-D
Ctrl-C stops the answer."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("-m", "--model", metavar="SPEC", help="provider/model, an alias, a chain 'a/x,b/y'")
    add("-s", "--system", default="", metavar="TEXT", help="the system prompt")
    add_sampling(parser, "each answer")
    add_images(parser, "an image for the first message")
    tools.configure(parser)


def chat(options: argparse.Namespace) -> int:
    """Talk until the end of input; return the exit code."""
    images = [image_from(path) for path in options.image]
    first = Request((user(""),), system=options.system, **sampling_of(options))
    with asyncio.Runner() as runner:
        registry = Registry()
        try:
            spec = runner.run(spec_of(options.model, registry))
            registry.parse(spec)
            given = runner.run(tools.open_tools(options, registry))
            talk = _Talk(runner, registry, spec, first, images, given)
            return talk.run()
        except KeyboardInterrupt:
            return INTERRUPTED
        finally:
            runner.run(registry.aclose())


class _Talk:
    """The conversation so far, the images for the next message, and all else of each request."""

    def __init__(
        self,
        runner: asyncio.Runner,
        registry: Registry,
        spec: str,
        first: Request,
        images: list[ImagePart],
        given: list[AnyTool],
    ) -> None:
        self._runner = runner
        self._registry = registry
        self._spec = spec
        self._first = first
        self._images = images
        self._tools = given
        self._messages: list[Message] = []
        self._session = os.urandom(8).hex()
        self._is_typed = sys.stdin.isatty()
        self._failed = False

    def run(self) -> int:
        """Read and answer until the end of input; return the exit code.

        Whoever types has seen what failed; a script learns it from the code.
        """
        if self._is_typed:
            complain(f"talking with {self._spec}; /help lists the commands")
        while True:
            try:
                line = self._read()
                if line is None or line == "/exit":
                    return FAILED if self._failed and not self._is_typed else OK
                if line.startswith("/"):
                    self._command(*line.split(None, 1))
                elif line:
                    self._turn(line)
            except KeyboardInterrupt:
                note("")  # ends the line where the terminal shows ^C

    def _read(self) -> str | None:
        """Return the next line, None at the end of input."""
        if self._is_typed:
            prompt("> ")
        try:
            if self._is_typed and os.name == "posix":
                _wait_for_line()
            return input().strip()
        except EOFError:
            if self._is_typed:
                note("")
            return None

    def _command(self, name: str, value: str = "") -> None:
        try:
            match name:
                case "/image" if value:
                    self._images.append(image_from(value))
                case "/model" if value:
                    self._registry.parse(self._runner.run(spec_of(value, self._registry)))
                    self._spec = value
                case "/image" | "/model":
                    complain(f"{name} needs a {'FILE' if name == '/image' else 'SPEC'}")
                case "/new":
                    self._messages.clear()
                    self._session = os.urandom(8).hex()
                case "/help":
                    note(_HELP)
                case _:
                    complain(f"unknown command {name}; these are known:")
                    note(_HELP)
        except LLMError as error:  # the local model may not start
            complain(str(error))

    def _turn(self, line: str) -> None:
        asked = user(*self._images, TextPart(line))
        request = msgspec.structs.replace(self._first, messages=(*self._messages, asked))
        if self._tools:
            self._agent(request)
            return
        stream: Stream | None = None
        try:
            stream = self._registry.stream(self._spec, request, session=self._session)
            self._runner.run(_shown(stream))
        except KeyboardInterrupt:
            complain("stopped")
        except LLMError as error:
            self._failed = True
            complain(describe(error))
        said = _kept(stream.partial.message) if stream is not None else assistant()
        if said.text or any(not isinstance(part, TextPart) for part in said.parts):
            # Keep what was said before a stop, but forget a turn that had no answer at all.
            self._messages += [asked, said]
            self._images = []

    def _agent(self, request: Request) -> None:
        """Answer with tools; the history keeps their calls, each with its result."""
        run = None
        try:
            run = self._registry.run(self._spec, request, tools=self._tools, session=self._session)
            self._runner.run(_shown(run))
        except KeyboardInterrupt:
            complain("stopped")
        except LLMError as error:
            self._failed = True
            complain(describe(error))
        if run is not None and len(run.messages) > len(request.messages):
            self._messages = list(run.messages)
            self._images = []


def _wait_for_line() -> None:
    """Wait until a line is typed. Raises: KeyboardInterrupt.

    A Ctrl-C between the prompt and the read of `input` would be held back until the next line.
    """
    woken, wakes = socket.socketpair()
    with woken, wakes:
        wakes.setblocking(False)
        before = signal.set_wakeup_fd(wakes.fileno())
        try:
            select.select([sys.stdin, woken], [], [])
        finally:
            signal.set_wakeup_fd(before)


def _kept(said: Message) -> Message:
    """Leave out tool calls: a chat has no tools, and a call without a result is refused."""
    return assistant(*(part for part in said.parts if not isinstance(part, ToolCallPart)))


async def _shown(stream: Stream | AgentRun) -> None:
    with ended_by_sigterm():
        async with stream:
            await show(stream, tools.described)
