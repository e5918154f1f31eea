"""The services: one row per scheme, and the two ways to make a provider from a row."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.dsn import Dsn, Secret
from aiollm.errors import ConfigError
from aiollm.provider import Codec, Operation, Provider
from aiollm.providers import urls
from aiollm.providers.lazy import LazyCodecs, codec_named
from aiollm.spec import variable_of

__all__ = ["BUILTINS", "SCHEMES", "Scheme", "builtin", "codec_of", "from_dsn", "merged_headers"]


class Scheme(msgspec.Struct, frozen=True):
    """A kind of service: its wire, its home, and the variables that configure it.

    `home`: the built-in's base URL, "" if there is none; `example` is then the DSN to show.
    `hosts`: the vendor's own hosts. Only they, and the host in `base_variable`, may be sent a key
    from the environment. `keys`: the variables for it, the first one set wins, each with the
    prefix of its key on the wire if the codec needs one. `apis`: the values of the option `api`;
    `own_api` is the default on the vendor's own hosts. `capability_family`: the family whose
    capability rows apply, if it is not the codec's.

    `operations`: the codecs for work other than chat, the preferred one first. All codecs are
    named as "module:Class", so that a program imports only those it uses, when it uses them.
    """

    name: str
    codec: str
    complete: Callable[[str], str]
    plain: bool = False
    home: str = ""
    example: str = ""
    hosts: tuple[str, ...] = ()
    keys: dict[str, str] = {}
    base_variable: str = ""
    read_base: Callable[[str], str] = str
    header_variables: tuple[tuple[str, str], ...] = ()
    apis: dict[str, str] = {}
    own_api: str = ""
    capability_family: str = ""
    operations: dict[str, tuple[str, ...]] = {}

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables for the key and for the base URL of the built-in."""
        return (*self.keys, *filter(None, [self.base_variable]))

    def make_codec(self, api: str = "") -> Codec:
        """Return the codec for one of the scheme's values of the option `api`."""
        name = self.apis[api] if api else self.codec
        codec: Codec = codec_named(name, _FAMILIES[name])
        return codec

    def owns_host(self, host: str) -> bool:
        """Return whether `host` belongs to the vendor."""
        return any(matches(host, own) for own in self.hosts)

    def owns(self, dsn: Dsn) -> bool:
        """Return whether a DSN is for one of the vendor's own hosts, over TLS."""
        secure = dsn.secure if dsn.secure is not None else not self.plain
        return self.owns_host(dsn.host) and secure and dsn.port in (None, 443)


_CHAT = "aiollm.providers.openai.chat_codec:ChatCodec"
_RESPONSES = "aiollm.providers.openai.responses_codec:ResponsesCodec"
_MESSAGES = "aiollm.providers.anthropic.codec:AnthropicCodec"
_GEMINI = "aiollm.providers.google.codec:GoogleCodec"
_OLLAMA_CHAT = "aiollm.providers.ollama.codec:OllamaCodec"
_LLAMA_SWAP_CHAT = "aiollm.providers.llama_swap.codec:LlamaSwapCodec"
_FAMILIES = {
    _CHAT: "openai",
    _RESPONSES: "openai-responses",
    _MESSAGES: "anthropic",
    _GEMINI: "google",
    _OLLAMA_CHAT: "ollama",
    _LLAMA_SWAP_CHAT: "openai",
}
"""The family of each codec, which is known before the codec is imported."""
_OLLAMA_OPERATIONS: dict[str, tuple[str, ...]] = {
    "embed": ("aiollm.providers.ollama.embed_codec:OllamaEmbeddings",)
}

_OPENAI = Scheme(
    "openai",
    _CHAT,
    urls.openai_path,
    home="https://api.openai.com",
    hosts=("api.openai.com", "*.api.openai.com"),
    keys={"OPENAI_API_KEY": ""},
    base_variable="OPENAI_BASE_URL",
    header_variables=(
        ("OpenAI-Organization", "OPENAI_ORG_ID"),
        ("OpenAI-Project", "OPENAI_PROJECT_ID"),
    ),
    apis={"chat": _CHAT, "responses": _RESPONSES},
    own_api="responses",
    operations={
        "images": ("aiollm.providers.openai.images_codec:OpenAIImages",),
        "embed": (
            "aiollm.providers.openai.embed_codec:OpenAIEmbeddings",
            "aiollm.providers.openai.embed_codec:PlainEmbeddings",
        ),
        "rerank": ("aiollm.providers.openai.rerank_codec:CohereRerank",),
    },
)
_ANTHROPIC = Scheme(
    "anthropic",
    _MESSAGES,
    urls.anthropic_path,
    home="https://api.anthropic.com",
    hosts=("api.anthropic.com",),
    keys={"ANTHROPIC_API_KEY": "", "ANTHROPIC_AUTH_TOKEN": "Bearer "},
    base_variable="ANTHROPIC_BASE_URL",
)
_GOOGLE = Scheme(
    "google",
    _GEMINI,
    urls.google_path,
    home="https://generativelanguage.googleapis.com",
    hosts=("generativelanguage.googleapis.com",),
    keys={"GOOGLE_API_KEY": "", "GEMINI_API_KEY": ""},
    base_variable="GOOGLE_GEMINI_BASE_URL",
    operations={
        "images": ("aiollm.providers.google.images_codec:GoogleImages",),
        "embed": ("aiollm.providers.google.embed_codec:GoogleEmbeddings",),
    },
)
_OLLAMA = Scheme(
    "ollama",
    _OLLAMA_CHAT,
    urls.ollama_path,
    home=f"http://127.0.0.1:{urls.OLLAMA_PORT}",
    hosts=("ollama.com",),
    keys={"OLLAMA_API_KEY": ""},
    base_variable="OLLAMA_HOST",
    read_base=urls.ollama_url,
    operations=_OLLAMA_OPERATIONS,
)
_OLLAMA_CLOUD = Scheme(
    "ollama-cloud",
    _OLLAMA_CHAT,
    urls.ollama_path,
    home="https://ollama.com",
    hosts=("ollama.com",),
    keys={"OLLAMA_API_KEY": ""},
    base_variable="OLLAMA_CLOUD_BASE_URL",
    operations=_OLLAMA_OPERATIONS,
)
_FOREMAN = Scheme(
    "foreman",
    _OLLAMA_CHAT,
    urls.ollama_path,
    example="foreman://TOKEN@host",
    operations=_OLLAMA_OPERATIONS,
)
_LLAMA_SWAP = Scheme(
    "llama-swap",
    _LLAMA_SWAP_CHAT,
    urls.llama_swap_path,
    plain=True,
    example="llama-swap://[TOKEN@]host:8080",
    capability_family="llama-swap",
    operations={
        "images": (
            "aiollm.providers.llama_swap.images_codec:LlamaSwapImages",
            "aiollm.providers.llama_swap.images_codec:SdapiImages",
        ),
        "embed": (
            "aiollm.providers.llama_swap.retrieval_codecs:LlamaSwapEmbeddings",
            "aiollm.providers.llama_swap.retrieval_codecs:PlainLlamaSwapEmbeddings",
        ),
        "rerank": ("aiollm.providers.llama_swap.retrieval_codecs:LlamaSwapRerank",),
    },
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
"""Names that exist without a DSN; foreman and llama-swap only to explain what to set."""


def from_dsn(name: str, dsn: Dsn, env: Mapping[str, str], scheme: Scheme) -> Provider:
    """Make the provider that a DSN describes.

    Without a token, the vendor's key variable is used, but only for the vendor's own hosts.
    Raises: ConfigError that names the variable.
    """
    if dsn.token is not None or not scheme.owns(dsn):
        return _provider(name, dsn, scheme, dsn.token, {})
    token = _vendor_key(scheme, env)
    if token is None:
        raise ConfigError(
            f"{variable_of(name)}: no key for {dsn.host}: put it before the host "
            f"({dsn.scheme}://KEY@{dsn.host}) or set {' or '.join(scheme.keys)}"
        )
    return _provider(name, dsn, scheme, token, _vendor_headers(scheme, env))


def builtin(name: str, env: Mapping[str, str]) -> Provider:
    """Make a built-in provider from its vendor's variables. Raises: ConfigError."""
    scheme = SCHEMES[name]
    if not scheme.home:
        raise ConfigError(
            f"{name!r} has no server of its own: set {variable_of(name)}={scheme.example}"
        )
    given = env.get(scheme.base_variable, "").strip()
    url = scheme.read_base(given) if given else scheme.home
    dsn = urls.parse_url(url, scheme.base_variable)
    token = _vendor_key(scheme, env)
    if token is None and scheme.owns(dsn):
        raise ConfigError(
            f"no key for {name!r}: set {' or '.join(scheme.keys)}, "
            f"or {variable_of(name)}={scheme.name}://KEY@{dsn.host}"
        )
    headers = _vendor_headers(scheme, env) if token is not None else {}
    return _provider(name, dsn, scheme, token, headers)


def codec_of(scheme: str, api: str = "") -> Codec:
    """Return the codec of a scheme, for another service with the same wire.

    `api` is the DSN option of that name. Raises: ConfigError for an unknown scheme or `api`.
    """
    row = SCHEMES.get(scheme)
    if row is None:
        raise ConfigError(f"unknown scheme {scheme!r} (known: {', '.join(SCHEMES)})")
    if api and api not in row.apis:
        raise ConfigError(f"{scheme} has no api {api!r} (known: {', '.join(row.apis) or 'none'})")
    return row.make_codec(api)


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
        headers=merged_headers(headers, dsn.headers),
        query=dsn.query,
        network=dsn.network,
        options=dsn.options,
        capability_family=scheme.capability_family,
        operations=_operations(scheme),
    )


def merged_headers(headers: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """Return headers with more of them, which replace those of the same name in any case."""
    names = {name.lower() for name in given}
    kept = {name: value for name, value in headers.items() if name.lower() not in names}
    return {**kept, **given}


def _codec(name: str, dsn: Dsn, scheme: Scheme) -> Codec:
    api = dsn.options.api or (scheme.own_api if scheme.owns_host(dsn.host) else "")
    if api and api not in scheme.apis:
        raise ConfigError(f"{variable_of(name)}: {scheme.name} has no option 'api'")
    return scheme.make_codec(api)


def _operations(scheme: Scheme) -> dict[str, Operation]:
    return {name: Operation(LazyCodecs(codecs)) for name, codecs in scheme.operations.items()}


def _vendor_key(scheme: Scheme, env: Mapping[str, str]) -> Secret | None:
    for variable, prefix in scheme.keys.items():
        if value := _value(variable, env):
            return Secret(prefix + value)
    return None


def _value(variable: str, env: Mapping[str, str]) -> str:
    """Return a variable's value, checked for use in a header, "" if unset. Raises: ConfigError."""
    value = env.get(variable, "").strip()
    if not (value.isascii() and value.isprintable()):
        del value  # tools show the variables of the frames that an error passes
        raise ConfigError(f"{variable} holds a control byte or a character outside ASCII")
    return value


def _vendor_headers(scheme: Scheme, env: Mapping[str, str]) -> dict[str, str]:
    given = {header: _value(variable, env) for header, variable in scheme.header_variables}
    return {header: value for header, value in given.items() if value}
