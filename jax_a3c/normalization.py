"""Observations and rewards in units of their running statistics, which live in the tree of parameters.

The statistics stand beside the parameters of the network, `{"params": ..., "statistics": ...}`, so that they
are shared, copied into the target network and saved as the parameters are. They are constants for the
gradient, which is therefore exactly 0 for them. What moves them is a change that is added, as a gradient step
is, and may so be added by several threads without a lock.

Two things keep them sound there.

- Several workers may read the same statistics and then all add. Together they must not add more than one
  change by all their steps: `num_workers` of `observe` sees to that.
- The statistics start at the first observation, which `init` receives, with the weight of 0 steps. Every
  change is then of the size of the data's own deviation, also where the data are 100,000 +- 10. From a mean
  of 0, one worker of eight that adds alone would move the mean by an eighth of the offset, and one whose
  addition comes late would move it too far by as much.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jax_a3c.checks import InputError, check_integer, check_number
from jax_a3c.objectives import Network, Objective, Statistics
from jax_a3c.types import Array, Carry, Metrics, Params, Rollout

FADING_COUNT = 2e3
"""The number of steps at which the variance counts double; the widening fades with 1 / count.

The first rollouts are short and their steps resemble each other. In units of their own small deviation, what
comes next would be very large. The variance of c steps is therefore taken to be 1 + FADING_COUNT / c times
what it is: 26 times after 80 steps, 1.025 times after 80,000. On HalfCheetah, 100 in place of 2,000 led A3C
into bad policies that it did not leave.
"""

MAX_COUNT = 1e7
"""Where the count stops. float32 holds every integer up to 1.6e7; beyond that, adding 1 changes nothing.

From there on a step keeps the weight 1 / MAX_COUNT: the statistics are moving averages over 1e7 steps.
"""

RESOLUTION = 1e-6
"""Deviation, relative to the mean, below which differences are rounding; float32 has a spacing of 1.2e-7."""

EPSILON = 1e-16
"""What is added to a variance before the root. A deviation well below its root, 1e-8, is taken for 0."""

BOUND = 10.0
"""The largest magnitude of what was normalised, in deviations."""


@dataclass(frozen=True, kw_only=True)
class NormalizedNetwork:
    """A network behind running statistics; see `normalized_network`.

    Attributes:
      network: the one within.
      observation_shape: of one observation.
      observations: it sees normalised observations.
      rewards: `normalized_objective` gives the learner normalised rewards.
    """

    network: Network
    observation_shape: tuple[int, ...]
    observations: bool
    rewards: bool

    def init(self, key: Array, carry: Carry, obs: Array, reset: Array) -> Params:
        """Fresh variables.

        Args:
          key: random key.
          carry: `[*B, ...]`.
          obs: `[T, *B, *observation_shape]`, the first of the environments. The mean of the observations
            starts at the first of them. Zeros do as well for one worker, whose first change replaces them.
            Several workers need real observations; see the module.
          reset: `[T, *B]` bool.

        Returns:
          `{"params": the variables of the network within, "statistics": {...}}`. The statistics hold
          `observations` and `returns`, if they are kept, each with `count`, `mean` and `variance`.
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
        """What the network within makes of the normalised observations.

        Args:
          variables: as from `init`.
          carry: `[*B, ...]`.
          obs: `[T, *B, *observation_shape]`, as the environment gave them.
          reset: `[T, *B]` bool.

        Returns:
          `(carry, distribution, values)`.
        """
        obs = self._normalized(variables["statistics"], obs)
        return self.network.apply(variables["params"], carry, obs, reset)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Recurrent state of the network within at the start of an episode, `[*batch_shape, ...]`."""
        return self.network.initial_carry(batch_shape)

    def _normalized(self, statistics: dict[str, dict[str, Array]], obs: Array) -> Array:
        if not self.observations:
            return obs
        moments = jax.lax.stop_gradient(statistics["observations"])
        batch_axes = tuple(range(obs.ndim - len(self.observation_shape)))
        moments = {**moments, **_expanded(moments, batch_axes)}
        return _in_deviations(obs.astype(jnp.float32) - moments["mean"], moments)


def normalized_network(
    network: Network, spec: Any, *, observations: bool, rewards: bool
) -> NormalizedNetwork:
    r"""Put a network behind running statistics.

        x' = clip((x - mean) / deviation, -10, 10)
        deviation^2 = (1 + 2000 / count) variance + (1e-6 mean)^2 + 1e-16

    The first term is the variance of the `count` steps observed so far, widened while they are few. The
    second is the rounding of float32, so that a constant is 0 and not noise. Before the first step the
    deviation is 1.

    Args:
      network: any network, with or without recurrent state.
      spec: `EnvSpec`, or an object with one as its `.spec`.
      observations: normalise what the network sees, each entry of an observation for itself.
      rewards: keep the statistics of discounted returns, for `normalized_objective`.

    Returns:
      The network. Its variables are `{"params": ..., "statistics": ...}` with float32 statistics, which
      start at the first observation with a count of 0 and are constants for the gradient. In the flat vector
      of the variables they are the last `num_statistics` entries.

    Raises:
      InputError: if observations that are not real numbers are to be normalised.

    References:
      `VecNormalize` of OpenAI Baselines (Dhariwal et al., 2017); Andrychowicz et al. (2021), What Matters
      for On-Policy Deep Actor-Critic Methods?, section 3.3.

    Example:
      >>> from jax_a3c import envs, networks
      >>> env = envs.make("gymnax:Pendulum-v1")
      >>> network = normalized_network(networks.actor_critic(env), env, observations=True, rewards=True)
      >>> shapes = jax.eval_shape(network.init, jax.random.key(0), (), jnp.ones((1, 3)), jnp.ones(1, bool))
      >>> num_statistics(shapes)
      10
    """
    spec = getattr(spec, "spec", spec)
    if observations and not jnp.issubdtype(spec.observation_dtype, jnp.floating):
        raise InputError(
            f"observations of {spec.id!r} are {jnp.dtype(spec.observation_dtype).name}, and only those of "
            "floating point can be normalised: images and categories have their scale already; set "
            "observations, normalize_observations of a run, to False"
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
    r"""Let an objective move the statistics of its network, and learn from normalised rewards.

        r' = clip(r / deviation of R, -10, 10),    R_t = gamma R_{t-1} + r_t

    The deviation has the equation of `normalized_network`, with the moments of R. R starts at 0 in each
    episode. Rewards are not centred: that would change which behaviour is best. The objective's own
    `reward_scale` and `reward_clip` come after it.

    Args:
      objective: made for this `network`.
      network: what is to be normalised.
      gamma: discount of the returns whose deviation is the unit of reward, in [0, 1].
      num_workers: that add changes to the same statistics, at least 1; 1 for the synchronous runner.

    Returns:
      The objective with another `loss`, if rewards are normalised, and with `statistics`. The loss is that
      of the statistics before their change; those of the target network are its own.

    Raises:
      InputError: if `gamma` or `num_workers` is no such number.

    References:
      Engstrom et al. (2020), Implementation Matters in Deep Policy Gradients, reward scaling.
    """
    check_number("gamma", gamma, 0.0, 1.0)
    check_integer("num_workers", num_workers, 1)

    def change(params: Params, rollout: Rollout) -> dict[str, Any]:
        return {"statistics": observe(params, rollout, num_workers=num_workers)}

    def loss(
        params: Params, rollout: Rollout, target_params: Params = None
    ) -> tuple[Array, Metrics]:
        returns = jax.lax.stop_gradient(params["statistics"]["returns"])
        steps = rollout.steps._replace(reward=_in_deviations(rollout.steps.reward, returns))
        return objective.loss(params, rollout._replace(steps=steps), target_params)

    return objective._replace(
        loss=loss if network.rewards else objective.loss,
        statistics=Statistics(change, gamma),
    )


def observe(variables: Params, rollout: Rollout, *, num_workers: int = 1) -> Params:
    r"""What a rollout adds to the statistics: the parallel update of mean and variance, as differences.

        w = n / (c + K n),    d_mean = w (m - mean),    d_variance = w (v - variance + (1 - K w) (m - mean)^2)

    for a rollout of n recorded steps with mean m and variance v, statistics of c steps, and K workers. For
    one worker these are the moments of all c + n steps: the first change, at c = 0, replaces what was there.
    K workers that read the same statistics, and then all add, come to the mean of all c + K n steps. Their
    weights sum to at most 1, so that no variance falls below 0. If the workers take turns, each with fresh
    statistics, the start (the first observation, with variance 0) keeps the weight of (K - 1) n steps.

    Args:
      variables: of a `NormalizedNetwork`.
      rollout: `[T, *B]`, with `discounted_return` if those of rewards are kept. Rows with `mask` False do
        not count.
      num_workers: K, that may read the same statistics before one of them adds its change, at least 1.

    Returns:
      Float32 changes, shaped like `variables["statistics"]`; new = old + change. What would not be
      finite is 0: an entry of the observation that is NaN, infinite or too large to be squared keeps its
      moments.

    Raises:
      InputError: if the rollout has no discounted returns, but the statistics do.

    References:
      Chan, Golub & LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
    """
    steps, statistics = rollout.steps, variables["statistics"]
    changes = {}
    if "observations" in statistics:
        changes["observations"] = _change(
            statistics["observations"], steps.observation, steps.mask, num_workers
        )
    if "returns" in statistics:
        if steps.discounted_return is None:
            raise InputError(
                "rollout has no discounted_return; to normalise rewards, give its actor running returns"
            )
        changes["returns"] = _change(
            statistics["returns"], steps.discounted_return, steps.mask, num_workers
        )
    return changes


def num_statistics(variables: Params) -> int:
    """How many numbers the statistics are: the last ones of the flat vector of the variables.

    Args:
      variables: of a `NormalizedNetwork`, or their shapes as from `jax.eval_shape`.

    Returns:
      The number.
    """
    return sum(math.prod(x.shape) for x in jax.tree.leaves(variables["statistics"]))


def _start(mean: Array) -> dict[str, Array]:
    """Return the statistics of no steps, around a first value."""
    usable = jnp.isfinite(jnp.square(mean))
    return {
        "count": jnp.zeros((), jnp.float32),
        "mean": jnp.where(usable, mean, 0.0),
        "variance": jnp.zeros(mean.shape, jnp.float32),
    }


def _expanded(moments: dict[str, Array], axes: tuple[int, ...]) -> dict[str, Array]:
    """Return mean and variance with axes of size 1 for those of a batch."""
    return {name: jnp.expand_dims(moments[name], axes) for name in ("mean", "variance")}


def _in_deviations(x: Array, moments: dict[str, Array]) -> Array:
    """Return x in units of the deviation, bounded; the equation of `normalized_network`."""
    count = moments["count"]
    widening = 1.0 + FADING_COUNT / jnp.maximum(count, 1.0)
    # Threads that are late by more than `num_workers` updates could push a variance below 0.
    variance = widening * jnp.maximum(moments["variance"], 0.0)
    rounding = jnp.square(RESOLUTION * moments["mean"])

    deviation = jnp.sqrt(variance + rounding + EPSILON)
    deviation = jnp.where(count > 0.0, deviation, 1.0)
    return jnp.clip(x / deviation, -BOUND, BOUND)


def _change(moments: dict[str, Array], x: Array, mask: Array, num_workers: int) -> dict[str, Array]:
    """Return the change of `observe` for one quantity, `[T, *B, ...]`."""
    axes = tuple(range(mask.ndim))
    count, mean, variance = moments["count"], moments["mean"], moments["variance"]
    mask = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim))
    n = mask.sum(dtype=jnp.float32)
    rows = jnp.maximum(n, 1.0)  # a rollout without any has the weight 0

    # Around the running mean, where float32 has most digits; unrecorded rows may hold anything.
    x = jnp.where(mask, x.astype(jnp.float32) - jnp.expand_dims(mean, axes), 0.0)
    # The sum of large numbers is rounded: what is left is averaged once more.
    rough = x.sum(axes, keepdims=True) / rows
    x = jnp.where(mask, x - rough, 0.0)
    rest = x.sum(axes, keepdims=True) / rows
    own_variance = jnp.where(mask, jnp.square(x - rest), 0.0).sum(axes) / rows
    delta = (rough + rest).reshape(mean.shape)

    weight = n / jnp.maximum(count + num_workers * n, 1.0)
    mean_change = weight * delta
    variance_change = weight * (
        own_variance - variance + (1.0 - num_workers * weight) * jnp.square(delta)
    )
    finite = jnp.isfinite(mean_change) & jnp.isfinite(variance_change)
    return {
        "count": jnp.where(finite.any(), jnp.minimum(n, MAX_COUNT - count), 0.0),
        "mean": jnp.where(finite, mean_change, 0.0),
        "variance": jnp.where(finite, variance_change, 0.0),
    }
