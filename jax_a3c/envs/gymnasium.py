"""Adapter for Gymnasium (>= 1.1): registered and user-made environments in Gymnasium's vectors.

The vector resets an environment in the step after its end (`AutoresetMode.NEXT_STEP`). So the step
that ends an episode returns the final observation, and the next step is `reset_step`.
"""

import functools
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jax_a3c.checks import check_boolean, check_integer, check_timeout
from jax_a3c.envs.base import (
    Discrete,
    EnvSpec,
    HostEnvironmentError,
    HostStep,
    UnknownEnvironmentError,
)
from jax_a3c.envs.host import (
    BoundedCalls,
    Layout,
    action_space,
    check_names,
    checked_action,
    checked_seeds,
    nearest_names,
    observation_layout,
)
from jax_a3c.envs.single import (
    START_METHOD,
    Checked,
    Description,
    Elsewhere,
    Make,
    describe,
    describe_in_process,
)
from jax_a3c.errors import InputError
from jax_a3c.machine import searches_current_folder
from jax_a3c.messages import shown

INSTALL = "pip install 'jax-a3c[gymnasium]'"

NEEDS = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}
"""Libraries that environments of Gymnasium import, by the package of the environment."""

NEEDS_MAIN_THREAD = re.compile(
    r"main(\(\))? thread|event loop in thread|in that same thread", re.IGNORECASE
)
"""Errors of `signal`, `asyncio`, `sqlite3` and GUI libraries outside the main or first thread."""

NOT_LISTED = ("gymnasium.envs.phys2d", "gymnasium.envs.tabular")
"""Packages whose environments are listed under another name."""


class GymnasiumFactory:
    """Gymnasium environment with its settings. `make` starts a vector of it.

    Attributes:
      spec: description of the environment.
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
        """Describe the environment `registered` under `name`. The settings are as in `make`."""
        env_id = f"gymnasium:{name}"
        check_boolean(f"processes of {env_id!r}", processes)
        self._make_one = functools.partial(_make_one, env_id, registered, dict(options))
        self._timeout = timeout
        self._processes = processes
        self._way_out = _process_ended if processes else _main_thread

        # Make one environment to read its spaces.
        try:
            declared = self._describe(env_id)
        except HostEnvironmentError as error:
            if type(error.__cause__).__name__ == "DependencyNotInstalled":
                raise InputError(
                    f"{env_id!r} needs a library that is not installed: {error.__cause__}"
                ) from None
            # If the environment raised, its settings are the most likely reason.
            if options and error.__cause__ is not None:
                raise InputError(
                    f"{env_id!r} cannot be made with {shown(dict(options))}: {error}"
                ) from None
            raise

        self._declared = declared
        self._layout = observation_layout(env_id, declared.observation_space)
        self.spec = EnvSpec(
            id=env_id,
            observation_shape=self._layout.shape,
            observation_dtype=self._layout.dtype,
            action_space=action_space(env_id, declared.action_space),
            max_episode_steps=declared.max_episode_steps,
            num_categories=self._layout.num_categories,
            observation_high=self._layout.high,
        )

    def make(
        self, num_envs: int, *, seed: int | Sequence[int] = 0, num_threads: int | None = None
    ) -> "GymnasiumEnvironment":
        """Start a vector of `num_envs` environments. Gymnasium has no use for `num_threads`."""
        seeds = checked_seeds(seed, num_envs)
        if num_threads is not None:
            check_integer("num_threads", num_threads, 1)
        return self._start(self._make_one, seeds)

    def make_rendered(self, *, seed: int = 0) -> "GymnasiumEnvironment":
        """Start a vector of one environment that can be drawn. Raise InputError if it cannot be."""
        render_modes = list(self._declared.metadata.get("render_modes", []))
        if "rgb_array" not in render_modes:
            raise InputError(
                f"{self.spec.id!r} cannot be drawn: its metadata must list the render mode "
                f"'rgb_array', got {render_modes}"
            )
        make = functools.partial(self._make_one, render_mode="rgb_array")
        return self._start(make, checked_seeds(seed, 1))

    def _describe(self, env_id: str) -> Description:
        """Read the declarations of one environment, made where the others will be made."""
        if self._processes:
            return describe_in_process(env_id, self._make_one, timeout=self._timeout)
        calls = BoundedCalls(env_id, self._timeout, way_out=self._way_out)
        try:
            return calls("make", describe, self._make_one)
        finally:
            calls.close()

    def _start(self, make: Make, seeds: list[int]) -> "GymnasiumEnvironment":
        """Start a vector with one environment per seed."""

        def start() -> Any:
            from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

            mode = AutoresetMode.NEXT_STEP
            if self._processes:
                makers = [Elsewhere(make, self._declared)] * len(seeds)
                return AsyncVectorEnv(makers, autoreset_mode=mode, context=START_METHOD)
            return SyncVectorEnv([make] * len(seeds), copy=False, autoreset_mode=mode)

        return GymnasiumEnvironment(
            start,
            self.spec,
            self._layout,
            action_like=self._declared.action_space,
            seeds=seeds,
            calls=BoundedCalls(self.spec.id, self._timeout, way_out=self._way_out),
        )


class GymnasiumEnvironment:
    """Vector of N environments that step together.

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
        action_like: Any,
        seeds: list[int],
        calls: BoundedCalls,
    ):
        """Start the vector.

        Args:
          start: function that returns Gymnasium's vector.
          spec: description of one environment.
          layout: conversion of the observations.
          action_like: Gymnasium space of one action.
          seeds: one seed per environment, for the first reset.
          calls: runs the calls of the vector.
        """
        self.spec = spec
        self.num_envs = len(seeds)
        self._layout = layout

        # A Discrete space of Gymnasium may start at another integer than 0.
        self._first_action = (
            int(action_like.start) if isinstance(spec.action_space, Discrete) else 0
        )
        self._action_dtype = action_like.dtype

        self._seeds: list[int] | None = seeds
        self._over: np.ndarray | None = None
        self._calls = calls
        self._vector = self._calls("make", start)

    def reset(self) -> np.ndarray:
        """Start an episode in every environment and return the observations, `[N, ...]`."""
        observation, _ = self._calls("reset", lambda: self._vector.reset(seed=self._seeds))

        # A second reset continues with the random generators of the environments.
        self._seeds = None
        self._over = np.zeros(self.num_envs, bool)
        return self._own(observation)

    def step(self, action: np.ndarray) -> HostStep:
        """Act with `[N]` integers, or with `[N, A]` reals, which are clipped to their bounds."""
        action = checked_action(self.spec, self.num_envs, action)
        if self._over is None:
            raise InputError(f"call reset() of {self.spec.id!r} before its first step")

        action = action.astype(self._action_dtype) + self._first_action
        observation, reward, terminated, truncated, _ = self._calls(
            "step", lambda: self._vector.step(action)
        )

        # The vector ignores the action of an environment whose episode ended in the step before.
        reset_step = self._over
        self._over = terminated | truncated
        reward = np.where(reset_step, np.float32(0), reward.astype(np.float32))
        return HostStep(
            observation=self._own(observation),
            reward=reward,
            terminated=terminated & ~reset_step,
            truncated=truncated & ~reset_step,
            reset_step=reset_step,
            raw_reward=reward,
            game_over=self._over.copy(),
        )

    def render(self) -> np.ndarray:
        """Draw the first environment, `[H, W, 3]` uint8. It must come from `make_rendered`."""
        return np.array(self._calls("render", self._vector.render)[0])

    def close(self) -> None:
        """Close every environment. A second call does nothing."""
        if self._vector is None:
            return

        vector = self._vector
        self._vector = None
        try:
            self._calls("close", vector.close)
        except HostEnvironmentError:
            # After an error or a hang, end the processes. A thread can only be abandoned.
            if hasattr(vector, "processes"):
                vector.close(terminate=True)
        self._calls.close()

    def _own(self, observation: Any) -> np.ndarray:
        """Return the observations as an array that the next step does not overwrite."""
        return np.array(self._layout.convert(observation), copy=True)


def available() -> list[str]:
    """List the registered names whose libraries are installed."""
    if importlib.util.find_spec("gymnasium") is None:
        return []
    import gymnasium

    return sorted(name for name, registered in gymnasium.registry.items() if _is_listed(registered))


def make(
    name: str, /, *, timeout: float | None = 60.0, processes: bool = False, **options: Any
) -> GymnasiumFactory:
    """Return a factory for the environment `name`.

    Args:
      name: registered name, such as `LunarLander-v3`, or `module:Id-v0`. The Python module `module`
        is imported first and registers the environment.
      timeout: seconds after which a call counts as hung. None waits for ever, makes the
        environments on the calling thread and saves the hand-over to another thread.
      processes: whether each environment runs on the main thread of a separate process, with
        Gymnasium's `AsyncVectorEnv`. Use this for environments that are slow or need a main thread.
        The main program then needs `if __name__ == "__main__":`.
      **options: arguments of the environment's constructor, and `max_episode_steps`.

    Returns:
      A factory of vectors.

    Raises:
      UnknownEnvironmentError: if Gymnasium has no environment of this name.
      InputError: if Gymnasium is missing, or if a module or a setting is wrong.
      HostEnvironmentError: if the environment raises or hangs while it is made.
    """
    if importlib.util.find_spec("gymnasium") is None:
        raise InputError(f"'gymnasium:{name}' needs Gymnasium; run {INSTALL}")
    import gymnasium

    # Importing the module registers its environments.
    module, _, registered_name = name.rpartition(":")
    if module:
        _import(module, f"gymnasium:{name}")
    registered = gymnasium.registry.get(registered_name)
    if registered is None:
        if module:
            raise InputError(
                f"unknown environment 'gymnasium:{name}': the module {module!r} registers no "
                f"environment {registered_name!r}{_registered_instead(module, registered_name)}"
            )
        raise UnknownEnvironmentError(name)

    check_timeout("timeout", timeout)
    # In Gymnasium, -1 means no limit.
    if options.get("max_episode_steps", -1) != -1:
        check_integer(f"max_episode_steps of 'gymnasium:{name}'", options["max_episode_steps"], 1)
    _check_options(f"gymnasium:{name}", registered, options)
    return GymnasiumFactory(name, registered, options, timeout=timeout, processes=processes)


def _import(module: str, env_id: str) -> None:
    """Import the module that registers an environment. Raise InputError if the import fails."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        # The module exists, but something that it imports does not.
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise InputError(
                f"{env_id!r} needs the module {module!r}, which imports a missing module: {error}"
            ) from error

        # The module itself was not found.
        looked = "in the current folder or on" if searches_current_folder() else "on"
        spelling = (
            "; write the module as in `import`, without .py"
            if module.endswith(".py") or "/" in module
            else ""
        )
        raise InputError(
            f"{env_id!r} needs the module {module!r}, which was not found {looked} Python's path; "
            f"run from its folder, or add that folder to PYTHONPATH{spelling}"
        ) from error
    except (Exception, SystemExit) as error:
        # The module may be a script that exits.
        raise InputError(
            f"{env_id!r} needs the module {module!r}, whose import failed: {error}"
        ) from error


def _registered_instead(module: str, name: str) -> str:
    """Suggest the nearest registered names. Return the end of a sentence, or an empty string."""
    import gymnasium

    ids = [f"gymnasium:{module}:{other}" for other in nearest_names(name, gymnasium.registry)]
    return f"; did you mean {', '.join(map(repr, ids))}?" if ids else ""


def _make_one(env_id: str, registered: Any, options: Mapping[str, Any], **more: Any) -> Checked:
    """Make one environment. This runs in the process that steps it."""
    import gymnasium

    return Checked(gymnasium.make(registered, **{**options, **more}), env_id)


def _main_thread(error: BaseException) -> str:
    """Return advice for an environment that needs the main thread, or an empty string."""
    if not NEEDS_MAIN_THREAD.search(str(error)):
        return ""
    return (
        "; set its option processes=true to run each environment on the main thread of a process, "
        "or timeout=null to make it on the thread that trains (its steps may run on others)"
    )


def _process_ended(error: BaseException) -> str:
    """Explain a broken pipe to the process of an environment, or return an empty string."""
    return (
        "; its process ended unexpectedly" if isinstance(error, EOFError | ConnectionError) else ""
    )


def _is_listed(registered: Any) -> bool:
    """Return whether the libraries of a registered environment seem to be installed."""
    if not isinstance(registered.entry_point, str):
        return not getattr(registered.entry_point, "__module__", "").startswith("gymnasium.")

    # An entry point is `package.module:Class`.
    module = registered.entry_point.partition(":")[0]
    if module.startswith(NOT_LISTED):
        return False
    needs = [library for package, library in NEEDS.items() if module.startswith(package)]
    libraries = (*needs, module.split(".")[0])
    return all(
        name in sys.modules or importlib.util.find_spec(name) is not None for name in libraries
    )


def _check_options(env_id: str, registered: Any, options: Mapping[str, Any]) -> None:
    """Check that the constructor takes the settings, unless it takes any keyword."""
    from gymnasium.envs.registration import load_env_creator

    if "render_mode" in options:
        raise InputError(
            f"render_mode of {env_id!r} cannot be set; `jax-a3c record` makes a video of an agent"
        )
    if not options:
        return

    # Read the parameters of the constructor without making an environment.
    try:
        creator = registered.entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        parameters = inspect.signature(creator).parameters.values()
    except Exception as error:
        raise InputError(f"{env_id!r} cannot be made: {error}") from error

    if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
        check_names(
            env_id, options, [parameter.name for parameter in parameters] + ["max_episode_steps"]
        )
