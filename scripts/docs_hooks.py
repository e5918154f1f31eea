"""MkDocs hooks: files of the repository that guides link to become pages, and ADRs list themselves.

On a code host a guide may link to `../examples/09_service.py`. The site has no such file, so each
file that is linked to is added to it, and the link leads there. A folder is shown as plain text.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCED = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^)\s]+)\)")
EXAMPLES = sorted(path.stem for path in ROOT.glob("examples/*.py"))
PAGES = {
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "benchmarks/results/results.md": "project/results.md",
} | {f"examples/{name}.py": f"examples/{name}.md" for name in EXAMPLES}
"""Pages that are made of files outside of docs/, by their places in the repository."""


def on_config(config: MkDocsConfig) -> None:
    """Fill the sections of the navigation that list what a folder holds."""
    decisions = sorted(path.name for path in DOCS.glob("adr/[0-9]*.md"))
    examples = [f"examples/{name}.md" for name in EXAMPLES]
    _fill(config.nav, {"Decisions": [f"adr/{name}" for name in decisions], "Examples": examples})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages made of other files, and the other files that guides link to."""
    for source, made in PAGES.items():
        path = ROOT / source
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            text = _shown(path.name, text)
        files.append(File.generated(config, made, content=_rewritten(text, source, made)))
    for source in sorted(set(_attachments())):
        files.append(File.generated(config, f"files/{source}", abs_src_path=str(ROOT / source)))


def on_page_markdown(markdown: str, *, page: Page, **_: object) -> str:
    """Turn links that leave docs/ to where the site has their targets."""
    made = page.file.src_uri
    if made == "adr/README.md":
        markdown += "\n" + "\n".join(f"- [{title}]({name})" for name, title in _decisions())
    if page.file.generated_by:
        return markdown
    return _rewritten(markdown, f"docs/{made}", made)


def _fill(nav: object, sections: dict[str, list[str]]) -> None:
    """Put lists of pages where the navigation has an empty section of that name."""
    match nav:
        case list():
            for each in nav:
                _fill(each, sections)
        case dict():
            for name, value in nav.items():
                if name in sections:
                    value += [each for each in sections[name] if each not in value]
                _fill(value, sections)
        case _:
            pass


def _shown(name: str, code: str) -> str:
    """Return an example as a page: its docstring, then its code."""
    about, _, rest = code.removeprefix('"""').partition('"""\n\n')
    return f"# {name}\n\n{about}\n\n```python\n{rest}```\n"


def _decisions() -> Iterator[tuple[str, str]]:
    """Yield each decision's file and title."""
    for path in sorted(DOCS.glob("adr/[0-9]*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        yield path.name, title


def _attachments() -> Iterator[str]:
    """Yield the files that guides link to and that are not pages."""
    for path in [*DOCS.rglob("*.md"), *(ROOT / source for source in PAGES if source[-3:] == ".md")]:
        prose = FENCED.sub("", path.read_text(encoding="utf-8"))
        for _, _, link in LINK.findall(prose):
            source = _place(link, path.relative_to(ROOT).as_posix())
            if (ROOT / source).is_file() and not source.startswith("docs/") and source not in PAGES:
                yield source


def _place(link: str, source: str) -> str:
    """Return the place in the repository that a link of the file `source` leads to."""
    if "://" in link or link.startswith(("#", "mailto:")):
        return ""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link.partition("#")[0]))


def _rewritten(markdown: str, source: str, made: str) -> str:
    """Return a page's text with its links led to the site's own pages."""
    pieces = FENCED.split(markdown)
    pieces[::2] = [LINK.sub(_leading(source, made), piece) for piece in pieces[::2]]
    return "".join(pieces)


def _leading(source: str, made: str) -> Callable[[re.Match[str]], str]:
    """Return what rewrites one link of a page."""

    def led(match: re.Match[str]) -> str:
        mark, text, link = match.groups()
        place = _place(link, source)
        if not place:
            return match.group()
        target = place.removeprefix("docs/") if place.startswith("docs/") else PAGES.get(place)
        if target is None and (ROOT / place).is_file():
            target = f"files/{place}"
        if target is not None and (ROOT / place).is_dir():
            target = f"{target}/README.md" if place != "docs" else "README.md"
        if target is None:
            return text
        anchor = link[link.find("#") :] if "#" in link else ""
        return f"{mark}[{text}]({posixpath.relpath(target, posixpath.dirname(made))}{anchor})"

    return led
