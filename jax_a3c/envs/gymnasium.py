"""Adapter for Gymnasium (>= 1.1): any registered or user-made environment, in Gymnasium's own vector.

The vector resets an environment in the step after its end (`AutoresetMode.NEXT_STEP`), so that the step which
ends an episode returns the final observation, and the step after it is `ignored`.
"""

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_a3c.checks import InputError, check_boolean, check_integer, check_timeout, shown
from jax_a3c.envs.base import Discrete, EnvSpec, HostEnvironmentError, HostStep, UnknownEnvironmentError
from jax_a3c.envs.host import (
    BoundedCalls,
    Layout,
    action_space,
    check_names,
    checked_action,
    checked_seeds,
    observation_layout,
)

INSTALL = "pip install 'jax-a3c[gymnasium]'"

NEEDS = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}
"""What Gymnasium's own environments import beside Gymnasium, by the package they are in."""

NOT_LISTED = ("gymnasium.envs.phys2d", "gymnasium.envs.tabular")
"""Second versions of environments that are listed under another name."""


class GymnasiumFactory:
    """An environment of Gymnasium with its settings; `make` starts a vector of it.

    Attributes:
      spec: its description.
    """

    def __init__(
        self,
        name: str,
        registered: Any,
        options: Mapping[str, Any],
        *,
        timeout: float | None,
        processes: bool,
    ):
        """The environment that is `registered` under `name`; the rest as in `make`."""
        env_id = f"gymnasium:{name}"
        check_boolean(f"processes of {env_id!r}", processes)
        self._registered = registered
        self._options = options
        self._timeout = timeout
        self._processes = processes
        calls = BoundedCalls(env_id, timeout)
        try:
            env = calls("making it", self._make_one)
            calls("close", env.close)
        except HostEnvironmentError as error:
            if type(error.__cause__).__name__ == "DependencyNotInstalled":
                raise InputError(f"{env_id!r} needs more than is installed: {error.__cause__}") from None
            if options and error.__cause__ is not None:  # it answered; the settings are the likelier reason
                raise InputError(f"{env_id!r} cannot be made with {shown(dict(options))}: {error}") from None
            raise
        finally:
            calls.close()
        self._layout = observation_layout(env_id, env.observation_space)
        self._actions = env.action_space
        self._render_modes = list(env.metadata.get("render_modes", []))
        self.spec = EnvSpec(
            id=env_id,
            observation_shape=self._layout.shape,
            observation_dtype=self._layout.dtype,
            action_space=action_space(env_id, env.action_space),
            max_episode_steps=None if env.spec is None else env.spec.max_episode_steps,
            num_categories=self._layout.num_categories,
            observation_high=self._layout.high,
        )

    def make(
        self, num_envs: int, *, seed: int | Sequence[int] = 0, num_threads: int | None = None
    ) -> "GymnasiumEnvironment":
        """Start a vector of `num_envs` environments. Gymnasium has no threads: `num_threads` is not used."""
        seeds = checked_seeds(seed, num_envs)
        if num_threads is not None:
            check_integer("num_threads", num_threads, 1)

        def start() -> Any:
            from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

            makers = [self._make_one] * num_envs
            if self._processes:
                # A fork would copy the locks of JAX's threads, held or not.
                return AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP, context="forkserver")
            return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)

        return GymnasiumEnvironment(
            start, self.spec, self._layout, action_like=self._actions, seeds=seeds, timeout=self._timeout
        )

    def make_rendered(self, *, seed: int = 0) -> "GymnasiumEnvironment":
        """Start a vector of one environment that can be drawn; InputError if it cannot be as pixels."""
        if "rgb_array" not in self._render_modes:
            raise InputError(
                f"{self.spec.id!r} cannot be drawn: its metadata has no render mode 'rgb_array', "
                f"it has {self._render_modes}"
            )

        def start() -> Any:
            from gymnasium.vector import AutoresetMode, SyncVectorEnv

            make = functools.partial(self._make_one, render_mode="rgb_array")
            return SyncVectorEnv([make], copy=False, autoreset_mode=AutoresetMode.NEXT_STEP)

        return GymnasiumEnvironment(
            start,
            self.spec,
            self._layout,
            action_like=self._actions,
            seeds=checked_seeds(seed, 1),
            timeout=self._timeout,
        )

    def _make_one(self, **more: Any) -> Any:
        import gymnasium

        return gymnasium.make(self._registered, **{**self._options, **more})


class GymnasiumEnvironment:
    """A vector of N environments that step together.

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
        action_like: Any,
        seeds: list[int],
        timeout: float | None,
    ):
        """`start` returns Gymnasium's vector, `action_like` is the space of one action there."""
        self.spec = spec
        self.num_envs = len(seeds)
        self._layout = layout
        self._first_action = int(action_like.start) if isinstance(spec.action_space, Discrete) else 0
        self._action_dtype = action_like.dtype
        self._seeds: list[int] | None = seeds
        self._over: np.ndarray | None = None
        self._calls = BoundedCalls(spec.id, timeout)
        self._vector = self._calls("making it", start)

    def reset(self) -> np.ndarray:
        """Begin an episode in every environment: observations `[N, ...]`."""
        observation, _ = self._calls("reset", lambda: self._vector.reset(seed=self._seeds))
        self._seeds = None  # a second call goes on with the environments' own randomness
        self._over = np.zeros(self.num_envs, bool)
        return self._own(observation)

    def step(self, action: np.ndarray) -> HostStep:
        """Act in every environment: `[N]` integers, or `[N, A]` reals, which are clipped to their bounds."""
        action = checked_action(self.spec, self.num_envs, action)
        if self._over is None:
            raise InputError(f"call reset() of {self.spec.id!r} before its first step")
        action = action.astype(self._action_dtype) + self._first_action
        observation, reward, terminated, truncated, _ = self._calls("step", lambda: self._vector.step(action))
        ignored, self._over = self._over, terminated | truncated
        reward = np.where(ignored, np.float32(0), reward.astype(np.float32))
        return HostStep(
            observation=self._own(observation),
            reward=reward,
            terminated=terminated & ~ignored,
            truncated=truncated & ~ignored,
            ignored=ignored,
            score=reward,
            game_over=self._over.copy(),
        )

    def render(self) -> np.ndarray:
        """The first environment as `[H, W, 3]` uint8; only one of `make_rendered` can be drawn."""
        return np.array(self._calls("render", self._vector.render)[0])

    def close(self) -> None:
        """Close every environment; a second call does nothing."""
        if self._vector is None:
            return
        vector, self._vector = self._vector, None
        try:
            self._calls("close", vector.close)
        except HostEnvironmentError:
            # One that raised or hangs: processes can be ended, a thread can only be left.
            if hasattr(vector, "processes"):
                vector.close(terminate=True)
        self._calls.close()

    def _own(self, observation: Any) -> np.ndarray:
        """The observations as an array that the vector's next step does not write over."""
        return np.array(self._layout.convert(observation), copy=True)


def available() -> list[str]:
    """Registered names whose libraries are installed, none if Gymnasium is not."""
    if importlib.util.find_spec("gymnasium") is None:
        return []
    import gymnasium

    return sorted(name for name, registered in gymnasium.registry.items() if _is_listed(registered))


def make(
    name: str, /, *, timeout: float | None = 60.0, processes: bool = False, **options: Any
) -> GymnasiumFactory:
    """The environment `name` with some of its settings changed.

    Args:
      name: as registered, such as `LunarLander-v3`, or `module:Id-v0`: `module` is imported first, and
        registers it.
      timeout: seconds after which a call counts as hung; None waits for ever, and saves the hand-over to
        another thread.
      processes: each environment in a process of its own, for slow ones: Gymnasium's `AsyncVectorEnv`. A
        program that uses it needs `if __name__ == "__main__":`.
      **options: what the environment's constructor takes, and `max_episode_steps`.

    Returns:
      A factory of vectors.

    Raises:
      InputError: if Gymnasium is missing, or a name or a setting is of no use.
      HostEnvironmentError: if the environment raises or hangs when it is made.
    """
    if importlib.util.find_spec("gymnasium") is None:
        raise InputError(f"'gymnasium:{name}' needs Gymnasium, which is not installed; {INSTALL}")
    import gymnasium

    module, _, registered_name = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except (Exception, SystemExit) as error:  # a script that was meant to be run
            raise InputError(f"'gymnasium:{name}' needs the module {module!r}: {error}") from error
    registered = gymnasium.registry.get(registered_name)
    if registered is None:
        if module:
            raise InputError(
                f"unknown environment 'gymnasium:{name}': the module {module!r} registers no environment "
                f"{registered_name!r}"
            )
        raise UnknownEnvironmentError(name)
    check_timeout("timeout", timeout)
    if options.get("max_episode_steps", -1) != -1:  # Gymnasium's word for no limit
        check_integer(f"max_episode_steps of 'gymnasium:{name}'", options["max_episode_steps"], 1)
    _check_options(f"gymnasium:{name}", registered, options)
    return GymnasiumFactory(name, registered, options, timeout=timeout, processes=processes)


def _is_listed(registered: Any) -> bool:
    """Whether an entry of Gymnasium's registry can be made with what is installed, as far as names tell."""
    if not isinstance(registered.entry_point, str):
        return not getattr(registered.entry_point, "__module__", "").startswith("gymnasium.")
    module = registered.entry_point.partition(":")[0]
    if module.startswith(NOT_LISTED):
        return False
    needs = [library for package, library in NEEDS.items() if module.startswith(package)]
    return all(importlib.util.find_spec(library) is not None for library in (*needs, module.split(".")[0]))


def _check_options(env_id: str, registered: Any, options: Mapping[str, Any]) -> None:
    """Refuse settings that the constructor does not take, where it tells which it takes."""
    from gymnasium.envs.registration import load_env_creator

    if "render_mode" in options:
        raise InputError(f"render_mode is no setting of {env_id!r} here; `jax-a3c record` draws an agent")
    if not options:
        return
    try:
        creator = registered.entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        parameters = inspect.signature(creator).parameters.values()
    except Exception as error:
        raise InputError(f"{env_id!r} cannot be made: {error}") from error
    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        check_names(env_id, options, [parameter.name for parameter in parameters] + ["max_episode_steps"])
