"""Record a video of an agent as a GIF or an MP4."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jax_a3c.checks import MAX_EPISODES, check_choice, check_integer
from jax_a3c.envs.base import (
    DrawableEnvironment,
    DrawableFactory,
    EnvSpec,
    HostEnvironmentError,
    HostFactory,
    HostStep,
    JaxEnvironment,
    RenderedEnvironment,
    on_device,
    to_bounds,
)
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import Act, acting
from jax_a3c.evaluation.score import load
from jax_a3c.evaluation.video import MAX_FPS, check_output, write_video
from jax_a3c.experiment.build import Parts, evaluation_env
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.networks.base import Network
from jax_a3c.types import Array, Params


class Recording(NamedTuple):
    """Description of a video.

    Attributes:
      path: path of the file.
      frames: number of frames.
      returns: undiscounted, unclipped returns of the games that ended.
      lengths: lengths of the games that ended, in environment steps.
    """

    path: Path
    frames: int
    returns: list[float]
    lengths: list[int]


class Frame(NamedTuple):
    """One frame of a game.

    Attributes:
      pixels: `[H, W, 3]` uint8.
      score: undiscounted, unclipped return of the game so far.
      length: number of steps of the game so far.
      game_over: whether this is the last frame of the game.
    """

    pixels: np.ndarray
    score: float
    length: int
    game_over: bool


def record(
    run_dir: RunDirectory | str | Path,
    output: str | Path | None = None,
    *,
    env: JaxEnvironment | HostFactory | None = None,
    network: Network | None = None,
    episodes: int = 1,
    policy: str | None = None,
    seed: int = 1,
    max_steps: int = 3000,
    fps: int = 30,
    checkpoint: str = "last",
) -> Recording:
    """Play games with the parameters of a finished run and write a video of them.

    All checks are made before the first step.

    Args:
      run_dir: folder of a run whose training has ended.
      output: file that ends in `.gif` or `.mp4`. An existing file is overwritten. None means
        `recording.gif` in the folder of the run.
      env: the user's own environment, if the run was trained with it.
      network: the user's own network, if the run was trained with it.
      episodes: number of whole games, at least 1.
      policy: `"greedy"`, or `"sampled"` for actor-critic methods, or `"epsilon-greedy"` for
        value-based methods. None means the evaluation policy of the run.
      seed: seed of start states and sampled actions.
      max_steps: largest number of environment steps in all games together.
      fps: frames per second, 1 to 50.
      checkpoint: checkpoint of the run, `"last"` or `"best"`.

    Returns:
      The path, the number of frames, and the returns and lengths of the games.

    Raises:
      InputError: if the folder has no finished run, an argument is wrong, a library is missing, or
        the environment cannot be drawn.
    """
    # First check that the folder is a run, for a clear message.
    run = run_dir if isinstance(run_dir, RunDirectory) else RunDirectory(run_dir)
    method = run.config()[0]

    # Check every argument before a game is played.
    path = run.path / "recording.gif" if output is None else Path(output)
    check_output(path)
    check_integer("episodes", episodes, 1, MAX_EPISODES)
    check_integer("max_steps", max_steps, 1)
    check_integer("fps", fps, 1, MAX_FPS)
    check_integer("seed", seed, 0)

    player, settings, params = load(run, checkpoint, Parts(env=env, network=network))
    policy = settings.eval_policy if policy is None else policy
    check_choice(f"policy of {method}", policy, settings.POLICIES)

    stage = rendered(evaluation_env(player, settings), seed)
    act = acting(player.network, policy)
    frames = played(stage, player.network, act, params, jax.random.key(seed), episodes, max_steps)
    returns: list[float] = []
    lengths: list[int] = []

    # `write_video` reads the frames one by one while the games are played.
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
    """Return a group of one environment that can be drawn. A JAX environment is wrapped.

    Args:
      env: the environment.
      seed: seed of the start states.

    Returns:
      The group, before its first reset.

    Raises:
      InputError: if the environment cannot be drawn. The message gives the reason.
    """
    try:
        if on_device(env):
            if isinstance(env, DrawableEnvironment):
                return JaxStage(env, seed)
        elif isinstance(env, DrawableFactory):
            return env.make_rendered(seed=seed)
    except HostEnvironmentError as error:
        raise InputError(f"{env.spec.id!r} cannot be drawn: {error}") from error

    raise InputError(
        f"{env.spec.id!r} cannot be drawn: implement `renderer` for a JaxEnvironment or "
        "`make_rendered` for a HostFactory, see jax_a3c.envs.base"
    )


class JaxStage:
    """JaxEnvironment with the interface of a RenderedEnvironment, N = 1.

    Attributes:
      spec: description of the environment.
      num_envs: 1.
    """

    num_envs = 1

    def __init__(self, env: Any, seed: int):
        """Wrap `env`, which is a JaxEnvironment and a DrawableEnvironment."""
        self.spec: EnvSpec = env.spec
        self._render: Callable[[Any, Array], np.ndarray] = env.renderer()
        # Compiled reset and step.
        self._functions = jax.jit(env.reset), jax.jit(env.step)
        self._key = jax.random.key(seed)
        self._state: Any = None
        self._observation: Any = None
        self._over = False

    def reset(self) -> np.ndarray:
        """Start an episode and return the observation, `[1, ...]`."""
        self._key, key = jax.random.split(self._key)
        self._state, self._observation = self._functions[0](key)
        self._over = False
        return np.asarray(self._observation)[None]

    def step(self, action: np.ndarray) -> HostStep:
        """Act with `[1]` or `[1, A]`. The step after the end of an episode only resets."""
        no = np.zeros(1, bool)
        yes = np.ones(1, bool)

        # Reset in the step after the end of an episode, as host environments do.
        if self._over:
            nothing = np.zeros(1, np.float32)
            return HostStep(self.reset(), nothing, no, no, yes, nothing, no)

        self._key, key = jax.random.split(self._key)
        self._state, timestep = self._functions[1](key, self._state, action[0])
        self._observation = timestep.observation

        # [] -> [1]
        reward, terminated, truncated = (
            np.asarray(x)[None] for x in (timestep.reward, timestep.terminated, timestep.truncated)
        )
        over = terminated | truncated
        self._over = bool(over[0])
        observation = np.asarray(self._observation)[None]
        return HostStep(observation, reward, terminated, truncated, no, reward, over)

    def render(self) -> np.ndarray:
        """Draw the last observation, `[H, W, 3]` uint8."""
        return self._render(self._state, self._observation)

    def close(self) -> None:
        """Do nothing, because the environment holds no resources."""


def played(
    stage: RenderedEnvironment,
    network: Network,
    act: Act,
    params: Params,
    key: Array,
    episodes: int,
    max_steps: int,
) -> Iterator[Frame]:
    """Play games and draw every observation.

    Args:
      stage: group of one environment.
      network: network of the policy.
      act: function that selects actions, from `acting`.
      params: variables of the network.
      key: random key for sampled actions.
      episodes: number of games, at least 1.
      max_steps: largest number of environment steps in all games together.

    Yields:
      The frames. A game of n steps has n + 1 frames. Where a lost life ends an episode, each lost
      life adds one frame.
    """
    observation = stage.reset()
    reset = np.ones(1, bool)
    carry = network.initial_carry((1,))
    score = 0.0
    length = 0
    steps = 0

    # The first frame shows the start of the first game.
    yield Frame(_checked(stage), score, length, False)

    while episodes and steps < max_steps:
        key, carry, action = act(params, key, carry, observation, reset)
        step = stage.step(to_bounds(stage.spec.action_space, np.asarray(action)))
        observation = step.observation
        reset = step.reset_step

        # A step that only resets does not count.
        taken = int(not step.reset_step[0])
        score += float(step.raw_reward[0])
        length += taken
        steps += taken
        game_over = bool(step.game_over[0]) and length > 0
        yield Frame(_checked(stage), score, length, game_over)
        if game_over:
            score = 0.0
            length = 0
            episodes -= 1


def _checked(stage: RenderedEnvironment) -> np.ndarray:
    """Draw a frame and check its shape and dtype."""
    try:
        frame = stage.render()
    except HostEnvironmentError as error:
        raise InputError(f"{stage.spec.id!r} cannot be drawn: {error}") from error

    # Video writers need RGB bytes.
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
            f"frames of {stage.spec.id!r} must be uint8 of shape [H, W, 3], got {found}"
        )
    return frame
