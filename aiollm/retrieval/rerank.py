"""Reranking: what is asked, and the documents by how well they answer a query."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec
from msgspec.structs import force_setattr

from aiollm.errors import ConfigError
from aiollm.retrieval.embed import check_scopes, size_of_input
from aiollm.types import Attempt, Cost, Target, Timings, Usage, _shown


class RerankRequest(msgspec.Struct, frozen=True):
    """A request to order `documents` by how well they answer `query`.

    `top`: how many of the best to return, None for all. `truncate`: cut documents that are too
    long instead of failing. `extra`: fields for the wire body by scope, as in `Request`.
    Raises: ConfigError.
    """

    query: str
    documents: tuple[str, ...]
    top: int | None = None
    truncate: bool = False
    extra: Mapping[str, Any] = {}

    max_output_tokens: ClassVar[int] = 0
    """The reply has no output tokens."""

    if TYPE_CHECKING:  # what may be passed is wider than what is kept

        def __init__(
            self,
            query: str,
            documents: Sequence[str],
            top: int | None = ...,
            truncate: bool = ...,  # noqa: FBT001
            extra: Mapping[str, Mapping[str, Any]] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        _check_query(self.query)
        force_setattr(self, "documents", _documents(self.documents))
        if self.top is not None and (type(self.top) is not int or self.top < 1):
            raise ConfigError(f"top is {_shown(self.top)}: expected an integer from 1 up")
        if type(self.truncate) is not bool:
            raise ConfigError(f"truncate is {_shown(self.truncate)}: expected a bool")
        check_scopes(self.extra)

    @property
    def size(self) -> float:
        """The bytes of its texts, the query once for each document, as models read them."""
        each = size_of_input(self.query)
        return sum(each + size_of_input(document) for document in self.documents)

    @property
    def wanted(self) -> int:
        """How many documents to return."""
        count = len(self.documents)
        return count if self.top is None else min(self.top, count)


class Ranked(msgspec.Struct, frozen=True):
    """A document's `index` in the request, from 0, and its score: higher is better.

    Scores of one model can be compared with each other, those of different models cannot.
    """

    index: int
    score: float


class Ranking(msgspec.Struct, frozen=True):
    """Documents, best first: iterate it, take its length, or index it.

    for each in await reg.rerank("ls/bge-reranker", "panda?", documents, top=5):
        print(each.score, documents[each.index])
    """

    commits: ClassVar[bool] = True
    ranked: tuple[Ranked, ...]
    usage: Usage = Usage()
    target: Target | None = None
    warnings: tuple[str, ...] = ()
    attempts: tuple[Attempt, ...] = ()
    timings: Timings = Timings()
    cost: Cost = Cost()

    def __iter__(self) -> Iterator[Ranked]:
        return iter(self.ranked)

    def __len__(self) -> int:
        return len(self.ranked)

    def __getitem__(self, place: int) -> Ranked:
        return self.ranked[place]


def _check_query(query: object) -> None:
    if not isinstance(query, str) or not query.strip():
        raise ConfigError("query must be a str that is not empty: say what to look for")


def _documents(value: object) -> tuple[str, ...]:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        raise ConfigError(f"documents must be a list of texts, not {_shown(value)}")
    documents = tuple(value)
    if not documents:
        raise ConfigError("there is nothing to rank: the list of documents is empty")
    for place, each in enumerate(documents):
        if not isinstance(each, str):
            raise ConfigError(f"document {place} is {_shown(each)}: expected a text")
        if not each.strip():
            raise ConfigError(f"document {place} is empty: leave it out")
    return documents
