"""What makes threads and clocks predictable, so that no test depends on how busy the machine is."""

import threading
import time

from jax_a3c.optimizers import InPlaceTransformation

PATIENCE = 600.0
"""Seconds after which a test gives up waiting: far more than a busy machine needs."""


class Clock:
    """Stands in for the module `time`: time passes when a test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


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
