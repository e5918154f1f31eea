"""OpenTelemetry: a registry's events become spans; needs the extra `otel`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from aiollm.errors import ConfigError
from aiollm.events import (
    ApprovalAsked,
    ApprovalDecided,
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    Event,
    FirstOutput,
    HistoryCompacted,
    RunEnded,
    RunStarted,
    RunSteered,
    ToolCallEnded,
    ToolCallStarted,
    TurnStarted,
)
from aiollm.otel import semconv
from aiollm.registry import Registry
from aiollm.types import Outcome, Target

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

Key: TypeAlias = tuple[Any, ...]


def instrument(
    registry: Registry, tracer: Tracer | None = None, *, capture_content: bool = False
) -> Callable[[], None]:
    """Record the registry's calls, attempts, agent runs and tools as spans, from now on.

    `tracer`: default, one of the global tracer provider. `capture_content`: also record prompts,
    answers, arguments and results. Returns a function that stops recording.
    Raises: ConfigError when the OpenTelemetry API is not installed.

        uninstrument = instrument(reg)
    """
    try:
        from opentelemetry import trace
    except ImportError:
        reason = "tracing needs the OpenTelemetry API: pip install 'aiollm-client[otel]'"
    else:
        used = tracer or trace.get_tracer("aiollm")
        spans = _Spans(registry, used, capture=capture_content)
        unregister = registry.on_event(spans)

        def uninstrument() -> None:
            unregister()
            spans.close()

        return uninstrument
    raise ConfigError(reason)


class _Spans:
    """The open spans of a registry; each is ended once, by its event or by `close`."""

    def __init__(self, registry: Registry, tracer: Tracer, *, capture: bool) -> None:
        from opentelemetry import context, trace

        # The registry refers to this as a hook: a strong reference back would make a cycle.
        self._registry = weakref.ref(registry)
        self._tracer = tracer
        self._capture = capture
        self._trace = trace
        self._context = context
        self._open: dict[Key, Span] = {}
        self._operations: dict[int, str] = {}
        self._turn: Span | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case CallStarted():
                self._call_started(event)
            case AttemptStarted(call=call, target=target):
                if (parent := self._open.get(("call", call))) is not None:
                    key = ("attempt", call, target)
                    self._start(
                        key, f"attempt {target}", self._target_attributes(target), parent=parent
                    )
            case FirstOutput(call=call, target=target, seconds=seconds):
                if (span := self._open.get(("attempt", call, target))) is not None:
                    span.set_attribute("gen_ai.response.time_to_first_chunk", seconds)
            case AttemptEnded(call=call, target=target):
                self._end(("attempt", call, target), event.outcome, event.error)
            case CallEnded():
                self._call_ended(event)
            case _:
                self._run_event(event)

    def _run_event(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._run_started(event)
            case TurnStarted(run=run):
                self._turn = self._open.get(("run", run))
            case ToolCallStarted():
                self._tool_started(event)
            case ToolCallEnded():
                self._tool_ended(event)
            case RunEnded(run=run, usage=usage):
                self._turn = None
                attributes = semconv.usage_attributes(usage) | {"aiollm.turns": event.turns}
                if event.waiting:
                    attributes["aiollm.waiting"] = event.waiting
                self._end(("run", run), event.outcome, event.error, attributes)
            case ApprovalAsked() | ApprovalDecided() | HistoryCompacted() | RunSteered():
                self._note(event)
            case _:
                pass

    def _note(self, event: ApprovalAsked | ApprovalDecided | HistoryCompacted | RunSteered) -> None:
        """Add what happened to a run to its span, as events."""
        if (span := self._open.get(("run", event.run))) is not None:
            span.add_event(*semconv.run_note(event))

    def close(self) -> None:
        """End all open spans."""
        for key in tuple(self._open):
            self._end(key, "abandoned")

    def _start(
        self,
        key: Key,
        name: str,
        attributes: semconv.Attributes,
        *,
        remote: bool = True,
        parent: Span | None = None,
    ) -> Span:
        kind = self._trace.SpanKind.CLIENT if remote else self._trace.SpanKind.INTERNAL
        context = self._trace.set_span_in_context(parent) if parent is not None else None
        span = self._tracer.start_span(name, context, kind, attributes)
        self._open[key] = span
        return span

    def _end(
        self,
        key: Key,
        outcome: Outcome,
        error: BaseException | None = None,
        attributes: semconv.Attributes | None = None,
    ) -> None:
        span = self._open.pop(key, None)
        if span is None:
            return
        span.set_attributes({"aiollm.outcome": outcome} | (attributes or {}))
        if outcome == "failed":
            span.set_attributes(semconv.error_attributes(error))
            # A tool's error message may contain its arguments.
            is_shown = error is not None and (self._capture or key[0] != "tool")
            span.set_status(self._trace.StatusCode.ERROR, str(error) if is_shown else None)
        span.end()

    def _call_started(self, event: CallStarted) -> None:
        parent, self._turn = self._turn, None
        target = _first_target(event.spec)
        attributes = {"gen_ai.operation.name": event.operation, "aiollm.spec": event.spec}
        attributes |= self._target_attributes(target) | semconv.request_attributes(event.request)
        name = f"{event.operation} {target.model}"
        span = self._start(("call", event.call), name, attributes, parent=parent)
        self._operations[event.call] = event.operation
        if self._capture and span.is_recording():
            span.set_attributes(semconv.request_content(event.request))

    def _call_ended(self, event: CallEnded) -> None:
        key = ("call", event.call)
        operation = self._operations.pop(event.call, "")
        span = self._open.get(key)
        if span is None:
            return
        attributes: semconv.Attributes = {}
        if event.response is not None:
            attributes |= semconv.response_attributes(event.response)
            if self._capture:
                attributes |= semconv.response_content(event.response)
        if event.target is not None:
            # The chain may have moved on, so name the target that answered.
            attributes |= self._target_attributes(event.target)
            span.update_name(f"{operation} {event.target.model}")
        self._end(key, event.outcome, event.error, attributes)

    def _run_started(self, event: RunStarted) -> None:
        attributes = {"gen_ai.operation.name": "invoke_agent", "aiollm.spec": event.spec}
        attributes |= self._target_attributes(_first_target(event.spec))
        self._start(("run", event.run), "invoke_agent", attributes, remote=False)

    def _tool_started(self, event: ToolCallStarted) -> None:
        attributes = {
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": event.name,
            "gen_ai.tool.type": "function",
            "gen_ai.tool.call.id": event.tool_call.id,
            "gen_ai.tool.description": event.description,
        }
        if self._capture:
            attributes["gen_ai.tool.call.arguments"] = event.tool_call.arguments
        key = _tool_key(event)
        parent = self._open.get(("run", event.run))
        name = f"execute_tool {event.name}"
        span = self._start(key, name, attributes, remote=False, parent=parent)
        # This runs in the tool's own task, so spans that the tool starts become children. Nothing
        # needs to be detached, because the task's context ends with the tool.
        self._context.attach(self._trace.set_span_in_context(span))

    def _tool_ended(self, event: ToolCallEnded) -> None:
        attributes = {}
        if self._capture and event.result is not None:
            attributes = semconv.tool_result_content(event.result)
        self._end(_tool_key(event), event.outcome, event.error, attributes)

    def _target_attributes(self, target: Target) -> semconv.Attributes:
        registry = self._registry()
        try:
            provider = registry.provider(target.provider) if registry is not None else None
        except ConfigError:
            provider = None
        return semconv.target_attributes(target, provider)


def _tool_key(event: ToolCallStarted | ToolCallEnded) -> Key:
    # Not by the id of the call: models repeat ids.
    return ("tool", event.run, id(event.tool_call))


def _first_target(spec: str) -> Target:
    item = spec.replace("|", ",").replace("&", ",").partition(",")[0]
    provider, _, model = item.partition("/")
    return Target(provider.rpartition("*")[2], model)
