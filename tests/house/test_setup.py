"""scripts/setup believes no image library but by asking it, and writes plain text into files.

It runs in a folder of its own, with programs of its own: they log what it asks of them.
"""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import tomllib
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tests.programs import python, waited_for

ROOT = Path(__file__).parents[2]

PYTHON = f"""#!/bin/sh
case "$*" in
    "-m venv"*)
        echo "venv $4" >>log
        mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && echo "$PWD/$4" >"$4/bin/activate" ;;
    *"import ensurepip"*) test ! -e no-venv ;;
    *"import pip"*) ;;
    *version_info*"< (3"*) test ! -e too-old ;;
    *venv*version_info*) echo python3.11-venv ;;
    -V) echo Python 3.10.12 ;;
    *sysconfig*) echo "$PWD" ;;
    *libgomp*) test ! -e no-openmp ;;
    *xllamacpp*) cat no-server && test ! -s no-server ;;
    scripts/*) PYTHONPATH="$PWD" exec {python()} "$@" ;;
    *--no-cache-dir*) echo "pip $* $C_INCLUDE_PATH" >>log; cp after-a-build lacking ;;
    *"pip "*) echo "pip $*" >>log ;;
esac
"""
COMPILER = """#!/bin/sh
if [ "$1" = -print-multiarch ]; then echo arch-linux-gnu; exit; fi
read -r include
case $include in *"$(cat no-header)"*) exit 1 ;; esac
"""
PROGRAMS = {
    "python3": PYTHON,
    "cc": COMPILER,
    "apt-get": '#!/bin/sh\necho "apt-get $*" >>log\n',
    "id": "#!/bin/sh\necho 0\n",
    "redis-server": "#!/bin/sh\n",
    "npm": '#!/bin/sh\necho "npm $*" >>log\nmkdir -p .node\n',
    "uname": "#!/bin/sh\ncase $1 in -s) echo Linux ;; -m) echo x86_64 ;; esac\n",
}
FEATURES = """
from pathlib import Path

def check(feature):
    return feature not in Path("lacking").read_text().split()
"""


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Make a folder where setup finds all it needs, and an image library that lacks nothing."""
    (tmp_path / "scripts").mkdir()
    for name in ("setup", "image_library.py"):
        shutil.copy(ROOT / "scripts" / name, tmp_path / "scripts")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "programs").mkdir()
    for name, code in PROGRAMS.items():
        program = tmp_path / "programs" / name
        program.write_text(code)
        program.chmod(0o755)
    (tmp_path / "PIL").mkdir()
    (tmp_path / "PIL" / "__init__.py").touch()
    (tmp_path / "PIL" / "features.py").write_text(FEATURES)
    for name in ("Python.h", "after-a-build", "lacking", "log", "no-server"):
        (tmp_path / name).touch()
    (tmp_path / "no-header").write_text("none")
    return tmp_path


def started(
    machine: Path, output: int, what: str = "dev", **variables: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start setup, usually for development."""
    path = f"{machine / 'programs'}:{os.environ['PATH']}"
    return waited_for(
        subprocess.Popen(
            [machine / "scripts" / "setup", what],
            env={"PATH": path, "TERM": "xterm"} | variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        )
    )


def setup(machine: Path, what: str = "dev", **variables: str) -> tuple[int, str, str]:
    """Run it with pipes for output; return its exit code and what it said."""
    with started(machine, subprocess.PIPE, what, **variables) as process:
        output, errors = process.communicate()
    return process.returncode, output, errors


def someone(machine: Path) -> None:
    """Let setup run as a user who is not root."""
    (machine / "programs" / "id").write_text("#!/bin/sh\necho 1000\n")


def programs_alone(machine: Path) -> str:
    """Return a PATH with the machine's programs, and with few that every system has."""
    for name in ("bash", "cat", "cksum", "cp", "dirname", "mkdir", "rm", "sed", "sh"):
        (machine / "programs" / name).symlink_to(shutil.which(name) or "")
    return str(machine / "programs")


def log(machine: Path) -> str:
    """Return the commands that setup ran."""
    return (machine / "log").read_text()


def test_mcp_servers_are_installed_once_in_a_version_that_is_named(machine):
    assert setup(machine)[0] == 0
    (installed,) = [line for line in log(machine).splitlines() if line.startswith("npm")]
    assert installed.count("@modelcontextprotocol/server-") == 2
    assert all("@20" in each for each in installed.split() if each.startswith("@"))
    (machine / "log").write_text("")
    shutil.rmtree(machine / ".venv")
    assert setup(machine)[0] == 0
    assert "npm" not in log(machine)


def test_mcp_servers_that_cannot_be_installed_cost_their_tests_alone(machine):
    (machine / "programs" / "npm").write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    code, output, errors = setup(machine)
    assert (code, errors) == (0, "no network\n")
    assert "npm could not install two MCP servers: their tests will be skipped" in output
    assert "==> Ready" in output


def test_a_registry_that_npm_cannot_reach_is_given_up_in_seconds_not_minutes(machine):
    assert setup(machine)[0] == 0
    assert "--fetch-retries=1 --fetch-retry-mintimeout=2000 " in log(machine)


def test_a_whole_library_is_built_once_and_never_asked_for_again(machine):
    code, _, errors = setup(machine)
    assert (code, errors) == (0, "")
    assert "--no-cache-dir" not in log(machine)
    assert "apt-get" not in log(machine)
    (machine / "log").write_text("")
    assert setup(machine) == (0, "", "")
    assert log(machine) == ""


def test_the_oldest_environment_gets_the_lower_bound_of_each_dependency(machine):
    assert setup(machine, "oldest")[::2] == (0, "")
    (installed,) = [line for line in log(machine).splitlines() if "--group test" in line]
    with (ROOT / "pyproject.toml").open("rb") as file:
        bounds = tomllib.load(file)["project"]["dependencies"]
    assert installed.rstrip().endswith(" ".join(each.replace(">=", "==") for each in bounds))
    assert "==" in installed
    assert not (machine / ".venv").exists()


@pytest.mark.parametrize("feature", ["jpg", "zlib", "webp", "libtiff", "littlecms2"])
def test_a_library_out_of_the_cache_that_lacks_something_is_built_anew(machine, feature):
    (machine / "lacking").write_text(feature)
    code, _, errors = setup(machine)
    assert (code, errors) == (0, "")
    (built,) = [line for line in log(machine).splitlines() if "--no-cache-dir" in line]
    for option in ("--force-reinstall", "--no-deps", "--no-binary pillow-simd"):
        assert option in built
    assert built.endswith(" /usr/include/arch-linux-gnu")


def test_a_library_that_still_lacks_something_is_told_and_setup_is_not_done(machine):
    for name in ("lacking", "after-a-build"):
        (machine / name).write_text("webp libtiff")
    for _ in range(2):
        code, _, errors = setup(machine)
        assert code == 1
        assert errors == "setup: the installed image library lacks WebP, compressed TIFF\n"
    assert not list((machine / ".venv").glob(".installed*"))


def test_a_library_that_cannot_be_imported_lacks_all(machine):
    (machine / "PIL" / "features.py").write_text("raise ImportError('libtiff.so.6')")
    code, _, errors = setup(machine)
    assert code == 1
    assert "lacks JPEG, PNG, WebP" in errors


@pytest.mark.parametrize(
    ("header", "package"),
    [
        ("jpeglib.h", "libjpeg-dev"),
        ("lcms2.h", "liblcms2-dev"),
        ("stdio.h", "libc6-dev"),
        ("tiffio.h", "libtiff-dev"),
        ("webp/decode.h", "libwebp-dev"),
        ("zlib.h", "zlib1g-dev"),
    ],
)
def test_missing_headers_are_installed_by_root(machine, header, package):
    (machine / "no-header").write_text(header)
    assert setup(machine)[0] == 0
    assert f"apt-get install -qy --no-install-recommends {package}\n" in log(machine)


def test_a_source_of_packages_may_be_away_and_a_package_may_not(machine):
    (machine / "no-openmp").touch()
    program = machine / "programs" / "apt-get"
    program.write_text('#!/bin/sh\necho "apt-get $*" >>log\ntest "$1" = install\n')
    assert setup(machine)[::2] == (0, "")
    assert "libgomp1\n" in log(machine)
    shutil.rmtree(machine / ".venv")
    program.write_text("#!/bin/sh\necho no network >&2\nexit 100\n")
    code, _, errors = setup(machine)
    assert (code, errors.splitlines()[-1]) == (
        1,
        "setup: apt-get could not install libgomp1, as it says above",
    )


def test_two_at_a_time_do_not_run_apt_get_together(machine):
    (machine / "no-header").write_text("tiffio.h")
    program = machine / "programs" / "apt-get"
    program.write_text("#!/bin/sh\nflock --nonblock scripts/setup true 9<&- && echo alone >>log\n:")
    assert setup(machine)[0] == 0
    assert "alone" not in log(machine)


def test_missing_headers_are_named_to_anyone_else_who_gets_the_other_library(machine):
    (machine / "no-header").write_text("tiffio.h")
    someone(machine)
    code, output, errors = setup(machine)
    assert (code, errors) == (0, "")
    (line,) = [line for line in output.splitlines() if "Pillow" in line]
    assert line.endswith("sudo apt-get install libtiff-dev; make clean)")
    assert ",images]" in log(machine)
    assert "simd" not in log(machine)


def test_one_library_is_not_installed_over_the_other(machine):
    (machine / ".venv/lib/python3.11/site-packages/pillow-12.0.0.dist-info").mkdir(parents=True)
    assert setup(machine)[::2] == (0, "")
    assert "simd" not in log(machine)


@pytest.mark.parametrize(("what", "package"), [("dev", "redis-server"), ("demo", "libgomp1")])
def test_what_nobody_can_install_is_told_before_what_takes_minutes(machine, what, package):
    if what == "demo":
        (machine / "no-openmp").touch()
    (machine / "programs" / "redis-server").unlink()
    someone(machine)
    code, _, errors = setup(machine, what, CI="true", PATH=programs_alone(machine))
    assert code == 1
    assert errors.endswith(f"sudo apt-get install {package}\n")
    assert "-e ." not in log(machine)


def test_all_that_root_must_install_is_named_at_once(machine):
    for name in ("no-venv", "no-openmp"):
        (machine / name).touch()
    someone(machine)
    code, _, errors = setup(machine, "demo")
    assert code == 1
    assert "This machine lacks Python's venv module and the OpenMP library" in errors
    assert errors.endswith("sudo apt-get install python3.11-venv libgomp1\n")
    assert log(machine) == ""


def test_a_machine_without_python_is_told_all_that_it_needs(machine):
    path = programs_alone(machine)
    (machine / "programs" / "python3").unlink()
    someone(machine)
    code, _, errors = setup(machine, "demo", PATH=path)
    assert code == 1
    assert errors.endswith("sudo apt-get install python3 python3-venv libgomp1\n")


def test_the_pages_name_what_root_must_install():
    script, base = (ROOT / "scripts" / "setup").read_text(), {"git", "make"}
    base.update(*(each.split() for each in re.findall(r" missing\+?=\(([\w -]+)\)", script)))
    compiler = set(re.findall(r" \|\| missing\+=\((\S+)\)", script))
    for page, packages in [
        ("README.md", base - compiler - {"python3"}),
        ("CONTRIBUTING.md", base - compiler - {"python3"}),
        ("docs/media.md", compiler),
    ]:
        commands = re.findall(r"sudo apt-get install ([\w -]+)", (ROOT / page).read_text())
        assert any(packages <= set(each.split()) for each in commands), page


@pytest.mark.parametrize("user", ["root", "someone"])
def test_no_package_is_promised_where_python_is_too_old(machine, user):
    (machine / "too-old").touch()
    if user == "someone":
        someone(machine)
    code, _, errors = setup(machine, "demo", PATH=programs_alone(machine))
    assert code == 1
    assert "Python 3.11 or newer was not found: python3 is Python 3.10.12." in errors
    assert errors.endswith("Set PYTHON=/path/to/python\n")
    assert log(machine) == ""


def test_a_python_that_was_asked_for_is_taken_or_refused(machine):
    code, _, errors = setup(machine, "demo", PYTHON="/no/such python")
    assert (code, errors) == (1, "setup: PYTHON=/no/such python is not Python 3.11 or newer\n")
    folder = machine / "its own"
    folder.mkdir()
    (machine / "programs" / "python3").rename(folder / "python")
    path = programs_alone(machine)
    assert setup(machine, "demo", PYTHON=str(folder / "python"), PATH=path)[::2] == (0, "")


def test_a_checkout_that_was_moved_gets_its_environment_anew(machine, tmp_path_factory):
    assert setup(machine, "demo")[0] == 0
    moved = machine.rename(tmp_path_factory.mktemp("another") / "place with spaces")
    (moved / "log").write_text("")
    assert setup(moved, "demo")[::2] == (0, "")
    assert log(moved).startswith("venv .venv\n")
    (moved / "log").write_text("")
    assert setup(moved, "demo") == (0, "", "")
    assert log(moved) == ""


def test_an_environment_behind_a_link_is_not_emptied(machine, tmp_path_factory):
    assert setup(machine, "demo")[0] == 0
    shared = (machine / ".venv").rename(tmp_path_factory.mktemp("another") / ".venv")
    (shared / "bin" / "activate").write_text(str(shared))
    (machine / ".venv").symlink_to(shared)
    (machine / "log").write_text("")
    assert setup(machine, "demo")[::2] == (0, "")
    assert "venv .venv" not in log(machine)


def test_the_environment_in_use_does_not_make_itself_anew(machine, tmp_path_factory):
    assert setup(machine, "demo")[0] == 0
    link = tmp_path_factory.mktemp("another") / "link"
    link.symlink_to(machine)
    own = machine / ".venv" / "bin"
    (own / "python3").write_text("#!/bin/sh\necho itself >>log\nexit 1\n")
    (own / "python3").chmod(0o755)
    path = f"{own}:{machine / 'programs'}:{os.environ['PATH']}"
    (machine / "log").write_text("")
    assert setup(link, "demo", PATH=path, PWD=str(link)) == (0, "", "")
    assert log(machine) == ""


def test_tests_that_lack_a_server_are_told_to_anyone_but_the_gate(machine):
    (machine / "programs" / "redis-server").unlink()
    someone(machine)
    code, output, errors = setup(machine, PATH=programs_alone(machine))
    assert (code, errors) == (0, "")
    assert "tests of fleets will be skipped (sudo apt-get install redis-server)" in output


def test_a_failing_pip_is_told_with_what_it_needs(machine):
    (machine / "programs" / "python3").write_text(PYTHON.replace('echo "pip $*" >>log', "exit 1"))
    code, _, errors = setup(machine, "demo")
    assert code == 1
    assert errors.startswith("setup: pip failed")
    assert not list((machine / ".venv").glob(".installed*"))


def test_a_python_that_changes_meanwhile_is_no_reason_to_install_again(machine):
    (machine / "version").write_text("older")
    told = PYTHON.replace("*sysconfig*)", "-VV) cat version ;;\n    *sysconfig*)")
    (machine / "programs" / "python3").write_text(told.replace(">>log", ">version"))
    assert setup(machine, "demo")[::2] == (0, "")
    assert setup(machine, "demo") == (0, "", "")


def test_the_library_that_the_server_s_wheel_lacks_is_installed(machine):
    (machine / "no-openmp").touch()
    assert setup(machine)[0] == 0
    assert "apt-get install -qy --no-install-recommends libgomp1\n" in log(machine)


def test_a_server_that_cannot_be_loaded_is_told(machine):
    (machine / "no-server").write_text("Traceback\nImportError: no such luck")
    code, _, errors = setup(machine)
    assert code == 1
    assert errors == "setup: the llama.cpp server cannot be loaded: ImportError: no such luck\n"


def test_what_it_says_into_a_file_holds_no_escape_codes(machine):
    _, output, errors = setup(machine)
    assert "==> Ready" in output
    assert "\x1b" not in output + errors


@pytest.mark.parametrize(("variables", "bold"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_on_a_terminal_its_steps_are_bold_unless_no_colour_is_wanted(machine, variables, bold):
    ours, theirs = pty.openpty()
    with started(machine, theirs, **variables):
        os.close(theirs)
        said = b""
        try:
            while piece := os.read(ours, 4096):
                said += piece
        except OSError:  # what Linux says when the other end of a terminal is closed
            pass
        finally:
            os.close(ours)
    assert b"==> Ready" in said
    assert (b"\x1b[1m==> Ready" in said) == bold
