"""The table of methods: the name, objective, runner and default settings of each."""

from dataclasses import dataclass
from typing import Any, Literal

Runner = Literal["synchronous", "asynchronous"]
ObjectiveName = Literal["actor_critic", "one_step_q", "one_step_sarsa", "n_step_q"]

RUNNER_DEFAULTS: dict[str, dict[str, Any]] = {
    # The paper's settings, with details from its authors by e-mail: losses summed over a rollout of
    # 20 steps, gradients clipped at norm 40, epsilon 0.1 inside the square root, learning rate 7e-4
    # falling to 0.
    "asynchronous": {
        "num_workers": 16,
        "num_envs": 1,
        "num_steps": 20,
        "stop_at_episode_end": True,
        "loss_reduction": "sum",
        "max_grad_norm": 40.0,
        "rmsprop_eps": 0.1,
    },
    # The A2C settings of OpenAI Baselines. Losses are averaged, so clipping norm and epsilon are
    # smaller.
    "synchronous": {
        "num_envs": 16,
        "num_steps": 5,
        "loss_reduction": "mean",
        "max_grad_norm": 0.5,
        "rmsprop_eps": 1e-5,
    },
}


@dataclass(frozen=True)
class Method:
    """One method: an objective on a runner.

    Attributes:
      objective: name of the function in `objectives`.
      runner: what applies the gradients: `"synchronous"` for one compiled loop, `"asynchronous"`
        for threads.
    """

    objective: ObjectiveName
    runner: Runner

    @property
    def value_based(self) -> bool:
        """Return whether the method learns action values and explores epsilon-greedily."""
        return self.objective != "actor_critic"

    @property
    def defaults(self) -> dict[str, Any]:
        """Return the fields of `training.Settings` whose defaults the method replaces."""
        return RUNNER_DEFAULTS[self.runner]


# Every objective on both runners.
METHODS = {
    "a2c": Method("actor_critic", "synchronous"),
    "a3c": Method("actor_critic", "asynchronous"),
    "one-step-q": Method("one_step_q", "synchronous"),
    "async-one-step-q": Method("one_step_q", "asynchronous"),
    "one-step-sarsa": Method("one_step_sarsa", "synchronous"),
    "async-one-step-sarsa": Method("one_step_sarsa", "asynchronous"),
    "n-step-q": Method("n_step_q", "synchronous"),
    "async-n-step-q": Method("n_step_q", "asynchronous"),
}
