"""Worker processes: they die, hang and are cancelled; what stays is the service."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import msgspec
import pytest

from aiollm.errors import ClosedError, UnsupportedError
from aiollm.media import MediaPool, worker
from aiollm.media.ipc import Channel, ResultHead
from aiollm.media.limits import MAX_PIXELS, ImageLimits
from aiollm.media.sniff import info
from aiollm.media.transform import UNKNOWN
from aiollm.types import ImagePart
from tests.programs import python

pytest.importorskip("PIL")

SMALL = ImageLimits(("image/jpeg",), 60)
ROOT = str(Path(__file__).parents[2])


@pytest.fixture
def shots(make):
    """Return any number of different pictures that must shrink."""
    return lambda count: [
        ImagePart(make.save(make.photo(120, 90, seed), "JPEG")) for seed in range(count)
    ]


@pytest.fixture
async def single():
    """A pool of one worker process, which nothing but the test frees."""
    async with MediaPool(1, time_limit=600) as pool:
        yield pool


async def held(pool, image, make):
    """Start an image on a worker that is stopped; return the task and the process id."""
    await pool.fit(ImagePart(make.save(make.photo(70, 70, 99), "JPEG")), SMALL)
    (process,) = pool._workers.processes
    os.kill(process._process.pid, signal.SIGSTOP)
    task = asyncio.create_task(pool.fit(image, SMALL))
    await make.until(lambda: any(job.process for job in pool._jobs.values()))
    return task, process._process.pid


def alive(pid):
    """Say whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true):
    """Wait for what another process shows; what never comes is ended by the suite's timeout."""
    while not true():
        time.sleep(0.01)


async def test_workers_start_with_the_first_image_and_no_more_than_needed(pool, shots):
    assert pool.statistics().processes == 0
    await pool.fit(shots(1)[0], SMALL)
    assert pool.statistics().processes == 1
    made = await asyncio.gather(*(pool.fit(shot, SMALL) for shot in shots(6)))
    assert [each.width for each in made] == [60] * 6
    assert pool.statistics().processes <= 2
    assert pool.statistics().prepared == 6


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
async def test_a_worker_that_dies_costs_only_its_image(single, shots, make, how):
    victim, *others = shots(4)
    task, pid = await held(single, victim, make)
    queued = [asyncio.create_task(single.fit(shot, SMALL)) for shot in others]
    os.kill(pid, how)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(UnsupportedError, match="worker process that read it ended"):
        await task
    assert [made.width for made in await asyncio.gather(*queued)] == [60] * 3
    assert not alive(pid)
    assert (await single.fit(victim, SMALL)).width == 60


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (signal.SIGSEGV, "ended by SIGSEGV"),
        (signal.SIGKILL, "perhaps the machine ran out of memory"),
    ],
)
async def test_a_signal_is_told_by_its_name(single, shots, make, how, told):
    task, pid = await held(single, shots(1)[0], make)
    os.kill(pid, how)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(UnsupportedError, match=told):
        await task
    assert single.statistics().processes == 0


async def test_an_image_beyond_the_time_limit_fails_alone(shots, make):
    async with MediaPool(1, time_limit=3) as pool:
        slow, other = shots(2)
        task, pid = await held(pool, slow, make)
        queued = asyncio.create_task(pool.fit(other, SMALL))
        with pytest.raises(UnsupportedError, match=r"more than 3 s"):
            await task
        assert (await queued).width == 60
        assert not alive(pid)


async def test_cancellation_frees_the_slot(single, shots, make):
    slow, other = shots(2)
    task, pid = await held(single, slow, make)
    queued = asyncio.create_task(single.fit(other, SMALL))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await queued).width == 60
    assert not alive(pid)


async def test_cancellation_in_the_queue_costs_no_worker(single, shots, make):
    slow, other = shots(2)
    task, pid = await held(single, slow, make)
    queued = asyncio.create_task(single.fit(other, SMALL))
    await make.until(lambda: len(single._jobs) == 2)
    queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    os.kill(pid, signal.SIGCONT)
    assert (await task).width == 60
    assert alive(pid)
    assert single.statistics().prepared == 2


async def test_two_who_want_the_same_share_the_work(single, shots, make):
    task, pid = await held(single, shots(1)[0], make)
    second = asyncio.create_task(single.fit(shots(1)[0], SMALL))
    await make.until(lambda: [job.waiting for job in single._jobs.values()] == [2])
    task.cancel()
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await second).width == 60
    assert alive(pid)
    assert single.statistics().prepared == 2


async def test_an_idle_worker_that_died_is_replaced_unseen(single, shots):
    first, second = shots(2)
    await single.fit(first, SMALL)
    (process,) = single._workers.processes
    process.kill()
    process._process.wait()
    assert (await single.fit(second, SMALL)).width == 60
    assert single.statistics().processes == 1


async def test_an_image_beyond_the_memory_limit_leaves_the_worker_alive(make):
    wide = ImagePart(make.save(make.photo(16, 16).resize((7000, 7000)), "JPEG", quality=5))
    async with MediaPool(1, memory_limit=320 << 20) as pool:
        with pytest.raises(UnsupportedError, match="more memory"):
            await pool.fit(wide, ImageLimits(("image/jpeg",), 6900))
        assert pool.statistics().processes == 1
        small = ImagePart(make.save(make.photo(70, 70)))
        assert (await pool.fit(small, SMALL)).width == 60


async def test_closing_ends_the_workers_and_fails_what_is_under_way(shots, make):
    pool = MediaPool(1)
    slow, other = shots(2)
    task, pid = await held(pool, slow, make)
    queued = asyncio.create_task(pool.fit(other, SMALL))
    await make.until(lambda: len(pool._jobs) == 2)
    await pool.aclose()
    assert not alive(pid)
    for each in (task, queued):
        with pytest.raises(ClosedError):
            await each
    with pytest.raises(ClosedError):
        await pool.fit(other, SMALL)
    await pool.aclose()
    assert pool.statistics().processes == 0


async def test_a_cancelled_close_has_ended_the_workers(shots, make):
    pool = MediaPool(1)
    await pool.fit(shots(1)[0], SMALL)
    (process,) = pool._workers.processes
    closing = asyncio.create_task(pool.aclose())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    pool.kill()
    await make.until(lambda: not alive(process._process.pid))


def test_a_pool_is_killed_without_a_loop(shots):
    pool = MediaPool(1)
    asyncio.run(pool.fit(shots(1)[0], SMALL))
    (process,) = pool._workers.processes
    pool.kill()
    assert not alive(process._process.pid)
    pool.kill()


def test_a_forgotten_pool_warns_and_ends_its_workers(shots):
    pool = MediaPool(1)
    asyncio.run(pool.fit(shots(1)[0], SMALL))
    pid = next(iter(pool._workers.processes))._process.pid
    with pytest.warns(ResourceWarning, match="MediaPool"):  # noqa: PT031
        del pool
        # A thread may hold the last reference for a moment after its work.
        wait_until(lambda: gc.collect() is not None and not alive(pid))


def test_one_pool_serves_one_loop_after_the_other(shots):
    pool = MediaPool(1)
    try:
        for shot in shots(3):
            assert asyncio.run(pool.fit(shot, SMALL)).width == 60
        assert pool.statistics().processes == 1
    finally:
        pool.kill()


def test_uvloop_is_as_good_a_loop(shots):
    uvloop = pytest.importorskip("uvloop")

    async def use():
        async with MediaPool(2) as pool:
            return await asyncio.gather(*(pool.fit(shot, SMALL) for shot in shots(4)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert [made.width for made in runner.run(use())] == [60] * 4


async def test_no_worker_is_a_thread(thread, shots):
    made = await asyncio.gather(*(thread.fit(shot, SMALL) for shot in shots(3)))
    assert [each.width for each in made] == [60] * 3
    assert thread.statistics().processes == 0


def test_fewer_than_no_workers_is_an_error():
    with pytest.raises(ValueError, match="workers is -1: expected 0 or more"):
        MediaPool(-1)


FAKE = """
import socket, sys
sys.path.insert(0, {root!r})
from aiollm.media.ipc import Channel
channel = Channel(socket.socket(fileno=0))
channel.send(b"ready")
while True:
    channel.receive()
    channel.send({head!r}, {data!r})
"""


@pytest.mark.parametrize(
    ("head", "reason"),
    [
        (b'{"mime": "image/jpeg", "width": 60, "height": 45}', "unusable image"),
        (b"not json", "worker process that read it ended"),
        (b"{}" + bytes(70_000), "worker process that read it ended"),
    ],
)
async def test_a_worker_is_not_trusted(single, shots, tmp_path, monkeypatch, head, reason):
    fake = tmp_path / "python"
    code = tmp_path / "fake.py"
    code.write_text(FAKE.format(root=ROOT, head=head, data=b"no picture"))
    fake.write_text(f"#!/bin/sh\nexec {python(code)}\n")
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(UnsupportedError, match=reason):
        await single.fit(shots(1)[0], SMALL)


async def test_a_worker_sees_none_of_the_service_s_keys(single, shots, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("LLM_M5", "ollama://secret@host")
    await single.fit(shots(1)[0], SMALL)
    (process,) = single._workers.processes
    assert b"secret" not in Path(f"/proc/{process._process.pid}/environ").read_bytes()


async def test_the_loop_turns_while_twenty_photos_are_prepared(pool, make):
    photo = make.save(make.photo(4000, 3000), "JPEG", quality=92)
    photos = [ImagePart(photo + bytes([number])) for number in range(20)]
    beats = 0

    async def heart():
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    beating = asyncio.create_task(heart())
    limits = ImageLimits(("image/jpeg", "image/png"), 1568)
    made = await asyncio.gather(*(pool.fit(photo, limits) for photo in photos))
    beating.cancel()
    assert {(each.width, each.height) for each in made} == {(1568, 1176)}
    assert all(info(each.data).complete for each in made)
    assert pool.statistics().prepared == 20
    assert beats > 20


SCRIPT = """
import asyncio, os, sys, signal
from pathlib import Path
from aiollm.media import MediaPool, worker
from aiollm.media.transform import UNKNOWN
from aiollm.media.limits import MAX_PIXELS, ImageLimits
from aiollm.types import ImagePart

async def main():
    pool = MediaPool(2)
    data = Path(sys.argv[1]).read_bytes()
    await asyncio.gather(*(
        pool.fit(ImagePart(data + bytes([n])), ImageLimits(("image/jpeg",), 60)) for n in range(4)
    ))
    print(*(p._process.pid for p in pool._workers.processes), flush=True)
    {tail}

asyncio.run(main())
print("done", flush=True)
"""


def start(tmp_path, make, tail):
    """Run a script without a main guard; return it, and the ids of its workers."""
    (tmp_path / "photo.jpg").write_bytes(make.save(make.photo(300, 200), "JPEG"))
    script = tmp_path / "service.py"
    script.write_text(SCRIPT.replace("{tail}", tail))
    service = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "photo.jpg")],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": ROOT},
    )
    return service, [int(pid) for pid in service.stdout.readline().split()]


def test_a_script_needs_no_main_guard(tmp_path, make):
    service, workers = start(tmp_path, make, "await pool.aclose()")
    assert service.communicate()[0] == "done\n"
    assert service.returncode == 0
    assert workers
    assert not any(map(alive, workers))


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("how", "tail"),
    [
        (signal.SIGTERM, "await asyncio.sleep(600)"),
        (signal.SIGTERM, "import time; time.sleep(600)"),
        (signal.SIGKILL, "await asyncio.sleep(600)"),
        (signal.SIGKILL, "import time; time.sleep(600)"),
        (signal.SIGINT, "await asyncio.sleep(600)"),
    ],
)
def test_no_worker_outlives_its_service(tmp_path, make, how, tail):
    service, workers = start(tmp_path, make, tail)
    assert workers
    try:
        service.send_signal(how)
        service.communicate()
    finally:
        service.kill()
        service.wait()
        service.stdout.close()
    wait_until(lambda: not any(map(alive, workers)))


def test_no_worker_outlives_a_service_that_forked(tmp_path, make):
    tail = "child = os.fork(); print(child, flush=True) if child else None; signal.pause()"
    service, workers = start(tmp_path, make, tail)
    child = int(service.stdout.readline())
    try:
        service.kill()
        wait_until(lambda: not any(map(alive, workers)))
        assert alive(child)
    finally:
        os.kill(child, signal.SIGKILL)
        service.communicate()


def test_a_worker_in_the_middle_of_an_image_ends_with_its_service(tmp_path, make):
    big = tmp_path / "big.png"
    big.write_bytes(make.save(make.photo(16, 16).resize((8000, 8000), 0), "PNG"))
    tail = (
        f"asyncio.create_task(pool.fit(ImagePart(Path({str(big)!r}).read_bytes()),"
        " ImageLimits(('image/png',), 7900))); await asyncio.sleep(0.3);"
        " os.kill(os.getpid(), signal.SIGKILL)"
    )
    service, workers = start(tmp_path, make, tail)
    service.communicate()
    wait_until(lambda: not any(map(alive, workers)))


def test_a_service_that_ends_without_closing_leaves_nothing(tmp_path, make):
    service, workers = start(tmp_path, make, "pass")
    assert service.communicate()[0] == "done\n"
    wait_until(lambda: not any(map(alive, workers)))


def test_no_warning_is_lost():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        MediaPool(1).kill()


def test_a_worker_answers_until_its_socket_closes(make, monkeypatch):
    monkeypatch.setattr(worker, "_IDLE", 0.01)
    ours, theirs = (Channel(end) for end in socket.socketpair())
    thread = threading.Thread(target=worker.serve, args=(theirs, MAX_PIXELS))
    thread.start()
    try:
        assert ours.receive() == (b"ready", b"")
        for data, answer in (
            (make.save(make.photo(120, 90), "JPEG"), ResultHead("image/jpeg", 60, 45)),
            (b"rubbish", ResultHead(refusal=UNKNOWN)),
        ):
            wait_until(lambda: not ours.wait(0.05))
            ours.send(msgspec.json.encode(SMALL), data)
            head, made = ours.receive()
            assert msgspec.json.decode(head, type=ResultHead) == answer
            assert bool(made) == (not answer.refusal)
    finally:
        ours.close()
        thread.join(10)
        theirs.close()


@pytest.mark.parametrize("sent", [b"", b"\0\0\0\x09\0\0\0\0", b"\0\0\0\x02" + bytes(8) + b"{"])
def test_a_frame_cut_short_is_told(sent):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(sent)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            Channel(theirs).receive()


def test_a_frame_of_many_blocks_arrives_whole():
    ours, theirs = socket.socketpair()
    data = os.urandom(3_000_000)
    with ours, theirs:
        sending = threading.Thread(target=Channel(ours).send, args=(b"head", data))
        sending.start()
        assert Channel(theirs).receive() == (b"head", data)
        sending.join()


def test_an_image_that_was_made_in_time_is_read_although_this_process_stood_still(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("aiollm.media.ipc.monotonic", lambda: now[0])

    class Late(socket.socket):
        def recv(self, *arguments):
            got = super().recv(*arguments)
            now[0] = 100.0
            return got

    ours, theirs = socket.socketpair()
    with ours, Late(fileno=theirs.detach()) as end:
        Channel(ours).send(b"head", b"image")
        channel = Channel(end)
        channel.until = 30.0
        assert channel.receive() == (b"head", b"image")


def test_a_wire_out_of_time_says_so():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(ours)
        channel.until = time.monotonic() - 1
        with pytest.raises(TimeoutError):
            channel.send(b"late")
