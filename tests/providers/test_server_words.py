"""Words that servers choose: what is kept of them is short, and can be shown."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm import FailoverError, ProviderError, Registry
from aiollm.testing import Answer, FaultServer, ndjson, sse

DSNS = {
    "chat": "openai+{}/v1?api=chat",
    "responses": "openai+{}/v1?api=responses",
    "anthropic": "anthropic+{}",
    "google": "google+{}/v1beta",
    "ollama": "ollama+{}",
}
ENDED: dict[str, list[str]] = {
    "chat": ['{"choices":[{"delta":{"content":"Hi"},"finish_reason":%s}]}', "[DONE]"],
    "responses": [
        '{"type":"response.output_text.delta","item_id":"m","delta":"Hi"}',
        '{"type":"response.completed","response":{"status":%s}}',
    ],
    "anthropic": [
        '{"type":"message_start","message":{"usage":{"input_tokens":1}}}',
        '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hi"}}',
        '{"type":"content_block_stop","index":0}',
        '{"type":"message_delta","delta":{"stop_reason":%s},"usage":{"output_tokens":1}}',
        '{"type":"message_stop"}',
    ],
    "google": ['{"candidates":[{"content":{"parts":[{"text":"Hi"}]},"finishReason":%s}]}'],
    "ollama": ['{"message":{"content":"Hi"},"done":true,"done_reason":%s}'],
}


def _answer(wire: str, word: str, *before: str) -> Answer:
    events = [*before, *(event.replace("%s", word) for event in ENDED[wire])]
    if wire == "ollama":
        return ndjson(*events)
    if wire in ("anthropic", "responses"):
        return sse(*((json.loads(event).get("type", ""), event) for event in events))
    return sse(*events)


async def _ask(wire: str, answer: Answer) -> Any:
    async with (
        FaultServer(answer) as server,
        Registry(env={"LLM_A": DSNS[wire].format(server.url)}, retries=0) as reg,
    ):
        return await reg.generate("a/m", "hi")


@pytest.mark.parametrize("wire", DSNS)
@pytest.mark.parametrize(
    ("word", "kept"),
    [
        (r'"odd \ud83e word"', "odd \ufffd word"),
        (r'"\ud83e\udd86"', "\U0001f986"),
        (json.dumps("f" * 1000), "f" * 200),
    ],
)
async def test_a_finish_word_is_kept_short_and_can_be_encoded(wire, word, kept):
    response = await _ask(wire, _answer(wire, word))
    assert response.text == "Hi"
    assert response.raw_finish_reason == kept


@pytest.mark.parametrize("wire", DSNS)
@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("a \x1b]52;c;AAAA\x07b\x1b[2J", "a ]52;c;AAAAb[2J"),
        ("\u202egnp.exe \u2066\x00\x9b", "gnp.exe "),
        ("two\r\nlines\tand\u00a0more", "two\nlines\tand more"),
        ("ключ \U0001f986", "ключ \U0001f986"),
    ],
)
async def test_no_error_can_control_the_terminal_that_shows_it(wire, said, shown):
    """A traceback prints it as it is."""
    body = {"error": {"message": said, "code": said, "type": said, "status": said}}
    if wire == "ollama":
        body = {"error": said}
    headers = {"content-type": "application/json", "x-request-id": "r\x1b[2J"}
    with pytest.raises(FailoverError) as caught:
        await _ask(wire, Answer(400, headers, body))
    error = caught.value.last
    assert isinstance(error, ProviderError)
    assert error.message.startswith(shown.strip())
    for text in (str(error), str(caught.value), error.code, error.request_id):
        assert not any(ord(char) < 32 and char not in "\n\t" for char in text)
        assert not {"\u202e", "\u2066", "\x9b", "\x7f"} & set(text)


@pytest.mark.parametrize("wire", DSNS)
@pytest.mark.parametrize(
    "error", ["null", "false", "0", "-0", "0.0", '""', "{}", "[]", "{ }", "[\t]"]
)
async def test_an_error_that_says_nothing_ends_no_answer(wire, error):
    events = f'{{"error":{error}}}', f'{{"id": "a", "error" :  {error} }}'
    assert (await _ask(wire, _answer(wire, '"stop"', *events))).text == "Hi"
