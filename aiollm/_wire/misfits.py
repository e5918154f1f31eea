"""Takes out of a decoded value what does not fit a type, in one pass over the value."""

from __future__ import annotations

import json
from functools import cached_property, lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

MAX_MISFITS = 32
"""How many values of one frame may not fit; with more, it is not what it should be."""

_MISFIT = object()
_PLAIN = (str, int, float, bool, NoneType)
"""Types whose values fit without a test: it costs more than all else."""


class _Shape:
    """How far a type can be walked: into the fields of a struct, into the items of a list."""

    def __init__(self, kind: Any) -> None:
        self.kind = kind
        self.struct: Any = None
        self.item: _Shape | None = None
        self.is_raw = False
        self.plain: set[Any] = set()
        self._see(kind)

    def _see(self, kind: Any) -> None:
        """Take note of a type; one with constraints is not walked, but tested as it is."""
        origin = get_origin(kind)
        plain = origin or kind
        if origin is Union or origin is UnionType:
            for member in get_args(kind):
                self._see(member)
        elif origin is list:
            self.item = _shape(get_args(kind)[0])
        elif kind is msgspec.Raw:
            self.is_raw = True
        elif kind in _PLAIN:
            self.plain.add(kind)
        elif isinstance(plain, type) and issubclass(plain, msgspec.Struct):
            self.struct = kind

    @cached_property
    def nullable(self) -> bool:
        """Whether null fits."""
        return self.fits(None)

    @cached_property
    def fields(self) -> dict[str, _Shape]:
        """The fields of the struct by their names in JSON."""
        return {each.encode_name: _shape(each.type) for each in msgspec.structs.fields(self.struct)}

    @cached_property
    def required(self) -> frozenset[str]:
        """The names of the fields that the struct cannot do without."""
        fields = msgspec.structs.fields(self.struct)
        return frozenset(each.encode_name for each in fields if each.required)

    def fits(self, value: Any) -> bool:
        """Return whether a value fits as it is."""
        try:
            msgspec.convert(value, self.kind, strict=False)
        except msgspec.ValidationError:
            return False
        return True


class _TooManyError(Exception):
    """More values do not fit than may."""


def without_misfits(value: Any, kind: Any) -> Any:
    """Return `value` without what does not fit `kind`, unchanged if that is too much of it.

    A field that does not fit becomes null, which most fields accept, else it goes, so that its
    default applies. An item of a list goes alone, a value of a mapping takes its mapping with it.
    """
    try:
        fitted = _Walk().fitted(value, _shape(kind))
    except _TooManyError:
        return value
    return value if fitted is _MISFIT else fitted


class _Walk:
    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = MAX_MISFITS

    def fitted(self, value: Any, shape: _Shape) -> Any:
        """Return the value as far as it fits; objects are changed where they are."""
        if shape.struct is not None and type(value) is dict:
            return self._object(value, shape)
        if shape.item is not None and type(value) is list:
            return self._list(value, shape.item)
        if type(value) in shape.plain or shape.fits(value):
            return value
        return msgspec.Raw(json.dumps(value).encode()) if shape.is_raw else _MISFIT

    def _object(self, value: dict[str, Any], shape: _Shape) -> Any:
        fields = shape.fields
        for name, old in tuple(value.items()):
            field = fields.get(name)
            if field is None or (new := self.fitted(old, field)) is old:
                continue
            if new is not _MISFIT:
                value[name] = new
            elif field.nullable:
                self._drop()
                value[name] = None
            elif name in shape.required:
                return _MISFIT
            else:
                self._drop()
                del value[name]
        for name in shape.required:
            if name not in value:
                return _MISFIT
        return value

    def _list(self, value: list[Any], shape: _Shape) -> list[Any]:
        items = [self.fitted(old, shape) for old in value]
        kept = [new for new in items if new is not _MISFIT]
        self._drop(len(items) - len(kept))
        return kept

    def _drop(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise _TooManyError


@lru_cache(1024)
def _shape(kind: Any) -> _Shape:
    return _Shape(kind)
