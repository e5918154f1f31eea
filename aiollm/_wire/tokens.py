"""Tokens that a callable gives: what it may return, and where in a request they go."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiollm.dsn import Secret
from aiollm.errors import ConfigError, LocalError

_MARK = "{aiollm's token}"
"""What codecs write in place of a token that is not known yet."""

_WANTED = "return a str, (str, seconds since 1970), or an object with .token and .expires_on"

KEPT = 4
"""How many of the last tokens are masked in errors: an answer may come after a renewal."""


class DynamicToken(Secret):
    """A token that a callable gives, and gives anew when it expires."""

    __slots__ = ("_given", "call")
    changes = True

    def __init__(self, call: Callable[[], object]) -> None:
        super().__init__(_MARK)
        self.call = call
        self._given: tuple[Secret, ...] = ()

    def hidden(self) -> tuple[str, ...]:
        """Return the last tokens that were given."""
        return tuple(value for secret in self._given for value in secret.hidden())

    def read(self, value: object) -> tuple[Secret, float | None]:
        """Return a token from what the callable returned, and when it expires.

        Seconds are those since 1970. Raises: LocalError.
        """
        token, expires = _parts(value)
        secret = _secret(token)
        if hasattr(value, "token") and not token.startswith("Bearer "):
            secret = Secret(f"Bearer {token}")  # such objects hold OAuth tokens
        if secret not in self._given:
            self._given = (secret, *self._given[: KEPT - 1])
        return secret, expires

    def __eq__(self, other: object) -> bool:
        return isinstance(other, DynamicToken) and other.call == self.call

    def __hash__(self) -> int:
        return hash(self.call)


def as_token(value: object) -> Secret:
    """Return a token from a text, a secret or a callable. Raises: ConfigError."""
    match value:
        case Secret():
            return value
        case str() if value:
            return Secret(value)
        case _ if callable(value):
            return DynamicToken(value)
        case _:
            kind = type(value).__name__
            raise ConfigError(f"token: expected a text or a callable, not {kind or 'an empty one'}")


def with_token(headers: Mapping[str, str], secret: Secret) -> dict[str, str]:
    """Return headers with the token where the codec wrote its mark."""
    token = secret.reveal()
    filled = {}
    for name, value in headers.items():
        if _MARK not in value:
            filled[name] = value
        elif token.startswith("Bearer "):
            filled["Authorization"] = token
        else:
            filled[name] = value.replace(_MARK, token)
    return filled


def _parts(value: Any) -> tuple[Any, float | None]:
    """Return the token, and when it expires, from any of the known forms."""
    if hasattr(value, "token"):
        expires = getattr(value, "expires_on", None)
        return value.token, _seconds(getattr(value, "expiry", None) if expires is None else expires)
    if isinstance(value, tuple) and len(value) == 2:
        return value[0], _seconds(value[1])
    return value, None


def _seconds(expires: object) -> float | None:
    match expires:
        case None:
            return None
        case datetime():  # google-auth's has no zone and means UTC
            return (expires if expires.tzinfo else expires.replace(tzinfo=UTC)).timestamp()
        case int() | float():
            return float(expires)
        case _:
            kind = type(expires).__name__
            raise LocalError(f"the token's expiry is of type {kind}: {_WANTED}", may_retry=False)


def _secret(token: object) -> Secret:
    if not isinstance(token, str):
        kind = type(token).__name__
        raise LocalError(f"the token callable returned {kind}: {_WANTED}", may_retry=False)
    if not token.removeprefix("Bearer ").strip():
        raise LocalError(f"the token callable returned no text: {_WANTED}", may_retry=False)
    if token != token.strip():
        reason = "the token callable returned white space around the token: strip() it"
        raise LocalError(reason, may_retry=False)
    try:
        return Secret(token)
    except ConfigError as error:
        reason = error.message
    raise LocalError(f"the token callable returned no token: {reason}", may_retry=False)
