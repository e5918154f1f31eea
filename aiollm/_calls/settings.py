"""The settings of a registry that its first call needs, checked when it is made."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from aiollm._validation import check_bool, check_count, check_seconds, check_workers


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """Settings as `Registry` takes them; `fleet` is "" for none. Raises: ConfigError."""

    cooldown: float
    uniform: Callable[[float, float], float]
    """The source of jitter."""
    image_workers: int | None
    max_pixels: int
    tool_threads: int
    fetch_images: bool
    fleet: str
    response_cache: str | None

    def __post_init__(self) -> None:
        check_seconds("cooldown", self.cooldown)
        check_workers("image_workers", self.image_workers)
        check_bool("fetch_images", self.fetch_images)
        check_count("tool_threads", self.tool_threads)
        check_count("max_pixels", self.max_pixels)

    @property
    def has_address(self) -> bool:
        """Whether there is an address, which only the starter can check."""
        return self.fleet != "" or self.response_cache is not None
