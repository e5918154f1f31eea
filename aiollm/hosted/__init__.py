"""Tools that a provider runs itself, as values: web search, code, files, and any other.

They go into a request beside `Tool`s. Which target can run which of them is for its codec to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import msgspec
from msgspec.structs import force_setattr

SCOPE = "wire:"
"""How a key of a `HostedTool` begins that names the wire whose form it holds."""


class ToolBase(msgspec.Struct, frozen=True):
    """What a request may have among its `tools`: a `Tool`, or one that the provider runs."""


class UserLocation(msgspec.Struct, frozen=True):
    """Where the user is, roughly, so that a search finds what is near.

    `country` has two letters (ISO 3166-1), `timezone` is an IANA name such as `Europe/Oslo`.
    """

    city: str = ""
    region: str = ""
    country: str = ""
    timezone: str = ""


class WebSearch(ToolBase, frozen=True, tag="web_search"):
    """The provider's own search of the web.

    `max_uses`: searches in one answer. `allowed_domains`: search only in these, such as
    `example.com`; or `blocked_domains`: search anywhere but in these. `cache_point`: a `CachePoint`
    follows it. A target that cannot restrict domains as asked raises UnsupportedError; any other
    option that it lacks is dropped with a warning.
    """

    name: ClassVar[str] = "web_search"
    """What `tool_choice` calls it."""
    max_uses: int | None = None
    allowed_domains: tuple[str, ...] = ()
    blocked_domains: tuple[str, ...] = ()
    location: UserLocation | None = None
    cache_point: bool = False

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(
            self,
            max_uses: int | None = ...,
            allowed_domains: str | Sequence[str] = ...,
            blocked_domains: str | Sequence[str] = ...,
            location: UserLocation | None = ...,
            cache_point: bool = ...,  # noqa: FBT001
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "allowed_domains", _listed(self.allowed_domains))
        force_setattr(self, "blocked_domains", _listed(self.blocked_domains))


class CodeExecution(ToolBase, frozen=True, tag="code_execution"):
    """Code that the model writes and the provider runs, in a container of the provider's.

    `container`: the id of one to run it in; by default the provider makes one, or goes on with that
    of the turn before. `cache_point`: a `CachePoint` follows it.
    """

    name: ClassVar[str] = "code_execution"
    """What `tool_choice` calls it."""
    container: str = ""
    cache_point: bool = False


class FileSearch(ToolBase, frozen=True, tag="file_search"):
    """A search of files that were uploaded to the provider.

    `stores`: the ids or names of the provider's stores. `max_results`: pieces that one search
    finds. `cache_point`: a `CachePoint` follows it.
    """

    name: ClassVar[str] = "file_search"
    """What `tool_choice` calls it."""
    stores: tuple[str, ...]
    max_results: int | None = None
    cache_point: bool = False

    if TYPE_CHECKING:

        def __init__(
            self,
            stores: str | Sequence[str],
            max_results: int | None = ...,
            cache_point: bool = ...,  # noqa: FBT001
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "stores", _listed(self.stores))


class HostedTool(ToolBase, frozen=True, tag="hosted"):
    """Any other tool that a provider runs, in the form of its wire.

    `raw` is what goes into the body's list of tools, the same at every target, or a form for each
    wire. `name` is what `tool_choice` calls it: by default the name, label or type in `raw`.
    `cache_point`: a `CachePoint` follows it.

        HostedTool({"type": "image_generation"})
        HostedTool({"wire:anthropic": {"type": "web_fetch_20250910", "name": "web_fetch"},
                    "wire:google": {"urlContext": {}}})
    """

    raw: Mapping[str, Any]
    name: str = ""
    cache_point: bool = False

    def __post_init__(self) -> None:
        if not self.name and isinstance(self.raw, Mapping):
            force_setattr(self, "name", _name_in(self.raw))

    def form_for(self, wires: Sequence[str]) -> dict[str, Any] | None:
        """Return its form for a target of these wires, the last of which is the most exact."""
        if not _has_scopes(self.raw):
            return dict(self.raw)
        for wire in reversed(wires):
            form = self.raw.get(SCOPE + wire)
            if form is not None:
                return dict(form)
        return None


Hosted: TypeAlias = WebSearch | CodeExecution | FileSearch | HostedTool
"""A tool that a provider runs itself."""


def _listed(value: object) -> Any:
    """Return a text as a tuple of one, and a list as a tuple; what is wrong is refused later."""
    match value:
        case str():
            return (value,)
        case list():
            return tuple(value)
        case _:
            return value


def _has_scopes(raw: Mapping[str, Any]) -> bool:
    return any(str(key).startswith(SCOPE) for key in raw)


def _name_in(raw: Mapping[str, Any]) -> str:
    form = next(iter(raw.values()), None) if _has_scopes(raw) else raw
    if not isinstance(form, Mapping) or not form:
        return ""
    words = [form.get(key) for key in ("name", "server_label", "type")]
    return next((word for word in words if isinstance(word, str) and word), str(next(iter(form))))
