"""Shared parts of the adapters of host environments: layouts, checks and calls with a timeout.

Spaces are Gymnasium spaces. They are recognized by the names of their classes, so that this module
does not import Gymnasium.
"""

import difflib
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_a3c.checks import check_integer, check_timeout
from jax_a3c.envs.base import ActionSpace, Box, Discrete, EnvSpec, HostEnvironmentError, HostStep
from jax_a3c.errors import InputError
from jax_a3c.messages import shown


@dataclass(frozen=True)
class Layout:
    """Conversion of a library's observations to one array.

    Attributes:
      shape: shape of one observation.
      dtype: dtype of one observation.
      num_categories: number of values of an integer observation, None for other observations.
      high: largest value of uint8 observations, None for other observations.
      convert: function from the library's observations of N environments to `[N, *shape]`.
    """

    shape: tuple[int, ...]
    dtype: Any
    num_categories: int | None
    high: float | None
    convert: Callable[[Any], np.ndarray]


def observation_layout(env_id: str, space: Any, drop: Sequence[str] = ()) -> Layout:
    """Return the layout of the observations of a space.

    - uint8 and bool keep their dtypes. Images `[C, H, W]` become `[H, W, C]`.
    - float16 and float64 become float32. Integers become int32, or float32 if their bounds exceed
      int32.
    - A top-level `Discrete` space becomes categories from 0.
    - `Dict`, `Tuple`, `MultiDiscrete` and `MultiBinary` become one float32 vector of flattened
      parts. The parts of a dict are in the order of its sorted keys. `Discrete` parts are one-hot.
      Bytes are not scaled there. Text is dropped.

    Args:
      env_id: id of the environment, for messages.
      space: Gymnasium space of one observation.
      drop: keys of the top-level dict to leave out.

    Returns:
      The layout.

    Raises:
      InputError: if the space has no such layout, or if no numbers are left.
    """
    kinds = kinds_of(space)
    if "Box" in kinds:
        return _box_layout(space)
    if "Discrete" in kinds:
        start = int(space.start)
        count = int(space.n)
        return Layout(
            (), np.dtype(np.int32), count, None, lambda x: (np.asarray(x) - start).astype(np.int32)
        )

    # Concatenate the parts of all other spaces.
    parts = _vectors(env_id, space, tuple(drop))
    size = sum(part_size for part_size, _ in parts)
    if not size:
        raise InputError(
            f"{env_id!r} has no numbers in its observation space {space!r}; "
            "wrap the environment so that its observations hold numbers"
        )
    return Layout(
        (size,),
        np.dtype(np.float32),
        None,
        None,
        lambda x: np.concatenate([vector(x) for _, vector in parts], axis=1, dtype=np.float32),
    )


def action_space(env_id: str, space: Any) -> ActionSpace:
    """Convert a Gymnasium action space. Raise InputError if no policy supports it."""
    kinds = kinds_of(space)
    if "Discrete" in kinds:
        return Discrete(num_actions=int(space.n))
    if "Box" in kinds and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return Box(
            low=tuple(float(x) for x in space.low),
            high=tuple(float(x) for x in space.high),
        )

    # MultiDiscrete, integer boxes and containers have no policy here.
    raise InputError(
        f"{env_id!r} has the action space {space!r}; supported are Discrete and Box of one axis "
        "with a float dtype; wrap the environment to convert its actions"
    )


def checked_action(spec: EnvSpec, num_envs: int, action: Any) -> np.ndarray:
    """Return an action as int32 `[N]`, or as float32 `[N, A]` clipped to its bounds.

    A Gaussian policy may sample a real action beyond its bounds, which is clipped as in gymnax.
    Every other action that does not fit is an error.

    Args:
      spec: description of the environment.
      num_envs: number of environments, N.
      action: value that the caller gave.

    Returns:
      The action.

    Raises:
      InputError: if the shape or the kind of dtype is wrong, or if an integer is out of range.
      FloatingPointError: if a real number is not finite.
    """
    action = np.asarray(action)
    space = spec.action_space
    env_id = spec.id

    if isinstance(space, Discrete):
        if action.shape != (num_envs,) or action.dtype.kind not in "iu":
            raise InputError(
                f"the action of {env_id!r} must hold {num_envs} integers of shape [N], "
                f"got {action.dtype} of shape {action.shape}"
            )
        if action.min() < 0 or action.max() >= space.num_actions:
            raise InputError(
                f"the action of {env_id!r} must be between 0 and {space.num_actions - 1}, "
                f"got {action}"
            )
        return action.astype(np.int32)

    if action.shape != (num_envs, space.size) or action.dtype.kind not in "fiu":
        raise InputError(
            f"the action of {env_id!r} must hold reals of shape [N, A] = {(num_envs, space.size)}, "
            f"got {action.dtype} of shape {action.shape}"
        )
    if not np.isfinite(action).all():
        raise FloatingPointError(
            f"the action of {env_id!r} is not finite: {action}; look for NaN or infinity in the "
            "observations and in the parameters of the policy"
        )
    return np.clip(action, space.low, space.high).astype(np.float32)


def check_observation(spec: EnvSpec, num_envs: int, observation: Any, doing: str) -> None:
    """Check that the observations of a group fit its description.

    Args:
      spec: description of the environments.
      num_envs: number of environments, N.
      observation: value that the group returned.
      doing: name of the function that returned it, for the message.

    Raises:
      HostEnvironmentError: if the shape or the kind of dtype is wrong.
    """
    _check_array(
        spec.id,
        doing,
        "observation",
        observation,
        (num_envs, *spec.observation_shape),
        spec.observation_dtype,
    )


def check_step(spec: EnvSpec, num_envs: int, step: Any) -> None:
    """Check that a step of a group is a `HostStep` that fits the description of the group.

    Args:
      spec: description of the environments.
      num_envs: number of environments, N.
      step: value that the group returned.

    Raises:
      HostEnvironmentError: if it is another object, or if a field has a wrong shape or dtype.
    """
    if not isinstance(step, HostStep):
        raise HostEnvironmentError(
            f"step() of {spec.id!r} must return a HostStep, got {shown(step)}"
        )
    check_observation(spec, num_envs, step.observation, "step")
    for name in ("reward", "raw_reward"):
        _check_array(spec.id, "step", name, getattr(step, name), (num_envs,), np.float32)
    for name in ("terminated", "truncated", "reset_step", "game_over"):
        _check_array(spec.id, "step", name, getattr(step, name), (num_envs,), np.bool_)


def checked_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """Return one seed per environment. An integer is the first of `num_envs` consecutive seeds."""
    check_integer("num_envs", num_envs, 1)
    if isinstance(seed, Sequence | np.ndarray):
        seeds = list(seed)
        if len(seeds) != num_envs:
            raise InputError(
                f"seed must be an integer or a sequence of {num_envs} integers, one per "
                f"environment, got a sequence of {len(seeds)}"
            )
    else:
        check_integer("seed", seed, 0)
        seeds = [seed + i for i in range(num_envs)]

    # The last consecutive seed may exceed 32 bits.
    for one in seeds:
        check_integer("seed", one, 0)
    return [int(one) for one in seeds]


def check_names(env_id: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Check that all options are known. The error suggests the nearest name."""
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"its settings are {', '.join(known)}"
            raise InputError(f"{env_id!r} has no setting {option!r}; {hint}")


def nearest_names(wanted: str, names: Iterable[str], count: int = 3) -> list[str]:
    """Return the names that are nearest to another one.

    Names that differ only in case, version or namespace come first. If there are any, only these
    are returned.

    Args:
      wanted: name that the user gave.
      names: known names, `name-v0` or `namespace/name-v0`.
      count: largest number of other similar names.

    Returns:
      The nearest names. The list is empty if no name is similar.
    """
    lowered = {name: name.lower() for name in names}
    same = {_bare(wanted), _without_version(wanted.lower())}
    matches = [
        name for name, lower in lowered.items() if same & {_bare(lower), _without_version(lower)}
    ]
    if matches:
        return matches

    # Several names may become equal in lower case.
    near = difflib.get_close_matches(wanted.lower(), lowered.values(), n=count, cutoff=0.6)
    return [
        name for match in dict.fromkeys(near) for name, lower in lowered.items() if lower == match
    ]


def raised(env_id: str, doing: str, error: BaseException) -> str:
    """Return a message of one line for an error that an environment raised."""
    return f"{env_id!r} raised {type(error).__name__} in {doing}: {' '.join(str(error).split())}"


class BoundedCalls:
    """Call functions on a separate thread, with a timeout.

    Python cannot stop a thread that hangs. It can abandon a daemon thread, which does not keep the
    process alive. All calls use the same thread, because some libraries bind to their first thread.
    """

    def __init__(
        self,
        env_id: str,
        timeout: float | None,
        *,
        way_out: Callable[[BaseException], str] | None = None,
    ):
        """Store the settings. The first call starts the thread.

        Args:
          env_id: id of the environment, for messages.
          timeout: seconds per call. None calls the functions directly, without a thread.
          way_out: function from the error of a call to advice that ends the message, or `""`.
        """
        check_timeout("timeout", timeout)
        self._env_id = env_id
        self._timeout = timeout
        self._way_out = way_out or (lambda error: "")

        # After a failure, every later call raises this message.
        self._lost = ""
        self._free = threading.Lock()

        # The caller puts functions, the thread puts their results.
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(*arguments)`.

        Args:
          doing: name of the call, for messages.
          function: function to call.
          *arguments: arguments of the function.

        Raises:
          HostEnvironmentError: if the function raises or hangs, or if an earlier call failed.
        """
        if self._lost:
            raise HostEnvironmentError(self._lost)

        # A hung caller holds the lock. Do not wait for it when the environment is closed.
        if not self._free.acquire(blocking=False):
            self._lost = (
                f"{self._env_id!r} is busy: a call on another thread has not returned; "
                "make a new environment"
            )
            raise HostEnvironmentError(self._lost)

        try:
            return self._call(lambda: function(*arguments))
        except queue.Empty:
            self._lost = (
                f"{self._env_id!r} hangs: {doing} did not return within {self._timeout:g} seconds; "
                "correct the environment or set its option timeout higher"
            )
            raise HostEnvironmentError(self._lost) from None
        except HostEnvironmentError as error:
            # The message of this error is complete.
            self._lost = str(error)
            raise
        except (Exception, SystemExit) as error:
            self._lost = raised(self._env_id, doing, error) + self._way_out(error)
            raise HostEnvironmentError(self._lost) from error
        except BaseException:
            # Ctrl-C: the result of this call would be taken for the result of the next one.
            self._lost = f"{self._env_id!r} was interrupted in {doing}; make a new environment"
            raise
        finally:
            self._free.release()

    def close(self) -> None:
        """End the thread. A thread that hangs is abandoned."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(timeout=None if not self._lost else 1.0)
        self._thread = None
        self._lost = self._lost or f"{self._env_id!r} is closed; make a new environment"

    def _call(self, function: Callable[[], Any]) -> Any:
        """Run a function on the thread and return its result or raise its error."""
        if self._timeout is None:
            return function()

        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name=self._env_id, daemon=True)
            self._thread.start()

        self._calls.put(function)
        result, error = self._results.get(timeout=self._timeout)
        if error is not None:
            raise error
        return result

    def _serve(self) -> None:
        """Run the functions of the queue until it holds None."""
        while (function := self._calls.get()) is not None:
            try:
                answer: tuple[Any, BaseException | None] = (function(), None)
            except BaseException as error:
                # Catch SystemExit too, because the caller waits for an answer.
                answer = (None, error)
            self._results.put(answer)


def _without_version(name: str) -> str:
    """Remove the version, `-v0`, from the end of a name."""
    return re.sub(r"-v\d+$", "", name)


def _bare(name: str) -> str:
    """Return a name in lower case, without version and namespace."""
    return _without_version(name.lower().rpartition("/")[2])


def kinds_of(space: Any) -> set[str]:
    """Return the names of the classes of a space. This needs no import of Gymnasium."""
    return {kind.__name__ for kind in type(space).__mro__}


def _check_array(
    env_id: str, doing: str, name: str, value: Any, shape: tuple[int, ...], dtype: Any
) -> None:
    """Check the shape of an array, and that its dtype is of the same kind as the expected one."""
    # `same_kind` allows float64 for float32, but not float for bool.
    array = np.asarray(value)
    if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise HostEnvironmentError(
            f"{doing}() of {env_id!r} must return {name} of shape {shape} and dtype "
            f"{np.dtype(dtype)}, got shape {array.shape} and dtype {array.dtype}"
        )


def _box_layout(space: Any) -> Layout:
    """Return the layout of a `Box`."""
    shape = tuple(space.shape)
    dtype = np.dtype(space.dtype)

    # Images with channels first: [C, H, W] -> [H, W, C]
    if dtype == np.uint8 and len(shape) == 3 and shape[0] < min(shape[1:]):
        return Layout((*shape[1:], shape[0]), dtype, None, largest_byte(space), _channels_last)

    # Networks convert bytes and booleans. All other numbers become 32 bits wide.
    if dtype in (np.uint8, np.bool_):
        target = dtype
    elif dtype.kind in "iu" and _fits_int32(space):
        target = np.dtype(np.int32)
    else:
        target = np.dtype(np.float32)
    high = largest_byte(space) if target == np.uint8 else None
    return Layout(shape, target, None, high, lambda x: np.asarray(x, target))


def _channels_last(images: np.ndarray) -> np.ndarray:
    """Convert images `[N, C, H, W]` to contiguous `[N, H, W, C]`.

    One copy per channel takes 13 microseconds for 84x84x4. A copy of the transposed view takes four
    times as long.
    """
    last = np.empty((images.shape[0], *images.shape[2:], images.shape[1]), images.dtype)
    for channel in range(images.shape[1]):
        last[..., channel] = images[:, channel]
    return last


def largest_byte(space: Any) -> float | None:
    """Return the largest value of a uint8 space, or None if it is 0 and cannot be a divisor."""
    return float(np.max(space.high)) or None


def _fits_int32(space: Any) -> bool:
    """Return whether the bounds of an integer space fit int32."""
    limits = np.iinfo(np.int32)
    return bool(np.min(space.low) >= limits.min and np.max(space.high) <= limits.max)


Vector = tuple[int, Callable[[Any], np.ndarray]]
"""Size of a part of an observation, and a function from the observations to `[N, size]`."""


def _vectors(env_id: str, space: Any, drop: tuple[str, ...] = ()) -> list[Vector]:
    """Return the parts of the vector for a space, in order."""
    kinds = kinds_of(space)
    if kinds & {"Text", "MissionSpace"}:
        return []

    # Descend into containers.
    if kinds & {"Dict", "Tuple"}:
        keys = (
            sorted(set(space.spaces) - set(drop)) if "Dict" in kinds else range(len(space.spaces))
        )
        return [
            (size, _after(key, vector))
            for key in keys
            for size, vector in _vectors(env_id, space[key])
        ]

    if "Discrete" in kinds:
        return [(int(space.n), _one_hot(int(space.n), int(space.start)))]
    if "MultiDiscrete" in kinds and len(space.shape) == 1:
        # One one-hot vector per entry.
        starts = np.broadcast_to(space.start, space.shape)
        return [
            (int(n), _after((slice(None), i), _one_hot(int(n), int(start))))
            for i, (n, start) in enumerate(zip(space.nvec, starts, strict=True))
        ]
    if kinds & {"Box", "MultiBinary"}:
        # [N, *shape] -> [N, size]
        return [(int(np.prod(space.shape)), lambda x: np.asarray(x).reshape(len(x), -1))]
    raise InputError(
        f"{env_id!r} has the unsupported observation space {space!r}; wrap the environment so that "
        "its observations are arrays of fixed shapes"
    )


def _after(key: Any, vector: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
    """Return a function that applies `vector` to the part `key` of the observations."""
    return lambda x: vector(x[key])


def _one_hot(num_categories: int, start: int) -> Callable[[Any], np.ndarray]:
    """Return a function from integers `[N]` to one-hot vectors `[N, num_categories]`."""
    rows = np.eye(num_categories, dtype=np.float32)
    return lambda x: rows[np.asarray(x) - start]
