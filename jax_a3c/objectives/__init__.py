"""The paper's methods as objectives: how to act, and what to minimise on a rollout.

A runner collects the rollouts and applies the gradient.
"""

from jax_a3c.objectives.action_values import (
    ActionValueConfig,
    n_step_q,
    one_step_q,
    one_step_sarsa,
)
from jax_a3c.objectives.actor_critic import ActorCriticConfig, actor_critic, check_rows
from jax_a3c.objectives.base import (
    Network,
    Objective,
    ObjectiveConfig,
    Statistics,
    gradient,
    next_values,
)
from jax_a3c.objectives.parts import check_parts, parameters_like

__all__ = [
    "ActionValueConfig",
    "ActorCriticConfig",
    "Network",
    "Objective",
    "ObjectiveConfig",
    "Statistics",
    "actor_critic",
    "check_parts",
    "check_rows",
    "gradient",
    "n_step_q",
    "next_values",
    "one_step_q",
    "one_step_sarsa",
    "parameters_like",
]
