"""What the README and the docs show passes mypy and pyright: readers copy it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CONTINUED = {"README", "docs/recipes/jupyter"}
"""Pages whose blocks go on from what was said before."""

PREPARED = """import aiollm
import msgspec
class City(msgspec.Struct):
    name: str
reg: aiollm.Registry
request: aiollm.Request
def show(text: str) -> None: ...
def clear() -> None: ...
def count(usage: aiollm.Usage) -> None: ...
"""
"""Names that those pages use without saying where they come from. None that a block imports is
among them: for Python 3.14, pyright prefers a name out here in hints, which are evaluated late."""

STRICT = ("--strict", "--allow-untyped-defs", "--allow-untyped-calls", "--config-file=")
STRICT += ("--allow-untyped-decorators", "--disable-error-code=import-untyped")
"""Functions that only show something may stay without hints, as Celery is; all else is strict."""


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    """Write each block as a module of its own."""
    folder = tmp_path_factory.mktemp("blocks")
    for page in PAGES:
        place = page.relative_to(ROOT).with_suffix("").as_posix()
        name = re.sub(r"\W", "_", place).lower()
        for number, block in enumerate(BLOCK.findall(page.read_text())):
            body = textwrap.indent(block, "    ")
            prepared = PREPARED if place in CONTINUED else ""
            (folder / f"{name}_{number}.py").write_text(
                f"{prepared}async def block() -> None:\n{body}"
            )
    return folder


def check(blocks: Path, *command: str) -> str:
    """Return what a checker says of the blocks."""
    done = subprocess.run(
        [sys.executable, "-m", *command, str(blocks)],
        cwd=blocks,
        env=os.environ | {"MYPY_CACHE_DIR": str(ROOT / ".mypy_cache" / "pages")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(300)
def test_mypy_accepts_every_block(blocks) -> None:
    told = check(blocks, "mypy", *STRICT)
    assert "Success: no issues found" in told, told


@pytest.mark.timeout(300)
def test_pyright_accepts_every_block(blocks) -> None:
    told = check(blocks, "pyright", "--pythonpath", sys.executable)
    assert "0 errors" in told, told
