"""The `override` mark for type checkers, without a dependency before Python 3.12."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from typing_extensions import override
else:
    T = TypeVar("T")

    def override(method: T) -> T:
        """Mark a method as overriding one of its base class."""
        return method


__all__ = ["override"]
