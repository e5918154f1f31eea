"""The worker processes and the threads that talk to them; jobs run in order.

One thread waits for one process, so that no image data passes through the event loop, and it works
with any event loop or none.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor

from aiollm._validation import is_seconds
from aiollm.errors import ClosedError, ConfigError, UnsupportedError
from aiollm.media.limits import FittedImage, ImageLimits
from aiollm.media.process import WorkerDied, WorkerProcess
from aiollm.types import _shown

_MOST = 4


class LostError(UnsupportedError):
    """The worker died or took too long; it may succeed another time or on another machine."""


class Job:
    """One image to fit."""

    def __init__(self, data: bytes, limits: ImageLimits) -> None:
        self.data = data
        self.limits = limits
        self.future: Future[FittedImage]
        self.process: WorkerProcess | None = None
        self.given_up = False
        self.waiting = 0
        """The number of callers that wait for it."""


class Workers:
    """Up to `workers` processes, each started when a job finds no idle one."""

    def __init__(self, workers: int | None, time_limit: float, memory_limit: int) -> None:
        self.processes: set[WorkerProcess] = set()
        _check_limits(workers, time_limit, memory_limit)
        self._isolated = workers != 0 and _can_isolate()
        self._count = workers or (_cores() if workers is None else 1)
        self._time_limit = time_limit
        self._memory_limit = memory_limit
        self._threads: ThreadPoolExecutor | None = None
        self._idle: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self.closed: bool = False

    def __del__(self) -> None:
        if self.processes:
            warnings.warn("a MediaPool was not closed", ResourceWarning, stacklevel=1, source=self)
            self.kill()
            self.reap(join=False)

    def start(self, data: bytes, limits: ImageLimits) -> Job:
        """Queue an image; the job's future gets its result."""
        if self.closed:
            raise ClosedError("the image workers are closed")
        if self._threads is None:
            count = self._count if self._isolated else 1
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="aiollm-media")
        job = Job(data, limits)
        job.future = self._threads.submit(self._run, job)
        return job

    def give_up(self, job: Job) -> None:
        """Remove a job from the queue, or stop the process that works on it."""
        with self._lock:
            job.given_up = True
            if not job.future.cancel() and job.process is not None:
                job.process.kill()

    def kill(self) -> bool:
        """End all processes; return whether any must be reaped.

        Jobs in progress or in the queue fail with ClosedError.
        """
        with self._lock:
            self.closed = True
            for process in self.processes:
                process.kill()
        return self._threads is not None

    def reap(self, *, join: bool) -> None:
        """Wait some milliseconds for idle processes that `kill` ended, with `join` for threads."""
        with self._lock:
            idle, self._idle = self._idle, []
        for process in idle:
            self._stop(process)
        if self._threads is not None:
            self._threads.shutdown(wait=join)

    def _run(self, job: Job) -> FittedImage:
        if not self._isolated:
            from aiollm.media.transform import transform

            return transform(job.data, job.limits)
        process = self._take(job)
        try:
            return process.transform(job.data, job.limits, self._time_limit)
        except TimeoutError:
            reason = f"it took more than {self._time_limit:g} s and was stopped"
        except WorkerDied as fate:
            if self.closed:
                raise ClosedError("the image workers were closed") from None
            reason = f"the worker process that read it {fate}"
        finally:
            self._give_back(job, process)
        raise LostError(reason)

    def _take(self, job: Job) -> WorkerProcess:
        process = self._idle_process() or self._new_process()
        # `kill` and `give_up` hold this lock, too: whichever comes first, the process is ended.
        with self._lock:
            self.processes.add(process)
            job.process = process
            if not self.closed and not job.given_up:
                return process
        self._give_back(job, process)
        raise ClosedError("the image workers were closed")

    def _idle_process(self) -> WorkerProcess | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                process = self._idle.pop()
            if process.alive:
                return process
            self._stop(process)

    def _new_process(self) -> WorkerProcess:
        try:
            return WorkerProcess(self._memory_limit)
        except OSError as error:
            reason = f"could not start a worker process: {error}"
        raise LostError(reason)

    def _give_back(self, job: Job, process: WorkerProcess) -> None:
        with self._lock:
            job.process = None
            if process.alive and not job.given_up and not self.closed:
                self._idle.append(process)
                return
        self._stop(process)

    def _stop(self, process: WorkerProcess) -> None:
        # Outside the lock, because stopping waits, and the event loop takes that lock, too.
        process.stop()
        with self._lock:
            self.processes.discard(process)


def _check_limits(workers: object, time_limit: object, memory_limit: object) -> None:
    if workers is not None and (type(workers) is not int or workers < 0):
        raise ConfigError(f"workers is {_shown(workers)}: expected 0 or more, or None")
    if not is_seconds(time_limit):
        raise ConfigError(f"time_limit is {_shown(time_limit)}: expected seconds above 0")
    if type(memory_limit) is not int or memory_limit < 1:
        raise ConfigError(f"memory_limit is {_shown(memory_limit)}: expected bytes, 1 or more")


def _cores() -> int:
    """Return how many processors this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, _MOST)


def _can_isolate() -> bool:
    """Return whether this interpreter can start another on a socket: not frozen, not Windows."""
    return os.name == "posix" and bool(sys.executable) and not getattr(sys, "frozen", False)
