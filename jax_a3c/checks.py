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


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf
) -> None:
    """Refuse what is not a finite real number in [low, high] and greater than `above`.

    A traced array passes: a hyper-parameter under `vmap` has no value to look at.

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
    if hasattr(value, "dtype") and value.ndim == 0:
        value = value.item()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and low <= value <= high and value > above:
        return
    raise InputError(f"{name} must be a number {_range(low, high, above)}, got {value!r}".replace("  ", " "))


def check_integer(name: str, value: Any, low: int) -> None:
    """Refuse what is not an integer of at least `low`.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      low: smallest allowed value.

    Raises:
      InputError: if it is not such an integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise InputError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_boolean(name: str, value: Any) -> None:
    """Refuse what is neither True nor False; the string "False" would count as true.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.

    Raises:
      InputError: if it is something else.
    """
    if not isinstance(value, bool):
        raise InputError(f"{name} must be True or False, got {value!r}")


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
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _range(low: float, high: float, above: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"between {low:g} and {high:g}"
    if math.isfinite(above):
        return f"above {above:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
    return f"of at least {low:g}" if math.isfinite(low) else ""
