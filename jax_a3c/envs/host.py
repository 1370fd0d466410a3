"""What the adapters of host environments share: layouts of observations, checks, and bounded calls.

Spaces are those of Gymnasium, told apart by the names of their classes: only its adapter imports it.
"""

import difflib
import queue
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jax_a3c.checks import InputError, check_integer, check_timeout, shown
from jax_a3c.envs.base import ActionSpace, Box, Discrete, EnvSpec, HostEnvironmentError, HostStep


@dataclass(frozen=True)
class Layout:
    """How a group's observations become one array.

    Attributes:
      shape: of one observation.
      dtype: of one observation.
      num_categories: the observation is one of this many integers, None for others.
      high: the largest value of uint8 observations, None for others.
      convert: the library's observations of N environments -> `[N, *shape]`.
    """

    shape: tuple[int, ...]
    dtype: Any
    num_categories: int | None
    high: float | None
    convert: Callable[[Any], np.ndarray]


def observation_layout(env_id: str, space: Any, drop: Sequence[str] = ()) -> Layout:
    """The one array that stands for the observations of a space.

    - uint8 and bool stay; images `[C, H, W]` become `[H, W, C]`.
    - float16 and float64 become float32; integers int32, or float32 where their bounds do not fit.
    - A `Discrete` space at the top is categories from 0.
    - `Dict`, `Tuple`, `MultiDiscrete` and `MultiBinary` become one float32 vector: the parts of a dict in the
      order of its sorted keys, those of a tuple in their own, each flattened, `Discrete` ones one-hot. Bytes
      are not scaled there. Text has no numbers and is dropped.

    Args:
      env_id: for messages.
      space: Gymnasium's space of one observation.
      drop: keys of the dict at the top to leave out.

    Returns:
      The layout.

    Raises:
      InputError: if the space has no such layout, or nothing is left of it.
    """
    kinds = kinds_of(space)
    if "Box" in kinds:
        return _box_layout(space)
    if "Discrete" in kinds:
        start, count = int(space.start), int(space.n)
        return Layout(
            (), np.dtype(np.int32), count, None, lambda x: (np.asarray(x) - start).astype(np.int32)
        )
    parts = _vectors(env_id, space, tuple(drop))
    size = sum(part_size for part_size, _ in parts)
    if not size:
        raise InputError(f"{env_id!r} has no numbers in its observations: {space!r}")
    return Layout(
        (size,),
        np.dtype(np.float32),
        None,
        None,
        lambda x: np.concatenate([vector(x) for _, vector in parts], axis=1, dtype=np.float32),
    )


def action_space(env_id: str, space: Any) -> ActionSpace:
    """The protocol's action space for Gymnasium's one; InputError if there is none."""
    kinds = kinds_of(space)
    if "Discrete" in kinds:
        return Discrete(num_actions=int(space.n))
    if "Box" in kinds and len(space.shape) == 1 and np.issubdtype(space.dtype, np.floating):
        return Box(
            low=tuple(float(x) for x in space.low),
            high=tuple(float(x) for x in space.high),
        )
    raise InputError(
        f"{env_id!r} has the action space {space!r}; supported are Discrete and Box of one axis of reals"
    )


def checked_action(spec: EnvSpec, num_envs: int, action: Any) -> np.ndarray:
    """The action of a step, as int32 `[N]` or float32 `[N, A]` clipped to the bounds.

    A real action beyond its bounds is what a Gaussian policy may sample: it is clipped, as in the
    environments of gymnax. Everything else that does not fit is a mistake.

    Args:
      spec: the description of the environment.
      num_envs: N.
      action: what the caller gave.

    Returns:
      The action.

    Raises:
      InputError: if shape or dtype differ, or an integer is out of range.
      FloatingPointError: if a real number is not finite.
    """
    action, space, env_id = np.asarray(action), spec.action_space, spec.id
    if isinstance(space, Discrete):
        if action.shape != (num_envs,) or action.dtype.kind not in "iu":
            raise InputError(
                f"the action of {env_id!r} must be {num_envs} integers [N], "
                f"got {action.dtype} of shape {action.shape}"
            )
        if action.min() < 0 or action.max() >= space.num_actions:
            raise InputError(
                f"the action of {env_id!r} must be between 0 and {space.num_actions - 1}, got {action}"
            )
        return action.astype(np.int32)
    if action.shape != (num_envs, space.size) or action.dtype.kind not in "fiu":
        raise InputError(
            f"the action of {env_id!r} must be reals [N, A] = {(num_envs, space.size)}, "
            f"got {action.dtype} of shape {action.shape}"
        )
    if not np.isfinite(action).all():
        raise FloatingPointError(
            f"the action of {env_id!r} is not finite: {action}; neither was an observation, or the policy"
        )
    return np.clip(action, space.low, space.high).astype(np.float32)


def check_observation(spec: EnvSpec, num_envs: int, observation: Any, doing: str) -> None:
    """Refuse observations of a group that are not what its description says.

    Args:
      spec: the description of the environments.
      num_envs: N.
      observation: what the group returned.
      doing: the function that returned it, for the message.

    Raises:
      HostEnvironmentError: if shape or dtype differ.
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
    """Refuse a step of a group that is not what `HostStep` and its description say.

    Args:
      spec: the description of the environments.
      num_envs: N.
      step: what the group returned.

    Raises:
      HostEnvironmentError: if it is no `HostStep`, or shape or dtype of a field differ.
    """
    if not isinstance(step, HostStep):
        raise HostEnvironmentError(
            f"step() of {spec.id!r} must return a HostStep, got {shown(step)}"
        )
    check_observation(spec, num_envs, step.observation, "step")
    for name in ("reward", "score"):
        _check_array(spec.id, "step", name, getattr(step, name), (num_envs,), np.float32)
    for name in ("terminated", "truncated", "ignored", "game_over"):
        _check_array(spec.id, "step", name, getattr(step, name), (num_envs,), np.bool_)


def checked_seeds(seed: int | Sequence[int], num_envs: int) -> list[int]:
    """One seed for each of `num_envs` environments; an integer is the first of consecutive ones."""
    check_integer("num_envs", num_envs, 1)
    if isinstance(seed, Sequence | np.ndarray):
        seeds = list(seed)
        if len(seeds) != num_envs:
            raise InputError(
                f"seed must be an integer or one for each of {num_envs} environments, got {len(seeds)}"
            )
    else:
        check_integer("seed", seed, 0)
        seeds = [seed + i for i in range(num_envs)]
    for one in seeds:
        check_integer("seed", one, 0)
    return [int(one) for one in seeds]


def check_names(env_id: str, options: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse an option that is none of the known ones, naming the nearest."""
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise InputError(f"{env_id!r} has no setting {option!r}; {hint}")


def nearest_names(wanted: str, names: Iterable[str], count: int = 3) -> list[str]:
    """The names that come nearest to another one, whatever its case, version and name space.

    Args:
      wanted: what was asked for.
      names: `name-v0` or `name_space/name-v0`, those that there are.
      count: how many to return at most, where none differs in nothing but that.

    Returns:
      The names, none if all are far.
    """
    lowered = {name: name.lower() for name in names}
    same = {_bare(wanted), _without_version(wanted.lower())}
    matches = [
        name for name, lower in lowered.items() if same & {_bare(lower), _without_version(lower)}
    ]
    if matches:
        return matches
    near = difflib.get_close_matches(wanted.lower(), lowered.values(), n=count, cutoff=0.6)
    return [
        name for match in dict.fromkeys(near) for name, lower in lowered.items() if lower == match
    ]


def raised(env_id: str, doing: str, error: BaseException) -> str:
    """The sentence, on one line, for what an environment raised."""
    return f"{env_id!r} raised {type(error).__name__} in {doing}: {' '.join(str(error).split())}"


class BoundedCalls:
    """Calls that are made on a thread of their own and given up after a time.

    Code that hangs cannot be stopped from outside; but it can be left behind on its thread, which does not
    keep the process alive. All calls share that thread: some libraries bind to the one that began.
    """

    def __init__(
        self,
        env_id: str,
        timeout: float | None,
        *,
        way_out: Callable[[BaseException], str] | None = None,
    ):
        """Nothing is started yet.

        Args:
          env_id: for messages.
          timeout: seconds per call, None to call directly.
          way_out: from what a call raised to what ends the message, `""` for nothing.
        """
        check_timeout("timeout", timeout)
        self._env_id = env_id
        self._timeout = timeout
        self._way_out = way_out or (lambda error: "")
        self._lost = ""
        self._free = threading.Lock()
        self._calls: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def __call__(self, doing: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return `function(*arguments)`; a HostEnvironmentError tells what it was `doing` if that fails."""
        if self._lost:
            raise HostEnvironmentError(self._lost)
        if not self._free.acquire(blocking=False):
            # Its thread was given up as hung. Who closes the environment now must not wait for it too.
            self._lost = f"{self._env_id!r} is busy: another thread still waits for an answer"
            raise HostEnvironmentError(self._lost)
        try:
            return self._call(lambda: function(*arguments))
        except queue.Empty:
            self._lost = (
                f"{self._env_id!r} hangs: no answer within {self._timeout:g} seconds of {doing}"
            )
            raise HostEnvironmentError(self._lost) from None
        except HostEnvironmentError as error:  # its sentence is complete
            self._lost = str(error)
            raise
        except (Exception, SystemExit) as error:
            self._lost = raised(self._env_id, doing, error) + self._way_out(error)
            raise HostEnvironmentError(self._lost) from error
        except (
            BaseException
        ):  # Ctrl-C: nobody waits for the answer, so that nothing more can be asked
            self._lost = f"{self._env_id!r} was left in {doing}"
            raise
        finally:
            self._free.release()

    def close(self) -> None:
        """End the thread, unless it hangs."""
        if self._thread is not None:
            self._calls.put(None)
            self._thread.join(timeout=None if not self._lost else 1.0)
        self._thread = None
        self._lost = self._lost or f"{self._env_id!r} is closed; make a new one"

    def _call(self, function: Callable[[], Any]) -> Any:
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
        while (function := self._calls.get()) is not None:
            try:
                answer: tuple[Any, BaseException | None] = (function(), None)
            except BaseException as error:  # SystemExit too: the caller would wait for an answer
                answer = (None, error)
            self._results.put(answer)


def _without_version(name: str) -> str:
    return re.sub(r"-v\d+$", "", name)


def _bare(name: str) -> str:
    """A name in small letters, without version and name space."""
    return _without_version(name.lower().rpartition("/")[2])


def kinds_of(space: Any) -> set[str]:
    """Names of the classes of a space, so that nobody has to import Gymnasium."""
    return {kind.__name__ for kind in type(space).__mro__}


def _check_array(
    env_id: str, doing: str, name: str, value: Any, shape: tuple[int, ...], dtype: Any
) -> None:
    """Refuse an array of another shape, or whose dtype NumPy casts only to another kind of number."""
    array = np.asarray(value)
    if array.shape != shape or not np.can_cast(array.dtype, dtype, "same_kind"):
        raise HostEnvironmentError(
            f"{doing}() of {env_id!r} must return {name} of shape {shape} and dtype {np.dtype(dtype)}, "
            f"got shape {array.shape} and dtype {array.dtype}"
        )


def _box_layout(space: Any) -> Layout:
    shape, dtype = tuple(space.shape), np.dtype(space.dtype)
    if dtype == np.uint8 and len(shape) == 3 and shape[0] < min(shape[1:]):  # channels first
        return Layout((*shape[1:], shape[0]), dtype, None, largest_byte(space), _channels_last)
    if dtype in (np.uint8, np.bool_):
        target = dtype
    elif dtype.kind in "iu" and _fits_int32(space):
        target = np.dtype(np.int32)
    else:
        target = np.dtype(np.float32)
    high = largest_byte(space) if target == np.uint8 else None
    return Layout(shape, target, None, high, lambda x: np.asarray(x, target))


def _channels_last(images: np.ndarray) -> np.ndarray:
    """`[N, C, H, W]` -> `[N, H, W, C]`, contiguous; a copy per channel, 13 microseconds for 84x84x4, is four
    times as fast as one of the transposed view."""
    last = np.empty((images.shape[0], *images.shape[2:], images.shape[1]), images.dtype)
    for channel in range(images.shape[1]):
        last[..., channel] = images[:, channel]
    return last


def largest_byte(space: Any) -> float | None:
    """The largest value that a space of uint8 declares; None if that is 0, by which nothing is divided."""
    return float(np.max(space.high)) or None


def _fits_int32(space: Any) -> bool:
    limits = np.iinfo(np.int32)
    return bool(np.min(space.low) >= limits.min and np.max(space.high) <= limits.max)


Vector = tuple[int, Callable[[Any], np.ndarray]]
"""Size of a part of an observation, and how to get `[N, size]` from the observations."""


def _vectors(env_id: str, space: Any, drop: tuple[str, ...] = ()) -> list[Vector]:
    """The parts of the vector that stands for a space, in order."""
    kinds = kinds_of(space)
    if kinds & {"Text", "MissionSpace"}:
        return []
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
        starts = np.broadcast_to(space.start, space.shape)
        return [
            (int(n), _after((slice(None), i), _one_hot(int(n), int(start))))
            for i, (n, start) in enumerate(zip(space.nvec, starts, strict=True))
        ]
    if kinds & {"Box", "MultiBinary"}:
        return [(int(np.prod(space.shape)), lambda x: np.asarray(x).reshape(len(x), -1))]
    raise InputError(
        f"{env_id!r} has observations of no fixed size: {space!r}; wrap the environment"
    )


def _after(key: Any, vector: Callable[[Any], np.ndarray]) -> Callable[[Any], np.ndarray]:
    return lambda x: vector(x[key])


def _one_hot(num_categories: int, start: int) -> Callable[[Any], np.ndarray]:
    rows = np.eye(num_categories, dtype=np.float32)
    return lambda x: rows[np.asarray(x) - start]
