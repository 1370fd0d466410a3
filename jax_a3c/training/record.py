"""Recording: an agent plays, and the pictures become a GIF or an MP4."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_a3c.checks import MAX_EPISODES, InputError, check_choice, check_integer
from jax_a3c.envs.base import (
    DrawableEnvironment,
    DrawableFactory,
    EnvSpec,
    HostEnvironmentError,
    HostFactory,
    HostStep,
    JaxEnvironment,
    RenderedEnvironment,
    to_bounds,
)
from jax_a3c.objectives import Network
from jax_a3c.training.evaluation import Act, acting
from jax_a3c.training.experiment import evaluation_env
from jax_a3c.training.results import load
from jax_a3c.training.run_directory import RunDirectory
from jax_a3c.training.settings import POLICIES, kind_of
from jax_a3c.training.video import MAX_FPS, check_output, write_video
from jax_a3c.types import Array, Params


class Recording(NamedTuple):
    """What was recorded.

    Attributes:
      path: the file.
      frames: pictures in it.
      returns: of the games that ended, undiscounted and unclipped.
      lengths: of the games that ended, in environment steps.
    """

    path: Path
    frames: int
    returns: list[float]
    lengths: list[int]


class Frame(NamedTuple):
    """One picture of a game.

    Attributes:
      pixels: `[H, W, 3]` uint8.
      score: of the game so far, undiscounted and unclipped.
      length: steps of the game so far.
      game_over: the game ended with this picture.
    """

    pixels: np.ndarray
    score: float
    length: int
    game_over: bool


def record(
    run: RunDirectory,
    output: Path | None = None,
    *,
    episodes: int = 1,
    policy: str | None = None,
    seed: int = 1,
    max_steps: int = 3000,
    fps: int = 30,
    checkpoint: str = "last",
) -> Recording:
    """Let the final parameters of a run play, and write what it looks like.

    Args:
      run: whose training ended.
      output: a file that ends in `.gif` or `.mp4`, written over if it is there; None for `recording.gif` in
        the run's folder.
      episodes: whole games, at least 1.
      policy: greedy, and sampled for actor-critic methods or epsilon-greedy for value-based ones; None for
        the policy that counts for the run.
      seed: of start states and sampled actions.
      max_steps: environment steps altogether, after which the recording ends.
      fps: pictures per second, 1 to 50.
      checkpoint: of the run, `"last"` or `"best"`.

    Returns:
      What was recorded.

    Raises:
      InputError: if the folder holds no run that ended, an argument is of no use, a library is missing, or
        the environment cannot be drawn; before anything is played.
    """
    run.config()  # a folder that is no run says so before its missing subfolders do
    path = output if output is not None else run.path / "recording.gif"
    check_output(path)
    check_integer("episodes", episodes, 1, MAX_EPISODES)
    check_integer("max_steps", max_steps, 1)
    check_integer("fps", fps, 1, MAX_FPS)
    check_integer("seed", seed, 0)
    experiment, method, settings, params = load(run, checkpoint)
    policy = settings.eval_policy if policy is None else policy
    check_choice(f"policy of {method}", policy, POLICIES[kind_of(method)])
    stage = rendered(evaluation_env(experiment, settings), seed)
    act = acting(experiment.network, policy)
    frames = played(
        stage, experiment.network, act, params, jax.random.key(seed), episodes, max_steps
    )
    returns, lengths = [], []

    def pixels() -> Iterator[np.ndarray]:
        for frame in frames:
            if frame.game_over:
                returns.append(frame.score)
                lengths.append(frame.length)
            yield frame.pixels

    try:
        count = write_video(path, pixels(), fps=fps)
    finally:
        stage.close()
    return Recording(path, count, returns, lengths)


def rendered(env: JaxEnvironment | HostFactory, seed: int) -> RenderedEnvironment:
    """One environment that can be drawn, on the host or as if it were there.

    Args:
      env: the environment.
      seed: of its start states.

    Returns:
      The environment; it has not been reset.

    Raises:
      InputError: if it cannot be drawn; the message names it and says why.
    """
    try:
        if isinstance(env, JaxEnvironment):
            if isinstance(env, DrawableEnvironment):
                return JaxStage(env, seed)
        elif isinstance(env, DrawableFactory):
            return env.make_rendered(seed=seed)
    except HostEnvironmentError as error:
        raise InputError(f"{env.spec.id!r} cannot be drawn: {error}") from error
    raise InputError(
        f"{env.spec.id!r} cannot be drawn: it lacks `renderer` or `make_rendered` of jax_a3c.envs.base"
    )


class JaxStage:
    """A JaxEnvironment as one that steps on the host, N = 1, and can be drawn.

    Attributes:
      spec: its description.
      num_envs: 1.
    """

    num_envs = 1

    def __init__(self, env: Any, seed: int):
        """`env` is a JaxEnvironment and a DrawableEnvironment."""
        self.spec: EnvSpec = env.spec
        self._render: Callable[[Any, Array], np.ndarray] = env.renderer()
        self._functions = jax.jit(env.reset), jax.jit(env.step)
        self._key = jax.random.key(seed)
        self._state: Any = None
        self._observation: Any = None
        self._over = False

    def reset(self) -> np.ndarray:
        """Begin an episode: `[1, ...]`."""
        self._key, key = jax.random.split(self._key)
        self._state, self._observation = self._functions[0](key)
        self._over = False
        return np.asarray(self._observation)[None]

    def step(self, action: np.ndarray) -> HostStep:
        """Act with `[1]` or `[1, A]`; the step after an episode's end resets and is ignored."""
        no, yes = np.zeros(1, bool), np.ones(1, bool)
        if self._over:
            nothing = np.zeros(1, np.float32)
            return HostStep(self.reset(), nothing, no, no, yes, nothing, no)
        self._key, key = jax.random.split(self._key)
        self._state, timestep = self._functions[1](key, self._state, action[0])
        self._observation = timestep.observation
        reward, terminated, truncated = (
            np.asarray(x)[None] for x in (timestep.reward, timestep.terminated, timestep.truncated)
        )
        over = terminated | truncated
        self._over = bool(over[0])
        observation = np.asarray(self._observation)[None]
        return HostStep(observation, reward, terminated, truncated, no, reward, over)

    def render(self) -> np.ndarray:
        """The last observation's picture, `[H, W, 3]` uint8."""
        return self._render(self._state, self._observation)

    def close(self) -> None:
        """Nothing is held."""


def played(
    stage: RenderedEnvironment,
    network: Network,
    act: Act,
    params: Params,
    key: Array,
    episodes: int,
    max_steps: int,
) -> Iterator[Frame]:
    """Play games and draw each observation, the first and the last of a game too.

    Args:
      stage: one environment, N = 1.
      network: the policy.
      act: as `acting` gives it.
      params: variables of the network.
      key: for sampled actions.
      episodes: games, at least 1.
      max_steps: environment steps altogether, after which no more is played.

    Yields:
      The frames; a game of n steps has n + 1, and one more for each life lost where that ends an episode.
    """
    observation, reset = stage.reset(), np.ones(1, bool)
    carry = network.initial_carry((1,))
    score, length, steps = 0.0, 0, 0
    yield Frame(_checked(stage), score, length, False)
    while episodes and steps < max_steps:
        key, carry, action = act(params, key, carry, observation, reset)
        step = stage.step(to_bounds(stage.spec.action_space, np.asarray(action)))
        observation, reset = step.observation, step.ignored
        taken = int(not step.ignored[0])
        score, length, steps = score + float(step.score[0]), length + taken, steps + taken
        game_over = bool(step.game_over[0]) and length > 0
        yield Frame(_checked(stage), score, length, game_over)
        if game_over:
            score, length, episodes = 0.0, 0, episodes - 1


def _checked(stage: RenderedEnvironment) -> np.ndarray:
    """A frame of the promised shape and dtype."""
    try:
        frame = stage.render()
    except HostEnvironmentError as error:
        raise InputError(f"{stage.spec.id!r} cannot be drawn: {error}") from error
    if (
        not isinstance(frame, np.ndarray)
        or frame.ndim != 3
        or frame.shape[2] != 3
        or frame.dtype != np.uint8
    ):
        found = (
            f"{frame.dtype} of shape {frame.shape}"
            if isinstance(frame, np.ndarray)
            else repr(frame)
        )
        raise InputError(
            f"{stage.spec.id!r} must be drawn as uint8 [H, W, 3], its picture is {found}"
        )
    return frame
