"""Settings drawn at random, right and wrong ones, each with what must be said of it."""

import math
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from jax_a3c.methods import METHODS
from jax_a3c.training.settings import FOREIGN, POLICIES, Settings, kind_of

Rng = np.random.Generator


class Case(NamedTuple):
    """Settings, and what must be said of them.

    Attributes:
      method, env_id, overrides: what `resolve` and `build` are given.
      field: what a refusal must name; None if the settings are right.
      value: what it must name too; None if nothing.
    """

    method: Any
    env_id: Any
    overrides: dict[str, Any]
    field: str | None = None
    value: str | None = None


class Kind(NamedTuple):
    """Values of a setting: right ones of any size that a machine can take, and wrong ones.

    Attributes:
      right: draws a value that is accepted.
      wrong: values that Python may be given.
      words: what the command line may be given instead; each is one word.
    """

    right: Callable[[Rng], Any]
    wrong: tuple[Any, ...]
    words: tuple[str, ...] = ()


class Broken:
    """Something that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no text")


NOT_A_NUMBER = (
    *("1", "", b"1", [1], (1,), {}, {1}, True, False, 1j, math.nan, math.inf, -math.inf, 10**400, -(10**400)),
    *(np.array([1, 2]), np.array("1"), np.array(1j), np.float32("nan"), np.float64("-inf"), np.bool_(True)),
    *(
        np.datetime64("2016-02-04"),
        Decimal("0.5"),
        Fraction(1, 2),
        object,
        Broken(),
        "x" * 10**6,
        1e39,
        -1e300,
    ),
)
NO_NUMBER_WORDS = ("few", "", "1j", "nan", "inf", "-inf", "1e400", "0x10", "1,5", "½", "[1]", "True", "\x00")


def integer(low: int, high: int, usual: int) -> Kind:
    """Of `low` to `high`; right ones are drawn up to `usual`, as Python's or NumPy's."""

    def right(rng: Rng) -> Any:
        value = int(rng.integers(low, usual, endpoint=True))
        return np.int64(value) if rng.random() < 0.2 else value

    outside = (low - 1, -1, -(10**30), high + 1, 10**30)
    words = (*NO_NUMBER_WORDS, "1.5", "1e-3", *map(str, outside), "9" * 5000)
    return Kind(right, (*NOT_A_NUMBER, None, *outside, 1.0, 1.5, np.float32(2), np.array(3)), words)


def number(low: float = -1e38, high: float = 1e38, *, optional: bool = False) -> Kind:
    """From `low` to `high`, of which a denormal `low` stands for "above 0"."""

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
    """One of some names."""
    wrong = ("", names[0].upper(), f"{names[-1]}x", names[0][:-1], f" {names[0]}", "None", "\n", "ü")
    others = (None, 0, True, names[0].encode(), [names[0]], np.array(names), Broken(), "x" * 10**6)
    return Kind(lambda rng: str(rng.choice(names)), (*wrong, *others), wrong)


def several(kind: Kind, most: int) -> Kind:
    """A tuple of up to `most`."""
    not_a_tuple = (8, None, "8", b"8", {8}, {8: 8}, 1.5, True, np.array([8]), object)
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
    "total_timesteps": integer(1, 10**15, 10**12),
    "seed": integer(0, 2**31 - 1, 2**31 - 1),
    # What its strings may be depends on the environment: WRONG_OPTIONS.
    "env_options": Kind(lambda rng: (), (8, None, "a=1", b"a=1", {"a": 1}, (1,), (None,), (b"a=1",))),
    "num_envs": integer(1, 2**31 - 1, 32),
    "num_steps": integer(1, 2**31 - 1, 32),
    "num_workers": integer(1, 1024, 8),
    "stop_at_episode_end": BOOLEAN,
    "lock": BOOLEAN,
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
    "epsilon_anneal_steps": integer(1, 10**15, 10**12),
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
    "eval_episodes": integer(1, 10**6, 10**6),
    "eval_policy": choice("greedy", "sampled", "epsilon-greedy"),
}
"""By the name of the field of `Settings`."""

VECTOR, IMAGE, REAL, CATEGORIES = (
    *("gymnax:CartPole-v1", "gymnax:Breakout-MinAtar", "gymnax:Pendulum-v1", "gymnax:FrozenLake-misc"),
)
WRONG_ENVS = (
    *(
        "",
        ":",
        "gymnax",
        "gymnax:",
        ":CartPole-v1",
        "CartPole-v1",
        "gymnax:CartPole-v2",
        "gymnax:cartpole-v1",
    ),
    *("gymnax::CartPole-v1", "gym:CartPole-v1", "gymnax:CartPole-v1 ", "gymnax:CartPole-v1\x00", "gymnax:\n"),
    *(
        "gymnasium:no_such_module:X-v0",
        "gymnasium:json:X-v0",
        "gymnasium:..:X",
        "gymnasium:X",
        "envpool:Pog-v5",
    ),
    *("envpool:", "gymnax:ü", "gymnax:" + "x" * 10**5, "gymnax:../CartPole-v1", "gymnax:CartPole-v1:x"),
)
WRONG_OPTIONS = (
    *("", "=", "a", "=1", "1=1", "a b=1", "max_steps_in_episode", "max_step_in_episode=5", "gravity=heavy"),
    *("max_steps_in_episode=0", "max_steps_in_episode=1.5", "max_steps_in_episode=true", "gravity=null"),
    *("max_steps_in_episode=99999999999", "gravity=NaN", "gravity=-Infinity", "gravity=[9.8]", "gravity={}"),
    *("gravity=" + "[" * 10**5, "gravity=" + "9" * 5000, "gravity=1e39", "gravity=", "ü=1", "ramping=true"),
)


def applicable(method: str) -> list[str]:
    """The fields that the method has a use for."""
    foreign = [
        name for kind in (METHODS[method].runner, kind_of(method)) for name in FOREIGN.get(kind, ("", ()))[1]
    ]
    return [name for name in FIELDS if name not in foreign]


def right_case(rng: Rng) -> Case:
    """Settings that a method and an environment can take."""
    method = str(rng.choice(list(METHODS)))
    value_based = METHODS[method].value_based
    env_id = str(rng.choice([VECTOR, VECTOR, IMAGE, CATEGORIES, *(() if value_based else (REAL,))]))
    names = rng.choice(applicable(method), size=rng.integers(0, 12), replace=False)
    overrides = {str(name): FIELDS[str(name)].right(rng) for name in names}
    # What depends on the method, the environment or another setting.
    if "eval_policy" in overrides:
        overrides["eval_policy"] = str(rng.choice(POLICIES[kind_of(method)]))
    if "network" in overrides:
        overrides["network"] = str(rng.choice(["mlp", "minatar"] if env_id == IMAGE else ["mlp"]))
    if env_id == CATEGORIES:
        overrides.pop("normalize_observations", None)
    if METHODS[method].objective == "one_step_sarsa":
        overrides.pop("double_q", None)
    for name in ("final_epsilons", "final_epsilon_probabilities"):
        overrides.pop(name, None)
    if value_based and rng.random() < 0.3:
        count = int(rng.integers(1, 5))
        overrides["final_epsilons"] = tuple(rng.random(count))
        overrides["final_epsilon_probabilities"] = tuple(rng.dirichlet([1.0] * count))
    if env_id == VECTOR and rng.random() < 0.2:
        overrides["env_options"] = ("max_steps_in_episode=7", "gravity=9")
    return Case(method, env_id, overrides)


def wrong_case(rng: Rng) -> Case:
    """Right settings of which one thing was made wrong."""
    case = right_case(rng)
    return WAYS[rng.integers(len(WAYS))](rng, case)


def wrong_words(rng: Rng) -> Case:
    """The same, as far as the command line can say it."""
    case = right_case(rng)
    way = WAYS[rng.integers(len(WAYS))]
    return way(rng, case, True) if way in (wrong_value, unknown_name) else way(rng, case)


def wrong_value(rng: Rng, case: Case, words: bool = False) -> Case:
    """A field of a wrong type or out of range; with `words` as the command line may be given it."""
    names = [name for name in FIELDS if FIELDS[name].words] if words else list(FIELDS)
    name = str(rng.choice(names))
    choices = FIELDS[name].words if words else FIELDS[name].wrong
    value = choices[rng.integers(len(choices))]
    return case._replace(overrides={**case.overrides, name: value}, field=name, value=text_of(value))


def foreign_setting(rng: Rng, case: Case) -> Case:
    """A setting of another kind of method."""
    names = [name for name in FIELDS if name not in applicable(case.method)]
    name = str(rng.choice(names))
    default = getattr(Settings, name)
    value = next(v for _ in iter(int, 1) if (v := FIELDS[name].right(rng)) != default)
    return case._replace(overrides={**case.overrides, name: value}, field=name, value=text_of(value))


def unknown_name(rng: Rng, case: Case, words: bool = False) -> Case:
    """A misspelt setting, method or environment, or one that is no string."""
    if rng.random() < 0.3:
        env_id = WRONG_ENVS[rng.integers(len(WRONG_ENVS))]
        if rng.random() < 0.2 and not words:
            env_id = (None, 5, [VECTOR], b"gymnax:x", Broken())[rng.integers(5)]
        return case._replace(env_id=env_id, field="", value=text_of(env_id))
    if rng.random() < 0.4:
        methods = ("", "a2d", "A2C", "a2c ", "q", "x" * 10**5, None, 3, ["a2c"], Broken())
        method = methods[rng.integers(6 if words else len(methods))]
        return case._replace(method=method, field="method", value=text_of(method))
    name = str(rng.choice(list(FIELDS)))
    name = str(rng.choice([f"{name}s", name[:-1], name.upper(), name.replace("_", "") + "_", "method_"]))
    return case._replace(overrides={**case.overrides, name: 1}, field="setting", value=text_of(name))


def wrong_option(rng: Rng, case: Case) -> Case:
    """An option that the environment does not take, or takes otherwise."""
    option = WRONG_OPTIONS[rng.integers(len(WRONG_OPTIONS))]
    options = (option,) if rng.random() < 0.7 else ("gravity=9", option)
    overrides = {**case.overrides, "env_options": options}
    # The name of the option, or the whole word where it has none.
    name = option.partition("=")[0]
    return case._replace(
        env_id=VECTOR,
        overrides={**overrides, "network": "mlp"},
        field=name if name.isidentifier() and "=" in option else "env_options",
    )


def wrong_mixture(rng: Rng, case: Case) -> Case:
    """Probabilities that do not sum to 1, or are not one for each epsilon."""
    method = str(rng.choice([name for name in METHODS if METHODS[name].value_based]))
    pairs = [((0.1,), (0.5,)), ((0.1, 0.2), (1.0,)), ((), ()), ((0.1,), (0.5, 0.5)), ((0.1, 0.1), (0.5, 0.6))]
    epsilons, probabilities = pairs[rng.integers(len(pairs))]
    mixture = {"final_epsilons": epsilons, "final_epsilon_probabilities": probabilities}
    field, value = "final_epsilon_probabilities", text_of(probabilities)
    return Case(method, VECTOR, mixture, field, value)


def wrong_space(rng: Rng, case: Case) -> Case:
    """An environment whose spaces the method or the network cannot take."""
    q, actor_critic = (
        str(rng.choice([name for name in METHODS if METHODS[name].value_based is value_based]))
        for value_based in (True, False)
    )
    either = str(rng.choice([q, actor_critic]))
    images = str(rng.choice(["nature", "mnih2013", "minatar"]))
    cases = (
        Case(q, REAL, {}, "discrete actions", "Box"),
        Case(either, str(rng.choice([VECTOR, CATEGORIES])), {"network": images}, "network", images),
        Case(either, IMAGE, {"network": "nature"}, "network", "(10, 10, 4)"),
        Case(either, CATEGORIES, {"normalize_observations": True}, "normalize_observations"),
        Case("one-step-sarsa", VECTOR, {"double_q": True}, "double_q"),
    )
    return cases[rng.integers(len(cases))]


def too_large(rng: Rng, case: Case) -> Case:
    """Sizes that are right one by one, and together more than any machine has."""
    sizes = (
        ("num_envs", {"num_envs": 2**20, "num_steps": 2**20}),
        ("num_envs", {"num_envs": 2**30, "num_steps": 1}),
        ("num_steps", {"num_envs": 1, "num_steps": 2**31 - 1}),
        ("hidden", {"hidden": (2**31 - 1, 2**31 - 1), "network": "mlp"}),
        ("hidden", {"hidden": (10**6,) * 3, "network": "mlp"}),
        ("lstm_size", {"lstm": True, "lstm_size": 2**31 - 1}),
        ("lstm_size", {"lstm": True, "lstm_size": 10**6}),
    )
    field, overrides = sizes[rng.integers(len(sizes))]
    overrides = {**case.overrides, "env_options": (), **overrides}
    return case._replace(env_id=IMAGE, overrides=overrides, field=field)


WAYS = (
    *(wrong_value, wrong_value, wrong_value, wrong_value, foreign_setting),
    *(unknown_name, wrong_option, wrong_mixture, wrong_space, too_large),
)


def as_words(case: Case) -> list[str]:
    """The case as words of the command line."""
    words = ["train", str(case.method), str(case.env_id)]
    for name, value in case.overrides.items():
        flag = name.replace("_", "-")
        if value is True or value is False:
            words.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, tuple):
            words += [f"--{flag}", *map(str, value)]
        else:
            words.append(f"--{flag}={value}")
    return words


def text_of(value: Any) -> str | None:
    """How a message begins to show a value; None for what cannot be shown."""
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]
    try:
        return repr(value).split("\n")[0][:40]
    except Exception:
        return None
