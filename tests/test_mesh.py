"""Several devices: they learn what one would, with one exchange per update; the command line."""

import json
from pathlib import Path

import pytest

from tests.reliability.runs import finish, start

CASES = Path(__file__).parent / "mesh_cases.py"
OBJECTIVES = ("actor_critic", "sum", "normalized", "one_step_q", "one_step_sarsa", "n_step_q")


def devices(number):
    """Return the variables that divide the CPU; XLA needs a thread for each device."""
    flags = f"--xla_force_host_platform_device_count={number}"
    return {"XLA_FLAGS": flags, "PJRT_NPROC": "8", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}


def run_case(*words, number=8):
    code, output = finish(start(*words, script=CASES, env=devices(number)))
    assert code == 0 and output.strip().endswith("done"), output
    return output


def test_two_devices_equal_one():
    run_case("equals_one_device", "actor_critic", "2", number=2)


@pytest.mark.parametrize("core", ["", "lstm"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_on_2_4_and_8_devices_equals_one(name, core):
    run_case("equals_one_device", name, "2", "4", "8", core)


@pytest.mark.parametrize("name", ["actor_critic", "n_step_q"])
def test_running_statistics_are_those_of_all_devices(name):
    run_case("equals_one_device", name, "4", "statistics")


@pytest.mark.parametrize(
    ("words", "most"),
    [
        (("actor_critic", "2"), 1),
        (("one_step_sarsa", "2", "lstm"), 1),
        # Two for the moments of the advantages, four for each of the running statistics.
        (("normalized", "2"), 3),
        (("actor_critic", "2", "statistics"), 9),
    ],
)
def test_an_update_exchanges_one_array_once(words, most):
    output = run_case("collectives", *words, number=2)
    line = next(line for line in output.splitlines() if line.startswith("collectives"))
    kinds = [word.partition(":") for word in line.split()[1:]]
    assert {kind for kind, _, _ in kinds} == {"all-reduce"}, line
    assert sum(int(arrays) for _, _, arrays in kinds) <= most, line


@pytest.mark.parametrize("case", ["host_environments", "nonfinite_shard", "runner_of_a_mesh"])
def test_case(case):
    run_case(case, number=2)


def train(*words, number=2):
    return finish(start("train", *words, "--quiet", env=devices(number)))


def test_command_line_trains_on_all_devices_and_resumes_on_one(tmp_path):
    run_dir = tmp_path / "run"
    short = ("--total-timesteps", "2000", "--eval-episodes", "2", "--hidden", "8")
    code, output = train(
        "a2c", "gymnax:CartPole-v1", "--devices", "all", *short, "--run-dir", run_dir
    )
    assert code == 0, output
    assert json.loads((run_dir / "config.json").read_text())["settings"]["devices"] == 2

    # Another number of devices draws other random numbers: only with --force.
    more = ("--resume", run_dir, "--devices", "1", "--total-timesteps", "4000")
    code, output = train(*more)
    assert code == 2 and "devices" in output, output
    code, output = train(*more, "--force")
    assert code == 0 and "new random keys" in output, output
    assert json.loads((run_dir / "summary.json").read_text())["env_steps"] == 4000


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--devices", "3"), "devices must be at most 2"),
        (("--devices", "2", "--num-envs", "3"), "num_envs must be a multiple of"),
        (("--devices", "0"), "devices must be an integer"),
    ],
)
def test_wrong_numbers_of_devices_are_refused(words, message, tmp_path):
    run_dir = tmp_path / "run"
    code, output = train("a2c", "gymnax:CartPole-v1", *words, "--run-dir", run_dir)
    assert code == 2 and message in output and not run_dir.exists(), output


def test_a_mesh_must_be_one():
    from jax_a3c import a2c, envs, networks, optimizers
    from jax_a3c.errors import InputError

    env = envs.make("gymnax:CartPole-v1")
    with pytest.raises(InputError, match="mesh must be a"):
        a2c(env, networks.actor_critic(env), optimizers.shared_rmsprop(1e-3), mesh=2)
