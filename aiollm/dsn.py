"""DSNs: parse `scheme://[token@]host[:port][/path][?option=value]`; secrets and limits."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec.structs import astuple, force_setattr

from aiollm._settings.hidden import NOT_PICKLED, HiddenValues
from aiollm._settings.percent import unquoted
from aiollm.errors import ConfigError
from aiollm.types import _shown

ALIAS = "alias:"

_PLACE = r"(\[[^\[\]]*\]|[^:\[\]]*)(?::(.*))?"
_OPTION = r"[a-z_]{1,40}"
_NETWORK = ("ca", "cert", "key", "verify", "proxy")
"""Options that become a `Network`."""


class Secret:
    """A credential that shows itself only to `reveal()`."""

    __slots__ = ("_value",)
    changes = False
    """Whether it is fetched again from time to time."""

    def __init__(self, value: str) -> None:
        """Check the value. Raises: ConfigError for a control byte, which could inject a header."""
        if not isinstance(value, str):
            raise ConfigError(f"a token is a str, not of type {type(value).__name__}")
        if any(ord(char) < 0x20 or ord(char) == 0x7F for char in value) or not value.isascii():
            del value  # tools show the variables of the frames that an error passes
            raise ConfigError("the token holds a control byte or a character outside ASCII")
        self._value = value

    def reveal(self) -> str:
        """Return the credential itself, for the wire only."""
        return self._value

    def hidden(self) -> tuple[str, ...]:
        """Return the values that nothing may show."""
        return (self._value,)

    def redact(self, text: str) -> str:
        """Replace the credential by `***` wherever it occurs in `text`, without its `Bearer`.

        It is found as it is, escaped for a URL, JSON or HTML, in base64 or hexadecimal, broken
        over lines, and in parts of 12 characters or more (8 where the text is cut). One with fewer
        than 8 characters is only found in full, and one with fewer than 4 never.
        """
        from aiollm._settings.redactor import Redactor  # for failures alone

        return Redactor(self.hidden()).text(text)

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str:
        raise TypeError("a Secret cannot be pickled")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self


class _Range(msgspec.Struct, frozen=True):
    """The values an option allows: a number within bounds, or one of some words."""

    kinds: tuple[type, ...]
    lowest: float = 1
    words: tuple[str, ...] = ()

    def __contains__(self, value: Any) -> bool:
        if type(value) is str:
            return value in self.words
        return type(value) in self.kinds and self.lowest <= value <= 1e9

    def __str__(self) -> str:
        words = " or ".join(map(repr, self.words))
        if not self.kinds:
            return words
        number = "a number" if float in self.kinds else "an integer"
        return f"{number} from {self.lowest:g} to 1e9{words and ', '}{words}"


_COUNT = _Range((int,))
_NUMBER = _Range((int, float), 1e-3)

_ALLOWED = {
    "max_concurrency": _Range((int,), words=("auto", "off")),
    "rpm": _NUMBER,
    "tpm": _NUMBER,
    "itpm": _NUMBER,
    "otpm": _NUMBER,
    "wait": _Range((int, float), 0),
    "connect_timeout": _NUMBER,
    "first_output_timeout": _NUMBER,
    "idle_timeout": _NUMBER,
    "max_images": _Range((int,), 0),
    "max_image_bytes": _COUNT,
    "max_image_dimension": _COUNT,
    "min_image_dimension": _COUNT,
    "max_pixels": _COUNT,
    "api": _Range((), words=("chat", "responses")),
}
"""The values each option allows."""


class Limits(msgspec.Struct, frozen=True):
    """Limits of a provider, or of one of its models: per minute, and at the same time.

    `rpm`: requests per minute. `tpm`: tokens per minute, input and output; `itpm` and `otpm`:
    input and output tokens per minute, for a provider that counts them separately.
    `max_concurrency`: streams at a time; "auto" finds the number, "off" sets no limit. None leaves
    a limit unset. Raises: ConfigError.
    """

    rpm: float | None = None
    tpm: float | None = None
    itpm: float | None = None
    otpm: float | None = None
    max_concurrency: int | Literal["auto", "off"] | None = None

    def __post_init__(self) -> None:
        _check(self)


class DsnOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The options a DSN may set; times are in seconds, sizes in bytes or pixels.

    The first five are those of `Limits`. `wait` is how long a chain waits for room at this
    provider before it moves on. Raises: ConfigError.
    """

    max_concurrency: int | Literal["auto", "off"] | None = None
    rpm: float | None = None
    tpm: float | None = None
    itpm: float | None = None
    otpm: float | None = None
    wait: float | None = None
    connect_timeout: float | None = None
    first_output_timeout: float | None = None
    idle_timeout: float | None = None
    max_images: int | None = None
    max_image_bytes: int | None = None
    max_image_dimension: int | None = None
    min_image_dimension: int | None = None
    max_pixels: int | None = None
    api: str | None = None

    def __post_init__(self) -> None:
        _check(self)

    @property
    def limits(self) -> Limits:
        """The limits among the options."""
        return Limits(self.rpm, self.tpm, self.itpm, self.otpm, self.max_concurrency)


def _check(settings: Limits | DsnOptions) -> None:
    for name in settings.__struct_fields__:
        value = getattr(settings, name)
        if value is not None and value not in _ALLOWED[name]:
            raise ConfigError(f"{name} is {_shown(value)}: expected {_ALLOWED[name]}")


class Network(msgspec.Struct, frozen=True):
    """How a provider is reached, where that is not the usual way.

    `ca`: a PEM file of the authorities to trust, in place of the system's. `cert`: a PEM file
    with the client's certificate, followed by its chain; `key` is the file of its key, if that is
    another one. `verify`: False trusts any server. `proxy`: the URL of an http or https proxy,
    with `user:password@` before the host if it needs one. `socket`: the path of a unix socket.
    Files are read before the first request. Raises: ConfigError.
    """

    ca: str = ""
    cert: str = ""
    key: str = ""
    verify: bool = True
    proxy: str = ""
    socket: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            return  # the usual way
        from aiollm._settings import network as checks  # most providers need none of them

        for name in ("ca", "cert", "key", "socket"):
            force_setattr(self, name, checks.checked_path(name, getattr(self, name)))
        if self.key and not self.cert:
            raise ConfigError("key is set without cert: set the certificate that it belongs to")
        if self.ca and not self.verify:
            raise ConfigError("ca has no effect with verify off: remove one of the two")
        if self.socket and self.proxy:
            raise ConfigError("a unix socket is not reached through a proxy")
        if self.proxy:
            force_setattr(self, "proxy", checks.checked_proxy(self.proxy))

    def __repr__(self) -> str:
        return f"Network({self.label})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return [("", self.label)]  # rich would show the login of the proxy

    def __copy__(self) -> Network:
        return self

    def __deepcopy__(self, _memo: object) -> Network:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.proxy_login:
            raise TypeError(NOT_PICKLED)
        return Network, astuple(self)

    @property
    def proxy_place(self) -> str:
        """The URL of the proxy without credentials, "" without a proxy."""
        scheme, separator, place = self.proxy.partition("://")
        return f"{scheme}{separator}{place.rpartition('@')[2]}"

    @property
    def proxy_login(self) -> tuple[str, str] | None:
        """User and password of the proxy, None if it needs none."""
        login, at, _ = self.proxy.partition("://")[2].rpartition("@")
        user, _, password = login.partition(":")
        return (unquoted(user), unquoted(password)) if at else None

    @property
    def tls(self) -> tuple[str, str, str, bool]:
        """The settings of TLS: connections with different ones are never shared."""
        return self.ca, self.cert, self.key, self.verify

    @property
    def label(self) -> str:
        """The settings as text, without secrets; "" for the usual way."""
        parts = (
            self.socket and f"unix:{self.socket}",
            self.proxy and f"via {self.proxy_place}",
            self.ca and f"ca {self.ca}",
            self.cert and f"cert {self.cert}",
            self.key and f"key {self.key}",
            "" if self.verify else "verify off",
        )
        return ", ".join(filter(None, parts))


DIRECT = Network()
"""The usual way: no proxy, and TLS as the system has it."""


class Dsn(msgspec.Struct, frozen=True):
    """A parsed DSN; `secure` is None when the scheme's default applies."""

    scheme: str
    host: str
    port: int | None = None
    path: str = ""
    token: Secret | None = None
    secure: bool | None = None
    options: DsnOptions = DsnOptions()
    headers: dict[str, str] = {}
    query: dict[str, str] = {}
    network: Network = DIRECT

    def base_url(self, *, plain: bool = False) -> str:
        """Return the URL without a trailing slash; `plain` means the scheme defaults to http."""
        secure = self.secure if self.secure is not None else not plain
        port = f":{self.port}" if self.port is not None else ""
        return f"{'https' if secure else 'http'}://{self.host}{port}{self.path}"


_KEYS = ("sk-", "gsk_", "aiza", "xai-", "hf_")
"""Prefixes of providers' keys; a key mistaken for a host would be shown and looked up in DNS."""


def parse_dsn(text: str, variable: str = "DSN") -> Dsn:
    """Parse a DSN. Raises: ConfigError that names `variable` and never holds the token."""
    reason = ""
    try:
        return _parse(text)
    except ConfigError as error:
        reason = error.message
    finally:
        del text  # tools show the variables of the frames that an error passes
    # Raised outside the handler: its traceback leads to frames whose variables hold the token.
    raise ConfigError(f"{variable}: {reason}")


def _parse(text: str) -> Dsn:
    if not isinstance(text, str):
        raise ConfigError(f"a DSN is a str, not of type {type(text).__name__}")
    scheme, separator, rest = text.strip().partition("://")
    if not separator:
        raise ConfigError(
            "not a DSN: expected scheme://[token@]host[:port][/path][?option=value] or alias:spec"
        )
    kind, plus, transport = scheme.lower().partition("+")
    if not kind.replace("-", "").replace("_", "").isalnum():
        raise ConfigError("the scheme is not a name of letters and digits, such as openai")
    if plus and transport not in ("http", "https", "unix"):
        raise ConfigError("only +http, +https or +unix may follow the scheme")
    if any(char in " #\\" or not char.isprintable() for char in rest) or not rest.isascii():
        raise ConfigError(
            "'#', '\\', white space, control and non-ASCII characters must be percent-encoded"
        )
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    if "@" in path or any("@" in item for item in _items(query) if item[:6] != "proxy="):
        raise ConfigError("found an '@' after the host: percent-encode '/' and '?' in the token")
    if any(unquoted(segment) in (".", "..") for segment in path.split("/")):
        raise ConfigError("the path must not contain '.' or '..': write the path they lead to")
    token, _, place = authority.rpartition("@")
    socket = ""
    if transport == "unix":
        place, path, socket = _socket(place, slash + path)
    host, port = _place(place)
    return Dsn(
        scheme=kind,
        host=host,
        port=port,
        path=path.rstrip("/") if socket else (slash + path).rstrip("/"),
        token=Secret(unquoted(token)) if token else None,
        secure=(transport == "https") if plus else None,
        **_settings(query, socket),
    )


def _socket(place: str, path: str) -> tuple[str, str, str]:
    """Return host, path of the base URL, and path of the socket.

    A path of the URL may follow a socket that is written as a host: `%2Frun%2Fa.sock/v1`.
    """
    socket, path = (unquoted(place), path) if place else (unquoted(path), "")
    if not socket.startswith("/") or socket.endswith("/"):
        raise ConfigError("expected the path of a unix socket, as in openai+unix:///run/llama.sock")
    return "localhost", path, socket


def _place(place: str) -> tuple[str, int | None]:
    found = re.fullmatch(_PLACE, place.lower())
    host, port = found.groups() if found else ("", None)
    from aiollm._settings.network import is_host  # when the first DSN is parsed

    if not is_host(host):
        raise ConfigError("the host is missing or invalid")
    if host.startswith(_KEYS) and "." not in host:
        raise ConfigError("found an API key where the host should be: write scheme://key@host")
    if port is None:
        return host, None
    if not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
        raise ConfigError("the port is not a number from 1 to 65535")
    return host, int(port)


def _items(query: str) -> list[str]:
    return [item for item in query.split("&") if item]


def _settings(query: str, socket: str) -> dict[str, Any]:
    """Return what the options set: fields of `Dsn`. Raises: ConfigError, which shows no value."""
    options: dict[str, Any] = {}
    network: dict[str, Any] = {"socket": socket} if socket else {}
    added: dict[str, dict[str, Any]] = {"header": HiddenValues(), "query": HiddenValues()}
    for item in _items(query):
        name, equals, text = item.partition("=")
        name, value = unquoted(name), unquoted(text)
        kind, dot, key = name.partition(".")
        if dot and kind in added:
            place, name = added[kind], key
        elif name in DsnOptions.__struct_fields__:
            place, value = options, _option(name, value)
        elif name in _NETWORK:
            place, value = network, _network_option(name, value)
        else:
            raise _unknown(name if equals else "")
        if name in place:
            raise ConfigError(f"option {kind + dot + key!r} is set twice")
        place[name] = value
    if added["header"] or added["query"]:
        from aiollm._settings.network import check_settings  # few providers add anything

        check_settings(added["header"], added["query"])
    return {
        "options": DsnOptions(**options),
        "headers": added["header"],
        "query": added["query"],
        "network": Network(**network) if network else DIRECT,
    }


def _network_option(name: str, text: str) -> Any:
    if not text:
        raise ConfigError(f"option {name!r} is empty")
    if name != "verify":
        return text
    if text not in ("on", "off"):
        raise ConfigError("option 'verify': expected 'on' or 'off'")
    return text == "on"


def _option(name: str, text: str) -> Any:
    """Return the value of an option. Raises: ConfigError, which never shows `text`."""
    value = None
    with suppress(msgspec.ValidationError):
        value = getattr(msgspec.convert({name: text}, DsnOptions, strict=False), name)
    if value is None:
        raise ConfigError(f"option {name!r}: expected {_ALLOWED[name]}")
    return value


def _unknown(name: str) -> ConfigError:
    from aiollm._settings.network import unknown_option  # most programs never need it

    known = (*DsnOptions.__struct_fields__, *_NETWORK, "header.NAME", "query.NAME")
    # A misplaced key also ends up here, so only what looks like an option is shown.
    return unknown_option(name, known, is_shown=bool(re.fullmatch(_OPTION, name)))
