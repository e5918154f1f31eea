"""The first use of each call imports what it needs in a thread: the event loop goes on meanwhile.

Calls that return at once, such as `run`, import the modules that they are made of where they are
called. What is listed here for them is all that the thread of the event loop may import.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import pytest

from aiollm import Registry
from aiollm.testing import Answer, FaultServer, chat
from aiollm.testing.thread import LoopThread
from tests.programs import ROOT, python, run_program

PROGRAM = """
import asyncio, contextlib, json, sys, threading
import msgspec
from aiollm import Budget, FailoverError, ImagePart, LLMError, Price, Registry, Request, user

url, scene, is_preloaded = sys.argv[1], sys.argv[2], sys.argv[3] == "preloaded"
PLACE = url.partition("://")[2]
ENV = {
    "LLM_A": f"openai+{url}/v1",
    "LLM_CALLS": f"openai+{url}/calls",
    "LLM_LS": f"llama-swap://{PLACE}",
    "LLM_NONE": f"llama-swap://{PLACE}/none",
    "LLM_O": f"ollama+{url}",
}
on_the_loop = []

class City(msgspec.Struct):
    name: str

class Finder:
    def find_spec(self, name, path=None, target=None):
        if threading.current_thread() is threading.main_thread():
            on_the_loop.append(name)

def add(a: int, b: int) -> int:
    return a + b

async def ended(items):
    async for _ in items:
        pass

async def mapped(reg):
    async with reg.map("a/m", ["hi"]) as run:
        await run.finish()

async def served(reg):
    await reg.mcp(sys.argv[4]).call("echo", {"text": "hi"})

async def five(reg):
    answers = (reg.generate("a/m", "hi") for _ in range(5))
    assert [each.text for each in await asyncio.gather(*answers)] == ['{"name": "Oslo"}'] * 5

async def batches(reg):
    found = await reg.embed("a/m", ["hi"] * 5, batch=1)
    assert len(found.vectors) == 5

async def traced(reg):
    from aiollm.otel import instrument

    instrument(reg)
    await reg.generate("a/m", "hi")

def image():
    return Request((user("What is it?", ImagePart(bytes.fromhex(PIXEL))),))

PIXEL = (
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
SCENES = {
    "stream": lambda reg: ended(reg.stream("a/m", "hi")),
    "stream, typed": lambda reg: ended(reg.stream("a/m", "hi", output=City)),
    "generate": lambda reg: reg.generate("a/m", "hi"),
    "generate, typed": lambda reg: reg.generate("a/m", "hi", output=City),
    "generate, raced": lambda reg: reg.generate("a/m|a/n", "hi", stagger=0),
    "generate, in a session": lambda reg: reg.generate("a/m", "hi", session="s"),
    "generate, within a budget": lambda reg: reg.generate("a/m", "hi", budget=Budget(1.0)),
    "generate, five at once": lambda reg: five(reg),
    "generate, of a chain": lambda reg: reg.generate("o/m,a/m", "hi"),
    "generate, with an image": lambda reg: reg.generate("a/m", image()),
    "generate, traced": traced,
    "run": lambda reg: reg.run("calls/m", "hi", tools=[add], max_turns=2).collect(),
    "run, typed": lambda reg: reg.run("a/m", "hi", tools=[add], output=City).collect(),
    "map": mapped,
    "embed": lambda reg: reg.embed("a/m", ["hi"]),
    "embed, five batches": batches,
    "rerank": lambda reg: reg.rerank("ls/m", "which?", ["this", "that"]),
    "stream_images": lambda reg: ended(reg.stream_images("a/m", "a boat")),
    "generate_images": lambda reg: reg.generate_images("a/m", "a boat"),
    "count_tokens": lambda reg: reg.count_tokens("ls/m", "hi"),
    "models": lambda reg: reg.models("a"),
    "llama_swap": lambda reg: reg.llama_swap("ls").running(),
    "llama_swap, refused": lambda reg: reg.llama_swap("none").running(),
    "ollama": lambda reg: reg.ollama("o").running(),
    "load_models": lambda reg: reg.load_models("o/m"),
    "refresh_capabilities": lambda reg: reg.refresh_capabilities("o/m"),
    "mcp": served,
    "preload": lambda reg: reg.preload("a/m"),
}

async def main():
    prices = {"*": Price(1.0, 1.0)} if "budget" in scene else False
    async with Registry(env=ENV, prices=prices) as reg:
        if is_preloaded:
            await reg.preload("a/m")
        sys.meta_path.insert(0, Finder())
        with contextlib.suppress(LLMError, FailoverError):
            await SCENES[scene](reg)

if scene == "":
    print(json.dumps([*SCENES]))
else:
    asyncio.run(main())
    print(json.dumps([name for name in on_the_loop if name in sys.modules]))
"""

OPTIONS = {"_failover.keywords"}
AGENT = {"_agent", "_failover.sessions", "_serialization", "_streams"}
TYPES = {"_user_types", "_wire.lenient", "_wire.references", "_wire.schema"}
PARTS = {"_wire.conversations", "events", "images", "providers.cache_points"}
SERVERS = {
    "servers", "_http.turns", "_wire.framing", "_wire.raw_json", "providers.call_ids",
    "providers.encoding", "providers.turns", *TYPES, *PARTS,
}  # fmt: skip
ALWAYS = {"_http.last_words", "_settings.network", "_wire.durations", "_wire.quota"}
"""What places of servers, their limits, and bytes after an end are read with."""

ALLOWED = {
    "stream, typed": TYPES | {
        "_agent.typed_stream", "_agent.typed_output", "_agent.totals", "_wire.growing_json",
    },
    "generate": OPTIONS,
    "generate, typed": OPTIONS,
    "generate, raced": OPTIONS,
    "generate, in a session": OPTIONS | PARTS | {"_failover.sessions"},
    "generate, within a budget": OPTIONS | {"_failover", "prices"},
    "generate, five at once": OPTIONS,
    "generate, of a chain": OPTIONS,
    "generate, with an image": OPTIONS | {"media"},
    "generate, traced": OPTIONS | {"otel", "events", "images", "retrieval"},
    "run": OPTIONS | AGENT | TYPES | {"events"},
    "run, typed": OPTIONS | AGENT | TYPES | {"events"},
    "map": OPTIONS | AGENT | TYPES | {
        "_bulk", "_wire.printable", "bulk.record", "bulk.report", "bulk.shown",
    },
    "stream_images": {"_streams.image_stream", "images"},
    "generate_images": {"_streams.image_stream", "images"},
    "count_tokens": {
        "_failover.estimate", "providers.llama_swap.counting", "providers.openai.chat_counting",
        "providers.token_counts",
    },
    "llama_swap": SERVERS,
    "llama_swap, refused": SERVERS,
    "ollama": SERVERS,
    "mcp": {
        "_mcp.address", "_mcp.server", "_mcp.settings", "_mcp.start", "_settings.escapes",
        "_settings.hidden", "_settings.places", "_settings.redactor", "events", "images",
    },
}  # fmt: skip
"""Modules of ours, or packages of them, that a call imports where it is called."""

OTHERS = {"generate, traced": {"opentelemetry"}, "generate, in a session": {"hashlib"}}
"""Modules of others: `instrument` returns at once, and programs call it as they start; the name of
a session is hashed where the call is made."""

AT_ONCE = {
    "aclose", "alias", "aliases", "describe", "fleet", "health", "limit", "limits", "on_event",
    "own", "parse", "provider", "providers", "register", "register_scheme", "reset_health",
}  # fmt: skip
"""What asks nobody, and so awaits nothing to be loaded."""

SLOW = {
    "email", "hashlib", "http.client", "json", "multiprocessing", "sqlite3", "ssl", "unittest",
    "xml",
}  # fmt: skip
"""Modules of Python that take a millisecond or more."""

CALL = {"index": 0, "id": "c", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
SERVER = {
    "/v1/chat/completions": chat('{"name": "Oslo"}'),
    "/calls/chat/completions": chat({"tool_calls": [CALL]}, finish="tool_calls"),
    "/v1/embeddings": Answer(body={"data": [{"index": 0, "embedding": [0.5, 0.25]}]}),
    "/v1/rerank": Answer(body={"results": [{"index": 0, "relevance_score": 0.5}]}),
    "/v1/images/generations": Answer(body={"data": [{"b64_json": "iVBORw0KGgo="}]}),
    "/v1/models": Answer(body={"data": [{"id": "m"}]}),
    "/running": Answer(body={"running": []}),
    "/api/ps": Answer(body={"models": []}),
    "/api/show": Answer(body={"capabilities": ["completion"]}),
    "/api/generate": Answer(body={"model": "m", "done": True}),
}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """Return the URL of a server that answers all of them."""
    with LoopThread() as thread:
        yield thread.serve(FaultServer(paths=SERVER)).url


def imported(url: str, scene: str, *, preloaded: bool = False) -> set[str]:
    """Return what the event loop's thread imports of us and of others while a scene plays."""
    how = "preloaded" if preloaded else ""
    server = f"stdio:{python(ROOT / 'tests' / 'mcp' / 'fake_server.py', 'modern')}"
    done = run_program(PROGRAM, url, scene, how, server)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


SCENES = json.loads(run_program(PROGRAM, "", "", "").stdout)


def test_each_call_of_a_registry_has_a_scene() -> None:
    calls = {name for name in dir(Registry) if name[0] != "_"} - AT_ONCE
    assert calls == {scene.partition(",")[0] for scene in SCENES}
    assert ALLOWED.keys() | OTHERS.keys() <= set(SCENES)


@pytest.mark.parametrize("scene", SCENES)
def test_the_loop_imports_only_what_a_call_is_made_of(scene: str, url: str) -> None:
    found = imported(url, scene)
    own = {name.removeprefix("aiollm.") for name in found if name.startswith("aiollm.")}
    allowed = ALLOWED.get(scene, set()) | ALWAYS
    packages = {package for name in allowed for package in _packages(name)}
    assert {name for name in own - packages if not allowed & {name, *_packages(name)}} == set()
    others = {name.partition(".")[0] for name in found} - sys.stdlib_module_names - {"aiollm"}
    assert others <= OTHERS.get(scene, set())
    assert not found & SLOW - OTHERS.get(scene, set())


@pytest.mark.parametrize(
    "scene", ["stream", "generate", "generate, typed", "run", "run, typed", "embed", "models"]
)
def test_after_preload_the_loop_imports_nothing(scene: str, url: str) -> None:
    found = imported(url, scene, preloaded=True)
    assert {
        name for name in found if name.partition(".")[0] not in sys.stdlib_module_names
    } == set()


def _packages(name: str) -> set[str]:
    """Return the packages that a module is in."""
    parts = name.split(".")
    return {".".join(parts[:end]) for end in range(1, len(parts))}
