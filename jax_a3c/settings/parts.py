"""The settings of runners and objectives. Each setting is defined once. No JAX here.

A method's settings are its parts' by inheritance: `A2CConfig` has the fields of the synchronous
runner and of the actor-critic objective. `settings.methods` adds what a whole run needs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from jax_a3c.checks import (
    MAX_STEPS,
    check_boolean,
    check_choice,
    check_integer,
    check_number,
    check_timeout,
    check_tuple,
)
from jax_a3c.errors import InputError
from jax_a3c.messages import shown

FINAL_EPSILONS = (0.1, 0.01, 0.5)
"""Final epsilons of the workers (Mnih et al. 2016, section 8)."""
FINAL_EPSILON_PROBABILITIES = (0.4, 0.3, 0.3)
"""Probability of each of `FINAL_EPSILONS`. Some implementations swap 0.1 and 0.01 by mistake."""
EPSILON_ANNEAL_FRAMES = 4_000_000
"""Anneal time of the paper. It may count emulator frames or actions (4 frames each)."""
MAX_WORKERS = 1024
"""Most workers of a run. Systems allow a process a few thousand threads in all."""

AutoReset = Literal["pooled", "exact"]
Reduction = Literal["sum", "mean"]


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base of all settings."""

    def __post_init__(self) -> None:
        """Check the fields. Each class checks its own, then calls the next one."""


@dataclass(frozen=True, kw_only=True)
class LengthConfig(Config):
    """The length of training.

    Attributes:
      total_timesteps: environment steps to train for, summed over all environments and workers; the
        paper's T_max.
    """

    total_timesteps: int = 500_000

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("total_timesteps", self.total_timesteps, 1, MAX_STEPS)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class RunnerConfig(Config):
    """Settings that all runners share.

    Attributes:
      num_envs: number of environments that step together, at least 1; per worker for asynchronous
        methods. Paper: 1 per worker.
      num_steps: largest number of steps of each environment between two updates, at least 1; the
        paper's t_max. Paper: 5; its authors by e-mail: 20.
      max_grad_norm: largest global norm of the gradient, above 0, to which longer gradients are
        scaled down; None disables clipping. The paper's authors by e-mail: 40, for summed
        losses; 0.5 suits averaged losses.
      auto_reset: how many start states are made on JAX environments: one per environment and
        rollout (pooled) or one per environment and step (exact, slower).
    """

    num_envs: int
    num_steps: int
    max_grad_norm: float | None
    auto_reset: AutoReset = "pooled"

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("num_envs", self.num_envs, 1)
        check_integer("num_steps", self.num_steps, 1)
        check_integer("num_envs times num_steps", self.num_envs * self.num_steps, 1)
        check_choice("auto_reset", self.auto_reset, get_args(AutoReset))
        if self.max_grad_norm is not None:
            check_number("max_grad_norm", self.max_grad_norm, above=0.0)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class SynchronousConfig(RunnerConfig):
    """Settings of the synchronous runner; `RunnerConfig` documents the fields.

    The defaults are usual for A2C. The clipping norm fits losses that are averaged over steps
    (`loss_reduction="mean"`) and an RMSProp epsilon of 1e-5. Summed losses, the default of an
    objective without a runner, need 40 and 0.1.
    """

    num_envs: int = 16
    num_steps: int = 5
    max_grad_norm: float | None = 0.5


@dataclass(frozen=True, kw_only=True)
class AsynchronousConfig(RunnerConfig, LengthConfig):
    """Settings of the asynchronous runner, in addition to `RunnerConfig`.

    The defaults are the paper's, with details from its authors by e-mail: losses summed over a
    rollout of 20 steps and gradients clipped at norm 40. They fit an RMSProp epsilon of 0.1.

    Attributes:
      num_workers: number of threads, from 1 to 1024. Paper: 16, on as many cores.
      stop_at_episode_end: whether a rollout ends with the episode, as in Algorithms 1, S2 and S3.
        With several environments it ends after a step that ends the episodes of all of them.
      lock: whether reads and updates of the shared parameters exclude each other, as a control
        experiment. Paper: no lock.
      worker_timeout: seconds, above 0, that a worker may take for one rollout before it counts as
        hung; None waits forever.
    """

    num_workers: int = 16
    num_envs: int = 1
    num_steps: int = 20
    max_grad_norm: float | None = 40.0
    stop_at_episode_end: bool = True
    lock: bool = False
    worker_timeout: float | None = 300.0

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("num_workers", self.num_workers, 1, MAX_WORKERS)
        check_boolean("stop_at_episode_end", self.stop_at_episode_end)
        check_boolean("lock", self.lock)
        check_timeout("worker_timeout", self.worker_timeout)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Config):
    """Settings that every objective has.

    Attributes:
      gamma: discount factor per environment step, in [0, 1]. Paper: 0.99.
      vf_coef: weight of the value loss, 0.5 (R - V)^2 for actor-critic methods and 0.5 (R - Q)^2
        for value-based methods, at least 0. The paper's pseudo-code has the square without 0.5,
        which is a weight of 2. By e-mail its authors said that they multiplied the critic's
        gradient by 0.5, which is a weight of 1.
      loss_reduction: whether the losses of a rollout's steps are summed, like the gradients that
        the paper accumulates, or averaged. Both average over environments. Learning rate, RMSProp
        epsilon and clipping norm depend on this choice: epsilon 0.1 and norm 40 with the sum, 1e-5
        and 0.5 with the mean.
      reward_scale: factor on the rewards that the learner sees; reported returns are unscaled.
      reward_clip: largest magnitude of the scaled rewards that the learner sees, above 0; None
        disables clipping. The paper's authors, for Atari: 1.
    """

    gamma: float = 0.99
    vf_coef: float = 1.0
    loss_reduction: Reduction = "sum"
    reward_scale: float = 1.0
    reward_clip: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("gamma", self.gamma, 0.0, 1.0)
        check_number("vf_coef", self.vf_coef, 0.0)
        check_choice("loss_reduction", self.loss_reduction, get_args(Reduction))
        check_number("reward_scale", self.reward_scale)
        if self.reward_clip is not None:
            check_number("reward_clip", self.reward_clip, above=0.0)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ActorCriticConfig(ObjectiveConfig):
    """Settings of the actor-critic objective, in addition to `ObjectiveConfig`.

    Attributes:
      gae_lambda: lambda of generalized advantage estimation, in [0, 1]; 1 gives the paper's n-step
        returns.
      ent_coef: weight of the entropy bonus, the paper's beta, at least 0. Paper: 0.01 for discrete
        actions, 1e-4 for continuous ones.
      normalize_advantages: whether advantages are scaled to mean 0 and standard deviation 1 in each
        rollout. Not in the paper.
    """

    gae_lambda: float = 1.0
    ent_coef: float = 0.01
    normalize_advantages: bool = False

    def __post_init__(self) -> None:
        """Check the fields."""
        check_number("gae_lambda", self.gae_lambda, 0.0, 1.0)
        check_number("ent_coef", self.ent_coef, 0.0)
        check_boolean("normalize_advantages", self.normalize_advantages)

        # With a runner: the only advantage of a rollout would always become 0.
        if (
            self.normalize_advantages
            and isinstance(self, RunnerConfig)
            and self.num_envs * self.num_steps == 1
        ):
            raise InputError(
                "normalize_advantages must be False with num_envs=1 and num_steps=1: the only "
                "advantage of a rollout would become 0; use more environments or steps"
            )
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class ActionValueConfig(ObjectiveConfig):
    """Settings of the value-based objectives, in addition to `ObjectiveConfig`.

    The paper counts in frames. It does not say whether these are emulator frames, four to an
    action, or actions. Here all counts are environment steps (one action each) of all workers
    together.

    Attributes:
      target_update_interval: environment steps of all workers between two copies of the parameters
        to the target network, from 1 to 1e9. Paper: 40,000 frames.
      epsilon_anneal_steps: environment steps of all workers over which epsilon falls from 1 to its
        final value, at least 1. Paper: the first 4 million frames.
      final_epsilons: possible final values of epsilon, each in [0, 1]; each environment of each
        worker draws one of them. Paper: 0.1, 0.01, 0.5.
      final_epsilon_probabilities: probability of each value of final_epsilons. The paper has
        the probabilities 0.4, 0.3, 0.3.
      double_q: whether to use double Q-learning: the online network chooses the next action and the
        target network evaluates it. The paper names it as a possible improvement.
      huber_delta: size of the error, in scaled reward units, beyond which the loss grows linearly;
        None keeps the paper's squared error.
    """

    target_update_interval: int = 40_000
    epsilon_anneal_steps: int = EPSILON_ANNEAL_FRAMES
    final_epsilons: tuple[float, ...] = FINAL_EPSILONS
    final_epsilon_probabilities: tuple[float, ...] = FINAL_EPSILON_PROBABILITIES
    double_q: bool = False
    huber_delta: float | None = None

    def __post_init__(self) -> None:
        """Check the fields."""
        check_integer("target_update_interval", self.target_update_interval, 1, 10**9)
        check_integer("epsilon_anneal_steps", self.epsilon_anneal_steps, 1, MAX_STEPS)
        check_final_epsilons(self.final_epsilons, self.final_epsilon_probabilities)
        check_boolean("double_q", self.double_q)
        if self.huber_delta is not None:
            check_number("huber_delta", self.huber_delta, above=0.0)
        super().__post_init__()


@dataclass(frozen=True, kw_only=True)
class A2CConfig(SynchronousConfig, ActorCriticConfig):
    """Settings of A2C: the synchronous runner's and the actor-critic objective's.

    The mean of the losses is usual for A2C.
    """

    loss_reduction: Reduction = "mean"


@dataclass(frozen=True, kw_only=True)
class A3CConfig(AsynchronousConfig, ActorCriticConfig):
    """Settings of A3C: the asynchronous runner's and the actor-critic objective's."""


@dataclass(frozen=True, kw_only=True)
class QConfig(SynchronousConfig, ActionValueConfig):
    """Settings of one-step Q, one-step Sarsa and n-step Q on the synchronous runner."""

    loss_reduction: Reduction = "mean"


@dataclass(frozen=True, kw_only=True)
class AsyncQConfig(AsynchronousConfig, ActionValueConfig):
    """Settings of one-step Q, one-step Sarsa and n-step Q on the asynchronous runner."""


def check_final_epsilons(epsilons: Sequence[float], probabilities: Sequence[float]) -> None:
    """Check that the arguments are a mixture of final epsilons.

    Args:
      epsilons: values, each in [0, 1].
      probabilities: one for each of `epsilons`, in [0, 1], with the sum 1.

    Raises:
      InputError: if they are not.
    """
    both = {"final_epsilons": epsilons, "final_epsilon_probabilities": probabilities}
    for name, values in both.items():
        check_tuple(name, values, "numbers")
        for value in values:
            check_number(name, value, 0.0, 1.0)

    # Allow rounding errors in the sum.
    if len(epsilons) != len(probabilities) or abs(sum(probabilities) - 1.0) > 1e-6:
        raise InputError(
            f"final_epsilon_probabilities must be one number for each of final_epsilons "
            f"{shown(tuple(epsilons))}, with the sum 1, got {shown(tuple(probabilities))}"
        )
