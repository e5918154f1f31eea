"""The services: one row per scheme, and the two ways from a row to a provider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

import msgspec

from aiollm.dsn import Dsn, Secret
from aiollm.errors import ConfigError
from aiollm.provider import Codec, ImageCodec, Operation, Provider
from aiollm.providers import urls

__all__ = ["BUILTINS", "SCHEMES", "Scheme", "builtin", "from_dsn"]


class Scheme(msgspec.Struct, frozen=True):
    """A kind of service: how it is spoken to, where its home is, which variables it reads.

    `home` is the built-in's base URL, empty where there is none; `example` is the DSN to show
    then. `hosts` are the vendor's own hosts: only they, and what `base_variable` names, may be
    sent a key from the variables in `keys` (the first that is set wins), each with what stands
    before it on the wire, where the codec must be told. `apis` are the values of the option
    `api`, of which `own_api` is the default on the vendor's own hosts. `rows` is the family of
    capability rows where it is not the codec's; `images` makes the codecs for making images.
    """

    name: str
    codec: Callable[[], Codec]
    complete: Callable[[str], str]
    plain: bool = False
    home: str = ""
    example: str = ""
    hosts: tuple[str, ...] = ()
    keys: dict[str, str] = {}
    base_variable: str = ""
    read_base: Callable[[str], str] = str
    header_variables: tuple[tuple[str, str], ...] = ()
    apis: dict[str, Callable[[], Codec]] = {}
    own_api: str = ""
    rows: str = ""
    images: Callable[[], tuple[ImageCodec, ...]] | None = None

    def owns_host(self, host: str) -> bool:
        """Say whether `host` is one of the vendor's own."""
        return any(fnmatchcase(host, own) for own in self.hosts)

    def owns(self, dsn: Dsn) -> bool:
        """Say whether a DSN names one of the vendor's own hosts, over TLS."""
        secure = dsn.secure if dsn.secure is not None else not self.plain
        return self.owns_host(dsn.host) and secure and dsn.port in (None, 443)


# The codecs are imported where they are used, so that a program pays for those it speaks.


def _chat() -> Codec:
    from aiollm.providers.openai.chat_codec import ChatCodec

    return ChatCodec()


def _responses() -> Codec:
    from aiollm.providers.openai.responses_codec import ResponsesCodec

    return ResponsesCodec()


def _openai_images() -> tuple[ImageCodec, ...]:
    from aiollm.providers.openai.images_codec import OpenAIImages

    return (OpenAIImages(),)


def _google_images() -> tuple[ImageCodec, ...]:
    from aiollm.providers.google.images_codec import GoogleImages

    return (GoogleImages(),)


def _llama_swap_images() -> tuple[ImageCodec, ...]:
    from aiollm.providers.llama_swap.images_codec import LlamaSwapImages, SdapiImages

    return (LlamaSwapImages(), SdapiImages())


def _anthropic() -> Codec:
    from aiollm.providers.anthropic.codec import AnthropicCodec

    return AnthropicCodec()


def _google() -> Codec:
    from aiollm.providers.google.codec import GoogleCodec

    return GoogleCodec()


def _ollama() -> Codec:
    from aiollm.providers.ollama.codec import OllamaCodec

    return OllamaCodec()


def _llama_swap() -> Codec:
    from aiollm.providers.llama_swap.codec import LlamaSwapCodec

    return LlamaSwapCodec()


_OPENAI = Scheme(
    "openai",
    _chat,
    urls.openai_path,
    home="https://api.openai.com",
    hosts=("api.openai.com", "*.api.openai.com"),
    keys={"OPENAI_API_KEY": ""},
    base_variable="OPENAI_BASE_URL",
    header_variables=(
        ("OpenAI-Organization", "OPENAI_ORG_ID"),
        ("OpenAI-Project", "OPENAI_PROJECT_ID"),
    ),
    apis={"chat": _chat, "responses": _responses},
    own_api="responses",
    images=_openai_images,
)
_ANTHROPIC = Scheme(
    "anthropic",
    _anthropic,
    urls.anthropic_path,
    home="https://api.anthropic.com",
    hosts=("api.anthropic.com",),
    keys={"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": "Bearer "},
    base_variable="ANTHROPIC_BASE_URL",
)
_GOOGLE = Scheme(
    "google",
    _google,
    urls.google_path,
    home="https://generativelanguage.googleapis.com",
    hosts=("generativelanguage.googleapis.com",),
    keys={"GOOGLE_API_KEY": "", "GEMINI_API_KEY": ""},
    base_variable="GOOGLE_GEMINI_BASE_URL",
    images=_google_images,
)
_OLLAMA = Scheme(
    "ollama",
    _ollama,
    urls.ollama_path,
    home=f"http://127.0.0.1:{urls.OLLAMA_PORT}",
    hosts=("ollama.com",),
    keys={"OLLAMA_API_KEY": ""},
    base_variable="OLLAMA_HOST",
    read_base=urls.ollama_url,
)
_OLLAMA_CLOUD = Scheme(
    "ollama-cloud",
    _ollama,
    urls.ollama_path,
    home="https://ollama.com",
    hosts=("ollama.com",),
    keys={"OLLAMA_API_KEY": ""},
    base_variable="OLLAMA_CLOUD_BASE_URL",
)
_FOREMAN = Scheme("foreman", _ollama, urls.ollama_path, example="foreman://TOKEN@host")
_LLAMA_SWAP = Scheme(
    "llama-swap",
    _llama_swap,
    urls.llama_swap_path,
    plain=True,
    example="llama-swap://[TOKEN@]host:8080",
    rows="llama-swap",
    images=_llama_swap_images,
)

SCHEMES: dict[str, Scheme] = {
    row.name: row
    for row in (
        _OPENAI,
        _ANTHROPIC,
        _GOOGLE,
        msgspec.structs.replace(_GOOGLE, name="gemini"),
        _OLLAMA,
        _OLLAMA_CLOUD,
        _FOREMAN,
        _LLAMA_SWAP,
        msgspec.structs.replace(_LLAMA_SWAP, name="llama-swaps", plain=False),
    )
}
"""All schemes by name."""

BUILTINS: tuple[str, ...] = tuple(name for name in SCHEMES if name != "llama-swaps")
"""Names that exist without a DSN; foreman and llama-swap only to say what to set."""


def from_dsn(name: str, dsn: Dsn, env: Mapping[str, str], scheme: Scheme) -> Provider:
    """Make the provider that a DSN describes.

    The vendor's key variable stands in for a missing token on the vendor's own host alone.
    Raises: ConfigError that names the variable.
    """
    if dsn.token is not None or not scheme.owns(dsn):
        return _provider(name, dsn, scheme, dsn.token, {})
    token = _vendor_key(scheme, env)
    if token is None:
        raise ConfigError(
            f"{_variable(name)}: no key for {dsn.host}: put it before the host "
            f"({dsn.scheme}://KEY@{dsn.host}) or set {' or '.join(scheme.keys)}"
        )
    return _provider(name, dsn, scheme, token, _vendor_headers(scheme, env))


def builtin(name: str, env: Mapping[str, str]) -> Provider:
    """Make a built-in provider from its vendor's variables. Raises: ConfigError."""
    scheme = SCHEMES[name]
    if not scheme.home:
        raise ConfigError(
            f"{name!r} has no server of its own: set {_variable(name)}={scheme.example}"
        )
    given = env.get(scheme.base_variable, "").strip()
    url = scheme.read_base(given) if given else scheme.home
    dsn = urls.parse_url(url, scheme.base_variable)
    token = _vendor_key(scheme, env)
    if token is None and scheme.owns(dsn):
        raise ConfigError(
            f"no key for {name!r}: set {' or '.join(scheme.keys)}, "
            f"or {_variable(name)}={scheme.name}://KEY@{dsn.host}"
        )
    headers = _vendor_headers(scheme, env) if token is not None else {}
    return _provider(name, dsn, scheme, token, headers)


def _provider(
    name: str, dsn: Dsn, scheme: Scheme, token: Secret | None, headers: dict[str, str]
) -> Provider:
    place = msgspec.structs.replace(dsn, path=scheme.complete(dsn.path))
    return Provider(
        name=name,
        scheme=scheme.name,
        base_url=place.base_url(plain=scheme.plain),
        codec=_codec(name, dsn, scheme),
        token=token,
        headers=headers,
        options=dsn.options,
        rows=scheme.rows,
        operations={} if scheme.images is None else {"images": Operation(scheme.images)},
    )


def _codec(name: str, dsn: Dsn, scheme: Scheme) -> Codec:
    api = dsn.options.api or (scheme.own_api if scheme.owns_host(dsn.host) else "")
    if not api:
        return scheme.codec()
    if api not in scheme.apis:
        raise ConfigError(f"{_variable(name)}: {scheme.name} has no option 'api'")
    return scheme.apis[api]()


def _vendor_key(scheme: Scheme, env: Mapping[str, str]) -> Secret | None:
    for variable, prefix in scheme.keys.items():
        if value := _value(variable, env):
            return Secret(prefix + value)
    return None


def _value(variable: str, env: Mapping[str, str]) -> str:
    """Return a variable fit for a header, "" where it is not set. Raises: ConfigError."""
    value = env.get(variable, "").strip()
    if not (value.isascii() and value.isprintable()):
        raise ConfigError(f"{variable} holds a control byte or a character outside ASCII")
    return value


def _vendor_headers(scheme: Scheme, env: Mapping[str, str]) -> dict[str, str]:
    given = {header: _value(variable, env) for header, variable in scheme.header_variables}
    return {header: value for header, value in given.items() if value}


def _variable(name: str) -> str:
    return f"LLM_{name.upper().replace('-', '_')}"
