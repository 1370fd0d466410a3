"""Worker threads under supervision: an exception or a hang is raised in the caller's thread."""

import contextlib
import faulthandler
import queue
import sys
import threading
import time
from collections.abc import Callable

from jax_a3c.errors import WorkerHangError


class Workers:
    """Threads that run a function, one per worker, until all have returned or one has failed."""

    def __init__(self, count: int, *, timeout: float | None = None):
        """Store the settings; `run` starts the threads.

        Args:
          count: number of workers.
          timeout: seconds between two calls of `go_on` after which a worker counts as hung; None
            for no limit.
        """
        self._count = count
        self._timeout = timeout
        self._stop = threading.Event()
        self._outcomes: queue.SimpleQueue[tuple[int, BaseException | None]] = queue.SimpleQueue()
        # Of the workers that have not ended. The calling thread alone adds and removes keys, so it
        # may iterate while workers write.
        self._heartbeats: dict[int, float] = {}

    def go_on(self, worker: int) -> bool:
        """Return whether a worker should continue, and record that it is alive."""
        self._heartbeats[worker] = time.monotonic()
        return not self._stop.is_set()

    def run(
        self, work: Callable[[int], None], *, interval: float, report: Callable[[], bool]
    ) -> None:
        """Run all workers and wait for them.

        When this method returns or raises, every thread has ended, except one that hangs.

        Args:
          work: function of one worker; it takes the worker's number.
          interval: seconds between two reports.
          report: called in this thread. Once it returns True, `go_on` returns False.

        Raises:
          BaseException: the first one that a worker raised, with the worker's number.
          WorkerHangError: if a worker did not call `go_on` for `timeout` seconds. The stacks of all
            threads are then on stderr.
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
            # The time limit of a worker begins before its thread does.
            for worker, thread in enumerate(threads):
                self.go_on(worker)
                thread.start()
                started.append(thread)

            running = len(threads)
            reported = time.monotonic()
            while running:
                # Wait for a worker to end, but not past the next report or check for hangs.
                wait = interval if self._timeout is None else min(interval, self._timeout / 4)
                with contextlib.suppress(queue.Empty):
                    worker, error = self._outcomes.get(timeout=wait)
                    self._heartbeats.pop(worker)
                    running -= 1
                    if error is not None:
                        raise error

                # Report, and stop all workers if the caller asks for it.
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
        """Run one worker and pass its result, or its exception, to the caller's thread."""
        try:
            work(worker)
            self._outcomes.put((worker, None))
        except BaseException as error:
            error.add_note(f"raised in worker {worker} of {self._count}; all workers have ended")
            self._outcomes.put((worker, error))

    def _hung(self) -> int | None:
        """Return the worker that was last seen longer ago than `timeout`, or None."""
        if self._timeout is None or not self._heartbeats:
            return None
        worker, last = min(self._heartbeats.items(), key=lambda item: item[1])
        return worker if time.monotonic() - last > self._timeout else None

    def _hang(self, worker: int) -> WorkerHangError:
        """Write the stacks of all threads to stderr and return the error for a hung worker."""
        if sys.__stderr__ is not None:
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
        return WorkerHangError(
            f"worker {worker} of {self._count} hangs: no segment ended within {self._timeout:g} "
            "seconds; the stacks of all threads are on stderr; if a segment may take longer, raise "
            "worker_timeout"
        )

    def _join(self, threads: list[threading.Thread], hung: int | None) -> None:
        """Wait for the threads to end; a Ctrl-C meanwhile is raised afterwards.

        A thread cannot be stopped from outside. A thread that hangs is left behind, and so are the
        threads that wait for it. They are daemon threads, so they do not keep the process alive.
        """
        interrupt = None
        # Give the others as long as one segment may take.
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
