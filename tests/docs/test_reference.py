"""The reference and the navigation have all that there is, and links of the repository lead on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
ENTRY = re.compile(r"^::: ([\w.]+)$", re.MULTILINE)


def test_every_public_name_has_one_entry_in_the_reference(public_names) -> None:
    pages = sorted((DOCS / "reference").glob("*.md"))
    entries = [name for page in pages for name in ENTRY.findall(page.read_text())]
    modules = [name for name in entries if name.rpartition(".")[2].islower()]
    names = [name for name in entries if name not in modules or name in public_names]
    assert sorted(names) == sorted(public_names)


class Loader(yaml.SafeLoader):
    """Reads MkDocs's settings without making the objects that they name."""


Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)


def test_the_navigation_has_every_page() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    listed = set(re.findall(r"[\w./-]+\.md", str(yaml.load(text, Loader)["nav"])))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert {page for page in pages if not re.match(r"adr/\d", page)} <= listed


def test_the_index_has_every_guide() -> None:
    index = set(LINK.findall((DOCS / "README.md").read_text()))
    pages = {page.name for page in DOCS.glob("*.md")} - {"README.md"}
    assert pages <= index


def test_the_index_of_decisions_has_every_record_with_its_title() -> None:
    folder = DOCS / "adr"
    titles = {
        page.name: page.read_text().partition("\n")[0].partition(". ")[2]
        for page in folder.glob("[0-9]*.md")
    }
    listed = re.findall(
        r"^- \[\d+\]\((.+)\) (.+)$", (folder / "README.md").read_text(), re.MULTILINE
    )
    assert sorted(listed) == sorted(titles.items())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page) -> None:
    for link in LINK.findall(CODE.sub("", page.read_text())):
        path, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (page.parent / path) if path else page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as a code host makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\s-]", "", each.lower()).replace(" ", "-") for each in headings}
