"""A tool never runs with its defaults because its arguments were lost, on any wire."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest

from aiollm import LLMError, Registry, ToolEnded, TurnLimitError, tool
from aiollm.testing import Answer, FaultServer, ndjson, sse

ROWS: dict[str, dict[str, Any]] = tomllib.loads(
    Path(__file__).with_suffix("").with_name("lost_arguments.toml").read_text()
)
DSNS = {
    "anthropic": "anthropic+{}",
    "openai": "openai+{}/v1?api=chat",
    "responses": "openai+{}/v1?api=responses",
    "google": "google+{}/v1beta",
    "ollama": "ollama+{}",
}


def _answer(wire: str, events: list[str]) -> Answer:
    if wire == "ollama":
        return ndjson(*events)
    named = wire in ("anthropic", "responses")
    return sse(*((json.loads(event)["type"], event) if named else event for event in events))


@pytest.mark.parametrize("name", ROWS)
async def test_only_what_arrived_completely_is_run(name: str) -> None:
    row, ran = ROWS[name], []

    @tool
    async def wipe(path: str = "/", deep: bool = False) -> str:
        """Wipe a directory."""
        ran.append({"path": path, "deep": deep})
        return "ok"

    @tool
    async def look(path: str) -> str:
        """Look at a file."""
        ran.append({"path": path})
        return "ok"

    wire = name.partition(":")[0]
    ended: list[ToolEnded] = []
    async with (
        FaultServer(_answer(wire, row["events"])) as server,
        Registry(env={"LLM_A": DSNS[wire].format(server.url)}, retries=0) as reg,
    ):
        run = reg.run("a/m", "go", tools=[wipe, look], max_turns=1)
        with pytest.raises(LLMError) as caught:
            async for event in run:
                ended += [event] if isinstance(event, ToolEnded) else []
    assert ran == [{"path": "/", "deep": False} | given for given in row["ran"]]
    assert type(caught.value).__name__ == row.get("error", TurnLimitError.__name__)
    # The model hears of every call that was not run, and can send it again.
    assert bool(ended) is ("error" not in row)
    assert [each.result.is_error for each in ended].count(False) == len(ran)
