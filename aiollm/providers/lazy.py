"""Codecs that are imported when they are first used: a spec is resolved without them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

from aiollm.errors import LocalError
from aiollm.provider import Codec


class LazyCodec(Codec):
    """A codec that is not imported yet, named "module:Class"; its first use makes it that codec.

    Whoever is about to use it calls `load` in a thread: that takes some milliseconds.
    """

    def __init__(self, name: str, family: str) -> None:
        """Name it; its `family` is all that resolving a spec asks of it."""
        self._name = name
        self.family = family

    def __getattribute__(self, name: str) -> Any:
        if name in _OWN or name.startswith("__"):
            return object.__getattribute__(self, name)
        LazyCodec.load(self)  # it may be that codec already: another thread loads it
        return getattr(self, name)

    def load(self) -> None:
        """Import the codec, and become it. Raises: LocalError."""
        made = imported(self._name)
        vars(self).update(vars(made))
        self.__class__ = type(made)


_OWN = ("_name", "family", "load")


class LazyCodecs:
    """The codecs of an operation, named "module:Class", which each call imports and makes."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self._names = names

    def __call__(self) -> tuple[Any, ...]:
        """Return the codecs. Raises: LocalError."""
        return tuple(map(imported, self._names))

    @property
    def is_loaded(self) -> bool:
        """Whether they have been imported."""
        return all(is_imported(module_of(name)) for name in self._names)


def loader_of(codec: object) -> Callable[[], object] | None:
    """Return what imports a codec or the codecs of an operation, None where that is done."""
    match codec:
        case LazyCodec():
            return codec.load
        case LazyCodecs(is_loaded=False):
            return codec
        case _:
            return None


def codec_named(name: str, family: str) -> Any:
    """Return the codec of a name, a lazy one until its module is imported."""
    if is_imported(module_of(name)):
        return imported(name)
    return LazyCodec(name, family)  # type: ignore[abstract] # it becomes one that is not


def imported(name: str) -> Any:
    """Import the class that is named as "module:Class", and make an instance."""
    module, _, kind = name.partition(":")
    try:
        return getattr(import_module(module), kind)()
    except OSError as error:
        reason = f"{module} cannot be loaded: {error.strerror}"
    raise LocalError(reason)


def is_imported(module: str) -> bool:
    """Return whether a module has been imported, and not only begun by another thread.

    To import one that another thread imports is to wait for it.
    """
    spec = getattr(sys.modules.get(module), "__spec__", None)
    return spec is not None and not getattr(spec, "_initializing", False)


def module_of(name: str) -> str:
    """Return the module of a name."""
    return name.partition(":")[0]
