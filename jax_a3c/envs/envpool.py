"""Adapter for envpool (>= 1.2): Atari, MuJoCo, dm_control, CarRacing, ViZDoom and MiniGrid in C++.

Properties of envpool, and how the adapter treats them:

- The step after the end of an episode ignores the action and resets. The adapter marks that row as
  `reset_step` and discards its reward. In dm_control this is the last reward of the old episode.
- envpool reports only `truncated` if an episode ends in its last allowed step, even if it also
  terminated there. For Atari the adapter reads the true flags from other fields. Elsewhere such a
  step counts as truncated.
- ViZDoom writes a file `_vizdoom.ini` and a folder `_vizdoom` to the current folder.
- envpool fixes the seed when it makes a pool. A wrong setting or action may end the process, so the
  adapter checks both.
"""

import contextlib
import faulthandler
import importlib.util
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jax_a3c.checks import check_boolean, check_integer, check_number, check_timeout
from jax_a3c.envs.base import Discrete, EnvSpec, HostStep, UnknownEnvironmentError, available_cores
from jax_a3c.envs.host import (
    BoundedCalls,
    Layout,
    action_space,
    check_names,
    checked_action,
    checked_seeds,
    observation_layout,
)
from jax_a3c.errors import InputError

INSTALL = "pip install 'jax-a3c[envpool]'"

LOWEST = {
    "max_episode_steps": 1,
    "frame_skip": 1,
    "stack_num": 1,
    # 0 is undefined behaviour in envpool. 1 gives the least random start.
    "noop_max": 1,
    "img_height": 1,
    "img_width": 1,
    "mode": -1,
    "difficulty": -1,
}
"""Smallest values of the integer settings that can be changed. envpool checks few of them."""

HIDDEN = frozenset({"gym_reset_return_info", "zero_discount_on_life_loss", "use_combined_action"})
"""Boolean settings that have no effect here or break the adapter."""

CAR_RACING_ACTIONS = np.array(
    [[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]], dtype=np.float32
)
"""Discrete actions of CarRacing as in Gymnasium: nothing, right, left, gas, brake.

Each row holds steering, gas and brake.
"""


@dataclass(frozen=True)
class Family:
    """Settings for the environments of one envpool module.

    Attributes:
      names: names of the supported environments, None for all.
      defaults: settings that differ from the defaults of envpool and can be changed.
      fixed: settings that cannot be changed.
      adjustable: whether users can change the real and boolean settings of envpool.
    """

    names: frozenset[str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    adjustable: bool = True


FAMILIES = {
    # The defaults of envpool are the preprocessing of the paper: action repeat of 4, stacks of 4
    # frames of 84x84 gray pixels, the minimal action set, no sticky actions, a limit of 30 minutes,
    # and 1 to 30 no-ops at the start. Settings that leave the paper: repeat_action_probability,
    # full_action_space, episodic_life, reward_clip.
    "envpool.atari": Family(defaults={"reward_clip": True}),
    "envpool.mujoco.gym": Family(),
    "envpool.mujoco.dmc": Family(),
    "envpool.box2d": Family(),
    "envpool.classic_control": Family(),
    # envpool computes the reward from changes of health, ammunition and so on. It gives neither the
    # reward for the goal of MyWayHome, which the adapter adds, nor the rewards for every tic.
    "envpool.vizdoom": Family(
        names=frozenset({"MyWayHome-v1", "HealthGathering-v1"}),
        fixed={"use_combined_action": True, "selected_weapon_reward_config": {}},
    ),
    "envpool.minigrid": Family(adjustable=False),
}
"""Tested families by envpool module. envpool has more."""

VIZDOOM_REWARDS = {"MyWayHome-v1": {}, "HealthGathering-v1": {"HEALTH": (0.005, -0.003)}}
"""Rewards per unit gained and lost. HEALTH has the values of envpool. Weapons have no reward."""

VIZDOOM_TICS = 2100
"""Tics after which Doom ends these scenarios. envpool reports that end like the goal."""


class EnvpoolFactory:
    """envpool environment with its settings. `make` starts a pool of it.

    Attributes:
      spec: description of the environment.
    """

    def __init__(
        self, name: str, module: str, options: Mapping[str, Any], *, timeout: float | None
    ):
        """Check the settings and describe the environment.

        Args:
          name: name of the environment in envpool.
          module: envpool module that registers it.
          options: settings of the user.
          timeout: seconds per call, None to wait for ever.
        """
        env_id = f"envpool:{name}"
        self._name = name
        self._module = module
        self._timeout = timeout

        # The option `continuous` of CarRacing belongs to the adapter, not to envpool.
        continuous = True
        if name.startswith("CarRacing"):
            options = dict(options)
            continuous = options.pop("continuous", True)
            check_boolean(f"continuous of {env_id!r}", continuous)
        self._settings = _settings(env_id, name, FAMILIES[module], options)

        # Read the spaces without starting a pool.
        with _quiet():
            try:
                spec = _make_spec(name, self._settings)
            except Exception as error:
                raise InputError(
                    f"envpool refuses {self._settings} for {env_id!r}: {error}"
                ) from error
            observation = spec.gymnasium_observation_space
            action = spec.gymnasium_action_space

        self._layout = observation_layout(
            env_id, observation, drop=("mission",) if module == "envpool.minigrid" else ()
        )
        actions = Discrete(num_actions=len(CAR_RACING_ACTIONS))
        self.spec = EnvSpec(
            id=env_id,
            observation_shape=self._layout.shape,
            observation_dtype=self._layout.dtype,
            action_space=action_space(env_id, action) if continuous else actions,
            max_episode_steps=int(spec.config.max_episode_steps),
            num_categories=self._layout.num_categories,
            observation_high=self._layout.high,
        )

        self._adaptation = Adaptation(
            actions=None if continuous else CAR_RACING_ACTIONS,
            goal_reward=1.0 if name == "MyWayHome-v1" else 0.0,
            life_loss_terminates=bool(self._settings.get("episodic_life")),
        )

    def make(
        self, num_envs: int, *, seed: int | Sequence[int] = 0, num_threads: int | None = None
    ) -> "EnvpoolEnvironment":
        """Start a pool of `num_envs` environments.

        Args:
          num_envs: number of environments, N.
          seed: one seed per environment, or the first of N consecutive seeds.
          num_threads: number of threads, at most N. None means the number of available cores.

        Returns:
          The pool.

        Raises:
          InputError: if a number is out of range.
          HostEnvironmentError: if envpool raises or hangs.
        """
        if num_threads is None:
            num_threads = min(num_envs, available_cores())
        check_integer("num_threads", num_threads, 1)
        return self._make(checked_seeds(seed, num_envs), min(num_threads, num_envs))

    def make_rendered(self, *, seed: int = 0) -> "EnvpoolEnvironment":
        """Start a pool of one environment that can be drawn. Raise InputError for MuJoCo."""
        if self._module.startswith("envpool.mujoco"):
            raise InputError(
                f"{self.spec.id!r} cannot be drawn: MuJoCo inside envpool ends the whole process "
                "if it finds no OpenGL; use an environment of gymnasium or gymnax for videos"
            )
        return self._make(checked_seeds(seed, 1), 1, render_mode="rgb_array")

    def _make(self, seeds: list[int], num_threads: int, **more: Any) -> "EnvpoolEnvironment":
        """Start a pool with one environment per seed. `more` goes to the `make` of envpool."""

        def start() -> Any:
            import envpool

            with _quiet(), self._start_watched():
                pool = envpool.make_gymnasium(
                    self._name,
                    num_envs=len(seeds),
                    num_threads=num_threads,
                    seed=seeds,
                    **self._settings,
                    **more,
                )
                # envpool builds the spaces on first access, with the warnings.
                _ = pool.observation_space, pool.action_space
                return pool

        return EnvpoolEnvironment(
            start,
            self.spec,
            self._layout,
            num_envs=len(seeds),
            adaptation=self._adaptation,
            timeout=self._timeout,
        )

    @contextlib.contextmanager
    def _start_watched(self) -> Iterator[None]:
        """End the process, with all stacks on stderr, if a ViZDoom pool does not start in time.

        envpool holds the interpreter lock while it waits for the processes of Doom. After long
        training one of them may never answer. No Python thread can run then. Only the watchdog
        thread of `faulthandler` can end the process.
        """
        if self._timeout is None or self._module != "envpool.vizdoom" or sys.__stderr__ is None:
            yield
            return

        faulthandler.dump_traceback_later(self._timeout + 1, file=sys.__stderr__, exit=True)
        try:
            yield
        finally:
            faulthandler.cancel_dump_traceback_later()


@dataclass(frozen=True, kw_only=True)
class Adaptation:
    """Changes to an environment beyond its data formats.

    Attributes:
      actions: `[num_actions, A]`. envpool action for each discrete action, None to pass on actions.
      goal_reward: reward for termination, which envpool leaves out.
      life_loss_terminates: whether a lost life ends an episode, but not the game.
    """

    actions: np.ndarray | None = None
    goal_reward: float = 0.0
    life_loss_terminates: bool = False


class EnvpoolEnvironment:
    """Pool of N environments that step together.

    Attributes:
      spec: description of one environment.
      num_envs: number of environments, N.
    """

    def __init__(
        self,
        start: Callable[[], Any],
        spec: EnvSpec,
        layout: Layout,
        *,
        num_envs: int,
        adaptation: Adaptation | None = None,
        timeout: float | None = None,
    ):
        """Start the pool.

        Args:
          start: function that returns envpool's pool.
          spec: description of one environment.
          layout: conversion of the observations.
          num_envs: number of environments, N.
          adaptation: changes to the environment, None for no change.
          timeout: seconds per call, None to wait for ever.
        """
        self.spec = spec
        self.num_envs = num_envs
        self._layout = layout
        self._adaptation = adaptation or Adaptation()
        self._calls = BoundedCalls(spec.id, timeout)
        self._pool = self._calls("make", start)

        # State for the meaning of the next step: ended episodes, and remaining lives of Atari.
        self._over: np.ndarray | None = None
        self._lives = np.zeros(num_envs, np.int32)

    def reset(self) -> np.ndarray:
        """Start an episode in every environment and return the observations, `[N, ...]`."""
        observation, info = self._calls("reset", lambda: self._pool.reset())
        self._over = np.zeros(self.num_envs, bool)
        self._lives = np.asarray(info.get("lives", self._lives))
        return self._layout.convert(observation)

    def step(self, action: np.ndarray) -> HostStep:
        """Act with `[N]` integers, or with `[N, A]` reals, which are clipped to their bounds."""
        action = checked_action(self.spec, self.num_envs, action)
        if self._over is None:
            raise InputError(f"call reset() of {self.spec.id!r} before its first step")

        # [N] -> [N, A]
        if self._adaptation.actions is not None:
            action = self._adaptation.actions[action]
        observation, reward, terminated, truncated, info = self._calls(
            "step", lambda: self._pool.step(action)
        )

        # envpool ignores the action of an environment whose episode ended in the step before.
        reset_step = self._over
        self._over = terminated | truncated

        # envpool sets `terminated` only if `truncated` is False. The info of Atari has the end of
        # the game and the lives.
        game_over = self._over
        if "terminated" in info:
            terminated = terminated | (info["terminated"] == 1)
            game_over = (info["terminated"] == 1) | truncated
            if self._adaptation.life_loss_terminates:
                terminated = terminated | (info["lives"] < self._lives)
            self._lives = info["lives"]

        terminated = terminated & ~reset_step
        goal = np.where(terminated, np.float32(self._adaptation.goal_reward), np.float32(0))
        # The info of Atari has the reward before clipping.
        score = np.asarray(info.get("reward", reward), np.float32)
        return HostStep(
            observation=self._layout.convert(observation),
            reward=np.where(reset_step, np.float32(0), reward + goal),
            terminated=terminated,
            truncated=truncated & ~reset_step,
            reset_step=reset_step,
            raw_reward=np.where(reset_step, np.float32(0), score + goal),
            game_over=game_over,
        )

    def render(self) -> np.ndarray:
        """Draw the first environment, `[H, W, 3]` uint8. It must come from `make_rendered`."""
        return self._calls("render", lambda: self._pool.render())[0]

    def close(self) -> None:
        """End the threads of the pool. A second call does nothing."""
        if self._pool is not None:
            # The `close` of envpool frees nothing. Its threads end when the pool is deleted.
            self._pool = None
            self._calls.close()


def available() -> list[str]:
    """List the names of the tested environments. The list is empty without envpool."""
    if importlib.util.find_spec("envpool") is None:
        return []
    return sorted(name for name, module in _modules().items() if _is_offered(name, module))


def make(name: str, /, *, timeout: float | None = 60.0, **options: Any) -> EnvpoolFactory:
    """Return a factory for the environment `name`.

    Args:
      name: name in envpool, such as `Pong-v5`.
      timeout: seconds after which a call counts as hung. None waits for ever and saves the 10 to 30
        microseconds that it takes to hand each call to another thread. A ViZDoom pool that hangs
        while it starts holds the interpreter lock, so the whole process ends then, with its stacks
        on stderr.
      **options: settings of envpool by their names. For Atari, these settings leave the paper:
        `repeat_action_probability` (0.25 for sticky actions), `full_action_space`, `episodic_life`
        and `reward_clip=False`. For CarRacing, `continuous=False` selects Gymnasium's five actions.

    Returns:
      A factory of pools.

    Raises:
      UnknownEnvironmentError: if envpool has no environment of this name.
      InputError: if envpool is missing, the environment is not supported, or a setting is wrong.
    """
    if importlib.util.find_spec("envpool") is None:
        raise InputError(f"'envpool:{name}' needs envpool; run {INSTALL}")

    module = _modules().get(name)
    if module is None:
        raise UnknownEnvironmentError(name)
    if not _is_offered(name, module):
        raise InputError(
            f"'envpool:{name}' is not supported: its rewards and episode ends were not tested; "
            f"supported are {', '.join(family.removeprefix('envpool.') for family in FAMILIES)}"
        )
    check_timeout("timeout", timeout)
    return EnvpoolFactory(name, module, options, timeout=timeout)


def _modules() -> dict[str, str]:
    """Return the envpool module of each registered name."""
    import envpool.registration

    return {name: entry[0] for name, entry in envpool.registration.registry.specs.items()}


def _is_offered(name: str, module: str) -> bool:
    """Return whether the environment is one of the tested ones."""
    return module in FAMILIES and name in (FAMILIES[module].names or (name,))


def _make_spec(name: str, settings: Mapping[str, Any]) -> Any:
    """Call `envpool.make_spec`."""
    import envpool

    return envpool.make_spec(name, **settings)


def _settings(env_id: str, name: str, family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return checked settings for envpool, which may end the process on a wrong one."""
    if not options and not family.fixed:
        return dict(family.defaults)

    # Find the settings that can be changed.
    with _quiet():
        config = _make_spec(name, {}).config._asdict()
    known = [option for option in LOWEST if option in config]
    if family.adjustable:
        known += [
            option
            for option, value in config.items()
            if isinstance(value, bool | float) and option not in HIDDEN
        ]
    check_names(env_id, options, known)

    # Check their values.
    for option, value in options.items():
        title = f"{option} of {env_id!r}"
        if option in LOWEST:
            check_integer(title, value, LOWEST[option])
        elif isinstance(config[option], bool):
            check_boolean(title, value)
        elif option == "repeat_action_probability":
            check_number(title, value, 0, 1)
        else:
            check_number(title, value)

    settings = {**family.defaults, **family.fixed, **options}
    if name in VIZDOOM_REWARDS:
        settings["reward_config"] = VIZDOOM_REWARDS[name]
        # The time limit must come before the one of Doom, which looks like the goal.
        steps, skip = (
            settings.get(key, config[key]) for key in ("max_episode_steps", "frame_skip")
        )
        if steps * skip > VIZDOOM_TICS:
            raise InputError(
                f"max_episode_steps * frame_skip of {env_id!r} must be at most {VIZDOOM_TICS}, "
                f"because Doom ends the scenario then, got {steps} * {skip}"
            )
    return settings


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence Gymnasium's warning that the bounds of 64-bit spaces lose precision."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered")
        yield
