"""One environment of Gymnasium: what it declares, read here or in a process, and checks of what it returns.

Everything here works without importing Gymnasium.
"""

import multiprocessing
import pickle
import signal
import types
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

import numpy as np

from jax_a3c.checks import InputError, shown
from jax_a3c.envs.base import HostEnvironmentError
from jax_a3c.envs.host import kinds_of, raised

Make = Callable[..., Any]
"""Makes one environment of Gymnasium."""

START_METHOD: Final = "forkserver"
"""How processes are started: a fork would copy the locks of JAX's threads, held or not."""

NUMBERS = frozenset({float, int, bool, np.float64, np.float32, np.int64, np.int32})
FLAGS = frozenset({bool, np.bool_})
"""Usual types of rewards and flags, which need no conversion."""


class Description(NamedTuple):
    """What an environment declares.

    Attributes:
      observation_space: of Gymnasium.
      action_space: of Gymnasium.
      metadata: such as its render modes.
      max_episode_steps: its time limit, None if there is none.
    """

    observation_space: Any
    action_space: Any
    metadata: dict[str, Any]
    max_episode_steps: int | None


def describe(make: Make) -> Description:
    """Make an environment, read what it declares, and close it."""
    env = make()
    max_episode_steps = None if env.spec is None else env.spec.max_episode_steps
    description = Description(
        env.observation_space, env.action_space, dict(env.metadata), max_episode_steps
    )
    env.close()
    return description


def describe_in_process(env_id: str, make: Make, *, timeout: float | None) -> Description:
    """`describe` in a process of its own, on its main thread.

    Args:
      env_id: for messages.
      make: makes the environment; cloudpickle must be able to pickle it.
      timeout: seconds after which the environment counts as hung, None to wait for ever.

    Returns:
      The description.

    Raises:
      InputError: if `make` cannot be pickled, or if no process can be started because the program does not
        guard its work.
      HostEnvironmentError: if the environment raises, hangs or ends its process.
    """
    import cloudpickle

    _check_guard()
    try:
        pickled = cloudpickle.dumps(make)
    except Exception as error:
        raise InputError(
            f"{env_id!r} with processes=True must be picklable, with its options: {error}"
        ) from error

    context = multiprocessing.get_context(START_METHOD)
    answers, telling = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(pickled, telling), daemon=True)
    with answers:
        try:
            with telling:
                process.start()
            answers.recv()  # it has started
        except (EOFError, ConnectionError):
            raise InputError(
                f"{env_id!r} with processes=True cannot start a process: each one imports the program that "
                'starts it, so write `if __name__ == "__main__":` over what that program does'
            ) from None
        try:
            if not answers.poll(timeout):
                raise HostEnvironmentError(
                    f"{env_id!r} hangs: no answer within {timeout:g} seconds of making it in a process"
                )
            succeeded, content = answers.recv()
        except EOFError:
            process.join(1.0)
            raise HostEnvironmentError(
                f"{env_id!r} ended its process in making it ({_cause(process.exitcode)})"
            ) from None
        finally:
            process.kill()
            process.join()

    if succeeded:
        return pickle.loads(content)
    cause = _exception(*content)
    raise HostEnvironmentError(raised(env_id, "making it", cause)) from cause


class Elsewhere:
    """A maker for Gymnasium's `AsyncVectorEnv`: a stand-in in this process, the environment in every other.

    The vector calls the first of its makers in the process that owns it, to read the spaces. An environment
    that needs a main thread cannot be made there.
    """

    def __init__(self, make: Make, description: Description):
        """`make` makes the environment that `description` describes."""
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
        """Become `make` in another process."""
        return _same, (self._make,)


class Checked:
    """One environment of Gymnasium that returns what it declares, or says in one sentence what it returned.

    The tuple and the observation are checked in the first `reset` and the first `step`. Rewards and flags are
    checked always: Gymnasium's vectors take None for NaN, the string "1" for 1, and any flag for what `bool`
    makes of it. A reward that is one number in an array becomes that number.
    """

    def __init__(self, env: Any, env_id: str):
        """`env` is Gymnasium's, `env_id` is for messages."""
        self._env = env
        self._id = env_id
        self._unchecked = {"reset", "step"}

    def __getattr__(self, name: str) -> Any:
        """Everything else is the environment's own."""
        return getattr(self._env, name)

    def reset(self, **options: Any) -> tuple[Any, Any]:
        """Begin an episode."""
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
        """Refuse a first result that is no such tuple, or whose observation is not in its space."""
        self._unchecked.discard(function)
        if not isinstance(returned, tuple) or len(returned) != len(names):
            length = f" of {len(returned)}" if isinstance(returned, tuple) else ""
            raise HostEnvironmentError(
                f"{function}() of {self._id!r} returned a {type(returned).__name__}{length}; it must return "
                f"the tuple ({', '.join(names)})"
            )
        if wrong := mismatch(self._env.observation_space, returned[0]):
            raise HostEnvironmentError(
                f"{function}() of {self._id!r} returned an {wrong}; correct {function}() or observation_space"
            )

    def _number(self, reward: Any) -> float:
        array = np.asarray(reward)
        if array.size == 1 and array.dtype.kind in "biuf":
            return float(array.item())
        raise HostEnvironmentError(
            f"step() of {self._id!r} returned the reward {shown(reward)}; it must be one number"
        )

    def _flag(self, name: str, flag: Any) -> bool:
        array = np.asarray(flag)
        if array.size == 1 and array.dtype == np.bool_:
            return bool(array.item())
        raise HostEnvironmentError(
            f"step() of {self._id!r} returned {name}={shown(flag)}; it must be True or False"
        )


def mismatch(space: Any, value: Any, name: str = "observation") -> str | None:
    """Say in what an observation differs from its space.

    Shapes must be equal, and dtypes such that NumPy casts one to the other within a kind: float64 to float32
    and integers to reals, but no reals to integers. `AsyncVectorEnv` would cast everything without a word.

    Args:
      space: Gymnasium's.
      value: the observation.
      name: of the value, for the message.

    Returns:
      What came and what is expected, None if it fits.
    """
    kinds = kinds_of(space)
    if kinds & {"Dict", "Tuple"}:
        return _parts_mismatch(space, value, name)
    if not kinds & {"Box", "Discrete", "MultiDiscrete", "MultiBinary"}:
        return None  # text, say, which no network sees

    try:
        array = np.asarray(value)
    except ValueError as error:  # of parts that differ in length
        return f"{name} that is no array ({error})"
    if array.shape != space.shape or not np.can_cast(array.dtype, space.dtype, "same_kind"):
        return (
            f"{name} of shape {array.shape} and dtype {array.dtype}, its space has shape {space.shape} "
            f"and dtype {space.dtype}"
        )

    if kinds & {"Discrete", "MultiDiscrete"}:
        count = space.n if "Discrete" in kinds else space.nvec
        if np.any(array < space.start) or np.any(array >= space.start + count):
            return f"{name} {shown(value)}, which is outside its space {space!r}"
    return None


def _parts_mismatch(space: Any, value: Any, name: str) -> str | None:
    """`mismatch` of a dict or a tuple."""
    if "Dict" in kinds_of(space):
        if not isinstance(value, Mapping):
            return f"{name} of type {type(value).__name__}, its space is a Dict"
        if missing := set(space.spaces) - set(value):
            return f"{name} without {', '.join(map(repr, sorted(missing)))}, which its space has"
        keys: Any = space.spaces
    else:
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            return f"{name} that is {shown(value)}, its space is a tuple of {len(space.spaces)}"
        keys = range(len(space.spaces))
    parts = (mismatch(space[key], value[key], f"{name}[{key!r}]") for key in keys)
    return next((part for part in parts if part is not None), None)


def _check_guard() -> None:
    """End a process that is about to start processes while it imports the program that started it.

    Its traceback would stand above the sentence in which the program is told so.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SystemExit(1)


def _answer(make: bytes, telling: Connection) -> None:
    """What the process of `describe_in_process` does."""
    telling.send(None)
    try:
        import cloudpickle

        answer = True, cloudpickle.dumps(describe(pickle.loads(make)))
    except (Exception, SystemExit) as error:
        answer = False, (type(error).__name__, str(error))
    telling.send(answer)


def _exception(kind: str, message: str) -> Exception:
    """An exception with the name and the words of one in another process, which may have no pickle."""
    return type(kind, (Exception,), {})(message)


def _cause(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        return signal.Signals(-exit_code).name
    return f"exit code {exit_code}"


def _same(make: Make) -> Make:
    return make
