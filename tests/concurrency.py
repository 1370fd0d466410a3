"""What makes threads and clocks predictable, so that no test depends on how busy the machine is."""

import contextlib
import queue
import threading
import time
import types

from jax_a3c import workers
from jax_a3c.envs import host
from jax_a3c.optimizers import InPlaceTransformation

PATIENCE = 1800.0
"""Seconds after which a test gives up waiting: far more than a busy machine needs."""


class Clock:
    """Stands in for the module `time`: time passes when a test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class StandingClock:
    """Stands in for the module `time`, and stands still until something hangs."""

    def __init__(self, hangs):
        self._hangs, self._since = hangs, None

    def monotonic(self):
        if self._since is None and self._hangs():
            self._since = time.monotonic()
        return 0.0 if self._since is None else time.monotonic() - self._since


def patient(hangs, put=setattr):
    """Let no worker and no environment count as hung until one `hangs()`: what is only slow takes no time.

    Args:
      hangs: whether something does.
      put: `(module, name, value)`; pytest's `monkeypatch.setattr` takes it back.
    """
    clock = StandingClock(hangs)

    class Queue(queue.SimpleQueue):
        """Waits by that clock."""

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
    """Wait until a condition holds; fail after `PATIENCE`."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"nothing happened within {PATIENCE:g} seconds"
        time.sleep(0.001)


def meeting(optimizer, num_workers):
    """The optimizer, without a lock, with first updates in which the workers wait until all have come."""
    barrier, met = threading.Barrier(num_workers), set()

    def in_place(*args):
        if (worker := threading.current_thread().name) not in met:
            met.add(worker)
            barrier.wait(PATIENCE)
        optimizer.in_place(*args)

    return InPlaceTransformation(
        optimizer.init, optimizer.update, in_place, shares_statistics=optimizer.shares_statistics
    )
