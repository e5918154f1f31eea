"""`on_unsupported="drop"`: files that a target does not take become placeholders."""

from __future__ import annotations

import pytest

from aiollm import (
    AudioPart,
    ConfigError,
    DocumentPart,
    FailoverError,
    ImagePart,
    Registry,
    ToolCallPart,
    ToolResultPart,
    assistant,
    tool_results,
    user,
)
from aiollm._failover.left_out import without_unsupported
from aiollm.capabilities import Capabilities
from aiollm.testing import FakeProvider, chat
from aiollm.types import Request

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)
HISTORY = (
    user("look", ImagePart(PNG), DocumentPart(b"%PDF-"), AudioPart(b"RIFF")),
    assistant(ToolCallPart("c", "f")),
    tool_results(ToolResultPart("c", ["seen", ImagePart(PNG)], "f")),
    user("and?"),
)
NOTHING = Capabilities(images=False, documents=False, audio=False)


async def test_a_history_with_images_goes_on_at_a_text_only_target(serve):
    server = await serve(chat("ok"))
    dsn = server.dsn("openai", path="/v1", api="chat", max_images=0)
    async with Registry(env={"LLM_A": dsn}, retries=0) as reg:
        question = user("What is it?", ImagePart(PNG))
        with pytest.raises(FailoverError):
            await reg.generate("a/m", question)
        response = await reg.generate("a/m", question, on_unsupported="drop")
    assert response.warnings == ("1 image part left out: this model takes none",)
    assert "[image left out: this model takes none]" in str(server.requests[0].json())


async def test_a_registry_may_drop_by_default(serve):
    server = await serve(chat("ok"))
    dsn = server.dsn("openai", path="/v1", api="chat", max_images=0)
    async with Registry(env={"LLM_A": dsn}, on_unsupported="drop") as reg:
        await reg.generate("a/m", user("What is it?", ImagePart(PNG)))
        with pytest.raises(FailoverError):
            await reg.generate("a/m", user("?", ImagePart(PNG)), on_unsupported="next", retries=0)


def test_every_kind_that_is_refused_is_left_out_and_counted():
    request, notices = without_unsupported(Request(HISTORY), NOTHING)
    texts = [part.text for part in request.messages[0].parts]
    assert texts[1:] == [
        f"[{kind} left out: this model takes none]" for kind in ("image", "document", "audio")
    ]
    assert request.messages[2].parts[0].text == "seen[image left out: this model takes none]"
    assert [notice.message for notice in notices] == [
        "2 image parts left out: this model takes none",
        "1 document part left out: this model takes none",
        "1 audio part left out: this model takes none",
    ]
    assert request.messages[1] is HISTORY[1]
    assert request.messages[3] is HISTORY[3]


def test_a_request_that_needs_no_change_is_the_same_object():
    request = Request(HISTORY)
    assert without_unsupported(request, Capabilities())[0] is request
    plain = Request("hi")
    assert without_unsupported(plain, NOTHING) == (plain, [])


async def test_the_target_that_takes_the_files_gets_them():
    seen = []

    def answer(_, request):
        seen.append(request)
        return "ok"

    async with Registry(env={}, on_unsupported="drop") as reg:
        reg.register("fake", FakeProvider(default=answer).provider())
        await reg.generate("fake/m", HISTORY)
    assert seen[0].messages == HISTORY


@pytest.mark.parametrize("word", ["ignore", "", 1])
def test_an_unknown_word_is_refused(word):
    with pytest.raises(ConfigError, match="on_unsupported is"):
        Registry(env={}, on_unsupported=word)


def test_an_unknown_option_of_a_call_is_a_type_error():
    with pytest.raises(TypeError, match=r"unknown option 'on_unsuported'.*on_unsupported"):
        Registry(env={"LLM_A": "openai://k@h"}).stream("a/m", "hi", on_unsuported="drop")
