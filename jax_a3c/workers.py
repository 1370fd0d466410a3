"""Worker threads under watch: the caller's thread knows at once what one raises, and that one hangs."""

import contextlib
import faulthandler
import queue
import sys
import threading
import time
from collections.abc import Callable

from jax_a3c.checks import WorkerHangError


class Workers:
    """Runs a function on threads, one for each worker, until all have returned or one has failed."""

    def __init__(self, count: int, *, timeout: float | None = None):
        """Nothing is started yet.

        Args:
          count: number of workers.
          timeout: seconds between two calls of `go_on` after which a worker counts as hung, None for ever.
        """
        self._count = count
        self._timeout = timeout
        self._stop = threading.Event()
        self._outcomes: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        self._heartbeats: dict[int, float] = {}  # of the workers that have not ended

    def go_on(self, worker: int) -> bool:
        """Whether a worker should do its next piece of work; that it asks shows that it lives."""
        self._heartbeats[worker] = time.monotonic()
        return not self._stop.is_set()

    def run(
        self, work: Callable[[int], None], *, interval: float, report: Callable[[], bool]
    ) -> None:
        """Let every worker work; when this returns or raises, none does any more, but for one that hangs.

        Args:
          work: of one worker.
          interval: seconds between two reports.
          report: called in this thread; when it returns True, `go_on` answers False from then on.

        Raises:
          BaseException: the first one that a worker raised, with the worker's number.
          WorkerHangError: if a worker gives no sign of life; the stacks of all threads are on stderr.
        """
        threads = [
            threading.Thread(
                target=self._guarded, args=(work, i), name=f"a3c-worker-{i}", daemon=True
            )
            for i in range(self._count)
        ]
        hung: int | None = None
        started: list[threading.Thread] = []
        try:
            for worker, thread in enumerate(threads):
                self.go_on(worker)
                thread.start()
                started.append(thread)
            running, reported = len(threads), time.monotonic()
            while running:
                wait = interval if self._timeout is None else min(interval, self._timeout / 4)
                with contextlib.suppress(queue.Empty):
                    worker, error = self._outcomes.get(timeout=wait)
                    self._heartbeats.pop(worker)
                    running -= 1
                    if error is not None:
                        raise error
                if time.monotonic() - reported >= interval:
                    if running and report():
                        self._stop.set()
                    reported = time.monotonic()
                hung = self._hung()
                if hung is not None:
                    raise self._hang(hung)
        finally:
            self._stop.set()
            self._join(started, hung)

    def _guarded(self, work: Callable[[int], None], worker: int) -> None:
        try:
            work(worker)
            self._outcomes.put((worker, None))
        except BaseException as error:
            error.add_note(f"raised in worker {worker} of {self._count}; all workers have ended")
            self._outcomes.put((worker, error))

    def _hung(self) -> int | None:
        """The worker that has been silent for too long, if there is one."""
        if self._timeout is None or not self._heartbeats:
            return None
        worker, last = min(self._heartbeats.items(), key=lambda item: item[1])
        return worker if time.monotonic() - last > self._timeout else None

    def _hang(self, worker: int) -> WorkerHangError:
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        return WorkerHangError(
            f"worker {worker} of {self._count} hangs: no segment ended within {self._timeout:g} seconds; the "
            "stacks of all threads are on stderr. If segments may take so long, set worker_timeout higher"
        )

    def _join(self, threads: list[threading.Thread], hung: int | None) -> None:
        """Wait for the threads, also if Ctrl-C comes meanwhile; it is raised when they have ended.

        A thread cannot be ended from outside. One that hangs is left behind, and those that wait for it with
        it; they do not keep the process alive.
        """
        interrupt = None
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        if hung is not None:
            threads = threads[:hung] + threads[hung + 1 :]
        while threads:
            try:
                threads[0].join(None if deadline is None else max(0.0, deadline - time.monotonic()))
                threads = threads[1:]
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
