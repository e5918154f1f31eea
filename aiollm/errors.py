"""The error tree: what went wrong, whether a chain moves on, whether health suffers.

LLMError                          .target
+- ConfigError(ValueError)        bad spec, DSN, key or request: before any byte
|  +- SpecError
+- UnsupportedError               a capability is missing: before any byte     moves on
|  +- UnsupportedFeatureError     (a ProviderError too) the target said so     moves on
+- BusyError                      no room within the patience                  moves on
+- BudgetError                    .partial: a budget has no room: before any byte
+- TransportError                 no HTTP answer                               moves on, harms
|  +- ConnectError
|  |  +- LocalError               this process's own fault: no files, ports, net  moves on
|  +- DeadlineError(TimeoutError) .which
|  +- StreamInterrupted           .partial
+- ProviderError                  .status .code .request_id .retry_after .body moves on, harms
|  +- AuthenticationError         401/403                                      moves on, harms long
|  +- QuotaError                  402, billing                                 moves on, harms long
|  +- RateLimitError              429: slows down what is sent there           moves on
|  +- OverloadedError             503/529                                      moves on, harms
|  +- ServerError                 other 5xx, 408, 409, 425                     moves on, harms
|  +- ModelNotFoundError          404/405/410                                  moves on, harms long
|  +- GenerationError             the model's output is unusable               moves on
|  +- InvalidRequestError         any other 4xx: not asked again there         moves on
|     +- ContextLengthError                                                    moves on
|     +- RequestTooLargeError     413                                          moves on
|     +- ContentFilterError       unless `on_refusal` is "next": stays
+- ProtocolError                  bytes that do not decode: .frame             moves on, harms
+- OutputError                    the reply does not fit the requested type: .response
+- TurnLimitError                 an agent run reached its limit: .messages .response
+- StoppedError                   a bulk run ended before its last row: .__cause__
+- ClosedError                    a stream or registry that was closed is used again
+- FailoverError(ExceptionGroup)  every target failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self, TypeAlias

import msgspec

from aiollm.types import (
    Attempt,
    ConfigError,
    Harm,
    LLMError,
    Message,
    OutputError,
    Response,
    Target,
    _printable,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "AuthenticationError",
    "BudgetError",
    "BusyError",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ContentFilterError",
    "ContextLengthError",
    "DeadlineError",
    "FailoverError",
    "GenerationError",
    "InvalidRequestError",
    "LLMError",
    "LocalError",
    "ModelNotFoundError",
    "OutputError",
    "OverloadedError",
    "ProtocolError",
    "ProviderError",
    "QuotaError",
    "RateLimitError",
    "RequestTooLargeError",
    "ServerError",
    "SpecError",
    "StoppedError",
    "StreamInterrupted",
    "TransportError",
    "TurnLimitError",
    "UnsupportedError",
    "UnsupportedFeatureError",
    "Verdict",
    "classify",
    "http_status",
]

MAX_BODY = 64 * 1024
"""Bytes of an error body that are read and kept at most."""

_SHOWN = 100
"""Characters of a spec that a message shows."""

_CAUSE = 500
"""Characters of each cause that the text of a FailoverError shows: a template's exception names
the template first, and its reason last."""

DeadlineName: TypeAlias = Literal["connect", "first_output", "idle", "stall", "total"]
"""The field of `Timeouts` that was exceeded."""
BusyKind: TypeAlias = Literal["slots", "pace", "window", "limit"]
"""What a call waits for when there is no room."""


class SpecError(ConfigError):
    """A spec does not parse; the message shows it with a caret under the column."""

    def __init__(self, message: str, *, spec: str = "", column: int = 0) -> None:
        super().__init__(message + _pointed(spec, column) if spec else message)
        self.spec = spec
        self.column = column


def _pointed(spec: str, column: int) -> str:
    """Show `spec`, or what of a long one is near `column`, with a caret under the column."""
    start = max(0, column - _SHOWN // 2) if len(spec) > _SHOWN else 0
    line = "".join(char if char.isprintable() else " " for char in spec[start : start + _SHOWN])
    return f"\n  {line}\n  {' ' * (column - start)}^"


class UnsupportedError(LLMError):
    """The target does not support this request; only UnsupportedFeatureError means it was sent."""

    moves_on = True


class BusyError(LLMError):
    """No room at the target within the call's patience; nothing was sent.

    `.kind` says what it waited for: `slots` (too many at once), `pace` (too many a minute),
    `window` (too many that wait for their first output) or `limit` (more than it ever accepts).
    `.wait`: seconds until there is room, 0 if unknown.
    """

    moves_on = True

    def __init__(
        self, message: str, *, kind: BusyKind, wait: float = 0.0, target: Target | None = None
    ) -> None:
        super().__init__(message, target=target)
        self.kind: BusyKind = kind
        self.wait = wait


class BudgetError(LLMError):
    """A budget has no room for the most that an attempt may cost, or that cost is not known.

    The attempt was not sent; `.partial` is what an earlier one of the same call had brought.
    """

    partial: Response | None = None


class TransportError(LLMError):
    """No HTTP answer, or one that broke off."""

    moves_on = True
    harms: Harm = "target"
    partial: Response | None = None
    """What had arrived, if any of it had reached the caller."""


class ConnectError(TransportError):
    """No connection: refused, unknown host, TLS failure."""


class LocalError(ConnectError):
    """This process or its machine could not connect, for example for lack of a file descriptor.

    The server had no part in it, so no target is set aside. `.may_retry`: it may soon pass.
    """

    harms: Harm = "no"

    def __init__(
        self, message: str, *, may_retry: bool = True, target: Target | None = None
    ) -> None:
        super().__init__(message, target=target)
        self.may_retry = may_retry


class DeadlineError(TransportError, TimeoutError):
    """A deadline passed; `.which` names it."""

    def __init__(
        self, message: str, *, which: DeadlineName, after: float = 0.0, target: Target | None = None
    ) -> None:
        super().__init__(message, target=target)
        self.which: DeadlineName = which
        self.after = after


class StreamInterrupted(TransportError):
    """The stream ended before its terminal event; `.partial` is what had arrived."""


class ProviderError(LLMError):
    """The provider answered with an error."""

    moves_on = True
    harms: Harm = "target"
    partial: Response | None = None
    """What had arrived, if the error came in mid-stream."""

    def __init__(
        self,
        message: str,
        *,
        target: Target | None = None,
        status: int = 0,
        code: str = "",
        request_id: str = "",
        retry_after: float | None = None,
        may_retry: bool = True,
        body: bytes = b"",
    ) -> None:
        super().__init__(message, target=target)
        self.status = status
        self.code: str = _printable(code)
        self.request_id: str = _printable(request_id)
        self.retry_after = retry_after
        self.may_retry = may_retry
        self.body: bytes = body[:MAX_BODY]

    def __str__(self) -> str:
        facts = [
            f"HTTP {self.status}" if self.status else "",
            self.code if self.code != str(self.status) else "",
            f"request {self.request_id}" if self.request_id else "",
        ]
        shown = ", ".join(fact for fact in facts if fact)
        return f"{super().__str__()} ({shown})" if shown else super().__str__()


class UnsupportedFeatureError(ProviderError, UnsupportedError):
    """The target itself said that it cannot do what the request asks."""

    harms: Harm = "no"


class AuthenticationError(ProviderError):
    """The key is missing, wrong, or not allowed: check the provider's token."""

    harms: Harm = "long"


class QuotaError(ProviderError):
    """The account has no credit or reached its spend limit; waiting will not help."""

    harms: Harm = "long"


class RateLimitError(ProviderError):
    """Too many requests; `.retry_after` says how long to wait, where the provider said so.

    It slows down what is sent to the target, but does not count against its health.
    """

    harms: Harm = "no"


class OverloadedError(ProviderError):
    """The provider has no capacity at the moment."""


class ServerError(ProviderError):
    """The provider failed; it may recover soon, so the call may ask it again."""


class ModelNotFoundError(ProviderError):
    """The target has no such model or route."""

    harms: Harm = "long"


class GenerationError(ProviderError):
    """The model's output is unusable, such as a malformed tool call; another try may succeed."""

    harms: Harm = "no"


class InvalidRequestError(ProviderError):
    """The target refuses the request; it is not asked again, but another target may accept it.

    Any 4xx without a more exact class is one, because another server may not refuse it.
    """

    harms: Harm = "no"


class ContextLengthError(InvalidRequestError):
    """The prompt is longer than this target's context."""


class RequestTooLargeError(InvalidRequestError):
    """The request has more bytes or tokens than this target ever accepts."""


class ContentFilterError(InvalidRequestError):
    """The provider's policy refuses the request; it ends a call unless `on_refusal` is "next"."""

    moves_on = False


class ProtocolError(LLMError):
    """Bytes that do not decode; `.frame` holds the beginning of what came."""

    moves_on = True
    harms: Harm = "target"
    partial: Response | None = None

    def __init__(self, message: str, *, frame: bytes = b"", target: Target | None = None) -> None:
        super().__init__(message, target=target)
        self.frame: bytes = frame[:1024]


class TurnLimitError(LLMError):
    """An agent run reached its limit of turns while the model was still calling tools.

    `.messages` is the complete history with all results, ready to continue from; `.response` is
    the model's last answer.
    """

    def __init__(
        self,
        message: str,
        *,
        messages: Sequence[Message] = (),
        response: Response | None = None,
        target: Target | None = None,
    ) -> None:
        super().__init__(message, target=target)
        self.messages: tuple[Message, ...] = tuple(messages)
        self.response = response


class ClosedError(LLMError):
    """A stream or a registry was used after it had been closed."""


class StoppedError(LLMError):
    """A bulk run ended before its last row; `__cause__` says why. The other rows were not asked."""


class FailoverError(ExceptionGroup[Exception], LLMError):
    """Every target of the plan failed; `.attempts` and `.exceptions` are in order."""

    def __new__(
        cls, message: str, errors: Sequence[Exception], attempts: Sequence[Attempt] = ()
    ) -> Self:
        """Make the group; `ExceptionGroup` takes its errors here, not in `__init__`."""
        made = super().__new__(cls, message, errors)
        made.attempts = tuple(attempts)
        return made

    def __init__(
        self, message: str, errors: Sequence[Exception], attempts: Sequence[Attempt] = ()
    ) -> None:
        ExceptionGroup.__init__(self, message, errors)
        self.target: Target | None = None
        self.attempts: tuple[Attempt, ...] = tuple(attempts)

    @property
    def last(self) -> LLMError:
        """The last error, which `status` and `retry_after` are taken from."""
        return self.exceptions[-1]

    @property
    def status(self) -> int:
        """The HTTP status of the last error, 0 if it has none."""
        return getattr(self.last, "status", 0)

    @property
    def retry_after(self) -> float | None:
        """Seconds after which another try may succeed, None if the last error does not say."""
        last = self.last
        return last.wait if isinstance(last, BusyError) else getattr(last, "retry_after", None)

    @property
    def partial(self) -> Response | None:
        """What had arrived before the last error."""
        known = (getattr(each, "partial", None) for each in reversed(self.exceptions))
        return next((each for each in known if each is not None), None)

    if TYPE_CHECKING:  # only errors that move a chain on get here, and no group does

        @property
        def exceptions(self) -> tuple[LLMError, ...]:
            """What each attempt failed with, in order."""

    def derive(self, excs: Sequence[Exception]) -> FailoverError:  # type: ignore[override]
        """Return a group of `excs` with the same message and attempts."""
        return FailoverError(self.message, excs, self.attempts)

    def __str__(self) -> str:
        causes: dict[str, int] = {}
        for error in self.exceptions:
            cause = f"{type(error).__name__}: {' '.join(str(error).split())}"[:_CAUSE]
            causes[cause] = causes.get(cause, 0) + 1
        told = (each if count == 1 else f"{each} ({count} times)" for each, count in causes.items())
        return f"{self.message}: {'; '.join(told)}"


class Verdict(msgspec.Struct, frozen=True):
    """What an error means: whether a chain moves on, and how it affects the target's health."""

    moves_on: bool
    harms: Harm


def classify(error: BaseException) -> Verdict:
    """Return whether `error` moves a chain on, and how it affects the target's health.

    Errors that are not aiollm's own (bugs, cancellation) do neither. A `ContentFilterError` moves
    on only in calls with `on_refusal="next"`.
    """
    match error:
        case LLMError():
            return Verdict(error.moves_on, error.harms)
        case _:
            return Verdict(moves_on=False, harms="no")


def http_status(error: LLMError) -> int:
    """Return the HTTP status with which a service of yours reports `error` to its clients.

    500: your configuration; 402: a budget; 422: the request, content policy included; 503: try
    later, perhaps after `error.retry_after`; 504: a deadline; 502: anything else. Do not pass on
    the provider's own status: its 401 is about your key, not about your client's.

        except LLMError as error:
            raise HTTPException(http_status(error), str(error))
    """
    causes = error.exceptions if isinstance(error, FailoverError) else (error,)

    def all_are(*classes: type[LLMError]) -> bool:
        return all(isinstance(cause, classes) for cause in causes)

    if all_are(ConfigError):
        return 500
    if all_are(BudgetError):
        return 402
    if all_are(InvalidRequestError, UnsupportedError):
        return 422
    if all_are(BusyError, RateLimitError, OverloadedError):
        return 503
    return 504 if all_are(DeadlineError) else 502
