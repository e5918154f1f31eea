"""What hostile answers cost the event loop, beside a normal stream of as many bytes.

`python benchmarks/hostile.py [--size MIB] [word ...]` prints, for each shape whose name has one of
the words: bytes on the wire, how late a timer was at worst, the CPU of the loop's longest turn, CPU
a byte, and peak memory, most also as a multiple of the normal stream's of the same wire in the same
run; of CPU a byte, of that of a normal stream of as many bytes, because most of what a short answer
takes is the request. Every shape runs in a process of its own, several times, and the least figure
counts; the server is another one. Other processes make timers late, too, but a turn takes no more
CPU.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import importlib.util
import json
import math
import os
import resource
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from aiollm import FailoverError, LLMError, Registry, Timeouts
from aiollm.providers.google.arguments import MAX_STEPS

HERE = Path(__file__).parent
MIB = 1024 * 1024
SHORT = 4096
"""Bytes of a normal stream that is little more than its request."""
ROUNDS = 3
COMPILED = str(Path(tempfile.gettempdir()) / "aiollm-hostile")
HEAD = b"HTTP/1.1 200 OK\r\n%s\r\nConnection: close\r\n\r\n"
DSN = {
    "chat": "openai+http://k@127.0.0.1:{}/{}",
    "responses": "openai+http://k@127.0.0.1:{}/{}?api=responses",
    "anthropic": "anthropic+http://k@127.0.0.1:{}/{}",
    "google": "google+http://k@127.0.0.1:{}/{}",
    "ollama": "ollama+http://127.0.0.1:{}/{}",
}


def beside(name: str):
    """Return the module of a file beside this one."""
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


replay = beside("replay")
servers = beside("hostile_servers")
limits = beside("hostile_limits")
calls = beside("hostile_calls")


def responses(count: int) -> list[bytes]:
    """Return a normal stream of OpenAI's Responses."""

    def event(kind: str, **fields) -> bytes:
        return f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode()

    item = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed"}
    content = [{"type": "output_text", "text": "", "annotations": []}]
    whole = {"id": "resp_1", "status": "completed", "output": [item | {"content": content}]}
    delta = event(
        "response.output_text.delta",
        sequence_number=4,
        item_id="msg_1",
        output_index=0,
        content_index=0,
        delta=" word",
        logprobs=[],
    )
    return [
        event("response.created", response={"id": "resp_1", "status": "in_progress", "output": []}),
        event("response.output_item.added", output_index=0, item=item | {"content": []}),
        *[delta] * count,
        event("response.output_item.done", output_index=0, item=item | {"content": content}),
        event("response.completed", response=whole),
    ]


WIRES = {
    "chat": replay.WIRES["openai"],
    "responses": responses,
    "anthropic": replay.WIRES["anthropic"],
    "google": replay.WIRES["google"],
    "ollama": replay.WIRES["ollama"],
}


def normal(wire: str, size: int) -> bytes:
    """Return a normal stream of about `size` bytes."""
    extra = len(b"".join(WIRES[wire](2))) - len(b"".join(WIRES[wire](1)))
    return b"".join(WIRES[wire](max(1, size // extra)))


def before(wire: str, event: bytes) -> Callable[[int], bytes]:
    """Return a maker of answers with junk after the first few events of a normal one."""

    def make(size: int) -> bytes:
        head = b"".join(WIRES[wire](4)[:4])
        return head + event * (size // len(event)) + b"".join(WIRES[wire](1)[-3:])

    return make


def frame(wire: str, data: bytes) -> bytes:
    """Return one event, or line, of JSON."""
    match wire:
        case "ollama":
            return data + b"\n"
        case "anthropic" | "responses":
            return b"event: %s\ndata: %s\n\n" % (json.loads(b'"x"').encode(), data)
        case _:
            return b"data: %s\n\n" % data


TEXT = {
    "chat": b'{"choices":[{"index":0,"delta":{"content":%s}}]}',
    "responses": b'{"type":"response.output_text.delta","item_id":"msg_1","output_index":0,'
    b'"content_index":0,"delta":%s}',
    "anthropic": b'{"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":%s}}',
    "google": b'{"candidates":[{"content":{"parts":[{"text":%s}]}}]}',
    "ollama": b'{"message":{"role":"assistant","content":%s},"done":false}',
}
"""A frame with one text."""

ODD = {
    "chat": b'{"choices":[{"index":[],"delta":{"content":"a"}}]}',
    "responses": b'{"type":"response.output_text.delta","item_id":"msg_1","output_index":0,'
    b'"content_index":[],"delta":"a"}',
    "anthropic": b'{"type":"content_block_delta","index":0,"usage":[],'
    b'"delta":{"type":"text_delta","text":"a"}}',
    "google": b'{"candidates":[{"index":[],"content":{"parts":[{"text":"a"}]}}]}',
    "ollama": b'{"message":{"content":"a"},"done":false,"eval_count":[]}',
}
"""A frame with one text and something odd beside it."""

LISTS = {
    "chat": (b'{"choices":[%s]}', b'{"index":0,"delta":{"content":"a"}}', b'{"index":[]}'),
    "other choices": (b'{"choices":[%s]}', b'{"index":1,"delta":{"content":"a"}}', b'{"index":[]}'),
    "tool calls": (
        b'{"choices":[{"delta":{"tool_calls":[%s]}}]}',
        b'{"index":0,"id":"a","function":{"name":"f","arguments":"1"}}',
        b'{"index":[]}',
    ),
    "google": (b'{"candidates":[{"content":{"parts":[%s]}}]}', b'{"text":"a"}', b'{"text":[]}'),
    "ollama": (
        b'{"message":{"tool_calls":[%s]}}',
        b'{"function":{"name":"f","arguments":{}}}',
        b'{"function":7}',
    ),
    "responses": (
        b'{"type":"response.completed","response":{"id":"r","status":"completed","output":[%s]}}',
        b'{"type":"message","content":[{"type":"output_text","text":"a"}]}',
        b'{"type":"message","content":[{"type":"output_text","text":[]}]}',
    ),
}
"""A frame of many values: the frame, a value, and one that is odd."""


def one(wire: str, data: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """Return a maker of an answer with one large frame."""

    def make(size: int) -> bytes:
        head = b"".join(WIRES[wire](4)[:4])
        return head + frame(wire, data(size)) + b"".join(WIRES[wire](1)[-3:])

    return make


def listed(name: str, odd: int, per_frame: int = 0) -> Callable[[int], bytes]:
    """Return a maker of answers with many values in one frame, the last of which are odd.

    `odd` is how many, -1 for all; `per_frame` is how many others a frame has, 0 for one frame.
    """
    wire = name if name in WIRES else "chat"
    outer, good, bad = LISTS[name]

    def make(size: int) -> bytes:
        count = per_frame or max(1, size // (len(good) + 1))
        bads = odd if odd >= 0 else size // (len(bad) + 1)
        data = outer.replace(b"%s", b",".join([good] * count + [bad] * bads))
        event = frame(wire, data)
        head = b"".join(WIRES[wire](4)[:4])
        return head + event * max(1, size // len(event)) + b"".join(WIRES[wire](1)[-3:])

    return make


def text(wire: str, value: bytes) -> Callable[[int], bytes]:
    """Return a maker of answers of one text that repeats `value`."""
    return one(wire, lambda size: TEXT[wire] % (b'"' + value * (size // len(value)) + b'"'))


ARGUMENTS = (
    b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"f","willContinue":true,'
    b'"partialArgs":[%s]}}]}}]}'
)
PATH = b'{"jsonPath":"$%b","stringValue":"x"}'
"""Arguments that come in pieces, and a piece."""

SHAPES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    **{f"{wire}: normal": (wire, functools.partial(normal, wire)) for wire in WIRES},
    **{
        f"{wire}: {name}": (wire, before(wire, event))
        for wire in WIRES
        for name, event in {
            "blank lines": b"\n",
            "CRLF": b"\r\n",
            "lone CR": b"\r",
            "ids": b"id: 1\n",
            "ids as events": b"id: 1\n\n",
            "waits": b"retry: 1\n",
            "names as events": b"event: a\n\n",
            "empty data, CR": b"data:\r",
            "empty frames, CR": b"data: {}\r\r",
            "empty frames, CRLF": b"data: {}\r\n\r\n",
            "comments": b":\n",
            "comments as events": b": ping\n\n",
            "junk lines": b"a\n",
            "brace lines": b"{\n",
            "empty objects": b"{}\n",
            "empty objects as events": b"{}\n\n",
            "raw JSON": b'{"a": [1, 2]}\n',
            "empty data": b"data:\n",
            "empty events": b"data: \n\n",
            "data lines": b"data: a\n",
            "names": b"event: a\n",
            "error lines": b"error: {}\n",
            "empty frames": b"data: {}\n\n",
            "null frames": b"data: null\n\n",
            "named frames": b"event: a\ndata: {}\n\n",
            "frames of a type": b'data: {"type":"a"}\n\n',
            "frames of a message": b'data: {"a":{"message":""}}\n\n',
            "frames of a number": b'data: {"message":7}\n\n',
        }.items()
        if wire != "ollama" or not event.startswith((b"data", b"event", b"error", b"id", b"retry"))
    },
    **{
        f"{wire}: {name}": (wire, make)
        for wire in WIRES
        for name, make in {
            "one text": text(wire, b"word "),
            "one escaped text": text(wire, rb"\u0041"),
            "one text of half pairs": text(wire, rb"\ud83d"),
            "one text and half a pair": one(
                wire, lambda size, wire=wire: TEXT[wire] % (b'"' + b"a" * size + rb'\ud83d"')
            ),
            "braces in text": text(wire, b"{"),
            "deep": one(wire, lambda size: b'{"a":' + b"[" * size),
            "wide": one(wire, lambda size: b'{"a":0' + b',"b":1' * (size // 6) + b"}"),
            "wide and odd": one(
                wire,
                lambda size, wire=wire: TEXT[wire] % b"[]" + b"," + b'"b":1,' * (size // 6) + b"}",
            ),
            "numbers": one(wire, lambda size: b'{"a":[0' + b",1" * (size // 2) + b"]}"),
            "names": one(
                wire,
                lambda size: (
                    b'{"error":{' + b",".join(b'"b%d":1' % at for at in range(size // 11)) + b"}}"
                ),
            ),
            "nested": one(
                wire,
                lambda size: b'{"a":[' + (b"[" * 99 + b"]" * 99 + b",") * (size // 199) + b"0]}",
            ),
            "white space": one(wire, lambda size: b'{"a":' + b" " * size + b"1}"),
            "one text of line ends": text(wire, rb"\n"),
            "odd beside a text": before(wire, frame(wire, ODD[wire])),
            "a long number": one(wire, lambda size: b'{"a":' + b"1" * size + b"}"),
            "null texts": before(wire, frame(wire, TEXT[wire] % b"null")),
            "odd texts": before(wire, frame(wire, TEXT[wire] % b"7")),
            "empty texts": before(wire, frame(wire, TEXT[wire] % b'""')),
            "half pairs": before(wire, frame(wire, TEXT[wire] % rb'"\ud83d"')),
            "endless line": lambda size: b"x" * size,
            "endless event": lambda size: b"data: " + b"x" * size,
        }.items()
    },
    **{
        f"{name if name in WIRES else f'chat: {name}'}: {what}": (
            name if name in WIRES else "chat",
            listed(name, odd, count),
        )
        for name in LISTS
        for what, odd, count in (
            ("many values", 0, 0),
            ("many values, 31 odd", 31, 0),
            ("many values, all odd", -1, 1),
            ("31 odd values a frame", 31, 1),
        )
    },
    "chat: loading": (
        "chat",
        lambda size: (
            b'data: {"choices":[{"delta":{"reasoning_content":"loading"}}]}\n\n' * (size // 64)
        ),
    ),
    "chat: citations": (
        "chat",
        before("chat", frame("chat", b'{"choices":[],"citations":["http://a.example"]}')),
    ),
    "chat: refusals": (
        "chat",
        before("chat", frame("chat", b'{"choices":[{"index":0,"delta":{"refusal":"no "}}]}')),
    ),
    "chat: reasoning details": (
        "chat",
        before(
            "chat",
            frame(
                "chat",
                b'{"choices":[{"index":0,"delta":{"reasoning_details":[{"type":"reasoning.text",'
                b'"text":"a"}]}}]}',
            ),
        ),
    ),
    "google: a long path": (
        "google",
        one("google", lambda size: ARGUMENTS % (PATH % (b".a" * (size // 2)))),
    ),
    "google: many paths": (
        "google",
        one("google", lambda size: ARGUMENTS % b",".join([PATH % b".a"] * min(size // 40, 6000))),
    ),
    "google: as many paths as may be": (
        "google",
        one("google", lambda _: ARGUMENTS % b",".join([PATH % b".a"] * (MAX_STEPS // 5))),
    ),
    "chat: a document": (
        "chat",
        lambda size: (
            b'{"choices":['
            + b",".join([b'{"index":0,"message":{"content":"a"}}'] * (size // 37))
            + b"]}"
        ),
    ),
    "chat: JSON, then junk": ("chat", lambda size: b"{}\n" * (size // 3)),
}
"""The wire of a shape, and what makes an answer of so many bytes."""


def amid(wire: str, event: bytes) -> Callable[[int], bytes]:
    """Return a maker of answers with one event behind the first few of a normal one."""

    whole = b"".join([*WIRES[wire](4)[:4], event, *WIRES[wire](1)[-3:]])
    return lambda _: whole


LIMITS = limits.shapes(amid)
ALL = SHAPES | LIMITS | calls.STREAMED | servers.SHAPES | calls.SHAPES
CALLS = servers.CALLS | calls.CALLS


def head_of(wire: str) -> bytes:
    """Return what the replies of a wire are labelled with."""
    if wire in CALLS:
        return CALLS[wire][1]
    kind = b"application/x-ndjson" if wire == "ollama" else b"text/event-stream"
    return b"Content-Type: " + kind


async def serve() -> None:
    """Answer `/shape/size/...` with that shape until standard input closes."""
    made = functools.cache(lambda name, size: ALL[name][1](size))
    names = list(ALL)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            _, number, size, *_ = head.split(b" ", 2)[1].decode().split("/")
            name = names[int(number)]
            writer.write(HEAD % head_of(ALL[name][0]) + made(name, int(size)))
            await writer.drain()
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def answered(reg: Registry) -> None:
    """Read one answer."""
    await reg.generate("x/m", "hi")


class Turns(selectors.DefaultSelector):
    """What a loop waits with between two turns: the CPU of the longest one."""

    longest = began = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.longest = max(self.longest, time.thread_time() - self.began)
        try:
            return super().select(timeout)
        finally:
            self.began = time.thread_time()


async def measured(name: str, port: int, size: int, turns: Turns) -> dict[str, float | str]:
    """Stream one shape; return what it cost."""
    wire, make = ALL[name]
    length = len(make(size))
    limits = Timeouts(total=120)
    dsn, call = DSN.get(wire, ""), answered
    if wire in CALLS:
        scheme, _, call = CALLS[wire]
        dsn = f"{scheme}+http://key-0123456789abcdef@127.0.0.1:{{}}/{{}}"
    env = {"LLM_X": dsn.format(port, f"{list(ALL).index(name)}/{size}")}
    usual = {"LLM_X": dsn.format(port, f"{list(ALL).index(f'{wire}: normal')}/10000")}
    worst = 0.0

    async def beat() -> None:
        nonlocal worst
        while True:
            began = time.monotonic()
            await asyncio.sleep(0.001)
            worst = max(worst, time.monotonic() - began - 0.001)

    async with Registry(env=usual, retries=0, timeouts=limits) as reg:
        await call(reg)  # all is imported
    async with Registry(env=env, retries=0, timeouts=limits) as reg:
        beating = asyncio.create_task(beat())
        await asyncio.sleep(0.01)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        worst, turns.longest, cpu = 0.0, 0.0, time.process_time()
        how = "ok"
        try:
            await call(reg)
        except FailoverError as error:
            how = f"{type(error.last).__name__}: {error.last}"
        except LLMError as error:
            how = f"{type(error).__name__}: {error}"
        cpu = time.process_time() - cpu
        await asyncio.sleep(0.002)
        beating.cancel()
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    spent = {"cpu": cpu, "stall": worst, "turn": turns.longest, "memory": memory * 1024}
    return spent | {"bytes": length, "how": how}


def run(name: str, port: int, size: int) -> dict[str, float | str]:
    """Measure one shape in processes of their own; return the least of each figure."""
    found = []
    # As for users, modules are compiled already; some are imported where an answer is odd.
    env = os.environ | {"PYTHONPYCACHEPREFIX": COMPILED, "PYTHONDONTWRITEBYTECODE": ""}
    for _ in range(ROUNDS):
        command = [sys.executable, __file__, "--one", name, str(port), "--size", str(size)]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        found.append(json.loads(done.stdout))
    return {key: min(each[key] for each in found) for key in found[0]}


def usual_cpu(short: dict[str, float | str], long: dict[str, float | str], length: int) -> float:
    """Return the CPU of a normal stream of so many bytes, as a shorter and a longer one have it."""
    part = (length - short["bytes"]) / max(1, long["bytes"] - short["bytes"])
    return short["cpu"] + max(0.0, part) * max(0.0, long["cpu"] - short["cpu"])


def times(figure: float, usual: float) -> float:
    """Return how many times as much as usual a figure is; a clock may have been too coarse."""
    return figure / usual if usual else math.inf


def report(words: list[str], size: int) -> None:
    """Measure what is asked for and print the table."""
    command = [sys.executable, __file__, "--serve"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        port = int(server.stdout.readline())
        names = [
            name
            for name in ALL
            if not name.endswith(": normal") and (not words or any(word in name for word in words))
        ]
        usual = {
            wire: run(f"{wire}: normal", port, size)
            for wire in dict.fromkeys(ALL[name][0] for name in names)
        }
        short = {wire: run(f"{wire}: normal", port, min(SHORT, size)) for wire in usual}
        print(
            f"{'answer':42} {'MB':>6} {'stall ms':>8} {'x':>6} {'turn ms':>7} {'x':>5} "
            f"{'ns/byte':>8} {'x':>5} {'mem':>5}"
        )
        for name, wire in [
            *((f"{wire}: normal", wire) for wire in usual),
            *((name, ALL[name][0]) for name in names),
        ]:
            found = usual[wire] if name.endswith(": normal") else run(name, port, size)
            least = usual[wire]
            normal = usual_cpu(short[wire], least, found["bytes"])
            print(
                f"{name:42} {found['bytes'] / 1e6:6.2f} {found['stall'] * 1e3:8.1f} "
                f"{times(found['stall'], least['stall']):6.1f} "
                f"{found['turn'] * 1e3:7.2f} {times(found['turn'], least['turn']):5.1f} "
                f"{found['cpu'] * 1e9 / max(1, found['bytes']):8.1f} "
                f"{times(found['cpu'], normal):5.1f} "
                f"{found['memory'] / max(1, found['bytes']):5.1f}  "
                f"{found['how']:.60}",
                flush=True,
            )
        server.stdin.close()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--size", type=float, default=8.0, help="MiB")
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--one", nargs=2)
    options = parser.parse_args()
    size = int(options.size * MIB) if options.size < 4096 else int(options.size)
    if options.serve:
        asyncio.run(serve())
    elif options.one:
        name, port = options.one
        turns = Turns()
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(turns)) as runner:
            print(json.dumps(runner.run(measured(name, int(port), size, turns))))
    else:
        report(options.words, size)


if __name__ == "__main__":
    main()
