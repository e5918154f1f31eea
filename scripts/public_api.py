"""Write tests/house/api.txt: all that users may rely on, a line for each fact.

`python scripts/public_api.py` renews it, and `--check` shows what differs, as a test does. What
Python code may use is read from the source, so that neither the interpreter nor what is installed
changes a line.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from aiollm import cli
from aiollm.cli.commands import parser_for
from aiollm.dsn import parse_dsn
from aiollm.errors import ConfigError
from aiollm.providers.schemes import SCHEMES

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "tests" / "house" / "api.txt"
MODULES = (
    "aiollm",
    "aiollm.bulk",
    "aiollm.bulk.page",
    "aiollm.cli.safe_text",
    "aiollm.codecs",
    "aiollm.events",
    "aiollm.local",
    "aiollm.media",
    "aiollm.otel",
    "aiollm.prices",
    "aiollm.retrieval",
    "aiollm.servers",
    "aiollm.testing",
)
UNSEEN = {"cache_hash", "gc", "weakref"}
"""Options of structs that change what they cost, and nothing that is promised."""

INSIDE = frozenset(
    ["__slots__", "__post_init__", "__del__", "__repr__", "__reduce__", "__hash__", "__getattr__"]
)
"""Members that nobody calls by name, and that change no call."""

JSON = {
    "check": {"aiollm.cli.check": "Finding"},
    "fleet": {"aiollm._fleet.overview": "Overview Process SetAside LimitsInUse BudgetInUse"},
    "health": {"aiollm.cli.servers": "State", "aiollm._fleet.overview": "SetAside"},
    "status": {"aiollm.cli.status": "Status ProviderStatus"},
}
"""What commands print with `--json`."""

WIDTH = 100

Function = ast.FunctionDef | ast.AsyncFunctionDef


class Definition(NamedTuple):
    """A name where it is defined; a function has a node for each overload."""

    module: str
    name: str
    nodes: tuple[ast.stmt, ...]


def facts() -> Iterator[str]:
    """Yield all lines, in an order that keeps what belongs together."""
    for module in MODULES:
        for name in exported(module):
            yield from described(f"{module}.{name}", definition(module, name))
    for node in body("aiollm.testing.plugin"):
        if isinstance(node, Function) and node.decorator_list:
            yield f"pytest fixture {node.name}"
    yield from command_line()
    yield from settings()


def described(name: str, found: Definition | None) -> Iterator[str]:
    """Yield a name with all that belongs to it."""
    if found is None:
        raise SystemExit(f"{name} is not found in the source")
    for node in found.nodes:
        match node:
            case ast.ClassDef():
                options = [each for each in node.keywords if each.arg not in UNSEEN]
                given = ", ".join(map(ast.unparse, [*node.bases, *options]))
                yield f"class {name}({given})"
                lines = [line for each in members(found.module, node).values() for line in each]
                yield from (f"  {line}" for line in dict.fromkeys(lines))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield f"{heads(node)} {name}{signature(node)}"
            case ast.AnnAssign(annotation=kind, value=value):
                shown = f" = {ast.unparse(value)}" if value else ""
                yield f"{name}: {ast.unparse(kind)}{shown}"
            case _:
                yield name


def members(module: str, node: ast.ClassDef) -> dict[str, list[str]]:
    """Return the members of a class by name, and those of bases that have no lines of their own."""
    found: dict[str, list[str]] = {}
    for base in node.bases:
        root = base.value if isinstance(base, ast.Subscript) else base
        above = definition(module, root.id) if isinstance(root, ast.Name) else None
        if above and above not in published():
            for each in above.nodes:
                found |= members(above.module, each) if isinstance(each, ast.ClassDef) else {}
    own: dict[str, list[str]] = {}
    for name, line in own_members(node):
        lines = own.setdefault(name, [])
        # What overloads say is what users see of a function.
        if line.startswith("@overload") or not any(x.startswith("@overload") for x in lines):
            lines.append(line)
    return found | own


def own_members(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    """Yield the names and lines of what a class itself defines, for type checkers alone, too."""
    for each in (x for y in node.body for x in (y.body if isinstance(y, ast.If) else [y])):
        match each:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                if is_public(name):
                    yield name, f"{heads(each)} {name}{signature(each)}"
                yield from attributes(each) if name == "__init__" else ()
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
                if is_public(name):
                    yield name, ast.unparse(each)
            case _:
                pass


def attributes(node: Function) -> Iterator[tuple[str, str]]:
    """Yield the public attributes that a constructor sets."""
    for each in ast.walk(node):
        match each:
            case ast.AnnAssign(ast.Attribute(ast.Name("self"), name), kind) if is_public(name):
                yield name, f"{name}: {ast.unparse(kind)}"
            case ast.Assign([ast.Attribute(ast.Name("self"), name)]) if is_public(name):
                yield name, name
            case _:
                pass


def heads(node: Function) -> str:
    """Return what stands before a function's name, with what changes how it is called."""
    marks = [f"@{ast.unparse(each)} " for each in node.decorator_list]
    return "".join(marks) + ("async def" if isinstance(node, ast.AsyncFunctionDef) else "def")


def signature(node: Function) -> str:
    """Return the parameters with types and defaults, and what is returned."""
    return f"({ast.unparse(node.args)})" + (
        f" -> {ast.unparse(node.returns)}" if node.returns else ""
    )


def is_public(name: str) -> bool:
    """Return whether users may use a member, operators included."""
    return not name.startswith("_") or (name.endswith("__") and name not in INSIDE)


@cache
def body(module: str) -> tuple[ast.stmt, ...]:
    """Return what a module does at its top, imports for typing alone included."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    nodes = ast.parse(file.read_text(encoding="utf-8")).body
    return (*nodes, *(x for each in nodes if isinstance(each, ast.If) for x in each.body))


def exported(module: str) -> list[str]:
    """Return a module's `__all__`."""
    for node in body(module):
        match node:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=listed):
                return [name for name in ast.literal_eval(listed) if name != "__version__"]
            case _:
                pass
    raise SystemExit(f"{module} has no __all__")


@cache
def published() -> frozenset[Definition]:
    """Return the definitions of all public names."""
    found = (definition(module, name) for module in MODULES for name in exported(module))
    return frozenset(each for each in found if each)


@cache
def definition(module: str, name: str) -> Definition | None:
    """Find what a name stands for in a module, None where it is not aiollm's."""
    nodes: list[ast.stmt] = []
    for node in body(module):
        match node:
            case ast.ImportFrom(module=str(source), names=names) if source.startswith("aiollm"):
                if found := [each.name for each in names if name == (each.asname or each.name)]:
                    return definition(source, found[0])
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                nodes.append(node)
            case ast.AsyncFunctionDef(name=found) | ast.AnnAssign(target=ast.Name(id=found)):
                nodes += [node] if found == name else []
            case _:
                pass
    return Definition(module, name, tuple(nodes)) if nodes else None


def command_line() -> Iterator[str]:
    """Yield the exit codes, the commands with their options, and the fields of JSON."""
    codes = {name: getattr(cli, name) for name in cli.__all__ if name.isupper()}
    yield from (f"exit code {code} {name}" for name, code in codes.items() if type(code) is int)
    for group in parser_for(None)._actions:  # noqa: SLF001 - argparse has no other way to its own
        if not isinstance(group, argparse._SubParsersAction):  # noqa: SLF001
            continue
        for name, parser in group.choices.items():
            yield f"command aiollm {name}"
            yield from (f"  {option(each)}" for each in parser._actions)  # noqa: SLF001
            for module, structs in JSON.get(name, {}).items():
                for struct in structs.split():
                    shown = f"aiollm {name} --json: {struct}"
                    yield from described(shown, definition(module, struct))


def option(action: argparse.Action) -> str:
    """Return an option or argument, how many values it takes and which, and its default."""
    flags = ", ".join(action.option_strings) or action.dest
    takes = "|".join(action.choices) if action.choices else action.metavar or ""
    is_plain = action.default in (None, False, "", [], argparse.SUPPRESS)
    default = "" if is_plain else f"= {action.default}"
    return " ".join(f"{flags} {action.nargs or ''} {takes} {default}".split())


def settings() -> Iterator[str]:
    """Yield variables, schemes, options of DSNs, extras and entry points."""
    own = {"AIOLLM_FLEET", "AIOLLM_MCP_<NAME>", "LLM_<NAME>", "LLM_DEFAULT"}
    rows = SCHEMES.values()
    headers = {variable for row in rows for _, variable in row.header_variables}
    vendors = {each for row in rows for each in row.variables}
    yield from (f"variable {name}" for name in sorted(own | headers | vendors))
    yield from (f"scheme {row.name} {' '.join(row.apis)}".rstrip() for row in rows)
    try:
        parse_dsn("openai://host?nonsense=1", "a DSN")
    except ConfigError as error:
        yield from (
            f"option of a DSN: {each}" for each in re.findall(r"[\w.]+(?=[,)])", str(error))
        )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    yield f"python {project['requires-python']}"
    yield from (f"extra {name}" for name in sorted(project["optional-dependencies"]))
    yield from (f"script {name} = {where}" for name, where in project["scripts"].items())


def page() -> str:
    """Return the complete file."""
    return "".join(f"{part}\n" for line in facts() for part in parted(line))


def parted(line: str) -> Iterator[str]:
    """Yield a line; of one too long to compare by eye, its parameters or choices one by one."""
    if len(line) <= WIDTH:
        yield line
        return
    indent = line[: len(line) - len(line.lstrip())] + "    "
    union = line.partition(": TypeAlias = ")[2]
    opens = re.search(r"Literal\[|\(", line)
    if union and "[" not in union:
        yield line.removesuffix(union).rstrip()
        yield from (f"{indent}{each}" for each in union.split(" | "))
    elif opens is None:
        yield line
    else:
        yield line[: opens.end()]
        yield from divided(line[opens.end() :], indent)


def divided(text: str, indent: str) -> Iterator[str]:
    """Yield what stands between brackets, divided at its commas, and what follows them."""
    start, depth = 0, 1
    for at, each in enumerate(text):
        depth += (each in "([{") - (each in ")]}")
        if each == "," and depth == 1:
            yield f"{indent}{text[start : at + 1].strip()}"
            start = at + 1
        if not depth:
            yield from [f"{indent}{text[start:at].strip()}"] * (at > start)
            yield f"{indent[4:]}{text[at:]}"
            return


def changes() -> str:
    """Return the lines that are not as they are kept, "" for none."""
    kept, found = KEPT.read_text(encoding="utf-8").splitlines(), page().splitlines()
    lines = difflib.unified_diff(kept, found, "what is promised", "what is there", lineterm="", n=2)
    return "\n".join(lines)


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(changes() or 0)
    KEPT.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{KEPT.relative_to(ROOT)} is renewed: read its diff before you commit it\n")
