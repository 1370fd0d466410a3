"""A supervised run resumes after a native crash, but not after an error or a signal."""

import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
from reliability.runs import await_checkpoint, finish, start

from jax_a3c.experiment.run_directory import RunDirectory

pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
CRASHING = "gymnasium:tests.breaking:Crashing-v0"
FLAGS = [
    "--num-envs",
    "2",
    "--eval-episodes",
    "2",
    "--checkpoint-interval",
    "0.1",
    "--quiet",
    "--supervise",
]


@pytest.fixture
def env(tmp_path):
    """Return environment variables, including the folder that counts lives."""
    (tmp_path / "lives").mkdir()
    return {"CRASH_DIR": str(tmp_path / "lives"), "CRASHES": "0"}


def crashing(number, folder, env):
    """Run a supervised run that crashes several times; return how often."""
    crashes, method, total = 1 + number % 3, ("a2c", "a3c")[number % 2], 15_000
    path, lives = folder / f"run-{number}", folder / f"lives-{number}"
    lives.mkdir()
    env = {**env, "CRASH_DIR": str(lives), "CRASHES": str(crashes), "CRASH_SEED": str(number)}
    words = ["train", method, CRASHING, *FLAGS, "--total-timesteps", total, "--run-dir", path]
    code, output = finish(start(*words, *(["--num-workers", "2"] * (method == "a3c")), env=env))
    assert code == 0, output
    assert output.count("the run died of SIG") == len(list(lives.iterdir())) - 1 == crashes, output
    run = RunDirectory(path)
    summary = run.summary()
    assert summary["status"] == "completed" and total <= summary["env_steps"] < total + 100
    assert summary["resumed"] == crashes
    assert run.checkpoints.load("last").facts["progress"]["env_steps"] == summary["env_steps"]
    assert run.metrics()[-1]["env_steps"] == summary["env_steps"]
    return crashes


def test_crashes(tmp_path, env, count, figure):
    runs = count(1, 10)
    with ThreadPoolExecutor(2) as pool:
        crashes = sum(pool.map(crashing, range(runs), [tmp_path] * runs, [env] * runs))
    figure(
        f"{runs} of {runs} runs resumed and completed; native code killed their processes "
        f"{crashes} times",
        runs=runs,
        crashes=crashes,
    )


def test_a_run_that_always_crashes_is_given_up(tmp_path, env):
    env |= {"CRASHES": "1000", "CRASH_AT_ONCE": "1"}
    words = [
        "train",
        "a2c",
        CRASHING,
        *FLAGS,
        "--total-timesteps",
        "20000",
        "--run-dir",
        tmp_path / "run",
    ]
    code, output = finish(start(*words, env=env))
    assert code == 1
    assert "died 3 times without a newer checkpoint" in output.splitlines()[-1]
    assert len(list((tmp_path / "lives").iterdir())) == 3


@pytest.mark.parametrize(
    ("env_id", "more", "code", "message"),
    [
        (CRASHING, ["--learning-rate", "-1"], 2, "learning_rate must be"),
        ("gymnasium:tests.breaking:Breaking-v0", [], 1, "the wheel came off"),
    ],
)
def test_a_failure_for_a_reason_is_not_repeated(env_id, more, code, message, tmp_path, env):
    words = ["train", "a2c", env_id, *FLAGS, *more, "--total-timesteps", "20000"]
    found, output = finish(start(*words, "--run-dir", tmp_path / "run", env=env))
    assert found == code and output.count(message) == 1 and "resumes from" not in output
    assert "Traceback" not in output


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both(number, tmp_path, env):
    words = [
        "train",
        "a2c",
        CRASHING,
        *FLAGS,
        "--total-timesteps",
        "1e14",
        "--run-dir",
        tmp_path / "run",
    ]
    process = start(*words, env=env)
    await_checkpoint(process, tmp_path / "run", after=1)
    process.send_signal(number)
    code, output = finish(process)
    assert code == 130 and "resumes from" not in output and "Traceback" not in output
    run = RunDirectory(tmp_path / "run")
    assert run.summary()["status"] == "interrupted"
    assert run.checkpoints.load("last").facts["progress"]["env_steps"] == run.summary()["env_steps"]
