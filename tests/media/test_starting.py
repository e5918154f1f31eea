"""Workers in odd places: they start all the same, or a thread does their work and says why."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from aiollm.errors import LocalError, UnsupportedError
from aiollm.media import MediaPool
from aiollm.media.interpreter import find_python
from aiollm.media.limits import ImageLimits
from aiollm.types import ImagePart
from tests.programs import python, run_program

pytest.importorskip("PIL")

SMALL = ImageLimits(("image/jpeg",), 60)
ROOT = Path(__file__).parents[2]

SERVICE = """
import asyncio, json, logging, os, sys
sys.path.insert(0, {root})
from pathlib import Path
said = []
class Keep(logging.Handler):
    def emit(self, record):
        said.append(record.getMessage())
logging.getLogger("aiollm").addHandler(Keep())
from aiollm.media import ImageLimits, MediaPool
from aiollm.types import ImagePart
photo = Path(sys.argv[1]).read_bytes()
limits = ImageLimits(("image/jpeg",), 60)

async def main():
    async with MediaPool(2) as pool:
        made = await asyncio.gather(*(
            pool.fit(ImagePart(photo + bytes([number])), limits) for number in range(4)
        ))
        widths = [each.width for each in made]
        # One may have done all before the other had begun.
        return dict(widths=widths, isolated=pool.statistics().processes > 0, said=said)

if __name__ == "__main__":
    exec({before})
    done = json.dumps(asyncio.run(main()))
    Path(sys.argv[2]).write_text(done)
"""


def run(make, folder: Path, before: str = "", *, shell: str = "", flags=(), **env: str):
    """Run a service of its own in which `before` happens first; return what it reports."""
    (folder / "photo.jpg").write_bytes(make.save(make.photo(120, 90), "JPEG"))
    script = folder / "service.py"
    script.write_text(SERVICE.format(root=repr(str(ROOT)), before=repr(before)))
    command = [sys.executable, *flags, str(script), str(folder / "photo.jpg"), str(folder / "out")]
    if shell:
        command = ["sh", "-c", f'{shell}; exec "$@"', "sh", *command]
    done = subprocess.run(
        command,
        env=os.environ | env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads((folder / "out").read_text())


FINE = {
    "executable is None": "sys.executable = None",
    "executable is empty": "sys.executable = ''",
    "executable is missing": "sys.executable = '/no/such/python3'",
    "executable is another program": "sys.executable = '/usr/bin/env'",
    "SIGCHLD is ignored": "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "no standard streams": "os.close(0); os.close(1)",
    "the folder is gone": (
        "os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone'); sys.path.insert(0, '')"
    ),
    "a variable names another library": (
        "os.environ['PYTHONPATH'] = os.environ['SHADOW']; sys.path.insert(0, os.environ['SHADOW'])"
    ),
    "keys and settings of the interpreter": (
        "os.environ |= {'PYTHONINSPECT': '1', 'PYTHONWARNINGS': 'error', 'PYTHONSTARTUP': '/x'}"
    ),
    "after a fork": (
        "asyncio.run(main()); child = os.fork(); child and sys.exit(os.waitpid(child, 0)[1])"
    ),
}


@pytest.mark.parametrize("place", FINE)
def test_workers_start_where(make, tmp_path, monkeypatch, place):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    for name in ("resource", "select", "ctypes", "socket"):
        (shadow / f"{name}.py").write_text("raise SystemExit('not the one of the library')")
    monkeypatch.chdir(tmp_path)
    before = f"import select, socket; {FINE[place]}" if "library" in place else FINE[place]
    report = run(make, tmp_path, before, SHADOW=str(shadow))
    assert report == {"widths": [60] * 4, "isolated": True, "said": []}


@pytest.mark.parametrize("flags", [("-P",), ("-E",), ("-I",), ("-X", "dev"), ("-B", "-OO")])
def test_workers_start_under_the_flags(make, tmp_path, flags):
    report = run(make, tmp_path, flags=flags)
    assert report == {"widths": [60] * 4, "isolated": True, "said": []}


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
@pytest.mark.parametrize("how", ["-v", "-Sv"])
def test_workers_start_under_a_limit_of_memory_below_their_own(make, tmp_path, how):
    report = run(make, tmp_path, shell=f"ulimit {how} 900000")
    assert report == {"widths": [60] * 4, "isolated": True, "said": []}


THREAD = {
    "no interpreter": """
sys.executable = sys._base_executable = None
sys.exec_prefix = sys.base_exec_prefix = '/none'
""",
    "no interpreter that starts": "os.environ['PYTHONHOME'] = '/none'",
    "no files left": """
import resource, PIL.Image, PIL.JpegImagePlugin
used = len(os.listdir('/proc/self/fd'))
resource.setrlimit(resource.RLIMIT_NOFILE, (used + 6, used + 6))
""",
    "an interpreter without what it needs": """
import aiollm.media.pool, aiollm.media.transform, PIL.Image
PIL.Image.init()
sys.path[:] = [each for each in sys.path if 'packages' not in each]
""",
}
CAUSES = {
    "no interpreter": "sys.executable is None, which is not Python",
    "no interpreter that starts": "No module named 'encodings'",
    "no files left": "Too many open files",
    "an interpreter without what it needs": "ModuleNotFoundError: No module named 'msgspec'",
}


@pytest.mark.skipif(sys.platform != "linux", reason="counts files in /proc")
@pytest.mark.parametrize("place", THREAD)
def test_a_thread_does_the_work_and_the_cause_is_logged_once_where(make, tmp_path, place):
    report = run(make, tmp_path, THREAD[place])
    assert report["widths"] == [60] * 4
    assert not report["isolated"]
    (said,) = report["said"]
    assert CAUSES[place] in said
    assert "image_workers=0" in said


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Return a function that makes a shell script the interpreter."""

    def make(script):
        path = tmp_path / "python-of-a-test"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(path))

    return make


async def test_a_worker_killed_before_it_was_ready_costs_its_image_alone(make, fake, caplog):
    """It may be the memory that is short: a thread could then bring the whole service down."""
    fake("kill -KILL $$")
    async with MediaPool(1) as pool:
        with pytest.raises(
            UnsupportedError, match="SIGKILL: perhaps the machine ran out of memory"
        ):
            await pool.fit(ImagePart(make.save(make.photo(70, 60))), SMALL)
    assert not caplog.records


async def test_a_process_is_tried_again_later(make, fake, monkeypatch, caplog):
    monkeypatch.setattr("aiollm.media.workers._RETRY", 0.0)
    python = sys.executable
    fake("echo first line >&2; echo SomeError: no luck >&2; echo last line >&2; exit 3")
    caplog.set_level(logging.WARNING, "aiollm")
    async with MediaPool(1) as pool:
        for seed in range(2):
            assert (await pool.fit(ImagePart(make.save(make.photo(70, 60, seed))), SMALL)).width
        assert [record.getMessage().count("SomeError: no luck") for record in caplog.records] == [1]
        monkeypatch.setattr(sys, "executable", python)
        assert (await pool.fit(ImagePart(make.save(make.photo(70, 60, 9))), SMALL)).width == 60
        assert pool.statistics().processes == 1


CHATTY = """
import contextlib, os, socket, sys
sys.path.insert(0, sys.argv[1])
from aiollm.media import worker
from aiollm.media.ipc import Channel
from aiollm.media.transform import transform

def chatter(*arguments):
    with contextlib.suppress(OSError):
        os.write(2, bytes(1_000_000))
    return transform(*arguments)

import aiollm.media.transform
aiollm.media.transform.transform = chatter
worker.serve(Channel(socket.socket(fileno=0)), 10**6)
"""


async def test_what_a_library_writes_about_images_never_stops_a_worker(make, tmp_path, monkeypatch):
    chatty = tmp_path / "python"
    chatty.write_text(f"#!/bin/sh\nexec {python('-c', CHATTY, ROOT)}\n")
    chatty.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(chatty))
    async with MediaPool(1, time_limit=10) as pool:
        assert (await pool.fit(ImagePart(make.save(make.photo(70, 60))), SMALL)).width == 60
        assert pool.statistics().processes == 1


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not limit address space")
def test_a_worker_never_raises_the_limit_that_it_was_started_under():
    script = """
import resource
from aiollm.media.worker import _confine
_, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (900 << 20, hard))
_confine(2 << 30)
print(*(each >> 20 for each in resource.getrlimit(resource.RLIMIT_AS)))
"""
    done = run_program(script)
    assert done.stdout.split() == ["900", "900"], done.stderr


def test_an_interpreter_is_found_by_its_name(tmp_path, monkeypatch):
    assert find_python() == sys.executable
    renamed = tmp_path / "PyPy3"
    renamed.write_text("")
    renamed.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(renamed))
    assert find_python() == str(renamed)
    renamed.chmod(0o644)
    assert find_python() != str(renamed)


async def test_a_thread_that_cannot_start_is_a_fault_of_this_process(make, monkeypatch):
    def refuse(*_):
        raise RuntimeError("can't start new thread")

    image = ImagePart(make.save(make.photo(70, 60)))
    async with MediaPool(1) as pool:
        await pool.fit(image, SMALL)
    async with MediaPool(1) as pool:
        monkeypatch.setattr("threading.Thread.start", refuse)
        with pytest.raises(LocalError, match="no thread can be started"):
            await pool.fit(image, SMALL)
        with pytest.raises(LocalError, match="no thread can be started"):
            await pool.fit(ImagePart(make.save(make.photo(400, 300), "BMP")), SMALL)


def test_a_forked_child_leaves_the_workers_to_its_parent(make):
    pool = MediaPool(1)
    first, second, third = (ImagePart(make.save(make.photo(70, 60, seed))) for seed in range(3))
    try:
        asyncio.run(pool.fit(first, SMALL))
        child = os.fork()
        if not child:
            status = 1
            try:
                width = asyncio.run(pool.fit(second, SMALL)).width
                pool.kill()
                status = 0 if width == 60 else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        (process,) = pool._workers.processes
        assert process.alive
        assert asyncio.run(pool.fit(third, SMALL)).width == 60
        assert pool.statistics().processes == 1
    finally:
        pool.kill()
