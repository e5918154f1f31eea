"""`aiollm` alone: what is configured, what answers, and what to do next."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
from collections.abc import Iterator

import msgspec
import pytest

from aiollm import cli, local
from aiollm.cli import known_models, status
from aiollm.cli.session import VENDOR_VARIABLES
from aiollm.providers.schemes import SCHEMES
from aiollm.testing import Answer, FaultServer, Hang

KEY = "sk-made-up-0123456789"
MODELS = Answer(200, {}, {"data": [{"id": "qwen3:8b"}, {"id": "gemma"}]})


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is configured, and no Ollama runs on this machine."""
    for name in list(os.environ):
        if name.startswith(("LLM_", "AIOLLM_")) or name in VENDOR_VARIABLES:
            monkeypatch.delenv(name)
    row = msgspec.structs.replace(SCHEMES["ollama"], home="http://127.0.0.1:9")
    monkeypatch.setitem(SCHEMES, "ollama", row)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    with FaultServer(default=MODELS).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"llama-swap://{KEY}@127.0.0.1:{server.port}")
        yield server


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(arguments) == cli.OK
    out, told = capsys.readouterr()
    assert told == ""
    return out


def test_without_any_configuration_it_says_what_can_be_set(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name == "xllamacpp" else found(name, package),
    )
    text = shown(capsys)
    assert "No provider is configured." in text
    assert "  export OPENAI_API_KEY=...\n" in text
    assert "  export LLM_BOX=ollama+http://127.0.0.1:11434\n" in text
    assert f"  {local.INSTALL_SERVER}\n" in text


def test_an_alias_without_any_provider_says_why_and_names_the_local_model_to_ask_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert '\n  aiollm ask "Why is the sky blue?"\n' in shown(capsys)
    monkeypatch.setenv("LLM_DEFAULT", "alias:openai/gpt-6.1-sol")
    text = shown(capsys)
    assert re.search(r"^Correct the alias default: no key for 'openai'", text, re.MULTILINE)
    assert "\nNo provider is configured." in text
    monkeypatch.setenv("LLM_DEFAULT", "alias:local/smollm2")
    assert "Correct the alias" not in shown(capsys)
    assert '\n  aiollm ask -m local/smollm2 "Why is the sky blue?"\n' in text


def test_a_provider_is_shown_with_its_variable_its_server_and_its_state_but_not_its_key(
    box: FaultServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIOLLM_MCP_GIT", "stdio:git-server --token=secret-word")
    text = shown(capsys)
    place = f"http://127.0.0.1:{box.port}"
    assert re.search(rf"^box +LLM_BOX +{place} +set +up, 2 models, \d+ ms$", text, re.MULTILINE)
    assert "Also set: AIOLLM_MCP_GIT\n" in text
    assert (
        "  export LLM_DEFAULT=alias:box/gemma\n" in text or "LLM_DEFAULT=alias:box/qwen3:8b" in text
    )
    assert KEY not in text
    assert "secret-word" not in text
    assert "openai" not in text


def test_a_vendor_s_key_is_named_and_its_models_are_the_next_step(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultServer(default=MODELS).in_thread() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{server.port}/v1")
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        text = shown(capsys)
    assert re.search(r"^openai +OPENAI_API_KEY +http\S+ +set +up", text, re.MULTILINE)
    assert "  aiollm models openai\n  aiollm ask -m openai/MODEL " in text
    assert KEY not in text


def test_aliases_are_shown_and_the_default_is_what_is_asked_next(
    box: FaultServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_DEFAULT", "alias:box/gemma,box/qwen3:8b")
    text = shown(capsys)
    assert re.search(r"^ALIAS +NAMES\ndefault +box/gemma,box/qwen3:8b$", text, re.MULTILINE)
    assert text.endswith('Next:\n  aiollm ask "Why is the sky blue?"\n  aiollm check\n')


def test_without_a_default_the_next_step_is_an_alias_that_can_be_used(
    box: FaultServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_ALL", "alias:bxo/gemma")
    monkeypatch.setenv("LLM_BOXES", "alias:box/gemma&box/qwen3:8b")
    text = shown(capsys)
    assert '\n  aiollm ask -m boxes "Why is the sky blue?"\n' in text
    assert text.endswith("  export LLM_DEFAULT=alias:boxes\n  aiollm check\n")


def test_an_alias_that_cannot_be_used_says_why_and_is_not_what_is_asked_next(
    box: FaultServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_DEFAULT", "alias:box/gemma,openai/gpt-6.1-sol")
    monkeypatch.setenv("LLM_TYPO", "alias:bxo/gemma")
    text = shown(capsys)
    assert re.search(r"^Correct the alias default: no key for 'openai'", text, re.MULTILINE)
    assert re.search(r"^Correct the alias typo: unknown provider 'bxo'", text, re.MULTILINE)
    assert "aiollm ask -m box/" in text
    assert json.loads(shown(capsys, "status", "--json"))["wrong"].keys() == {"default", "typo"}


def test_a_wrong_variable_and_a_dead_server_have_a_state_of_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLM_BAD", f"openai://{KEY}@host?nonsense=1")
    monkeypatch.setenv("LLM_DOWN", "openai+http://127.0.0.1:9")
    text = shown(capsys)
    assert re.search(r"^bad +LLM_BAD +no +wrong: LLM_BAD: .*nonsense", text, re.MULTILINE)
    assert re.search(r"^down +LLM_DOWN +http\S+ +no +down: .*refused", text, re.MULTILINE)
    assert "Correct LLM_BAD: its state above says what is wrong.\nNo provider answers." in text
    assert KEY not in text


def test_a_server_that_never_answers_does_not_hold_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status, "WAIT", 0.05)
    with FaultServer(default=Hang()).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"openai+http://127.0.0.1:{server.port}")
        text = shown(capsys)
    assert "down: no answer in 0.05 s" in text


def test_names_of_a_server_can_be_pasted_without_running_anything(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "x; touch here\x1b[2J\n$(id)"
    with FaultServer(default=Answer(200, {}, {"data": [{"id": name}]})).in_thread() as server:
        monkeypatch.setenv("LLM_BOX", f"llama-swap://127.0.0.1:{server.port}")
        text = shown(capsys)
    (line,) = [line for line in text.splitlines() if "LLM_DEFAULT" in line]
    assert shlex.split(line)[1].startswith("LLM_DEFAULT=alias:box/x; touch here")
    assert len(shlex.split(line)) == 2
    assert "\x1b" not in text


def test_json_has_the_same_facts_and_no_key(
    box: FaultServer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, "status", "--json")
    found = json.loads(text)
    (provider,) = found["providers"]
    assert provider["has_key"] is True
    assert sorted(provider["models"]) == ["gemma", "qwen3:8b"]
    assert KEY not in text


def test_models_that_were_listed_are_known_afterwards_unless_their_names_are_unsafe(
    box: FaultServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown(capsys)
    assert {"box/gemma", "box/qwen3:8b"} <= {*known_models.known()}
    box.behave(Answer(200, {}, {"data": [{"id": "new"}, {"id": "$(id)"}, {"id": "-x y"}]}))
    assert cli.main(["models", "box"]) == cli.OK
    assert [each for each in known_models.known() if each.startswith("box/")] == ["box/new"]
    assert "$" not in known_models.file().read_text()
