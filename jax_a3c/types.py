"""Data that passes between environments, rollouts, objectives and runners.

Legend, used in every docstring of the package:

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
"""Scalars by name."""


class TimeStep(NamedTuple):
    """What one action leads to, before any reset.

    Attributes:
      observation: `[*B, ...]`. s_{t+1}, the true one: at the end of an episode it is the final
        observation, never the first of the next episode.
      reward: `[*B]` float32. r_t, in reward units.
      terminated: `[*B]` bool. The task ended: nothing follows, the value of s_{t+1} is 0.
      truncated: `[*B]` bool. The episode was cut, by a time limit for example: bootstrap from s_{t+1}.
        Where both flags are set the episode terminated.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array


class Transition(NamedTuple):
    """One step of data, `[*B]`.

    Attributes:
      observation: s_t.
      reset: bool. s_t is the first observation of an episode: the network forgets its carry.
      action: a_t.
      reward: r_t, as the environment gave it.
      terminated: bool, of the step from s_t.
      truncated: bool, of the step from s_t.
      next_observation: s_{t+1} before any reset; None in a rollout that has `last_observation`.
      next_carry: recurrent state after s_t, the one with which s_{t+1} is valued; None likewise.
      mask: bool. False where nothing was recorded: the rest of a segment that an episode's end cut short, and
        the steps of a host environment that only reset it.
      next_action: a_{t+1}, which the behaviour chose in s_{t+1}; None if the objective does not ask for it.
      discounted_return: r_t + gamma r_{t-1} + ... back to the episode's start; None if nobody asks for it.
      layers: what the network's layers gave when the policy acted on s_t; None if the loss asks them again.
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
    """What a policy met in T steps.

    Attributes:
      carry: `[*B, ...]`. Recurrent state before the first step.
      steps: the transitions stacked over time, `[T, *B]`.
      last_observation: `[*B, ...]`. s_T, of a rollout from host environments, and None in others. There
        s_{t+1} is always the observation of the next row: the final observation of an episode has a masked
        row of its own, in which the environment resets.
      last_carry: `[*B, ...]`. Recurrent state with which the last observation is valued; None likewise.
    """

    carry: Carry
    steps: Transition
    last_observation: Array | None = None
    last_carry: Carry = None


class ActorState(NamedTuple):
    """Everything that acting needs and learning does not own. An asynchronous worker has one of its own.

    Attributes:
      env_state: state of the environments, `[N, ...]`; for those of the host the group of N itself.
      observation: `[N, ...]`. The observation to act on next.
      reset: `[N]` bool. That observation begins an episode.
      carry: recurrent state, `[N, ...]`.
      key: random key of the actor.
      episode_return: `[N]` float32. Sum of the rewards of the running episodes, unclipped.
      episode_length: `[N]` int32. Steps of the running episodes.
      exploration: `[N, ...]`. What the objective drew once to tell the behaviours of the environments apart,
        for the value-based methods the epsilon at which each of them ends; None if it draws nothing.
      next_action: `[N]` int32. The action that was already chosen for the observation, negative where none
        was; None if the objective does not look ahead.
      discounted_return: `[N]` float32. As in `Transition`, of the running episodes; None likewise.
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
    """What happened in a run so far, on the host.

    Attributes:
      env_steps: environment steps of all environments, those before this call included.
      updates: updates of the parameters, likewise.
      seconds: since training started in this call, compilation apart.
      metric_sums: sums over the updates of this call: the objective's metrics, `grad_norm`,
        `nonfinite_gradients`, and `episodes, episode_return, episode_length` over all episodes that ended.
      updates_per_worker: one entry for each worker; the synchronous runner is one.
      mean_staleness: updates by others between a worker's read and its own update, on average; 0 for one.
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
    """What training returns.

    Attributes:
      params: final variables of the network.
      state: everything else, to go on from.
      progress: counts, sums and staleness.
      env_steps_per_second: of this call, compilation apart.
      compile_seconds: what compilation took in this call, 0 if it was done before.
    """

    params: Params
    state: Any
    progress: Progress
    env_steps_per_second: float
    compile_seconds: float
