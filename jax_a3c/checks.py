"""The sentences with which a wrong setting is refused: its name, its value, and what is expected."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any


class InputError(ValueError):
    """What the user asked for cannot be done; the message names the value and the way out."""


class HostEnvironmentError(RuntimeError):
    """An environment raised an exception or did not answer in time; the group it belongs to is lost."""


class WorkerHangError(RuntimeError):
    """A worker of the asynchronous runner gave no sign of life for a set time; its thread is left behind."""


MAX_INTEGER = 2**31 - 1
"""The largest integer where a setting has no bound of its own: integers on the device have 32 bits."""
MAX_STEPS = 10**18
"""The largest number of environment steps that may be asked for."""
MAX_COUNT = 2**63 - 1
"""The largest number that a run may have counted: its last update may go beyond what was asked for."""
MAX_EPISODES = 10**6
"""Of an evaluation: on the device all are played at once."""
LARGEST, SMALLEST = 3.4028234e38, 1.1754944e-38
"""Magnitudes between which float32 holds a number; XLA takes smaller ones for 0."""
MAX_TIMEOUT = 1e6
"""The largest number of seconds to wait for something; a thread's clock ends after some centuries."""
SHOWN = 100
"""Characters of a value that a message has room for."""


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
) -> None:
    """Refuse what is not a real number of float32 in [low, high] and greater than `above`.

    A traced array passes: a hyper-parameter under `vmap` has no value to look at. An integer of more than 32
    bits does not: JAX refuses to compute with it, though not with the same number as a float.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      low: smallest allowed value.
      high: largest allowed value.
      above: the value must exceed this one.

    Raises:
      InputError: if it is not such a number.
    """
    if any(kind.__name__ == "Tracer" for kind in type(value).__mro__):  # without importing JAX
        return
    number, why = plain(value), ""
    if isinstance(number, int | float) and not isinstance(number, bool):
        if isinstance(number, int) and abs(number) > MAX_INTEGER:
            why = ", an integer of more than 32 bits; write it as a float if it is in range"
        elif LARGEST < abs(number) < math.inf:
            why = ", which is infinite in float32"
        elif 0.0 < abs(number) < SMALLEST:
            number, why = 0.0, ", which is 0 in float32"
        # NaN and infinity fail the first of these.
        if abs(number) <= (MAX_INTEGER if isinstance(number, int) else LARGEST) and (
            low <= number <= high and number > above
        ):
            return
    expected = f"{name} must be a number {_range(low, high, above)}".rstrip()
    raise InputError(f"{expected}, got {shown(value)}{why}")


def check_integer(name: str, value: Any, low: int, high: int = MAX_INTEGER) -> None:
    """Refuse what is not an integer from `low` to `high`.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      low: smallest allowed value.
      high: largest allowed value.

    Raises:
      InputError: if it is not such an integer.
    """
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_integer and low <= value <= high:
        return
    too_large = is_integer and value > high
    expected = f"between {low} and {high}" if too_large else f"of at least {low}"
    raise InputError(f"{name} must be an integer {expected}, got {shown(value)}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Refuse an object of another class.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      kind: the class.

    Raises:
      InputError: if it is not of that class.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} must be {kind.__name__}(...), got {shown(value)}")


def check_boolean(name: str, value: Any) -> None:
    """Refuse what is neither True nor False; the string "False" would count as true.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.

    Raises:
      InputError: if it is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {shown(value)}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is none of the named choices.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      choices: what is allowed.

    Raises:
      InputError: if it is none of them; the message names the nearest one.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return
    near = difflib.get_close_matches(shown(value).strip("'"), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}{hint}")


def check_timeout(name: str, value: Any) -> None:
    """Refuse what is neither None, which waits for ever, nor a number of seconds above 0.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.

    Raises:
      InputError: if it is something else, or above `MAX_TIMEOUT`.
    """
    if value is not None:
        check_number(name, value, above=0.0, high=MAX_TIMEOUT)


def check_callable(name: str, value: Any, *, example: str | None = None) -> None:
    """Refuse what cannot be called.

    Args:
      name: of the argument.
      value: what the user gave.
      example: of what it may be.

    Raises:
      InputError: if it is no function.
    """
    if not callable(value):
        such_as = f", such as {example}" if example else ""
        raise InputError(f"{name} must be a function{such_as}, got {shown(value)}")


def check_string(name: str, value: Any) -> None:
    """Refuse what is no string.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.

    Raises:
      InputError: if it is something else.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {shown(value)}")


def check_tuple(name: str, value: Any, of: str) -> None:
    """Refuse what is neither a tuple nor a list; the entries are the caller's to check.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      of: what the entries should be, for the message.

    Raises:
      InputError: if it is something else, such as a single entry.
    """
    if not isinstance(value, tuple | list):
        raise InputError(f"{name} must be a tuple of {of}, got {shown(value)}")


def shown(value: Any) -> str:
    """`repr(value)` on one line, cut where it is long; the name of the type where there is none."""
    try:
        value = type(value)(map(plain, value)) if type(value) in (tuple, list) else plain(value)
        text = " ".join(repr(value).split("\n"))
    except Exception:  # of an integer of 5,000 digits, or of a broken class
        return f"a value of type {type(value).__name__}"
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def plain(value: Any) -> Any:
    """Python's number for a scalar of NumPy or JAX; everything else as it is."""
    return value.item() if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0 else value


def _range(low: float, high: float, above: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"between {low:g} and {high:g}"
    if math.isfinite(above):
        return f"above {above:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
    return f"of at least {low:g}" if math.isfinite(low) else ""
