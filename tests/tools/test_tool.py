"""`@tool`: functions become tools; arguments become values; values become results."""

from __future__ import annotations

import asyncio
import datetime as dt
import enum
import functools
import threading
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from aiollm import (
    ConfigError,
    FunctionTool,
    ImagePart,
    LLMError,
    OutputError,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    tool,
)
from aiollm._agent.tool_runner import ToolRunner
from aiollm._agent.tools import as_result, as_tool, bind
from aiollm._wire.schema import strict
from aiollm.types import AudioPart, DocumentPart, OpaquePart, ProviderData


async def execute(bound):
    """Return what a bound call returns, or raise what it raised."""
    outcome = await ToolRunner(4).run("f", bound, None)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value


class Point(msgspec.Struct):
    x: int
    y: int


@dataclass
class Box:
    sides: tuple[int, int]


class Unit(enum.Enum):
    C = "celsius"
    F = "fahrenheit"


class Odd:
    """A class that msgspec knows nothing of."""


class Node(msgspec.Struct):
    child: Node | None = None


@tool
def forecast(
    city: Annotated[str, Meta(description="Its name in English.")], days: int = 3
) -> dict[str, Any]:
    """Forecast the weather of a city.

    Temperatures are in Celsius.
    """
    return {"city": city, "days": days}


def call(arguments: str | dict[str, Any] = "{}", *, name: str = "f", valid: bool = True) -> Any:
    text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    return ToolCallPart("id", name, text, valid)


def filled(made: Tool, arguments: dict[str, Any]) -> Any:
    """Run a tool that returns its arguments."""
    return bind(made, call(arguments))()


def test_a_function_becomes_a_tool_with_name_docstring_and_schema():
    assert isinstance(forecast, Tool)
    assert forecast.name == "forecast"
    assert forecast.description == (
        "Forecast the weather of a city.\n\nTemperatures are in Celsius."
    )
    assert forecast.parameters == {
        "type": "object",
        "properties": {
            "city": {"type": "string", "description": "Its name in English."},
            "days": {"type": "integer", "default": 3},
        },
        "required": ["city"],
        "additionalProperties": False,
    }
    assert (forecast.strict, forecast.timeout) == (False, None)


def test_a_tool_is_still_called_as_its_function():
    assert forecast("Oslo", days=1) == {"city": "Oslo", "days": 1}


def test_the_decorator_takes_settings():
    @tool(name="weather", description="Say it.", strict=True, timeout=2.5)
    async def other(city: str) -> str:
        """Unused."""
        return city

    assert isinstance(other, FunctionTool)
    assert (other.name, other.description) == ("weather", "Say it.")
    assert (other.strict, other.timeout) == (True, 2.5)


def test_a_function_without_parameters_or_docstring():
    @tool
    def now():
        return "noon"

    assert now.description == ""
    assert now.parameters == {"type": "object", "properties": {}, "additionalProperties": False}
    assert filled(now, {}) == "noon"


def test_a_bound_method_is_a_tool_without_self():
    class Shop:
        """A shop."""

        def __init__(self):
            self.asked = []

        def price(self, item: str) -> int:
            """Tell a price."""
            self.asked.append(item)
            return 5

        @classmethod
        def of(cls, name: str) -> str:
            """Open one."""
            return name

        @staticmethod
        def tax(amount: int) -> int:
            return amount

    shop = Shop()
    made = tool(shop.price)
    assert (made.name, made.description) == ("price", "Tell a price.")
    assert filled(made, {"item": "tea"}) == 5
    assert shop.asked == ["tea"]
    assert filled(tool(Shop.of), {"name": "x"}) == "x"
    assert filled(tool(Shop.tax), {"amount": 2}) == 2


def test_an_instance_with_a_call_method_is_a_tool_named_after_its_class():
    class Adder:
        """Adds to a base."""

        def __init__(self, base: int):
            self.base = base

        def __call__(self, number: int) -> int:
            return self.base + number

    made = tool(Adder(10))
    assert (made.name, made.description) == ("Adder", "Adds to a base.")
    assert filled(made, {"number": 1}) == 11


async def test_an_instance_with_an_async_call_method_runs_on_the_loop():
    class Where:
        async def __call__(self) -> bool:
            return threading.current_thread() is threading.main_thread()

    assert await execute(bind(tool(Where()), call()))


def test_what_a_partial_binds_is_hidden_from_the_model():
    def search(text: str, key: str, most: int = 5) -> list[Any]:
        """Search."""
        return [text, key, most]

    made = tool(name="search")(functools.partial(search, key="secret"))
    assert made.description == "Search."
    assert set(made.parameters["properties"]) == {"text", "most"}
    assert filled(made, {"text": "x"}) == ["x", "secret", 5]
    with pytest.raises(OutputError, match="unknown field `key`"):
        bind(made, call({"text": "x", "key": "mine"}))


def test_a_decorated_function_keeps_the_hints_of_what_it_wraps():
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs).upper()

        return wrapper

    @tool
    @loud
    def say(text: str) -> str:
        """Say it."""
        return text

    assert say.parameters["required"] == ["text"]
    assert filled(say, {"text": "hi"}) == "HI"


def test_positional_only_and_keyword_only_parameters():
    @tool
    def f(a: int, b: int = 2, /, *, c: int = 3) -> Any:
        return [a, b, c]

    assert filled(f, {"a": 1}) == [1, 2, 3]
    assert filled(f, {"c": 9, "b": 8, "a": 7}) == [7, 8, 9]


def test_arguments_are_decoded_into_the_hinted_types():
    @tool
    def f(
        when: dt.date,
        at: Point,
        box: Box,
        unit: Unit,
        ways: list[Literal["n", "s"]],
        seen: dict[int, set[str]],
        raw: bytes = b"",
    ) -> Any:
        return [when, at, box, unit, ways, seen, raw]

    values = filled(
        f,
        {
            "when": "2026-11-22",
            "at": {"x": 1, "y": 2},
            "box": {"sides": [3, 4]},
            "unit": "celsius",
            "ways": ["n"],
            "seen": {"7": ["a", "a"]},
            "raw": "aGk=",
        },
    )
    assert values == [
        dt.date(2026, 11, 22),
        Point(1, 2),
        Box((3, 4)),
        Unit.C,
        ["n"],
        {7: {"a"}},
        b"hi",
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"city": 5}, r"Expected `str`, got `int` - at `\$.city`"),
        ({}, "missing required field `city`"),
        ({"city": "Oslo", "days": "two"}, r"Expected `int`, got `str` - at `\$.days`"),
        ({"city": "Oslo", "days": 1.5}, "Expected `int`, got `float`"),
        ({"city": "Oslo", "country": "NO"}, "unknown field `country`"),
        ({"city": None}, "Expected `str`, got `null`"),
    ],
)
def test_arguments_that_do_not_fit_say_what_is_wrong(arguments, reason):
    with pytest.raises(OutputError, match=reason):
        bind(forecast, call(arguments))


@pytest.mark.parametrize(
    ("arguments", "values"),
    [
        ({"city": "Oslo", "days": "2"}, {"city": "Oslo", "days": 2}),
        ({"city": "2", "days": "2.0"}, {"city": "2", "days": 2}),
        ({"city": "[1]"}, {"city": "[1]", "days": 3}),
    ],
)
def test_a_text_is_read_as_json_where_the_hint_takes_none(arguments, values):
    assert filled(forecast, arguments) == values


@pytest.mark.parametrize("nothing", [None, "null", "None"])
def test_null_leaves_out_an_optional_parameter_and_what_is_no_parameter(nothing):
    @tool
    def f(city: str, days: int = 3, note: str = "", unit: Unit | None = Unit.C) -> Any:
        return city, days, note, unit

    given = {"city": "Oslo", "days": nothing, "unit": nothing, "other": None}
    assert filled(f, given) == ("Oslo", 3, "", None)
    assert filled(f, {"city": "null", "note": "null"}) == ("null", 3, "null", Unit.C)


def test_the_input_of_a_custom_call_is_no_arguments():
    with pytest.raises(OutputError, match="not a JSON object"):
        bind(forecast, ToolCallPart("id", "f", '{"city": "Oslo"}', custom=True))


@pytest.mark.parametrize("text", ['{"city": "Os', "[1]", "5", "null", "nonsense"])
def test_arguments_that_are_no_object_are_refused(text):
    with pytest.raises(OutputError, match="not a JSON object"):
        bind(forecast, call(text))


def test_a_whole_number_with_a_point_is_an_integer_as_json_schema_has_it():
    assert filled(forecast, {"city": "Oslo", "days": 2.0})["days"] == 2


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_number_fits_a_float(number):
    @tool
    def f(x: float) -> Any:
        return x

    value = filled(f, {"x": number})
    assert isinstance(value, float)
    assert value == number


def test_null_for_an_optional_parameter_means_its_default():
    @tool
    def f(a: int = 1, b: list[str] = ["x"], c: str | None = "c") -> Any:  # noqa: B006
        return [a, b, c]

    assert filled(f, {"a": None, "b": None, "c": None}) == [1, ["x"], None]


def test_what_strict_mode_asks_for_can_be_bound():
    """Strict mode has all parameters required, and null for those that were optional."""

    @tool(strict=True)
    def f(a: str, b: list[int] = [7], c: Point | None = None) -> Any:  # noqa: B006
        return [a, b, c]

    assert strict(f.parameters)["required"] == ["a", "b", "c"]
    assert filled(f, {"a": "x", "b": None, "c": None}) == ["x", [7], None]


def test_a_default_that_json_cannot_show_still_applies():
    marker = Odd()

    @tool
    def f(when: dt.date = dt.date(2026, 1, 1), unit: Unit = Unit.F, other: Any = marker) -> Any:
        return [when, unit, other]

    shown = f.parameters["properties"]
    assert shown["unit"]["default"] == "fahrenheit"
    assert "default" not in shown["other"]
    assert filled(f, {}) == [dt.date(2026, 1, 1), Unit.F, marker]


def bare(x): ...
def star(*numbers: int): ...
def stars(**numbers: int): ...
def unreadable(x: Nowhere): ...  # noqa: F821
def unsupported(thing: Odd): ...
def two_structs(x: Point | Node): ...
def recursive(tree: Node): ...
def generator(n: int):
    yield n


async def async_generator(n: int):
    yield n


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (bare, "parameter 'x' of tool 'bare' has no type hint"),
        (star, r"takes \*numbers"),
        (stars, r"takes \*\*numbers"),
        (unreadable, "'Nowhere' is not defined.*the module's top level"),
        (unsupported, "parameter 'thing' of tool 'unsupported': .*Odd.* is not supported"),
        (two_structs, "parameter 'x' of tool 'two_structs'.*must be tagged"),
        (generator, "is a generator"),
        (async_generator, "is a generator"),
        (lambda: 1, "invalid tool name '<lambda>'"),
        (functools.partial(bare, 1), "a partial has no name"),
        (max, "no signature"),
        ([].append, "has no type hint"),
        (Point, "Point is a class"),
    ],
)
def test_what_a_schema_cannot_express_is_a_clear_error(function, reason):
    with pytest.raises(ConfigError, match=reason):
        tool(function)


def test_a_method_that_is_not_bound_says_how_to_make_the_tool():
    class Shop:
        def price(self, item: str) -> int: ...

    with pytest.raises(ConfigError, match=r"bound method, tool\(thing\.price\)"):
        tool(Shop.price)


@pytest.mark.parametrize("settings", [{"name": "my tool"}, {"name": "x" * 65}, {"timeout": 0}])
def test_settings_that_make_no_tool(settings):
    with pytest.raises(ConfigError):
        tool(**settings)(forecast.function)


def test_what_counts_as_a_tool():
    assert as_tool(forecast) is forecast
    assert as_tool(forecast.function).name == "forecast"
    by_hand = Tool("by_hand", function=print)
    assert as_tool(by_hand) is by_hand
    with pytest.raises(ConfigError, match="no function"):
        as_tool(Tool("remote"))
    with pytest.raises(ConfigError, match="a function or a Tool, not str"):
        as_tool("forecast")


def test_a_tool_made_by_hand_gets_the_arguments_as_they_came():
    by_hand = Tool("by_hand", parameters={"type": "object"}, function=lambda **given: given)
    assert filled(by_hand, {"n": 2.0, "deep": {"a": [1]}}) == {"n": 2.0, "deep": {"a": [1]}}


async def test_a_plain_function_runs_in_a_thread_with_the_callers_context():
    main = threading.current_thread()

    @tool
    def f() -> bool:
        return threading.current_thread() is not main

    assert await execute(bind(f, call()))


async def test_an_async_function_runs_on_the_loop():
    loop = asyncio.get_running_loop()

    @tool
    async def f() -> bool:
        return asyncio.get_running_loop() is loop

    assert await execute(bind(f, call()))
    assert await execute(functools.partial(f.function))


async def test_an_awaitable_that_a_plain_function_returns_is_awaited():
    async def inner() -> str:
        return "done"

    assert await execute(bind(Tool("f", function=inner), call())) == "done"
    assert await execute(bind(Tool("f", function=lambda: inner()), call())) == "done"  # noqa: PLW0108


async def test_stop_iteration_in_a_thread_does_not_hang():
    @tool
    def f() -> str:
        return next(iter(()))

    with pytest.raises(RuntimeError, match="StopIteration"):
        await execute(bind(f, call()))


IMAGE = ImagePart(b"\x89PNG...", mime="image/png")


@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("text", (TextPart("text"),)),
        ("", (TextPart(""),)),
        (None, (TextPart(""),)),
        (TextPart("t"), (TextPart("t"),)),
        (IMAGE, (IMAGE,)),
        ([IMAGE, IMAGE], (IMAGE, IMAGE)),
        (("a map:", IMAGE), (TextPart("a map:"), IMAGE)),
        (5, (TextPart("5"),)),
        (True, (TextPart("true"),)),
        ({"a": [1, None]}, (TextPart('{"a":[1,null]}'),)),
        (["a", "b"], (TextPart('["a","b"]'),)),
        ([], (TextPart("[]"),)),
        (Point(1, 2), (TextPart('{"x":1,"y":2}'),)),
        ([Point(1, 2)], (TextPart('[{"x":1,"y":2}]'),)),
        (Box((1, 2)), (TextPart('{"sides":[1,2]}'),)),
        (dt.date(2026, 1, 2), (TextPart('"2026-01-02"'),)),
        (["caf\udce9.txt"], (TextPart('["caf\ufffd.txt"]'),)),
    ],
)
def test_what_a_tool_returns_becomes_the_result(value, content):
    assert as_result(call(name="f"), value) == ToolResultPart("id", content, "f")


def test_a_tool_may_return_a_whole_result_an_error_for_one():
    given = ToolResultPart("other", "no such city", is_error=True)  # type: ignore[arg-type]
    assert as_result(call(), given) == ToolResultPart(
        "id", (TextPart("no such city"),), "f", is_error=True
    )


@pytest.mark.parametrize(
    "part", [DocumentPart(b"%PDF"), OpaquePart(ProviderData("anthropic", {"block": {}}))]
)
def test_a_tool_may_return_documents_and_a_providers_own_parts(part):
    assert as_result(call(), part).content == (part,)
    assert as_result(call(), ["see", part]).content == (TextPart("see"), part)


def test_a_parameter_may_contain_its_own_type():
    schema = tool(recursive).parameters
    assert schema["properties"] == {"tree": {"$ref": "#/$defs/Node"}}
    assert schema["$defs"].keys() == {"Node"}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Odd(), "returned Odd, which is not JSON"),
        ({"a": Odd()}, "returned dict, which is not JSON"),
        (AudioPart(b"RIFF"), "not AudioPart"),
        ([IMAGE, AudioPart(b"RIFF")], "not AudioPart"),
        ([AudioPart(b"RIFF")], "not AudioPart"),
        ([IMAGE, 5], "not int"),
        (ToolResultPart("id", (AudioPart(b"RIFF"),)), "not AudioPart"),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_a_result_says_so(value, reason):
    with pytest.raises(OutputError, match=reason):
        as_result(call(), value)


def test_a_value_that_contains_itself_cannot_be_a_result():
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(LLMError, match="not JSON"):
        as_result(call(), loop)
