"""The reference is current and has every public name; the index has every page."""

from __future__ import annotations

import importlib
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

import aiollm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """Load the script that writes the page."""
    spec = importlib.util.spec_from_file_location("reference", ROOT / "scripts" / "reference.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_current(reference) -> None:
    assert reference.PAGE.read_text() == reference.page(), "run `make reference`"


def test_every_public_name_is_in_one_topic(reference) -> None:
    listed = [name for names in reference.TOPICS.values() for name in names.split()]
    assert sorted(listed) == sorted({*aiollm.__all__} - {"__version__"})
    for module, names in reference.MODULES.items():
        home = importlib.import_module(module)
        public = {
            name
            for name in home.__all__
            if name not in listed or getattr(home, name) is not getattr(aiollm, name)
        }
        assert sorted(names.split()) == sorted(public), module


def test_the_index_has_every_page() -> None:
    index = set(LINK.findall((DOCS / "README.md").read_text()))
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert pages <= index


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", each.lower()).replace(" ", "-") for each in headings}
