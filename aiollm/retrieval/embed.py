"""Embeddings: what is asked, and the vectors."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias, get_args

import msgspec
from msgspec.structs import force_setattr

from aiollm.errors import ConfigError
from aiollm.types import Attempt, Cost, ImagePart, Target, Timings, Usage, _shown

Vector: TypeAlias = "array[float]"
"""One vector: `array('f')`, whose buffer `numpy.asarray` takes without a copy."""

EmbedInput: TypeAlias = str | ImagePart
"""What one vector is made of; images only where the model takes them."""

EmbedKind: TypeAlias = Literal["query", "document"]
"""Whether inputs are searched with or searched through; some models embed these differently."""

MAX_WIDTH = 65_536
"""The widest vector; the widest of known models has 8,192 numbers (November 2026)."""


class EmbedRequest(msgspec.Struct, frozen=True):
    """A request for one vector for each input.

    `dimensions`: the width of the vectors, None for the model's own. `kind`: what the vectors are
    for. `truncate`: cut inputs that are too long instead of failing. `extra`: fields for the wire
    body by scope, as in `Request`. Raises: ConfigError.
    """

    inputs: tuple[EmbedInput, ...]
    dimensions: int | None = None
    kind: EmbedKind | None = None
    truncate: bool = False
    extra: Mapping[str, Any] = {}

    max_output_tokens: ClassVar[int] = 0
    """The reply has no output tokens."""

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(
            self,
            inputs: EmbedInput | Sequence[EmbedInput],
            dimensions: int | None = ...,
            kind: EmbedKind | None = ...,
            truncate: bool = ...,  # noqa: FBT001
            extra: Mapping[str, Mapping[str, Any]] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        force_setattr(self, "inputs", _inputs(self.inputs))
        width = self.dimensions
        if width is not None and (type(width) is not int or not 1 <= width <= MAX_WIDTH):
            expected = f"expected an integer from 1 to {MAX_WIDTH}"
            raise ConfigError(f"dimensions is {_shown(width)}: {expected}")
        if self.kind is not None and self.kind not in get_args(EmbedKind):
            expected = f"expected one of {', '.join(get_args(EmbedKind))}"
            raise ConfigError(f"kind is {_shown(self.kind)}: {expected}")
        if type(self.truncate) is not bool:
            raise ConfigError(f"truncate is {_shown(self.truncate)}: expected a bool")
        check_scopes(self.extra)

    @property
    def size(self) -> float:
        """The bytes of its texts; images are counted as if they were text."""
        return sum(map(size_of_input, self.inputs))


class Embeddings(msgspec.Struct, frozen=True):
    """The vectors of the inputs, in order; all come from one model and have one width.

    Each access to an item of `vectors` makes a new `array('f')`: keep those that you use often.
    `target` answered the first batch; `attempts` has those of all batches, one after another.

        matrix = numpy.asarray(embeddings.vectors)
    """

    commits: ClassVar[bool] = True
    vectors: Sequence[Vector]
    usage: Usage = Usage()
    target: Target | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    timings: Timings = Timings()
    cost: Cost = Cost()

    @property
    def dimensions(self) -> int:
        """How many numbers each vector has."""
        return len(self.vectors[0]) if self.vectors else 0


IMAGE_SIZE = 4_000.0
"""Bytes of text that an image is counted as: some 1,000 tokens."""


def size_of_input(each: EmbedInput) -> float:
    """Return the bytes of an input's text."""
    if not isinstance(each, str):
        return IMAGE_SIZE
    return float(len(each) if each.isascii() else len(each.encode("utf-8", "surrogatepass")))


def check_scopes(extra: object) -> None:
    """Raise ConfigError unless `extra` has scopes, which `Catalog.check_extra` looks up."""
    if not isinstance(extra, Mapping) or not all(isinstance(name, str) for name in extra):
        raise ConfigError("extra must map '*', wires, providers or targets to fields")


def _inputs(value: object) -> tuple[EmbedInput, ...]:
    match value:
        case str() | ImagePart():
            inputs: tuple[Any, ...] = (value,)
        case bytes() | bytearray() | Mapping():
            raise ConfigError(f"expected texts or ImageParts, not {_shown(value)}")
        case Iterable():
            inputs = tuple(value)
        case _:
            raise ConfigError(f"expected texts or ImageParts, not {_shown(value)}")
    if not inputs:
        raise ConfigError("there is nothing to embed: the list of inputs is empty")
    _check_inputs(inputs)
    return inputs


def _check_inputs(inputs: Sequence[Any]) -> None:
    if set(map(type, inputs)) == {str} and all(map(str.strip, inputs)):
        return  # a tenth of the time of what follows: there may be 100,000
    for place, each in enumerate(inputs):
        if not isinstance(each, str | ImagePart):
            raise ConfigError(f"input {place} is {_shown(each)}: expected a text or an ImagePart")
        if isinstance(each, str) and not each.strip():
            raise ConfigError(
                f"input {place} is empty, and an empty text has no meaning: leave it out"
            )
