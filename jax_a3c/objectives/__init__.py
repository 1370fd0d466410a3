"""The paper's methods as objectives: how to act, and what to minimise on a rollout.

A runner collects the rollouts and applies the gradient.
"""

from jax_a3c.networks.base import Network
from jax_a3c.objectives.action_values import n_step_q, one_step_q, one_step_sarsa
from jax_a3c.objectives.actor_critic import actor_critic
from jax_a3c.objectives.base import Objective, RunningStatistics
from jax_a3c.objectives.bootstrap import next_values
from jax_a3c.objectives.gradients import average, gradient, guarded
from jax_a3c.settings.parts import ActionValueConfig, ActorCriticConfig, ObjectiveConfig

__all__ = [
    "ActionValueConfig",
    "ActorCriticConfig",
    "Network",
    "Objective",
    "ObjectiveConfig",
    "RunningStatistics",
    "actor_critic",
    "average",
    "gradient",
    "guarded",
    "n_step_q",
    "next_values",
    "one_step_q",
    "one_step_sarsa",
]
