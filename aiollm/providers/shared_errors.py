"""Rows that several wires share: what the servers and relays behind them say.

OpenAI's and Anthropic's wires are spoken by dozens of servers, and what llama.cpp or Ollama says
arrives through any of them. Each row names who sends it, as documented or publicly reported by
November 2026. Codes come first, for they are exact. A text decides only between refusals, unless
it names one server's own phrase: a class that sets a target aside, asks it again or ends the call
must not be reached by common words.
"""

from __future__ import annotations

from aiollm.errors import (
    AuthenticationError,
    ContentFilterError,
    ContextLengthError,
    GenerationError,
    InvalidRequestError,
    ModelNotFoundError,
    OverloadedError,
    QuotaError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    UnsupportedFeatureError,
)
from aiollm.providers.error_bodies import BASE_RESP
from aiollm.providers.error_replies import Rule

_REFUSED = (0, 400, 404, 422)
"""Statuses of refusals, and of an error inside a stream."""

_FAILED = (0, 400, 422, 500)
"""The same, and the 500 that local servers send for any exception."""

_MINIMAX = (
    (RateLimitError, ("1002", "1039", "1041", "2045")),  # requests, tokens, connections, growth
    (AuthenticationError, ("1004", "2049")),
    (QuotaError, ("1008", "1028", "1030", "2056")),  # balance, quota, the plan's five hours
    (ContentFilterError, ("1026", "1027")),  # input, output
    (ModelNotFoundError, ("2061",)),  # the plan does not include the model
)
"""`base_resp.status_code`: MiniMax's page of error codes; 1028, 1030 and 2061 are those of its own
command line (both read in November 2026). The other codes say to try again later."""

_ZAI = (
    # No balance, the day's calls, and of a plan: five hours, its end, a week. From 1316 on the same
    # limits of plans with extra usage, which is spent, too.
    (QuotaError, ("1113", "1304", "1308", "1309", "1310", "1314", *map(str, range(1316, 1322)))),
    (RateLimitError, ("1302", "1303")),  # concurrency, frequency
    (OverloadedError, ("1305",)),
    (AuthenticationError, ("1315",)),  # the key is for another product
    (ContextLengthError, ("1261",)),
    (ContentFilterError, ("1301",)),
    (ModelNotFoundError, ("1211", "1311")),  # unknown, not in the plan
)
"""`error.code`: the pages of error codes of z.ai and bigmodel.cn (November 2026; 1303 and 1304 were
on those of 2025)."""

RUNNER_TEXTS = (
    Rule(
        GenerationError,
        status=_FAILED,
        texts=(
            "error parsing tool call",  # Ollama
            "xml syntax error",  # Ollama, of Qwen's calls
            "failed to parse tool call",  # llama.cpp
            "failed to parse input at pos",  # llama.cpp until 2026
            "the model produced output that does not match",  # llama.cpp
            "unexpected tokens remaining in message header",  # vLLM, of gpt-oss
            "while expecting start token",  # vLLM, of gpt-oss
            "tool call validation failed",  # Groq, where its code is lost
            "the model produced invalid content",  # OpenAI
        ),
    ),
    # With the 424 of Bedrock, which otherwise says that something behind it failed (2026).
    Rule(GenerationError, status=(0, 400, 424), texts=("invalid sequence as part of tooluse",)),
    # With a 400 it would be about the JSON of the request itself.
    Rule(GenerationError, status=500, texts=("[json.exception.parse_error",)),  # llama.cpp
    Rule(
        InvalidRequestError,
        status=_FAILED,
        texts=(
            "jinja exception",  # llama.cpp: the template refuses the roles or their order
            "raise_exception(",
            "while executing * at line * in source",
            "error rendering prompt with jinja template",  # LM Studio
            "jinja2.exceptions.",  # SGLang, and all in Python
            "template error:",  # Hugging Face's TGI
            "template: :*: executing",  # Ollama
            # What templates say themselves: llama-cpp-python, MLX and others pass on nothing else.
            "roles must alternate",  # Gemma, Llama 2, Mistral
            "roles are supported!",  # Mistral
            "system role not supported",  # Gemma
            "system message must be at the beginning",  # Qwen
            "unexpected message role",  # Qwen
            "no user query found in messages",  # Qwen
            "only supports single tool-calls at once",  # Llama 3
            "tools in the first user message when there",  # Llama 3
            "2 or more assistant messages at the end of the list",  # llama.cpp
            "unsupported content[].type",  # llama.cpp
            "failed to parse messages",  # llama.cpp
            "failed to parse tools",  # llama.cpp
            "failed to parse grammar",  # llama.cpp, of a schema
            "json schema conversion failed",  # llama.cpp
            "[json.exception.type_error",  # llama.cpp, of a field
            "must be larger than factor",  # Qwen-VL, of a tiny image
            "aspect ratio must be smaller than",  # Qwen-VL
            "failed to load image or audio file",  # llama.cpp
            "cannot identify image file",  # Pillow, in all that is written in Python
            "image file is truncated",  # Pillow
            "broken data stream when reading image file",  # Pillow
            "image: unknown format",  # Ollama
            "unable to infer channel dimension format",  # Transformers, of an image of a few pixels
            "channel dimension is ambiguous",  # Transformers
        ),
    ),
    Rule(
        ServerError,
        status=(0, 400),
        texts=(
            "failed to load model",  # LM Studio
            "the model has crashed",  # LM Studio
            "model unloaded",  # LM Studio
            "channel error",  # LM Studio: the model's process went away
            "degraded function cannot be invoked",  # NVIDIA
        ),
    ),
)
"""What runners of open models say, without codes, also through Ollama and other relays."""

SHARED_CODES = (
    *(Rule(kind, codes=codes, types=(BASE_RESP,)) for kind, codes in _MINIMAX),
    *(Rule(kind, codes=codes) for kind, codes in _ZAI),
    Rule(
        QuotaError,
        codes=(
            "exceeded_current_quota_error",  # Kimi
            "Arrearage",  # Alibaba
            "AllocationQuota.FreeTierOnly",  # Alibaba
            "quota_exceeded",  # GitHub Copilot
            "budget_exceeded",  # LiteLLM
            "blocked_api_access",  # Groq, with 400: the spend limit (its docs, November 2026)
            "usage_limit_reached",  # ChatGPT's plans (2026)
            "usage_not_included",  # ChatGPT's plans (2026)
            "AccountOverdueError",  # Volcengine
            "SetLimitExceeded",  # Volcengine, with 429: a limit of its owner
            "CreditsError",  # OpenCode, with 401
            "ServiceQuotaExceededException",  # AWS, with 400
            "PAYMENT_METHOD_REQUIRED",  # SambaNova (2026)
        ),
    ),
    Rule(AuthenticationError, codes=("organization_restricted",)),  # Groq, with 400 (2026)
    # LiteLLM without a database, of any key but its master key; with 503 the database is away.
    Rule(AuthenticationError, status=400, codes=("no_db_connection",)),
    Rule(
        OverloadedError,
        codes=(
            "engine_overloaded_error",  # Kimi
            "ServerOverloaded",  # Volcengine, with 429
            "capacity_exceeded",  # Groq's flex tier, with 498
            "ServiceUnavailableException",  # AWS
            "ModelNotReadyException",  # AWS
        ),
    ),
    Rule(
        ContentFilterError,
        codes=(
            "data_inspection_failed",  # Alibaba
            "DataInspectionFailed",
            "SensitiveContentDetected",  # Volcengine
            "InputTextSensitiveContentDetected",
            "OutputTextSensitiveContentDetected",
            "InputImageSensitiveContentDetected",
        ),
    ),
    Rule(
        GenerationError,
        codes=("tool_use_failed", "json_validate_failed", "output_parse_failed"),  # Groq
    ),
    Rule(
        ModelNotFoundError,
        codes=(
            "model_not_found",
            "model_not_supported",  # GitHub Copilot, Hugging Face
            "unsupported_api_for_model",  # GitHub Copilot
            "model_not_available",  # Together
            "model_decommissioned",  # Groq
            "model_terms_required",  # Groq
            "unknown_model",  # GitHub Models, Azure
            "unavailable_model",  # GitHub Models, Azure
            "invalid_model",  # Mistral, Perplexity
            "DeploymentNotFound",  # Azure
            "model_permission_blocked_org",  # Groq, with 403 (2026)
            "model_permission_blocked_project",
            "model_not_supported_on_free_tier",  # Nous
            "MODEL_NOT_FOUND",  # Novita
            "ENDPOINT_NOT_FOUND",  # Databricks
            "RESOURCE_DOES_NOT_EXIST",  # Databricks
            "ModelNotOpen",  # Volcengine
            "InvalidEndpointOrModel.NotFound",  # Volcengine
        ),
    ),
    Rule(
        UnsupportedFeatureError,
        codes=(
            "unsupported_parameter",
            "unsupported_value",
            "unknown_parameter",
            "not_supported_error",  # llama.cpp
            "extra_forbidden",  # pydantic
        ),
    ),
)
"""Codes and types that mean the same with any status."""

_ACCOUNT_TEXTS = (
    Rule(
        QuotaError,
        status=(0, 400, 403, 412, 429),
        texts=(
            "credit balance is too low",  # Anthropic
            "reached your*usage limit",  # Anthropic, Kimi, Ollama's cloud
            "usage limit for this billing cycle",  # Kimi, with 429 (2026)
            "out of extra usage",  # Anthropic
            "draw from your extra usage",  # Anthropic
            "have any credits yet",  # xAI
            "used all available credits",  # xAI
            "run out of credits",  # xAI
            "account balance is insufficient",  # SiliconFlow
            "is suspended, possibly due to",  # Fireworks, with 412: a bill, a limit (reports, 2026)
            "usage limit reached for",  # of a plan: MiniMax's and z.ai's on Anthropic's wire (2026)
            "free-models-per-day",  # OpenRouter
            "key limit exceeded",  # OpenRouter, with 403
            "insufficient balance",  # DeepSeek, where its 402 is lost (2026)
            "not enough balance",  # Novita, with 403
            "out of available resources",  # xAI's plans, with 403 (2026)
            "out of call volume quota",  # Azure's API management, with 403
            "daily free allocation",  # Cloudflare, with 429
        ),
    ),
    Rule(
        AuthenticationError,
        status=_REFUSED,
        texts=(
            "organization has been disabled",  # Anthropic
            "incorrect api key",  # xAI
            "invalid api key",
            "api key not valid",  # Google
            "pass a valid api key",  # Google
            "api key expired",  # Google
            "missing or invalid authorization header",  # Google
            "user location is not supported",  # Google
            "security token included in the request is",  # AWS
            "authorization header is badly formatted",  # GitHub Copilot
        ),
    ),
    Rule(
        ContentFilterError,
        status=(0, 400, 403),
        texts=(
            "blocked by content filtering policy",  # Anthropic
            "content exists risk",  # DeepSeek
            "content violates usage guidelines",  # xAI
            "flagged for possible cybersecurity risk",  # OpenAI (2026)
            "rejected as a result of our safety system",  # OpenAI
            "content management policy",  # Azure
            "datainspectionfailed",  # Alibaba, with its code in the text only
        ),
    ),
)

_FILE_TEXTS = (
    Rule(
        InvalidRequestError,
        status=(*_REFUSED, 403, 408, 500),
        texts=(
            "cannot fetch content from the provided url",  # Google
            "error while downloading",  # OpenAI
            "unable to download the file",  # Anthropic
            "fetching image failed",  # xAI
            "failed to fetch image",  # vLLM, SGLang
            "no such file object",  # OpenAI
            "file not found: file",  # Anthropic
            "permission to access the file",  # Google
            "is not in an active state",  # Google, of a file
            "item with id '*' not found",  # OpenAI's Responses
            "response with id '*' not found",  # OpenAI's Responses
            "container is expired",  # OpenAI
        ),
    ),
)
"""A 403 or 404 about a file, an item or an address in the request, not about the target."""

_MODEL_TEXTS = (
    Rule(
        ModelNotFoundError,
        status=(*_REFUSED, 403),
        texts=(
            "model not found",  # llama.cpp's router
            "model '*' not found",  # llama.cpp's router, Ollama, Cohere
            'model "*" not found',
            "model is not loaded",  # llama.cpp's router
            "no models loaded",  # LM Studio
            "multiple models are loaded",  # LM Studio
            "invalid model identifier",  # LM Studio
            "is not a valid model id",  # OpenRouter
            "model not exist",  # DeepSeek
            "the supported api model names are",  # DeepSeek (2026)
            "is not supported. supported models are",  # Voyage
            "model does not exist",  # SiliconFlow, Hugging Face
            "the model `*` does not exist",  # OpenAI, vLLM, Groq
            "model '*' does not exist",  # Hugging Face
            "does not exist or your team",  # xAI
            "does not have access to model",  # OpenAI
            "have access to the model",  # Bedrock
            "invalid model:",  # Mistral
            "invalid model '",  # Perplexity
            "invalid model name passed in",  # LiteLLM
            "unknown model",  # GitHub Models, MiniMax, z.ai, Snowflake
            "unavailable model",  # GitHub Models
            "model not supported by provider",  # Hugging Face
            "not supported by any provider you have enabled",  # Hugging Face
            "is not a chat model",  # Hugging Face, OpenAI
            "not found the model",  # Kimi
            "model identifier is invalid",  # Bedrock
            "with on-demand throughput isn't supported",  # Bedrock
            "reached the end of its life",  # Bedrock
            "does not work with the specified model",  # Azure
            "api deployment for this resource does not exist",  # Azure
            "no such model",  # Cloudflare
            "no healthy deployments for this model",  # LiteLLM (2026)
            "the model name is invalid",  # Google
            "malformed publisher model",  # Vertex
            "access to model denied",  # Alibaba, with 403
            "must qualify for at least usage tier",  # OpenAI
            "with a chatgpt account",  # ChatGPT's plans (2026)
            "unsupported model",  # Alibaba and others
            "is not available in your region",  # xAI, with 403 (2026)
            "requires a subscription, upgrade for access",  # Ollama's cloud, with 403 (2026)
        ),
    ),
)

_UNSUPPORTED_TEXTS = (
    Rule(
        RequestTooLargeError,
        status=(0, 400, 413, 429),
        texts=(
            "request too large for",  # OpenAI, Groq: more than a minute's tokens
            "extra usage is required for long context",  # Anthropic
        ),
    ),
    Rule(
        UnsupportedFeatureError,
        status=(*_REFUSED, 500),
        texts=(
            "does not support",
            "doesn't support",  # Bedrock
            "input is not supported",  # llama.cpp, of images and audio
            "are not supported for",  # OpenAI, of tools with an effort
            "is not a multimodal model",  # vLLM
            "requires --jinja",  # llama.cpp
            "requires --enable-auto-tool-choice",  # vLLM
            "no endpoints found that support",  # OpenRouter
            "no endpoints found that can handle",  # OpenRouter
        ),
    ),
    Rule(
        UnsupportedFeatureError,
        status=_REFUSED,
        texts=(
            "not supported by this model",  # xAI
            "not supported on this model",  # xAI
            "not supported with this model",  # Groq
            "unknown variant",  # DeepSeek and all in Rust: a part or a field it does not know
            "extra inputs are not permitted",  # pydantic: Mistral, vLLM, Anthropic
            "extra fields not permitted",
            "unrecognized request argument",  # OpenAI
            "unknown parameter",
            "only supported by certain models",  # OpenAI
            "image(s) may be provided",  # vLLM
            "unable to generate parser for this template",  # llama.cpp
            "is not enabled for models/",  # Google, of developer instructions and tools
            "only support stream mode",  # Alibaba
            "is incompatible with thinking",  # Kimi, of a forced tool
            "tool choice must be auto",  # z.ai (September 2026)
            "is restricted to true",  # Alibaba, of models that always reason
            "engages in thinking and cannot be disabled",  # z.ai (September 2026)
            "unsupported thinking type",  # Volcengine
            "invalid thinking.type",  # MiniMax
            "is not a supported thinking level",  # Google
            "compiled grammar is too large",  # Anthropic, of a schema
            "too many optional parameters",  # Anthropic
            "has too many states for serving",  # Google, of a schema
            "is allowed for this model",  # Kimi, of a temperature
            "not yet available for this subscription",  # Anthropic, of a beta
            "invalid reasoning value",  # Ollama, of an effort (2026)
            "launch the api_server with --tool-call-parser",  # LMDeploy
        ),
    ),
    Rule(
        UnsupportedFeatureError,
        status=(400, 415, 422),
        texts=("not supported", "is unsupported"),  # only where nothing but a refusal is meant
    ),
)

SHARED_TEXTS = (
    *RUNNER_TEXTS,
    *_ACCOUNT_TEXTS,
    *_FILE_TEXTS,
    *_MODEL_TEXTS,
    *_UNSUPPORTED_TEXTS,
    Rule(ModelNotFoundError, status=_REFUSED, params=("model",)),
    # A stream has no status that would say it. Texts came first: one of them may be about money.
    Rule(
        RateLimitError,
        codes=(
            "rate_limit_reached_error",  # Kimi
            "rate_limit",  # Together (2026)
            "too_many_requests",  # Azure
            "RateLimitReached",  # Azure, GitHub Models
            "ThrottlingException",  # AWS
            "Throttling",  # Alibaba
            "Throttling.RateQuota",
            "Throttling.BurstRate",
            "Throttling.AllocationQuota",
            "limit_requests",  # Alibaba
            "limit_burst_rate",
            "service_tier_capacity_exceeded",  # Mistral
        ),
    ),
    # MiniMax: invisible characters, invalid parameters (its page of error codes, November 2026)
    Rule(InvalidRequestError, codes=("1042", "2013"), types=(BASE_RESP,)),
)
"""Texts of servers that have no code for it, and the name of the field they complain about."""
