"""`stream(output=...)`: the value at the end, and as far as it has come before."""

from __future__ import annotations

import asyncio
import dataclasses
import enum
import gc
import itertools
import json
from typing import Any, Literal, TypedDict

import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import (
    ClosedError,
    ConfigError,
    OutputError,
    Partial,
    Registry,
    Request,
    Response,
    StreamInterrupted,
    TypedStream,
)
from aiollm._user_types.hooks import plain
from aiollm.testing import NEVER, FakeProvider, Serve, chat, tool_call
from aiollm.types import Finish, Message, ReasoningDelta, TextDelta
from tests.turns import turns


class Stop(msgspec.Struct):
    place: str
    days: int = 1


class Trip(msgspec.Struct, rename="camel"):
    trip_title: str
    stops: list[Stop] = []


@dataclasses.dataclass
class Point:
    x: float
    label: str | None = None


class Entry(TypedDict, total=False):
    name: str
    tags: list[str]


class Model(pydantic.BaseModel):
    name: str = pydantic.Field(alias="theName")
    sizes: dict[str, int] = {}


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


TEXT = st.text(max_size=20)
STOPS = st.builds(Stop, TEXT, st.integers(0, 99))
VALUES: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "struct": (Trip, st.builds(Trip, TEXT, st.lists(STOPS, max_size=4))),
    "dataclass": (Point, st.builds(Point, st.floats(-9, 9), TEXT | st.none())),
    "typed dict": (Entry, st.fixed_dictionaries({"tags": st.lists(TEXT, max_size=3)})),
    "pydantic": (
        Model,
        st.builds(
            lambda name, sizes: Model(theName=name, sizes=sizes),
            TEXT,
            st.dictionaries(TEXT, st.integers(), max_size=3),
        ),
    ),
    "list": (list[Stop], st.lists(STOPS, max_size=4)),
    "text": (str, TEXT),
    "number": (int, st.integers(-(2**63), 2**63)),
    "flag": (bool, st.booleans()),
    "literal": (Literal["a", "b"], st.sampled_from(["a", "b"])),
    "enum": (Colour, st.sampled_from(Colour)),
    "union": (int | str | None, st.integers() | TEXT | st.none()),
    "optional": (Stop | None, STOPS | st.none()),
    "free keys": (dict[str, Stop], st.dictionaries(TEXT, STOPS, max_size=3)),
    "tuple": (tuple[int, str], st.tuples(st.integers(), TEXT)),
    "anything": (Any, st.recursive(TEXT | st.integers(), st.lists, max_leaves=5)),
}


def written(name: str, value: Any) -> str:
    """Write a value as a model does that is asked for its type."""
    body = msgspec.to_builtins(value, enc_hook=plain, str_keys=True)
    whole = name in ("struct", "dataclass", "typed dict", "pydantic", "free keys")
    return json.dumps(body if whole else {"value": body}, ensure_ascii=False)


def begins(part: Any, whole: Any) -> bool:
    match part, whole:
        case str(), str():
            return whole.startswith(part)
        case list(), list():
            return len(part) <= len(whole) and all(map(begins, part, whole))
        case dict(), dict():
            return list(part) == list(whole)[: len(part)] and all(
                begins(part[name], whole[name]) for name in part
            )
        case _:
            return part == whole


def pieces_of(text: str, places: list[int]) -> list[str]:
    ends = sorted({place % (len(text) + 1) for place in places} | {len(text)})
    return [text[start:end] for start, end in itertools.pairwise([0, *ends])]


async def partials_of(reg: Registry, kind: Any, **options: Any) -> list[Partial[Any]]:
    stream = reg.stream("fake/m", "?", output=kind, **options)
    return [partial async for partial in stream.partials()]


async def streamed(kind: Any, pieces: list[str]) -> list[Partial[Any]]:
    async with Registry(env={}, retries=0) as reg:
        reg.register("fake", FakeProvider(pieces).provider())
        return await partials_of(reg, kind)


@pytest.mark.parametrize("name", VALUES)
@given(st.data())
def test_each_partial_is_a_beginning_of_the_next_and_the_last_is_the_value(name, data):
    kind, values = VALUES[name]
    value = data.draw(values)
    pieces = pieces_of(written(name, value), data.draw(st.lists(st.integers(0), max_size=20)))
    *early, last = found = asyncio.run(streamed(kind, pieces))
    assert last == Partial(last.data, None, complete=True, value=value)
    assert last.data == json.loads(msgspec.json.encode(value, enc_hook=plain))
    assert not any(partial.complete or partial.value for partial in early)
    for before, after in itertools.pairwise(found):
        assert begins(before.data, after.data)


TRIP = '{"tripTitle":"North","stops":[{"place":"Oslo","days":12},{"place":"Bergen"}]}'


async def test_texts_and_lists_grow_numbers_come_whole_and_nothing_is_made_up(over):
    pieces = ['{"tripTi', 'tle":"No', 'rth","stops":[{"pla', 'ce":"Oslo","days":1', "2},"]
    reg = over(FakeProvider([*pieces, '{"place":"Bergen"}]}']))
    found = await partials_of(reg, Trip)
    assert [(partial.data, partial.growing) for partial in found] == [
        ({"tripTitle": "No"}, ("tripTitle",)),
        ({"tripTitle": "North", "stops": [{}]}, ("stops", 0)),
        ({"tripTitle": "North", "stops": [{"place": "Oslo"}]}, ("stops", 0)),
        ({"tripTitle": "North", "stops": [{"place": "Oslo", "days": 12}]}, ("stops",)),
        (json.loads(TRIP), None),
        (json.loads(TRIP), None),
    ]
    assert [partial.complete for partial in found] == [False] * 5 + [True]
    assert found[-1].value == Trip("North", [Stop("Oslo", 12), Stop("Bergen")])


def test_what_is_whole_is_all_that_does_not_hold_the_growing_place():
    partial: Partial[Any] = Partial({"a": [{"b": 1, "c": "x"}]}, ("a", 0, "c"))
    assert partial.is_final("a", 0, "b")
    assert not any([partial.is_final("a", 0, "c"), partial.is_final("a", 0), partial.is_final()])
    assert Partial([1, 2], ()).is_final(1)
    assert Partial([1, 2], None).is_final()


async def test_a_value_that_travels_in_an_object_is_taken_out_of_it(over):
    fake = FakeProvider(['{"value":["a', 'b","c"', "]", "}"])
    found = await partials_of(over(fake), list[str])
    assert [(partial.data, partial.growing) for partial in found] == [
        (["a"], (0,)),
        (["ab", "c"], ()),
        (["ab", "c"], None),
        (["ab", "c"], None),
    ]


async def test_a_list_without_its_object_and_one_in_a_fence_grow_too(over):
    fake = FakeProvider(['["a', 'b"]'], ["```json\n", '{"value": ["a', 'b"]}\n', "```"])
    reg = over(fake)
    for _ in range(2):
        found = await partials_of(reg, list[str])
        assert [partial.data for partial in found] == [["a"], ["ab"], ["ab"]]


async def test_thinking_before_it_is_not_taken_for_it(over):
    fake = FakeProvider(["<think>{", '"place": "x"}', "</think>", '{"place":', '"Oslo"}'])
    assert [partial.data for partial in await partials_of(over(fake), Stop)] == [
        {"place": "Oslo"},
        {"place": "Oslo"},
    ]


async def test_one_read_makes_one_partial(over):
    fake = FakeProvider([[TextDelta(each) for each in TRIP]])
    assert len(await partials_of(over(fake), Trip)) == 2


async def test_reasoning_is_no_part_of_the_value(over):
    fake = FakeProvider([ReasoningDelta('{"place": 5}'), '{"place"', ':"Oslo"}'])
    assert [partial.data for partial in await partials_of(over(fake), Stop)] == [
        {"place": "Oslo"},
        {"place": "Oslo"},
    ]


async def test_the_stream_has_value_and_response_after_its_partials(over):
    stream = over(FakeProvider(TRIP)).stream("fake/m", "?", output=Trip)
    assert isinstance(stream, TypedStream)
    with pytest.raises(ClosedError, match="not ended"):
        _ = stream.value
    async for _ in stream.partials():
        pass
    assert stream.value == Trip("North", [Stop("Oslo", 12), Stop("Bergen")])
    assert stream.value is stream.value
    assert stream.response.text == TRIP
    assert isinstance(await stream.collect(), Response)


async def test_a_typed_stream_is_iterated_and_collected_like_any_other(over):
    fake = FakeProvider([TRIP[:9], TRIP[9:]], '{"value": 5}', "5")
    reg = over(fake)
    assert "".join([c.text async for c in reg.stream("fake/m", "?", output=Trip)]) == TRIP
    stream = reg.stream("fake/m", "?", output=int)
    assert (await stream.collect()).text == '{"value": 5}'
    assert stream.value == 5
    *_, last = [partial async for partial in stream.partials()]
    assert (last.complete, last.value) == (True, 5)
    assert fake.requests[0].output is Trip


async def test_partials_begin_with_what_came_before_they_were_asked_for(over):
    reg = over(FakeProvider(['{"pla', 'ce":"Os', 'lo"}'], ['{"pla', 'ce":"Os', 'lo"}']))
    stream = reg.stream("fake/m", "?", output=Stop)
    await stream.ready()
    found = [partial.data async for partial in stream.partials()]
    assert found == [{"place": "Os"}, {"place": "Oslo"}, {"place": "Oslo"}]
    stream = reg.stream("fake/m", "?", output=Stop)
    await anext(stream)
    await anext(stream)
    found = [partial.data async for partial in stream.partials()]
    assert found == [{"place": "Os"}, {"place": "Oslo"}, {"place": "Oslo"}]


async def test_what_turns_out_invalid_is_an_error_after_its_partials(over):
    stream = over(FakeProvider(['{"place":"Os', 'lo", oh no'])).stream("fake/m", "?", output=Stop)
    found = []
    with pytest.raises(OutputError, match="does not fit Stop") as caught:
        async for partial in stream.partials():
            found.append(partial.data)  # noqa: PERF401 - what came before the error counts
    assert found == [{"place": "Os"}, {"place": "Oslo"}]
    assert caught.value.response.text == '{"place":"Oslo", oh no'
    assert caught.value.response == stream.response
    with pytest.raises(OutputError):
        _ = stream.value


async def test_a_value_of_the_wrong_type_is_an_error_too(over):
    stream = over(FakeProvider('{"place":"Oslo","days":"many"}')).stream("fake/m", "?", output=Stop)
    with pytest.raises(OutputError, match=r"Expected `int`, got `str` - at `\$.days`"):
        async for _ in stream.partials():
            pass


async def test_a_cut_answer_is_an_error_with_what_had_come(over):
    cut = [*('{"pla', 'ce":"Os'), StreamInterrupted("cut")]
    stream = over(FakeProvider(cut)).stream("fake/m", "?", output=Stop)
    found = []
    with pytest.raises(StreamInterrupted):
        async for partial in stream.partials():
            found.append(partial.data)  # noqa: PERF401 - as above
    assert found == [{"place": "Os"}]
    assert stream.partial.text == '{"place":"Os'


async def test_a_reason_why_no_other_try_would_help_is_told(over):
    fake = FakeProvider([TRIP[:20], Finish("length")], [tool_call("f")])
    reg = over(fake)
    for reason in ("raise max_output_tokens", "use run"):
        with pytest.raises(OutputError, match=reason):
            await partials_of(reg, Trip)


async def test_after_a_restart_the_value_begins_again_and_says_so(over):
    first = FakeProvider(['{"place":"Os', StreamInterrupted("cut")], name="a")
    second = FakeProvider(['{"place":"B', 'ergen"}'], name="b")
    stream = over(first, second).stream("a/m,b/m", "?", output=Stop, on_interrupt="restart")
    found = [(partial.data, partial.restarts) async for partial in stream.partials()]
    assert found == [
        ({"place": "Os"}, 0),
        (None, 1),
        ({"place": "B"}, 1),
        ({"place": "Bergen"}, 1),
        ({"place": "Bergen"}, 1),
    ]


@pytest.mark.parametrize(
    ("text", "data", "restarts"),
    [
        ('{"place": "Oslo", "days": "2"}', {"place": "Oslo", "days": "2"}, 0),
        ("{'place': 'Oslo', 'days': 2}", {"place": "Oslo", "days": 2}, 0),
        ('{"place": "Oslo", /* so */ "days": 2}', {"place": "Oslo", "days": 2}, 0),
        ('[{"place": "Oslo", "days": 2}]', {"place": "Oslo", "days": 2}, 0),
        (
            '{"place": "Rome"} no</think>{"place": "Oslo", "days": 2}',
            {"place": "Oslo", "days": 2},
            1,
        ),
        ('{"note": 1} and {"place": "Oslo", "days": 2}', {"place": "Oslo", "days": 2}, 1),
    ],
)
async def test_the_last_is_what_generate_makes_of_it(over, text, data, restarts):
    fake = FakeProvider([*text], text)
    reg = over(fake)
    *_, last = await partials_of(reg, Stop)
    assert last == Partial(data, None, complete=True, value=Stop("Oslo", 2), restarts=restarts)
    assert last.value == await reg.generate("fake/m", "?", output=Stop, repairs=0)


async def test_leaving_closes_the_connection_without_the_collector(over):
    fake = FakeProvider(default=['{"place":"Os', NEVER])
    reg = over(fake)
    gc.disable()
    try:
        async for _ in reg.stream("fake/m", "?", output=Stop).partials():
            break
        await fake.wait_idle()
        async with reg.stream("fake/m", "?", output=Stop) as stream:
            async for _ in stream.partials():
                break
        assert fake.running == 0
        assert not any([partial.complete async for partial in stream.partials()])
    finally:
        gc.enable()
    assert [call.outcome for call in fake.calls] == ["closed", "closed"]


async def test_a_cancelled_wait_ends_the_stream(over):
    fake = FakeProvider(['{"place":"Os', NEVER])
    stream = over(fake).stream("fake/m", "?", output=Stop)
    partials = stream.partials()
    assert (await anext(partials)).data == {"place": "Os"}
    task = asyncio.create_task(anext(partials))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(StreamInterrupted):
        await anext(partials)


async def test_other_tasks_get_their_turn_while_a_large_piece_is_read(over):
    text = '{"value":[' + "1," * 60_000 + "1]}"
    stream = over(FakeProvider(text)).stream("fake/m", "?", output=list[int])
    async with turns() as seen:
        *_, last = [partial async for partial in stream.partials()]
    assert len(last.data) == 60_001
    assert len(seen) > 10


async def test_a_type_without_a_schema_fails_before_anything_is_sent(over):
    fake = FakeProvider()
    with pytest.raises(ConfigError):
        over(fake).stream("fake/m", "?", output=object())
    assert not fake.calls


async def test_no_output_is_no_typed_stream(over):
    stream = over(FakeProvider("x")).stream("fake/m", "?", output=None)
    assert not isinstance(stream, TypedStream)
    request = Request([Message("user", "?")], output=Stop)
    assert not isinstance(over(FakeProvider("x")).stream("fake/m", request), TypedStream)


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_bytes_of_a_real_server_cut_anywhere(serve, size):
    text = TRIP.replace("Bergen", "Tromsø 🧭")
    deltas = [text[at : at + 3] for at in range(0, len(text), 3)]
    _, reg = await serve(Serve(b"".join(chat(*deltas).body), size=size))
    found = [each async for each in reg.stream("a/m", "?", output=Trip).partials()]
    for before, after in itertools.pairwise(found):
        assert begins(before.data, after.data)
    assert found[-1].value == Trip("North", [Stop("Oslo", 12), Stop("Tromsø 🧭")])
