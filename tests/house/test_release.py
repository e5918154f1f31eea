"""What a release needs agrees: the version, the changelog, the supported Pythons, the workflows."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import aiollm
from tests.house.conftest import load_script

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
VERSION = re.compile(r"(Unreleased|\d+\.\d+\.\d+)(?:\] - (\d{4}-\d\d-\d\d))?")


@pytest.fixture
def script() -> ModuleType:
    """Return the script that builds and checks a release."""
    return load_script("package")


def test_the_version_is_written_once() -> None:
    assert "version" in PROJECT["dynamic"]
    kept = [ROOT / "CITATION.cff", ROOT / "pyproject.toml", *WORKFLOWS]
    assert not [path.name for path in kept if f'"{aiollm.__version__}"' in path.read_text()]
    assert not re.search(r"^version:", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)


def test_the_changelog_has_a_section_for_each_version_the_newest_first() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    heads = [VERSION.match(head) for head in re.findall(r"^## \[(.*)$", text, re.MULTILINE)]
    assert all(heads)
    names = [each[1] for each in heads]
    assert names[0] == "Unreleased"
    assert aiollm.__version__ in names
    released = [tuple(map(int, name.split("."))) for name in names[1:]]
    assert released == sorted(set(released), reverse=True)
    assert all(each[2] for each in heads[1:])
    assert {*re.findall(r"^### (.*)$", text, re.MULTILINE)} <= KINDS


def test_a_tag_must_be_that_of_the_version_and_the_changelog(script: ModuleType) -> None:
    script.check_tag(f"v{aiollm.__version__}")
    with pytest.raises(AssertionError, match=r"the tag v9\.9\.9 is not that of"):
        script.check_tag("v9.9.9")
    script.VERSION = "9.9.9"
    with pytest.raises(AssertionError, match=r"no date for 9\.9\.9"):
        script.check_tag("v9.9.9")


def test_every_supported_python_runs_the_gate() -> None:
    supported = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))
    ci = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    (listed,) = re.findall(r"python: \[(.*)\]", ci)
    assert re.findall(r"[\d.]+", listed) == supported
    assert "run: .ci/run" in ci
    assert PROJECT["requires-python"] == f">={supported[0]}"


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_names_its_actions_by_commit_and_may_do_little(workflow: Path) -> None:
    text = workflow.read_text()
    for used in re.findall(r"uses: (\S+)", text):
        assert used.startswith("./") or re.search(r"@[0-9a-f]{40}$", used), used
    assert re.search(r"^permissions:( \{\}|\n  contents: read\n)", text, re.MULTILINE)
    assert "secrets." not in text


def test_only_the_job_that_publishes_may_prove_who_it_is() -> None:
    jobs = re.split(
        r"^  (\w+):\n", (ROOT / ".github/workflows/release.yml").read_text(), flags=re.MULTILINE
    )
    allowed = [
        name for name, body in zip(jobs[1::2], jobs[2::2], strict=True) if "id-token" in body
    ]
    assert allowed == ["publish"]
    assert "run:" not in jobs[jobs.index("publish") + 1]
