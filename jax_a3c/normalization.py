"""Observations and rewards in units of their running statistics, which live in the tree of parameters.

The statistics stand beside the parameters of the network, `{"params": ..., "statistics": ...}`, so that they
are shared, copied into the target network and saved as the parameters are. They are constants for the
gradient, which is therefore exactly 0 for them. What moves them is a change that is added, as a gradient step
is, and may so be added by several threads without a lock.

Two things keep them sound there. Changes that several workers computed from the same statistics must not
sum to more than one change by all their steps together: `num_workers` of `observe` sees to that. And the
statistics begin with the weight of `PRIOR_COUNT` steps instead of next to none, so that no single rollout,
and no thread that comes later than expected, throws them far off.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jax_a3c.checks import InputError, check_integer, check_number
from jax_a3c.objectives import Network, Objective, Statistics
from jax_a3c.types import Array, Carry, Metrics, Params, Rollout

PRIOR_COUNT = 1e2
"""Steps that the prior, mean 0 and variance 1, is worth. Usual for one thread: 1e-4.

The first rollout is short and its steps resemble each other: with next to no prior, their deviation would be
the unit for what follows. What the prior costs: after c steps it still adds about 100 / c to each variance,
so that after 1e6 steps the unit of a feature of deviation 0.01 is 1.41 times that, and of a smaller one more.
"""

MAX_COUNT = 1e7
"""Where the count stops. float32 holds every integer up to 1.6e7; beyond that, adding 1 changes nothing.

From there on a step keeps the weight 1 / MAX_COUNT: the statistics are moving averages over 1e7 steps.
"""

EPSILON = 1e-8
"""What is added to a variance before the root."""

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
          obs: `[T, *B, *observation_shape]`.
          reset: `[T, *B]` bool.

        Returns:
          `{"params": the variables of the network within, "statistics": {...}}`; the statistics hold
          `observations` and `returns`, as far as they are kept, each with `count`, `mean` and `variance`.
        """
        statistics = {}
        if self.observations:
            statistics["observations"] = _prior(self.observation_shape)
        if self.rewards:
            statistics["returns"] = _prior(())
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
        return _in_deviations(obs.astype(jnp.float32) - moments["mean"], moments)


def normalized_network(
    network: Network, spec: Any, *, observations: bool, rewards: bool
) -> NormalizedNetwork:
    r"""Put a network behind running statistics.

        x' = clip((x - mean) / sqrt(variance + 1e-8), -10, 10)

    Args:
      network: any network, with or without recurrent state.
      spec: `EnvSpec`, or an object with one as its `.spec`.
      observations: normalise what the network sees, each entry of an observation for itself.
      rewards: keep the statistics of discounted returns, for `normalized_objective`.

    Returns:
      The network. Its variables are `{"params": ..., "statistics": ...}` with float32 statistics, which
      start at mean 0 and variance 1 and are constants for the gradient. In the flat vector of the variables
      they are the last `num_statistics` entries.

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

        r' = clip(r / sqrt(variance of R + 1e-8), -10, 10),    R_t = gamma R_{t-1} + r_t

    R starts at 0 in each episode. Rewards are not centred: that would change which behaviour is best. The
    objective's own `reward_scale` and `reward_clip` come after it.

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

    def loss(params: Params, rollout: Rollout, target_params: Params = None) -> tuple[Array, Metrics]:
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
    one worker these are the moments of all c + n steps. K workers that read the same statistics, and then all
    add, come to the mean of all c + K n steps; their weights sum to less than 1: no variance falls below 0.

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
        changes["returns"] = _change(statistics["returns"], steps.discounted_return, steps.mask, num_workers)
    return changes


def num_statistics(variables: Params) -> int:
    """How many numbers the statistics are: the last ones of the flat vector of the variables.

    Args:
      variables: of a `NormalizedNetwork`, or their shapes as from `jax.eval_shape`.

    Returns:
      The number.
    """
    return sum(math.prod(x.shape) for x in jax.tree.leaves(variables["statistics"]))


def _prior(shape: tuple[int, ...]) -> dict[str, Array]:
    return {
        "count": jnp.full((), PRIOR_COUNT, jnp.float32),
        "mean": jnp.zeros(shape, jnp.float32),
        "variance": jnp.ones(shape, jnp.float32),
    }


def _in_deviations(x: Array, moments: dict[str, Array]) -> Array:
    """In units of the deviation, bounded."""
    # Threads that are late by more than `num_workers` updates could push a variance below 0.
    deviation = jnp.sqrt(jnp.maximum(moments["variance"], 0.0) + EPSILON)
    return jnp.clip(x / deviation, -BOUND, BOUND)


def _change(moments: dict[str, Array], x: Array, mask: Array, num_workers: int) -> dict[str, Array]:
    """The formulas of `observe` for one quantity, `[T, *B, ...]`."""
    count, mean, variance = moments["count"], moments["mean"], moments["variance"]
    mask, axes = mask.reshape(mask.shape + (1,) * (x.ndim - mask.ndim)), tuple(range(mask.ndim))
    n = mask.sum(dtype=jnp.float32)
    rows = jnp.maximum(n, 1.0)  # a rollout without any has the weight 0
    # Around the running mean, where float32 has most digits; unrecorded rows may hold anything.
    x = jnp.where(mask, x.astype(jnp.float32) - mean, 0.0)
    delta = x.sum(axes) / rows
    own_variance = jnp.where(mask, jnp.square(x - delta), 0.0).sum(axes) / rows
    weight = n / (count + num_workers * n)
    mean_change = weight * delta
    variance_change = weight * (own_variance - variance + (1.0 - num_workers * weight) * jnp.square(delta))
    finite = jnp.isfinite(mean_change) & jnp.isfinite(variance_change)
    return {
        "count": jnp.where(finite.any(), jnp.minimum(n, MAX_COUNT - count), 0.0),
        "mean": jnp.where(finite, mean_change, 0.0),
        "variance": jnp.where(finite, variance_change, 0.0),
    }
