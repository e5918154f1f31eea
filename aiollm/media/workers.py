"""The worker processes and the threads that talk to them; jobs run in order.

One thread waits for one process, so that no image data passes through the event loop, and it works
with any event loop or none.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

from aiollm._validation import is_seconds
from aiollm.errors import ClosedError, ConfigError, LocalError, UnsupportedError
from aiollm.media.limits import FittedImage, ImageLimits
from aiollm.media.process import Budget, WorkerDied, WorkerMissing, WorkerProcess
from aiollm.types import _shown

_MOST = 4
_RETRY = 60.0
"""Seconds until a process is tried again after one could not be started."""
_log = logging.getLogger("aiollm")


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
    """Up to `workers` processes, each started when a job finds no idle one.

    Where none can be started, a thread of this process does the work, one image at a time.
    """

    def __init__(self, workers: int | None, budget: Budget) -> None:
        self.processes: set[WorkerProcess] = set()
        _check_limits(workers, budget)
        self._isolated = workers != 0 and _can_isolate()
        self._count = workers or (_cores() if workers is None else 1)
        self._budget = budget
        self._warned = False
        self._retry_at = 0.0
        self.closed: bool = False
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        self._threads: ThreadPoolExecutor | None = None
        self._idle: list[WorkerProcess] = []
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def _leave_to_parent(self) -> None:
        """Begin anew in a process that was forked: threads and workers are the parent's."""
        if self._owner == os.getpid():
            return
        theirs, self.processes = self.processes, set()
        for process in theirs:
            process.abandon()
        self._begin()

    def __del__(self) -> None:
        if self.processes and self._owner == os.getpid():
            warnings.warn("a MediaPool was not closed", ResourceWarning, stacklevel=1, source=self)
            self.kill()
            self.reap(join=False)

    def start(self, data: bytes, limits: ImageLimits) -> Job:
        """Queue an image; the job's future gets its result. Raises: ClosedError, LocalError."""
        if self.closed:
            raise ClosedError("the image workers are closed")
        self._leave_to_parent()
        if self._threads is None:
            count = self._count if self._isolated else 1
            self._threads = ThreadPoolExecutor(count, thread_name_prefix="aiollm-media")
        job = Job(data, limits)
        try:
            job.future = self._threads.submit(self._run, job)
        except RuntimeError as error:
            job.given_up = True  # it may be in the queue all the same
            reason = f"no thread can be started to fit an image: {error}"
        else:
            return job
        raise LocalError(reason)

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
        self._leave_to_parent()
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
        if not self._isolated or monotonic() < self._retry_at:
            return self._in_this_process(job)
        try:
            process = self._take(job)
            return self._in_process(job, process)
        except WorkerMissing as error:
            reason = str(error)
        self._warn(reason)
        return self._in_this_process(job)

    def _in_process(self, job: Job, process: WorkerProcess) -> FittedImage:
        try:
            return process.transform(job.data, job.limits)
        except TimeoutError:
            reason = f"it took more than {self._budget.seconds:g} s and was stopped"
        except WorkerDied as fate:
            if self.closed:
                raise ClosedError("the image workers were closed") from None
            reason = f"the worker process that read it {fate}"
        finally:
            self._give_back(job, process)
        raise LostError(reason)

    def _in_this_process(self, job: Job) -> FittedImage:
        from aiollm.media.transform import transform

        with self._one_at_a_time:
            if self.closed or job.given_up:
                raise ClosedError("the image workers were closed")
            return transform(job.data, job.limits, self._budget.max_pixels)

    def _warn(self, reason: str) -> None:
        with self._lock:
            self._retry_at = monotonic() + _RETRY
            first, self._warned = not self._warned, True
        if first:
            _log.warning(
                "no process can be started to read images, so a thread of this one does, without "
                "a limit of time or memory: %s (image_workers=0 does the same without this line)",
                reason,
            )

    def _take(self, job: Job) -> WorkerProcess:
        process = self._idle_process() or WorkerProcess(self._budget)
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


def _check_limits(workers: object, budget: Budget) -> None:
    if workers is not None and (type(workers) is not int or workers < 0):
        raise ConfigError(f"workers is {_shown(workers)}: expected 0 or more, or None")
    if not is_seconds(budget.seconds):
        raise ConfigError(f"time_limit is {_shown(budget.seconds)}: expected seconds above 0")
    if type(budget.memory) is not int or budget.memory < 1:
        raise ConfigError(f"memory_limit is {_shown(budget.memory)}: expected bytes, 1 or more")


def _cores() -> int:
    """Return how many processors this process may use."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, _MOST)


def _can_isolate() -> bool:
    """Return whether another interpreter can be started on a socket: not frozen, not Windows."""
    return os.name == "posix" and not getattr(sys, "frozen", False)
