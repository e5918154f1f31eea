"""Starts the calls of a registry; importing it imports everything that calls need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from aiollm._calls.settings import Settings
from aiollm._failover.deadlines import at_least
from aiollm._failover.health import Health
from aiollm._failover.hooks import emit
from aiollm._failover.openers import ChatOpener, ImageOpener
from aiollm._failover.policy import Policy
from aiollm._resources import Resources, new_gate
from aiollm._streams.accumulator import Accumulator
from aiollm._streams.stream import CallSource, Stream
from aiollm._validation import RequestLike, checked_timeouts
from aiollm.errors import ConfigError
from aiollm.providers.catalog import Catalog
from aiollm.spec import Plan
from aiollm.types import Message, Request, TextPart

if TYPE_CHECKING:
    from aiollm._failover.keywords import CallOptions, StreamOptions
    from aiollm._streams.image_stream import ImageStream
    from aiollm.events import Hook
    from aiollm.images import ImageRequest


class Starter:
    """Starts the calls of one registry. It holds no reference to it, which would be a cycle."""

    __slots__ = ("_hooks", "_make", "_numbers", "_policy", "catalog", "gate", "resources")

    def __init__(
        self, catalog: Catalog, policy: Policy, hooks: list[Hook], settings: Settings
    ) -> None:
        """Take what its registry has. Raises: ConfigError for a wrong address."""
        self.catalog = catalog
        health = Health(base=settings.cooldown, uniform=settings.uniform)
        self.gate = new_gate(health, settings.fleet)
        sizes = settings.image_workers, settings.max_pixels, settings.tool_threads
        fetches = settings.fetch_images
        self.resources = Resources(self.gate, *sizes, fetch_images=fetches, book=policy.book)
        self._policy = policy
        self._hooks = hooks
        self._make = self.resources.chain_of(policy)
        self._numbers = count(1)
        heard = partial(emit, hooks)
        self.resources.join(settings.fleet, heard)
        self.resources.keep_answers(settings.response_cache, heard)

    def stream(self, spec: str | Plan, request: RequestLike, options: StreamOptions) -> Stream:
        """Return a stream, as `Registry.stream` without `output`. Raises: as that."""
        policy = self._policy
        timeouts = None
        if options:
            from aiollm._failover.keywords import parted

            request, own = parted(request, options)
            own.pop("session", None)
            own.pop("response_cache", None)
            timeouts = checked_timeouts(own.get("timeouts"))
            policy = policy.overridden(own)
        plan, providers, deadlines = self.catalog.resolve(spec, timeouts)
        if isinstance(request, str) and request:
            checked = Request((Message("user", (TextPart(request),)),))
            opener = ChatOpener(checked, providers, deadlines, self.resources)
        else:
            check = self.catalog.check_extra
            opener = self.resources.opener_of(request, check, providers, deadlines)
        opener.leaves_out = policy.on_unsupported == "drop"
        make = self.resources.source_of(policy, opener, options) if options else self._make
        return Stream(partial(self.start, partial(make, plan, opener, self.gate, policy)))

    def stream_images(
        self, spec: str | Plan, request: str | ImageRequest, options: CallOptions
    ) -> ImageStream:
        """Return a stream of images, as `Registry.stream_images`. Raises: as that."""
        from aiollm._streams.image_stream import ImageStream  # only images need them
        from aiollm.images import IMAGE_SECONDS, ImageRequest, as_image_request

        for name in options.keys() & {*ImageRequest.__struct_fields__}:
            raise TypeError(f"{name!r} belongs to the request: pass ImageRequest(..., {name}=...)")
        timeouts = checked_timeouts(options.get("timeouts"))
        policy = self._policy.overridden(options) if options else self._policy
        plan, providers, deadlines = self.catalog.resolve(spec, timeouts)
        asked = as_image_request(request, self.catalog.check_extra)
        if timeouts is None:
            deadlines = {each: at_least(own, IMAGE_SECONDS) for each, own in deadlines.items()}
        opener = ImageOpener(asked, providers, deadlines, self.resources)
        chain = partial(self.resources.chain_of(policy), plan, opener, self.gate, policy)
        return ImageStream(partial(self.start, chain))

    def caller(self, plan: Plan, options: StreamOptions) -> Callable[[Request], Stream]:
        """Return a function that starts many similar calls: it reads their options only once."""
        if options.keys() & {"session", "response_cache"}:
            return lambda request: self.stream(plan, request, options)
        policy, timeouts = self._policy.overridden(options), options.get("timeouts")
        checked_timeouts(timeouts)
        make, leaves_out = self.resources.chain_of(policy), policy.on_unsupported == "drop"

        def call(request: Request) -> Stream:
            _, providers, deadlines = self.catalog.resolve(plan, timeouts)
            opener = ChatOpener(request, providers, deadlines, self.resources)
            opener.leaves_out = leaves_out
            return Stream(partial(self.start, partial(make, plan, opener, self.gate, policy)))

        return call

    def declared(self, name: str) -> None:
        """Apply what is now declared for a provider, as its limits, to calls that wait."""
        loop = None
        with suppress(RuntimeError):  # none runs in this thread
            loop = asyncio.get_running_loop()
        with suppress(ConfigError):  # a malformed one fails when it is used
            self.gate.declare_again(name, self.catalog.provider(name), loop)

    def start(self, chain: Callable[..., CallSource], total: Accumulator) -> CallSource:
        """Begin a call of `chain` on the running loop. Raises: ClosedError, ConfigError."""
        return chain(
            watchdog=self.resources.bind_loop(),
            accumulated=total,
            emit=partial(emit, self._hooks) if self._hooks else None,
            number=next(self._numbers),
        )
