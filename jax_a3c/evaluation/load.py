"""A trained run in another program: load it with a policy that acts, or evaluate it."""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.envs.base import HostFactory, JaxEnvironment, to_bounds
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import acting
from jax_a3c.networks.base import Network
from jax_a3c.types import Params


class Policy:
    """Acts on one observation or on a batch.

    A recurrent network remembers the episode from one call to the next. Each entry of a batch is
    one environment.
    """

    def __init__(
        self,
        env: JaxEnvironment | HostFactory,
        network: Network,
        params: Params,
        name: str,
        seed: int = 0,
    ):
        """Store the parts; the first call compiles.

        Args:
          env: the environment, whose spec says what is observed and done.
          network: the network.
          params: its variables.
          name: "greedy", "sampled" or "epsilon-greedy".
          seed: seed of sampled actions.
        """
        self._spec = env.spec
        self._network = network
        self._params = params
        self._act = acting(network, name)
        self._key = jax.random.key(seed)
        self._carry: Any = None
        self._size = 0

    def __call__(self, observation: Any, reset: Any = None) -> np.ndarray:
        """Choose an action for each observation.

        Args:
          observation: one observation `[...]` or a batch `[N, ...]`.
          reset: `[]` or `[N]` bool. The observation begins an episode, so a recurrent network
            forgets. None for no observation, except in the first call and after a change of N.

        Returns:
          One action or `[N]` actions: int32, or float32 `[A]` within the bounds of the environment.

        Raises:
          InputError: if the shape of the observation or of `reset` is wrong.
        """
        shape = self._spec.observation_shape
        observation = jnp.asarray(observation, self._spec.observation_dtype)
        single = observation.shape == shape
        batch = observation[None] if single else observation
        if batch.shape[1:] != shape or batch.ndim == 0:
            raise InputError(
                f"observation must have the shape {shape}, or [N, ...] for a batch, got "
                f"{observation.shape}"
            )

        # A new batch of environments begins new episodes.
        size = len(batch)
        if size != self._size:
            self._size = size
            self._carry = self._network.initial_carry((size,))
            reset = True if reset is None else reset
        resets = np.asarray(False if reset is None else reset, bool)
        if resets.shape not in ((), (size,)):
            raise InputError(f"reset must have the shape ({size},), got {resets.shape}")

        resets = np.broadcast_to(resets, (size,))
        self._key, self._carry, action = self._act(
            self._params, self._key, self._carry, batch, resets
        )
        actions = to_bounds(self._spec.action_space, np.asarray(action))
        return actions[0] if single else actions


class LoadedRun(NamedTuple):
    """A trained run.

    Attributes:
      env: the environment.
      network: the network; it normalizes its inputs if the run did.
      params: its variables.
      act: the policy, `act(observation) -> action`.
    """

    env: JaxEnvironment | HostFactory
    network: Network
    params: Params
    act: Policy


def load(
    run_dir: str | Path,
    *,
    env: JaxEnvironment | HostFactory | None = None,
    network: Network | None = None,
    checkpoint: str = "last",
    policy: str | None = None,
    seed: int = 0,
) -> LoadedRun:
    """Load a run to act with it in another program.

    Args:
      run_dir: folder of the run.
      env: the user's own environment, if the run was trained with it.
      network: the user's own network, if the run was trained with it.
      checkpoint: "last", or "best" for the best one by the evaluations of the run.
      policy: "greedy", "sampled" or "epsilon-greedy"; None for the run's `eval_policy`.
      seed: seed of sampled actions.

    Returns:
      Environment, network, parameters and policy.

    Raises:
      InputError: if the folder holds no run, or its parts cannot be built here.

    Examples:
      A run of `jax-a3c train a2c gymnax:CartPole-v1 --run-dir runs/cartpole`::

        run = jax_a3c.load("runs/cartpole")
        action = run.act(observation)
    """
    # Imported here, since progress bars and other heavy modules come with them.
    from jax_a3c.evaluation import score
    from jax_a3c.experiment.build import Parts
    from jax_a3c.experiment.run_directory import RunDirectory

    parts = Parts(env=env, network=network)
    player, settings, params = score.load(RunDirectory(run_dir), checkpoint, parts)
    name = settings.eval_policy if policy is None else policy
    act = Policy(player.env, player.network, params, name, seed)
    return LoadedRun(player.env, player.network, params, act)


def evaluate(
    run_dir: str | Path,
    *,
    env: JaxEnvironment | HostFactory | None = None,
    network: Network | None = None,
    episodes: int = 100,
    max_steps: int | None = None,
    seed: int = 1,
    quiet: bool = True,
    checkpoint: str = "last",
) -> dict[str, Any]:
    """Evaluate a run over complete episodes on new environments.

    Args:
      run_dir: folder of the run.
      env: the user's own environment, if the run was trained with it.
      network: the user's own network, if the run was trained with it.
      episodes: episodes of the greedy policy, and as many of the sampled or epsilon-greedy one.
      max_steps: environment steps, shared equally by the games of all policies; None has no limit.
      seed: seed of start states and sampled actions.
      quiet: show no progress bar.
      checkpoint: "last", or "best" for the best one by the evaluations of the run.

    Returns:
      `eval_return_mean` and the other figures of `jax-a3c eval`, by name.

    Raises:
      InputError: if the folder holds no run, its parts cannot be built here, or an argument is out
        of range.
    """
    from jax_a3c.evaluation.score import evaluate_run
    from jax_a3c.experiment.build import Parts
    from jax_a3c.experiment.run_directory import RunDirectory

    return evaluate_run(
        RunDirectory(run_dir),
        num_episodes=episodes,
        seed=seed,
        quiet=quiet,
        which=checkpoint,
        max_steps=max_steps,
        parts=Parts(env=env, network=network),
    )
