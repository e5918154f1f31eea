"""What a registry remembers of long conversations: for how long, how much, and what it is worth."""

from __future__ import annotations

import asyncio
import gc

import pytest

from aiollm import (
    CachePoint,
    ConfigError,
    ImagePart,
    Message,
    OpaquePart,
    ProviderData,
    Registry,
    Request,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)
from aiollm._failover.conversations import Conversations
from aiollm._failover.estimate import size_of
from aiollm._failover.money import most_of
from aiollm._failover.openers import LONG, ChatOpener
from aiollm._wire.conversations import MOST_WIRES, Conversation, Ongoing, anew, is_cut
from aiollm.capabilities import Capabilities
from aiollm.events import CallStarted
from aiollm.media.fitting import rest_weight
from aiollm.media.locations import find
from aiollm.provider import Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.testing import FakeProvider, chat
from aiollm.types import Target

PNG = b"\x89PNG\r\n\x1a\n" + bytes(20)
LOOK = Tool("look")


CALL = {"index": 0, "type": "function", "function": {"name": "look", "arguments": "{}"}}


def turn(number: int, text: str = "seen") -> list[Message]:
    call = ToolCallPart(f"call_{number}", "look")
    return [assistant(call), tool_results(ToolResultPart(call.id, text, "look"))]


def long_history(turns: int = LONG) -> list[Message]:
    return [user("The task."), *(each for number in range(turns) for each in turn(number))]


def opened(known: Conversations, history: list[Message]) -> Ongoing:
    opener = known.opener(Request(history), lambda _: None, {}, {}, None)  # type: ignore[arg-type]
    assert isinstance(opener.request, Ongoing)
    return opener.request


def test_a_conversation_that_goes_on_is_found_and_one_that_was_changed_is_not() -> None:
    known, history = Conversations(), long_history()
    first = opened(known, history)
    assert opened(known, history).conversation is first.conversation
    history += turn(90)
    second = opened(known, history).conversation
    assert second.wires is first.conversation.wires
    assert second.cut == len(history) - 2
    assert len(known) == 1
    history[1] = Message(history[1].role, history[1].parts)
    history += turn(91)
    assert opened(known, history).conversation.wires is not second.wires


def test_it_is_forgotten_when_its_last_message_is_dropped() -> None:
    known, history = Conversations(), long_history()
    opened(known, history)
    assert len(known) == 1
    assert known.weight > 0
    history.clear()
    gc.collect()
    assert len(known) == 0
    assert known.weight == 0


def test_what_is_kept_is_bounded_and_the_one_unused_longest_goes_first() -> None:
    known = Conversations(60_000)
    several = [long_history() for _ in range(8)]
    for history in several:
        opened(known, history)
        opened(known, several[0])
    assert 1 < len(known) < 8
    assert known.weight <= 60_000
    conversation = opened(known, several[0]).conversation
    assert opened(known, several[0]).conversation is conversation
    opened(Conversations(10), several[0])  # too large to be kept, and sent all the same


def test_each_wire_of_a_conversation_is_weighed() -> None:
    known, history = Conversations(), long_history()
    request = opened(known, history)
    one = known.weight
    for number, codec in enumerate((ChatCodec(), AnthropicCodec())):
        provider = Provider(f"p{number}", "any", "http://box.invalid/v1", codec)
        codec.encode(provider, Target(f"p{number}", "m"), request)
    assert opened(known, history).conversation is request.conversation
    assert known.weight == 2 * one


def test_the_state_of_providers_is_weighed_whatever_it_holds() -> None:
    endless: list[object] = []
    endless.append(endless)
    plain, history = Conversations(), long_history()
    opened(plain, history)
    for data, least in (
        ({"block": {"text": "x" * 5000}}, 5000),
        ({"block": 1, "what": object()}, 0),
        ({"block": "cache_control", "many": 1 << 80, "half": "\ud800"}, 0),
        ({"block": None, "endless": endless}, 0),
    ):
        known, state = Conversations(), ProviderData("mine", data)
        more = [*history, assistant("yes", OpaquePart(state)), user("and?"), *turn(90)]
        opened(known, more)
        assert plain.weight + least < known.weight < plain.weight + least + 1500


def test_what_a_wire_keeps_is_bytes_and_not_what_they_were_made_of() -> None:
    history = [user("This.", CachePoint()), *long_history()]
    request = opened(Conversations(), history)
    for number, codec in enumerate((ChatCodec(), ResponsesCodec(), GoogleCodec(), OllamaCodec())):
        provider = Provider(f"p{number}", "any", "https://openrouter.ai/api/v1", codec)
        codec.encode(provider, Target(f"p{number}", "m"), request)
    encoders = [each.encoder for each in request.conversation.wires.values()]
    assert [each.out for each in encoders] == [[]] * 4
    assert [each.marks for each in encoders] == [None] * 4


def test_only_a_few_wires_of_a_conversation_are_kept() -> None:
    request = opened(Conversations(), long_history())
    for number in range(2 * MOST_WIRES):
        provider = Provider("box", "openai", "http://box.invalid/v1", ChatCodec())
        kind = "mistral" if number % 2 else "gemma"
        other = Provider("box", "openai", f"https://{number}.invalid/v1", ChatCodec())
        ChatCodec().encode(provider, Target("box", f"{kind}-{number}"), request)
        ChatCodec().encode(other, Target("box", kind), request)
    assert len(request.conversation.wires) <= MOST_WIRES


def test_a_mistake_in_a_new_message_is_found_where_it_is() -> None:
    known, history = Conversations(), long_history()
    opened(known, history)
    wrong = [*history, assistant(ToolCallPart("call_x", "look")), user("and?")]
    with pytest.raises(ConfigError, match=rf"before messages\[{len(wrong) - 1}\]"):
        opened(known, wrong)
    with pytest.raises(ConfigError, match=rf"messages\[{len(history)}\] is of type str"):
        opened(known, [*history, "text"])  # type: ignore[list-item]


def test_sums_over_a_conversation_are_those_of_its_messages() -> None:
    known, history = Conversations(), long_history()
    for number in range(3):
        request = opened(known, history)
        plain = anew(request)
        assert size_of(request) == size_of(plain)
        assert rest_weight(request) == rest_weight(plain)
        assert most_of(request, Capabilities()) == most_of(plain, Capabilities())
        assert find(request) == find(plain)
        history += [*turn(100 + number), user("this", ImagePart(PNG))] if number else turn(99)


async def test_hooks_and_adapters_are_given_the_request_as_it_was_made() -> None:
    seen, fake = [], FakeProvider("hello")
    request = Request(long_history(), tools=(LOOK,))
    async with Registry(env={}) as reg:
        reg.register("box", fake.provider())
        reg.on_event(seen.append)
        await reg.generate("box/m", request)
    assert [call.request for call in fake.calls] == [request]
    started = [event.request for event in seen if isinstance(event, CallStarted)]
    assert len(started) == 1
    assert started[0] is request


async def test_a_long_history_is_sent_whole_in_every_turn(serve, registry) -> None:
    """Over a real connection; the first turn is encoded in steps."""
    box = await serve(chat("Hello"))
    reg, history = registry({"box": box}), long_history(500)
    for number in range(3):
        await reg.generate("box/m", Request(history, tools=(LOOK,)))
        sent = box.requests[number].json()["messages"]
        assert [each["role"] for each in sent] == [each.role for each in history]
        assert [each.get("tool_call_id") for each in sent if each["role"] == "tool"] == [
            each.parts[0].id for each in history if each.role == "tool"
        ]
        history += turn(1000 + number)


async def test_a_run_is_a_conversation(serve, registry) -> None:
    calls = [chat({"tool_calls": [CALL | {"id": f"c{at}"}]}, finish="tool_calls") for at in "ab"]
    box = await serve(*calls, chat("Done."))
    reg = registry({"box": box})
    tools = [Tool("look", function=lambda: "seen")]
    run = reg.run("box/m", Request(long_history()), tools=tools)
    await run.collect()
    assert len(box.requests[-1].json()["messages"]) == len(long_history()) + 4
    assert len(reg._resources._conversations) == 1


async def test_an_image_is_encoded_once_and_not_in_every_turn() -> None:
    history = [user("this", ImagePart(PNG, mime="image/png"))]
    provider, target = (
        Provider("box", "openai", "http://box.invalid/v1", ChatCodec()),
        Target("box", "m"),
    )
    texts = []
    async with Registry(env={}) as reg:
        for number in range(3):
            request = Request(history, tools=(LOOK,))
            asked = reg._resources.opener_of(request, lambda _: None, {}, {}).request
            assert isinstance(asked, Ongoing)
            sent = provider.codec.encode(provider, target, asked).body
            assert sent is not None
            asked.conversation.keep_files(target, sent)
            texts += [each for each in sent.slices() if each.startswith(b"iVBORw0KGgo")]
            history = [*history, *turn(number)]
    first, *later = texts
    assert len(later) == 2
    assert all(each is first for each in later)


def test_images_made_for_a_target_are_the_same_messages_in_every_turn() -> None:
    known, target = Conversations(), Target("box", "m")
    history = [user("this", ImagePart(PNG)), *long_history()]
    made = []
    for number in range(2):
        request = opened(known, history)
        fitted = user("this", ImagePart(PNG + b"fitted"))
        messages = (fitted, *request.messages[1:])
        made.append(request.conversation.fitted(target, request.asked.messages, messages))
        history = [*history, *turn(500 + number)]
    assert made[0][0] is made[1][0]
    other = (user("this", "[image left out]"), *made[1][1:])
    assert opened(known, history).conversation.fitted(target, tuple(history), other) == other


def test_a_single_request_and_a_short_conversation_are_not_remembered() -> None:
    reg = Registry(env={})
    for messages in ([user("hi", ImagePart(PNG))], [user("a"), assistant("b"), user("c")]):
        opener = reg._resources.opener_of(Request(messages), lambda _: None, {}, {})
        assert type(opener) is ChatOpener


def test_a_beginning_that_is_new_is_encoded_in_steps_and_only_once() -> None:
    known, target, history = Conversations(), Target("box", "m"), long_history(500)
    conversation = opened(known, history).conversation
    places = conversation.steps(target, 300)
    assert [cut for cut, _ in places] == [301, 601, 901]
    assert all(is_cut(history, place) for pair in places for place in pair)
    assert conversation.steps(target, 300) == []
    assert opened(known, history + turn(900)).conversation.steps(target, 300) == []
    assert conversation.steps(Target("box", "other"), 300) == places


def test_the_cut_is_before_an_answer_that_is_sure_to_be_sent() -> None:
    answer = [assistant("yes"), user("go on")]
    for last in ([assistant("")], [assistant(" ")], [user("x"), user(" ")]):
        history = (user("task"), *answer, *last, *answer)
        assert Conversation(history).cut in {1, 3, len(history) - 2}
        assert Conversation((user("task"), *answer, *last)).cut == 1


async def test_a_first_turn_that_is_cancelled_between_its_steps_leaves_nothing_behind(
    serve, registry
) -> None:
    """Turns of one history are begun at once, and some are cancelled; the rest is sent whole."""
    box = await serve(chat("Hello"))
    reg, history = registry({"box": box}), long_history(500)
    for stop in range(1, 6):
        asked = [asyncio.ensure_future(reg.generate("box/m", Request(history))) for _ in range(4)]
        for _ in range(stop):
            await asyncio.sleep(0)
        for each in asked[::2]:
            each.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        assert [each.cancelled() for each in asked] == [True, False, True, False]
        history = [*history, *turn(1000 + stop)]
    whole = [sent.json()["messages"] for sent in box.requests]
    for sent in whole:
        ids = [each.get("tool_call_id") for each in sent if each["role"] == "tool"]
        assert ids == [each.parts[0].id for each in history[: len(sent)] if each.role == "tool"]


def test_messages_that_take_the_places_of_others_in_memory_are_not_taken_for_them() -> None:
    known = Conversations()
    provider = Provider("box", "openai", "http://box.invalid/v1", ChatCodec())
    for number in range(50):
        history = [user(f"task {number}"), *long_history(), *turn(number)]
        request = opened(known, history)
        sent = provider.codec.encode(provider, Target("box", "m"), request).body
        again = provider.codec.encode(provider, Target("box", "m"), anew(request)).body
        assert bytes(sent or b"") == bytes(again or b"")
        del history, request
    assert len(known) == 0
