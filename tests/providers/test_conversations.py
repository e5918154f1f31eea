"""A conversation whose beginning was encoded before is sent as if it never had been."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aiollm._failover.conversations import LIMIT, Conversations
from aiollm._wire.body import Blob, JsonItems, json_body
from aiollm._wire.conversations import Ongoing, anew
from aiollm.errors import ConfigError, LLMError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.llama_swap.codec import LlamaSwapCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.types import (
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

WIRES: list[tuple[Any, str, str]] = [
    (ChatCodec, "https://api.openai.com/v1", "gpt-6.1-sol"),
    (ChatCodec, "https://openrouter.ai/api/v1", "anthropic/claude-opus-4.6"),
    (ChatCodec, "https://api.mistral.ai/v1", "mistral-large"),
    (ChatCodec, "https://api.deepseek.com/v1", "deepseek-chat"),
    (ChatCodec, "http://box.invalid/v1", "gemma"),
    (ChatCodec, "http://box.invalid/v1", "mistral-small"),
    (LlamaSwapCodec, "http://swap.invalid", "qwen3"),
    (ResponsesCodec, "https://api.openai.com/v1", "gpt-6.1-sol"),
    (ResponsesCodec, "http://box.invalid/v1", "gemma"),
    (ResponsesCodec, "https://api.x.ai/v1", "grok-5"),
    (AnthropicCodec, "https://api.anthropic.com/v1", "claude-opus-5-5"),
    (AnthropicCodec, "https://api.anthropic.com/v1", "claude-sonnet-4-5"),
    (GoogleCodec, "https://google.invalid/v1beta", "gemini-3.8-flash"),
    (GoogleCodec, "https://google.invalid/v1beta", "gemini-2.5-pro"),
    (OllamaCodec, "http://ollama.invalid", "qwen3:8b"),
]
TARGETS = [
    (Provider(f"p{number}", "any", url, codec()), Target(f"p{number}", model))
    for number, (codec, url, model) in enumerate(WIRES)
]
PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)

words = st.sampled_from(["", " ", "one", "two ", " three", "\ud800", '{"a": 1}', "é"])
marks = st.just({"cache_control": {"type": "ephemeral"}})
signed = st.sampled_from(
    [
        ProviderData("anthropic", {"signature": "s"}),
        ProviderData("google", {"thoughtSignature": "s"}),
        ProviderData("openai", {"field": "reasoning"}),
        ProviderData("openai-responses", {"item": {"type": "reasoning", "content": "c"}}),
    ]
)
own = st.one_of(st.none(), st.builds(ProviderData, st.just("anthropic"), marks))
texts = st.builds(TextPart, words, provider_data=own)
images = st.builds(ImagePart, st.sampled_from([PNG, PNG + b"2"]), provider_data=own)
files = st.sampled_from(
    [DocumentPart(b"%PDF"), DocumentPart(b"text", mime="text/plain"), AudioPart(b"RIFF")]
)
ran = [
    {"block": {"type": "server_tool_use", "id": "srv_1", "name": "web_search", "input": {}}},
    {"block": {"type": "web_search_tool_result", "tool_use_id": "srv_1", "content": []}},
]
opaque = st.builds(
    OpaquePart,
    st.one_of(
        st.sampled_from([ProviderData("anthropic", each) for each in ran]),
        st.sampled_from(
            [
                ProviderData("openai", {"type": "custom_part"}),
                ProviderData("openai-responses", {"type": "web_search_call", "id": "ws_1"}),
                ProviderData("google", {"part": {"executableCode": {"code": "1"}}}),
            ]
        ),
    ),
)
calls = st.builds(
    ToolCallPart,
    st.sampled_from(["call_0", "call_1", "a b", "a.b", "x" * 70, ""]),
    st.sampled_from(["look", "find"]),
    st.sampled_from(["{}", '{"a": [1]}', "[1]", "{"]),
    st.booleans(),
    st.one_of(
        st.none(),
        st.just(ProviderData("openai-responses", {"type": "custom_tool_call", "id": "c"})),
        st.just(ProviderData("google", {"synthetic_id": True})),
    ),
)
said = st.one_of(
    texts,
    calls,
    opaque,
    images,
    st.builds(ReasoningPart, words, st.one_of(st.none(), signed)),
    st.builds(RefusalPart, words),
)
point = st.builds(CachePoint)
asked = st.one_of(texts, texts, images, point, opaque)
contents = st.lists(st.one_of(texts, images, point), max_size=2)


@st.composite
def answers(draw: st.DrawFn) -> list[Message]:
    """Return a turn of the assistant, with the results of its calls."""
    several = draw(st.lists(st.lists(said, max_size=4), min_size=1, max_size=2))
    made = [part for parts in several for part in parts if isinstance(part, ToolCallPart)]
    turn = [assistant(*parts) for parts in several]
    if not made:
        return turn[:1]
    results = [
        ToolResultPart(call.id, draw(contents), call.name, draw(st.booleans()))
        for call in draw(st.permutations(made))
    ]
    apart = draw(st.booleans())
    return turn + ([tool_results(each) for each in results] if apart else [tool_results(*results)])


plain_turns = st.builds(
    lambda number, text: [
        assistant(ToolCallPart(f"call_{number}", "look")),
        tool_results(ToolResultPart(f"call_{number}", text, "look")),
    ],
    st.integers(0, 5),
    words,
)
answered = st.one_of(answers(), plain_turns, plain_turns)
steps = st.one_of(
    answered,
    answered,
    answered,
    st.lists(asked, min_size=1, max_size=3).map(lambda parts: [user(*parts)]),
    st.just([user("go on")]),
    st.just([user("read this", CachePoint())]),
    words.map(lambda text: [system(text)]),
    files.map(lambda file: [user("a file", file)]),
    # The history is shortened, and a message is replaced by an equal one.
    st.just("compacted"),
    st.just("copied"),
    # What a user said comes once more, as the same object.
    st.just("repeated"),
)
settings_of_turns = st.fixed_dictionaries(
    {
        "system": st.sampled_from(["", "Be brief."]),
        "prompt_cache": st.sampled_from([None, None, "auto", "1h", "off"]),
        "tools": st.sampled_from(
            [(), (Tool("look"), Tool("find")), (Tool("look", cache_point=True),)]
        ),
        "extra": st.sampled_from([{}, {}, {"store": True}]),
        "output": st.sampled_from([None, None, None, {"type": "object", "properties": {}}]),
    }
)
fits = st.sampled_from([None, None, TextPart("[image left out]"), ImagePart(PNG + b"fitted")])
"""What a target has in place of an image, None where it takes the image itself."""

turns = st.lists(
    st.tuples(
        st.builds(lambda last, more: [*more, last], answered, st.lists(steps, max_size=4)),
        settings_of_turns,
        fits,
        # The turn of whose history it goes on: the last one, or an earlier one, as forks do.
        st.sampled_from([-1, -1, -1, -1, -1, -1, -2, 0]),
        # Messages that are encoded in one step, and what an interrupted answer said so far.
        st.sampled_from([1, 3, 300]),
        st.sampled_from(["", "", "So far"]),
    ),
    min_size=2,
    max_size=6,
)


def after(history: tuple[Message, ...], changes: list[Any]) -> tuple[Message, ...]:
    for change in changes:
        match change:
            case "compacted" if len(history) > 4:
                cut = next((at for at, each in enumerate(history) if each.role == "user"), 0)
                history = (user("A summary."), *history[cut + 1 :])
            case "copied" if history:
                middle = len(history) // 2
                copy = msgspec.structs.replace(history[middle])
                history = (*history[:middle], copy, *history[middle + 1 :])
            case "repeated":
                said_before = [each for each in history if each.role == "user"]
                history = (*history, *said_before[-1:])
            case list():
                history = (*history, *change)
            case _:
                pass
    return history


def made_for(target: Target, request: Ongoing, fit: Any) -> Ongoing:
    """Return a request as it is once its images fit a target."""
    if fit is None:
        return request
    made = [
        message
        if not any(isinstance(part, ImagePart) for part in message.parts)
        else Message(
            message.role,
            tuple(fit if isinstance(part, ImagePart) else part for part in message.parts),
        )
        for message in request.messages
    ]
    messages = request.conversation.fitted(target, request.asked.messages, tuple(made))
    return request.having(messages)


def encoded(provider: Provider, target: Target, request: Request) -> Any:
    """Return what is sent, or in place of it what is wrong."""
    try:
        made: HttpRequest = provider.codec.encode(provider, target, request)
    except LLMError as error:
        return type(error), error.message
    if isinstance(request, Ongoing) and made.body is not None:
        request.conversation.keep_files(target, made.body)
    return bytes(made.body or b""), {**made.headers}, sorted(made.warnings)


def ongoing(known: Conversations, request: Request) -> Ongoing | None:
    try:
        opener = known.opener(request, lambda _: None, {}, {}, None)  # type: ignore[arg-type]
    except ConfigError:
        return None
    assert isinstance(opener.request, Ongoing)
    return opener.request


def gone_on(request: Ongoing, text: str) -> Ongoing:
    """Return a request that goes on with an answer of which there is some text."""
    if not text:
        return request
    return request.having((*request.messages, assistant(text)))


@pytest.mark.timeout(180)  # it is all work of a processor
@settings(max_examples=150)
@given(turns, st.permutations(range(len(TARGETS))), st.sampled_from([LIMIT, LIMIT, 20_000]))
def test_what_is_sent_does_not_depend_on_what_was_sent_before(played, order, limit):
    """On every wire, turn by turn: steered, compacted, with other settings, to other targets.

    Conversations fork, and requests are sent again after later ones.
    """
    known, histories, sent = Conversations(limit), [(user("The task."),)], []
    for number, (changes, given_settings, fit, fork, stride, text) in enumerate(played):
        histories.append(after(histories[max(fork, -len(histories))], changes))
        request = ongoing(known, Request(histories[-1], **given_settings))
        if request is None:
            continue
        for at in order[number % 2 :]:
            provider, target = TARGETS[at]
            made = gone_on(made_for(target, request, fit), text)
            for place in made.conversation.steps(target, stride):
                encoded(provider, target, made.part(*place))
            expected = encoded(provider, target, anew(made))
            assert encoded(provider, target, made) == expected
            sent.append((provider, target, made, expected))
        for once_more in sent[number % 3 :: 5]:
            assert encoded(*once_more[:3]) == once_more[3]


def tail_of(request: Ongoing, *messages: Message) -> Ongoing:
    """Return a request that goes on otherwise after the same beginning."""
    history = (*request.messages[: request.conversation.cut], *messages)
    return msgspec.structs.replace(request, asked=Request(history)).having(history)


def looked(*ids: str) -> list[Message]:
    """Return a turn with parallel calls, whose results come in the reverse order."""
    results = [ToolResultPart(id_, id_, "look") for id_ in reversed(ids)]
    return [assistant(*(ToolCallPart(id_, "look") for id_ in ids)), tool_results(*results)]


def begun(*first: Message) -> Ongoing:
    turns = [message for number in range(15) for message in looked(f"call_{number}")]
    request = ongoing(Conversations(), Request((user("The task."), *first, *turns)))
    assert request is not None
    return request


def test_what_comes_after_a_beginning_leaves_nothing_behind():
    """Ids that become the same on a wire, calls in another order, names, custom calls."""
    request = begun()
    custom = ProviderData("openai-responses", {"type": "custom_tool_call", "id": "c"})
    tails = [
        looked("a b", "c d"),
        looked("a.b", "c.d"),
        looked("c d", "a b"),
        [
            assistant(ToolCallPart("a b", "find", provider_data=custom)),
            tool_results(ToolResultPart("a b", "x")),
        ],
        [assistant("yes"), tool_results(ToolResultPart("a b", "x"))],
    ]
    for provider, target in TARGETS:
        for tail in (*tails, *reversed(tails)):
            made = tail_of(request, *tail)
            assert encoded(provider, target, made) == encoded(provider, target, anew(made))


def test_a_beginning_is_encoded_once_with_marks_of_caches_and_once_without():
    """A message that is sent empty without marks is not sent with them."""
    request = begun(assistant("yes"), user(OpaquePart(ProviderData("mine", {}))))
    for provider, target in TARGETS:
        for wish in (None, "auto", None):
            made = msgspec.structs.replace(request, prompt_cache=wish)
            assert encoded(provider, target, made) == encoded(provider, target, anew(made))


def test_marks_that_messages_bring_along_are_counted_in_every_turn():
    marked = ProviderData("anthropic", {"cache_control": {"type": "ephemeral"}})
    block = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}
    for part in (
        TextPart("x", provider_data=marked),
        OpaquePart(ProviderData("anthropic", {"block": block})),
    ):
        said_often = [message for _ in range(6) for message in (assistant("yes"), user(part, "y"))]
        request = begun(*said_often)
        for provider, target in TARGETS:
            for wish in ("auto", None, "auto"):
                made = msgspec.structs.replace(request, prompt_cache=wish)
                assert encoded(provider, target, made) == encoded(provider, target, anew(made))


def test_histories_that_fork_are_each_sent_with_their_own_beginning():
    known, history = Conversations(), [user("The task."), *looked("call_0")]
    first = ongoing(known, Request(history))
    assert first is not None
    forks = [[*history, *looked(f"a_{at}"), *looked(f"b_{at}")] for at in range(64)]
    requests = [ongoing(known, Request(each)) for each in (history, *forks)]
    for provider, target in TARGETS:
        for made in (first, *requests, first, *requests):
            assert made is not None
            assert encoded(provider, target, made) == encoded(provider, target, anew(made))
    for fork in forks:
        made = ongoing(known, Request([*fork, *looked("c")]))
        assert made is not None
        for provider, target in TARGETS:
            assert encoded(provider, target, made) == encoded(provider, target, anew(made))


def test_a_codec_that_puts_messages_of_its_own_first_sends_all_of_them_as_they_are():
    """What is known of the beginning is of no use then: it would be cut at another place."""

    class Guarded(ChatCodec):
        def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
            rule = (user("Mind the gap.", DocumentPart(b"%PDF")), assistant("I do."))
            more = msgspec.structs.replace(request, messages=(rule[0], *request.messages))
            assert super().encode(provider, target, more).body
            more = msgspec.structs.replace(request, messages=(*rule, *request.messages[1:]))
            return super().encode(provider, target, more)

    provider = Provider("box", "any", "http://mistral.invalid/v1", Guarded())
    for model in ("mistral-small", "gemma"):
        target = Target("box", model)
        call = looked("call_13")  # its id comes again before the cut, where it gets another
        for request in (begun(), begun(*call), begun(*call, assistant("yes"), user("go on"))):
            assert encoded(provider, target, request) == encoded(provider, target, anew(request))
            for made in (request, request.part(3, 5)):
                own = made.messages[0], *made.messages
                longer = msgspec.structs.replace(made, messages=own)
                for other, at in TARGETS:
                    assert encoded(other, at, longer) == encoded(other, at, anew(longer))


def test_a_call_of_the_servers_own_tools_whose_id_came_before_is_open_again():
    ask, tell = (OpaquePart(ProviderData("anthropic", each)) for each in ran)
    call = ToolCallPart("call_x", "look")
    turn = [assistant(ask, tell, "found", ask, call), tool_results(ToolResultPart("call_x", "x"))]
    request = begun(*turn, *looked("call_y"), user("go on"))
    shorter = request.part(3, 5)
    for provider, target in TARGETS:
        for made in (shorter, request):
            assert encoded(provider, target, made) == encoded(provider, target, anew(made))


def test_a_file_that_is_to_be_kept_while_it_is_sent_stays_whole():
    blob = Blob(bytes(200_000))
    sent = blob.slices()
    first = next(sent)
    blob.keeps = True
    whole = first + b"".join(sent)
    for _ in range(3):
        assert b"".join(blob.slices()) == whole


def test_what_follows_a_large_text_does_not_copy_it():
    large = JsonItems().followed_by(["x" * 70_000])
    more = large.followed_by(["a", Blob(b"1")]).followed_by([]).followed_by(["b"])
    assert more.segments[0] is large.segments[0]
    assert bytes(json_body([more, "c"])) == bytes(json_body(["x" * 70_000, "a", Blob(b"1"), *"bc"]))
