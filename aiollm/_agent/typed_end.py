"""The typed end of a run: its last answer as a value, or another turn to put it right."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._agent.typed_output import check_repairs, correction, hopeless, shape_of
from aiollm.errors import OutputError
from aiollm.types import Message, Request, Response


class TypedEnd:
    """Reads a run's last answer; one that does not fit goes back, `repairs` times at most."""

    def __init__(self, output: Any, repairs: int) -> None:
        """Take a type or a JSON schema. Raises: ConfigError."""
        check_repairs(repairs)
        self._shape = shape_of(output)
        self._max_repairs = repairs
        self.repairs: int = 0
        """How often an answer of the run was sent back."""
        self._value: Any = None
        self._misfit: tuple[str, Response] | None = None
        self.is_repairing: bool = False
        """Whether a repaired answer is waited for, and no message was put in since."""

    @property
    def wire(self) -> Any:
        """What the requests ask for."""
        return self._shape.wire

    def take(self, response: Response, *, may_ask: bool) -> Message | None:
        """Read an answer without calls; return what is to be said to it, None if it is the last."""
        self._value, self._misfit, self.is_repairing = None, None, False
        try:
            self._value = self._shape.read(response)
        except OutputError as error:
            if may_ask and self.repairs < self._max_repairs and not hopeless(response):
                self.repairs += 1
                self.is_repairing = True
                return correction(error)
            self._misfit = error.message, response
        return None

    def without_calls(self, request: Request) -> Request:
        """Return the request for a repair: without calls, every server enforces the schema."""
        return msgspec.structs.replace(request, tool_choice="none") if request.tools else request

    def value(self) -> Any:
        """Return the last answer that was read. Raises: OutputError if it did not fit."""
        if self._misfit is None:
            return self._value
        reason, response = self._misfit
        raise OutputError(reason, response=response, target=response.target)
