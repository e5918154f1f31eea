"""Refusals in the servers' own words: every row of every table, as a reply and inside a stream."""

from __future__ import annotations

import json
import tomllib
from functools import cache
from pathlib import Path

import msgspec
import pytest

from aiollm import errors
from aiollm._wire.lenient import load
from aiollm.errors import ProtocolError, ProviderError, classify
from aiollm.provider import Codec, HttpResponse
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.providers.anthropic.errors import RULES as ANTHROPIC_RULES
from aiollm.providers.error_bodies import fault_of
from aiollm.providers.error_replies import MAX_MESSAGE, Rule, error_from_fault
from aiollm.providers.google.codec import GoogleCodec
from aiollm.providers.google.errors import RULES as GOOGLE_RULES
from aiollm.providers.llama_swap.codec import LlamaSwapCodec
from aiollm.providers.ollama.codec import OllamaCodec
from aiollm.providers.ollama.errors import RULES as OLLAMA_RULES
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.errors import RULES as OPENAI_RULES
from aiollm.providers.openai.responses_codec import ResponsesCodec
from aiollm.providers.shared_errors import SHARED_CODES, SHARED_TEXTS
from aiollm.types import Finish, Item

FOLDER = Path(__file__).parents[1] / "fixtures" / "refusals"
WIRES: dict[str, tuple[Codec, ...]] = {
    "openai": (ChatCodec(), ResponsesCodec(), LlamaSwapCodec()),
    "anthropic": (AnthropicCodec(),),
    "google": (GoogleCodec(),),
    "ollama": (OllamaCodec(),),
}
TABLES = {
    "openai": OPENAI_RULES,
    "anthropic": ANTHROPIC_RULES,
    "google": GOOGLE_RULES,
    "ollama": OLLAMA_RULES,
}


class Refusal(msgspec.Struct, frozen=True):
    """One error as a server words it, and the class it must have."""

    wire: str
    sender: str
    body: str
    error: str
    status: int
    in_stream: str

    @property
    def reply(self) -> HttpResponse:
        kind = {"content-type": "application/json"}
        return HttpResponse(self.status, kind, self.body.encode())


@cache
def refusals() -> tuple[Refusal, ...]:
    return tuple(
        Refusal(
            file.stem,
            case["from"],
            case["body"],
            case["error"],
            case.get("status", 0),
            case.get("stream", case["error"]),
        )
        for file in sorted(FOLDER.glob("*.toml"))
        for case in tomllib.loads(file.read_text())["case"]
    )


def _id(refusal: Refusal) -> str:
    return f"{refusal.wire}: {refusal.error}, {refusal.sender}"


REPLIES = [each for each in refusals() if each.status]
STREAMED = [each for each in refusals() if not each.status or each.status in (400, 422, 500)]
"""In a stream no status comes along; other statuses are what their replies mean."""


def decoded(codec: Codec, body: str, mark: str = "event: error\n") -> Exception:
    """Return the error that a decoder raises for a stream that begins with an error."""
    framer, decoder = codec.framing(), codec.decoder()
    value = load(body.encode())
    flat = json.dumps(value[0] if isinstance(value, list) else value)
    frame = flat + "\n" if isinstance(codec, OllamaCodec) else f"{mark}data: {flat}\n\n"
    with pytest.raises(errors.LLMError) as caught:
        decoder.feed([*framer.feed(frame.encode()), *framer.close()], [])
    return caught.value


@pytest.mark.parametrize("refusal", REPLIES, ids=_id)
def test_a_reply_has_its_class_and_keeps_the_words(refusal: Refusal) -> None:
    for codec in WIRES[refusal.wire]:
        error = codec.error(refusal.reply)
        assert type(error) is getattr(errors, refusal.error), codec
        assert isinstance(error, ProviderError)
        assert error.status == refusal.status
        words = fault_of(load(refusal.body.encode())).message
        assert words[:MAX_MESSAGE] in error.message
        assert words


@pytest.mark.parametrize("refusal", STREAMED, ids=_id)
def test_inside_a_stream_it_means_the_same(refusal: Refusal) -> None:
    for codec in WIRES[refusal.wire]:
        error = decoded(codec, refusal.body)
        if isinstance(error, ProtocolError):  # no error on that wire, and no answer
            assert refusal.sender == "a bare text"
            continue
        assert type(error) is getattr(errors, refusal.in_stream), codec


@pytest.mark.parametrize("refusal", [each for each in refusals() if not each.status], ids=_id)
def test_what_comes_with_a_200_is_an_error_as_a_complete_body_too(refusal: Refusal) -> None:
    for codec in (*WIRES["openai"], *WIRES["anthropic"]):
        with pytest.raises(errors.LLMError) as caught:
            codec.decoder().whole(refusal.body.encode(), [])
        assert type(caught.value) is getattr(errors, refusal.error), codec
        assert load(refusal.body.encode())["base_resp"]["status_msg"] in str(caught.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"detail":{"msg":"Server is busy.","type":"service_unavailable"}}', "Server is busy."),
        (b'{"code":500,"msg":"404 NOT_FOUND","success":false}', "404 NOT_FOUND"),
        (b'{"errors":[{"code":7003,"message":"No route"}],"success":false}', "No route"),
    ],
)
def test_the_words_of_odd_bodies_are_kept(body: bytes, words: str) -> None:
    """KoboldCpp's, z.ai's with a 200, Cloudflare's."""
    for codec in (*WIRES["openai"], *WIRES["anthropic"]):
        assert words in str(codec.error(HttpResponse(503, {}, body)))
        with pytest.raises(ProviderError, match=words):
            codec.decoder().whole(body, [])
        assert words in str(decoded(codec, body.decode()))
        assert words in str(decoded(codec, body.decode(), mark=""))


def test_a_base_resp_that_reports_nothing_is_no_error() -> None:
    """MiniMax adds one to every answer."""
    body = {
        "choices": [{"index": 0, "message": {"content": "hi"}, "finish_reason": "stop"}],
        "base_resp": {"status_code": 0, "status_msg": ""},
    }
    out: list[Item] = []
    ChatCodec().decoder().whole(json.dumps(body).encode(), out)
    assert any(isinstance(item, Finish) for item in out)


@pytest.mark.parametrize("refusal", [each for each in REPLIES if each.status < 500], ids=_id)
def test_a_refusal_moves_on_and_only_what_may_pass_is_asked_again(refusal: Refusal) -> None:
    error = WIRES[refusal.wire][0].error(refusal.reply)
    verdict = classify(error)
    assert verdict.moves_on is (refusal.error != "ContentFilterError")
    if isinstance(error, errors.InvalidRequestError | errors.UnsupportedFeatureError):
        assert verdict.harms == "no"


def first_row(rules: tuple[Rule, ...], refusal: Refusal, status: int) -> Rule | None:
    """Return the row that decides: without it, the class is another or another row's."""
    value = load(refusal.body.encode())
    codec = WIRES[refusal.wire][0]
    error = codec.error(refusal.reply) if status else decoded(codec, refusal.body)
    fault = msgspec.structs.replace(fault_of(value), code=getattr(error, "code", ""))
    for count in range(len(rules)):
        marked = _Marked
        row = msgspec.structs.replace(rules[count], error=marked)
        found = error_from_fault(fault, (*rules[:count], row), status=status)
        if type(found) is marked:
            return rules[count]
    return None


class _Marked(ProviderError):
    """Shows which row matched."""


@pytest.mark.parametrize("wire", TABLES)
def test_every_row_decides_a_fixture(wire: str) -> None:
    rules = TABLES[wire]
    shared = () if wire == "openai" else (*SHARED_CODES, *SHARED_TEXTS)
    used = {
        id(first_row(rules, refusal, refusal.status))
        for refusal in refusals()
        if refusal.wire == wire
    } | {
        id(first_row(rules, refusal, 0)) for refusal in STREAMED if refusal.wire == wire
    }  # fmt: skip
    unused = [rule for rule in rules if id(rule) not in used and rule not in shared]
    assert not unused


@pytest.mark.parametrize("rule", SHARED_TEXTS, ids=lambda rule: rule.error.__name__)
def test_every_shared_text_is_some_servers(rule: Rule) -> None:
    for text in rule.texts:
        alone = Rule(_Marked, texts=(text,))
        faults = [fault_of(load(each.body.encode())) for each in refusals()]
        assert any(type(error_from_fault(each, (alone,))) is _Marked for each in faults), text


@pytest.mark.parametrize("refusal", [each for each in REPLIES if each.wire == "openai"], ids=_id)
def test_a_shared_row_decides_the_same_on_anthropics_wire(refusal: Refusal) -> None:
    row = first_row(OPENAI_RULES, refusal, refusal.status)
    if row in SHARED_CODES or row in SHARED_TEXTS:
        error = AnthropicCodec().error(refusal.reply)
        assert type(error) is getattr(errors, refusal.error)
