"""Valid and invalid values of every setting."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jax_a3c.messages import plain

Rng = np.random.Generator


class Kind(NamedTuple):
    """Valid and invalid values of one setting.

    Attributes:
      right: function that draws a valid value, small enough for any machine.
      wrong: invalid values in Python.
      words: invalid values on the command line, one word each.
    """

    right: Callable[[Rng], Any]
    wrong: tuple[Any, ...]
    words: tuple[str, ...] = ()


class Broken:
    """An object whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


NOT_A_NUMBER = (
    *(
        "1",
        "",
        b"1",
        [1],
        (1,),
        {},
        {1},
        True,
        False,
        1j,
        math.nan,
        math.inf,
        -math.inf,
        10**400,
        -(10**400),
    ),
    *(
        np.array([1, 2]),
        np.array("1"),
        np.array(1j),
        np.float32("nan"),
        np.float64("-inf"),
        np.bool_(True),
    ),
    *(
        np.datetime64("2016-02-04"),
        Decimal("0.5"),
        Fraction(1, 2),
        ...,
        Broken(),
        "x" * 10**6,
        1e39,
        -1e300,
    ),
)
NO_NUMBER_WORDS = (
    "few",
    "",
    "1j",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "0x10",
    "1,5",
    "½",
    "[1]",
    "True",
    "\x00",
)


def integer(low: int, high: int, usual: int, *, optional: bool = False) -> Kind:
    """Integers from `low` to `high`; valid ones are drawn up to `usual`, from Python or NumPy."""

    def right(rng: Rng) -> Any:
        if optional and rng.random() < 0.2:
            return None
        value = int(rng.integers(low, usual, endpoint=True))
        return np.int64(value) if rng.random() < 0.2 else value

    outside = (low - 1, -1, -(10**30), high + 1, 10**30)
    words = (*NO_NUMBER_WORDS, "1.5", "1e-3", *map(str, outside), "9" * 5000)
    none = () if optional else (None,)
    return Kind(
        right, (*NOT_A_NUMBER, *none, *outside, 1.0, 1.5, np.float32(2), np.array(3)), words
    )


def number(low: float = -1e38, high: float = 1e38, *, optional: bool = False) -> Kind:
    """Numbers from `low` to `high`; a denormal `low` means "above 0"."""

    def right(rng: Rng) -> Any:
        if optional and rng.random() < 0.2:
            return None
        value = 10.0 ** rng.uniform(-6, 2)
        if low < 0.0 and rng.random() < 0.5:
            value = -value
        value = min(max(value, low, 1e-30 if low > 0 else low), high)
        return value if rng.random() < 0.8 else rng.choice([np.float64, np.float32])(value)

    outside = (*((-1e-9, -1.0) if low >= 0 else ()), *((0.0, 0, 1e-50, 5e-324) if low > 0 else ()))
    outside += (1.0 + 1e-6, 2) if high == 1 else ()
    none = () if optional else (None,)
    words = (*NO_NUMBER_WORDS, *map(str, outside), *(() if optional else ("None",)))
    return Kind(right, (*NOT_A_NUMBER, *none, *outside, 10**12), words)


def choice(*names: str) -> Kind:
    """One of several names."""
    wrong = (
        "",
        names[0].upper(),
        f"{names[-1]}x",
        names[0][:-1],
        f" {names[0]}",
        "None",
        "\n",
        "ü",
    )
    others = (None, 0, True, names[0].encode(), [names[0]], np.array(names), Broken(), "x" * 10**6)
    return Kind(lambda rng: str(rng.choice(names)), (*wrong, *others), wrong)


def several(kind: Kind, most: int) -> Kind:
    """Tuples of at most `most` values."""
    not_a_tuple = (8, None, "8", b"8", {8}, {8: 8}, 1.5, True, np.array([8]), ...)
    wrong = tuple((value,) for value in kind.wrong)
    return Kind(
        lambda rng: tuple(kind.right(rng) for _ in range(rng.integers(0, most, endpoint=True))),
        (*not_a_tuple, *wrong),
        kind.words,
    )


BOOLEAN = Kind(
    lambda rng: bool(rng.random() < 0.5),
    (0, 1, None, "True", "False", "", b"", [], (True,), np.bool_(True), 1.0, math.nan, Broken()),
)
UNIT, WEIGHT, POSITIVE = number(0.0, 1.0), number(0.0), number(1e-45)
FIELDS = {
    "total_timesteps": integer(1, 10**18, 10**12),
    "seed": integer(0, 2**31 - 1, 2**31 - 1),
    # Valid strings depend on the environment, see WRONG_OPTIONS.
    "env_options": Kind(
        lambda rng: (), (8, None, "a=1", b"a=1", {"a": 1}, (1,), (None,), (b"a=1",))
    ),
    "num_envs": integer(1, 2**31 - 1, 32),
    "num_steps": integer(1, 2**31 - 1, 32),
    "devices": integer(1, 2**31 - 1, 1),
    "num_workers": integer(1, 1024, 8),
    "stop_at_episode_end": BOOLEAN,
    "lock": BOOLEAN,
    "worker_timeout": number(1e-45, optional=True),
    "auto_reset": choice("pooled", "exact"),
    "learning_rate": WEIGHT,
    "lr_schedule": choice("linear", "constant"),
    "optimizer": choice("shared-rmsprop", "rmsprop", "momentum-sgd", "adam"),
    "rmsprop_decay": UNIT,
    "rmsprop_eps": POSITIVE,
    "momentum": UNIT,
    "max_grad_norm": number(1e-45, optional=True),
    "gamma": UNIT,
    "gae_lambda": UNIT,
    "ent_coef": WEIGHT,
    "normalize_advantages": BOOLEAN,
    "target_update_interval": integer(1, 10**9, 10**9),
    "epsilon_anneal_steps": integer(1, 10**18, 10**12),
    "final_epsilons": several(UNIT, 4),
    "final_epsilon_probabilities": several(UNIT, 4),
    "double_q": BOOLEAN,
    "huber_delta": number(1e-45, optional=True),
    "vf_coef": WEIGHT,
    "loss_reduction": choice("sum", "mean"),
    "reward_scale": number(),
    "reward_clip": number(1e-45, optional=True),
    "normalize_observations": BOOLEAN,
    "normalize_rewards": BOOLEAN,
    "network": choice("mlp", "minatar", "mnih2013", "nature"),
    "hidden": several(integer(1, 2**31 - 1, 32), 3),
    "lstm": BOOLEAN,
    "lstm_size": integer(1, 2**31 - 1, 16),
    "shared_trunk": BOOLEAN,
    "variance": choice("parameter", "scalar", "per_dimension"),
    "initial_stddev": POSITIVE,
    "dueling": BOOLEAN,
    "init": choice("orthogonal", "torch"),
    "eval_episodes": integer(0, 10**6, 10**6),
    "eval_max_steps": integer(1, 10**18, 10**12, optional=True),
    "eval_policy": choice("greedy", "sampled", "epsilon-greedy"),
}
"""Values by field of `Settings`."""


def text_of(value: Any) -> str | None:
    """Return the start of a value's text in a message; None if it has none."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    value = tuple(map(plain, value)) if isinstance(value, tuple) else plain(value)
    try:
        return repr(value).split("\n")[0][:40]
    except Exception:
        return None
