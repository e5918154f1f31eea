"""Errors: the tree is what its drawing says, and an error can be copied, sent and grouped."""

from __future__ import annotations

import asyncio
import copy
import pickle
import re
import traceback

import pytest

import aiollm
from aiollm import errors
from aiollm.errors import (
    MAX_BODY,
    AuthenticationError,
    BusyError,
    ClosedError,
    ConfigError,
    ConnectError,
    DeadlineError,
    FailoverError,
    InvalidRequestError,
    LLMError,
    OutputError,
    ProtocolError,
    ProviderError,
    RateLimitError,
    ServerError,
    SpecError,
    StreamInterrupted,
    TransportError,
    UnsupportedFeatureError,
    Verdict,
    classify,
)
from aiollm.types import Attempt, Response, Target, assistant

TARGET = Target("m1", "qwen3:30b")
ROW = re.compile(r"^([| ]*)\+- (\w+)(?:\((\w+)\))?(.*)$")
BASES = {"ValueError": ValueError, "TimeoutError": TimeoutError, "ExceptionGroup": ExceptionGroup}


def drawn():
    """Yield each row of the drawing: class, parent, other base, flags."""
    path: list[tuple[str, tuple[bool, str]]] = [("LLMError", (False, "no"))]
    for line in errors.__doc__.splitlines():
        if found := ROW.match(line):
            indent, name, base, text = found.groups()
            del path[1 + len(indent) // 3 :]
            parent, flags = path[-1]
            if harm := re.search(r"moves on(?:, harms( long)?)?$", text):
                flags = (True, "long" if harm[1] else "target" if "harms" in text else "no")
            elif text.endswith("stays"):
                flags = (False, "no")
            path.append((name, flags))
            yield name, parent, base, flags


TREE = list(drawn())


def sample(name: str) -> LLMError:
    kind = getattr(errors, name)
    if kind is DeadlineError:
        return DeadlineError("late", which="idle", after=3.0, target=TARGET)
    if kind is FailoverError:
        return FailoverError("all failed", [sample("ConnectError")], [Attempt(TARGET, 0.0)])
    if kind is BusyError:
        return BusyError("no room", kind="slots", wait=2.0, target=TARGET)
    if kind is SpecError:
        return SpecError("unknown", spec="a/b,c", column=4)
    return kind("what happened", target=TARGET)


@pytest.mark.parametrize(("name", "parent", "base", "flags"), TREE, ids=[row[0] for row in TREE])
def test_the_tree_is_as_drawn(name, parent, base, flags) -> None:
    kind = getattr(errors, name)
    assert issubclass(kind, getattr(errors, parent))
    assert base is None or issubclass(kind, BASES[base])
    assert (kind.moves_on, kind.harms) == flags
    assert classify(sample(name)) == Verdict(*flags)


def test_every_error_is_drawn_and_exported() -> None:
    names = {name for name, *_ in TREE} | {"LLMError"}
    classes = {
        name for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, BaseException)
    }  # fmt: skip
    assert classes == names
    assert names <= set(errors.__all__)
    assert names <= set(aiollm.__all__)
    assert {name for name in names if getattr(aiollm, name) is not getattr(errors, name)} == set()


@pytest.mark.parametrize(
    "error", [ValueError("x"), TimeoutError(), asyncio.CancelledError(), KeyboardInterrupt()]
)
def test_errors_that_are_not_ours_neither_move_on_nor_harm(error) -> None:
    assert classify(error) == Verdict(moves_on=False, harms="no")


def test_a_target_that_says_it_cannot_is_both_kinds_of_error() -> None:
    error = UnsupportedFeatureError("no tools", status=501)
    assert isinstance(error, errors.UnsupportedError)
    assert isinstance(error, ProviderError)
    assert error.status == 501


@pytest.mark.parametrize("name", ["LLMError", *(row[0] for row in TREE)])
def test_an_error_survives_pickle_and_copy(name) -> None:
    """Errors cross process borders, in worker pools and task queues."""
    error = sample(name)
    error.add_note("a note")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert type(other) is type(error)
        assert str(other) == str(error)
        assert other.target == error.target
        assert other.__notes__ == ["a note"]
        assert vars(other).keys() == vars(error).keys()


def test_the_text_of_an_error_names_target_cause_and_facts() -> None:
    assert str(LLMError("x")) == "x"
    assert str(ConnectError("refused", target=TARGET)) == "m1/qwen3:30b: refused"
    assert str(ProviderError("no", target=TARGET)) == "m1/qwen3:30b: no"
    error = RateLimitError("slow down", target=TARGET, status=429, code="x", request_id="r1")
    assert str(error) == "m1/qwen3:30b: slow down (HTTP 429, x, request r1)"
    assert error.message == "slow down"
    error = RateLimitError("slow down", status=429, code="429")
    assert str(error) == "slow down (HTTP 429)", "a code that says the same is not said twice"
    assert str(DeadlineError("late", which="idle", target=TARGET)) == "m1/qwen3:30b: late"


def test_what_an_error_keeps_is_bounded() -> None:
    assert len(ProviderError("x", body=b"x" * 10**6).body) == MAX_BODY
    assert len(ProtocolError("x", frame=b"x" * 10**6).frame) == 1024


def test_what_an_error_carries() -> None:
    response = Response(assistant("hi"))
    deadline = DeadlineError("late", which="stall", after=2.5)
    assert (deadline.which, deadline.after) == ("stall", 2.5)
    assert isinstance(deadline, TimeoutError)
    assert StreamInterrupted("cut").partial is None
    assert OutputError("no", response=response).response is response
    error = ProviderError("x", status=500, retry_after=2.0, may_retry=False, body=b"b")
    assert (error.retry_after, error.may_retry, error.body) == (2.0, False, b"b")
    assert error.partial is None
    assert isinstance(ConfigError("x"), ValueError)
    assert isinstance(ClosedError("x"), LLMError)


class TestSpecError:
    def test_shows_the_spec_with_a_caret_under_the_column(self) -> None:
        error = SpecError("unknown alias 'c'", spec="a/b,c", column=4)
        assert str(error) == "unknown alias 'c'\n  a/b,c\n      ^"
        assert (error.spec, error.column) == ("a/b,c", 4)

    def test_shows_no_caret_without_a_spec(self) -> None:
        assert str(SpecError("empty")) == "empty"

    def test_keeps_the_caret_in_place_under_line_ends_and_control_characters(self) -> None:
        error = SpecError("bad", spec="a/b,\n\tc\x1b", column=6)
        assert str(error) == "bad\n  a/b,  c \n        ^"

    def test_shows_the_neighbourhood_of_the_column_in_a_long_spec(self) -> None:
        spec = "a/b," * 100 + "c" + ",d/e" * 100
        error = SpecError("bad", spec=spec, column=400)
        _, shown, caret = str(error).split("\n")
        assert len(shown) < 120
        assert shown[len(caret) - 1] == "c"
        assert error.column == 400


class TestFailoverError:
    @pytest.fixture
    def error(self) -> FailoverError:
        one = RateLimitError("slow", target=TARGET, status=429)
        two = ConnectError("refused\nmore")
        return FailoverError("2 targets failed", [one, two], [Attempt(TARGET, 0.0)])

    def test_the_same_cause_of_several_attempts_is_told_once(self) -> None:
        refused, late = ConnectError("refused"), DeadlineError("late", which="idle", after=1.0)
        text = str(FailoverError("all failed", [refused, late, ConnectError("refused")]))
        assert text == "all failed: ConnectError: refused (2 times); DeadlineError: late"

    def test_its_text_says_what_each_target_said(self) -> None:
        """A template's exception begins with the template, on lines of its own."""
        template = "\n------\nWhile executing CallExpression\n  ^\nError: Jinja Exception: no"
        refusals = [
            InvalidRequestError(template, target=TARGET, status=500),
            InvalidRequestError("bad field", target=Target("m2", "x"), status=400),
            ServerError("x" * 10_000),
        ]
        text = str(FailoverError("all failed", refusals))
        assert "InvalidRequestError: m1/qwen3:30b: ------ While executing" in text
        assert "Jinja Exception: no (HTTP 500)" in text
        assert "; InvalidRequestError: m2/x: bad field (HTTP 400); ServerError: xxx" in text
        assert len(text) < 1000

    def test_holds_errors_and_attempts_in_order(self, error) -> None:
        assert [type(each) for each in error.exceptions] == [RateLimitError, ConnectError]
        assert error.attempts == (Attempt(TARGET, 0.0),)
        assert error.target is None
        assert isinstance(error, LLMError)
        assert isinstance(error, ExceptionGroup)

    def test_says_each_cause_on_one_line(self, error) -> None:
        assert str(error) == (
            "2 targets failed: RateLimitError: m1/qwen3:30b: slow (HTTP 429); "
            "ConnectError: refused more"
        )
        assert error.message == "2 targets failed"

    def test_splits_as_a_group_does(self, error) -> None:
        limited, rest = error.split(RateLimitError)
        assert type(limited) is type(rest) is FailoverError
        assert [type(each) for each in rest.exceptions] == [ConnectError]
        assert limited.attempts == rest.attempts == error.attempts
        assert error.subgroup(TransportError).exceptions == error.exceptions[1:]
        assert error.subgroup(AuthenticationError) is None

    def test_is_taken_apart_by_except_star(self, error) -> None:
        caught = []
        try:
            raise error
        except* RateLimitError as group:
            caught.append(group)
        except* TransportError as group:
            caught.append(group)
        assert [len(group.exceptions) for group in caught] == [1, 1]

    def test_is_caught_as_an_error_of_ours(self, error) -> None:
        with pytest.raises(LLMError):
            raise error

    def test_prints_every_cause(self, error) -> None:
        text = "".join(traceback.format_exception(error))
        assert "slow (HTTP 429)" in text
        assert "refused" in text
