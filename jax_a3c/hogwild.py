"""Parameters that threads share without a lock: flat float32 buffers and exact counters. NumPy only."""

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes; a cache line, and what XLA asks of a buffer that it reads in place."""

COUNTERS = ("env_steps", "updates", "staleness_sum", "staleness_max")
"""What each worker counts for itself."""


class SharedParameters:
    """One parameter vector and its optimizer statistics, read and updated by many threads.

    Without a lock, reads and updates interleave element by element: a snapshot may mix two versions and
    one of two simultaneous additions to an element may be lost. No word is ever torn. This is the contract
    of Hogwild (Niu et al. 2011) and of the paper. With `lock=True` reads and updates exclude each other.

    The counters are exact in both modes: each worker writes a slot of its own. The target parameters are
    never written: each copy is a new vector, so that who holds one holds it whole.

    Attributes:
      parameters: `[P]` float32, 64-byte aligned. theta.
      statistics: `[P]` float32, 64-byte aligned. The shared statistics of the optimizer, from 0.
      target: `[P]` float32, 64-byte aligned. The target network's parameters, theta^-; None without one.
    """

    def __init__(
        self,
        initial: np.ndarray,
        num_workers: int,
        *,
        lock: bool = False,
        target_update_interval: int | None = None,
    ):
        """Copy `initial` into fresh shared buffers.

        Args:
          initial: `[P]` parameters.
          num_workers: threads that will count, read and apply.
          lock: reads and updates exclude each other.
          target_update_interval: environment steps between two copies of the parameters to `target`, None for
            no target.
        """
        self.parameters = aligned_empty(initial.size)
        self.parameters[:] = initial
        self.statistics = aligned_empty(initial.size)
        self.statistics[:] = 0.0
        self._guard = threading.Lock() if lock else contextlib.nullcontext()
        self._target_interval = target_update_interval
        self._target_guard = threading.Lock()  # taken once per interval
        self._target_multiple = 0
        self.target = None if target_update_interval is None else _aligned_copy(self.parameters)
        # Python's integers: to add up a few of them takes a tenth of the time that NumPy needs, and all of
        # that time is under the interpreter lock.
        self._env_steps = [0] * num_workers
        self._updates = [0] * num_workers
        self._staleness_sum = [0] * num_workers
        self._staleness_max = [0] * num_workers

    @property
    def env_steps(self) -> int:
        """T, the environment steps of all workers together."""
        return sum(self._env_steps)

    @property
    def updates(self) -> int:
        """Updates of all workers together; also the version of the parameters."""
        return sum(self._updates)

    @property
    def updates_per_worker(self) -> list[int]:
        """Updates of each worker."""
        return list(self._updates)

    @property
    def mean_staleness(self) -> float:
        """Updates by others between a worker's read and its own update, on average over all updates."""
        return sum(self._staleness_sum) / max(1, self.updates)

    @property
    def max_staleness(self) -> int:
        """The largest number of updates by others between a read and the update based on it."""
        return max(self._staleness_max)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Copies of all but the parameters: statistics, target and counters. While nobody updates."""
        arrays: dict[str, Any] = {"statistics": self.statistics.copy()}
        if self.target is not None:
            arrays |= {
                "target": self.target.copy(),
                "target_multiple": np.int64(self._target_multiple),
            }
        return arrays | {name: np.array(getattr(self, f"_{name}"), np.int64) for name in COUNTERS}

    def restore(self, parameters: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Go on from parameters `[P]` and what `snapshot` gave."""
        self.parameters[:] = parameters
        self.statistics[:] = arrays["statistics"]
        for name in COUNTERS:
            setattr(self, f"_{name}", arrays[name].tolist())
        if self.target is not None and self._target_interval is not None:
            self.target[:] = arrays["target"]
            multiple = self.env_steps // self._target_interval  # it may be longer now than it was
            self._target_multiple = min(int(arrays["target_multiple"]), multiple)

    def read(self, out: np.ndarray) -> int:
        """Copy the parameters into `out` `[P]`, the paper's theta' <- theta; return their version."""
        with self._guard:
            version = self.updates
            np.copyto(out, self.parameters)
        return version

    def count(self, worker: int, env_steps: int) -> int:
        """Add environment steps of `worker`; return T, those of all workers."""
        self._env_steps[worker] += env_steps
        return self.env_steps

    def apply(
        self, worker: int, version: int, change: Callable[[np.ndarray, np.ndarray], None]
    ) -> None:
        """Let `change(parameters, statistics)` update the shared buffers in place.

        Afterwards the target follows, if the steps counted so far have crossed a multiple of its interval
        since it was last copied, one or several, and whoever counted them.

        Args:
          worker: whose update this is.
          version: what `read` returned for the parameters that the update was computed from.
          change: writes to both buffers; it is called under the lock if there is one.
        """
        with self._guard:
            staleness = self.updates - version
            change(self.parameters, self.statistics)
            self._updates[worker] += 1
            if self._target_interval is not None:
                self._follow(self.env_steps // self._target_interval)
        self._staleness_sum[worker] += staleness
        self._staleness_max[worker] = max(self._staleness_max[worker], staleness)

    def _follow(self, multiple: int) -> None:
        """Copy the parameters to the target, once for each crossing of a multiple of the interval."""
        if multiple > self._target_multiple:
            with self._target_guard:
                if multiple > self._target_multiple:
                    self.target = _aligned_copy(self.parameters)
                    self._target_multiple = multiple


def _aligned_copy(vector: np.ndarray) -> np.ndarray:
    copy = aligned_empty(vector.size)
    np.copyto(copy, vector)
    return copy


def aligned_empty(size: int) -> np.ndarray:
    """Uninitialised float32 vector of `size` entries whose first byte stands on a multiple of 64."""
    raw = np.empty(size * 4 + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * 4].view(np.float32)
