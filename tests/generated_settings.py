"""Random settings, valid and invalid, each with what its error message must name."""

from typing import Any, NamedTuple

from generated_values import FIELDS, Broken, Rng, text_of

from jax_a3c.settings.methods import METHODS


class Case(NamedTuple):
    """Settings and what their error message must name.

    Attributes:
      method, env_id, overrides: arguments of `resolve` and `build`.
      field: name that the message must contain; None if the settings are valid.
      value: value that the message must contain; None if it need not contain one.
    """

    method: Any
    env_id: Any
    overrides: dict[str, Any]
    field: str | None = None
    value: str | None = None


VECTOR, IMAGE, REAL, CATEGORIES = (
    *(
        "gymnax:CartPole-v1",
        "gymnax:Breakout-MinAtar",
        "gymnax:Pendulum-v1",
        "gymnax:FrozenLake-misc",
    ),
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
    *(
        "gymnax::CartPole-v1",
        "gym:CartPole-v1",
        "gymnax:CartPole-v1 ",
        "gymnax:CartPole-v1\x00",
        "gymnax:\n",
    ),
    *(
        "gymnasium:no_such_module:X-v0",
        "gymnasium:json:X-v0",
        "gymnasium:..:X",
        "gymnasium:X",
        "envpool:Pog-v5",
    ),
    *(
        "envpool:",
        "gymnax:ü",
        "gymnax:" + "x" * 10**5,
        "gymnax:../CartPole-v1",
        "gymnax:CartPole-v1:x",
    ),
)
WRONG_OPTIONS = (
    *(
        "",
        "=",
        "a",
        "=1",
        "1=1",
        "a b=1",
        "max_steps_in_episode",
        "max_step_in_episode=5",
        "gravity=heavy",
    ),
    *(
        "max_steps_in_episode=0",
        "max_steps_in_episode=1.5",
        "max_steps_in_episode=true",
        "gravity=null",
    ),
    *(
        "max_steps_in_episode=99999999999",
        "gravity=NaN",
        "gravity=-Infinity",
        "gravity=[9.8]",
        "gravity={}",
    ),
    *(
        "gravity=" + "[" * 10**5,
        "gravity=" + "9" * 5000,
        "gravity=1e39",
        "gravity=",
        "ü=1",
        "ramping=true",
    ),
)


def applicable(method: str) -> list[str]:
    """Return the fields that the method uses."""
    return [name for name in FIELDS if name in METHODS[method].fields]


def right_case(rng: Rng) -> Case:
    """Draw valid settings for a method and an environment."""
    method = str(rng.choice(list(METHODS)))
    value_based = METHODS[method].value_based
    env_id = str(rng.choice([VECTOR, VECTOR, IMAGE, CATEGORIES, *(() if value_based else (REAL,))]))
    names = rng.choice(applicable(method), size=rng.integers(0, 12), replace=False)
    overrides = {str(name): FIELDS[str(name)].right(rng) for name in names}
    # Repair fields that depend on the method, the environment or another setting.
    if "eval_policy" in overrides:
        overrides["eval_policy"] = str(rng.choice(METHODS[method].settings.POLICIES))
    if "network" in overrides:
        overrides["network"] = str(rng.choice(["mlp", "minatar"] if env_id == IMAGE else ["mlp"]))
    if overrides.get("eval_max_steps") is not None:  # at least one step per game
        overrides["eval_max_steps"] += 2 * overrides.get("eval_episodes", 100)
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
    """Draw valid settings and make one thing invalid."""
    case = right_case(rng)
    return WAYS[rng.integers(len(WAYS))](rng, case)


def wrong_words(rng: Rng) -> Case:
    """Draw a wrong case that the command line can express."""
    case = right_case(rng)
    way = WAYS[rng.integers(len(WAYS))]
    return way(rng, case, True) if way in (wrong_value, unknown_name) else way(rng, case)


def wrong_value(rng: Rng, case: Case, words: bool = False) -> Case:
    """Set a field to a wrong type or out of range; with `words` to a word of the command line."""
    names = [name for name in FIELDS if FIELDS[name].words] if words else list(FIELDS)
    name = str(rng.choice(names))
    choices = FIELDS[name].words if words else FIELDS[name].wrong
    value = choices[rng.integers(len(choices))]
    return case._replace(
        overrides={**case.overrides, name: value}, field=name, value=text_of(value)
    )


def foreign_setting(rng: Rng, case: Case) -> Case:
    """Add a setting that belongs to another kind of method."""
    names = [name for name in FIELDS if name not in applicable(case.method)]
    name = str(rng.choice(names))
    value = FIELDS[name].right(rng)
    return case._replace(
        overrides={**case.overrides, name: value}, field=name, value=text_of(value)
    )


def unknown_name(rng: Rng, case: Case, words: bool = False) -> Case:
    """Misspell a setting, method or environment, or replace it by another type."""
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
    name = str(
        rng.choice([f"{name}s", name[:-1], name.upper(), name.replace("_", "") + "_", "method_"])
    )
    return case._replace(
        overrides={**case.overrides, name: 1}, field="setting", value=text_of(name)
    )


def wrong_option(rng: Rng, case: Case) -> Case:
    """Add an option that the environment does not have, or a value that it does not accept."""
    option = WRONG_OPTIONS[rng.integers(len(WRONG_OPTIONS))]
    options = (option,) if rng.random() < 0.7 else ("gravity=9", option)
    overrides = {**case.overrides, "env_options": options}
    # The message names the option, or env_options if the option has no name.
    name = option.partition("=")[0]
    return case._replace(
        env_id=VECTOR,
        overrides={**overrides, "network": "mlp"},
        field=name if name.isidentifier() and "=" in option else "env_options",
    )


def wrong_mixture(rng: Rng, case: Case) -> Case:
    """Set probabilities that do not sum to 1 or do not match the number of epsilons."""
    method = str(rng.choice([name for name in METHODS if METHODS[name].value_based]))
    pairs = [
        ((0.1,), (0.5,)),
        ((0.1, 0.2), (1.0,)),
        ((), ()),
        ((0.1,), (0.5, 0.5)),
        ((0.1, 0.1), (0.5, 0.6)),
    ]
    epsilons, probabilities = pairs[rng.integers(len(pairs))]
    mixture = {"final_epsilons": epsilons, "final_epsilon_probabilities": probabilities}
    field, value = "final_epsilon_probabilities", text_of(probabilities)
    return Case(method, VECTOR, mixture, field, value)


def wrong_space(rng: Rng, case: Case) -> Case:
    """Choose an environment whose spaces do not fit the method or the network."""
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
    """Set sizes that are valid one by one but together exceed the memory of any machine."""
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
    """Return the case as words of the command line."""
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
