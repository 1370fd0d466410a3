"""Thousands of valid and invalid settings: invalid ones are refused at once and by name."""

import dataclasses
import time

import generated_settings as generated
import jax
import numpy as np
import pytest

from jax_a3c import A2CConfig, A3CConfig, cli, envs, networks, optimizers
from jax_a3c.errors import InputError
from jax_a3c.experiment.build import build
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.objectives import ActionValueConfig, ActorCriticConfig
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.parts import (
    AsynchronousConfig,
    AsyncQConfig,
    ObjectiveConfig,
    QConfig,
    RunnerConfig,
    SynchronousConfig,
)
from jax_a3c.settings.run import resolve

AT_ONCE, REPEATS = 0.1, 10
"""Maximum seconds of a refusal with the full counts, and how often a slow one is repeated.

A refusal that took more than half of the time is repeated, since the machine may be busy. The
shortest time counts.
"""
AT_ONCE_WHILE_BUSY = 2.0
"""Maximum CPU seconds of a refusal with the short counts: enough without a compilation."""
CONFIGS = (
    *(A2CConfig, A3CConfig, ActionValueConfig, ActorCriticConfig, ObjectiveConfig, RunnerConfig),
    *(SynchronousConfig, AsynchronousConfig, QConfig, AsyncQConfig),
)


@pytest.fixture
def clock(count):
    """Return the clock of refusals; short counts use CPU time, which ignores other processes."""
    return count(time.thread_time, time.perf_counter)


@pytest.fixture
def at_once(count):
    """Return the maximum seconds of a refusal."""
    return count(AT_ONCE_WHILE_BUSY, AT_ONCE)


def refused(ask, clock):
    """Return `(message, seconds)` with which `ask` refuses settings, None if it accepts them."""

    def once():
        start = clock()
        try:
            sentence = ask()
        except InputError as error:
            sentence = str(error)
        return sentence, clock() - start

    sentence, seconds = once()
    for _ in range(REPEATS):
        if seconds <= AT_ONCE / 2 or sentence is None:
            break
        seconds = min(seconds, once()[1])
    return None if sentence is None else (sentence, seconds)


def python(case):
    """Build a case; return None if that works."""
    build(case.method, case.env_id, resolve(case.method, case.env_id, **case.overrides))


def trace(case):
    """Trace a rollout and an update of a valid case, which must not fail."""
    method = case.method.removeprefix("async-").replace("a3c", "a2c")
    names = METHODS[method].fields
    given = {name: value for name, value in case.overrides.items() if name in names}
    algorithm = build(method, case.env_id, resolve(method, case.env_id, **given)).runner.algorithm
    jax.eval_shape(lambda key: algorithm.step(algorithm.init(key)), jax.random.key(0))


def command_line(case, capsys):
    """Run `jax-a3c train --dry-run`; return its message if it refuses the case."""
    code = cli.main([*generated.as_words(case), "--dry-run"])
    printed = capsys.readouterr()
    if code == 0:
        return None
    assert code == 2 and not printed.out, printed
    (line,) = printed.err.splitlines()
    return line.replace("-", "_")


def report(figure, name, cases, seconds, at_once):
    """Save the figures of a test, and check that the slowest refusal was fast enough."""
    slowest, usual = max(seconds), float(np.quantile(seconds, 0.99))
    figure(
        f"{cases:,} {name}, {len(seconds):,} of them wrong and every one refused by its name; "
        f"the slowest after {1e3 * slowest:.0f} ms, 99 % within {1e3 * usual:.0f} ms",
        cases=cases,
        wrong=len(seconds),
        refused=len(seconds),
        slowest_refusal_ms=round(1e3 * slowest, 1),
        refusal_ms_99_percent=round(1e3 * usual, 1),
    )
    assert slowest <= at_once


def test_every_setting_is_generated():
    names = {name for method in METHODS.values() for name in method.fields}
    assert set(generated.FIELDS) == names
    for config in CONFIGS:
        assert {field.name for field in dataclasses.fields(config)} <= names


def test_generated_settings_in_python(clock, at_once, count, figure, tmp_path):
    rng = np.random.default_rng(0)
    for warm_up in (
        generated.VECTOR,
        generated.IMAGE,
        generated.CATEGORIES,
        "envpool:x",
        "gymnasium:x",
    ):
        refused(
            lambda env_id=warm_up: python(
                generated.Case("one-step-sarsa", env_id, {"double_q": True})
            ),
            clock,
        )
    total, right, seconds = count(150, 6000), count(12, 600), []
    for number in range(total):
        case = generated.right_case(rng) if number < right else generated.wrong_case(rng)
        answer = refused(lambda case=case: python(case), clock)
        if case.field is None:
            assert answer is None, (case, answer)
            if number < count(3, 60):
                trace(case)
                settings = resolve(case.method, case.env_id, **case.overrides)
                run = RunDirectory.create(
                    tmp_path / str(number), case.method, case.env_id, settings
                )
                assert run.config() == (case.method, case.env_id, settings)
            continue
        assert answer is not None, f"taken: {case}"
        assert case.field in answer[0], (case, answer)
        assert case.value is None or case.value in answer[0], (case, answer)
        seconds.append(answer[1])
    report(figure, "settings in Python", total, seconds, at_once)


def test_generated_settings_of_the_parts(clock, at_once, count, figure):
    """Configs, network factories and optimizers refuse the same settings as a whole run."""
    rng = np.random.default_rng(1)
    spec = envs.make(generated.REAL).spec
    parts = [
        (config, {field.name: field.name for field in dataclasses.fields(config)})
        for config in CONFIGS
    ]
    names = {"torso": "network", "hidden": "hidden", "init": "init"}
    gaussian = {
        "shared": "shared_trunk",
        "variance": "variance",
        "initial_stddev": "initial_stddev",
    }
    q_spec = envs.make(generated.VECTOR).spec
    parts.append((lambda **given: networks.actor_critic(spec, **given), {**names, **gaussian}))
    parts.append(
        (lambda **given: networks.q_network(q_spec, **given), {**names, "dueling": "dueling"})
    )
    rmsprop = {"decay": "rmsprop_decay", "eps": "rmsprop_eps"}
    for optimizer in (optimizers.shared_rmsprop, optimizers.rmsprop):
        parts.append((lambda f=optimizer, **given: f(1e-3, **given), rmsprop))
    parts.append((lambda **given: optimizers.momentum_sgd(1e-3, **given), {"momentum": "momentum"}))
    parts.append(
        (lambda **given: optimizers.shared_rmsprop(**given), {"learning_rate": "learning_rate"})
    )
    needed = {"num_envs": 2, "num_steps": 2, "max_grad_norm": None}
    total, seconds = count(100, 2000), []
    for _ in range(total):
        part, fields = parts[rng.integers(len(parts))]
        argument = str(rng.choice(list(fields)))
        wrong = generated.FIELDS[fields[argument]].wrong
        given = {argument: wrong[rng.integers(len(wrong))]}
        given = {**needed, **given} if part is RunnerConfig else given
        answer = refused(lambda part=part, given=given: part(**given) and None, clock)
        assert answer is not None, f"taken: {part} {given}"
        assert argument in answer[0], (given, answer)
        value = generated.text_of(given[argument])
        assert value is None or value in answer[0], (given, answer)
        seconds.append(answer[1])
    report(figure, "arguments of the parts", total, seconds, at_once)


def test_generated_words_of_the_command_line(clock, at_once, count, figure, capsys):
    rng = np.random.default_rng(2)
    total, right, seconds = count(25, 2000), count(3, 100), []
    command_line(generated.Case("a2c", generated.IMAGE, {}), capsys)
    for number in range(total):
        case = generated.right_case(rng)
        if number >= right:
            case = generated.wrong_words(rng)
        answer = refused(lambda case=case: command_line(case, capsys), clock)
        if case.field is None:
            assert answer is None, (case, answer)
            continue
        assert answer is not None, f"taken: {generated.as_words(case)}"
        field = list(case.overrides)[-1] if case.field == "setting" else case.field
        assert field.replace("-", "_") in answer[0], (case, answer)
        seconds.append(answer[1])
    report(figure, "command lines", total, seconds, at_once)


def test_numbers_of_numpy_are_written_as_plain_ones(tmp_path):
    value = np.int32(3)
    settings = resolve(
        "a2c", generated.VECTOR, num_envs=value, learning_rate=np.float32(0.5), hidden=(value,)
    )
    run = RunDirectory.create(tmp_path / "run", "a2c", generated.VECTOR, settings)
    assert run.config()[2] == settings


def test_a_traced_hyper_parameter_is_taken():
    losses = jax.vmap(lambda gamma: ActorCriticConfig(gamma=gamma).gamma * 2.0)(
        np.array([0.1, 0.2])
    )
    np.testing.assert_allclose(losses, [0.2, 0.4], rtol=1e-6)
