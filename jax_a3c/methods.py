"""The table of methods: what each is called, its objective, who runs it, and where its settings start."""

from dataclasses import dataclass
from typing import Any, Literal

Runner = Literal["synchronous", "asynchronous"]
ObjectiveName = Literal["actor_critic", "one_step_q", "one_step_sarsa", "n_step_q"]

RUNNER_DEFAULTS: dict[str, dict[str, Any]] = {
    # The paper's, with what its authors added by e-mail: losses summed over a segment of 20 steps, clipped
    # at norm 40, epsilon 0.1 inside the root, learning rate 7e-4 to 0.
    "asynchronous": {
        "num_workers": 16,
        "num_envs": 1,
        "num_steps": 20,
        "stop_at_episode_end": True,
        "loss_reduction": "sum",
        "max_grad_norm": 40.0,
        "rmsprop_eps": 0.1,
    },
    # OpenAI Baselines' settings of A2C: losses averaged, so a smaller clipping norm and epsilon.
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
    """A cell of the table of objectives and runners.

    Attributes:
      objective: name of the function in `objectives`.
      runner: who applies the gradient; `"synchronous"` one jitted loop, `"asynchronous"` threads.
    """

    objective: ObjectiveName
    runner: Runner

    @property
    def value_based(self) -> bool:
        """The method learns action values, and explores epsilon-greedily."""
        return self.objective != "actor_critic"

    @property
    def defaults(self) -> dict[str, Any]:
        """Settings of `training.Settings` with which the method starts where no preset says more."""
        return RUNNER_DEFAULTS[self.runner]


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
