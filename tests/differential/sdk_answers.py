"""What each official SDK makes of an answer, in the words the tests compare.

Each reader uses the highest interface the SDK has: its own accumulator where there is one.
A reader fills `Got` as it goes, so that what came before an error is there.
"""

from __future__ import annotations

import json
from base64 import b64encode
from functools import cache
from typing import Any

MODEL = "any"
ASK = [{"role": "user", "content": "hi"}]


class Got:
    """What an SDK gave; absent means None or empty."""

    def __init__(self) -> None:
        self.text = ""
        self.reasoning = ""
        self.refusal = ""
        self.calls: list[list[Any]] = []
        self.ids: list[str | None] = []
        self.images: list[str] = []
        self.drafts: list[str] = []
        self.names: list[str] = []
        self.usage: list[int] | None = None
        """Input, output, cached, reasoning."""
        self.finish: str | None = None
        self.failed = False
        self.exception = ""
        self.status: int | None = None
        self.message = ""
        self.request_id = ""

    def call(self, id_: str | None, name: str, arguments: Any) -> None:
        self.calls.append([name, arguments])
        self.ids.append(id_)


def _json(text: str) -> Any:
    try:
        return json.loads(text or "{}")
    except ValueError:
        return text


# openai


@cache
def _openai_client() -> Any:
    import openai

    return openai.OpenAI(api_key="sk-test", max_retries=0)


def _openai(case: dict[str, Any]) -> Any:
    return _openai_client().with_options(base_url=case["base"] + "/v1")


def openai_chat(case: dict[str, Any], got: Got) -> None:
    with _openai(case).chat.completions.stream(model=MODEL, messages=ASK) as stream:
        try:
            stream.get_final_completion()
        finally:
            _read_completion(stream.current_completion_snapshot, got)


def _read_completion(said: Any, got: Got) -> None:
    choice, usage = said.choices[0], said.usage
    message = choice.message
    got.text, got.refusal = message.content or "", message.refusal or ""
    got.reasoning = (message.model_extra or {}).get("reasoning_content") or ""
    got.finish = choice.finish_reason
    for call in message.tool_calls or ():
        if call.type == "custom":
            got.call(call.id, call.custom["name"], call.custom["input"])
        else:
            got.call(call.id, call.function.name, _json(call.function.arguments))
    if usage:
        asked, told = usage.prompt_tokens_details, usage.completion_tokens_details
        cached = (asked and asked.cached_tokens) or 0
        thought = (told and told.reasoning_tokens) or 0
        got.usage = [usage.prompt_tokens, usage.completion_tokens, cached, thought]


def openai_responses(case: dict[str, Any], got: Got) -> None:
    with _openai(case).responses.stream(model=MODEL, input="hi") as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                got.text += event.delta
        said = stream.get_final_response()
    got.text = said.output_text
    got.finish = said.status
    for item in said.output:
        match item.type:
            case "function_call":
                got.call(item.call_id, item.name, _json(item.arguments))
            case "custom_tool_call":
                got.call(item.call_id, item.name, item.input)
            case "reasoning":
                got.reasoning += "".join(part.text for part in item.summary)
            case "message":
                got.refusal += "".join(p.refusal for p in item.content if p.type == "refusal")
    if (usage := said.usage) is not None:
        asked, told = usage.input_tokens_details, usage.output_tokens_details
        counts = [asked.cached_tokens, told.reasoning_tokens if told else 0]
        got.usage = [usage.input_tokens, usage.output_tokens, *counts]


def openai_images(case: dict[str, Any], got: Got) -> None:
    said = _openai(case).images.generate(model="gpt-image-2", prompt="hi")
    got.images = [image.b64_json for image in said.data]
    got.usage = [said.usage.input_tokens, said.usage.output_tokens, 0, 0]


def openai_images_stream(case: dict[str, Any], got: Got) -> None:
    asked = _openai(case).images
    with asked.generate(model="gpt-image-2", prompt="hi", stream=True, partial_images=2) as stream:
        for event in stream:
            if event.type == "image_generation.partial_image":
                got.drafts.append(event.b64_json)
            else:
                got.images.append(event.b64_json)
                got.usage = [event.usage.input_tokens, event.usage.output_tokens, 0, 0]


def openai_models(case: dict[str, Any], got: Got) -> None:
    got.names = [model.id for model in _openai(case).models.list()]


def _openai_error(error: Any, got: Got) -> None:
    got.status = getattr(error, "status_code", None)
    got.request_id = getattr(error, "request_id", None) or ""
    body = getattr(error, "body", None)
    match body:
        case {"message": str() as told}:
            got.message = told
        case dict() | list():
            got.message = ""  # the SDK shows the body, but finds no words in it
        case _:
            told = getattr(error, "message", None) or str(error)
            got.message = "" if told.startswith("Error code: ") else told


# anthropic


@cache
def _anthropic() -> Any:
    import anthropic

    return anthropic.Anthropic(api_key="sk-test", max_retries=0)


def anthropic_messages(case: dict[str, Any], got: Got) -> None:
    asked = _anthropic().with_options(base_url=case["base"]).messages
    with asked.stream(model=MODEL, messages=ASK, max_tokens=100) as stream:
        try:
            stream.get_final_message()
        finally:
            _read_message(stream.current_message_snapshot, got)


def _read_message(said: Any, got: Got) -> None:
    got.finish = said.stop_reason
    for block in said.content:
        match block.type:
            case "text":
                got.text += block.text
            case "thinking":
                got.reasoning += block.thinking
            case "tool_use":
                got.call(block.id, block.name, block.input)
    usage = said.usage
    cached = usage.cache_read_input_tokens or 0
    asked = usage.input_tokens + cached + (usage.cache_creation_input_tokens or 0)
    details = getattr(usage, "output_tokens_details", None)
    got.usage = [asked, usage.output_tokens, cached, details.thinking_tokens if details else 0]


def _anthropic_error(error: Any, got: Got) -> None:
    got.status = getattr(error, "status_code", None)
    got.request_id = getattr(error, "request_id", None) or ""
    body = getattr(error, "body", None)
    match body:
        case {"error": {"message": str() as told}}:
            got.message = told
        case dict() | list():
            got.message = ""
        case _:
            got.message = str(error)


# google


def google_content(case: dict[str, Any], got: Got) -> None:
    from google import genai
    from google.genai import types

    options = types.HttpOptions(
        base_url=case["base"],
        api_version="v1beta",
        retry_options=types.HttpRetryOptions(attempts=1),
    )
    asked = genai.Client(api_key="sk-test", http_options=options)
    try:
        for chunk in asked.models.generate_content_stream(model=case["model"], contents="hi"):
            _read_chunk(chunk, got)
    finally:
        asked.close()


def _read_chunk(chunk: Any, got: Got) -> None:
    for candidate in (chunk.candidates or ())[:1]:
        if candidate.finish_reason is not None:
            got.finish = candidate.finish_reason.value
        for part in (candidate.content and candidate.content.parts) or ():
            _read_part(part, got)
    if (usage := chunk.usage_metadata) is not None:
        thought = usage.thoughts_token_count or 0
        told = (usage.candidates_token_count or 0) + thought
        cached = usage.cached_content_token_count or 0
        got.usage = [usage.prompt_token_count or 0, told, cached, thought]


def _read_part(part: Any, got: Got) -> None:
    if part.function_call is not None:
        got.call(part.function_call.id, part.function_call.name, part.function_call.args)
    elif part.inline_data is not None:
        got.images.append(b64encode(part.inline_data.data).decode())
    elif part.thought:
        got.reasoning += part.text or ""
    else:
        got.text += part.text or ""


def _google_error(error: Any, got: Got) -> None:
    got.status = getattr(error, "code", None)
    got.message = getattr(error, "message", None) or str(error)


# ollama


def _ollama(case: dict[str, Any]) -> Any:
    import ollama

    return ollama.Client(host=case["base"], verify=False)  # loading certificates takes long


def ollama_chat(case: dict[str, Any], got: Got) -> None:
    for chunk in _ollama(case).chat(model=MODEL, messages=ASK, stream=True):
        message = chunk.message
        got.text += message.content or ""
        got.reasoning += message.thinking or ""
        for call in message.tool_calls or ():
            name, arguments = call.function.name, dict(call.function.arguments)
            got.call(getattr(call, "id", None), name, arguments)
        if chunk.done:
            got.finish = chunk.done_reason
            got.usage = [chunk.prompt_eval_count or 0, chunk.eval_count or 0, 0, 0]


def ollama_tags(case: dict[str, Any], got: Got) -> None:
    got.names = [model.model for model in _ollama(case).list().models]


def ollama_ps(case: dict[str, Any], got: Got) -> None:
    got.names = [model.model for model in _ollama(case).ps().models]


def ollama_show(case: dict[str, Any], got: Got) -> None:
    got.names = sorted(_ollama(case).show(MODEL).capabilities)


def _ollama_error(error: Any, got: Got) -> None:
    got.status = getattr(error, "status_code", None)
    got.message = getattr(error, "error", None) or str(error)


READERS = {
    "openai_chat": openai_chat,
    "openai_responses": openai_responses,
    "openai_images": openai_images,
    "openai_images_stream": openai_images_stream,
    "openai_models": openai_models,
    "anthropic": anthropic_messages,
    "gemini": google_content,
    "ollama": ollama_chat,
    "ollama_tags": ollama_tags,
    "ollama_ps": ollama_ps,
    "ollama_show": ollama_show,
}
ERRORS = {
    "openai": _openai_error,
    "anthropic": _anthropic_error,
    "google": _google_error,
    "ollama": _ollama_error,
}
