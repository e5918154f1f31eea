"""A read in a task of its own, so that a time limit can end a wait for it but not the read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class BackgroundRead(Generic[T]):
    """Runs a read at once in a task; its outcome is kept here and not in the task.

    The frames of an error refer to the task that read. A task with that error would be in a cycle
    with it, which only the collector could free, and until then the stream would live.
    """

    __slots__ = ("_error", "_got", "task")

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._got: list[T] = []
        self._error: Exception | None = None
        self.task = asyncio.create_task(self._run(read))

    def outcome(self) -> T:
        """Return what was read, or raise the error of the read; only once, after its end."""
        self.task.result()  # raises CancelledError
        error, self._error = self._error, None
        if error is None:
            return self._got.pop()
        try:
            raise error
        finally:
            del error  # its traceback holds this frame: a cycle

    async def _run(self, read: Callable[[], Awaitable[T]]) -> None:
        try:
            self._got.append(await read())
        except Exception as error:  # noqa: BLE001 - raised where the outcome is asked for
            self._error = error
