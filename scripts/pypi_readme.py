"""A build hook: the README as an index shows it, whose links lead to the repository.

In the README links are relative, as a code host wants them. An index has no such files: there they
lead to `[project.urls] Repository` of pyproject.toml, and without one they are plain text.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

LINK = re.compile(r"(!?)\[((?:[^\[\]]|`[^`]*`)*)\]\((?!\w+:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Fills the field `readme`, which pyproject.toml leaves to it."""

    PLUGIN_NAME = "custom"

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the long description."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        repository = metadata.get("urls", {}).get("Repository", "")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": for_an_index(text, repository),
        }


def for_an_index(text: str, repository: str) -> str:
    """Return a text with its relative links and pictures led to a repository, or taken out."""

    def led(match: re.Match[str]) -> str:
        mark, shown, place = match.groups()
        if not repository:
            return "" if mark else shown
        kind = "raw" if mark else "blob"
        return f"{mark}[{shown}]({repository.rstrip('/')}/{kind}/HEAD/{place})"

    return LINK.sub(led, text)
