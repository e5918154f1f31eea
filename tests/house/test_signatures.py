"""Whatever a public signature mentions can itself be imported from a documented place."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from tests.house.conftest import load_script

ROOT = Path(__file__).parents[2]
api = load_script("public_api")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def not_made_by_hand() -> frozenset[str]:
    """Return the classes whose constructor is aiollm's own: the reference does not show it."""
    hidden = re.compile(
        r"^::: [\w.]+\.(\w+)\n    options:\n(?:      .*\n)*?      merge_init", re.MULTILINE
    )
    pages = (ROOT / "docs" / "reference").glob("*.md")
    return frozenset(name for page in pages for name in hidden.findall(page.read_text()))


def mentioned(annotation: ast.expr | None) -> Iterator[str]:
    """Yield the names in an annotation, those in quotes included."""
    match annotation:
        case None | ast.Subscript(value=ast.Name(id="Literal")):
            return
        case ast.Name(id=name):
            yield name
        case ast.Constant(value=str(text)):
            yield from mentioned(ast.parse(text, mode="eval").body)
        case _:
            for child in ast.iter_child_nodes(annotation):
                if isinstance(child, ast.expr):
                    yield from mentioned(child)


def of_function(node: Function) -> Iterator[str]:
    """Yield the names in a signature."""
    args = node.args
    for arg in (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg):
        if arg is not None:
            yield from mentioned(arg.annotation)
    yield from mentioned(node.returns)


def of_attributes(node: Function) -> Iterator[str]:
    """Yield the names in the annotations of public attributes that a constructor sets."""
    for each in ast.walk(node):
        match each:
            case ast.AnnAssign(target=ast.Attribute(ast.Name("self"), attr), annotation=found):
                yield from () if attr.startswith("_") else mentioned(found)


def is_public(name: str) -> bool:
    """Say whether users may use a member, operators included."""
    return not name.startswith("_") or name.endswith("__")


def of_class(module: str, node: ast.ClassDef, private: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for all that the members of a class and its bases mention."""
    body = [*node.body, *(x for each in node.body if isinstance(each, ast.If) for x in each.body)]
    for each in body:
        match each:
            case ast.AnnAssign(target=ast.Name(id=name), annotation=found) if is_public(name):
                yield from ((module, other) for other in mentioned(found))
            case ast.FunctionDef(name="__init__"):
                yield from ((module, other) for other in of_attributes(each))
                if "__init__" not in private:
                    yield from ((module, other) for other in of_function(each))
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if is_public(name):
                yield from ((module, other) for other in of_function(each))
    made_here = any(isinstance(each, ast.FunctionDef) and each.name == "__init__" for each in body)
    for base in node.bases:
        root = base.value if isinstance(base, ast.Subscript) else base
        found = api.definition(module, root.id) if isinstance(root, ast.Name) else None
        for above in found.nodes if found is not None else ():
            hidden = private | ({"__init__"} if made_here else set())
            if isinstance(above, ast.ClassDef):
                yield from of_class(found.module, above, hidden)


def mentions(found: api.Definition, private: frozenset[str]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for all that the signatures of a definition mention."""
    for node in found.nodes:
        match node:
            case ast.ClassDef():
                yield from of_class(found.module, node, private)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from ((found.module, name) for name in of_function(node))
            case ast.AnnAssign(annotation=ast.Name(id="TypeAlias"), value=value):
                yield from of_alias(found.module, value, {found.name})
            case ast.AnnAssign(annotation=annotation):
                yield from ((found.module, name) for name in mentioned(annotation))


def of_alias(module: str, value: ast.expr | None, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (module, name) for the classes that an alias is made of, aliases in it resolved."""
    for name in mentioned(value):
        match api.definition(module, name):
            case api.Definition(nodes=(ast.AnnAssign(value=inner),)) as other:
                if name not in seen:
                    yield from of_alias(other.module, inner, seen | {name})
            case _:
                yield module, name


def test_every_public_name_is_found() -> None:
    for module in api.MODULES:
        for name in api.exported(module):
            assert api.definition(module, name) is not None, f"{module}.{name}"


def test_what_signatures_mention_is_public() -> None:
    private = not_made_by_hand()
    missing = {
        f"{other.module}.{other.name} in {found.module}.{found.name}"
        for found in api.published()
        for place in mentions(found, frozenset({"__init__"} if found.name in private else ()))
        if (other := api.definition(*place)) and other not in api.published()
    }
    assert not missing, "\n".join(sorted(missing))


def test_the_docs_and_examples_import_from_public_modules_alone() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    private = {
        f"{page.name}: {module}"
        for page in pages
        for module in re.findall(
            r"^\s*(?:from|import) (aiollm[\w.]*)", page.read_text(), re.MULTILINE
        )
        if module not in api.MODULES
    }
    assert not private
