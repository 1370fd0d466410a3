"""One Gymnasium environment: read its spaces, and check the values that it returns.

This module does not import Gymnasium.
"""

import multiprocessing
import pickle
import signal
import types
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import numpy as np

from jax_a3c.envs.base import HostEnvironmentError
from jax_a3c.envs.host import kinds_of, raised
from jax_a3c.errors import InputError
from jax_a3c.messages import shown

Make = Callable[..., Any]
"""Function that makes one Gymnasium environment."""

START_METHOD: Final = "forkserver"
"""Start method of processes. A fork could copy locks that JAX's threads hold."""

NUMBERS = frozenset({float, int, bool, np.float64, np.float32, np.int64, np.int32})
"""Types of rewards that need no conversion."""
FLAGS = frozenset({bool, np.bool_})
"""Types of flags that need no conversion."""


class Description(NamedTuple):
    """Declarations of an environment.

    Attributes:
      observation_space: Gymnasium space of one observation.
      action_space: Gymnasium space of one action.
      metadata: metadata of the environment, such as its render modes.
      max_episode_steps: time limit in environment steps, None for no limit.
    """

    observation_space: Any
    action_space: Any
    metadata: dict[str, Any]
    max_episode_steps: int | None


def describe(make: Make) -> Description:
    """Make an environment, read its declarations, and close it."""
    env = make()
    max_episode_steps = None if env.spec is None else env.spec.max_episode_steps
    description = Description(
        env.observation_space, env.action_space, dict(env.metadata), max_episode_steps
    )
    env.close()
    return description


def describe_in_process(env_id: str, make: Make, *, timeout: float | None) -> Description:
    """Call `describe` on the main thread of a new process.

    Args:
      env_id: id of the environment, for messages.
      make: function that makes the environment. cloudpickle must be able to pickle it.
      timeout: seconds after which the environment counts as hung, None to wait for ever.

    Returns:
      The description.

    Raises:
      InputError: if `make` cannot be pickled, or if no process can start because the main program
        has no `if __name__ == "__main__":`.
      HostEnvironmentError: if the environment raises, hangs or ends its process.
    """
    import cloudpickle

    _check_guard()

    # cloudpickle also pickles lambdas and local classes.
    try:
        pickled = cloudpickle.dumps(make)
    except Exception as error:
        raise InputError(
            f"{env_id!r} with processes=True must be picklable, with its options: {error}"
        ) from error

    # Start the process and wait for its first message.
    context = multiprocessing.get_context(START_METHOD)
    answers, telling = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(pickled, telling), daemon=True)
    with answers:
        try:
            # Close this end of the pipe, so that the end of the child raises EOFError.
            with telling:
                process.start()
            answers.recv()
        except (EOFError, ConnectionError):
            raise InputError(
                f"{env_id!r} with processes=True cannot start a process: each process imports the "
                'main program, so write `if __name__ == "__main__":` above the work of that program'
            ) from None

        # Wait for the description.
        try:
            if not answers.poll(timeout):
                raise HostEnvironmentError(
                    f"{env_id!r} hangs: make did not return within {timeout:g} seconds in its "
                    "process; correct the environment or set its option timeout higher"
                )
            succeeded, content = answers.recv()
        except EOFError:
            process.join(1.0)
            raise HostEnvironmentError(
                f"{env_id!r} ended its process in make ({_cause(process.exitcode)})"
            ) from None
        finally:
            process.kill()
            process.join()

    if succeeded:
        return pickle.loads(content)

    # The process sent the name and the message of the error.
    cause = _exception(*content)
    raise HostEnvironmentError(raised(env_id, "make", cause)) from cause


class Elsewhere:
    """Function that makes an environment in a child process, and a stand-in in this process.

    `AsyncVectorEnv` of Gymnasium calls its first function in this process too, only to read the
    spaces. An environment that needs the main thread may not be possible here.
    """

    def __init__(self, make: Make, description: Description):
        """Store the function `make` and the `description` of its environment."""
        self._make = make
        self._description = description

    def __call__(self) -> Any:
        """Return the stand-in."""
        return types.SimpleNamespace(
            observation_space=self._description.observation_space,
            action_space=self._description.action_space,
            metadata=dict(self._description.metadata),
            render_mode=None,
            close=lambda: None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Unpickle as `make` in another process."""
        return _same, (self._make,)


class Checked:
    """Gymnasium environment whose returned values are checked against its spaces.

    The tuple and the observation are checked in the first `reset` and the first `step`. Rewards and
    flags are checked in every step: Gymnasium's vectors convert the reward None to NaN, the reward
    "1" to 1, and any flag with `bool`. A reward in an array of size 1 is converted to a number.
    """

    def __init__(self, env: Any, env_id: str):
        """Wrap the Gymnasium environment `env`. Messages name it by `env_id`."""
        self._env = env
        self._id = env_id
        self._unchecked = {"reset", "step"}

    def __getattr__(self, name: str) -> Any:
        """Forward all other attributes to the environment."""
        return getattr(self._env, name)

    def reset(self, **options: Any) -> tuple[Any, Any]:
        """Start an episode."""
        returned = self._env.reset(**options)
        if "reset" in self._unchecked:
            self._check("reset", returned, ("observation", "info"))
        return returned

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Any]:
        """Act once."""
        returned = self._env.step(action)
        if "step" in self._unchecked:
            self._check(
                "step", returned, ("observation", "reward", "terminated", "truncated", "info")
            )

        # Return the usual types unchanged, because this runs in every step.
        observation, reward, terminated, truncated, info = returned
        if type(reward) in NUMBERS and type(terminated) in FLAGS and type(truncated) in FLAGS:
            return returned

        return (
            observation,
            self._number(reward),
            self._flag("terminated", terminated),
            self._flag("truncated", truncated),
            info,
        )

    def _check(self, function: str, returned: Any, names: tuple[str, ...]) -> None:
        """Check the tuple of a first result and the observation in it."""
        self._unchecked.discard(function)

        if not isinstance(returned, tuple) or len(returned) != len(names):
            length = f" of {len(returned)}" if isinstance(returned, tuple) else ""
            raise HostEnvironmentError(
                f"{function}() of {self._id!r} returned a {type(returned).__name__}{length}; "
                f"it must return the tuple ({', '.join(names)})"
            )

        if wrong := mismatch(self._env.observation_space, returned[0]):
            raise HostEnvironmentError(
                f"{function}() of {self._id!r} returned an {wrong}; "
                f"correct {function}() or observation_space"
            )

    def _number(self, reward: Any) -> float:
        """Convert a reward to a number."""
        array = np.asarray(reward)
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.item())
        raise HostEnvironmentError(
            f"step() of {self._id!r} returned the reward {shown(reward)}; it must be one number"
        )

    def _flag(self, name: str, flag: Any) -> bool:
        """Convert `terminated` or `truncated` to a boolean."""
        array = np.asarray(flag)
        if array.size == 1 and array.dtype == np.bool_:
            return bool(array.item())
        raise HostEnvironmentError(
            f"step() of {self._id!r} returned {name}={shown(flag)}; it must be True or False"
        )


def mismatch(space: Any, value: Any, name: str = "observation") -> str | None:
    """Describe how an observation differs from its space.

    Shapes must be equal. Dtypes must be of the same kind in the sense of `np.can_cast`: float64
    fits float32, and integers fit reals, but reals do not fit integers. `AsyncVectorEnv` would cast
    every dtype silently.

    Args:
      space: Gymnasium space.
      value: the observation.
      name: name of the value, for the message.

    Returns:
      The observation and what was expected, as part of a sentence. None if the value fits.
    """
    kinds = kinds_of(space)
    if kinds & {"Dict", "Tuple"}:
        return _parts_mismatch(space, value, name)
    if not kinds & {"Box", "Discrete", "MultiDiscrete", "MultiBinary"}:
        # Other spaces, such as text, never reach a network.
        return None

    try:
        array = np.asarray(value)
    except ValueError as error:
        # NumPy refuses nested lists of different lengths.
        return f"{name} that is not an array ({error})"
    if array.shape != space.shape or not np.can_cast(array.dtype, space.dtype, "same_kind"):
        return (
            f"{name} of shape {array.shape} and dtype {array.dtype}, but its space has shape "
            f"{space.shape} and dtype {space.dtype}"
        )

    # A category out of range would break its one-hot vector.
    if kinds & {"Discrete", "MultiDiscrete"}:
        count = space.n if "Discrete" in kinds else space.nvec
        if np.any(array < space.start) or np.any(array >= space.start + count):
            return f"{name} {shown(value)}, which is outside its space {space!r}"
    return None


def _parts_mismatch(space: Any, value: Any, name: str) -> str | None:
    """Apply `mismatch` to each part of a dict or a tuple."""
    if "Dict" in kinds_of(space):
        if not isinstance(value, Mapping):
            return f"{name} of type {type(value).__name__}, but its space is a Dict"
        if missing := set(space.spaces) - set(value):
            return f"{name} without {', '.join(map(repr, sorted(missing)))}, which its space has"
        keys: Any = space.spaces
    else:
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{name} {shown(value)}, but its space is a Tuple of {len(space.spaces)}"
        keys = range(len(space.spaces))

    # Name the first part that does not fit.
    parts = (mismatch(space[key], value[key], f"{name}[{key!r}]") for key in keys)
    return next((part for part in parts if part is not None), None)


def _check_guard() -> None:
    """Exit silently from a process that starts processes while it imports the main program.

    A traceback here would only hide the message that the main program prints.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def _answer(make: bytes, telling: Connection) -> None:
    """Run the process of `describe_in_process`: send None, then the result or the error."""
    telling.send(None)
    try:
        import cloudpickle

        answer = True, cloudpickle.dumps(describe(pickle.loads(make)))
    except (Exception, SystemExit) as error:
        answer = False, (type(error).__name__, str(error))
    telling.send(answer)


def _exception(kind: str, message: str) -> Exception:
    """Rebuild an exception of another process, which may not be picklable, from its texts."""
    return type(kind, (Exception,), {})(message)


def _cause(exit_code: int | None) -> str:
    """Describe an exit code. A negative one is the number of a signal."""
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _same(make: Make) -> Make:
    """Return the argument. `Elsewhere.__reduce__` needs a function."""
    return make
