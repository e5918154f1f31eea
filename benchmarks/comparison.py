"""The same six tasks in six libraries: lines, and what happens when things go wrong.

`python benchmarks/comparison.py [library[:part,part] ...]` runs them against loopback servers, and
writes benchmarks/results/comparison.json and the table in docs/comparison.md. All takes a quarter
of an hour; the parts are the functions in PARTS.

Each program in `compared` is complete, as a user would write it: what several libraries leave to
the user stands in each of their programs, and counts.
"""

from __future__ import annotations

import ast
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from compared.living import living
from compared_servers import Agent, Evaluated, Limited, forecaster, text_of
from compared_table import MCP_WAYS, SETTLED, TASKS, WAYS_OUT, write
from field import COMPARED, ROOT, environment

from aiollm import __version__
from aiollm.testing import Answer, FaultServer, Gate, chat

HERE = Path(__file__).parent
SCRIPTS = HERE / "compared"
RESULTS = HERE / "results" / "comparison.json"
OURS = "aiollm"
FIELD = (OURS, *COMPARED)
PREPARATION = {"setup", "ask"}
WEATHER = {"weather", "SCHEMA"}
CROWDS = IMPORTS = 3
ROWS = 2000


def command(library: str, action: str, *arguments: str) -> list[str]:
    """Return the command that does one thing with a library, in its environment."""
    own = sys.executable
    python = own if library == OURS else environment(f"compared-{library}", COMPARED[library])
    return [python, str(SCRIPTS / "act.py"), script(library), action, *arguments]


def script(library: str) -> str:
    return library.replace("-", "_")


def started(library: str, action: str, *arguments: str) -> subprocess.Popen[str]:
    path = {"PYTHONPATH": str(ROOT)} if library == OURS else {"PYTHONPATH": ""}
    return subprocess.Popen(
        command(library, action, *arguments),
        env=os.environ | path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def perform(library: str, action: str, *arguments: str) -> dict:
    """Do one thing with a library, in its environment. Raises: RuntimeError."""
    with started(library, action, *arguments) as process:
        try:
            out, problem = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            process.kill()
            out, problem = process.communicate()
    for line in out.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise RuntimeError(f"{library} {action}: {problem[-2000:]}")


def measure(library: str, wanted: set[str]) -> Iterator[dict]:
    """Take the figures of one library, part by part."""
    own = lines(library)
    yield {"version": version(library), "lines": own}
    for part in PARTS:
        takes_part = part not in BEYOND_AGENTS or "stream" in own
        if takes_part and (not wanted or part.__name__ in wanted):
            print(f"{library}: {part.__name__}", file=sys.stderr, flush=True)
            yield part(library)


def tools(library: str) -> dict:
    with FaultServer(default=forecaster).in_thread() as server:
        url = f"{server.url}/v1"
        return {"tools": tried(library, "tools", url, url)}


def imports(library: str) -> dict:
    def fastest(action: str, *urls: str) -> int:
        times = [perform(library, action, *urls)["import"] for _ in range(IMPORTS)]
        return round(min(times) * 1000)

    url = "http://127.0.0.1:9/v1"
    return {"import_ms": fastest("import", url, url), "import_mcp_ms": fastest("mcp-import", url)}


def streams(library: str) -> dict:
    figures: dict = {}
    with FaultServer(default=forecaster).in_thread() as well:
        second = f"{well.url}/v1"
        figures["image"] = tried(library, "image", second, second)
        half = chat("Half an ", finish=None, done=False, usage=None)
        with FaultServer(default=half).in_thread() as cut:
            figures["cut"] = perform(library, "cut", f"{cut.url}/v1", second)
        failing = Answer(503, {}, {"error": {"message": "down", "type": "server_error"}})
        with FaultServer(default=failing).in_thread() as dead:
            figures["dead"] = perform(library, "dead", f"{dead.url}/v1", second)
            figures["dead"]["requests"] = dead.counts.requests
        for action in WAYS_OUT:
            figures[f"{action}_ms"] = left(library, action, second)
    return figures


def tried(library: str, action: str, *arguments: str) -> str:
    """Return the answer of a task, or the last line of what went wrong."""
    try:
        return perform(library, action, *arguments)["answer"]
    except RuntimeError as error:
        return f"failed: {str(error).strip().splitlines()[-1][:120]}"


def left(library: str, action: str, second: str) -> float | str | None:
    """Return ms from leaving a stream to its connection's end, None while its program lives.

    A text is the error that the program ended with instead.
    """
    with FaultServer(default=chat("Once", Gate(), "more")).in_thread() as server:
        try:
            at = perform(library, action, f"{server.url}/v1", second)["left"]
        except RuntimeError as error:
            return str(error).strip().splitlines()[-1].partition(":")[0]
        ended = server.connections[0].ended
    return None if ended is None or ended - at > 3.9 else round((ended - at) * 1000, 1)


def crowd(library: str) -> dict:
    runs = [crowded(library) for _ in range(CROWDS)]
    return {"crowd": sorted(runs, key=lambda run: run["seconds"])[CROWDS // 2]}


def crowded(library: str) -> dict:
    with FaultServer(default=Limited()).in_thread() as server:
        url = f"{server.url}/v1"
        return perform(library, "crowd", url, url) | {"requests": server.counts.requests}


def agent(library: str) -> dict:
    figures: dict = {}
    for name, question in MCP_WAYS.items():
        figures[f"mcp_{name}"] = asked(library, question)
    with FaultServer(default=Agent()).in_thread() as server:
        arguments = f"{server.url}/v1", "call hang"
        with folder() as notes:
            found = perform(library, "mcp-cancel", *arguments, str(notes))
            figures["mcp_cancel"] = found | {"left": leftover(notes)}
        with folder() as notes, started(library, "mcp-agent", *arguments, str(notes)) as process:
            while not (notes / "hanging").exists() and process.poll() is None:
                time.sleep(0.01)
            process.kill()
            process.wait()
            time.sleep(SETTLED)
            figures["mcp_kill"] = {"left": leftover(notes)}
    return figures


def asked(library: str, question: str) -> dict:
    """Ask the agent in a program of its own."""
    model = Agent()
    with FaultServer(default=model).in_thread() as server, folder() as notes:
        found = perform(library, "mcp-agent", f"{server.url}/v1", question, str(notes))
        return found | {"results": model.results}


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


def leftover(notes: Path) -> int:
    """Count the servers that live on, and end them."""
    pids = living(notes)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def evaluation(library: str) -> dict:
    return {"evaluate": evaluated(library), "killed": killed(library)}


def evaluated(library: str) -> dict:
    model = Evaluated()
    with FaultServer(default=model).in_thread() as server, folder() as notes:
        url, path = f"{server.url}/v1", notes / "out.jsonl"
        found = perform(library, "evaluate", url, url, str(path))
        return found | {"requests": server.counts.requests, "answered": right(path)}


def killed(library: str) -> dict:
    """Kill a run when half of its rows are answered; start it again until it has ended."""
    running: list[subprocess.Popen] = []
    model = Evaluated(lambda count: running[0].kill() if count == ROWS // 2 else None)
    with FaultServer(default=model).in_thread() as server, folder() as notes:
        url, path = f"{server.url}/v1", notes / "out.jsonl"
        running.append(started(library, "evaluate", url, url, str(path)))
        with running[0] as process:
            process.communicate()
        kept = right(path)
        perform(library, "evaluate", url, url, str(path))
        twice = sum(count - 1 for count in model.answered.values())
        return {"kept": kept, "answered": right(path), "twice": twice}


def right(path: Path) -> int:
    """Count the rows of a file with the right answer, by their last line."""
    texts = {}
    for line in path.read_bytes().split(b"\n")[:-1]:
        row = json.loads(line)
        texts[int(row["key"])] = row.get("text")
    return sum(text == text_of(key) for key, text in texts.items())


def version(library: str) -> str:
    if library == OURS:
        return __version__
    package = COMPARED[library].partition("==")[0].partition("[")[0]
    code = f"from importlib.metadata import version; print(version({package!r}))"
    python = environment(f"compared-{library}", COMPARED[library])
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def lines(library: str) -> dict[str, int]:
    """Count lines of code by task: no imports, blank lines or comments."""
    counted: dict[str, int] = {}
    for name, size in definitions(SCRIPTS / f"{script(library)}_.py"):
        task = "setup" if name in PREPARATION else "tools" if name in WEATHER else name
        if task in TASKS:
            counted[task] = counted.get(task, 0) + size
    own = definitions(SCRIPTS / f"{script(library)}_mcp.py")
    return counted | {"agent": sum(size for name, size in own if name != "close")}


def definitions(path: Path) -> Iterable[tuple[str, int]]:
    """Yield each function and constant of a module with its lines of code."""
    source = path.read_text()
    code = [line.strip() for line in source.splitlines()]
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
            case ast.Assign(targets=[ast.Name(id=name)]):
                first = node.lineno
            case _:
                continue
        own = code[first - 1 : node.end_lineno]
        yield name, sum(bool(line) and not line.startswith("#") for line in own)


PARTS = (tools, imports, agent, streams, crowd, evaluation)
BEYOND_AGENTS = (streams, crowd, evaluation)
"""What a library for agents alone has no part in."""


def main(wanted: list[str]) -> None:
    """Take the figures that are wanted, or all, and write them as they come."""
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    for each in wanted or FIELD:
        library, _, parts = each.partition(":")
        for figures in measure(library, set(filter(None, parts.split(",")))):
            results.setdefault(library, {}).update(figures)
            write({name: results[name] for name in FIELD if name in results}, RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
