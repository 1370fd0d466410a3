"""Checks of settings. Each error gives the setting's name, its value and what is expected."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any

from jax_a3c.errors import InputError
from jax_a3c.messages import plain, shown

MAX_INTEGER = 2**31 - 1
"""Largest integer of a setting without a bound. Integers on the device have 32 bits."""
MAX_STEPS = 10**18
"""Largest number of environment steps that a user may ask for."""
MAX_COUNT = 2**63 - 1
"""Largest count of steps in a run. It exceeds MAX_STEPS: the last update may pass the target."""
MAX_EPISODES = 10**6
"""Largest number of episodes of an evaluation. On the device all of them are played at once."""
LARGEST = 3.4028234e38
"""Largest finite magnitude of float32."""
SMALLEST = 1.1754944e-38
"""Smallest normal magnitude of float32. XLA takes smaller ones for 0."""
MAX_TIMEOUT = 1e6
"""Largest timeout in seconds. Python's locks fail with timeouts of some centuries."""


def check_number(
    name: str,
    value: Any,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: float = -math.inf,
) -> None:
    """Check that a setting is a float32 number in [low, high] and greater than `above`.

    A traced array passes: under `vmap` a hyperparameter has no concrete value. An integer of more
    than 32 bits fails, because JAX cannot compute with it. The same number as a float passes.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.
      low: smallest allowed value.
      high: largest allowed value.
      above: exclusive lower bound.

    Raises:
      InputError: if the value is not such a number.
    """
    # Compare the name of the class, so that this module needs no import of JAX.
    if any(kind.__name__ == "Tracer" for kind in type(value).__mro__):
        return

    # Reject values that float32 would turn into infinity, and take tiny ones for 0 like XLA.
    number = plain(value)
    why = ""
    if isinstance(number, int | float) and not isinstance(number, bool):
        if isinstance(number, int) and abs(number) > MAX_INTEGER:
            why = ", an integer of more than 32 bits; write it as a float if it is in range"
        elif LARGEST < abs(number) < math.inf:
            why = ", which is infinite in float32"
        elif 0.0 < abs(number) < SMALLEST:
            number = 0.0
            why = ", which is 0 in float32"

        # NaN and infinity fail the first comparison.
        if abs(number) <= (MAX_INTEGER if isinstance(number, int) else LARGEST) and (
            low <= number <= high and number > above
        ):
            return

    expected = f"{name} must be a number {_range(low, high, above)}".rstrip()
    raise InputError(f"{expected}, got {shown(value)}{why}")


def check_integer(name: str, value: Any, low: int, high: int = MAX_INTEGER) -> None:
    """Check that a setting is an integer in [low, high].

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.
      low: smallest allowed value.
      high: largest allowed value.

    Raises:
      InputError: if the value is not such an integer.
    """
    # In Python a boolean is an integer too.
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if is_integer and low <= value <= high:
        return

    # Name the upper bound only to a user who exceeded it.
    too_large = is_integer and value > high
    expected = f"between {low} and {high}" if too_large else f"of at least {low}"
    raise InputError(f"{name} must be an integer {expected}, got {shown(value)}")


def check_kind(name: str, value: Any, kind: type) -> None:
    """Check that a setting is an instance of a class.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.
      kind: the class.

    Raises:
      InputError: if the value is an object of another class.
    """
    if not isinstance(value, kind):
        raise InputError(f"{name} must be {kind.__name__}(...), got {shown(value)}")


def check_boolean(name: str, value: Any) -> None:
    """Check that a setting is True or False. The string "False" fails, because it is truthy.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.

    Raises:
      InputError: if the value is not a boolean.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {shown(value)}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Check that a setting is one of the named choices.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.
      choices: allowed values.

    Raises:
      InputError: if the value is not a choice. The message suggests the nearest one.
    """
    choices = tuple(choices)
    if isinstance(value, str) and value in choices:
        return

    # `shown` also accepts a value that is not a string.
    near = difflib.get_close_matches(shown(value).strip("'"), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}{hint}")


def check_timeout(name: str, value: Any) -> None:
    """Check that a setting is a number of seconds above 0, or None to wait for ever.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.

    Raises:
      InputError: if the value is neither, or exceeds `MAX_TIMEOUT`.
    """
    if value is not None:
        check_number(name, value, above=0.0, high=MAX_TIMEOUT)


def check_callable(name: str, value: Any, *, example: str | None = None) -> None:
    """Check that an argument can be called.

    Args:
      name: name of the argument.
      value: value that the user gave.
      example: an allowed value, for the message.

    Raises:
      InputError: if the value cannot be called.
    """
    if not callable(value):
        such_as = f", such as {example}" if example else ""
        raise InputError(f"{name} must be a function{such_as}, got {shown(value)}")


def check_string(name: str, value: Any) -> None:
    """Check that a setting is a string.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.

    Raises:
      InputError: if the value is not a string.
    """
    if not isinstance(value, str):
        raise InputError(f"{name} must be a string, got {shown(value)}")


def check_tuple(name: str, value: Any, of: str) -> None:
    """Check that a setting is a tuple or a list. The caller checks the entries.

    Args:
      name: name of the setting, as the user wrote it.
      value: value that the user gave.
      of: kind of the entries, for the message.

    Raises:
      InputError: if the value is neither, for example a single entry.
    """
    if not isinstance(value, tuple | list):
        raise InputError(f"{name} must be a tuple of {of}, got {shown(value)}")


def _range(low: float, high: float, above: float) -> str:
    """Describe the allowed interval, for the message."""
    if math.isfinite(low) and math.isfinite(high):
        return f"between {low:g} and {high:g}"
    if math.isfinite(above):
        return f"above {above:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
    return f"of at least {low:g}" if math.isfinite(low) else ""
