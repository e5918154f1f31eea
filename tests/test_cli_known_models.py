"""Names of models that are kept for completion: which, where, and that no failure matters."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from aiollm.cli import known_models
from aiollm.cli.known_models import MOST, file, keep, known


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    variable = "LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME"
    monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.setattr(known_models, "file", file)  # not the one of all tests
    return tmp_path / "cache"


def test_what_is_listed_takes_the_place_of_what_was_kept_of_that_provider_alone() -> None:
    keep({"box": ["old", "b"], "other": ["x"]})
    keep({"box": ["b", "a"]})
    assert known() == ["box/a", "box/b", "other/x"]
    keep({"box": []})
    assert known() == ["other/x"]


def test_nothing_is_written_where_nothing_was_listed(cache: Path) -> None:
    keep({})
    assert not cache.exists()
    assert known() == []


def test_so_many_of_a_provider_are_kept() -> None:
    keep({"box": [f"m{number:05}" for number in range(MOST + 1)], "other": ["x"]})
    assert len(known()) == MOST + 1
    assert known()[-2:] == [f"box/m{MOST - 1:05}", "other/x"]


def test_names_that_mean_something_to_a_shell_are_neither_kept_nor_believed() -> None:
    unsafe = ["$(id)", "a b", "a;b", "a\nb", "caf\u00e9", "~x", "'", "*"]
    keep({"box": [*unsafe, "fine-1.5:8b@x+y"], "-x": ["option"]})
    assert file().read_text() == "box/fine-1.5:8b@x+y\n"
    file().write_bytes(b"box/fine\n-x/option\nbox/$(id)\nbox/\xff\n")
    assert known() == ["box/fine"]


@pytest.mark.skipif(sys.platform == "win32", reason="modes are of POSIX")
def test_a_folder_that_is_made_for_it_is_for_its_owner_alone() -> None:
    keep({"box": ["m"]})
    assert stat.S_IMODE(file().parent.stat().st_mode) == 0o700


def test_whoever_reads_sees_all_names_while_others_are_written() -> None:
    keep({"box": ["old"]})
    with file().open() as reading:
        keep({"box": ["new"]})
        assert reading.read() == "box/old\n"
    assert [*file().parent.iterdir()] == [file()]


def test_a_folder_that_cannot_be_made_is_no_failure(cache: Path) -> None:
    cache.write_text("a file")
    keep({"box": ["m"]})
    assert known() == []


def test_a_user_without_a_home_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a container that runs as any number."""

    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", home)
    keep({"box": ["m"]})
    assert known() == []


def test_without_a_variable_they_are_in_the_cache_folder_of_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("LOCALAPPDATA", "")
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert file() == tmp_path / ".cache" / "aiollm" / "models"
