"""Dialects of chat completions: the names that hosts use, and the reasoning they accept back.

Sources, as of November 2026: the vendors' documentation, and reports of requests they refused. A
host without a row is treated like most servers, which ignore fields they do not know.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.providers.openai.chat_replay import (
    Replay,
    as_content,
    as_details,
    as_think_block,
    in_its_field,
    with_every_answer,
    with_every_call,
)
from aiollm.providers.openai.chat_think import ThinkTags
from aiollm.providers.openai.models import (
    ALIBABA_MODELS,
    ANY,
    ARK_MODELS,
    CEREBRAS_MODELS,
    COMPATIBLE_MODELS,
    DEEPSEEK_MODELS,
    EFFORTS,
    GEMINI_MODELS,
    GROQ_MODELS,
    MINIMAX_MODELS,
    MISTRAL_MODELS,
    MOONSHOT_MODELS,
    OPENAI_MODELS,
    PERPLEXITY_MODELS,
    SILICONFLOW_MODELS,
    XAI_MODELS,
    ZAI_MODELS,
    Model,
    Thinking,
)
from aiollm.types import Effort


class Dialect(msgspec.Struct, frozen=True):
    """How one kind of host reads a request; the defaults suit most servers.

    `cache`: how it is shown what to cache, "" if it has no such fields. `cache_key`: the field, or
    with dashes the header, by which requests go to one cache, and `key_models` those it knows that
    with; `responses_key` is the field in Responses.

    `max_tokens`, `seed` and `budget` (of reasoning, in tokens) are names of fields, `system` of a
    role. `usage_option`: usage must be requested. `padding`: send the option that controls
    OpenAI's padding of chunks. `replay`: how to send reasoning back, None if the host does not
    accept it. `short_call_ids`: ids must be nine letters and digits, as for Mistral. `alternates`:
    chat templates may refuse two messages of one role in a row, or a system message after the
    first. `answers_results`: an answer must stand between the results of tools and what the user
    says next. `json_with_tools`: a model that may call tools can be held to a schema; most servers
    hold all that it says to it, so that it calls none (llama.cpp and vLLM), or refuse both together
    (Groq, 2026). `think`: the tags in which the host writes reasoning at the start of its text.
    `signatures`: it needs the `extra_content` of messages and calls back; other hosts may refuse
    the field. `unsigned`: what it takes in place of a signature for a step of another model; "" if
    it needs none. `annotations`: it takes back what it parsed of documents, and other hosts may
    refuse the field. `chooses`: a choice of tools may be a list of them. `models`: what is known of
    the models it offers.
    """

    name: str
    hosts: tuple[str, ...] = ("*",)
    max_tokens: str = "max_tokens"
    seed: str = "seed"
    system: str = "system"
    usage_option: bool = True
    padding: bool | None = None
    thinking: Thinking = "reasoning_effort"
    efforts: tuple[Effort, ...] = EFFORTS
    budget: str = ""
    replay: Replay | None = None
    json_schema: bool = True
    json_with_tools: bool = False
    refusals: bool = False
    file_urls: bool = True
    short_call_ids: bool = False
    alternates: bool = False
    answers_results: bool = False
    think: ThinkTags | None = None
    signatures: bool = False
    unsigned: str = ""
    annotations: bool = False
    chooses: bool = False
    cache: Literal["", "openai", "anthropic"] = ""
    cache_key: str = ""
    responses_key: str = ""
    key_models: tuple[str, ...] = ("*",)
    models: tuple[Model, ...] = ANY


OPENAI = Dialect(
    "OpenAI",
    hosts=("api.openai.com", "*.api.openai.com"),
    max_tokens="max_completion_tokens",
    system="developer",
    padding=False,
    refusals=True,
    file_urls=False,  # a file is its bytes or an id (OpenAI, November 2026)
    chooses=True,
    cache="openai",
    cache_key="prompt_cache_key",
    responses_key="prompt_cache_key",
    json_with_tools=True,
    models=OPENAI_MODELS,
)
AZURE = Dialect(
    "Azure",
    hosts=("*.openai.azure.com", "*.cognitiveservices.azure.com", "*.services.ai.azure.com"),
    max_tokens="max_completion_tokens",
    system="developer",
    refusals=True,
    file_urls=False,
    chooses=True,
    cache="openai",
    cache_key="prompt_cache_key",
    responses_key="prompt_cache_key",
    # Kimi and others that Azure hosts refuse the field (reports of March and August 2026).
    key_models=("gpt-[0-9]*", "chatgpt-*", "codex-*", "o[1-9]*"),
    json_with_tools=True,
    models=OPENAI_MODELS,
)
_AZURE_PARTNERS = msgspec.structs.replace(AZURE, max_tokens="max_tokens", system="system")
OPENROUTER = Dialect(
    "OpenRouter",
    hosts=("openrouter.ai", "*.openrouter.ai"),
    thinking="openrouter",
    budget="max_tokens",
    replay=as_details,
    annotations=True,
    # It turns the marks into those of the model's maker (docs, November 2026).
    cache="anthropic",
    cache_key="session_id",
    responses_key="session_id",
    json_with_tools=True,
)
DEEPSEEK = Dialect(
    "DeepSeek",
    hosts=("api.deepseek.com",),
    thinking="deepseek",
    efforts=("none", "low", "high", "max"),
    replay=with_every_answer,
    json_schema=False,
    models=DEEPSEEK_MODELS,
)
GROQ = Dialect(
    "Groq",
    hosts=("api.groq.com",),
    max_tokens="max_completion_tokens",
    efforts=("none", "low", "medium", "high"),
    think=ThinkTags(),  # with reasoning_format raw, its default for Qwen (docs, November 2026)
    models=GROQ_MODELS,
)
MISTRAL = Dialect(
    "Mistral",
    hosts=("api.mistral.ai",),
    seed="random_seed",
    usage_option=False,
    replay=as_content,
    short_call_ids=True,
    answers_results=True,
    cache_key="prompt_cache_key",  # docs, November 2026
    json_with_tools=True,
    models=MISTRAL_MODELS,
)
STRICT = Dialect(
    "this host",
    hosts=("api.cerebras.ai",),
    models=CEREBRAS_MODELS,
)
XAI = Dialect(
    "this host",
    hosts=("api.x.ai", "*.x.ai"),
    cache_key="x-grok-conv-id",  # in Responses it is a field (docs, November 2026)
    responses_key="prompt_cache_key",
    json_with_tools=True,
    models=XAI_MODELS,
)
GEMINI = Dialect(
    "Gemini",
    hosts=("generativelanguage.googleapis.com", "*aiplatform.googleapis.com"),
    # Where thoughts are requested; every piece of them is marked, too (streams, September 2026).
    think=ThinkTags("<thought>", "</thought>"),
    signatures=True,
    models=GEMINI_MODELS,
)
PERPLEXITY = Dialect(
    "Perplexity",
    hosts=("api.perplexity.ai",),
    think=ThinkTags(),  # sonar-reasoning-pro, even before JSON (FAQ, November 2026)
    replay=in_its_field,
    models=PERPLEXITY_MODELS,
)
MINIMAX = Dialect(
    "MiniMax",
    hosts=("api.minimax.io", "api.minimaxi.com"),
    think=ThinkTags(),  # M2 and M3, unless reasoning_split is set (2026)
    replay=as_think_block,
    models=MINIMAX_MODELS,
)
COMPATIBLE = Dialect(
    "this server",
    budget="thinking_budget_tokens",
    replay=in_its_field,
    signatures=True,
    # llama.cpp, vLLM and SGLang run the model's own template. Those of Gemma, Mistral and Qwen end
    # the request with an exception, which llama.cpp answers as a 500 (October 2026).
    alternates=True,
    models=COMPATIBLE_MODELS,
)
FIREWORKS = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("api.fireworks.ai",),
    cache_key="x-session-affinity",  # its replicas have caches of their own (2026)
)
MOONSHOT = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("api.moonshot.ai", "api.moonshot.cn", "api.kimi.com"),
    budget="",
    cache_key="prompt_cache_key",  # as Moonshot's own program sends it (August 2026)
    replay=with_every_call,
    models=MOONSHOT_MODELS,
)
ZAI = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("api.z.ai", "open.bigmodel.cn"),
    budget="",
    models=ZAI_MODELS,
)
XIAOMI = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("*.xiaomimimo.com",),
    replay=with_every_answer,
    budget="",
    thinking="toggle",
)
# Until Qwen 3.8, Alibaba reads no effort of its own models but a switch and a budget (2026).
ALIBABA = msgspec.structs.replace(
    COMPATIBLE,
    name="Alibaba",
    hosts=("*dashscope*.aliyuncs.com", "*.maas.aliyuncs.com"),
    thinking="tokens",
    budget="",
    models=ALIBABA_MODELS,
)
# Volcengine's and BytePlus's: only a switch turns reasoning off, of most models (August 2026).
ARK = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("ark.*.volces.com", "ark.*.bytepluses.com"),
    thinking="deepseek",
    budget="",
    models=ARK_MODELS,
)
COHERE = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("api.cohere.ai", "api.cohere.com"),
    efforts=("none", "high"),
    budget="",
)
SILICONFLOW = msgspec.structs.replace(
    COMPATIBLE,
    name="SiliconFlow",
    hosts=("api.siliconflow.cn", "api.siliconflow.com"),
    thinking="tokens",
    budget="",
    models=SILICONFLOW_MODELS,
)
VERCEL = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("ai-gateway.vercel.sh",),
    thinking=OPENROUTER.thinking,
    efforts=OPENROUTER.efforts,
    budget=OPENROUTER.budget,
    replay=as_details,
)
SNOWFLAKE = msgspec.structs.replace(
    COMPATIBLE,
    hosts=("*.snowflakecomputing.com",),
    budget="",
    replay=as_details,
)

DIALECTS = (
    OPENAI,
    AZURE,
    OPENROUTER,
    DEEPSEEK,
    GROQ,
    MISTRAL,
    STRICT,
    XAI,
    GEMINI,
    PERPLEXITY,
    MINIMAX,
    FIREWORKS,
    MOONSHOT,
    ZAI,
    XIAOMI,
    ALIBABA,
    SILICONFLOW,
    ARK,
    COHERE,
    VERCEL,
    SNOWFLAKE,
    COMPATIBLE,
)
"""The first dialect whose hosts match applies."""


@lru_cache(maxsize=256)
def dialect_of(host: str) -> Dialect:
    """Return the dialect of a `host[:port]`."""
    name = host.rpartition(":")[0] or host
    return next(row for row in DIALECTS if any(matches(name, own) for own in row.hosts))


_UNSIGNED = "skip_thought_signature_validator"
"""Google's placeholder for the signature of a call that another model made."""

_SIGNING = re.compile(r"gemini-(?![12](?!\d))")
"""Gemini refuses unsigned calls since its third generation, which names without one mean."""

_MISTRALS = re.compile(r"(?:mi(?:ni)?|magi|dev|code)stral|(?:pi|mi|vo)xtral", re.IGNORECASE)


_PARTNERS = re.compile(r"deepseek|llama|kimi|grok|qwen|glm|minimax|command|phi-\d", re.IGNORECASE)


@lru_cache(maxsize=256)
def suited(dialect: Dialect, model: str) -> Dialect:
    """Return the dialect of a model, whose template its server runs.

    Groq refuses every effort but "none" for Qwen (2026). Mistral's templates refuse a user's
    message after results of tools ("Unexpected role 'user' after role 'tool'", its API and vLLM,
    2025; the templates for llama.cpp, 2026). Gemini 3 refuses a step whose first call is not
    signed, on this wire, too (2026). Of models of other makers, Azure's Mistral refuses OpenAI's
    newer names (July 2026).
    """
    if dialect is AZURE and (_PARTNERS.search(model) or _MISTRALS.search(model)):
        dialect = _AZURE_PARTNERS
    if dialect is GROQ and "qwen" in model.lower():
        return msgspec.structs.replace(dialect, thinking="switch")
    if dialect is GEMINI and _SIGNING.search(model):
        return msgspec.structs.replace(dialect, unsigned=_UNSIGNED)
    if dialect.answers_results or not _MISTRALS.search(model):
        return dialect
    return msgspec.structs.replace(dialect, answers_results=True)


@lru_cache(maxsize=256)
def model_of(name: str, dialect: Dialect) -> Model:
    """Return the facts about a model of a host."""
    return next(row for row in dialect.models if any(matches(name, own) for own in row.names))
