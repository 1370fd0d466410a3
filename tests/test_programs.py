"""Equal programs are compiled once per process; different ones are distinguished."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import MatchingAction
from scripted import ScriptedFactory

from jax_a3c import A2CConfig, A3CConfig, a2c, a3c, networks, optimizers, programs
from jax_a3c.runners.loop import SynchronousRunner


@pytest.fixture(autouse=True)
def nothing_kept():
    programs.forget_programs()
    yield
    programs.forget_programs()


def test_equal_functions_share_a_program_and_others_do_not():
    def add(constant):
        return lambda x: x + constant

    x = jnp.arange(3.0)
    first, again = (programs.compile_program(add(1.0), x) for _ in range(2))
    assert first is again
    others = [
        programs.compile_program(add(2.0), x),
        programs.compile_program(add(np.arange(3.0, dtype=np.float32)), x),
        programs.compile_program(add(1.0), x[:2]),
        programs.compile_program(add(1.0), x, donate_argnums=(0,)),
        programs.compile_program(lambda x: {"named": x + 1.0}, x),
    ]
    assert len({id(program) for program in [first, *others]}) == 6
    np.testing.assert_array_equal(others[0](x), [2, 3, 4])
    np.testing.assert_array_equal(others[1](x), [0, 2, 4])
    np.testing.assert_array_equal(first(x), [1, 2, 3])


def test_arguments_that_are_not_used_tell_programs_apart_too():
    """Their shapes are not in the program's text, but a program accepts no other shapes."""
    x = jnp.arange(3.0)
    for unused in (jnp.zeros(2), jnp.zeros(5), jnp.zeros(5, jnp.int32), {"a": jnp.zeros(5)}):
        program = programs.compile_program(lambda x, unused: x + 1.0, x, unused)
        np.testing.assert_array_equal(program(x, unused), [1, 2, 3])
        np.testing.assert_array_equal(
            programs.shared_jit(lambda x, unused: x + 1.0)(x, unused), [1, 2, 3]
        )


def test_a_program_that_calls_back_is_never_shared():
    heard = []

    def telling(name):
        return lambda x: (jax.debug.callback(lambda: heard.append(name)), x + 1)[1]

    for name in ("first", "second"):
        programs.compile_program(telling(name), jnp.zeros(()))(jnp.zeros(()))
    jax.effects_barrier()
    assert heard == ["first", "second"]


def test_only_the_latest_programs_are_kept():
    for size in range(1, programs.KEPT + 4):
        programs.compile_program(lambda x: x + 1, np.zeros(size, np.float32))
    assert len(programs._programs) == programs.KEPT


def compiled_in(run):
    """Return how many programs XLA compiled while `run` ran."""
    compiled = []

    def listen(event, duration, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            compiled.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        run()
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    return len(compiled)


def new_a2c(env, seed):
    network = networks.actor_critic(env, hidden=(8,))
    config = A2CConfig(num_envs=2)
    runner = a2c(env, network, optimizers.shared_rmsprop(1e-3), config)
    runner = SynchronousRunner(runner, config)
    state = runner.init(seed)
    return runner, state


@pytest.mark.parametrize("env", [MatchingAction(), ScriptedFactory()], ids=["jax", "host"])
def test_a_second_run_of_a2c_compiles_no_loop(env):
    runner, state = new_a2c(env, 0)
    first = compiled_in(lambda: runner.run(state, until=100))
    runner, state = new_a2c(env, 1)
    assert first > 0 == compiled_in(lambda: runner.run(state, until=100))


def test_a_second_run_of_a3c_compiles_no_segment():
    def run(seed):
        env = MatchingAction()
        config = A3CConfig(num_workers=1, total_timesteps=100)
        runner = a3c(
            lambda: env,
            networks.actor_critic(env, hidden=(8,)),
            optimizers.shared_rmsprop(1e-3),
            config,
        )
        state = runner.init(seed)
        return compiled_in(lambda: runner.run(state))

    assert run(0) > 0 == run(1)


def test_host_environments_compile_before_the_clock_starts():
    """Compilation counts in `compile_seconds`; the first report contains only training."""
    runner, state = new_a2c(ScriptedFactory(), 0)
    within = []
    step = runner.algorithm.step

    def counted(state):
        stepped = []
        within.append(compiled_in(lambda: stepped.append(step(state))))
        return stepped[0]

    runner.algorithm = runner.algorithm._replace(step=counted)
    result = runner.run(state, until=100)
    assert sum(within) == 0 and len(within) == result.progress.updates >= 10
    assert result.compile_seconds > 0
