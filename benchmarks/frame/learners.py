"""Learners under measurement: one that trains by the clock, learning curves, proof of learning."""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jax_a3c.experiment.build import build
from jax_a3c.runners.base import Progress
from jax_a3c.settings.run import Settings
from jax_a3c.training.metrics import interval_metrics

FOREVER = 10**9
"""Total steps of a learner that is stopped by the clock: its learning rate stays where it is."""
INTERVAL = 0.05
"""Seconds between two looks at the clock while a learner runs."""


class Learning:
    """A method of jax_a3c that trains for some seconds at a time, and resumes where it stopped."""

    def __init__(self, name: str, method: str, env_id: str, settings: Settings):
        """Build the method and start its environments; the first call compiles."""
        self._name = name
        self._runner = build(method, env_id, settings).runner
        self._state: Any = self._runner.init(0)
        self._env_steps = 0
        self._weights = self._copy_of_weights()

    def __call__(self, seconds: float) -> int:
        """Train; return the environment steps, without those that only reset."""
        result = self._runner.run(
            self._state,
            until=FOREVER,
            callback=lambda progress: progress.seconds >= seconds,
            interval=INTERVAL,
        )

        taken = result.progress.env_steps - self._env_steps
        self._state = result.state
        self._env_steps = result.progress.env_steps
        return taken

    def close(self) -> None:
        """Close the environments; raise RuntimeError if the method did not learn."""
        check_learned(self._name, self._weights, self._copy_of_weights())
        self._runner.close(self._state)

    def _copy_of_weights(self) -> list[np.ndarray]:
        # Without the running statistics, which always move.
        return copy_of_weights(self._runner.params(self._state)["params"])


class Curve:
    """The learning curve of a run, taken from the progress that its callback sees.

    Attributes:
      moments: progress at each point, from the start on.
    """

    def __init__(self, total_timesteps: int, points: int = 100):
        """Take about that many points of a run of `total_timesteps`."""
        self._distance = total_timesteps / points
        self.moments = [Progress(0, 0, 0.0, {}, [])]

    def __call__(self, progress: Progress) -> None:
        """Keep the progress if it is far enough from the last point."""
        if progress.env_steps - self.moments[-1].env_steps >= self._distance:
            self.moments.append(progress)

    def rows(self) -> list[dict[str, Any]]:
        """Return the metrics between neighbouring points, where at least one episode ended."""
        intervals = [interval_metrics(*pair) for pair in itertools.pairwise(self.moments)]
        return [interval for interval in intervals if interval["episodes"]]


def copy_of_weights(params: Any) -> list[np.ndarray]:
    """Copy the leaves of a tree of parameters; a program may reuse the buffers it is given."""
    return [np.array(leaf) for leaf in jax.tree.leaves(params)]


def check_learned(name: str, before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> None:
    """Raise RuntimeError unless every array moved and is finite."""
    for old, new in zip(before, after, strict=True):
        if np.array_equal(old, new) or not np.isfinite(new).all():
            raise RuntimeError(
                f"{name} did not learn: some parameters did not move or are not finite"
            )
