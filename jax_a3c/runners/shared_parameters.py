"""Parameters that threads share without a lock: flat float32 buffers and exact counters.

This module uses NumPy only.
"""

import contextlib
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

ALIGNMENT = 64
"""Bytes: one cache line. XLA requires it of a buffer that it reads in place."""

COUNTERS = ("env_steps", "updates", "staleness_sum", "staleness_max")
"""The counters; each worker has a separate slot in every one."""


Rule = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int], None]
"""`(flat_params, moments, gradient, scratch, env_steps)`: `optimizers.InPlaceRule`."""


class Update(NamedTuple):
    """One update of the shared parameters, as data that could also cross to another process.

    Attributes:
      gradient: `[P]` float32. d theta; or the step to add to theta, if the shared parameters have
        no rule. Entries of running statistics are 0.
      statistics: `[S]` float32. What to add to the running statistics, the last S entries of the
        parameters. S is 0 without them.
      env_steps: t, the environment steps of the segment.
      metrics: `[M]` float32. Metrics of the segment, in the order of `packing.Packing.names`.
    """

    gradient: np.ndarray
    statistics: np.ndarray
    env_steps: int
    metrics: np.ndarray


class SharedParameters:
    """One parameter vector and the optimizer's shared moments, read and updated by many threads.

    Without a lock, reads and updates interleave element by element. A copy may mix two versions,
    and one of two simultaneous additions to an element may be lost. No 32-bit word is ever torn.
    Hogwild (Niu et al. 2011) and the paper give the same guarantees. With `lock=True` reads and
    updates exclude each other.

    The counters are exact in both modes, because each worker writes a separate slot. A target
    vector never changes while workers run: each copy is a new vector, so a thread that holds one
    sees one version.

    Attributes:
      flat_params: `[P]` float32, 64-byte aligned. theta.
      moments: `[P]` float32, 64-byte aligned. g, the optimizer's shared moments, initially 0.
      worker_moments: a vector `[P]` per worker for a rule that does not share moments, else None.
      target: `[P]` float32, 64-byte aligned. theta^-, the target network's parameters; None without
        one.
    """

    def __init__(
        self,
        initial: np.ndarray,
        num_workers: int,
        *,
        rule: Rule | None = None,
        shares_moments: bool = True,
        lock: bool = False,
        target_update_interval: int | None = None,
    ):
        """Copy `initial` into new shared buffers.

        Args:
          initial: `[P]` parameters.
          num_workers: threads that will read and apply.
          rule: how a gradient changes the parameters and the moments; None if updates bring the
            step to add instead of a gradient.
          shares_moments: whether the rule's moments are shared, or each worker has its own.
          lock: reads and updates exclude each other.
          target_update_interval: I_target, environment steps between two copies of the parameters
            to `target`; None for no target.
        """
        # theta, and the optimizer's shared moments g.
        self.flat_params = aligned_empty(initial.size)
        self.flat_params[:] = initial
        self.moments = aligned_empty(initial.size)
        self.moments[:] = 0.0
        self.worker_moments: list[np.ndarray] | None = None
        if rule is not None and not shares_moments:
            self.worker_moments = [np.zeros(initial.size, np.float32) for _ in range(num_workers)]
        self._rule = rule
        self._scratch = [aligned_empty(initial.size) for _ in range(num_workers if rule else 0)]

        # Locks, and the target theta^-.
        self._guard = threading.Lock() if lock else contextlib.nullcontext()
        self._target_interval = target_update_interval
        self._target_guard = threading.Lock()  # taken once per interval
        self._target_multiple = 0
        self.target = None if target_update_interval is None else _aligned_copy(self.flat_params)

        # Python adds a few integers ten times faster than NumPy, which matters under the
        # interpreter lock.
        self._env_steps = [0] * num_workers
        self._updates = [0] * num_workers
        self._staleness_sum = [0] * num_workers
        self._staleness_max = [0] * num_workers
        self._metric_sums = [np.zeros(0)] * num_workers

    @property
    def env_steps(self) -> int:
        """T, the environment steps of all workers together.

        Workers may add steps while the slots are summed. For each reader T never goes back.
        """
        return sum(self._env_steps)

    @property
    def updates(self) -> int:
        """Updates of all workers together, which is also the version of the parameters."""
        return sum(self._updates)

    @property
    def updates_per_worker(self) -> list[int]:
        """Updates of each worker."""
        return list(self._updates)

    @property
    def metric_sums(self) -> np.ndarray:
        """`[M]`. Sums of the metrics of all updates since `start_metrics`."""
        return np.sum(self._metric_sums, axis=0)

    @property
    def mean_staleness(self) -> float:
        """Mean number of updates by other workers between a worker's read and its update."""
        return sum(self._staleness_sum) / max(1, self.updates)

    @property
    def max_staleness(self) -> int:
        """Largest number of updates by other workers between a worker's read and its update."""
        return max(self._staleness_max)

    def snapshot(self) -> dict[str, np.ndarray]:
        """Return copies of the moments, the target and the counters.

        Call it while no worker updates.
        """
        arrays: dict[str, Any] = {"moments": self.moments.copy()}
        if self.target is not None:
            arrays |= {
                "target": self.target.copy(),
                "target_multiple": np.int64(self._target_multiple),
            }
        return arrays | {name: np.array(getattr(self, f"_{name}"), np.int64) for name in COUNTERS}

    def restore(self, flat_params: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Restore parameters `[P]` and the arrays that `snapshot` returned."""
        self.flat_params[:] = flat_params
        self.moments[:] = arrays["moments"]
        for name in COUNTERS:
            setattr(self, f"_{name}", arrays[name].tolist())

        if self.target is not None and self._target_interval is not None:
            self.target[:] = arrays["target"]
            # The interval may be longer than in the saved run: never expect a multiple beyond T.
            multiple = self.env_steps // self._target_interval
            self._target_multiple = min(int(arrays["target_multiple"]), multiple)

    def read(self, out: np.ndarray) -> int:
        """Copy theta into `out` `[P]`, the worker's theta', and return the version."""
        with self._guard:
            version = self.updates
            np.copyto(out, self.flat_params)  # theta' <- theta
        return version

    def start_metrics(self, num_metrics: int) -> None:
        """Start the sums of M metrics at 0."""
        self._metric_sums = [np.zeros(num_metrics)] * len(self._updates)

    def apply(self, worker: int, version: int, update: Update) -> None:
        """Count an update's steps and metrics, and apply it to the shared buffers in place.

        Then copy the parameters to the target if T has crossed one or more multiples of the
        interval since the last copy. Steps of all workers count.

        Args:
          worker: number of the worker whose update this is.
          version: returned by `read` for the parameters from which the update was computed.
          update: the update.
        """
        self._env_steps[worker] += update.env_steps  # T <- T + t, once per segment
        env_steps = self.env_steps
        # Replace the row, so that a report never sees half of a segment's metrics.
        self._metric_sums[worker] = self._metric_sums[worker] + update.metrics

        with self._guard:
            staleness = self.updates - version
            self._change(worker, update, env_steps)  # theta <- theta - step(d theta)
            self._updates[worker] += 1

            # theta^- <- theta if T has crossed a multiple of I_target.
            if self._target_interval is not None:
                self._follow(self.env_steps // self._target_interval)

        self._staleness_sum[worker] += staleness
        self._staleness_max[worker] = max(self._staleness_max[worker], staleness)

    def _change(self, worker: int, update: Update, env_steps: int) -> None:
        """Write an update to the buffers; running statistics stand at the end of the parameters."""
        end = self.flat_params.size - update.statistics.size  # of the weights
        weights = self.flat_params[:end]

        if self._rule is None:
            np.add(weights, update.gradient[:end], out=weights)
        else:
            moments = self.moments if self.worker_moments is None else self.worker_moments[worker]
            scratch = self._scratch[worker]
            self._rule(weights, moments[:end], update.gradient[:end], scratch[:end], env_steps)

        self.flat_params[end:] += update.statistics

    def _follow(self, multiple: int) -> None:
        """Copy the parameters to the target unless it was already copied at this multiple."""
        if multiple > self._target_multiple:
            with self._target_guard:
                if multiple > self._target_multiple:  # another worker may have copied meanwhile
                    self.target = _aligned_copy(self.flat_params)  # theta^- <- theta
                    self._target_multiple = multiple


def _aligned_copy(vector: np.ndarray) -> np.ndarray:
    copy = aligned_empty(vector.size)
    np.copyto(copy, vector)
    return copy


def aligned_empty(size: int) -> np.ndarray:
    """Return an uninitialised float32 vector of `size` entries, aligned to 64 bytes."""
    raw = np.empty(size * 4 + ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % ALIGNMENT
    return raw[start : start + size * 4].view(np.float32)
