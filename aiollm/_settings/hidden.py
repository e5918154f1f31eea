"""Values that are not shown: a dict of headers, a registry's environment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, SupportsIndex

NOT_PICKLED = "a request, provider or registry with keys cannot be pickled"


class HiddenValues(dict[str, str]):
    """A dict that shows only its names, because its values hold keys, as headers do.

    It cannot be pickled unless it is empty: that raises TypeError.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({sorted(self)})"

    def __rich_repr__(self) -> Iterator[str]:
        yield from sorted(self)  # rich would show the items

    def __copy__(self) -> HiddenValues:
        return HiddenValues(self)

    def __deepcopy__(self, _memo: object) -> HiddenValues:
        return HiddenValues(self)

    def __reduce_ex__(self, _protocol: SupportsIndex) -> tuple[Any, ...]:
        if self:
            raise TypeError(NOT_PICKLED)
        return HiddenValues, ()
