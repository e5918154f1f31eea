"""Nothing that was said, and no key, reaches a fleet's Redis."""

from __future__ import annotations

import asyncio

import pytest
from redis.asyncio import Redis as Client

from aiollm import FailoverError, Limits, LLMError
from aiollm.testing import Answer, FaultServer, chat

PROMPT, ANSWER, TROUBLE = "prompt-4711", "answer-4712", "trouble-4713"


async def test_redis_sees_no_key_no_prompt_no_answer_and_no_text_of_an_error(redis, members):
    """Everything that it is sent is watched, from the first command of a fleet to its last."""
    seen: list[str] = []
    async with (
        FaultServer(chat(ANSWER)) as server,
        Client(port=redis.port) as client,
        client.monitor() as watching,
    ):

        async def watch() -> None:
            async for command in watching.listen():
                seen.append(repr(command))  # noqa: PERF401 - it never ends

        watcher = asyncio.create_task(watch())
        reg = members(redis.url, {"a": server})
        reg.limit("a", Limits(rpm=6000, tpm=1_000_000, max_concurrency="auto"))
        assert (await reg.generate("a/m", PROMPT)).text == ANSWER
        for status in (400, 401, 404, 429, 500, 503):
            reg.reset_health()
            server.behave(Answer(status, {"x-trouble": TROUBLE}, {"error": {"message": TROUBLE}}))
            with pytest.raises((FailoverError, LLMError)):
                await reg.generate("a/m", PROMPT, patience=0)
        await reg.aclose()
        await client.set("last", "command-4714")
        while not any("command-4714" in each for each in seen):
            await asyncio.sleep(0)
        watcher.cancel()
        await asyncio.wait([watcher])
    text = "\n".join(seen)
    assert "EVALSHA" in text
    for secret in ("secret-key", PROMPT, ANSWER, TROUBLE):
        assert secret not in text
