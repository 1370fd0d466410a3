"""The paper's value-based methods: one-step Q, one-step Sarsa and n-step Q.

They differ only in the target y of the squared error.
"""

from collections.abc import Callable

import jax.numpy as jnp

from jax_a3c import losses, returns
from jax_a3c.errors import InputError
from jax_a3c.exploration import (
    annealed_epsilon,
    epsilon_greedy,
    sample_final_epsilons,
)
from jax_a3c.networks.base import Network
from jax_a3c.objectives.base import Objective, masked_mean, reduce_loss, rewards_and_discounts
from jax_a3c.objectives.bootstrap import next_target_values, next_values
from jax_a3c.rollouts import Rollout
from jax_a3c.settings.parts import ActionValueConfig
from jax_a3c.types import Array, Carry, Metrics, Params

TDLoss = Callable[[Params, Params, Rollout, Array, Array, Array], Array]
"""`(params, target_params, rollout, q_values [T, *B, A], rewards, discounts) -> losses [T, *B]`."""


def one_step_q(network: Network, config: ActionValueConfig) -> Objective:
    r"""Build the objective of one-step Q-learning.

        loss = vf_coef 0.5 (y - Q(s_t, a_t; theta))^2,
        y = r_t + gamma max_a' Q(s_{t+1}, a'; theta^-)

    With `double_q`, y = r_t + gamma Q(s_{t+1}, argmax_a' Q(s_{t+1}, a'; theta); theta^-).

    Args:
      network: the action values, see `networks.q_network`.
      config: exploration, target network and discount.

    Returns:
      The objective. Its metrics, averaged over steps: `loss`, `q_value` of the actions taken, and
      `not_greedy`, the share of actions that are not the best by their value.

    References:
      Mnih et al. (2016), Algorithm 1. `num_steps` of the runner is its I_AsyncUpdate. Algorithm 1
      chooses each action with the current shared parameters. Here the whole segment acts with the
      parameters from its start, as in Algorithm S2.
    """

    def td_loss(
        params: Params,
        target_params: Params,
        rollout: Rollout,
        q: Array,
        rewards: Array,
        discounts: Array,
    ) -> Array:
        steps = rollout.steps
        transition = (q, steps.action, rewards, discounts)
        q_next = next_target_values(network, target_params, rollout)  # Q(s_{t+1}, .; theta^-)

        if config.double_q:
            chooser = next_values(network, params, rollout, q)  # Q(s_{t+1}, .; theta)
            return losses.double_q_learning_loss(
                *transition, q_next, chooser, transform=_transform(config)
            )
        return losses.q_learning_loss(*transition, q_next, transform=_transform(config))

    return _action_value_objective(network, config, td_loss)


def one_step_sarsa(network: Network, config: ActionValueConfig) -> Objective:
    r"""Build the objective of one-step Sarsa, which values the next action taken, not the best one.

        loss = vf_coef 0.5 (y - Q(s_t, a_t; theta))^2,
        y = r_t + gamma Q(s_{t+1}, a_{t+1}; theta^-)

    The action after a rollout's last step is chosen at the end of the rollout, and the next rollout
    begins with it. Where an episode was truncated, a_{t+1} is the action that the behaviour would
    have taken next.

    Args:
      network: the action values, see `networks.q_network`.
      config: exploration, target network and discount.

    Returns:
      The objective, with the metrics of `one_step_q`.

    Raises:
      InputError: if `double_q` is set, because the target of Sarsa has no maximum.

    References:
      Mnih et al. (2016), section 4; Rummery & Niranjan (1994).
    """
    if config.double_q:
        raise InputError("double_q must be False for one-step Sarsa, whose target has no maximum")

    def td_loss(
        params: Params,
        target_params: Params,
        rollout: Rollout,
        q: Array,
        rewards: Array,
        discounts: Array,
    ) -> Array:
        del params
        steps = rollout.steps
        if steps.next_action is None:
            raise InputError(
                "rollout has no next_action; start its actor with needs_next_action=True"
            )

        q_next = next_target_values(network, target_params, rollout)  # Q(s_{t+1}, .; theta^-)
        return losses.sarsa_loss(
            q,
            steps.action,
            rewards,
            discounts,
            q_next,
            steps.next_action,  # a_{t+1}
            transform=_transform(config),
        )

    return _action_value_objective(network, config, td_loss, needs_next_action=True)


def n_step_q(network: Network, config: ActionValueConfig) -> Objective:
    r"""Build the objective of n-step Q-learning.

    It uses the forward view: each state has the longest return that its segment allows.

        loss = vf_coef 0.5 (R_t - Q(s_t, a_t; theta))^2,
        R_t = r_t + gamma r_{t+1} + ... + gamma^k max_a Q(s_{t+k}, a; theta^-)

    where s_{t+k} is the end of the segment, or of the episode if that was truncated. Where the
    episode terminated, the sum ends without the last term. With `double_q` the online network
    chooses a.

    Args:
      network: the action values, see `networks.q_network`.
      config: exploration, target network and discount.

    Returns:
      The objective, with the metrics of `one_step_q`.

    References:
      Mnih et al. (2016), Algorithm S2.
    """

    def td_loss(
        params: Params,
        target_params: Params,
        rollout: Rollout,
        q: Array,
        rewards: Array,
        discounts: Array,
    ) -> Array:
        # Q(s_{t+k}, .; theta^-) in the rows to bootstrap from; q fills the unused rows.
        q_next = next_target_values(network, target_params, rollout, fill=q)

        # max_a Q(s_{t+k}, a; theta^-); with double Q the online network chooses a.
        chooser = next_values(network, params, rollout, q) if config.double_q else q_next
        best = jnp.argmax(chooser, axis=-1, keepdims=True)
        bootstrap = jnp.take_along_axis(q_next, best, axis=-1)[..., 0]

        # R <- r_i + gamma R, backwards; bootstrap again at each truncation.
        targets = returns.lambda_returns(
            rewards, discounts, bootstrap, 1.0 - rollout.steps.truncated
        )
        return losses.n_step_q_loss(q, rollout.steps.action, targets, transform=_transform(config))

    return _action_value_objective(network, config, td_loss)


def _action_value_objective(
    network: Network, config: ActionValueConfig, td_loss: TDLoss, *, needs_next_action: bool = False
) -> Objective:
    """Build an objective with an epsilon-greedy policy and the mean or sum of `td_loss` as loss."""

    def explore(key: Array, num_envs: int) -> Array:
        return sample_final_epsilons(
            key, (num_envs,), config.final_epsilons, config.final_epsilon_probabilities
        )

    def act(
        params: Params,
        key: Array,
        carry: Carry,
        observation: Array,
        reset: Array,
        exploration: Array,
        env_steps: Array | float,
    ) -> tuple[Carry, Array, tuple[()]]:
        # [N, ...] -> [T=1, N, ...] -> Q(s_t, .; theta') [1, N, A].
        carry, _, q_values = network.apply(params, carry, observation[None], reset[None])
        if q_values.ndim != reset.ndim + 2:
            raise InputError(
                f"the network's values have shape {q_values.shape[1:]} for observations "
                f"{reset.shape}, one for each state; a value-based method needs one for each "
                "action: use networks.q_network"
            )

        # a_t ~ epsilon-greedy(Q(s_t, .; theta')), with epsilon annealed over T.
        epsilon = annealed_epsilon(env_steps, exploration, float(config.epsilon_anneal_steps))
        return carry, epsilon_greedy(key, q_values[0], epsilon), ()

    def loss(params: Params, rollout: Rollout, target_params: Params) -> tuple[Array, Metrics]:
        steps = rollout.steps

        # Q(s_t, .; theta') of all steps at once, [T, N, A].
        _, _, q_values = network.apply(params, rollout.carry, steps.observation, steps.reset)
        rewards, discounts = rewards_and_discounts(config, steps)

        # 0.5 (y - Q(s_t, a_t; theta'))^2, or Huber's loss of the same error.
        per_step = td_loss(params, target_params, rollout, q_values, rewards, discounts)
        mean = config.vf_coef * masked_mean(per_step, steps.mask)

        taken = jnp.take_along_axis(q_values, steps.action[..., None], axis=-1)[..., 0]
        return reduce_loss(config, mean, steps), {
            "loss": mean,
            "q_value": masked_mean(taken, steps.mask),
            "not_greedy": masked_mean(steps.action != jnp.argmax(q_values, axis=-1), steps.mask),
        }

    return Objective(
        act,
        loss,
        explore,
        needs_next_action,
        config.target_update_interval,
        loss_reduction=config.loss_reduction,
    )


def _transform(config: ActionValueConfig) -> losses.Transform:
    """Return the function from an error to its loss: half its square, or Huber's loss."""
    delta = config.huber_delta
    return losses.half_square if delta is None else lambda error: losses.huber(error, delta)
