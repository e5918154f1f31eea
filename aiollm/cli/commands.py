"""The commands: a row for each, and the parser that is made of the rows."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable
from importlib import import_module
from typing import Any, NoReturn

import msgspec

from aiollm import __version__
from aiollm.cli.safe_text import printable

EXIT_CODES = """Exit codes: 0 answered, 1 no target answered or the answer broke off (of `map`: rows
failed), 2 usage or configuration, 3 `map` ended before its last row, 130 Ctrl-C, 141 the reader of
the output closed it, 143 SIGTERM."""

_EXAMPLES = (
    "aiollm",
    'aiollm ask -m openai/gpt-6.1-sol "Why is the sky blue?"',
    "git diff | aiollm ask 'Review this change'",
)
_MOST_COLUMNS = 100


class Command(msgspec.Struct, frozen=True):
    """A subcommand: its options are in `module`, whose function `runs` returns the exit code.

    The module is imported when the command is used, so that `--help` and completion start soon.
    """

    name: str
    help: str
    module: str
    examples: tuple[str, ...]
    runs: str = ""
    configure: str = "configure"

    def add_options(self, parser: argparse.ArgumentParser) -> None:
        """Declare the options of this command."""
        self._loaded(self.configure)(parser)

    def run(self, options: argparse.Namespace) -> int:
        """Run it; return the exit code."""
        code: int = self._loaded(self.runs or self.name)(options)
        return code

    def _loaded(self, name: str) -> Callable[..., Any]:
        found: Callable[..., Any] = getattr(import_module(f"aiollm.cli.{self.module}"), name)
        return found


COMMANDS = (
    Command(
        "ask",
        "ask one question and stream the answer",
        "ask",
        (
            "aiollm ask -m box/qwen3:8b 'Why is the sky blue?'",
            "aiollm ask -m openai/gpt-6.1-sol -i photo.jpg 'What is this?'",
            "git diff | aiollm ask 'Review this change'",
        ),
    ),
    Command(
        "chat",
        "talk with a model, turn by turn",
        "chat",
        (
            "aiollm chat -m box/qwen3:8b",
            "aiollm chat --mcp 'stdio:uvx mcp-server-git' --tools my_tools:weather",
        ),
    ),
    Command(
        "map",
        "ask every row of a JSONL file",
        "bulk",
        (
            "aiollm map rows.jsonl -m box/qwen3:8b -o out.jsonl",
            "aiollm map rows.jsonl -m openai/gpt-6.1-sol -o out.jsonl --resume --limit-usd 5",
        ),
        runs="map_rows",
    ),
    Command(
        "embed",
        "make vectors of texts",
        "retrieval",
        ("aiollm embed texts.jsonl -m box/nomic --kind document -o vectors.npy",),
        configure="configure_embed",
    ),
    Command(
        "rerank",
        "order texts by a query",
        "retrieval",
        ("aiollm rerank 'Who eats bamboo?' texts.jsonl -m box/bge-reranker --top 3",),
        configure="configure_rerank",
    ),
    Command(
        "models",
        "list the models of providers",
        "servers",
        ("aiollm models", "aiollm models box openai --json"),
        configure="configure_models",
    ),
    Command(
        "health",
        "show which providers answer",
        "servers",
        ("aiollm health", "aiollm health box"),
        configure="configure_health",
    ),
    Command(
        "running",
        "list a server's loaded models",
        "servers",
        ("aiollm running box",),
        configure="configure_box",
    ),
    Command(
        "unload",
        "unload a server's models",
        "servers",
        ("aiollm unload box", "aiollm unload box qwen3:8b"),
        configure="configure_unload",
    ),
    Command(
        "tokens",
        "count the tokens of a question",
        "tokens",
        ("aiollm tokens -m box/qwen3:8b 'Why is the sky blue?'", "aiollm tokens - <notes.txt"),
    ),
    Command(
        "image",
        "make images",
        "image",
        ("aiollm image -m openai/gpt-image-2 -o boat.png 'A paper boat in the rain'",),
    ),
    Command(
        "fleet",
        "show what processes share over Redis",
        "fleet",
        ("aiollm fleet redis://127.0.0.1:6379", "aiollm fleet --watch --budget nightly"),
    ),
    Command(
        "check",
        "try every target of a spec, explain failures",
        "check",
        ("aiollm check", "aiollm check -v 'box/qwen3:8b,openai/gpt-6.1-sol'"),
    ),
    Command(
        "status",
        "show what is configured, what answers, what to do next",
        "status",
        ("aiollm", "aiollm status --json"),
    ),
    Command(
        "completion",
        "print a script that completes commands and models",
        "completion",
        (
            'eval "$(aiollm completion bash)"      # in ~/.bashrc',
            'eval "$(aiollm completion zsh)"       # in ~/.zshrc, after compinit',
            "aiollm completion fish | source      # in ~/.config/fish/config.fish",
        ),
    ),
)


class Parser(argparse.ArgumentParser):
    """Complains about arguments without control characters, which may come from elsewhere."""

    hint = ""
    """What to do about a command that there is not."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and the message, and exit with 2."""
        hint = self.hint if "invalid choice" in message else ""
        super().error(printable(message + hint))


class _CommandParser(Parser):
    """Complains about unknown options with the command's own usage, not with the list of all."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse all arguments, or exit with 2."""
        found, left = super().parse_known_args(args, namespace)
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}{self._hint_for(left)}")
        return found, left

    def _hint_for(self, left: list[str]) -> str:
        given = next((each.partition("=")[0] for each in left if each[:1] == "-"), None)
        if given is None:
            return " (quote a text of several words, or keep its words together)"
        names = [name for each in self._actions for name in each.option_strings]
        return _meant(given, names)


def _meant(given: str, names: list[str]) -> str:
    """Return a hint that names what may be meant, "" where nothing is like it."""
    import difflib  # where something is misspelt

    begun = [name for name in names if len(given) > 2 and name.startswith(given)]
    close = begun or difflib.get_close_matches(given, names, 1)
    return f"; did you mean {close[0]}?" if close else ""


def parser_for(arguments: list[str] | None) -> argparse.ArgumentParser:
    """Return the parser, with the options of the command that the arguments name; None: of all."""
    parser = _new(
        "aiollm", "Ask language models. A spec names a target, a chain, a race or a spread."
    )
    parser.epilog = f"{_shown(_EXAMPLES)}\n\n{_filled(EXIT_CODES)}"
    parser.add_argument("--version", action="version", version=f"aiollm {__version__}")
    rows = parser.add_subparsers(title="commands", metavar="COMMAND", parser_class=_CommandParser)
    rows.required = True
    used = None if arguments is None else next((x for x in arguments if x[:1] != "-"), "")
    if used:
        names = [each.name for each in COMMANDS]
        parser.hint = _meant(used, names) or f'; to ask it: aiollm ask "{used}"' * (" " in used)
    for command in COMMANDS:
        each = rows.add_parser(
            command.name,
            help=command.help,
            description=_filled(command.help),
            epilog=_shown(command.examples),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        each.set_defaults(command=command)
        if used in (None, command.name):
            command.add_options(each)
    return parser


def _new(name: str, description: str) -> Parser:
    return Parser(
        prog=name,
        description=_filled(description),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,  # an option that is added later must not change what a script says
    )


def _shown(examples: tuple[str, ...]) -> str:
    return "\n".join(
        ["examples:" if len(examples) > 1 else "example:"] + [f"  {x}" for x in examples]
    )


def _filled(text: str) -> str:
    columns = min(_MOST_COLUMNS, shutil.get_terminal_size().columns - 2)
    return textwrap.fill(" ".join(text.split()), max(20, columns))
