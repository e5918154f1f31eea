"""Redaction: remove a key that a server echoed from its errors."""

from __future__ import annotations

from aiollm.dsn import Secret
from aiollm.errors import LLMError, ProtocolError, ProviderError


def redacted(error: LLMError, secret: Secret | None) -> LLMError:
    """Remove `secret` from an error's texts and body, in place, and return the error."""
    if secret is None:
        return error
    # In place, because the error may already be on its way up with its traceback; in `args`,
    # because its message, its repr and a pickle of it all come from there.
    error.args = tuple(
        secret.redact(each) if isinstance(each, str) else each for each in error.args
    )
    match error:
        case ProviderError():
            error.code = secret.redact(error.code)
            error.request_id = secret.redact(error.request_id)
            error.body = secret.redact_bytes(error.body)
        case ProtocolError():
            error.frame = secret.redact_bytes(error.frame)
        case _:
            pass
    return error
