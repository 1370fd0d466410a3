"""Normalise observations and rewards with running statistics that are part of the variables.

The variables of a normalised network are `{"params": ..., "statistics": ...}`. `params` holds the
variables of the network; `statistics` holds count, mean and variance. One tree holds
both, so workers share the statistics, target networks copy them and checkpoints save them, just
like the parameters. The statistics are constants for the gradient, which is exactly 0 for them.

`observe` computes the change of the statistics for one rollout. The learner adds this change to the
statistics, as it adds a gradient step to the parameters. Several threads may therefore add changes
without a lock. Two rules keep the statistics correct:

- K workers may all read the same statistics before any of them adds its change. `observe` takes
  K as `num_workers` and reduces the weight of each change, so that the K changes together
  weigh as much as one change with the steps of all K rollouts.
- The mean starts at the first observation, which `init` receives, and the count at 0. Then every
  change is about as large as the deviation of the data, even for data such as 100,000 +- 10. With
  a mean of 0, the first change of one of eight workers would move the mean by an eighth of the
  offset, and a late change would move it past the data by the same amount.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jax_a3c import shards
from jax_a3c.checks import check_integer, check_number
from jax_a3c.errors import InputError
from jax_a3c.networks.base import Network
from jax_a3c.objectives import Objective, RunningStatistics
from jax_a3c.rollouts import Rollout
from jax_a3c.types import Array, Carry, Metrics, Params

FADING_COUNT = 2e3
"""Number of steps at which the variance is doubled.

The first rollouts are short, and their steps resemble each other, so their deviation is too small.
Later observations would be very large in units of it. The variance of the first `count` steps is
therefore multiplied by 1 + FADING_COUNT / count, which is 26 after 80 steps and 1.025 after
80,000. On HalfCheetah, a FADING_COUNT of 100 led A3C into bad policies that it did not leave.
"""

MAX_COUNT = 1e7
"""Largest count.

float32 represents every integer up to 1.6e7; above that, adding 1 changes nothing. At MAX_COUNT
each step keeps the weight 1 / MAX_COUNT, and the statistics are moving averages over 1e7 steps.
"""

RESOLUTION = 1e-6
"""Deviation, relative to the mean, that counts as rounding. float32 has a spacing of 1.2e-7."""

EPSILON = 1e-16
"""Number added to a variance before the root. Deviations well below 1e-8, its root, count as 0."""

BOUND = 10.0
"""Largest magnitude of a normalised value, in deviations."""


@dataclass(frozen=True, kw_only=True)
class NormalizedNetwork:
    """Network that normalises its observations; build it with `normalized_network`.

    Attributes:
      network: the network that receives the normalised observations.
      observation_shape: shape of one observation.
      observations: normalise observations.
      rewards: keep statistics of discounted returns, with which `normalized_objective` normalises
        rewards.
    """

    network: Network
    observation_shape: tuple[int, ...]
    observations: bool
    rewards: bool

    def init(self, key: Array, carry: Carry, obs: Array, reset: Array) -> Params:
        """Return initial variables.

        Args:
          key: random key.
          carry: `[*B, ...]`.
          obs: `[T, *B, *observation_shape]`, the first observations of the environments. The mean
            starts at the first of them. A single worker may pass zeros, because its first change
            replaces the start. Several workers need real observations; the module docstring says
            why.
          reset: `[T, *B]` bool.

        Returns:
          `{"params": variables of the inner network, "statistics": {...}}`. The statistics hold
          `observations` and `returns`, if they are enabled, each with `count`, `mean` and
          `variance`.
        """
        statistics = {}
        if self.observations:
            first = obs.reshape(-1, *self.observation_shape)[0].astype(jnp.float32)
            statistics["observations"] = _start(first)
        if self.rewards:
            statistics["returns"] = _start(jnp.zeros((), jnp.float32))

        obs = self._normalized(statistics, obs)
        return {"params": self.network.init(key, carry, obs, reset), "statistics": statistics}

    def apply(self, variables: Params, carry: Carry, obs: Array, reset: Array) -> Any:
        """Apply the inner network to the normalised observations.

        Args:
          variables: as from `init`.
          carry: `[*B, ...]`.
          obs: `[T, *B, *observation_shape]`, not normalised.
          reset: `[T, *B]` bool.

        Returns:
          `(carry, distribution, values)`.
        """
        obs = self._normalized(variables["statistics"], obs)
        return self.network.apply(variables["params"], carry, obs, reset)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Return the inner network's carry at the start of an episode, `[*batch_shape, ...]`."""
        return self.network.initial_carry(batch_shape)

    def _normalized(self, statistics: dict[str, dict[str, Array]], obs: Array) -> Array:
        """Return x' of `normalized_network`, or `obs` if observations are not normalised."""
        if not self.observations:
            return obs
        moments = jax.lax.stop_gradient(statistics["observations"])

        # Give mean and variance the batch axes of the observations.
        batch_axes = tuple(range(obs.ndim - len(self.observation_shape)))
        moments = {**moments, **_expanded(moments, batch_axes)}
        return _in_deviations(obs.astype(jnp.float32) - moments["mean"], moments)


def normalized_network(
    network: Network, spec: Any, *, observations: bool, rewards: bool
) -> NormalizedNetwork:
    r"""Wrap a network so that it normalises observations with running statistics.

        x' = clip((x - mean) / deviation, -10, 10)
        deviation^2 = (1 + 2000 / count) variance + (1e-6 mean)^2 + 1e-16

    Each entry of an observation has its own mean and variance. The first term is the variance of
    the `count` steps observed so far, enlarged while there are few (see `FADING_COUNT`). The
    second term covers the rounding of float32, so that a constant entry becomes 0 and not noise.
    The deviation is 1 before the first step.

    Args:
      network: any network, feed-forward or recurrent.
      spec: `EnvSpec`, or an object with an `EnvSpec` as `.spec`.
      observations: normalise observations.
      rewards: keep the statistics of discounted returns for `normalized_objective`.

    Returns:
      The network. Its variables are `{"params": ..., "statistics": ...}`. The statistics are
      float32 and start at the first observation with a count of 0. Their gradient is 0. They are
      the last `num_statistics` entries of the flat vector of the variables.

    Raises:
      InputError: if `observations` is True and the observations are not floating-point numbers.

    References:
      `VecNormalize` of OpenAI Baselines (Dhariwal et al., 2017); Andrychowicz et al. (2021), What
      Matters for On-Policy Deep Actor-Critic Methods?, section 3.3.

    Example:
      >>> from jax_a3c import envs, networks
      >>> env = envs.make("gymnax:Pendulum-v1")
      >>> network = networks.actor_critic(env)
      >>> network = normalized_network(network, env, observations=True, rewards=True)
      >>> obs, reset = jnp.ones((1, 3)), jnp.ones(1, bool)
      >>> num_statistics(jax.eval_shape(network.init, jax.random.key(0), (), obs, reset))
      10
    """
    spec = getattr(spec, "spec", spec)
    if observations and not jnp.issubdtype(spec.observation_dtype, jnp.floating):
        raise InputError(
            f"observations of {spec.id!r} have dtype {jnp.dtype(spec.observation_dtype).name}, and "
            "only floating-point observations can be normalised (images and categories have a "
            "scale already); set observations=False, or normalize_observations=False in a run"
        )
    return NormalizedNetwork(
        network=network,
        observation_shape=tuple(spec.observation_shape),
        observations=observations,
        rewards=rewards,
    )


def normalized_objective(
    objective: Objective, network: NormalizedNetwork, *, gamma: float = 0.99, num_workers: int = 1
) -> Objective:
    r"""Wrap an objective so that it normalises rewards and updates the running statistics.

        r' = clip(r / deviation of R, -10, 10),    R_t = gamma R_{t-1} + r_t

    The deviation is the one of `normalized_network`, with the statistics of R. R restarts at 0 in
    each episode. Rewards are not centred, because that would change which behaviour is best. The
    objective applies its own `reward_scale` and `reward_clip` to r'.

    Args:
      objective: objective that was built for this `network`.
      network: network that holds the statistics.
      gamma: discount of R, in [0, 1].
      num_workers: K, the number of workers that add changes to the same statistics, at least 1. Use
        1 for the synchronous runner.

    Returns:
      The objective with `statistics` and, if `network.rewards` is True, with a `loss` of normalised
      rewards. The loss uses the statistics before their change. The target network uses its own
      statistics.

    Raises:
      InputError: if `gamma` or `num_workers` is out of range.

    References:
      Engstrom et al. (2020), Implementation Matters in Deep Policy Gradients, reward scaling.
    """
    check_number("gamma", gamma, 0.0, 1.0)
    check_integer("num_workers", num_workers, 1)

    def update(params: Params, rollout: Rollout) -> dict[str, Any]:
        return {"statistics": observe(params, rollout, num_workers=num_workers)}

    def loss(
        params: Params, rollout: Rollout, target_params: Params = None
    ) -> tuple[Array, Metrics]:
        # r' = r / deviation of R, not centred.
        returns = jax.lax.stop_gradient(params["statistics"]["returns"])
        steps = rollout.steps._replace(reward=_in_deviations(rollout.steps.reward, returns))
        return objective.loss(params, rollout._replace(steps=steps), target_params)

    return objective._replace(
        loss=loss if network.rewards else objective.loss,
        statistics=RunningStatistics(update, gamma),
    )


def observe(variables: Params, rollout: Rollout, *, num_workers: int = 1) -> Params:
    r"""Compute the change of the running statistics for one rollout.

        w = n / (c + K n)
        d_mean = w (m - mean)
        d_variance = w (v - variance + (1 - K w) (m - mean)^2)

    The rollout has n recorded steps with mean m and variance v. The statistics hold c steps. K is
    the number of workers.

    For K = 1 this is the parallel update of Chan et al., written as a difference. The new
    statistics are exact for all c + n steps. The first change, at c = 0, replaces the start.

    If K workers read the same statistics and then all add their changes, the new mean is the mean
    of all c + K n steps. The K weights sum to at most 1, so no variance becomes negative. If the
    workers take turns instead, and each reads the statistics after the last change, the start (the
    first observation, with variance 0) keeps the weight of (K - 1) n steps.

    Args:
      variables: variables of a `NormalizedNetwork`.
      rollout: `[T, *B]`, with `running_return` if the variables hold statistics of returns. Rows
        with `mask` False are ignored.
      num_workers: K, at least 1. The number of workers that may read the same statistics before one
        of them adds its change.

    Returns:
      Float32 changes, shaped like `variables["statistics"]`; new = old + change. A change that is
      not finite is replaced by 0: an entry of the observation that is NaN, infinite or too large
      to be squared keeps its statistics.

    Raises:
      InputError: if the variables hold statistics of returns and the rollout has no
        `running_return`.

    References:
      Chan, Golub & LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample
      Variances.
    """
    steps = rollout.steps
    statistics = variables["statistics"]
    changes = {}

    if "observations" in statistics:
        changes["observations"] = _change(
            statistics["observations"], steps.observation, steps.mask, num_workers
        )

    if "returns" in statistics:
        if steps.running_return is None:
            raise InputError(
                "rollout has no running_return; to normalise rewards, start the actor "
                "with needs_running_return=True"
            )
        changes["returns"] = _change(
            statistics["returns"], steps.running_return, steps.mask, num_workers
        )
    return changes


def num_statistics(variables: Params) -> int:
    """Count the entries of the statistics, the last entries of the flat vector of the variables.

    Args:
      variables: variables of a `NormalizedNetwork`, or their shapes from `jax.eval_shape`.

    Returns:
      The number of entries.
    """
    return sum(math.prod(x.shape) for x in jax.tree.leaves(variables["statistics"]))


def _start(mean: Array) -> dict[str, Array]:
    """Return statistics of 0 steps; the mean is 0 where the square of `mean` is not finite."""
    usable = jnp.isfinite(jnp.square(mean))
    return {
        "count": jnp.zeros((), jnp.float32),
        "mean": jnp.where(usable, mean, 0.0),
        "variance": jnp.zeros(mean.shape, jnp.float32),
    }


def _expanded(moments: dict[str, Array], axes: tuple[int, ...]) -> dict[str, Array]:
    """Return mean and variance with axes of size 1 in place of the batch axes."""
    return {name: jnp.expand_dims(moments[name], axes) for name in ("mean", "variance")}


def _in_deviations(x: Array, moments: dict[str, Array]) -> Array:
    """Return x in units of the deviation of `normalized_network`, clipped to [-BOUND, BOUND]."""
    # Enlarge the variance while there are few steps.
    count = moments["count"]
    widening = 1.0 + FADING_COUNT / jnp.maximum(count, 1.0)
    # Threads that are late by more than `num_workers` updates could make a variance negative.
    variance = widening * jnp.maximum(moments["variance"], 0.0)
    rounding = jnp.square(RESOLUTION * moments["mean"])

    deviation = jnp.sqrt(variance + rounding + EPSILON)
    deviation = jnp.where(count > 0.0, deviation, 1.0)
    return jnp.clip(x / deviation, -BOUND, BOUND)


def _change(moments: dict[str, Array], x: Array, mask: Array, num_workers: int) -> dict[str, Array]:
    """Return the change of `observe` for one quantity, `[T, *B, ...]`."""
    axes = tuple(range(mask.ndim))
    count = moments["count"]  # c
    mean = moments["mean"]
    variance = moments["variance"]
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))  # [T, *B] -> [T, *B, 1, ...]
    n = shards.total(mask.sum(dtype=jnp.float32))
    rows = jnp.maximum(n, 1.0)  # n = 0 has the weight 0

    # Centre on the running mean, because float32 is most precise near 0. Select with `where`: rows
    # that were not recorded may hold NaN.
    x = jnp.where(mask, x.astype(jnp.float32) - jnp.expand_dims(mean, axes), 0.0)

    # Average twice: the sum of large numbers is rounded, and the second pass averages the rest.
    rough = shards.total(x.sum(axes, keepdims=True)) / rows
    x = jnp.where(mask, x - rough, 0.0)
    rest = shards.total(x.sum(axes, keepdims=True)) / rows

    # Mean (as m - mean) and variance (v) of the rollout.
    squares = jnp.where(mask, jnp.square(x - rest), 0.0)
    own_variance = shards.total(squares.sum(axes)) / rows
    delta = (rough + rest).reshape(mean.shape)  # [1, ..., 1, *S] -> [*S]

    # w, d_mean and d_variance of `observe`.
    weight = n / jnp.maximum(count + num_workers * n, 1.0)
    mean_change = weight * delta
    variance_change = weight * (
        own_variance - variance + (1.0 - num_workers * weight) * jnp.square(delta)
    )

    # Skip entries that are not finite; stop the count at its maximum.
    finite = jnp.isfinite(mean_change) & jnp.isfinite(variance_change)
    return {
        "count": jnp.where(finite.any(), jnp.minimum(n, MAX_COUNT - count), 0.0),
        "mean": jnp.where(finite, mean_change, 0.0),
        "variance": jnp.where(finite, variance_change, 0.0),
    }
