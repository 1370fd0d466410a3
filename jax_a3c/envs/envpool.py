"""Adapter for envpool (>= 1.2): Atari, MuJoCo, dm_control, CarRacing, ViZDoom and MiniGrid on C++ threads.

What envpool does and how it appears here:

- After the end of an episode its next step ignores the action and resets: that row is `ignored`, whatever
  reward it carries (that of dm_control is the last one of the old episode).
- It reports `truncated` alone where an episode ends in its last allowed step, whether or not it also
  terminated there. Atari tells by other means, and is right here; elsewhere such a step counts as truncated.
- ViZDoom writes a file `_vizdoom.ini` and a folder `_vizdoom` where the program was started.
- The seed is fixed when a pool is made; a bad setting or action may end the process. Both are checked here.
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

from jax_a3c.checks import InputError, check_boolean, check_integer, check_number, check_timeout
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

INSTALL = "pip install 'jax-a3c[envpool]'"

LOWEST = {
    "max_episode_steps": 1,
    "frame_skip": 1,
    "stack_num": 1,
    "noop_max": 1,  # 0 is undefined behaviour in envpool: 1 is the least random start
    "img_height": 1,
    "img_width": 1,
    "mode": -1,
    "difficulty": -1,
}
"""The integer settings that can be changed, with their least value; envpool checks few of them."""

HIDDEN = frozenset({"gym_reset_return_info", "zero_discount_on_life_loss", "use_combined_action"})
"""Boolean settings that would change nothing here, or break the adapter."""

CAR_RACING_ACTIONS = np.array(
    [[0, 0, 0], [0.6, 0, 0], [-0.6, 0, 0], [0, 0.2, 0], [0, 0, 0.8]], dtype=np.float32
)
"""Steering, gas and brake of Gymnasium's `continuous=False`: nothing, right, left, gas, brake."""


@dataclass(frozen=True)
class Family:
    """Environments of one module of envpool.

    Attributes:
      names: those that are offered, None for all.
      defaults: settings that differ from envpool's and can be changed.
      fixed: settings that cannot.
      adjustable: real-valued and boolean settings of envpool are offered too.
    """

    names: frozenset[str] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    adjustable: bool = True


FAMILIES = {
    # The paper's preprocessing: envpool repeats actions four times, stacks four frames of 84x84 gray pixels,
    # and has the minimal action set, no sticky actions, the limit of 30 minutes, 1 to 30 no-ops at the start.
    # What deviates has a name: repeat_action_probability, full_action_space, episodic_life, reward_clip.
    "envpool.atari": Family(defaults={"reward_clip": True}),
    "envpool.mujoco.gym": Family(),
    "envpool.mujoco.dmc": Family(),
    "envpool.box2d": Family(),
    "envpool.classic_control": Family(),
    # envpool makes the reward from changes of the player's health, ammunition and so on. The goal of
    # MyWayHome is none of these; nor are the scenarios' own rewards for every tic, which are not given.
    "envpool.vizdoom": Family(
        names=frozenset({"MyWayHome-v1", "HealthGathering-v1"}),
        fixed={"use_combined_action": True, "selected_weapon_reward_config": {}},
    ),
    "envpool.minigrid": Family(adjustable=False),
}
"""What was tested, by module; envpool has more."""

VIZDOOM_REWARDS = {"MyWayHome-v1": {}, "HealthGathering-v1": {"HEALTH": (0.005, -0.003)}}
"""Reward per unit gained and lost; that of HEALTH is envpool's, less its weapons, which are not there."""

VIZDOOM_TICS = 2100
"""When Doom itself ends these scenarios, which envpool could not tell from the goal."""


class EnvpoolFactory:
    """An environment of envpool with its settings; `make` starts a pool of it.

    Attributes:
      spec: its description.
    """

    def __init__(
        self, name: str, module: str, options: Mapping[str, Any], *, timeout: float | None
    ):
        """The environment `name` of `module`; `timeout` is in seconds per call, `options` are envpool's."""
        env_id = f"envpool:{name}"
        self._name = name
        self._module = module
        self._timeout = timeout
        continuous = True
        if name.startswith("CarRacing"):
            options = dict(options)
            continuous = options.pop("continuous", True)
            check_boolean(f"continuous of {env_id!r}", continuous)
        self._settings = _settings(env_id, name, FAMILIES[module], options)
        with _quiet():
            try:
                spec = _make_spec(name, self._settings)
            except Exception as error:
                raise InputError(
                    f"envpool refuses {self._settings} for {env_id!r}: {error}"
                ) from error
            observation, action = spec.gymnasium_observation_space, spec.gymnasium_action_space
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
        """Start a pool of `num_envs` environments; as many threads as cores, at most one each, if None."""
        if num_threads is None:
            num_threads = min(num_envs, available_cores())
        check_integer("num_threads", num_threads, 1)
        return self._make(checked_seeds(seed, num_envs), min(num_threads, num_envs))

    def make_rendered(self, *, seed: int = 0) -> "EnvpoolEnvironment":
        """Start a pool of one environment that can be drawn; InputError for MuJoCo and dm_control."""
        if self._module.startswith("envpool.mujoco"):
            raise InputError(
                f"{self.spec.id!r} cannot be drawn: MuJoCo inside envpool ends the whole process where it "
                "finds no OpenGL; the other environments of envpool, and those of gymnasium and gymnax, can"
            )
        return self._make(checked_seeds(seed, 1), 1, render_mode="rgb_array")

    def _make(self, seeds: list[int], num_threads: int, **more: Any) -> "EnvpoolEnvironment":
        """A pool with one environment for each seed; `more` are arguments of envpool's `make`."""

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
                # Built when first asked for, with the warnings.
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
        """End the process, with all stacks on stderr, where a pool of ViZDoom does not start in time.

        envpool waits for Doom's processes with the interpreter's lock held. After long training one of them
        may never answer, and then no thread of Python's can notice: only `faulthandler`'s own can.
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
    """Where an environment needs more than a change of format.

    Attributes:
      actions: `[number of actions, A]`, what stands for each discrete action; None: the action is envpool's.
      goal_reward: what envpool forgets to give when the task terminates.
      life_loss_terminates: a lost life ends an episode, but not the game.
    """

    actions: np.ndarray | None = None
    goal_reward: float = 0.0
    life_loss_terminates: bool = False


class EnvpoolEnvironment:
    """A pool of N environments that step together.

    Attributes:
      spec: description of one of them.
      num_envs: N.
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
        """`start` returns envpool's pool, the rest says what to make of it."""
        self.spec = spec
        self.num_envs = num_envs
        self._layout = layout
        self._adaptation = adaptation or Adaptation()
        self._calls = BoundedCalls(spec.id, timeout)
        self._pool = self._calls("making it", start)
        self._over: np.ndarray | None = None
        self._lives = np.zeros(num_envs, np.int32)

    def reset(self) -> np.ndarray:
        """Begin an episode in every environment: observations `[N, ...]`."""
        observation, info = self._calls("reset", lambda: self._pool.reset())
        self._over = np.zeros(self.num_envs, bool)
        self._lives = np.asarray(info.get("lives", self._lives))
        return self._layout.convert(observation)

    def step(self, action: np.ndarray) -> HostStep:
        """Act in every environment: `[N]` integers, or `[N, A]` reals, which are clipped to their bounds."""
        action = checked_action(self.spec, self.num_envs, action)
        if self._over is None:
            raise InputError(f"call reset() of {self.spec.id!r} before its first step")
        if self._adaptation.actions is not None:
            action = self._adaptation.actions[action]
        observation, reward, terminated, truncated, info = self._calls(
            "step", lambda: self._pool.step(action)
        )

        ignored, self._over = self._over, terminated | truncated
        # envpool says `terminated` only where it is not `truncated`. Atari knows more: the game's own end,
        # and the lives.
        game_over = self._over
        if "terminated" in info:
            terminated = terminated | (info["terminated"] == 1)
            game_over = (info["terminated"] == 1) | truncated
            if self._adaptation.life_loss_terminates:
                terminated = terminated | (info["lives"] < self._lives)
            self._lives = info["lives"]
        terminated = terminated & ~ignored
        goal = np.where(terminated, np.float32(self._adaptation.goal_reward), np.float32(0))
        score = np.asarray(info.get("reward", reward), np.float32)
        return HostStep(
            observation=self._layout.convert(observation),
            reward=np.where(ignored, np.float32(0), reward + goal),
            terminated=terminated,
            truncated=truncated & ~ignored,
            ignored=ignored,
            score=np.where(ignored, np.float32(0), score + goal),
            game_over=game_over,
        )

    def render(self) -> np.ndarray:
        """The first environment as `[H, W, 3]` uint8; only one of `make_rendered` can be drawn."""
        return self._calls("render", lambda: self._pool.render())[0]

    def close(self) -> None:
        """End the pool's threads; a second call does nothing."""
        if self._pool is not None:
            # envpool's own `close` frees nothing: its threads end with the pool.
            self._pool = None
            self._calls.close()


def available() -> list[str]:
    """Names of the tested environments, none if envpool is not installed."""
    if importlib.util.find_spec("envpool") is None:
        return []
    return sorted(name for name, module in _modules().items() if _is_offered(name, module))


def make(name: str, /, *, timeout: float | None = 60.0, **options: Any) -> EnvpoolFactory:
    """The environment `name` with some of envpool's settings changed.

    Args:
      name: of envpool, such as `Pong-v5`.
      timeout: seconds after which a call counts as hung; None waits for ever, and saves the 10 to 30
        microseconds that it takes to hand each call to another thread. A pool of ViZDoom that hangs while it
        starts holds the interpreter's lock: then the whole process ends, with its stacks on stderr.
      **options: envpool's settings by their names. For Atari those that leave the paper are
        `repeat_action_probability` (0.25: sticky actions), `full_action_space`, `episodic_life`, and
        `reward_clip=False`. `continuous=False` gives CarRacing Gymnasium's five actions.

    Returns:
      A factory of pools.

    Raises:
      InputError: if envpool is missing, or a name or a setting is of no use.
    """
    if importlib.util.find_spec("envpool") is None:
        raise InputError(f"'envpool:{name}' needs envpool, which is not installed; {INSTALL}")
    module = _modules().get(name)
    if module is None:
        raise UnknownEnvironmentError(name)
    if not _is_offered(name, module):
        raise InputError(
            f"'envpool:{name}' exists in envpool, but its rewards and ends were not tested here; "
            f"tested are {', '.join(family.removeprefix('envpool.') for family in FAMILIES)}"
        )
    check_timeout("timeout", timeout)
    return EnvpoolFactory(name, module, options, timeout=timeout)


def _modules() -> dict[str, str]:
    """envpool's module of every name it has registered."""
    import envpool.registration

    return {name: entry[0] for name, entry in envpool.registration.registry.specs.items()}


def _is_offered(name: str, module: str) -> bool:
    return module in FAMILIES and name in (FAMILIES[module].names or (name,))


def _make_spec(name: str, settings: Mapping[str, Any]) -> Any:
    import envpool

    return envpool.make_spec(name, **settings)


def _settings(env_id: str, name: str, family: Family, options: Mapping[str, Any]) -> dict[str, Any]:
    """What envpool is given, checked: it may end the process otherwise."""
    if not options and not family.fixed:
        return dict(family.defaults)
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
        steps, skip = (
            settings.get(key, config[key]) for key in ("max_episode_steps", "frame_skip")
        )
        if steps * skip > VIZDOOM_TICS:
            raise InputError(
                f"max_episode_steps times frame_skip of {env_id!r} must be at most {VIZDOOM_TICS}, when Doom "
                f"itself ends the scenario, got {steps} times {skip}"
            )
    return settings


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Gymnasium's warning that the bounds of every 64-bit space lose precision."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*precision lowered")
        yield
