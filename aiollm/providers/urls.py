"""URL rules: the paths that wires add to a base, models' names in them, base-URL variables.

People paste a base with or without the version, with a trailing slash, or a complete endpoint.
Every rule takes the path that they gave and returns the path of the base.
"""

from __future__ import annotations

import re

import msgspec

from aiollm.dsn import Dsn, parse_dsn
from aiollm.errors import ConfigError
from aiollm.types import MAX_NAME

OLLAMA_PORT = 11434

# Compiled when they are used: a program needs few of them.
_OPENAI_ENDPOINT = r"/(chat/completions|responses|images/(generations|edits)|models)$"
_ANTHROPIC_ENDPOINT = r"/(messages(/count_tokens)?|models)$"
_GOOGLE_ENDPOINT = r"/models(/[^/]*)?$"
_GOOGLE_VERSION = r"/v\d+[a-z0-9]*$"
_OLLAMA_ENDPOINT = r"(/api(/\w+)?|/v1(/chat/completions)?)$"
_LLAMA_SWAP_ENDPOINT = r"/v1(/(chat/completions|models))?$"


def openai_path(path: str) -> str:
    """Turn an empty path into `/v1`; keep any other, without a pasted endpoint."""
    path = path.rstrip("/")
    return re.sub(_OPENAI_ENDPOINT, "", path) if path else "/v1"


def anthropic_path(path: str) -> str:
    """Add `/v1` unless the path ends with it."""
    path = re.sub(_ANTHROPIC_ENDPOINT, "", path.rstrip("/"))
    return path if path.endswith("/v1") else f"{path}/v1"


def google_path(path: str) -> str:
    """Add `/v1beta` unless the path ends with a version."""
    path = re.sub(_GOOGLE_ENDPOINT, "", path.rstrip("/"))
    return path if re.search(_GOOGLE_VERSION, path) else f"{path}/v1beta"


def ollama_path(path: str) -> str:
    """Keep the path without a pasted `/api/...` or `/v1`: the codec adds `/api` itself."""
    return re.sub(_OLLAMA_ENDPOINT, "", path.rstrip("/"))


def llama_swap_path(path: str) -> str:
    """Keep the path without a pasted `/v1`: the management routes are not below it."""
    return re.sub(_LLAMA_SWAP_ENDPOINT, "", path.rstrip("/"))


def ollama_url(host: str) -> str:
    """Read OLLAMA_HOST as Ollama's own programs do.

    Without a scheme it is http and port 11434, with one the scheme's default port. The addresses
    that listen on all interfaces mean this machine. Bare `ollama.com` is the hosted service.
    """
    host = host.strip("\"'")
    if host == "ollama.com":
        return "https://ollama.com"
    scheme, separator, rest = host.rpartition("://")
    place, slash, path = rest.partition("/")
    name, port = _split_port(place)
    if name in ("", "0.0.0.0", "[::]"):  # noqa: S104  an address to call, not to listen on
        name = "127.0.0.1"
    if not port and not separator:
        port = str(OLLAMA_PORT)
    return f"{scheme or 'http'}://{name}{port and f':{port}'}{slash}{path}"


def model_path(name: str, *, slashes: bool = False) -> str:
    """Quote a model's name as one segment of a path or, with `slashes`, as several.

    Raises: ConfigError for a name that cannot be a path below the base, such as one with `..`.
    """
    if len(name) > MAX_NAME:
        raise ConfigError(f"a model's name has {len(name)} characters: at most {MAX_NAME}")
    if any(each in ("", ".", "..") for each in (name.split("/") if slashes else (name,))):
        raise ConfigError(f"{name!r:.80} is not a model name: it would change the URL's path")
    from urllib.parse import quote  # few paths hold a model's name

    try:
        return quote(name, safe="/" if slashes else "")
    except UnicodeEncodeError:
        pass
    raise ConfigError(f"{name!r:.80} is not a model name: it is not valid Unicode")


def _split_port(place: str) -> tuple[str, str]:
    if place.count(":") > 1 and not place.startswith("["):
        return f"[{place}]", ""
    name, colon, port = place.rpartition(":")
    return (name, port) if colon and "]" not in port else (place, "")


def parse_url(text: str, variable: str) -> Dsn:
    """Parse a base URL given in `variable`. Raises: ConfigError that never holds the URL."""
    kind = text.partition("://")[0].lower()
    if kind not in ("http", "https"):
        raise ConfigError(f"{variable}: expected a URL that begins with https:// or http://")
    if "?" in text:
        raise ConfigError(f"{variable}: a base URL must not have a query")
    dsn = parse_dsn(text, variable)
    if dsn.token is not None:
        raise ConfigError(f"{variable}: a base URL must not have credentials before the host")
    return msgspec.structs.replace(dsn, secure=kind == "https")
