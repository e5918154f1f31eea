"""The typed end of a run: its last answer as a value, or another turn to put it right."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._agent.typed_output import check_repairs, correction, hopeless, shape_of
from aiollm.errors import ClosedError, OutputError
from aiollm.types import Message, Request, Response


class TypedEnd:
    """Reads a run's last answer; one that does not fit goes back, `repairs` times at most."""

    def __init__(self, output: Any, repairs: int) -> None:
        """Take a type or a JSON schema. Raises: ConfigError."""
        check_repairs(repairs)
        self._shape = shape_of(output)
        self._left = repairs
        self._value: Any = None
        self._misfit: tuple[str, Response] | None = None
        self._ended = False
        self.is_correcting: bool = False
        """Whether the last answer was sent back."""

    @property
    def wire(self) -> Any:
        """What the requests ask for."""
        return self._shape.wire

    def take(self, response: Response, *, may_ask: bool) -> Message | None:
        """Read an answer without calls; return what is to be said to it, None if it is the last."""
        try:
            self._value = self._shape.read(response)
        except OutputError as error:
            if may_ask and self._left > 0 and not hopeless(response):
                self._left -= 1
                self.is_correcting = True
                return correction(error)
            self._misfit = error.message, response
        self._ended = True
        return None

    def without_calls(self, request: Request) -> Request:
        """Return the request of a correction: without calls, every server enforces the schema."""
        return msgspec.structs.replace(request, tool_choice="none") if request.tools else request

    def value(self) -> Any:
        """Return the value. Raises: OutputError, and ClosedError before the end of the run."""
        if not self._ended:
            raise ClosedError("the run has not ended yet: it has no value")
        if self._misfit is None:
            return self._value
        reason, response = self._misfit
        raise OutputError(reason, response=response, target=response.target)
