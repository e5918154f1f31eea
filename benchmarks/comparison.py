"""The same three tasks in four libraries: lines, and what happens when things go wrong.

`python benchmarks/comparison.py` runs them against loopback servers, writes
benchmarks/results/comparison.json and the table in docs/comparison.md.
"""

from __future__ import annotations

import ast
import json
import os
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from field import OURS, PEERS, ROOT, Entry, python

from aiollm import __version__
from aiollm.testing import Answer, FaultServer, Gate, SeenRequest, chat

HERE = Path(__file__).parent
TASKS = HERE / "compared"
RESULTS = HERE / "results" / "comparison.json"
PAGE = ROOT / "docs" / "comparison.md"
START, END = "<!-- figures: benchmarks/comparison.py -->\n", "<!-- end of figures -->\n"
BY_NAME = {entry.name: entry for entry in PEERS}
LITELLM = BY_NAME["litellm"]
WITH_MCP = LITELLM._replace(
    name="litellm[mcp]", requirement=LITELLM.requirement.replace("==", "[mcp]==")
)
"""Its own install lacks a module that any call with tools imports."""

FIELD = (OURS, BY_NAME["openai"], WITH_MCP, BY_NAME["pydantic-ai"])
PREPARATION = {"setup", "ask"}
WEATHER = {"weather", "SCHEMA"}
IMPORTS = 3
CALLS = 20
WAYS_OUT = {
    "break": "`break`",
    "aclosing": "`break` in `aclosing`",
    "cancel": "cancelling the task",
}
TASK_NAMES = ("setup", "stream", "tools", "image")


def answer(request: SeenRequest) -> Answer:
    """Answer as a model does that looks up the weather once."""
    asked = request.json()
    if asked.get("tools") and asked["messages"][-1]["role"] != "tool":
        function = {"name": "weather", "arguments": '{"city": "Granada"}'}
        call = {"index": 0, "id": "call_1", "type": "function", "function": function}
        return said(asked, {"tool_calls": [call]}, "tool_calls")
    return said(asked, {"content": "Well answered."}, "stop")


def said(asked: dict, delta: dict, finish: str) -> Answer:
    if asked.get("stream"):
        return chat(delta, finish=finish)
    message = {"role": "assistant", "content": None, **delta}
    choice = {"index": 0, "message": message, "finish_reason": finish}
    counts = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "model"}
    return Answer(200, {}, {**head, "choices": [choice], "usage": counts})


def perform(entry: Entry, action: str, first: str, second: str) -> dict:
    """Run one action in the library's environment. Raises: RuntimeError."""
    path = {"PYTHONPATH": str(ROOT)} if entry is OURS else {}
    done = subprocess.run(
        [python(entry), TASKS / "act.py", entry.script.rstrip("_"), action, first, second],
        env=os.environ | path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise RuntimeError(f"{entry.name} {action}: {done.stderr[-2000:]}")


def measure(entry: Entry) -> dict:
    """Take all figures of one library."""
    figures: dict = {"version": version(entry), "lines": lines(entry)}
    with FaultServer(default=answer).in_thread() as well:
        second = f"{well.url}/v1"
        for action in ("tools", "image"):
            figures[action] = tried(entry, action, second)
        times = [perform(entry, "import", second, second)["import"] for _ in range(IMPORTS)]
        figures["import_ms"] = round(statistics.median(times) * 1000)
        half = chat("Half an ", finish=None, done=False, usage=None)
        with FaultServer(default=half).in_thread() as cut:
            figures["cut"] = perform(entry, "cut", f"{cut.url}/v1", second)
        failing = Answer(503, {}, {"error": {"message": "down", "type": "server_error"}})
        with FaultServer(default=failing).in_thread() as dead:
            figures["dead"] = perform(entry, "dead", f"{dead.url}/v1", second)
            figures["dead"]["requests"] = dead.counts.requests
        for action in WAYS_OUT:
            figures[f"{action}_ms"] = left(entry, action, second)
    return figures


def tried(entry: Entry, action: str, url: str) -> str:
    """Return the answer of a task, or the last line of what went wrong."""
    try:
        return perform(entry, action, url, url)["answer"]
    except RuntimeError as error:
        return f"failed: {str(error).strip().splitlines()[-1][:120]}"


def left(entry: Entry, action: str, second: str) -> float | str | None:
    """Return ms from leaving a stream to its connection's end, None while its program lives.

    A text is the error that the program ended with instead.
    """
    with FaultServer(default=chat("Once", Gate(), "more")).in_thread() as server:
        try:
            at = perform(entry, action, f"{server.url}/v1", second)["left"]
        except RuntimeError as error:
            return str(error).strip().splitlines()[-1].partition(":")[0]
        ended = server.connections[0].ended
    return None if ended is None or ended - at > 3.9 else round((ended - at) * 1000, 1)


def version(entry: Entry) -> str:
    if entry is OURS:
        return __version__
    code = f"from importlib.metadata import version; print(version({package(entry)!r}))"
    done = subprocess.run([python(entry), "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def package(entry: Entry) -> str:
    return entry.requirement.partition("==")[0].partition("[")[0]


def lines(entry: Entry) -> dict[str, int]:
    """Count lines of code by task: no imports, blank lines, comments or docstrings."""
    source = (TASKS / f"{entry.script}.py").read_text()
    counted = {"setup": 0, "stream": 0, "tools": 0, "image": 0}
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case _:
                continue
        task = "setup" if name in PREPARATION else "tools" if name in WEATHER else name
        if task in counted:
            counted[task] += (node.end_lineno or node.lineno) - node.lineno + 1
    return counted


def table(found: dict[str, dict]) -> str:
    """Draw the figures as the page shows them."""
    rows = [
        ("version", lambda each: each["version"]),
        *((f"lines: {part}", lambda each, part=part: each["lines"][part]) for part in TASK_NAMES),
        ("tool loop", lambda each: shown(each["tools"])),
        ("image question", lambda each: shown(each["image"])),
        ("answer cut cleanly, the second target is well", lambda each: ending(each["cut"])),
        *(
            (f"{way}: ms to a closed connection", lambda each, key=f"{key}_ms": closing(each[key]))
            for key, way in WAYS_OUT.items()
        ),
        (f"first target answers 503: requests to it in {CALLS} calls", requests),
        (f"... seconds for the {CALLS} calls", lambda each: f"{each['dead']['seconds']:.1f}"),
        ("... calls answered", lambda each: each["dead"]["answered"]),
        ("import, ms", lambda each: each["import_ms"]),
    ]
    head = f"| | {' | '.join(found)} |\n|---|{'---|' * len(found)}\n"
    return head + "".join(
        f"| {name} | {' | '.join(str(figure(each)) for each in found.values())} |\n"
        for name, figure in rows
    )


def requests(each: dict) -> int:
    return each["dead"]["requests"]


def shown(answered: str) -> str:
    return answered if answered.startswith("failed") else "works"


def ending(cut: dict) -> str:
    return f"raises `{cut['error']}`" if "error" in cut else f"success: {cut['text']!r}"


def closing(ms: float | str | None) -> str:
    match ms:
        case None:
            return "not within 3.9 s"
        case str():
            return f"the task ends with `{ms.rpartition('.')[2]}`"
        case _:
            return f"{ms:.1f}"


def write(found: dict[str, dict]) -> None:
    """Write the results, and the table into the page."""
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    before, _, rest = PAGE.read_text().partition(START)
    PAGE.write_text(before + START + table(found) + f"\n{taken()}\n" + END + rest.partition(END)[2])


def taken() -> str:
    """Say when and where."""
    python_version = ".".join(map(str, sys.version_info[:3]))
    day = datetime.now(UTC).date()
    return f"Taken on {day} with Python {python_version} on {os.cpu_count()} cores."


if __name__ == "__main__":
    write({entry.name: measure(entry) for entry in FIELD})
