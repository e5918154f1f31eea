"""`aiollm completion`: a shell's script, and the words that it asks for at each TAB."""

from __future__ import annotations

import argparse
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from aiollm.cli.codes import OK
from aiollm.cli.commands import COMMANDS, parser_for
from aiollm.cli.known_models import SAFE, known
from aiollm.cli.safe_text import one_line
from aiollm.cli.terminal import write
from aiollm.providers.catalog import Catalog
from aiollm.providers.schemes import BUILTINS, SCHEMES
from aiollm.types import Timeouts

BASH = """# Completion of aiollm for bash: eval "$(aiollm completion bash)"
_aiollm() {
    local IFS=$'\\n'
    COMPREPLY=($(aiollm completion bash --line "${COMP_LINE:0:COMP_POINT}" 2>/dev/null))
    case ${COMPREPLY[0]} in */) compopt -o nospace ;; esac
}
complete -o bashdefault -o default -F _aiollm aiollm
"""
ZSH = """#compdef aiollm
# Completion of aiollm for zsh: eval "$(aiollm completion zsh)" after compinit
_aiollm() {
    local line before="${(j: :)words[1,CURRENT-1]}"
    local -a found shown ends
    for line in ${(f)"$(aiollm completion zsh --line "$before $PREFIX" 2>/dev/null)"}; do
        found+=("${line%%$'\t'*}")
        shown+=("${line/$'\t'/  -- }")
    done
    (( $#found )) || { _files; return }
    [[ $#found == 1 && $found[1] == */ ]] && ends=(-S '')
    compadd -l -d shown $ends -a found
}
compdef _aiollm aiollm
"""
FISH = """# Completion of aiollm for fish: aiollm completion fish | source
function __aiollm_words
    set -l found (aiollm completion fish --line (commandline -cp | string collect) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c aiollm -f -a '(__aiollm_words)'
"""
SCRIPTS = {"bash": BASH, "zsh": ZSH, "fish": FISH}

_END = "\x00"
"""Marks the end of the last word, which may be empty."""

_NEW_ITEM = re.compile(r".*[,|&]", re.DOTALL)
_WORD_BREAK = re.compile(r".*[:=]", re.DOTALL)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("shell", choices=tuple(SCRIPTS), help="the shell that reads the script")
    add("--line", metavar="TEXT", help="print what may complete TEXT: the scripts ask for this")


def completion(options: argparse.Namespace) -> int:
    """Print the script, or what completes a line; return the exit code."""
    if options.line is None:
        write(SCRIPTS[options.shell])
        return OK
    word, found = completions(options.line, os.environ)
    if options.shell == "bash":
        # Without quotes these end words of its own, and it wants to see only the last.
        start = _start(_WORD_BREAK, word) if _quote_of(options.line) == "" else ""
        write("".join(f"{text.removeprefix(start)}\n" for text, _ in found))
    else:
        write(
            "".join(f"{text}\t{one_line(meaning)}".rstrip("\t") + "\n" for text, meaning in found)
        )
    return OK


def completions(line: str, env: Mapping[str, str]) -> tuple[str, list[tuple[str, str]]]:
    """Return the word that a line ends with, and what it may become, each with its meaning.

    Nothing is returned where a file may stand, or any text: shells complete the names of files.
    """
    before, word = _words(line)
    found = [*_following(before, word, env)] if word.isprintable() else []
    done = word if word.endswith("/") else ""  # a provider alone, of which models are shown
    return word, [each for each in found if each[0].startswith(word) and each[0] != done]


def _words(line: str) -> tuple[list[str], str]:
    """Split as a shell does, also inside quotes; return the words before the last, and the last."""
    quote = _quote_of(line)
    if quote is None:
        return [], ""
    words = shlex.split(f"{line}{_END}{quote}")[1:]
    return (words[:-1], words[-1].removesuffix(_END)) if words else ([], "")


def _quote_of(line: str) -> str | None:
    """Return the quote that is open at the end, "" for none; None where it cannot be split."""
    for quote in ("", '"', "'"):
        with suppress(ValueError):
            shlex.split(f"{line}{_END}{quote}")
            return quote
    return None


def _following(
    before: Sequence[str], word: str, env: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    names = [each.name for each in COMMANDS]
    used = next((each for each in before if each in names), None)
    if used is None:
        yield from ((each.name, each.help) for each in COMMANDS)
        yield from (("--help", "show the commands"), ("--version", "show the version"))
        return
    actions = _actions_of(used)
    options = [each for each in actions if each.option_strings]
    given = before[before.index(used) + 1 :]
    name, equals, value = word.partition("=")
    start = f"{name}=" if equals else ""
    if (option := _waiting(options, given)) is not None:
        yield from _values(option, word, env)
    elif equals and (option := _named(options, name)) is not None:
        yield from ((start + text, meaning) for text, meaning in _values(option, value, env))
    elif word.startswith("-"):
        yield from ((each.option_strings[-1], each.help or "") for each in options)
    elif (place := _place(actions, options, given)) is not None:
        yield from _values(place, word, env)


def _actions_of(name: str) -> list[argparse.Action]:
    """Return what a command takes; argparse has no public way to ask."""
    for each in parser_for([name])._actions:  # noqa: SLF001
        if isinstance(each, argparse._SubParsersAction):  # noqa: SLF001
            return list(each.choices[name]._actions)  # noqa: SLF001
    raise AssertionError(name)


def _named(options: Iterable[argparse.Action], name: str) -> argparse.Action | None:
    return next((each for each in options if name in each.option_strings), None)


def _waiting(options: Sequence[argparse.Action], given: Sequence[str]) -> argparse.Action | None:
    """Return the option that waits for its value."""
    last = _named(options, given[-1]) if given else None
    return last if last is not None and last.nargs is None else None


def _place(
    actions: Sequence[argparse.Action], options: Sequence[argparse.Action], given: Sequence[str]
) -> argparse.Action | None:
    """Return the argument without a name that comes next."""
    places = [each for each in actions if not each.option_strings]
    count = sum(
        not each.startswith("-") and _waiting(options, given[:at]) is None
        for at, each in enumerate(given)
    )
    if count < len(places):
        return places[count]
    return places[-1] if places and places[-1].nargs == "*" else None


def _values(
    action: argparse.Action, word: str, env: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    if action.choices:
        yield from ((str(each), "") for each in action.choices)
    match action.metavar:
        case "SPEC":
            start = _start(_NEW_ITEM, word)
            yield from ((start + text, meaning) for text, meaning in _specs(env))
        case "PROVIDER":
            yield from ((text, meaning) for text, meaning in _providers(env))
        case "MODEL":
            yield from ((text.partition("/")[2], "") for text in known())
        case _:
            pass


def _start(pattern: re.Pattern[str], word: str) -> str:
    found = pattern.match(word)
    return found[0] if found else ""


def _specs(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield aliases, the targets that they name, models that were listed, and providers."""
    catalog = Catalog(env, Timeouts())
    providers = dict(_providers(env))
    aliases = catalog.aliases()
    yield from aliases.items()
    named = {each for spec in aliases.values() for each in re.split(r"[,|&*\s]+", spec)}
    targets = {each for each in (*named, *known()) if "/" in each and SAFE.fullmatch(each)}
    yield from ((each, "") for each in sorted(targets) if each.partition("/")[0] in providers)
    yield from ((f"{name}/", meaning) for name, meaning in providers.items())


def _providers(env: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the providers that can be used: of the built-in ones, those with a key or a server."""
    for name, origin in Catalog(env, Timeouts()).providers().items():
        if origin != "built-in":
            yield name, "from the environment"
        elif name in BUILTINS and any(env.get(each) for each in SCHEMES[name].variables):
            yield name, "built-in"
