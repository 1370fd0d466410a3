"""Adapter for Gymnasium (>= 1.1): any registered or user-made environment, in Gymnasium's own vector.

The vector resets an environment in the step after its end (`AutoresetMode.NEXT_STEP`), so that the step which
ends an episode returns the final observation, and the step after it is `ignored`.
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

from jax_a3c.checks import InputError, check_boolean, check_integer, check_timeout, shown
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
from jax_a3c.machine import searches_current_folder

INSTALL = "pip install 'jax-a3c[gymnasium]'"

NEEDS = {"gymnasium.envs.box2d": "Box2D", "gymnasium.envs.mujoco": "mujoco"}
"""What Gymnasium's own environments import beside Gymnasium, by the package they are in."""

NEEDS_MAIN_THREAD = re.compile(
    r"main(\(\))? thread|event loop in thread|in that same thread", re.IGNORECASE
)
"""What `signal`, `asyncio`, `sqlite3` and windows say on a thread that is not the main or the first one."""

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
        self._make_one = functools.partial(_make_one, env_id, registered, dict(options))
        self._timeout = timeout
        self._processes = processes
        self._way_out = _process_ended if processes else _main_thread

        try:
            declared = self._describe(env_id)
        except HostEnvironmentError as error:
            if type(error.__cause__).__name__ == "DependencyNotInstalled":
                raise InputError(
                    f"{env_id!r} needs more than is installed: {error.__cause__}"
                ) from None
            if (
                options and error.__cause__ is not None
            ):  # it answered; the settings are the likelier reason
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
        """Start a vector of `num_envs` environments. Gymnasium has no threads: `num_threads` is not used."""
        seeds = checked_seeds(seed, num_envs)
        if num_threads is not None:
            check_integer("num_threads", num_threads, 1)
        return self._start(self._make_one, seeds)

    def make_rendered(self, *, seed: int = 0) -> "GymnasiumEnvironment":
        """Start a vector of one environment that can be drawn; InputError if it cannot be as pixels."""
        render_modes = list(self._declared.metadata.get("render_modes", []))
        if "rgb_array" not in render_modes:
            raise InputError(
                f"{self.spec.id!r} cannot be drawn: its metadata has no render mode 'rgb_array', "
                f"it has {render_modes}"
            )
        make = functools.partial(self._make_one, render_mode="rgb_array")
        return self._start(make, checked_seeds(seed, 1))

    def _describe(self, env_id: str) -> Description:
        """What one environment declares, made where all will be."""
        if self._processes:
            return describe_in_process(env_id, self._make_one, timeout=self._timeout)
        calls = BoundedCalls(env_id, self._timeout, way_out=self._way_out)
        try:
            return calls("making it", describe, self._make_one)
        finally:
            calls.close()

    def _start(self, make: Make, seeds: list[int]) -> "GymnasiumEnvironment":
        """A vector of environments, one for each seed."""

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
        calls: BoundedCalls,
    ):
        """`start` returns Gymnasium's vector, `action_like` is the space of one action there."""
        self.spec = spec
        self.num_envs = len(seeds)
        self._layout = layout
        self._first_action = (
            int(action_like.start) if isinstance(spec.action_space, Discrete) else 0
        )
        self._action_dtype = action_like.dtype
        self._seeds: list[int] | None = seeds
        self._over: np.ndarray | None = None
        self._calls = calls
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
        observation, reward, terminated, truncated, _ = self._calls(
            "step", lambda: self._vector.step(action)
        )
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
        another thread: environments are made on the thread that calls.
      processes: each environment on the main thread of a process of its own, for those that are slow or need
        a main thread: Gymnasium's `AsyncVectorEnv`. A program that uses it needs
        `if __name__ == "__main__":`.
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
        _import(module, f"gymnasium:{name}")
    registered = gymnasium.registry.get(registered_name)
    if registered is None:
        if module:
            raise InputError(
                f"unknown environment 'gymnasium:{name}': the module {module!r} registers no environment "
                f"{registered_name!r}{_registered_instead(module, registered_name)}"
            )
        raise UnknownEnvironmentError(name)
    check_timeout("timeout", timeout)
    if options.get("max_episode_steps", -1) != -1:  # Gymnasium's word for no limit
        check_integer(f"max_episode_steps of 'gymnasium:{name}'", options["max_episode_steps"], 1)
    _check_options(f"gymnasium:{name}", registered, options)
    return GymnasiumFactory(name, registered, options, timeout=timeout, processes=processes)


def _import(module: str, env_id: str) -> None:
    """Import what registers an environment; InputError if that is not possible."""
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(
            f"{error.name}."
        ):  # of what the module imports
            raise InputError(
                f"{env_id!r} needs the module {module!r}, which needs more: {error}"
            ) from error
        looked = "in the current folder and on" if searches_current_folder() else "on"
        spelling = (
            "; write it as in `import`, without .py"
            if module.endswith(".py") or "/" in module
            else ""
        )
        raise InputError(
            f"{env_id!r} needs the module {module!r}, which was looked for {looked} Python's path and not "
            f"found: go to its folder, or add that folder to PYTHONPATH{spelling}"
        ) from error
    except (Exception, SystemExit) as error:  # a script that was meant to be run
        raise InputError(f"{env_id!r} needs the module {module!r}: {error}") from error


def _registered_instead(module: str, name: str) -> str:
    """What the user may have meant among the names that are registered, the end of a sentence."""
    import gymnasium

    ids = [f"gymnasium:{module}:{other}" for other in nearest_names(name, gymnasium.registry)]
    return f"; did you mean {', '.join(map(repr, ids))}?" if ids else ""


def _make_one(env_id: str, registered: Any, options: Mapping[str, Any], **more: Any) -> Checked:
    """Make one environment; in the process that steps it."""
    import gymnasium

    return Checked(gymnasium.make(registered, **{**options, **more}), env_id)


def _main_thread(error: BaseException) -> str:
    """The ways out for an environment that was not on the main thread."""
    if not NEEDS_MAIN_THREAD.search(str(error)):
        return ""
    return (
        "; set its option processes=true, which gives each environment the main thread of a process, or "
        "timeout=null, which makes it on the thread that trains, though its steps may run on others"
    )


def _process_ended(error: BaseException) -> str:
    """What a broken pipe to an environment's process means."""
    return (
        "; its process ended without an answer"
        if isinstance(error, EOFError | ConnectionError)
        else ""
    )


def _is_listed(registered: Any) -> bool:
    """Whether an entry of Gymnasium's registry can be made with what is installed, as far as names tell."""
    if not isinstance(registered.entry_point, str):
        return not getattr(registered.entry_point, "__module__", "").startswith("gymnasium.")
    module = registered.entry_point.partition(":")[0]
    if module.startswith(NOT_LISTED):
        return False
    needs = [library for package, library in NEEDS.items() if module.startswith(package)]
    libraries = (*needs, module.split(".")[0])
    return all(
        name in sys.modules or importlib.util.find_spec(name) is not None for name in libraries
    )


def _check_options(env_id: str, registered: Any, options: Mapping[str, Any]) -> None:
    """Refuse settings that the constructor does not take, where it tells which it takes."""
    from gymnasium.envs.registration import load_env_creator

    if "render_mode" in options:
        raise InputError(
            f"render_mode is no setting of {env_id!r} here; `jax-a3c record` draws an agent"
        )
    if not options:
        return
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
