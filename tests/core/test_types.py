"""Types: what callers may write, what they get back, and how it is kept."""

from __future__ import annotations

import ast
import copy
import inspect
import math
import pickle
from typing import get_args

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiollm import from_json, to_json, types
from aiollm.errors import ConfigError, LLMError, OutputError, RateLimitError
from aiollm.images import ImageRequest, ImageResult, PartialImage
from aiollm.types import (
    AnnouncedLimits,
    Attempt,
    AudioPart,
    CachePoint,
    Chunk,
    Citation,
    CitationChunk,
    Cost,
    DocumentPart,
    Finish,
    ImageChunk,
    ImagePart,
    Item,
    Message,
    Notice,
    OpaquePart,
    Part,
    PartChunk,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    Request,
    Response,
    Restart,
    Status,
    Target,
    TextDelta,
    TextPart,
    Timeouts,
    Timings,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
    UsageUpdate,
    assistant,
    system,
    tool_results,
    user,
)

TARGET = Target("m1", "qwen3:30b")
IMAGE = ImagePart(b"\x89PNG")
DATA = ProviderData("anthropic", {"signature": "abc=="})


class City(msgspec.Struct):
    name: str


class TestMessages:
    def test_texts_among_the_parts_become_text_parts(self) -> None:
        assert user("a", IMAGE, "b").parts == (TextPart("a"), IMAGE, TextPart("b"))
        assert Message("user", ["a", IMAGE]).parts == (TextPart("a"), IMAGE)

    def test_a_single_part_need_not_be_in_a_sequence(self) -> None:
        assert Message("user", "a").parts == (TextPart("a"),)
        assert Message("user", IMAGE).parts == (IMAGE,)

    @pytest.mark.parametrize(
        ("made", "role"), [(user, "user"), (assistant, "assistant"), (system, "system")]
    )
    def test_the_makers_set_the_role(self, made, role) -> None:
        assert made("a") == Message(role, (TextPart("a"),))

    def test_results_of_tools_have_a_role_of_their_own(self) -> None:
        result = ToolResultPart("1", "sunny")
        assert tool_results(result) == Message("tool", (result,))
        assert result.content == (TextPart("sunny"),)
        assert ToolResultPart("1", ["a", IMAGE]).content == (TextPart("a"), IMAGE)
        assert ToolResultPart("1", ["a", IMAGE, "b"]).text == "ab"

    def test_text_joins_the_text_parts_alone(self) -> None:
        assert assistant("a", ReasoningPart("hm"), "b").text == "ab"

    def test_a_message_cannot_be_changed(self) -> None:
        with pytest.raises(AttributeError):
            user("a").role = "system"  # type: ignore[misc]


class TestRequest:
    @pytest.mark.parametrize("messages", ["hi", user("hi"), [user("hi")], (user("hi"),)])
    def test_a_prompt_a_message_and_a_conversation_are_requests(self, messages) -> None:
        assert Request(messages).messages == (user("hi"),)

    def test_lists_become_tuples_and_a_single_value_a_tuple_of_one(self) -> None:
        tool = Tool("f")
        assert Request("hi", tools=[tool], stop=["a", "b"]).tools == (tool,)
        assert Request("hi", tools=tool, stop="a").tools == (tool,)
        assert Request("hi", stop="ab").stop == ("ab",)
        assert Request("hi", stop=["a", "b"]).stop == ("a", "b")

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            ({"messages": 1}, "messages must be a Message or a sequence of them, not int"),
            ({"messages": None}, "messages must be .* not NoneType"),
            ({"messages": b"hi"}, "messages must be .* not bytes"),
            ({"messages": {"role": "user"}}, "messages must be .* not dict"),
            (
                {"messages": "hi", "tools": None},
                "tools must be a Tool or a sequence of them, not None",
            ),
            ({"messages": "hi", "tools": "f"}, "tools must be .* not str"),
            ({"messages": "hi", "stop": 1}, "stop must be a str or a sequence of them, not int"),
        ],
    )
    def test_what_is_no_sequence_is_refused_at_once(self, fields, reason) -> None:
        with pytest.raises(ConfigError, match=reason):
            Request(**fields)

    def test_no_two_requests_share_their_defaults(self) -> None:
        assert Request("a").extra is not Request("b").extra
        assert Tool("a").parameters is not Tool("b").parameters


class TestFiles:
    @pytest.mark.parametrize("kind", [ImagePart, DocumentPart, AudioPart])
    def test_a_file_has_bytes_or_an_address(self, kind) -> None:
        assert kind(b"x").data == b"x"
        assert kind(url="https://x").url == "https://x"
        for wrong in ({}, {"data": b"x", "url": "https://x"}):
            with pytest.raises(ConfigError, match=f"{kind.__name__} .*takes either data"):
                kind(**wrong)

    @pytest.mark.parametrize("buffer", [bytearray(b"abc"), memoryview(b"abc")])
    def test_any_buffer_becomes_bytes(self, buffer) -> None:
        data = ImagePart(buffer).data
        assert type(data) is bytes
        assert data == b"abc"

    @pytest.mark.parametrize("wrong", ["duck.png", 5, None])
    def test_a_path_or_anything_else_is_no_data(self, wrong) -> None:
        with pytest.raises(ConfigError, match=r"data must be bytes.*ImagePart.from_path"):
            ImagePart(wrong)

    def test_the_repr_shows_no_bytes(self) -> None:
        assert repr(ImagePart(b"x" * 1000, mime="image/png")) == (
            "ImagePart(1000 bytes, mime='image/png')"
        )
        assert len(repr(ImagePart(url="data:" + "x" * 5000))) < 300

    def test_files_are_read_and_written(self, tmp_path) -> None:
        path = tmp_path / "duck.png"
        IMAGE.save(path)
        assert ImagePart.from_path(path) == IMAGE
        assert DocumentPart.from_path(path) == DocumentPart(b"\x89PNG", name="duck.png")
        assert DocumentPart.from_path(path, "text/plain").mime == "text/plain"

    @pytest.mark.parametrize(
        ("name", "mime"),
        [
            ("a.MP3", "audio/mpeg"),
            ("a.flac", "audio/flac"),
            ("a.m4a", "audio/mp4"),
            ("a.opus", "audio/ogg"),
            ("a", "audio/wav"),
        ],
    )
    def test_the_name_of_a_recording_says_what_it_is(self, tmp_path, name, mime) -> None:
        (tmp_path / name).write_bytes(b"sound")
        assert AudioPart.from_path(tmp_path / name) == AudioPart(b"sound", mime=mime)
        assert AudioPart.from_path(tmp_path / name, "audio/ogg").mime == "audio/ogg"

    def test_an_address_cannot_be_saved(self, tmp_path) -> None:
        with pytest.raises(ConfigError, match="is a URL: https://x"):
            ImagePart(url="https://x").save(tmp_path / "x")


class TestToolCalls:
    def test_arguments_are_parsed(self) -> None:
        assert ToolCallPart("1", "f", '{"a": [1]}').parsed() == {"a": [1]}
        assert ToolCallPart("1", "f").parsed() == {}
        assert ToolCallPart("1", "f", "").parsed() == {}

    @pytest.mark.parametrize("arguments", ['{"a":', "[1]", "1", "null", "x", "[" * 100_000])
    def test_arguments_that_are_no_object_are_an_output_error(self, arguments) -> None:
        with pytest.raises(OutputError, match="tool call 'f'") as caught:
            ToolCallPart("1", "f", arguments).parsed()
        assert caught.value.__context__ is None

    def test_a_call_known_to_be_cut_is_never_parsed(self) -> None:
        with pytest.raises(OutputError):
            ToolCallPart("1", "f", "{}", valid=False).parsed()


class TestChunks:
    CHUNKS = (
        TextDelta("a"),
        ReasoningDelta("b"),
        RefusalDelta("c"),
        ToolCallDelta(0),
        ImageChunk(IMAGE),
        CitationChunk(Citation("https://x")),
        PartChunk(OpaquePart(DATA)),
        Status("loading"),
        Restart(TARGET, "cut"),
        Finish("stop"),
    )

    def test_every_chunk_has_text_so_that_printing_it_is_right(self) -> None:
        assert "".join(chunk.text for chunk in self.CHUNKS) == "a"
        assert {type(chunk) for chunk in self.CHUNKS} == set(get_args(Chunk))
        assert set(get_args(Item)) == set(get_args(Chunk)) | {UsageUpdate, Notice, AnnouncedLimits}

    def test_each_kind_of_item_says_whether_it_commits_a_stream(self) -> None:
        kinds = {*get_args(Item), ImageResult, PartialImage}
        assert {kind.__name__ for kind in kinds if not kind.commits} == {
            "CitationChunk",
            "Notice",
            "Restart",
            "Status",
            "UsageUpdate",
            "AnnouncedLimits",
        }

    @pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: type(chunk).__name__)
    def test_a_chunk_can_be_matched_copied_and_sent(self, chunk) -> None:
        match chunk:
            case TextDelta(text=text):
                assert text == "a"
            case Finish(reason=reason, usage=usage):
                assert (reason, usage.certainty) == ("stop", "missing")
            case _:
                assert chunk.text == ""
        assert pickle.loads(pickle.dumps(chunk)) == chunk == copy.deepcopy(chunk)

    def test_a_chunk_cannot_be_changed(self) -> None:
        for chunk in self.CHUNKS:
            with pytest.raises(AttributeError):
                chunk.text = "x"


class TestResponse:
    CALL = ToolCallPart("1", "f")
    RESPONSE = Response(
        assistant(
            ReasoningPart("hm, "),
            TextPart('{"name":', (Citation("https://x"),)),
            IMAGE,
            ReasoningPart("so"),
            TextPart('"Oslo"}', (Citation("https://y"),)),
            CALL,
            RefusalPart("no"),
        ),
        finish_reason="stop",
        target=TARGET,
    )

    def test_views_pick_their_parts_in_order(self) -> None:
        response = self.RESPONSE
        assert response.text == '{"name":"Oslo"}'
        assert response.reasoning == "hm, so"
        assert response.refusal == "no"
        assert response.tool_calls == (self.CALL,)
        assert response.images == (IMAGE,)
        assert [source.url for source in response.citations] == ["https://x", "https://y"]

    def test_the_views_of_an_empty_response_are_empty(self) -> None:
        response = Response(Message("assistant", ()))
        assert (response.text, response.reasoning, response.refusal) == ("", "", "")
        assert (response.tool_calls, response.images, response.citations) == ((), (), ())
        assert response.finish_reason is None

    def test_parses_its_text(self) -> None:
        assert self.RESPONSE.parse(City) == City("Oslo")
        assert self.RESPONSE.parse(dict) == {"name": "Oslo"}

    @pytest.mark.parametrize("kind", [int, list[City], City | None])
    def test_text_that_does_not_fit_is_an_output_error_with_the_response(self, kind) -> None:
        response = Response(assistant("[1, {]"), target=TARGET)
        with pytest.raises(OutputError, match=r"m1/qwen3:30b: the reply does not fit") as caught:
            response.parse(kind)
        assert caught.value.response is response
        assert caught.value.__context__ is None

    def test_text_that_is_not_json_is_an_output_error_that_says_so(self) -> None:
        with pytest.raises(OutputError, match="does not fit City: it is not JSON: "):
            Response(assistant("I cannot."), target=TARGET).parse(City)

    def test_text_that_nests_too_deeply_is_an_output_error(self) -> None:
        with pytest.raises(OutputError):
            Response(assistant("[" * 100_000)).parse(list)


# Conversations are kept as JSON.

TEXT = st.text()
MAYBE_DATA = st.none() | st.builds(
    ProviderData, TEXT, st.dictionaries(TEXT, st.none() | TEXT | st.integers(-(2**63), 2**63))
)
IMAGES = st.builds(ImagePart, st.binary(min_size=1), mime=TEXT) | st.builds(
    ImagePart, url=st.text(min_size=1), detail=st.sampled_from(["auto", "low", None])
)
TEXTS = st.builds(TextPart, TEXT, st.lists(st.builds(Citation, TEXT)).map(tuple), MAYBE_DATA)
PARTS = st.one_of(
    TEXTS,
    IMAGES,
    st.builds(DocumentPart, st.binary(min_size=1), provider_data=MAYBE_DATA),
    st.builds(AudioPart, st.binary(min_size=1), provider_data=MAYBE_DATA),
    st.builds(ToolCallPart, TEXT, TEXT, TEXT, st.booleans(), MAYBE_DATA),
    st.builds(ToolResultPart, TEXT, st.lists(TEXTS | IMAGES).map(tuple)),
    st.builds(ReasoningPart, TEXT, MAYBE_DATA),
    st.builds(RefusalPart, TEXT),
    st.builds(OpaquePart, MAYBE_DATA.filter(bool)),
    st.just(CachePoint()),
)
MESSAGES = st.builds(
    Message, st.sampled_from(get_args(types.Role)), st.lists(PARTS, max_size=3).map(tuple)
)
REQUESTS = st.builds(
    Request,
    st.lists(MESSAGES, max_size=3).map(tuple),
    system=TEXT,
    tools=st.lists(st.builds(Tool, TEXT, TEXT), max_size=2).map(tuple),
    tool_choice=st.none() | TEXT,
    max_output_tokens=st.none() | st.integers(1, 10**6),
    temperature=st.none() | st.floats(0, 2),
    stop=st.lists(TEXT, max_size=2).map(tuple),
    reasoning=st.none() | st.sampled_from(get_args(types.Effort)) | st.integers(0, 10**5),
    extra=st.dictionaries(TEXT, st.booleans() | TEXT),
    prompt_cache=st.none() | st.sampled_from(get_args(types.PromptCache)),
    cache_key=TEXT,
)


@given(request=REQUESTS)
def test_a_request_comes_back_from_json_and_pickle_as_it_was(request) -> None:
    assert msgspec.json.decode(msgspec.json.encode(request), type=Request) == request
    assert from_json(to_json(request), Request) == request
    assert pickle.loads(pickle.dumps(request)) == request == copy.deepcopy(request)


def test_what_was_stored_stays_readable() -> None:
    """The names of the parts in JSON are a promise."""
    assert {kind: kind.__struct_config__.tag for kind in get_args(Part)} == {
        TextPart: "text",
        ImagePart: "image",
        DocumentPart: "document",
        AudioPart: "audio",
        ToolCallPart: "tool_call",
        ToolResultPart: "tool_result",
        ReasoningPart: "reasoning",
        RefusalPart: "refusal",
        OpaquePart: "opaque",
        CachePoint: "cache_point",
    }
    parts = b'[{"type":"text","text":"a"},{"type":"image","data":"iVBORw=="}]'
    stored = b'{"role":"user","parts":%s}' % parts
    assert from_json(stored, Message) == user("a", IMAGE)


def test_requests_are_readable_from_before_there_were_hosted_tools() -> None:
    """A tool had no type in JSON while all were functions."""
    stored = b'{"messages":[],"tools":[{"name":"f","parameters":{"type":"object"}}]}'
    wanted = Request([], tools=Tool("f", parameters={"type": "object"}))
    assert from_json(stored, Request) == wanted
    assert from_json(b"[%s]" % stored, list[Request]) == [wanted]
    with pytest.raises(msgspec.ValidationError, match="name"):
        from_json(b'{"messages":[],"tools":[{}]}', Request)
    with pytest.raises(msgspec.ValidationError, match="type"):
        from_json(b"{}", types.Part)
    with pytest.raises(msgspec.ValidationError, match="messages"):
        from_json(b'{"messages":1,"tools":%s' % (b"[" * 100_000), Request)


@pytest.mark.parametrize("kind", [Message, Request, ToolResultPart, ImageRequest])
def test_a_signature_for_type_checkers_has_every_field(kind) -> None:
    tree = ast.parse(inspect.getsource(kind))
    (declared,) = (
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    )
    assert tuple(each.arg for each in declared.args.args[1:]) == kind.__struct_fields__


class TestSaving:
    def test_a_response_is_saved_with_the_errors_of_its_attempts(self) -> None:
        error = RateLimitError("slow", target=TARGET, status=429)
        response = Response(
            assistant("hi"),
            finish_reason="stop",
            target=TARGET,
            attempts=(Attempt(TARGET, 0.0, "failed", error, None, 0.5), Attempt(TARGET, 0.5)),
            usage=Usage(3, 4, certainty="exact"),
            timings=Timings(0.1, 0.2),
            cost=Cost(0.002, "billed", None),
        )
        again = from_json(to_json(response), Response)
        failed, running = again.attempts
        assert isinstance(failed.error, LLMError)
        assert str(failed.error) == "RateLimitError: m1/qwen3:30b: slow (HTTP 429)"
        assert running == response.attempts[1]
        assert msgspec.structs.replace(again, attempts=()) == msgspec.structs.replace(
            response, attempts=()
        )

    def test_an_output_type_becomes_its_schema_and_a_function_null(self) -> None:
        request = Request("hi", tools=Tool("f", function=len), output=City)
        again = from_json(to_json(request), Request)
        assert again.tools == (Tool("f"),)
        assert again.output["properties"] == {"name": {"type": "string"}}
        assert from_json(to_json(Request("hi", output=list[int])), Request).output == {
            "type": "array", "items": {"type": "integer"},
        }  # fmt: skip

    def test_lone_surrogates_are_mended(self) -> None:
        again = from_json(to_json(user("a\ud83e", "\ud83e\uddea", IMAGE)), Message)
        assert again == user("a\ufffd", "\U0001f9ea", IMAGE)

    def test_what_is_no_number_is_null_beside_a_lone_surrogate_too(self) -> None:
        again = from_json(to_json(Request("a\ud83e", extra={"x": float("nan")})), Request)
        assert again.extra == {"x": None}

    def test_a_conversation_is_saved_as_a_list(self) -> None:
        messages = [user("a"), assistant("b")]
        assert from_json(to_json(messages), list[Message]) == messages
        assert from_json(to_json(messages).decode(), tuple[Message, ...]) == tuple(messages)

    def test_foreign_values_are_refused(self) -> None:
        with pytest.raises(TypeError, match="object cannot be saved"):
            to_json(Request("hi", extra={"x": object()}))
        with pytest.raises(ConfigError):
            to_json(Request("hi", output=type))

    @pytest.mark.parametrize(
        "data",
        [
            b"", b"[", b'{"name":"f","function":{}}', b'{"name":5}',
        ],
    )  # fmt: skip
    def test_other_json_is_a_value_error(self, data) -> None:
        with pytest.raises(ValueError, match=r"truncated|malformed|cannot be read|Expected"):
            from_json(data, Tool)

    def test_an_error_that_is_no_text_is_a_value_error(self) -> None:
        data = b'{"target":{"provider":"a","model":"m"},"started":0.0,"error":{}}'
        with pytest.raises(ValueError, match="cannot be read"):
            from_json(data, Attempt)


class TestTimeouts:
    @pytest.mark.parametrize("name", Timeouts.__struct_fields__)
    @pytest.mark.parametrize(
        "seconds", [0, 0.0, -1, -math.inf, math.nan, math.inf, 2**2000, "5", True]
    )
    def test_a_deadline_is_a_finite_number_of_seconds_above_0(self, name, seconds) -> None:
        with pytest.raises(ConfigError, match=f"Timeouts.{name} is .*: expected seconds above 0"):
            Timeouts(**{name: seconds})

    @pytest.mark.parametrize("seconds", [None, 0.001, 5])
    def test_none_is_no_limit(self, seconds) -> None:
        assert Timeouts(idle=seconds).idle == seconds


def test_a_target_prints_as_a_spec() -> None:
    assert str(Target("m1", "org/model:30b@q4")) == "m1/org/model:30b@q4"
