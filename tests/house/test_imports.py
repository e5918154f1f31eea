"""Importing aiollm is cheap and has no effects; each module can be imported first."""

from __future__ import annotations

import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import aiollm

ROOT = Path(__file__).parents[2]

HEAVY = {
    "PIL",
    "aiohttp",
    "anyio",
    "concurrent.futures.process",
    "email.message",
    "genai_prices",
    "httpx2",
    "importlib.metadata",
    "mcp",
    "multidict",
    "multiprocessing.context",
    "opentelemetry",
    "pytest",
    "uvloop",
    "xllamacpp",
    "yarl",
}
"""What nobody pays for who only imports aiollm."""

OBSERVED = """
import json, sys
effects = []
def hook(event, arguments):
    if event == "open":
        path = str(arguments[0])
        if not path.endswith((".py", ".pyc", ".so", ".pyd", ".zip")):
            effects.append([event, path])
    elif event.startswith(("socket.", "subprocess.", "_thread.", "os.putenv", "signal.")):
        effects.append([event, str(arguments)])
sys.addaudithook(hook)
before = set(sys.modules)
import aiollm
print(json.dumps({"effects": effects, "modules": sorted(sys.modules.keys() - before)}))
"""

USUAL = """
import json, msgspec, sys
before = set(sys.modules)
from aiollm import Registry, Request
print(json.dumps([name for name in sys.modules if name not in before]))
"""

MADE_AND_USED = """
import json, sys
from aiollm import Registry, Request
reg = Registry(env={"LLM_A": "openai://token@127.0.0.1:1/v1"})
reg.parse("a/m"), Request("hello")
def loaded():
    return [name in sys.modules for name in ("asyncio", "aiollm._calls.starter")]
made = loaded()
if sys.argv[1] == "stream":
    stream = reg.stream("a/m", "hello")
else:
    try:
        reg.__aenter__().send(None)
    except StopIteration:
        pass
print(json.dumps([made, loaded()]))
"""

NEEDED = {
    "_calls": {"base", "retrieval", "settings", "unary"},
    "_failover": {"hooks", "jitter", "policy"},
    "_settings": {"fields", "hidden", "percent", "places", "wildcards"},
    "_wire": {"body"},
    "providers": {"catalog", "lazy", "names", "schemes", "urls"},
}
NEEDED_AT_THE_ROOT = {
    "_validation", "capabilities", "dsn", "errors", "hosted", "provider", "registry", "spec",
    "types",
}  # fmt: skip
"""What a registry and a request need before their first use."""

ALONE = """
import importlib, sys, warnings
warnings.simplefilter("error")
for name in sys.argv[1:]:
    for loaded in [each for each in sys.modules if each.partition(".")[0] == "aiollm"]:
        del sys.modules[loaded]
    importlib.import_module(name)
"""


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh interpreter, without coverage; return what it printed."""
    environment = {name: value for name, value in os.environ.items() if "COVERAGE" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def observed() -> dict[str, list]:
    """Return what a bare import does and loads."""
    return json.loads(run(OBSERVED))


def test_nothing_heavy_is_loaded(observed: dict[str, list]) -> None:
    assert not HEAVY.intersection(observed["modules"])


def test_codecs_are_loaded_when_they_are_spoken(observed: dict[str, list]) -> None:
    loaded = {name for name in observed["modules"] if name.startswith("aiollm.providers.")}
    assert loaded <= {
        f"aiollm.providers.{name}"
        for name in ("catalog", "encoding", "error_replies", "lazy", "names", "schemes", "urls")
    }


def test_what_few_calls_need_is_loaded_when_they_need_it(observed: dict[str, list]) -> None:
    """Images, agents, servers, money, token limits, numbers of slots, error pages, mended text."""
    rare = {
        "_agent",
        "_failover.estimate",
        "_failover.money",
        "_failover.paid",
        "_failover.paid_sessions",
        "_failover.race",
        "_failover.slots",
        "_http.image_streaming",
        "_http.transport",
        "_mcp",
        "_redaction",
        "_streams.image_stream",
        "_wire.lenient",
        "_wire.redaction",
        "_wire.schema",
        "_wire.web_page",
        "bulk",
        "media",
        "prices",
        "servers",
        "testing",
    }
    assert not {f"aiollm.{name}" for name in rare}.intersection(observed["modules"])


def test_a_registry_and_a_request_load_nothing_that_only_their_use_needs() -> None:
    """Each module costs some 0.1 ms; asyncio, 15 ms, has been imported by whoever runs a loop."""
    loaded = json.loads(run(USUAL))
    own = {name for name in loaded if name.partition(".")[0] == "aiollm"}
    # Whether msgspec has brought these two differs from one version of Python to another.
    assert set(loaded) - own <= {"binascii", "math"}
    needed = {"aiollm", *(f"aiollm.{name}" for name in NEEDED_AT_THE_ROOT | NEEDED.keys())}
    assert own <= needed.union(
        f"aiollm.{folder}.{name}" for folder in NEEDED for name in NEEDED[folder]
    )


@pytest.mark.parametrize("use", ["stream", "enter"])
def test_what_makes_calls_is_loaded_when_a_registry_is_used_or_entered(use: str) -> None:
    assert json.loads(run(MADE_AND_USED, use)) == [[False, False], [True, True]]


def test_no_file_thread_process_or_socket_is_opened(observed: dict[str, list]) -> None:
    assert observed["effects"] == []


@pytest.mark.timeout(600)  # 200 imports of the package
def test_every_module_can_be_the_first_to_be_imported() -> None:
    names = [module.name for module in pkgutil.walk_packages(aiollm.__path__, "aiollm.")]
    assert len(names) > 20
    run(ALONE, *names)
