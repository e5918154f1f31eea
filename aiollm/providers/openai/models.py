"""What vendors' models refuse on OpenAI's wires, and how they take the effort of reasoning.

Sources, as of November 2026: the vendors' documentation, and reports of requests they refused. In
each table the first match applies. A model that no row names is sent everything; the server
decides.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

from aiollm.types import Effort

Thinking: TypeAlias = Literal[
    "reasoning_effort", "openrouter", "deepseek", "switch", "toggle", "adaptive", "words", "tokens"
]
"""How a host takes the effort: "words" and "tokens" come with a field that says whether to reason
at all, "toggle" and "adaptive" are nothing but such a field, and "switch" can only turn it off."""

EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Model(msgspec.Struct, frozen=True):
    """Facts about the models whose names match.

    `sampling`: they accept temperature and top_p. `quiet`: they reason only if asked, and accept
    both while they do not. `fixed`: they accept neither, not even while they do not reason.
    `efforts`: the words they accept, none if they refuse the field; `chat_efforts` in chat, where
    those are fewer. `plain_tools`: in chat, they call tools only if reasoning is explicitly
    switched "off", or if the effort is left "unsaid". `forced`: they can be made to call one while
    they reason, which is switched off else. `thinking`: how they take the effort, "" if it is the
    host's way. `sealed`: in Responses, their reasoning comes in a form that can be sent back only
    where that is requested.
    """

    names: tuple[str, ...] = ("*",)
    sampling: bool = True
    quiet: bool = False
    fixed: bool = False
    efforts: tuple[Effort, ...] = EFFORTS
    chat_efforts: tuple[Effort, ...] = ()
    plain_tools: Literal["", "off", "unsaid"] = ""
    forced: bool = True
    thinking: Thinking | Literal[""] = ""
    sealed: bool = False


ANY = (Model(),)

_WITHOUT_MINIMAL: tuple[Effort, ...] = ("none", "low", "medium", "high", "xhigh", "max")
_UP_TO_XHIGH: tuple[Effort, ...] = _WITHOUT_MINIMAL[:-1]
_UP_TO_HIGH: tuple[Effort, ...] = _WITHOUT_MINIMAL[:4]
_THREE: tuple[Effort, ...] = ("low", "medium", "high")
_OSS = Model(("*gpt-oss*",), efforts=_THREE)

OPENAI_MODELS = (
    Model(("gpt-5-chat*",), efforts=()),
    Model(("gpt-5*chat*",), efforts=("medium",)),
    Model(("gpt-6*chat*",)),
    # It calls tools and takes `max` in Responses alone, and always reasons (September 2026).
    Model(
        ("gpt-6*astra*",),
        sampling=False,
        efforts=_WITHOUT_MINIMAL[1:],
        chat_efforts=_UP_TO_XHIGH[1:],
    ),
    Model(("gpt-5.6*", "gpt-6*"), sampling=False, efforts=_WITHOUT_MINIMAL, plain_tools="off"),
    Model(("gpt-5-pro*",), sampling=False, efforts=("high",)),
    Model(("gpt-5*pro*",), sampling=False, efforts=("medium", "high", "xhigh")),
    Model(("gpt-5.1-codex-max*", "gpt-5.2-codex*"), sampling=False, efforts=_UP_TO_XHIGH[1:]),
    Model(("gpt-5-codex*", "gpt-5.1-codex*", "codex-mini*"), sampling=False, efforts=_THREE),
    Model(("gpt-5.3*", "gpt-5*codex*"), sampling=False, efforts=_UP_TO_XHIGH),
    Model(("gpt-5.5*",), sampling=False, efforts=_UP_TO_XHIGH, plain_tools="unsaid"),
    Model(("gpt-5.1*",), sampling=False, quiet=True, efforts=_UP_TO_HIGH),
    Model(("gpt-5.2*",), sampling=False, quiet=True, efforts=_UP_TO_XHIGH),
    Model(("gpt-5.4*",), sampling=False, quiet=True, efforts=_UP_TO_XHIGH, plain_tools="unsaid"),
    Model(("gpt-5.*",), sampling=False),
    Model(("gpt-5*",), sampling=False, efforts=("minimal", *_THREE)),
    Model(("o1*", "o3*", "o4*"), sampling=False, efforts=_THREE),
    *ANY,
)
"""The efforts are those of models.dev, whose rows for OpenAI were tried (July 2026). How they call
tools in chat is what the refusals of requests say (March to September 2026)."""

COMPATIBLE_MODELS = (_OSS, *ANY)
GROQ_MODELS = (
    Model(("*gpt-oss*",), efforts=_THREE),
    Model(("llama*", "meta-llama/*", "*kimi-k2-instruct*"), efforts=()),
    *ANY,
)
CEREBRAS_MODELS = (
    _OSS,
    Model(("zai-glm*",), thinking="switch"),
    Model(("qwen*instruct*", "llama*"), efforts=()),
    *ANY,
)
MISTRAL_MODELS = (
    Model(("*glm*",), efforts=("low", "high", "max")),
    Model(("mistral-small*", "mistral-medium*", "magistral-small*"), efforts=("none", "high")),
    Model(("magistral-medium*", "codestral*", "devstral*", "ministral*", "pixtral*"), efforts=()),
    *ANY,
)
GEMINI_MODELS = (
    Model(("*gemini-2.5-pro*",), efforts=("minimal", *_THREE)),
    Model(("*gemini-2*",), efforts=("none", "minimal", *_THREE)),
    Model(("*gemini-3-pro*",), efforts=("low", "high")),
    Model(
        ("*gemini-3-flash*", "*gemini-3.1-flash*", "*gemini-3.5-flash*", "*gemini-3.6-flash*"),
        efforts=("minimal", *_THREE),
    ),
    Model(("*gemini-*",), efforts=_THREE),
    *ANY,
)
"""They become the levels that Google's own wire has, of which no newer model can be without."""

PERPLEXITY_MODELS = (
    Model(("sonar", "sonar-pro"), efforts=()),
    Model(efforts=("minimal", *_THREE)),
)
ARK_MODELS = (
    Model(("deepseek-v4*",), efforts=("none", "minimal", *_THREE, "max")),
    Model(("glm-5-2*",)),
    Model(efforts=("none", "minimal", *_THREE)),
)
XAI_MODELS = (
    # They always reason, and stop that after some calls without what they thought (September 2026).
    Model(("grok-4.[6-9]*",), efforts=_UP_TO_XHIGH[1:], sealed=True),
    Model(("grok-4.5*",), efforts=_THREE, sealed=True),
    Model(("grok-*multi-agent*",), efforts=_UP_TO_XHIGH[1:], sealed=True),
    Model(("grok-4.3*",), efforts=_UP_TO_HIGH, sealed=True),
    Model(("grok-3-mini*",), efforts=_UP_TO_HIGH),
    Model(("grok-3*", "grok-4", "grok-4-*", "grok-4.20*", "grok-code*", "grok-build*"), efforts=()),
    Model(efforts=_UP_TO_HIGH),
)
MOONSHOT_MODELS = (
    Model(("kimi-k3*", "k3*"), sampling=False, fixed=True, efforts=("low", "high", "max")),
    Model(("kimi-k2.7*",), sampling=False, fixed=True, efforts=()),  # they always reason
    Model(("kimi-k2-thinking*",), efforts=()),
    Model(
        ("kimi-k2.5*", "kimi-k2.6*"), sampling=False, fixed=True, forced=False, thinking="toggle"
    ),
    *ANY,
)
ZAI_MODELS = (
    Model(("glm-4*", "glm-5", "glm-5-*", "glm-5v*", "glm-5.1*"), thinking="toggle"),
    Model(("glm-5.2*",), efforts=("high", "max")),
    Model(efforts=("low", "high", "max")),  # since 5.3 they always reason
)
DEEPSEEK_MODELS = (Model(forced=False),)  # they reason unless told not to (reports of 2026)
MINIMAX_MODELS = (
    Model(("MiniMax-M1*", "MiniMax-M2*"), efforts=()),  # they always reason
    Model(("MiniMax-M3*",), thinking="adaptive"),
    *ANY,
)
_ALWAYS: tuple[Effort, ...] = ("minimal", *_WITHOUT_MINIMAL[1:])
_AS_DEEPSEEK: tuple[Effort, ...] = ("none", "low", "high", "max")
_ALIBABA_PLAIN = (
    *("qwen-max*", "qwen-long*", "qwen-vl-*", "qwen-mt*", "qwen2*", "qwen*-coder*", "*-instruct*"),
    *("qwq*", "qvq*", "*deepseek-r1*", "deepseek-v3", "*MiniMax*", "*minimax*"),
)
"""Models of Alibaba that do not reason, or always do so."""
ALIBABA_MODELS = (
    Model(_ALIBABA_PLAIN, efforts=()),
    Model(("*-thinking*",), efforts=_ALWAYS),
    Model(("qwen3.8-max-preview*",), efforts=_WITHOUT_MINIMAL[1:], thinking="words"),
    Model(("qwen3.8*", "glm-5.2*"), efforts=_WITHOUT_MINIMAL, forced=False, thinking="words"),
    Model(("deepseek-v4*",), efforts=_AS_DEEPSEEK, forced=False, thinking="words"),
    Model(("kimi-k3*",), efforts=_AS_DEEPSEEK[1:], thinking="reasoning_effort"),
    Model(forced=False),
)
SILICONFLOW_MODELS = (
    Model(("*Thinking*",), efforts=_ALWAYS),
    Model(("*Instruct*", "*Coder*", "*DeepSeek-R1*"), efforts=()),
    Model(("*DeepSeek-V4*", "*GLM-5.2*"), efforts=("none", "high", "max"), thinking="words"),
    Model(("*Qwen/Qwen3*", "*DeepSeek-V3*", "*GLM-4*", "*GLM-5*")),
    Model(thinking="reasoning_effort"),
)
