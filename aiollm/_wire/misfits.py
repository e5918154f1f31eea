"""Takes out of a decoded value what does not fit a type, in one pass over the value."""

from __future__ import annotations

import json
from functools import lru_cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

MAX_MISFITS = 32
"""How many values of one frame may not fit; with more, it is not what it should be."""

MAX_WALKED = 1024
"""How many items the lists of one frame may have that is walked: a microsecond or two each."""

_MISFIT = object()
_TYPES = frozenset({str, int, float, bool, NoneType, list, dict})
"""The types of decoded JSON."""

_LAXLY: dict[Any, frozenset[Any]] = {
    str: frozenset({str}),
    int: frozenset({int, float, str}),
    float: frozenset({int, float, str}),
    bool: frozenset({bool, int, float, str}),
    NoneType: frozenset({NoneType, str}),
    list: frozenset({list}),
    dict: frozenset({dict}),
}
"""By plain type, the types of values that may be read as one, as "5" may be as an integer."""


class _Shape:
    """How far a type can be walked: into the fields of a struct, into the items of a list.

    A test of a value costs more than all else, so types decide wherever they can: a value of the
    types in `plain` fits, one that has no type in `possible` does not.
    """

    # Slots, because reading them costs a seventh of what reading a cached property does.
    __slots__ = (
        "_holder",
        "_kind",
        "fields",
        "is_raw",
        "item",
        "plain",
        "possible",
        "required",
        "struct",
    )

    def __init__(self, kind: Any) -> None:
        self.struct: Any = None
        self.fields: dict[str, _Shape] = {}
        self.required: frozenset[str] = frozenset()
        """By their names in JSON, the fields of the struct, and those that it cannot do without."""
        self.item: _Shape | None = None
        self.is_raw = False
        self.plain: set[Any] = set()
        self.possible: set[Any] = set()
        self._kind = kind
        self._holder: Any = None
        self._see(kind)

    def _see(self, kind: Any) -> None:
        """Take note of a type; one with constraints is not walked, but tested as it is."""
        origin = get_origin(kind)
        if origin is Union or origin is UnionType:
            members = get_args(kind)
            for member in members:
                self._see(member)
            if sum(map(_is_struct, members)) > 1:
                self.struct = None  # nobody can say which of them an object is
            return
        plain = NoneType if kind is None else origin or kind
        if origin is list and get_args(kind) != (Any,):
            self.item = _shape(get_args(kind)[0])
        elif kind is msgspec.Raw:
            self.is_raw = True
        elif kind is Any:
            self.plain |= _TYPES
        elif _is_struct(kind):
            self.struct = kind
            plain = list if kind.__struct_config__.array_like else dict
        elif origin is None or kind in (list[Any], dict[str, Any]):
            self.plain |= {plain} & _TYPES
        self.possible |= _LAXLY.get(plain, _TYPES)

    def opened(self) -> dict[str, _Shape]:
        """Find the fields of the struct, whose types may refer to it, and return them."""
        fields = msgspec.structs.fields(self.struct)
        self.fields = {each.encode_name: _shape(each.type) for each in fields}
        self.required = frozenset(each.encode_name for each in fields if each.required)
        return self.fields

    def fits(self, value: Any) -> bool:
        """Return whether a value fits as it is."""
        if self._holder is None:
            # What the type of a struct's field is, msgspec works out only once.
            self._holder = msgspec.defstruct("_Holder", [("value", self._kind)])
        try:
            msgspec.convert({"value": value}, self._holder, strict=False)
        except msgspec.ValidationError:
            return False
        return True


def _is_struct(kind: Any) -> bool:
    plain = get_origin(kind) or kind
    return isinstance(plain, type) and issubclass(plain, msgspec.Struct)


def without_misfits(value: Any, kind: Any) -> tuple[Any, int]:
    """Return `value` without what does not fit `kind`, and how much that was.

    A field that does not fit becomes null, which most fields accept, else it goes, so that its
    default applies. An item of a list goes alone, a value of a mapping takes its mapping with it.
    Objects and lists are changed where they are. Raises: ValueError if too much does not fit.
    """
    walk = _Walk()
    fitted = walk.fitted(value, _shape(kind))
    return value if fitted is _MISFIT else fitted, MAX_MISFITS - walk.left


class _Walk:
    left = MAX_MISFITS
    """How many more values may not fit."""
    _items = MAX_WALKED

    def fitted(self, value: Any, shape: _Shape) -> Any:
        """Return the value as far as it fits. Raises: ValueError."""
        kind = type(value)
        if kind in shape.plain:
            return value
        if kind is dict and shape.struct is not None:
            return self._object(value, shape)
        if kind is list and shape.item is not None:
            return self._list(value, shape.item)
        if shape.is_raw:
            return msgspec.Raw(_encoded(value))
        return value if kind in shape.possible and shape.fits(value) else _MISFIT

    def _object(self, value: dict[str, Any], shape: _Shape) -> Any:
        fields = shape.fields or shape.opened()
        misfits: tuple[str, ...] = ()
        for name, old in value.items():
            if name not in fields:
                continue
            kind, field = type(old), fields[name]
            if kind in field.plain:
                continue
            if kind is dict and field.struct is not None:
                new = self._object(old, field)  # as `fitted` would, for half its price
            elif kind is list and field.item is not None:
                new = self._list(old, field.item)
            else:
                new = self.fitted(old, field) if kind in field.possible else _MISFIT
            if new is _MISFIT:
                misfits += (name,)
            elif new is not old:
                value[name] = new
        for name in misfits:
            if NoneType in fields[name].plain:
                value[name] = None
            elif name in shape.required:
                return _MISFIT
            else:
                del value[name]
            self._drop()
        return _MISFIT if shape.required and shape.required - value.keys() else value

    def _drop(self, count: int = 1) -> None:
        self.left -= count
        if self.left < 0:
            raise ValueError(f"more than {MAX_MISFITS} of its values are not what they should be")

    def _list(self, value: list[Any], shape: _Shape) -> list[Any]:
        self._items -= len(value)
        if self._items < 0:
            raise ValueError(f"more than {MAX_WALKED} items of its lists would have to be read")
        is_struct, misfits, at = shape.struct is not None and dict not in shape.plain, 0, 0
        for old in value:
            if is_struct and type(old) is dict:
                new = self._object(old, shape)
            else:
                new = self.fitted(old, shape)
            if new is not old:
                value[at] = new
                misfits += new is _MISFIT
            at += 1  # noqa: SIM113  enumerate() costs more
        if not misfits:
            return value
        self._drop(misfits)
        return [item for item in value if item is not _MISFIT]


def _encoded(value: Any) -> bytes:
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:  # half a surrogate pair
        pass
    if isinstance(value, str):  # of which the next frame may bring the other half
        return json.dumps(value).encode()
    text = json.dumps(value, ensure_ascii=False).encode("utf-16-le", "surrogatepass")
    return text.decode("utf-16-le", "replace").encode()


@lru_cache(1024)
def _shape(kind: Any) -> _Shape:
    return _Shape(kind)
