"""Predictable threads and clocks, so that no test depends on the load of the machine."""

import contextlib
import queue
import threading
import time
import types

from jax_a3c.envs import host
from jax_a3c.optimizers import InPlaceTransformation
from jax_a3c.runners import workers

PATIENCE = 1800.0
"""Seconds after which a test stops waiting; a busy machine needs far less."""


class Clock:
    """Replace the module `time`; a test advances the clock."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class StandingClock:
    """Replace the module `time`; the clock stands still until something hangs."""

    def __init__(self, hangs):
        self._hangs, self._since = hangs, None

    def monotonic(self):
        if self._since is None and self._hangs():
            self._since = time.monotonic()
        return 0.0 if self._since is None else time.monotonic() - self._since


def patient(hangs, put=setattr):
    """Stop the clocks of workers and environments until one hangs: slow ones must not time out.

    Args:
      hangs: function that returns whether something hangs.
      put: function of `(module, name, value)`; pytest's `monkeypatch.setattr` undoes the change.
    """
    clock = StandingClock(hangs)

    class Queue(queue.SimpleQueue):
        """Queue whose timeouts follow that clock."""

        def get(self, block=True, timeout=None):
            if timeout is None:
                return super().get(block)
            deadline = clock.monotonic() + timeout
            while True:
                with contextlib.suppress(queue.Empty):
                    return super().get(timeout=0.05)
                if clock.monotonic() >= deadline:
                    raise queue.Empty

    put(workers, "time", clock)
    put(host, "queue", types.SimpleNamespace(SimpleQueue=Queue, Empty=queue.Empty))


def wait_until(condition):
    """Wait until a condition holds; fail after `PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {PATIENCE:g} seconds"
        time.sleep(0.001)


def meeting(optimizer, num_workers):
    """Return the optimizer without a lock; in its first update each worker waits for all others."""
    barrier, met = threading.Barrier(num_workers), set()

    def in_place(*args):
        if (worker := threading.current_thread().name) not in met:
            met.add(worker)
            barrier.wait(PATIENCE)
        optimizer.in_place(*args)

    return InPlaceTransformation(
        optimizer.init, optimizer.update, in_place, shares_moments=optimizer.shares_moments
    )
