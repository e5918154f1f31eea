"""The layers hold, and the contracts that say so catch what they are there for."""

from __future__ import annotations

import ast
import io
import os
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "aiollm"
MODULES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 450
LONGER = {"types.py": "errors and messages need each other: a package of them would be a circle"}
"""Files that may have more lines, and why."""

MEDIAN, P95, MOST = 9, 20, 45
"""Lines of a function."""

LONGER_FUNCTIONS = {
    "_http/image_streaming.py:draw": "one generator, whose `finally` spans all that it does",
    "registry.py:__init__": "a line for each setting, and what they mean",
}
"""Functions that may have more lines, and why."""

COMMENTS, EXPLAINED = 1.0, 13.5
"""The least share of comments, and of comments and docstrings, in percent of all lines."""

POINTER = re.compile(r"\((design|wire facts?)\b", re.IGNORECASE)
"""What names a document that readers do not have, in place of what it says."""

DIRECTIVES = ("# noqa", "# type:", "# fmt:", "# pragma")
"""Comments that are for tools, not for readers."""

FORBIDDEN = {
    ("types", "aiollm.errors"): "upward",
    ("_wire.framing", "aiollm.registry"): "upward",
    ("provider", "aiollm.providers.error_replies"): "upward, by one layer",
    ("_failover.health", "aiollm._agent.loop"): "sideways",
    ("_http.unary", "aiollm.providers.error_replies"): "sideways, from IO to a codec's rules",
    ("_streams.stream", "aiollm._http.streaming"): "upward, from what is read to what reads it",
    ("registry", "aiollm.cli"): "upward, to the top",
    ("providers.ollama.codec", "aiollm.providers.openai.errors"): "a family that knows another",
    ("providers.llama_swap.codec", "aiollm.providers.ollama.codec"): "more than llama-swap may",
    ("_failover.health", "aiollm._failover.chain"): "a circle inside a package",
    ("providers.openai.chat_codec", "asyncio"): "a codec that waits",
    ("providers.anthropic.codec", "aiohttp"): "a codec that does IO",
    ("providers.google.codec", "aiollm._http.transport"): "a codec that reaches the transport",
    ("dsn", "socket"): "a parser that does IO",
    ("_http.streaming", "aiohttp"): "aiohttp outside its rooms",
    ("registry", "anyio"): "anyio outside its rooms",
    ("_http.streaming", "PIL"): "PIL outside its room",
    ("_http.transport", "openai"): "a vendor's SDK",
    ("_agent.loop", "mcp"): "MCP's SDK outside its room",
    ("_agent.tools", "aiollm._mcp.tools"): "upward, from tools to where they come from",
}
"""Imports that must never be, one for each rule."""


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in `folder` against the project's contracts."""
    code = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return subprocess.run(
        [sys.executable, "-c", code, "--config", str(ROOT / "pyproject.toml"), "--no-cache"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def plant(folder: Path, module: str, imported: str, *, for_typing: bool = False) -> None:
    """Add an import to a copy of a module."""
    file = folder / "aiollm" / f"{module.replace('.', '/')}.py"
    line = f"import {imported}"
    if for_typing:
        line = f"from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {line}"
    file.write_text(f"{file.read_text()}\n{line}\n")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a folder with a copy of the package."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(PACKAGE, tmp_path / "aiollm", ignore=ignored)
    return tmp_path


def test_the_contracts_hold(copy: Path) -> None:
    run = lint_imports(copy)
    assert run.returncode == 0, run.stdout
    assert "0 broken" in run.stdout


def test_every_kind_of_forbidden_import_is_caught(copy: Path) -> None:
    for module, imported in FORBIDDEN:
        plant(copy, module, imported)
    run = lint_imports(copy)
    assert run.returncode == 1, run.stdout + run.stderr
    missed = [pair for pair in FORBIDDEN if f"aiollm.{pair[0]} -> {pair[1]}" not in run.stdout]
    assert not missed, run.stdout


def test_an_upward_import_for_typing_alone_is_caught(copy: Path) -> None:
    plant(copy, "errors", "aiollm._streams.stream", for_typing=True)
    run = lint_imports(copy)
    assert run.returncode == 1
    assert "aiollm.errors -> aiollm._streams.stream" in run.stdout


def test_a_module_without_a_layer_is_caught(copy: Path) -> None:
    (copy / "aiollm" / "utils.py").write_text('"""No role."""\n')
    run = lint_imports(copy)
    assert run.returncode == 1
    assert "aiollm.utils" in run.stdout


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_states_its_role_and_stays_short(file: Path) -> None:
    text = file.read_text()
    role = ast.get_docstring(ast.parse(text))
    assert role, "its first line says what the module is for"
    is_short = len(text.splitlines()) <= MAX_LINES
    if str(file.relative_to(PACKAGE)) in LONGER:
        assert not is_short, "it no longer needs its exemption"
    else:
        assert is_short, "one role per file: cut it"


def test_functions_are_short() -> None:
    functions = sorted(
        (node.end_lineno - node.lineno + 1, f"{file.relative_to(PACKAGE)}:{node.name}")
        for file in MODULES
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    )
    lengths = [lines for lines, _ in functions]
    assert statistics.median(lengths) <= MEDIAN
    assert lengths[int(len(lengths) * 0.95)] <= P95
    assert sorted(name for lines, name in functions if lines > MOST) == sorted(LONGER_FUNCTIONS)


def comments(text: str) -> list[str]:
    """Return the comments of a module that are for readers."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    found = [token.string for token in tokens if token.type == tokenize.COMMENT]
    return [each for each in found if not each.startswith(DIRECTIVES)]


def docstrings(text: str) -> list[str]:
    """Return the docstrings of a module, those of its constants and fields included."""
    nodes = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Expr)]
    constants = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return [each for each in constants if isinstance(each, str)]


@pytest.mark.timeout(180)  # before Python 3.12, `tokenize` takes seconds for the package
def test_the_share_of_what_explains_the_code_does_not_fall() -> None:
    texts = [file.read_text() for file in MODULES]
    lines = sum(1 for text in texts for line in text.splitlines() if line.strip())
    commented = sum(len(comments(text)) for text in texts)
    documented = sum(doc.count("\n") + 1 for text in texts for doc in docstrings(text))
    assert 100 * commented / lines >= COMMENTS
    assert 100 * (commented + documented) / lines >= EXPLAINED


@pytest.mark.timeout(180)  # before Python 3.12, `tokenize` takes seconds for the package
def test_an_explanation_gives_the_reason_itself() -> None:
    found = [
        f"{file.relative_to(ROOT)}: {each}"
        for file in MODULES
        for text in (file.read_text(),)
        for each in comments(text) + docstrings(text)
        if POINTER.search(each)
    ]
    assert not found
