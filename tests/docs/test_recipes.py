"""Recipes that need more than a registry: Celery's runs as a task, services are the examples."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from aiollm._http import transport
from aiollm.testing import Answer, FaultServer, chat

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "docs" / "recipes"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
async def tasks():
    """Return what the recipe defines; the worker process is this one, and its loop ends."""
    names: dict[str, Any] = {"__name__": "tasks"}
    (block,) = BLOCK.findall((RECIPES / "celery.md").read_text())
    exec(block, names)
    names["app"].conf.update(broker_url="memory://", result_backend="cache+memory://")
    yield names
    loop, reg = names["process"]()
    await asyncio.to_thread(asyncio.run_coroutine_threadsafe(reg.aclose(), loop).result)
    loop.call_soon_threadsafe(loop.stop)
    while loop.is_running():
        await asyncio.sleep(0)
    loop.close()


async def test_celery_s_tasks_share_a_registry_and_its_connection(tasks, monkeypatch):
    monkeypatch.setattr(transport, "DRAIN_SECONDS", 5.0)  # the server's loop may be busy
    async with FaultServer(default=chat("Short.")) as m5:
        monkeypatch.setenv("LLM_M5", m5.dsn("openai"))
        monkeypatch.setenv("LLM_M1", m5.dsn("openai"))
        for text in ("one", "two"):
            done = await asyncio.to_thread(tasks["summarize"].apply, [text])
            assert done.get() == "Short."
        assert m5.counts.opened == 1


async def test_a_celery_task_that_failed_asks_to_be_retried(tasks, monkeypatch):
    wrong = Answer(401, {}, {"error": {"message": "bad key"}})
    async with FaultServer(default=wrong) as m5:
        monkeypatch.setenv("LLM_M5", m5.dsn("openai"))
        monkeypatch.setenv("LLM_M1", m5.dsn("openai"))
        task = tasks["summarize"]
        task.max_retries = 0
        done = await asyncio.to_thread(task.apply, ["text"])
    assert done.failed()
    assert "every target" in str(done.result)


@pytest.mark.parametrize(
    ("page", "example"),
    [
        ("aiohttp.md", "09_service.py"),
        ("fastapi.md", "12_fastapi.py"),
        ("starlette.md", "13_starlette.py"),
    ],
)
def test_the_recipe_of_a_framework_is_the_example_that_is_tested(page, example):
    (block,) = BLOCK.findall((RECIPES / page).read_text())
    text = (ROOT / "examples" / example).read_text()
    assert block in re.sub(r".*stand_in.*\n\n?", "", text)
