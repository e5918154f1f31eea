"""What users may rely on is kept in `api.txt`: a change of it is seen, and is meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import ModuleType

import pytest

from tests.house.conftest import load_script

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script() -> ModuleType:
    """Return the script that writes the file."""
    return load_script("public_api")


def test_what_is_promised_is_there(script: ModuleType) -> None:
    found = script.changes()
    assert not found, (
        f"{found}\n\nIf this is meant, say so in CHANGELOG.md, and keep the old name as "
        "docs/stability.md promises; then run `python scripts/public_api.py`."
    )


@pytest.mark.parametrize(
    ("file", "before", "after", "line"),
    [
        ("types.py", "first_output: float | None = 60.0", "first_output: float | None = 61.0",
            "+  first_output: float | None = 61.0"),
        ("errors.py", "class QuotaError(ProviderError)", "class QuotaError(RateLimitError)",
            "+class aiollm.QuotaError(RateLimitError)"),
        ("types.py", '"tool_calls",', '"tools",', "+    'tools',"),
        ("registry.py", "max_wait: float = 15.0", "longest: float = 15.0",
            "-      max_wait: float=15.0,"),
        ("providers/names.py", "def aliases(self)", "def names(self)",
            "-  def aliases(self) -> dict[str, str]"),
    ],
)  # fmt: skip
def test_a_break_is_seen(
    script: ModuleType, tmp_path: Path, file: str, before: str, after: str, line: str
) -> None:
    shutil.copytree(ROOT / "aiollm", tmp_path / "aiollm")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    broken = tmp_path / "aiollm" / file
    text = broken.read_text()
    assert before in text
    broken.write_text(text.replace(before, after, 1))
    script.ROOT = tmp_path
    assert line in script.changes().splitlines()
