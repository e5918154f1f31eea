"""Redaction of errors: remove what a server echoed of a provider's secrets, wherever it is."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from types import FrameType
from typing import Any

from aiollm._settings.redactor import Redactor
from aiollm.dsn import Secret
from aiollm.errors import LLMError, ProtocolError, ProviderError, SpecError


def redactor_of(secrets: Iterable[Secret]) -> Redactor | None:
    """Return what finds these secrets, None if there are none."""
    values = [value for secret in secrets for value in secret.hidden()]
    return Redactor(values) if values else None


def redacted(error: LLMError, secrets: Iterable[Secret]) -> LLMError:
    """Remove `secrets` from an error, in place, and return the error.

    That covers its texts, body and notes, those of its causes, and the variables of the frames
    that have ended with it, which tools show next to a traceback.
    """
    chain = _chain(error)
    _forget(chain)
    redactor = redactor_of(secrets)
    if redactor is not None:
        inner = {id(each) for each in chain}
        for each in reversed(chain):  # causes first: what they still show decides what stays
            _redact(each, redactor, inner)
    return error


def forget_variables(error: BaseException) -> None:
    """Clear the variables of the frames that an error and its causes have ended."""
    _forget(_chain(error))


def _forget(chain: Iterable[BaseException]) -> None:
    for each in chain:
        for frame in _frames(each):
            with suppress(RuntimeError):  # it still runs
                frame.clear()


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error, the members of groups, and the causes that were caught on its way.

    What a caller handles while it calls is a context, too, but it is not ours to change: a frame
    that still runs has caught it.
    """
    found: list[BaseException] = []
    running = _running()
    left = [error]
    while left:
        each = left.pop()
        if any(each is known for known in found):
            continue
        found.append(each)
        if isinstance(each, BaseExceptionGroup):
            left += each.exceptions
        for link in (each.__cause__, each.__context__):
            trace = link.__traceback__ if link is not None else None
            if link is not None and (trace is None or id(trace.tb_frame) not in running):
                left.append(link)
    return found


def _running() -> set[int]:
    """Return the ids of the frames that run: frames in a set of their own would be a cycle."""
    running: set[int] = set()
    frame: FrameType | None = sys._getframe()  # noqa: SLF001 - inspect takes 10 ms to import
    while frame is not None:
        running.add(id(frame))
        frame = frame.f_back
    return running


def _redact(error: BaseException, redactor: Redactor, inner: set[int]) -> None:
    # In place, because the error may already be on its way up with its traceback; in `args`,
    # because its message, its repr and a pickle of it all come from there.
    error.args = tuple(_clean(each, redactor) for each in error.args)
    if notes := getattr(error, "__notes__", None):
        error.__notes__ = [_clean(each, redactor) for each in notes]
    match error:
        case ProviderError():
            error.code = redactor.text(error.code)
            error.request_id = redactor.text(error.request_id)
            error.body = redactor.data(redactor.start_of(error.body))
        case ProtocolError():
            error.frame = redactor.data(error.frame)
        case SpecError():
            error.spec = redactor.text(error.spec)
        case _:
            pass
    for link in ("__cause__", "__context__"):
        # What another library raised may hold the request itself, which cannot be masked.
        cause = getattr(error, link)
        if id(cause) in inner and _shows(cause, redactor):
            hidden = error.__suppress_context__
            setattr(error, link, None)
            error.__suppress_context__ = hidden


def _clean(value: Any, redactor: Redactor) -> Any:
    match value:
        case str():
            return redactor.text(value)
        case bytes():
            return redactor.data(value)
        case _:
            return value


def _shows(cause: BaseException | None, redactor: Redactor) -> bool:
    """Return whether an error of another library holds a secret, in whatever it keeps."""
    if cause is None or isinstance(cause, LLMError):
        return False
    try:
        shown = f"{cause!r} {cause} {vars(cause)!r}"
    except Exception:  # noqa: BLE001 - what cannot be shown cannot be checked either
        return True
    return redactor.text(shown) != shown
