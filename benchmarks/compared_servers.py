"""Loopback servers for the comparison: models with the faults of one task each."""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable

from aiollm.testing import Answer, Cut, SeenRequest, chat

RATE = 20.0
"""Calls a second that the limited server allows, and as many at first."""

BUSY = {"error": {"message": "slow down", "type": "requests", "code": "rate_limit_exceeded"}}
OOPS = {"error": {"message": "oops", "type": "server_error"}}


def said(asked: dict, delta: dict, finish: str) -> Answer:
    """Return an answer, as a stream where one was asked for."""
    if asked.get("stream"):
        return chat(delta, finish=finish)
    message = {"role": "assistant", "content": None, **delta}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "model"}
    return Answer(200, {}, {**head, "choices": [choice], "usage": counts})


def calling(asked: dict, name: str) -> Answer:
    """Return a call of a tool, by the name that the request has for it."""
    names = [tool["function"]["name"] for tool in asked.get("tools", ())]
    known = next((each for each in names if each.endswith(name)), name)
    given = '{"city": "Granada"}' if name == "weather" else "{}"
    function = {"name": known, "arguments": given}
    call = {"index": 0, "id": f"call_{name}", "type": "function", "function": function}
    return said(asked, {"tool_calls": [call]}, "tool_calls")


def forecaster(request: SeenRequest) -> Answer:
    """Answer as a model does that looks up the weather once."""
    asked = request.json()
    if asked.get("tools") and asked["messages"][-1]["role"] != "tool":
        return calling(asked, "weather")
    return said(asked, {"content": "Well answered."}, "stop")


class Agent:
    """Calls the tools that a question names, one after the other; `cut` ends an answer early."""

    def __init__(self) -> None:
        self.results: list[str] = []

    def __call__(self, request: SeenRequest) -> Answer:
        asked = request.json()
        messages = asked["messages"]
        question = json.dumps(next(each["content"] for each in messages if each["role"] == "user"))
        steps = re.findall(r"weather|die|hang|cut", question)
        self.results = [json.dumps(each["content"]) for each in messages if each["role"] == "tool"]
        if len(self.results) >= len(steps):
            return said(asked, {"content": "Well answered."}, "stop")
        step = steps[len(self.results)]
        if step == "cut":
            return chat("Half an ", finish=None, done=False, usage=None)
        return calling(asked, step)


class Limited:
    """A token bucket that says 429 with Retry-After when it is empty."""

    def __init__(self) -> None:
        self.tokens, self.at = RATE, time.monotonic()

    def __call__(self, request: SeenRequest) -> Answer:
        now = time.monotonic()
        self.tokens = min(RATE, self.tokens + (now - self.at) * RATE)
        self.at = now
        if self.tokens < 1:
            return Answer(429, {"retry-after": "1"}, BUSY)
        self.tokens -= 1
        return said(request.json(), {"content": "Well answered."}, "stop")


class Evaluated:
    """Answers each row; the first time, 2 % of them with a 500 and 1 % with a cut answer."""

    def __init__(self, whole: Callable[[int], None] = lambda _: None) -> None:
        self.asked: Counter[int] = Counter()
        self.answered: Counter[int] = Counter()
        self.whole = whole

    def __call__(self, request: SeenRequest) -> Answer | Cut:
        asked = request.json()
        row = int(re.findall(r"row (\d+)", json.dumps(asked["messages"]))[-1])
        self.asked[row] += 1
        if self.asked[row] == 1 and row % 50 == 0:
            return Answer(500, {}, OOPS)
        answer = said(asked, {"content": text_of(row)}, "stop")
        if self.asked[row] == 1 and row % 100 == 7:
            return Cut(200, answer)
        self.answered[row] += 1
        self.whole(self.answered.total())
        return answer


def text_of(row: int) -> str:
    """Return the right answer to a row."""
    return f"The answer to row {row} is {row * 7}."
