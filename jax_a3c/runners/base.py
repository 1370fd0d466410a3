"""The protocol of all runners, and the progress and the result of training."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax_a3c.types import Array, Params

Callback = Callable[["Progress"], bool | None]
"""Called with the progress of a run; training stops early when it returns True."""


class Progress(NamedTuple):
    """Counts and sums of a run so far, as Python numbers.

    Attributes:
      env_steps: environment steps of all environments since the start of the run.
      updates: updates of the parameters since the start of the run.
      seconds: seconds since training started in this call, without compilation.
      metric_sums: sums over the updates of this call: the metrics of the objective, the ones that
        `objectives.gradient` adds, and `episodes, episode_return, episode_length` over all episodes
        that ended.
      updates_per_worker: updates of each worker; one entry for the synchronous runner.
      mean_staleness: mean number of updates by other workers between a worker's read and its
        update; 0 for one worker.
      max_staleness: the largest such number.
    """

    env_steps: int
    updates: int
    seconds: float
    metric_sums: dict[str, float]
    updates_per_worker: list[int]
    mean_staleness: float = 0.0
    max_staleness: int = 0


class TrainingResult(NamedTuple):
    """The result of training.

    Attributes:
      params: final variables of the network.
      state: state to continue from.
      progress: counts, sums and staleness.
      env_steps_per_second: rate of this call, without compilation.
      compile_seconds: seconds of compilation in this call; 0 if it was done before.
    """

    params: Params
    state: Any
    progress: Progress
    env_steps_per_second: float
    compile_seconds: float


class Runner(Protocol):
    """Trains an objective: decides who applies its gradient.

    `State` is the runner's own type: `SynchronousState`, `AsynchronousState`.
    """

    def init(self, key: Array | int) -> Any:
        """Start a run: new parameters and environments, from a random key or a seed."""

    def run(
        self, state: Any, *, until: int, callback: Callback | None = None, interval: float = 0.5
    ) -> TrainingResult:
        """Train until all environments together have taken `until` steps.

        Args:
          state: state to continue from.
          until: environment steps since the start of the run.
          callback: called about every `interval` seconds, and once at the end.
          interval: seconds, above 0.
        """

    def params(self, state: Any) -> Params:
        """Return the network's variables in a state."""

    def counts(self, state: Any) -> tuple[int, int]:
        """Return the environment steps and the updates so far."""

    def save(self, state: Any) -> dict[str, Any]:
        """Return a state as a tree of arrays, `{"variables": params, "state": everything else}`.

        Host environments cannot be saved; of their actors the tree holds the keys and exploration.
        """

    def restore(self, tree: dict[str, Any], fresh: Any = None) -> Any:
        """Return the state that was saved.

        Args:
          tree: from `save`.
          fresh: a state from `init`, whose host environments the restored one takes over; None to
            start one here.
        """

    def start_from(self, state: Any, params: Params) -> Any:
        """Return a fresh state with other network variables, in the target network too."""

    def last_state(self, state: Any) -> Any:
        """Return the newest state after `run` failed with `state`; None if it was lost."""

    def close(self, state: Any) -> None:
        """Close the host environments of a state. JAX environments need no closing."""
