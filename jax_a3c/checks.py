"""The sentences with which a wrong setting is refused: its name, its value, and what is expected."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any


def check_number(
    name: str, value: Any, low: float = -math.inf, high: float = math.inf, *, above: float = -math.inf
) -> None:
    """Refuse what is not a finite real number in [low, high] and greater than `above`.

    Arrays pass: a hyper-parameter under `vmap` is traced and has no value to look at.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      low: smallest allowed value.
      high: largest allowed value.
      above: the value must exceed this one.

    Raises:
      ValueError: if it is not such a number.
    """
    if hasattr(value, "dtype"):
        return
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and low <= value <= high and value > above:
        return
    raise ValueError(f"{name} must be a number {_range(low, high, above)}, got {value!r}".replace("  ", " "))


def check_integer(name: str, value: Any, low: int) -> None:
    """Refuse what is not an integer of at least `low`.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      low: smallest allowed value.

    Raises:
      ValueError: if it is not such an integer.
    """
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is none of the named choices.

    Args:
      name: of the setting, as the user wrote it.
      value: what the user gave.
      choices: what is allowed.

    Raises:
      ValueError: if it is none of them; the message names the nearest one.
    """
    choices = tuple(choices)
    if value in choices:
        return
    near = difflib.get_close_matches(str(value), choices, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}{hint}")


def _range(low: float, high: float, above: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f"between {low:g} and {high:g}"
    if math.isfinite(above):
        return f"above {above:g}" + (f" and at most {high:g}" if math.isfinite(high) else "")
    return f"of at least {low:g}" if math.isfinite(low) else ""
