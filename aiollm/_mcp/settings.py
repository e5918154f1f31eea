"""How a server is reached, and how a call of it ends without a result."""

from __future__ import annotations

import msgspec

from aiollm._mcp.address import Http, Stdio
from aiollm._settings.hidden import HiddenValues


class Settings(msgspec.Struct, frozen=True):
    """How a server is reached."""

    name: str
    address: Stdio | Http
    env: HiddenValues
    headers: HiddenValues
    cwd: str | None
    start_timeout: float
    call_timeout: float | None
    max_message_bytes: int

    def secrets(self) -> list[str]:
        """Return the values that nothing may show."""
        from aiollm._settings.redactor import secrets_of_url  # for failures alone

        token = self.address.token if isinstance(self.address, Http) else None
        own = self.address.env.values() if isinstance(self.address, Stdio) else ()
        hidden = token.hidden() if token is not None else ()
        url = secrets_of_url(self.address.url) if isinstance(self.address, Http) else ()
        return [*self.env.values(), *self.headers.values(), *own, *hidden, *url]

    def environment(self) -> dict[str, str]:
        """Return the variables of the server's process."""
        from aiollm._mcp.child import small_environment  # where a server is started

        own = self.address.env if isinstance(self.address, Stdio) else {}
        return small_environment() | own | self.env

    def request_headers(self) -> dict[str, str]:
        """Return the headers of each request."""
        token = self.address.token if isinstance(self.address, Http) else None
        bearer = {} if token is None else {"authorization": f"Bearer {token.reveal()}"}
        return bearer | self.headers


class NotRunError(Exception):
    """The server did not get the call, or has forgotten the session: it can be made again."""


class FailedCallError(Exception):
    """A call has no result; the text says why."""


class NotThereError(FailedCallError):
    """The server could not be reached."""
