"""The site is whole: every link leads somewhere, nothing comes from elsewhere, search finds."""

from __future__ import annotations

import functools
import html
import itertools
import json
import posixpath
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from types import FunctionType

import pytest

import aiollm

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(180)  # the first test waits for the site to be built
LOADED = {("script", "src"), ("img", "src"), ("iframe", "src"), ("source", "src")}


class Found(HTMLParser):
    """What a page has to be linked to, what it links to, and what a browser loads for it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.ids |= {found[name] for name in ("id", "name") if name in found}
        for name, value in found.items():
            is_sheet = tag == "link" and name == "href" and found.get("rel") != "canonical"
            if (tag, name) in LOADED or is_sheet:
                self.loads.append(value)
            elif (tag, name) == ("a", "href"):
                self.links.append(value)


@functools.cache
def found(page: Path) -> Found:
    return Found(page.read_text(encoding="utf-8"))


def pages(site: Path) -> Iterator[Path]:
    return (path for path in sorted(site.rglob("*.html")) if path.name != "404.html")


def target_of(site: Path, page: Path, link: str) -> tuple[Path, str]:
    """Return the file and the anchor that a link of a page leads to."""
    path, _, anchor = link.partition("#")
    at = posixpath.normpath(posixpath.join(page.parent.as_posix(), urllib.parse.unquote(path)))
    target = Path(at) if path else page
    assert target.is_relative_to(site), link
    return (target / "index.html" if target.is_dir() else target), urllib.parse.unquote(anchor)


def test_every_link_and_anchor_of_the_site_leads_somewhere(site) -> None:
    for page in pages(site):
        for link in found(page).links:
            if urllib.parse.urlsplit(link).scheme:
                continue
            target, anchor = target_of(site, page, link)
            assert target.is_file(), f"{page.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert anchor in found(target).ids, f"{page.relative_to(site)}: {link}"


def test_a_page_loads_nothing_from_elsewhere(site) -> None:
    for page in pages(site):
        for link in found(page).loads:
            assert not urllib.parse.urlsplit(link).netloc, f"{page.relative_to(site)}: {link}"
            assert target_of(site, page, link)[0].is_file(), f"{page.relative_to(site)}: {link}"


def test_no_place_on_the_machine_that_built_it_is_in_it(site) -> None:
    places = (str(ROOT).encode(), str(site).encode(), str(Path.home()).encode() + b"/")
    for path in site.rglob("*"):
        if path.is_file():
            held = path.read_bytes()
            assert not [place for place in places if place in held], path.relative_to(site)


def test_tables_and_lists_are_shown_as_such(site) -> None:
    raw = re.compile(r"<p>[^<]*(?:\n?\|[ :-]*-{3}|\n[-*] \S|\n\d\. \S)")
    for page in pages(site):
        text = page.read_text(encoding="utf-8")
        assert not raw.search(text), f"{page.relative_to(site)}: {raw.search(text).group()}"


def test_every_public_name_is_documented_in_the_reference(site, public_names) -> None:
    missing = public_names - inventory(site)
    assert sorted(missing) == []


def test_every_public_method_is_documented_in_the_reference(site, public_names) -> None:
    """Those of private bases, too; what a public base has is documented there."""
    public = {name: attrgetter(name.partition(".")[2])(aiollm) for name in public_names}
    classes = {name: kind for name, kind in public.items() if isinstance(kind, type)}
    methods = {
        f"{name}.{method}"
        for name, kind in classes.items()
        for owner in set(kind.__mro__) - {*itertools.chain(*bases(kind, {*classes.values()}))}
        for method, value in vars(owner).items()
        if owner.__module__.startswith("aiollm") and not method.startswith("_")
        if isinstance(value, FunctionType | property | classmethod)
        if value.__doc__
    }
    missing = methods - inventory(site)
    assert sorted(missing) == []


def bases(kind: type, public: set[type]) -> Iterator[tuple[type, ...]]:
    """Yield all that each public base of a class has by inheritance, itself included."""
    return (base.__mro__ for base in kind.__mro__[1:] if base in public)


def inventory(site: Path) -> set[str]:
    """Return the names that the built site has an entry for."""
    packed = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    return {line.split(" ")[0] for line in zlib.decompress(packed).decode().splitlines()}


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("calls", "Timeouts( connect: float | None = 5.0, first_output:"),  # a struct
        ("calls", "CallOptions( *, timeouts: Timeouts | None = ...,"),  # a TypedDict
        ("calls", 'system: str = "",'),  # a struct whose constructor is a stub
        ("calls", "retries: int = 2,"),  # a class
        ("errors", "Is a: ProviderError. Moves a chain on: yes. Harms its target: no."),
        ("calls", "generate( spec: str | Plan,"),  # from a base that is not public
        ("chunks", "Chunk: TypeAlias = ( TextDelta | ReasoningDelta"),
    ],
)
def test_the_reference_shows_how_to_use_a_name(site, page, shown) -> None:
    text = (site / "reference" / page / "index.html").read_text(encoding="utf-8")
    plain = html.unescape(re.sub(r"<[^>]+>", "", text))
    assert shown in " ".join(plain.split())


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("rate limit", "rate-limits/"),
        ("fastapi", "recipes/fastapi/"),
        ("pydantic", "recipes/pydantic/"),
        ("evaluation", "start/evaluation/"),
        ("bedrock", "recipes/bedrock/"),
        ("timeouts", "streams-and-deadlines/"),
    ],
)
def test_what_people_look_for_is_in_the_search_index(site, words, page) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    held = [each for each in index["docs"] if each["location"].partition("#")[0] == page]
    assert words in " ".join(f"{each['title']} {each['text']}" for each in held).lower()


def test_many_parameters_are_described_in_a_list(site):
    page = (site / "reference" / "calls" / "index.html").read_text()
    for name in ("timeouts", "max_pixels", "response_cache"):
        assert re.search(rf"<li><code>{name}</code>:", page), name
    assert re.search(r"</ul>\s*<p>Raises: ", page)
