"""Adapter for gymnax (>= 1.0.1): environments in JAX that step inside the compiled program."""

import dataclasses
import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import check_boolean, check_integer, check_number
from jax_a3c.envs.base import ActionSpace, Box, Discrete, EnvSpec, UnknownEnvironmentError
from jax_a3c.envs.host import largest_byte
from jax_a3c.errors import InputError
from jax_a3c.types import Array, TimeStep

EXCLUDED = frozenset({"MNISTBandit-bsuite"})
"""Registered environments that download a data set when they are built."""
DRAWN_BY_GYMNAX = ("FourRooms-misc", "MetaMaze-misc", "PointRobot-misc")
"""Environments whose `render` returns a Matplotlib figure."""
OBSERVED_AS_A_GRID = ("MinAtar", "Catch-bsuite", "DeepSea-bsuite", "Pong-misc")
"""Name suffixes of environments that observe a grid, `[H, W]` or `[H, W, C]` in [0, 1]."""
FRAME_SIZE = 400
"""Largest number of pixels along the longer side of a drawn grid."""


class GymnaxEnvironment:
    """One gymnax environment as the pure functions `reset` and `step`, without auto-reset.

    Attributes:
      spec: description of the environment. Its observation shape and dtype come from a traced
        reset, because some spaces are wrong (Catch declares int32 and returns float32).
    """

    def __init__(self, name: str, env: Any, params: Any):
        self._env = env
        self._params = params

        # Trace a reset to learn the true shapes and dtypes.
        self._structure = jax.eval_shape(lambda key: env.reset_env(key, params), jax.random.key(0))
        observation = self._structure[0]
        declared = env.observation_space(params)
        self.spec = EnvSpec(
            id=f"gymnax:{name}",
            observation_shape=observation.shape,
            observation_dtype=observation.dtype,
            action_space=_action_space(name, env.action_space(params)),
            max_episode_steps=int(params.max_steps_in_episode),
            num_categories=declared.n if type(declared).__name__ == "Discrete" else None,
            observation_high=_observation_high(declared, observation.dtype),
        )

    def reset(self, key: Array) -> tuple[Any, Array]:
        """Start an episode. Return the state and the first observation."""
        observation, state = _cast(self._env.reset_env(key, self._params), self._structure)
        return state, observation

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, TimeStep]:
        """Act once. A real-valued action is clipped to the bounds of its space."""
        space = self.spec.action_space
        if isinstance(space, Box):
            action = jnp.clip(action, jnp.array(space.low), jnp.array(space.high))

        # Call the parts of gymnax's `step` without its auto-reset, which resets on every step.
        observation, state, reward, terminated, _ = self._env.step_env(
            key, state, action, self._params
        )
        truncated = self._env.is_truncated(state, self._params)

        observation, state = _cast((observation, state), self._structure)
        reward = jnp.asarray(reward, jnp.float32).reshape(())
        return state, TimeStep(
            observation, reward, jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        )

    def renderer(self) -> Callable[[Any, Array], np.ndarray]:
        """Return a function `(state, observation) -> frame`, `[H, W, 3]` uint8.

        Raises:
          InputError: if gymnax cannot draw this environment, or if pygame is missing.
        """
        from gymnax.visualize import vis_gym

        name = self.spec.id.partition(":")[2]
        if name in vis_gym.SUPPORTED_GYM_ENVS:
            return _classic_control(self.spec.id, name, self._params)
        if name in DRAWN_BY_GYMNAX:
            return lambda state, observation: _figure(*self._env.render(state, self._params))
        if name.endswith(OBSERVED_AS_A_GRID):
            return lambda state, observation: _grid(np.asarray(observation))

        drawable = [
            *vis_gym.SUPPORTED_GYM_ENVS,
            *DRAWN_BY_GYMNAX,
            "and environments that observe a grid",
        ]
        raise InputError(
            f"{self.spec.id!r} cannot be drawn: gymnax can draw only {', '.join(drawable)}"
        )


def available() -> list[str]:
    """List the names of the registered environments that can be built offline."""
    import gymnax

    return sorted(set(gymnax.registered_envs) - EXCLUDED)


def make(name: str, /, **options: Any) -> GymnaxEnvironment:
    """Build the environment `name`.

    Args:
      name: name in gymnax, such as `CartPole-v1`.
      **options: new values for number and boolean fields of the gymnax parameters.

    Returns:
      The environment.

    Raises:
      UnknownEnvironmentError: if gymnax has no environment of this name.
      InputError: if an option is unknown or has a wrong value.
    """
    import gymnax

    if name not in available():
        raise UnknownEnvironmentError(name)
    env, params = gymnax.make(name)

    # Only numbers and booleans can be set, not arrays.
    defaults = {field.name: getattr(params, field.name) for field in dataclasses.fields(params)}
    defaults = {
        option: value for option, value in defaults.items() if isinstance(value, int | float)
    }

    # Check each option against the type of its default.
    for option, value in options.items():
        if option not in defaults:
            near = difflib.get_close_matches(option, defaults, n=1)
            hint = (
                f"did you mean {near[0]!r}?" if near else f"its settings are {', '.join(defaults)}"
            )
            raise InputError(f"'gymnax:{name}' has no setting {option!r}; {hint}")
        title = f"{option} of 'gymnax:{name}'"
        if isinstance(defaults[option], bool):
            check_boolean(title, value)
        # The integers are limits, lengths and speeds, which cannot be 0.
        elif isinstance(defaults[option], int):
            check_integer(title, value, 1)
        else:
            check_number(title, value)

    return GymnaxEnvironment(name, env, dataclasses.replace(params, **options))


def _action_space(name: str, space: Any) -> ActionSpace:
    """Convert a gymnax action space to `Discrete` or `Box`."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Discrete(num_actions=int(space.n))
    if kind == "Box" and len(space.shape) == 1:
        low, high = (
            np.broadcast_to(np.asarray(b, float), space.shape) for b in (space.low, space.high)
        )
        return Box(low=tuple(low.tolist()), high=tuple(high.tolist()))

    raise InputError(
        f"'gymnax:{name}' has the action space {space!r}; "
        "supported are Discrete and Box of one axis"
    )


def _observation_high(space: Any, dtype: Any) -> float | None:
    """Return the largest value of uint8 observations, or None for another dtype."""
    return largest_byte(space) if dtype == np.uint8 and hasattr(space, "high") else None


def _cast(tree: Any, structure: Any) -> Any:
    """Cast each leaf to its dtype after a reset, because a JAX loop must not change dtypes."""
    return jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), tree, structure)


def _classic_control(env_id: str, name: str, params: Any) -> Callable[[Any, Array], np.ndarray]:
    """Return a function that draws a gymnax state with Gymnasium.

    gymnax makes a new Gymnasium environment for each frame, which takes 70 ms. This function
    makes one for all frames.
    """
    from gymnax.visualize import vis_gym

    env = vis_gym.gym.make(name, render_mode="rgb_array").unwrapped
    vis_gym.set_gym_params(env, name, params)

    def render(state: Any, observation: Array) -> np.ndarray:
        del observation
        env.state = vis_gym.get_gym_state(state, name)
        # Pendulum draws its torque as an arrow.
        env.last_u = float(getattr(state, "last_u", 0.0))
        return np.array(env.render(), np.uint8)

    # Draw once, so that a missing library is reported before an episode is played.
    try:
        env.reset(seed=0)
        env.render()
    except vis_gym.gym.error.DependencyNotInstalled as error:
        raise InputError(
            f"{env_id!r} cannot be drawn: it needs pygame; "
            f"run pip install 'jax-a3c[gymnasium]' ({error})"
        ) from None
    return render


def _figure(figure: Any, axes: Any) -> np.ndarray:
    """Return the pixels of a Matplotlib figure, `[H, W, 3]` uint8, and close the figure."""
    del axes
    import matplotlib.pyplot as plt
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.array(canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    return pixels


def _grid(observation: np.ndarray) -> np.ndarray:
    """Draw each cell as a square with the colour of its last nonzero channel, `[H, W, 3]` uint8."""
    from matplotlib import colormaps

    # [H, W] or [H, W, C] -> [H, W, C]
    channels = observation.reshape(*observation.shape[:2], -1) > 0
    count = channels.shape[-1]

    # Index 0 is black, for cells without a nonzero channel.
    palette = colormaps["tab10"](np.arange(count) % 10)[:, :3] if count > 1 else np.ones((1, 3))
    colours = np.concatenate([np.zeros((1, 3)), palette])
    last = np.max(channels * np.arange(1, count + 1), axis=-1)  # [H, W]

    # Enlarge each cell to a square of pixels.
    cell = max(1, FRAME_SIZE // max(last.shape))
    frame = (255 * colours[last]).round().astype(np.uint8)
    return frame.repeat(cell, axis=0).repeat(cell, axis=1)
