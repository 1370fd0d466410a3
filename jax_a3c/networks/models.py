"""Complete networks, actor-critic and Q, and functions that build them for an environment."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jax_a3c.checks import check_boolean, check_choice, check_integer, check_number, check_tuple
from jax_a3c.distributions import Categorical, DiagonalGaussian
from jax_a3c.envs.base import ActionSpace, Box
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.networks.cores import LSTM
from jax_a3c.networks.heads import VARIANCES, CategoricalHead, GaussianHead
from jax_a3c.networks.initializers import INITS, dense
from jax_a3c.networks.stored_activations import Activations, apply_and_store, apply_stored
from jax_a3c.networks.torsos import MLP, MinAtarConv, Mnih2013, Nature, as_real
from jax_a3c.types import Array, Carry, Params

TORSOS = ("mlp", "mnih2013", "nature", "minatar")


class Trunk(nn.Module):
    """Part of a network from observations to features: a torso, then an optional recurrent core.

    Attributes:
      torso: module from `[M, *obs_shape]` to `[M, F]`.
      core: `LSTM`, or None for a feed-forward network.
      num_categories: as in `torsos.as_real`.
      observation_high: as in `torsos.as_real`.
    """

    torso: nn.Module
    core: LSTM | None = None
    num_categories: int | None = None
    observation_high: float | None = None

    @nn.compact
    def __call__(self, carry: Carry, obs: Array, reset: Array) -> tuple[Carry, Array]:
        """Map `[T, *B, *obs_shape]` to the last carry and features `[T, *B, F]` float32."""
        # The torso sees one merged batch, the core sees time.
        merged = obs.reshape(-1, *obs.shape[reset.ndim :])  # [T * B, *obs_shape]
        features = self.torso(as_real(merged, self.num_categories, self.observation_high))
        features = features.reshape(*reset.shape, -1)  # [T, *B, F]
        if self.core is not None:
            carry, features = self.core(carry, features, reset)
        return carry, features.astype(jnp.float32)


class ActorCritic(nn.Module):
    """Network with a policy and a state value.

    Attributes:
      torso: module from `[M, *obs_shape]` to `[M, F]`.
      action_space: `Discrete` gives a `Categorical` policy, `Box` a `DiagonalGaussian`.
      core: `LSTM`, or None for a feed-forward network.
      shared: True if policy and value share torso and core, as in the paper's Atari network. False
        if each has its own, as in the paper's continuous control; with a core, the carry is then
        `(policy_carry, value_carry)`.
      variance: form of the Gaussian variance, see `GaussianHead`.
      min_variance: lower bound of the Gaussian variance, in squared policy units.
      initial_stddev: initial Gaussian stddev with variance "parameter", in policy units.
      num_categories: if given, observations are integers below this number and become one-hot.
      observation_high: uint8 observations are divided by this number; None means 255.
      initialization: initialisation of the heads, "orthogonal" or "torch". Torso and core have the
        same field.
    """

    torso: nn.Module
    action_space: ActionSpace
    core: LSTM | None = None
    shared: bool = True
    variance: str = "parameter"
    min_variance: float = 1e-4
    initial_stddev: float = 1.0
    num_categories: int | None = None
    observation_high: float | None = None
    initialization: str = "orthogonal"

    @property
    def stores_activations(self) -> bool:
        """Whether the loss uses the layer outputs that were stored while acting.

        True for a feed-forward network with one of the convolutional torsos of this package. An MLP
        computes its outputs as fast as they can be stored.
        """
        return self.core is None and isinstance(self.torso, MinAtarConv | Mnih2013 | Nature)

    @nn.nowrap
    def apply_and_store(self, params: Params, *args: Any) -> tuple[Any, Activations]:
        """Call `apply(params, carry, obs, reset)` and store layer outputs for `apply_stored`."""
        return apply_and_store(self, params, *args)

    @nn.nowrap
    def apply_stored(self, params: Params, activations: Activations, *args: Any) -> Any:
        """Return `apply(params, carry, obs, reset)` and its derivatives from stored outputs."""
        return apply_stored(self, params, activations, *args)

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Return zeros for the batch shape of one time step; `()` for a feed-forward network."""
        if self.core is None:
            return ()
        # One carry for each trunk.
        carry = self.core.initial_carry(batch_shape)
        return carry if self.shared else (carry, carry)

    @nn.compact
    def __call__(
        self, carry: Carry, obs: Array, reset: Array
    ) -> tuple[Carry, Categorical | DiagonalGaussian, Array]:
        """Apply the network to T steps.

        Args:
          carry: `[*B, H]`. The recurrent state before obs[0], as from `initial_carry`.
          obs: `[T, *B, *obs_shape]`.
          reset: `[T, *B]` bool. Where True at t, the carry is set to 0 before obs[t].

        Returns:
          The carry after the last step, the policy with parameters `[T, *B, ...]`, and the values
          `[T, *B]` float32.
        """
        # Shared: one trunk for policy and value. Otherwise each has a trunk and a carry.
        if self.shared:
            carry, features = _trunk(self, "trunk")(carry, obs, reset)
            value_features = features
        else:
            policy_carry, value_carry = carry if self.core is not None else ((), ())
            policy_carry, features = _trunk(self, "policy_trunk")(policy_carry, obs, reset)
            value_carry, value_features = _trunk(self, "value_trunk")(value_carry, obs, reset)
            carry = (policy_carry, value_carry) if self.core is not None else ()

        # [T, *B, 1] -> [T, *B]
        values = dense(value_features, 1, init=self.initialization, scale=1.0, name="value")[..., 0]
        return carry, self._policy(features), values

    def _policy(self, features: Array) -> Categorical | DiagonalGaussian:
        """Apply the head that fits the action space."""
        if isinstance(self.action_space, Box):
            head = GaussianHead(
                size=self.action_space.size,
                variance=self.variance,
                min_variance=self.min_variance,
                initialization=self.initialization,
                initial_stddev=self.initial_stddev,
                name="policy",
            )
            return head(features)

        return CategoricalHead(self.action_space.num_actions, self.initialization, name="policy")(
            features
        )


class QNetwork(nn.Module):
    """Network with action values and the signature of `ActorCritic`.

    The distribution is `Categorical(q_values)`, so its `mode()` is the greedy action. It is not the
    policy: the value-based methods act epsilon-greedily on the values.

    Attributes:
      torso: module from `[M, *obs_shape]` to `[M, F]`.
      action_space: `Discrete`.
      core: `LSTM`, or None for a feed-forward network.
      dueling: Q = V + A - mean A (Wang et al., 2016) with linear streams. The paper names it as a
        possible improvement.
      num_categories: if given, observations are integers below this number and become one-hot.
      observation_high: uint8 observations are divided by this number; None means 255.
      initialization: initialisation of the head, "orthogonal" or "torch". Torso and core have the
        same field.
    """

    torso: nn.Module
    action_space: ActionSpace
    core: LSTM | None = None
    dueling: bool = False
    num_categories: int | None = None
    observation_high: float | None = None
    initialization: str = "orthogonal"

    def initial_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """Return zeros for the batch shape of one time step; `()` for a feed-forward network."""
        return () if self.core is None else self.core.initial_carry(batch_shape)

    @nn.compact
    def __call__(self, carry: Carry, obs: Array, reset: Array) -> tuple[Carry, Categorical, Array]:
        """Apply the network as `ActorCritic` does, with one value per action, `[T, *B, A]`."""
        num_actions = _num_actions(self.action_space)
        carry, features = _trunk(self, "trunk")(carry, obs, reset)
        q_values = dense(features, num_actions, init=self.initialization, scale=1.0, name="q")

        # Q = V + A - mean A
        if self.dueling:
            values = dense(features, 1, init=self.initialization, scale=1.0, name="value")
            q_values = values + q_values - q_values.mean(axis=-1, keepdims=True)
        return carry, Categorical(q_values), q_values


def actor_critic(
    spec: Any,
    *,
    torso: str | nn.Module = "mlp",
    hidden: tuple[int, ...] = (64, 64),
    lstm: int = 0,
    shared: bool = True,
    variance: str = "parameter",
    min_variance: float = 1e-4,
    initial_stddev: float = 1.0,
    init: str = "orthogonal",
    dtype: Any = jnp.float32,
) -> ActorCritic:
    """Build an actor-critic network for an environment.

    Args:
      spec: `EnvSpec`, or an object with an `EnvSpec` as `.spec`.
      torso: "mlp", "mnih2013", "nature", "minatar", or a module from `[M, *obs_shape]` to `[M, F]`.
      hidden: number of units of each layer of "mlp".
      lstm: number of units of the LSTM after the torso; 0 for no LSTM.
      shared: policy and value share torso and core.
      variance: form of a Gaussian policy's variance: "parameter", "scalar" (the paper) or
        "per_dimension".
      min_variance: lower bound of a Gaussian policy's variance, in squared policy units, at least
        0.
      initial_stddev: initial stddev of a Gaussian policy with variance "parameter", above 0, in
        policy units.
      init: initialisation, "orthogonal" or "torch" (the paper).
      dtype: dtype of torso and core, such as `jnp.bfloat16`. Parameters, heads and outputs are
        float32.

    Returns:
      The network. `network.apply(params, carry, obs, reset)` returns carry, policy and values
      `[T, *B]`.

    Raises:
      InputError: if a name is unknown or a number is out of range.

    References:
      Mnih et al. (2016), sections 4, 8 and 9.
    """
    spec = _spec(spec)
    # Check now: the modules would check only when they are called.
    check_boolean("shared", shared)
    check_choice("variance", variance, VARIANCES)
    check_number("min_variance", min_variance, 0.0)
    check_number("initial_stddev", initial_stddev, above=0.0)

    return ActorCritic(
        torso=_torso(torso, hidden=hidden, init=init, dtype=dtype),
        action_space=spec.action_space,
        core=_core(lstm, init=init, dtype=dtype),
        shared=shared,
        variance=variance,
        min_variance=min_variance,
        initial_stddev=initial_stddev,
        num_categories=spec.num_categories,
        observation_high=spec.observation_high,
        initialization=init,
    )


def q_network(
    spec: Any,
    *,
    torso: str | nn.Module = "mlp",
    hidden: tuple[int, ...] = (64, 64),
    lstm: int = 0,
    dueling: bool = False,
    init: str = "orthogonal",
    dtype: Any = jnp.float32,
) -> QNetwork:
    """Build an action-value network for an environment.

    Args:
      spec: `EnvSpec`, or an object with an `EnvSpec` as `.spec`. Its actions are discrete.
      torso: as in `actor_critic`.
      hidden: as in `actor_critic`.
      lstm: as in `actor_critic`.
      dueling: use the dueling streams of `QNetwork`.
      init: as in `actor_critic`.
      dtype: as in `actor_critic`.

    Returns:
      The network. `network.apply(params, carry, obs, reset)` returns carry, a distribution whose
      mode is the greedy action, and values `[T, *B, A]`.

    Raises:
      InputError: if a name is unknown, a number is out of range, or the actions are not discrete.

    References:
      Mnih et al. (2016), section 4; Wang et al. (2016) for `dueling`.
    """
    spec = _spec(spec)
    # Refuse continuous actions now, not at the first call.
    _num_actions(spec.action_space)
    check_boolean("dueling", dueling)

    return QNetwork(
        torso=_torso(torso, hidden=hidden, init=init, dtype=dtype),
        action_space=spec.action_space,
        core=_core(lstm, init=init, dtype=dtype),
        dueling=dueling,
        num_categories=spec.num_categories,
        observation_high=spec.observation_high,
        initialization=init,
    )


def _trunk(network: ActorCritic | QNetwork, name: str) -> Trunk:
    """Make a trunk with copies of torso and core, inside a compact method."""
    # A clone without a parent belongs to the new trunk, so trunks do not share parameters.
    torso = network.torso.clone(parent=None, name=None)
    core = None if network.core is None else network.core.clone(parent=None, name=None)
    return Trunk(torso, core, network.num_categories, network.observation_high, name=name)


def _spec(of: Any) -> Any:
    """Return the `EnvSpec` of an environment, or the argument if it is an `EnvSpec`."""
    spec = getattr(of, "spec", of)
    if not hasattr(spec, "action_space"):
        raise InputError(
            f"spec must be an environment, such as envs.make returns, or its .spec, got {shown(of)}"
        )
    return spec


def _num_actions(action_space: ActionSpace) -> int:
    """Return A; check that the actions are discrete."""
    if isinstance(action_space, Box):
        raise InputError(
            f"a Q network needs discrete actions, got a Box of size {action_space.size}; "
            "use actor_critic and an actor-critic method (a2c, a3c) for continuous actions"
        )
    return action_space.num_actions


def _core(units: int, *, init: str, dtype: Any) -> LSTM | None:
    """Build the LSTM, or return None for 0 units."""
    check_integer("lstm, its units or 0 for none,", units, 0)
    return LSTM(units, initialization=init, dtype=dtype) if units else None


def _torso(torso: str | nn.Module, *, hidden: tuple[int, ...], init: str, dtype: Any) -> nn.Module:
    """Build a torso by name, or return the given module."""
    # Check these settings even if a given module ignores them.
    check_choice("init", init, INITS)
    check_tuple("hidden", hidden, "integers")
    for units in hidden:
        check_integer("hidden", units, 1)
    if isinstance(torso, nn.Module):
        return torso

    check_choice("torso, unless it is a flax module,", torso, TORSOS)
    if torso == "mlp":
        return MLP(tuple(hidden), initialization=init, dtype=dtype)
    images = {"mnih2013": Mnih2013, "nature": Nature, "minatar": MinAtarConv}
    return images[torso](initialization=init, dtype=dtype)
