"""The table of methods: what each is called, who runs it, and where its settings start."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Method:
    """A cell of the table of objectives and runners.

    Attributes:
      runner: who applies the gradient; `"synchronous"` one jitted loop, `"asynchronous"` threads.
      defaults: settings of `training.Settings` with which this method starts where no preset says more.
    """

    runner: Literal["synchronous", "asynchronous"]
    defaults: dict[str, Any] = field(default_factory=dict)


METHODS = {
    # The paper's, with what its authors added by e-mail: losses summed over a segment of 20 steps, clipped
    # at norm 40, epsilon 0.1 inside the root, learning rate 7e-4 to 0.
    "a3c": Method(
        runner="asynchronous",
        defaults={
            "num_workers": 16,
            "num_envs": 1,
            "num_steps": 20,
            "stop_at_episode_end": True,
            "lock": False,
            "loss_reduction": "sum",
            "max_grad_norm": 40.0,
            "rmsprop_eps": 0.1,
        },
    ),
    # OpenAI Baselines' settings for the same method in lock-step: losses averaged, so a smaller clipping
    # norm and epsilon.
    "a2c": Method(
        runner="synchronous",
        defaults={
            "num_envs": 16,
            "num_steps": 5,
            "loss_reduction": "mean",
            "max_grad_norm": 0.5,
            "rmsprop_eps": 1e-5,
        },
    ),
}
