"""What all runners share: the progress and the result of training."""

from typing import Any, NamedTuple

from jax_a3c.types import Params


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
