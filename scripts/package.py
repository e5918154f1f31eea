"""Build the sdist and the wheel into dist/, and check in fresh environments that they work.

`make package` runs it. It checks that both archives hold the tracked files and nothing else, that
the sdist builds the same wheel, that the wheel needs three packages and works with only those on
each Python that is found, that every extra resolves, that a feature without its extra says which
one to install, and that an index would take the archives. With `--tag v0.1.0` also that the tag,
the version and the changelog agree: what a release needs.
"""

from __future__ import annotations

import argparse
import email.parser
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCE = (ROOT / "aiollm" / "__init__.py").read_text()
(VERSION,) = re.findall(r'^__version__ = "(.*)"$', SOURCE, re.MULTILINE)
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
APART = {"peers", "simd"}
"""Extras that `all` leaves out: SDKs to compare with, and one that conflicts with `images`."""
CORE = {"aiohttp", "anyio", "msgspec"}
OPTIONAL = ("PIL", "isal", "mcp", "opentelemetry", "pydantic", "pytest", "uvloop", "xllamacpp")
SERVICE = re.compile(r"run_app|uvicorn")
MADE_BY_BUILDING = {"PKG-INFO"}
NEEDED = {
    "CHANGELOG.md",
    "CITATION.cff",
    "LICENSE",
    "Makefile",
    "README.md",
    "SECURITY.md",
    "pyproject.toml",
    "tests/conftest.py",
}
SUPPORTED = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["classifiers"]))

WITHOUT_EXTRAS = f"""
import asyncio, importlib.resources, importlib.util
import aiollm
from aiollm import ConfigError, RateLimitError, Registry
from aiollm.otel import instrument
from aiollm.testing import FakeProvider

assert aiollm.__version__ == {VERSION!r}
assert importlib.resources.files("aiollm").joinpath("py.typed").is_file()
assert "site-packages" in aiollm.__file__, aiollm.__file__
present = [name for name in {OPTIONAL!r} if importlib.util.find_spec(name)]
assert not present, present

async def scenario():
    busy, well = FakeProvider(RateLimitError("slow down")), FakeProvider("Hello")
    async with Registry(env={{}}) as reg:
        reg.register("m5", busy.provider())
        reg.register("m1", well.provider())
        response = await reg.generate("m5/qwen3,m1/qwen3", "Why is the sky blue?")
        assert (response.text, len(response.attempts)) == ("Hello", 2)
        try:
            instrument(reg)
        except ConfigError as error:
            assert "aiollm-client[otel]" in str(error), error
        else:
            raise AssertionError("traced without OpenTelemetry")

asyncio.run(scenario())
"""
WITH_TESTING = """
import asyncio
from aiollm import RateLimitError

def test_the_second_target_answers(fake_provider, registry):
    async def scenario():
        fakes = {"m5": fake_provider(RateLimitError("slow down")), "m1": fake_provider("Hello")}
        async with registry(fakes) as reg:
            return await reg.generate("m5/qwen3,m1/qwen3", "Why is the sky blue?")
    assert asyncio.run(scenario()).text == "Hello"
"""


def run(*command: str | Path, cwd: Path = ROOT, expected: int = 0) -> str:
    """Run a command with little of this environment; return its output. Raises: SystemExit."""
    kept = ("LANG", "PATH", "PIP_", "SSL_", "TMPDIR", "HTTP", "http", "no_proxy", "NO_PROXY")
    env = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    with tempfile.TemporaryDirectory() as home:  # for files that tools leave behind
        done = subprocess.run(
            list(map(str, command)),
            cwd=cwd,
            env=env | {"HOME": home, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode != expected:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def build(source: Path, target: Path, *kinds: str) -> list[Path]:
    """Build from a folder; without kinds an sdist, and a wheel from that sdist."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", target, *kinds, source)
    return sorted(target.iterdir())


def tracked() -> set[str]:
    """Return the files under version control."""
    return set(run("git", "ls-files", "-z").rstrip("\0").split("\0"))


def check_sdist(sdist: Path) -> None:
    """Check that it holds what its tests and `make` need, and no untracked file."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= NEEDED, f"missing: {NEEDED - names}"
    stray = names - tracked() - MADE_BY_BUILDING
    assert not stray, f"not under version control: {sorted(stray)}"


def check_wheel(wheel: Path) -> None:
    """Check its files and its dependencies."""
    info = f"{wheel.name.partition('-py3')[0]}.dist-info"
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.parser.Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    package = {name for name in names if not name.startswith(f"{info}/")}
    assert package == {name for name in tracked() if name.startswith("aiollm/")}
    assert {"aiollm/py.typed", f"{info}/licenses/LICENSE"} <= names
    assert metadata["Name"] == "aiollm-client", metadata["Name"]
    assert metadata["Version"] == VERSION, metadata["Version"]
    assert metadata.get_all("Import-Name") == ["aiollm"], metadata.items()
    needs = [each for each in metadata.get_all("Requires-Dist", []) if "extra ==" not in each]
    assert {re.split(r"[^\w-]", each)[0] for each in needs} == CORE, needs


def check_all_is_all() -> None:
    """Check that `all` holds each extra that it should."""
    (everything,) = EXTRAS["all"]
    named = re.findall(r"\w+", everything.partition("[")[2])
    assert sorted(named) == sorted(EXTRAS.keys() - APART - {"all"}), named


def check_tag(tag: str) -> None:
    """Check that a tag is the version's, and that the changelog says when it came out."""
    assert tag == f"v{VERSION}", f"the tag {tag} is not that of version {VERSION}"
    heading = rf"^## \[{re.escape(VERSION)}\] - \d{{4}}-\d\d-\d\d$"
    changes = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(heading, changes, re.MULTILINE), f"CHANGELOG.md has no date for {VERSION}"


def interpreters() -> dict[str, Path]:
    """Return the Pythons of this machine on which the wheel should work, at least this one."""
    found = {f"{sys.version_info.major}.{sys.version_info.minor}": Path(sys.executable)}
    for version in SUPPORTED:
        candidates = [f"python{version}"]
        if shutil.which("pyenv"):
            prefix = subprocess.run(
                ["pyenv", "prefix", version],  # noqa: S607 - the one that the PATH has
                capture_output=True,
                text=True,
                check=False,
            )
            candidates += [f"{prefix.stdout.strip()}/bin/python"] * (prefix.returncode == 0)
        for each in candidates:
            path = shutil.which(each)
            if path and works(path, version):
                found.setdefault(version, Path(path))
    return found


def works(python: str, version: str) -> bool:
    """Return whether it runs, for a shim may stand for nothing, and is of that version."""
    code = f"import sys, venv; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode == 0


def environment(home: Path, python: str | Path = sys.executable) -> Path:
    """Make an empty virtual environment; return its interpreter."""
    run(python, "-m", "venv", "--without-pip", home)
    return home / "bin" / "python"


def pip(python: Path, *arguments: str) -> str:
    """Run this environment's pip on another environment."""
    return run(sys.executable, "-m", "pip", "--python", python, *arguments)


def check_core(base: Path, wheel: Path, home: Path) -> None:
    """Use the wheel with only its three dependencies, then with the extra `testing`."""
    python = environment(home, base)
    pip(python, "install", "-q", str(wheel))
    pip(python, "check")
    elsewhere = home / "elsewhere"
    elsewhere.mkdir()
    run(python, "-I", "-W", "error", "-c", WITHOUT_EXTRAS, cwd=elsewhere)
    run(python, "-I", ROOT / "scripts" / "public_api.py", "--check", cwd=elsewhere)
    check_command(python.with_name("aiollm"), elsewhere)
    (elsewhere / "test_mine.py").write_text(WITH_TESTING)
    pip(python, "install", "-q", f"{wheel}[testing]")
    run(python, "-m", "pytest", "-q", "-W", "error", cwd=elsewhere)


def check_command(command: Path, elsewhere: Path) -> None:
    """Use the command as someone who has just installed it."""
    assert "Exit codes" in run(command, "--help", cwd=elsewhere)
    assert f"aiollm {VERSION}" in run(command, cwd=elsewhere)
    assert "complete -o" in run(command, "completion", "bash", cwd=elsewhere)
    output = run(command, "ask", "hi", cwd=elsewhere, expected=2)
    assert "aiollm-client[local]" in output, output
    assert "Traceback" not in output, output


def check_examples(wheel: Path, home: Path) -> None:
    """Run each example that is not a service with nothing but the wheel and its dependencies."""
    python = environment(home / "examples")
    pip(python, "install", "-q", str(wheel))
    folder = home / "made-by-examples"
    folder.mkdir()
    for path in sorted(ROOT.glob("examples/[0-9]*.py")):
        if not SERVICE.search(path.read_text()):
            run(python, "-W", "error", path, cwd=folder)


def check_extra(python: Path, wheel: Path, extra: str) -> None:
    """Check that an extra's packages resolve, without installing them."""
    output = pip(python, "install", "-q", "--dry-run", f"{wheel}[{extra}]")
    assert "does not provide the extra" not in output, output


def main() -> None:
    """Build and check everything, stopping at the first failure."""
    parser = argparse.ArgumentParser(description="Build and check the distribution.")
    parser.add_argument("--tag", help="the tag of the release that this is, such as v0.1.0")
    if tag := parser.parse_args().tag:
        check_tag(tag)
    shutil.rmtree(DIST, ignore_errors=True)
    sdist, wheel = sorted(build(ROOT, DIST), key=lambda each: each.suffix != ".gz")
    check_sdist(sdist)
    check_wheel(wheel)
    check_all_is_all()
    print(f"built {sdist.name} and {wheel.name}; trying them takes some minutes", flush=True)
    run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
    pythons = interpreters()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        home = Path(temporary)
        checks = [
            pool.submit(check_core, base, wheel, home / f"core-{version}")
            for version, base in pythons.items()
        ]
        (again,) = build(ROOT, home / "again", "--wheel")
        assert again.read_bytes() == wheel.read_bytes(), "the sdist builds a different wheel"
        python = environment(home / "empty")
        checks.append(pool.submit(check_examples, wheel, home))
        checks += [pool.submit(check_extra, python, wheel, each) for each in (*APART, "all")]
        for check in checks:
            check.result()
    print("they are complete, and every extra resolves")
    print(f"the wheel works on Python {', '.join(sorted(pythons))}")
    if missing := [each for each in SUPPORTED if each not in pythons]:
        print(f"not found here, so not tried: Python {', '.join(missing)}")


if __name__ == "__main__":
    main()
