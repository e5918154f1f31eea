"""Tools that a provider runs itself: what the encoders of all wires share about them."""

from __future__ import annotations

from typing import Any

from aiollm.errors import UnsupportedError
from aiollm.hosted import Hosted, HostedTool, UserLocation
from aiollm.providers.extra_fields import wires_of
from aiollm.types import AnyTool, Request, Tool


def functions_of(request: Request) -> list[Tool]:
    """Return the tools of a request that are functions."""
    return [tool for tool in request.tools if isinstance(tool, Tool)]


def hosted_of(request: Request) -> list[Hosted]:
    """Return the tools of a request that the provider runs."""
    return [tool for tool in request.tools if not isinstance(tool, Tool)]


def form_of(tool: HostedTool, family: str) -> dict[str, Any]:
    """Return the form of a tool for a codec's family. Raises: UnsupportedError for none."""
    form = tool.form_for(wires_of(family))
    if form is None:
        raise lacking(tool, f"it has forms for {', '.join(tool.raw)} alone")
    return form


def approximate(location: UserLocation) -> dict[str, str]:
    """Return a location as OpenAI and Anthropic take it."""
    names = ("city", "region", "country", "timezone")
    given = {name: value for name in names if (value := getattr(location, name))}
    return {"type": "approximate", **given}


def lacking(tool: AnyTool, reason: str) -> UnsupportedError:
    """Return the error for a target that cannot run a tool."""
    return UnsupportedError(f"this target cannot run {tool.name!r}: {reason}")
