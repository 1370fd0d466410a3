"""Data types that pass between environments, rollouts, objectives and runners.

Symbols in all docstrings of the package:

    T    time, always the leading axis of a rollout (time-major)
    *B   any number of batch axes, for example the environments of a runner
    A    number of actions, or the size of an action vector
    N    number of parallel environments, the batch axis of the runners
"""

from typing import Any, NamedTuple

import jax

Array = jax.Array
Params = Any
"""A pytree of arrays: the variables of a Flax module."""
Carry = Any
"""Recurrent state, a pytree of `[*B, ...]` arrays; `()` for a feed-forward network."""
Metrics = dict[str, Array]
"""A scalar for each name."""


class TimeStep(NamedTuple):
    """The result of one action, before any reset.

    Attributes:
      observation: `[*B, ...]`. s_{t+1}. At the end of an episode it is the final observation, never
        the first one of the next episode.
      reward: `[*B]` float32. r_t, in reward units.
      terminated: `[*B]` bool. The task ended, so the value of s_{t+1} is 0.
      truncated: `[*B]` bool. The episode was cut, for example by a time limit: bootstrap from
        s_{t+1}. Where both flags are set the episode terminated.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array


class Transition(NamedTuple):
    """One step of data, `[*B]`.

    Attributes:
      observation: s_t.
      reset: bool. s_t is the first observation of an episode, so the network resets its carry.
      action: a_t.
      reward: r_t, as the environment returned it.
      terminated: bool. The step from s_t terminated the episode.
      truncated: bool. The step from s_t truncated the episode.
      next_observation: s_{t+1} before any reset; None in a rollout with `last_observation`.
      next_carry: recurrent state after s_t, with which s_{t+1} is valued; None in a rollout with
        `last_observation`.
      mask: bool. False where the row is not an environment step: in the rest of a segment after the
        episode's end, and where a host environment only resets.
      next_action: a_{t+1}, which the behaviour chose in s_{t+1}; None if the objective does not
        need it.
      discounted_return: r_t + gamma r_{t-1} + ..., back to the start of the episode; None if it is
        not needed.
      layers: activations of the network's layers, stored when the policy acted on s_t; None if the
        loss computes them.
    """

    observation: Array
    reset: Array
    action: Array
    reward: Array
    terminated: Array
    truncated: Array
    next_observation: Any
    next_carry: Carry
    mask: Array
    next_action: Array | None = None
    discounted_return: Array | None = None
    layers: Any = None


class Rollout(NamedTuple):
    """T steps of data, time-major.

    Attributes:
      carry: `[*B, ...]`. Recurrent state before the first step.
      steps: `[T, *B]`. The transitions, stacked over time.
      last_observation: `[*B, ...]`. s_T in a rollout from host environments, where s_{t+1} is
        always the observation of the next row: the final observation of an episode has a separate
        masked row, in which the environment resets. None in a rollout from JAX environments.
      last_carry: `[*B, ...]`. Recurrent state with which the last observation is valued; None in a
        rollout from JAX environments.
    """

    carry: Carry
    steps: Transition
    last_observation: Array | None = None
    last_carry: Carry = None


class ActorState(NamedTuple):
    """The acting state: what acting needs and learning does not. Each asynchronous worker has one.

    Attributes:
      env_state: `[N, ...]`. State of JAX environments; for host environments the group of N.
      observation: `[N, ...]`. The observation to act on next.
      reset: `[N]` bool. That observation begins an episode.
      carry: `[N, ...]`. Recurrent state.
      key: random key of the actor.
      episode_return: `[N]` float32. Sum of the unclipped rewards of the running episodes.
      episode_length: `[N]` int32. Steps of the running episodes.
      exploration: `[N, ...]`. A value that the objective drew once for each environment.
        Value-based methods draw the final epsilon. None if the objective draws nothing.
      next_action: `[N]` int32. The action already chosen for the observation, negative where none
        is chosen; None if the objective does not look ahead.
      discounted_return: `[N]` float32. As in `Transition`, of the running episodes; None if it is
        not needed.
    """

    env_state: Any
    observation: Array
    reset: Array
    carry: Carry
    key: Array
    episode_return: Array
    episode_length: Array
    exploration: Any = None
    next_action: Array | None = None
    discounted_return: Array | None = None


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
