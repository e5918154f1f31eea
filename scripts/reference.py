"""Write docs/reference.md: every public name with its signature and docstring, by topic.

`python scripts/reference.py` writes it; a test fails when the page is out of date.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import textwrap
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import aiollm

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "aiollm"
PAGE = ROOT / "docs" / "reference.md"
WIDTH = 96
BREAK = "\n    | "

HEAD = """# Reference

Every public name with its docstring; `scripts/reference.py` generates this page. The guides explain
how the parts work together. Import the names of the first part with `from aiollm import ...`.
"""
TOPICS = {
    "Asking": "Registry Stream TypedStream Request RequestLike Role Effort PromptCache "
    "RequestFields ResponseCacheUse StreamOptions GenerateOptions RunOptions "
    "CountOptions CallOptions OnInterrupt OnRefusal OnUnsupported Timeouts Plan Step Target",
    "Messages": "Message user assistant system tool_results to_json from_json messages_from_openai",
    "Parts of messages": "Part TextPart ImagePart DocumentPart AudioPart ToolCallPart "
    "ToolResultPart ReasoningPart RefusalPart OpaquePart CachePoint ProviderData Citation",
    "Chunks of a stream": "Chunk TextDelta ReasoningDelta RefusalDelta ToolCallDelta ImageChunk "
    "CitationChunk PartChunk Status Restart Finish",
    "Answers": "Response Typed Partial Usage TokenCount Attempt Timings FinishReason Certainty "
    "Outcome",
    "Money": "Cost CostSource Price Budget",
    "Tools that providers run": "WebSearch UserLocation CodeExecution FileSearch HostedTool "
    "HostedCall hosted_calls AnyTool Hosted ToolBase",
    "Tools and agents": "tool Tool FunctionTool AgentRun TypedRun RunEvent ToolStarted ToolEnded "
    "TurnEnded RunResult AgentOptions LastingOptions",
    "Agents that last": "Approval ApproveHook ApprovalNeeded SavedRun SavedCall CallState SaveHook "
    "NextTurn CompactHook Compacted TrimTo CountHook Summarize SummaryHook Steered",
    "MCP servers": "McpServer McpOptions McpStatus McpState ServedTool",
    "Bulk runs": "MapRun Row MapRow MapRows MapOptions Report",
    "Searching by meaning": "Embeddings EmbedInput EmbedKind Vector Ranking Ranked",
    "Images to be made": "ImageRequest ImageResult ImageStream PartialImage ImageSize ImageQuality "
    "ImageFormat ImageBackground",
    "Providers and servers": "Provider Limits Network SchemeFactory Dsn Secret Capabilities "
    "TargetHealth TargetLimits HealthState FleetStatus LlamaSwap Ollama Closeable",
    "Errors": "LLMError ConfigError SpecError UnsupportedError UnsupportedFeatureError "
    "TransportError ConnectError LocalError DeadlineError StreamInterrupted ProviderError "
    "AuthenticationError QuotaError RateLimitError OverloadedError ServerError "
    "ModelNotFoundError GenerationError InvalidRequestError ContextLengthError "
    "RequestTooLargeError ContentFilterError ProtocolError OutputError TurnLimitError "
    "StoppedError ClosedError BusyError BusyKind BudgetError FailoverError DeadlineName "
    "Verdict Harm classify http_status",
}
MODULES = {
    "aiollm.bulk": "TargetReport Distribution Bucket Interval ScoreReport RowReport",
    "aiollm.bulk.page": "page",
    "aiollm.cli.safe_text": "printable one_line",
    "aiollm.codecs": "Codec HttpRequest HttpResponse Framer SSE NamedSSE NDJSON Decoder Item "
    "Notice UsageUpdate AnnouncedLimits system_text conversation sole_text functions_of "
    "hosted_of only_chosen Warnings merge json_schema json_body Body Blob image_mime "
    "bearer_headers decode decode_leniently load mend SurrogateJoiner new_call_id "
    "one_more_call error_from error_from_fault fault_of Fault Rule Row DsnOptions codec_of "
    "Operation Adapter Transport Reply TokenCodec counted ImageCodec ImageDecoder "
    "UnaryCodec",
    "aiollm.events": "CallStarted AttemptStarted FirstOutput AttemptEnded TargetOpened "
    "TargetClosed TargetPaced CallQueued CallReleased FleetAway FleetBack ResponseCacheAway "
    "McpStarted McpDied McpRestarted McpToolsChanged "
    "ImageElided CallEnded RunStarted TurnStarted ToolCallStarted ToolCallEnded "
    "ApprovalAsked ApprovalDecided Decision HistoryCompacted RunSteered RunEnded Event Hook",
    "aiollm.local": "start LocalServer Pooling find_model missing",
    "aiollm.media": "info normalize normalize_with_notes ImageInfo MediaPool PoolStatistics "
    "ImageLimits FittedImage",
    "aiollm.otel": "instrument",
    "aiollm.prices": "Reservation",
    "aiollm.retrieval": "EmbedRequest RerankRequest Rows RawVector VectorReply ScoreReply",
    "aiollm.servers": "SwapModel RunningModel ProcessState Props SwapEvent ModelsChanged "
    "ModelState LogData ActivityLogged InFlight InFlightRequest ProfileChanged OtherEvent "
    "OllamaModel LoadedModel ModelInfo ModelDetails",
    "aiollm.testing": "FakeProvider FakeCall Script Counted ToolCallStep NEVER tool_call "
    "hosted_call FaultServer FaultScript Loopback LoopbackOptions OnConnect Sleep Fault "
    "Answer Serve Raw AnswerStep AnswerSteps Piece End Pause Hang Cut Truncate Reset Trickle "
    "Flood EndlessHeaders Stale Unsolicited html redirect chat sse ndjson EventData Gate "
    "Counts SeenConnection SeenRequest ReplayServer PieceSize RequestMatch Recorder Exchange "
    "Ending HttpMessage exchange load",
}
NOT_MADE_BY_HAND = (
    "AgentRun Counts FakeCall ImageStream LlamaSwap Ollama Reservation SeenConnection SeenRequest "
    "Stream TypedRun TypedStream"
)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def page() -> str:
    """Return the complete page."""
    parts = [HEAD]
    for topic, names in TOPICS.items():
        parts.append(f"## {topic}\n")
        parts += [entry(name, getattr(aiollm, name)) for name in names.split()]
    for module, names in MODULES.items():
        loaded = importlib.import_module(module)
        parts += [f"## `{module}`\n", prose(loaded)]
        parts += [entry(name, getattr(loaded, name)) for name in names.split()]
    return "\n".join(parts)


def entry(name: str, value: Any) -> str:
    """Describe one name."""
    match value:
        case type():
            body = (
                f"{block(constructor(name, value))}\n{prose(value)}{flags(value)}{members(value)}"
            )
        case _ if inspect.isfunction(value):
            body = f"{block(*functions(name, value))}\n{prose(value)}"
        case _:
            body = alias(name, value)
    return f"### `{name}`\n\n{body}"


def flags(kind: type) -> str:
    """Say what an error does to a chain and to its target."""
    if not issubclass(kind, aiollm.LLMError):
        return ""
    harm = {"no": "no", "target": "for a cooldown", "long": "as misconfigured"}[kind.harms]
    return f"\nMoves a chain on: {'yes' if kind.moves_on else 'no'}. Harms its target: {harm}.\n"


def alias(name: str, value: Any) -> str:
    """Describe a name for a type by its definition, anything else by its kind."""
    if name in aliases():
        shown, after = aliases()[name]
        return f"{block(definition(name, shown))}{comment(after)}"
    return f"A constant of the type `{type(value).__name__}`.\n"


@cache
def aliases() -> dict[str, tuple[ast.expr, ast.stmt]]:
    """Return the definition of each name for a type, and what follows it; the first one counts."""
    found: dict[str, tuple[ast.expr, ast.stmt]] = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        body = ast.parse(file.read_text()).body
        for node, after in itertools.pairwise([*body, ast.Pass()]):
            match node:
                case ast.AnnAssign(
                    ast.Name(id=name), ast.Name(id="TypeAlias"), ast.expr() as shown
                ):
                    found.setdefault(name, (shown, after))
                case _:
                    pass
    return found


def comment(node: ast.stmt) -> str:
    """Return the text of a bare string, which documents the statement before it."""
    match node:
        case ast.Expr(ast.Constant(str(text))):
            return f"\n{inspect.cleandoc(text)}\n"
        case _:
            return ""


def definition(name: str, shown: ast.expr) -> str:
    """Return the definition of a type's name, wrapped."""
    line = f"{name} = {ast.unparse(shown)}"
    return (
        line
        if len(line) <= WIDTH
        else f"{name} = (\n    {line.partition(' = ')[2].replace(' | ', BREAK)}\n)"
    )


def prose(value: type | ModuleType | Any) -> str:
    """Return a docstring, its lines kept."""
    return f"{inspect.getdoc(value) or ''}\n"


def block(*signatures: str) -> str:
    """Return signatures as a code block that no test runs."""
    return "```py\n" + "\n".join(signatures) + "\n```\n"


@cache
def tree_of(value: Any) -> ast.ClassDef | Function:
    """Return the source of a class or function, parsed."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(value))).body
    assert isinstance(node, ast.ClassDef | Function)
    return node


def lineage(kind: type) -> list[ast.ClassDef]:
    """Return the class and its bases that are aiollm's own, parsed."""
    own = [each for each in kind.__mro__ if each.__module__.startswith("aiollm")]
    return [node for each in own if isinstance(node := tree_of(each), ast.ClassDef)]


def constructor(name: str, kind: type) -> str:
    """Return how to make an instance: the arguments of `__init__`, or the fields of a struct."""
    bases = [base.__name__ for base in kind.__bases__ if is_shown(base)]
    head = f"class {name}({', '.join(bases)})\n" if bases else ""
    if name in NOT_MADE_BY_HAND.split():
        return f"class {name}"
    if getattr(kind, "_is_protocol", False):
        return f"class {name}(Protocol)"
    shown = dict(fields(kind))
    if head and not adds_to_its_base(kind):
        return head.rstrip()
    for node in lineage(kind):
        for each in ast.walk(node):
            if isinstance(each, ast.FunctionDef) and each.name == "__init__":
                return head + wrapped(name, arguments(each, shown))
    return head + wrapped(name, list(shown.values()))


def adds_to_its_base(kind: type) -> bool:
    """Return whether a class is made differently from its base, which is on the page."""
    made_by = (
        ast.FunctionDef if issubclass(kind, BaseException) else ast.FunctionDef | ast.AnnAssign
    )
    return any(
        isinstance(each, made_by) and getattr(each, "name", "__init__") == "__init__"
        for each in lineage(kind)[0].body
    )


def is_shown(base: type) -> bool:
    """Return whether a base is worth showing to a reader."""
    return base.__name__ in aiollm.__all__ or issubclass(base, BaseException)


def fields(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the fields of a struct or a TypedDict as (name, text), its bases' first."""
    shown: dict[str, str] = {}
    for node in reversed(lineage(kind)):
        for each in node.body:
            match each:
                case ast.AnnAssign(target=ast.Name(id=name)) if is_field(name, each):
                    shown[name] = f"{name}: {ast.unparse(each.annotation)}{default(each.value)}"
    yield from shown.items()


def is_field(name: str, node: ast.AnnAssign) -> bool:
    """Return whether an annotation in a class body defines a public field."""
    return not name.startswith("_") and "ClassVar" not in ast.unparse(node.annotation)


def default(value: ast.expr | None) -> str:
    """Return the text of a default, `...` in place of a factory."""
    match value:
        case None:
            return ""
        case ast.Call():
            return " = ..." if "lambda" in ast.unparse(value) else f" = {ast.unparse(value)}"
        case _:
            return f" = {ast.unparse(value)}"


def functions(name: str, function: Any) -> list[str]:
    """Return the signature of a function, or those of its overloads."""
    shown = typing.get_overloads(function) or [inspect.unwrap(function)]
    nodes = [node for each in shown if isinstance(node := tree_of(each), Function)]
    return [signature(name, node) for node in nodes]


def signature(name: str, node: Function) -> str:
    """Return the head of a function as one would call it."""
    prefix = "async def " if isinstance(node, ast.AsyncFunctionDef) else "def "
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return wrapped(prefix + name, arguments(node, {}), returns)


def arguments(node: Function, defaults: dict[str, str]) -> list[str]:
    """Return the parameters as text; `defaults` are the field defaults behind a stub's `...`."""
    listed = ast.parse(f"def f({ast.unparse(node.args)}): ...").body[0]
    assert isinstance(listed, ast.FunctionDef)
    args = listed.args
    texts: list[str] = []
    positional = [*args.posonlyargs, *args.args]
    missing = len(positional) - len(args.defaults)
    given = [None] * missing + list(args.defaults)
    for number, (arg, value) in enumerate(zip(positional, given, strict=True)):
        if arg.arg not in {"self", "cls"}:
            texts.append(parameter(arg, value, defaults))
        if args.posonlyargs and number == len(args.posonlyargs) - 1:
            texts.append("/")
    if args.vararg:
        texts.append(f"*{ast.unparse(args.vararg)}")
    elif args.kwonlyargs:
        texts.append("*")
    for arg, each in zip(args.kwonlyargs, args.kw_defaults, strict=True):
        texts.append(parameter(arg, each, defaults))
    if args.kwarg:
        texts.append(f"**{ast.unparse(args.kwarg)}")
    return texts


def parameter(arg: ast.arg, value: ast.expr | None, defaults: dict[str, str]) -> str:
    """Return one parameter as text."""
    is_stub = isinstance(value, ast.Constant) and value.value is ...
    if is_stub and " = " in defaults.get(arg.arg, ""):
        return f"{ast.unparse(arg)} = {defaults[arg.arg].partition(' = ')[2]}"
    return f"{ast.unparse(arg)}{default(value)}"


def wrapped(name: str, texts: list[str], returns: str = "") -> str:
    """Return a signature on one line if it fits, else with one line for each parameter."""
    line = f"{name}({', '.join(texts)}){returns}"
    if len(line) <= WIDTH:
        return line
    return f"{name}(\n" + "".join(f"    {text},\n" for text in texts) + f"){returns}"


def members(kind: type) -> str:
    """Describe the public methods and properties of a class."""
    parts: dict[str, str] = {}
    for owner in kind.__mro__:
        is_described = owner is not kind and owner.__name__ in aiollm.__all__
        if owner.__module__.startswith("aiollm") and not is_described:
            for name, value in vars(owner).items():
                if not name.startswith("_") and name not in parts and (text := member(name, value)):
                    parts[name] = text
    return "".join(f"\n{text}" for text in parts.values())


def member(name: str, value: Any) -> str:
    """Describe a method or property, "" for anything else."""
    match value:
        case property(fget=getter) if getter is not None:
            node = tree_of(getter)
            assert isinstance(node, Function)
            returns = f": {ast.unparse(node.returns)}" if node.returns else ""
            return f"{block(f'.{name}{returns}')}\n{prose(value)}"
        case classmethod():
            made = functions(name, value.__func__)
            return f"{block('@classmethod', *made)}\n{prose(value.__func__)}"
        case _ if inspect.isfunction(value):
            return f"{block(*functions(name, value))}\n{prose(value)}"
        case _:
            return ""


if __name__ == "__main__":
    PAGE.write_text(page())
