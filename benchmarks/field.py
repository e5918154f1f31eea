"""The field: who takes part, on which wires, and the environment each one runs in."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ROOT = HERE.parent
VENVS = HERE / ".venvs"

MODELS = {
    "openai": "gpt-6.1-sol",
    "anthropic": "claude-opus-5-5",
    "google": "gemini-3.8-flash",
    "ollama": "qwen3:8b",
}


class Entry(NamedTuple):
    """A contender: its first wire is the one for figures that are taken on one wire only."""

    name: str
    script: str
    module: str
    wires: tuple[str, ...]
    requirement: str = ""
    """What its environment holds; "" is the one that runs the benchmark."""
    distribution: str = ""
    loop: str = "asyncio"

    @property
    def is_peer(self) -> bool:
        """Whether it is somebody else's library."""
        return bool(self.requirement)


WIRES = tuple(MODELS)
LIMIT = Entry("limit", "limit", "aiohttp, msgspec", WIRES)
OURS = Entry("aiollm", "aiollm_", "aiollm", WIRES)
UVLOOP = (
    LIMIT._replace(name="limit+uvloop", wires=("openai",), loop="uvloop"),
    OURS._replace(name="aiollm+uvloop", wires=("openai",), loop="uvloop"),
)
VARIANTS = (
    Entry("chain of 3", "chain", "aiollm", ("openai",)),
    Entry("race of 2", "race", "aiollm", ("openai",)),
    Entry("race of 2 at once", "race_at_once", "aiollm", ("openai",)),
)
PEERS = (
    Entry("openai", "openai_", "openai", ("openai",), "openai==3.57.0", "openai"),
    Entry("anthropic", "anthropic_", "anthropic", ("anthropic",), "anthropic==2.12.0", "anthropic"),
    Entry(
        "google-genai",
        "google_genai_",
        "google.genai",
        ("google",),
        "google-genai==3.4.0",
        "google-genai",
    ),
    Entry("ollama", "ollama_", "ollama", ("ollama",), "ollama==0.6.3", "ollama"),
    Entry(
        "litellm",
        "litellm_",
        "litellm",
        ("openai", "anthropic", "ollama", "google"),
        "litellm==1.110.2",
        "litellm",
    ),
    Entry(
        "any-llm",
        "any_llm_",
        "any_llm",
        ("openai", "anthropic", "google", "ollama"),
        "any-llm-sdk[openai,anthropic,gemini,ollama]==1.40.2",
        "any-llm-sdk",
    ),
    Entry(
        "pydantic-ai",
        "pydantic_ai_",
        "pydantic_ai",
        ("openai", "anthropic", "google"),
        "pydantic-ai-slim[openai,anthropic,google]==2.68.0",
        "pydantic-ai-slim",
    ),
    Entry(
        "langchain-openai",
        "langchain_openai_",
        "langchain_openai",
        ("openai",),
        "langchain-openai==1.7.3",
        "langchain-openai",
    ),
)
"""Exact versions, as figures are of a version. Together they conflict: each has a venv."""

COMPARED = {
    "openai": "openai==3.57.0 mcp==2.3.0",
    "litellm": "litellm[mcp]==1.110.2",
    "pydantic-ai": "pydantic-ai-slim[openai,mcp]==2.68.0",
    "any-llm": "any-llm-sdk[openai]==1.40.2 mcp==2.3.0",
    "openai-agents": "openai-agents==0.24.0",
}
"""What the environments of the comparison hold: its agents need an MCP client, too."""

PLAIN_PILLOW = "pillow==13.0.0"
"""What "plain" stands for in the image benchmark, whatever image library is installed here."""


def python(entry: Entry) -> str:
    """Return the interpreter of an entry, made and filled at its first use."""
    if not entry.requirement:
        return sys.executable
    return environment(entry.name, entry.requirement)


def environment(name: str, requirement: str) -> str:
    """Return the interpreter of an environment that holds `requirement`, making it if need be.

    Raises: subprocess.CalledProcessError.
    """
    home = VENVS / name
    stamp = home / "installed"
    interpreter = home / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != requirement:
        print(f"installing {requirement}", file=sys.stderr, flush=True)
        venv.create(home, with_pip=True, clear=True)
        # Bytecode is compiled here and now: imports are timed, compiling them is not.
        command = [interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*command, *requirement.split()], check=True, stdout=sys.stderr)
        stamp.write_text(requirement)
    return str(interpreter)
