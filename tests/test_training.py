"""Settings, run directory, metrics, evaluation, plots and the command line."""

import json
import os
import signal
import subprocess
import sys
import threading

import jax
import numpy as np
import pytest
from probes import EndlessReward, RightAction, TerminalReward

from jax_a3c import cli, networks, objectives, optimizers
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import evaluator
from jax_a3c.evaluation.score import evaluate_run
from jax_a3c.experiment.build import build
from jax_a3c.experiment.checkpoints import import_params
from jax_a3c.experiment.run_directory import RunDirectory, environment
from jax_a3c.runners.asynchronous import AsynchronousRunner
from jax_a3c.runners.base import Progress
from jax_a3c.runners.loop import SynchronousRunner
from jax_a3c.settings.methods import METHODS, A2CSettings
from jax_a3c.settings.presets import ATARI, PRESETS, preset_of
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training.metrics import interval_metrics
from jax_a3c.training.train import train

CARTPOLE = "gymnax:CartPole-v1"
WITH_PRESETS = [
    (method, "envpool:Pong-v5" if env_id == ATARI else env_id) for method, env_id in PRESETS
]
SUMMARY = {
    "method",
    "env",
    "seed",
    "env_steps",
    "updates",
    "seconds",
    "compile_seconds",
    "env_steps_per_second",
    "eval_return_mean",
    "eval_return_std",
    "eval_episodes",
    "eval_episodes_cut",
    "status",
}


@pytest.fixture(scope="module", params=["a2c", "a3c", "one-step-sarsa", "async-n-step-q"])
def run(request, tmp_path_factory):
    """Train a short run of each method from the command line."""
    path = tmp_path_factory.mktemp("runs") / request.param
    flags = [
        "--total-timesteps",
        "2e4",
        "--eval-episodes",
        "5",
        "--run-dir",
        str(path),
        "--quiet",
        "--hidden",
        "8",
    ]
    assert cli.main(["train", request.param, CARTPOLE, *flags, "--tensorboard"]) == 0
    return RunDirectory(path)


def test_the_run_directory_is_complete(run):
    files = {path.name for path in run.path.iterdir()}
    assert {
        "config.json",
        "env.json",
        "metrics.jsonl",
        "checkpoints",
        "learning_curve.png",
        "summary.json",
    } <= files
    assert not [name for name in files if name.endswith(".partial")]
    assert (run.path / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert any(name.startswith("events.out.tfevents") for name in files)
    described = json.loads((run.path / "env.json").read_text())
    assert {"python", "packages", "devices", "cpu", "git_commit"} <= set(described)


def test_the_summary_has_what_other_programs_rely_on(run):
    summary = run.summary()
    assert set(summary) >= SUMMARY
    assert summary["status"] == "completed" and summary["eval_episodes"] == 5
    assert summary["eval_episodes_cut"] == 0 and summary["env_steps"] >= 20_000
    assert summary["eval_return_mean"] == summary["eval_greedy_return_mean"]
    assert summary["eval_greedy_episode_length_mean"] == summary["eval_greedy_return_mean"], (
        "CartPole pays 1 a step"
    )
    rows = run.metrics()
    assert (
        rows[-1]["env_steps"] == summary["env_steps"] and rows[-1]["updates"] == summary["updates"]
    )
    assert sum(row["interval_updates"] for row in rows) == summary["updates"]
    assert all(row["episode_return"] is None or row["episode_return"] > 5 for row in rows)


def test_settings_are_written_as_they_were_resolved(run):
    method, env_id, settings = run.config()
    assert settings == resolve(method, env_id, total_timesteps=20_000, eval_episodes=5, hidden=(8,))


def test_parameters_are_exported_and_imported(run, tmp_path, capsys):
    method, env_id, settings = run.config()
    like = build(method, env_id, settings).params_like()
    path = tmp_path / "params.safetensors"
    assert cli.main(["export", str(run.path), "--output", str(path), "--checkpoint", "best"]) == 0
    jax.tree.map(np.testing.assert_array_equal, import_params(path, like), run.load_params(like))
    wider = build(method, env_id, resolve(method, env_id, hidden=(9,))).params_like()
    with pytest.raises(InputError, match="is of another network or run: params/"):
        import_params(path, wider)
    flags = [
        "--hidden",
        "8",
        "--learning-rate",
        "0",
        "--total-timesteps",
        "3000",
        "--quiet",
        "--run-dir",
    ]
    flags += [str(tmp_path / "run"), "--initial-params", str(path), "--eval-episodes", "1"]
    assert cli.main(["train", method, env_id, *flags]) == 0  # without training
    copy = RunDirectory(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, copy.load_params(like), run.load_params(like))
    assert (
        cli.main(["train", method, env_id, *flags[:-2], "--initial-params", "none.safetensors"])
        == 2
    )
    assert "none.safetensors is missing" in capsys.readouterr().err


def test_eval_and_plot_commands(run, tmp_path, capsys):
    assert cli.main(["eval", str(run.path), "--episodes", "3"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["eval_episodes"] == 3 and results["eval_greedy_return_mean"] > 5
    assert (
        cli.main(["plot", str(run.path), str(run.path), "--output", str(tmp_path / "both.png")])
        == 0
    )
    assert (tmp_path / "both.png").stat().st_size > 10_000
    assert "completed" in capsys.readouterr().out


@pytest.fixture(scope="module")
def unevaluated(tmp_path_factory):
    """Train a short run without an evaluation."""
    path = tmp_path_factory.mktemp("runs") / "unevaluated"
    flags = ["--total-timesteps", "2e4", "--eval-episodes", "0", "--quiet", "--hidden", "8"]
    assert cli.main(["train", "a2c", CARTPOLE, "--run-dir", str(path), *flags]) == 0
    return RunDirectory(path)


def test_a_run_without_an_evaluation_is_complete(unevaluated, tmp_path, capsys):
    summary = unevaluated.summary()
    assert summary["status"] == "completed" and summary["env_steps"] >= 20_000
    assert {name: summary[name] for name in SUMMARY if name.startswith("eval_")} == dict.fromkeys(
        ("eval_return_mean", "eval_return_std", "eval_episodes", "eval_episodes_cut")
    )
    assert set(summary) >= SUMMARY and unevaluated.evaluations() == []

    assert cli.main(["plot", str(unevaluated.path), "--output", str(tmp_path / "one.png")]) == 0
    header, _, row = capsys.readouterr().out.splitlines()[1:]
    assert "completed" in row and not {"return", "evaluated"} & set(header.split())
    assert cli.main(["export", str(unevaluated.path), "--checkpoint", "best"]) == 2
    assert "best" in capsys.readouterr().err


def test_an_evaluation_needs_an_episode(unevaluated, tmp_path, capsys):
    assert cli.main(["eval", str(unevaluated.path), "--episodes", "0"]) == 2
    assert "episodes must be an integer of at least 1, got 0" in capsys.readouterr().err
    assert cli.main(["eval", str(unevaluated.path), "--episodes", "2", "--max-steps", "3"]) == 2
    assert "eval_max_steps must be at least 4" in capsys.readouterr().err

    for more in ([], ["--dry-run"]):
        words = [
            "--eval-episodes",
            "0",
            "--eval-interval",
            "1000",
            "--run-dir",
            str(tmp_path / "run"),
            *more,
        ]
        assert cli.main(["train", "a2c", CARTPOLE, *words]) == 2
        assert (
            "eval_interval=1000 needs eval_episodes of at least 1, got 0" in capsys.readouterr().err
        )
    assert not (tmp_path / "run").exists()


def test_games_that_the_evaluation_cut_are_counted_in_every_output(unevaluated, tmp_path, capsys):
    assert cli.main(["eval", str(unevaluated.path), "--episodes", "5", "--max-steps", "70"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert results["eval_episodes_cut"] == results["eval_greedy_episodes_cut"] == 5  # 7 steps each
    assert results["eval_sampled_episodes_cut"] == 5 and results["eval_return_mean"] == 7.0

    words = [
        "--total-timesteps",
        "200",
        "--eval-episodes",
        "3",
        "--eval-max-steps",
        "30",
        "--hidden",
        "4",
    ]
    assert (
        cli.main(["train", "a2c", CARTPOLE, *words, "--quiet", "--run-dir", str(tmp_path / "run")])
        == 0
    )
    assert "3 episodes (3 cut), greedy" in capsys.readouterr().out
    assert RunDirectory(tmp_path / "run").summary()["eval_episodes_cut"] == 3


def test_a_run_is_never_written_over(run, capsys):
    before = run.summary()
    flags = ["--run-dir", str(run.path), "--total-timesteps", "100"]
    assert cli.main(["train", "a2c", CARTPOLE, *flags]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert run.summary() == before


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_a_signal_ends_a_run_with_its_results(method, tmp_path):
    settings = resolve(method, CARTPOLE, total_timesteps=10**8)
    path = tmp_path / "run"

    def interrupt():
        while not (path / "metrics.jsonl").exists() and not finished.wait(0.05):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(
            os.getpid(), signal.SIGTERM
        )  # like `timeout`, which signals the process and its group

    finished = threading.Event()
    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    summary = train(method, CARTPOLE, settings, path, options=RunOptions(quiet=True))
    finished.set()
    thread.join()
    assert summary["status"] == "interrupted" and summary["env_steps"] > 0
    assert json.loads((path / "summary.json").read_text())["status"] == "interrupted"
    assert RunDirectory(path).load_params(build(method, CARTPOLE, settings).params_like())
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("method", ["a2c", "a3c", "one-step-q", "async-one-step-sarsa"])
def test_a_run_that_diverges_is_given_up_and_said_so(method, tmp_path, capsys):
    path = tmp_path / "run"
    flags = [
        "--reward-scale",
        "1e38",
        "--run-dir",
        str(path),
        "--quiet",
        "--total-timesteps",
        "5e4",
    ]
    assert cli.main(["train", method, CARTPOLE, *flags]) == 1
    assert "no gradient was finite" in capsys.readouterr().err
    run = RunDirectory(path)
    params = run.load_params(build(*run.config()).params_like())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(params))
    summary = run.summary()
    assert (
        set(summary) >= SUMMARY
        and summary["status"] == "failed"
        and summary["nonfinite_gradients"] >= 100
    )
    assert all(row["loss"] is not None for row in run.metrics())


def test_a_workers_failure_leaves_what_was_learned(tmp_path, monkeypatch):
    def broken(*_):
        raise ValueError("the environment broke")

    monkeypatch.setattr("jax_a3c.runners.shared_parameters.SharedParameters._change", broken)
    with pytest.raises(ValueError, match="the environment broke"):
        cli.main(["train", "a3c", CARTPOLE, "--run-dir", str(tmp_path / "run"), "--quiet"])
    run = RunDirectory(tmp_path / "run")
    assert run.summary()["status"] == "failed" and "the environment broke" in run.summary()["error"]
    assert run.load_params(build(*run.config()).params_like())


def test_a_failure_is_recorded_and_raised(tmp_path, monkeypatch):
    monkeypatch.setattr("jax_a3c.training.session.evaluate", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train(
            "a2c",
            CARTPOLE,
            resolve("a2c", CARTPOLE, total_timesteps=1000),
            tmp_path / "run",
            options=RunOptions(quiet=True),
        )
    summary = RunDirectory(tmp_path / "run").summary()
    assert summary["status"] == "failed" and "ZeroDivisionError" in summary["error"]
    assert summary["env_steps"] >= 1000


def test_evaluation_counts_the_first_complete_episode_of_each_environment():
    for env, expected in ((TerminalReward(), (1.0, 3)), (EndlessReward(), (4.0, 4))):
        network = networks.actor_critic(env, hidden=(4,), lstm=3)
        carry = network.initial_carry((1,))
        params = network.init(
            jax.random.key(0), carry, np.zeros((1, 1, 2), np.float32), np.ones((1, 1), bool)
        )
        for policy in ("greedy", "sampled"):
            result = evaluator(env, network, num_episodes=7, policy=policy)(
                params, jax.random.key(1)
            )
            assert result.returns.tolist() == [expected[0]] * 7
            assert result.lengths.tolist() == [expected[1]] * 7


def test_interval_metrics_are_differences():
    last = Progress(
        100,
        10,
        1.0,
        {"loss": 5.0, "episodes": 2.0, "episode_return": 20.0, "episode_length": 20.0},
        [10],
    )
    sums = {"loss": 25.0, "episodes": 6.0, "episode_return": 100.0, "episode_length": 60.0}
    row = interval_metrics(last, Progress(300, 20, 2.0, sums, [20]))
    assert row["loss"] == 2.0 and row["episodes"] == 4.0
    assert row["episode_return"] == 20.0 and row["episode_length"] == 10.0
    assert row["env_steps_per_second"] == 200.0 and row["interval_updates"] == 10


# The fixture `run` trains the other four.
@pytest.mark.parametrize(
    "method", ["one-step-q", "n-step-q", "async-one-step-q", "async-one-step-sarsa"]
)
def test_the_other_methods_train_an_lstm_and_are_evaluated_their_own_way(method, tmp_path):
    sizes = {
        "num_envs": 3,
        "num_steps": 4,
        "hidden": (4,),
        "lstm": True,
        "lstm_size": 3,
        "eval_episodes": 2,
    }
    settings = resolve(method, "gymnax:Catch-bsuite", total_timesteps=240, **sizes)
    summary = train(
        method, "gymnax:Catch-bsuite", settings, tmp_path / "run", options=RunOptions(quiet=True)
    )
    assert summary["status"] == "completed" and summary["env_steps"] >= 240
    other = "epsilon_greedy" if METHODS[method].value_based else "sampled"
    assert {"eval_greedy_return_mean", f"eval_{other}_return_mean"} <= set(summary)
    assert (
        evaluate_run(RunDirectory(tmp_path / "run"), num_episodes=2, seed=1)["eval_episodes"] == 2
    )


@pytest.mark.parametrize(
    ("method", "objective", "runner"),
    [
        ("a2c", "actor_critic", "synchronous"),
        ("a3c", "actor_critic", "asynchronous"),
        ("one-step-q", "one_step_q", "synchronous"),
        ("async-one-step-q", "one_step_q", "asynchronous"),
        ("one-step-sarsa", "one_step_sarsa", "synchronous"),
        ("async-one-step-sarsa", "one_step_sarsa", "asynchronous"),
        ("n-step-q", "n_step_q", "synchronous"),
        ("async-n-step-q", "n_step_q", "asynchronous"),
    ],
)
def test_a_methods_name_stands_for_its_objective_and_runner(method, objective, runner, monkeypatch):
    calls, original = [], getattr(objectives, objective)
    monkeypatch.setattr(objectives, objective, lambda *args: calls.append(args) or original(*args))
    built = build(method, CARTPOLE, resolve(method, CARTPOLE, gamma=0.7, hidden=(4,))).runner
    ((network, config),) = calls
    assert config.gamma == 0.7 and network.torso.features == (4,)
    assert isinstance(built, AsynchronousRunner if runner == "asynchronous" else SynchronousRunner)


@pytest.mark.parametrize(
    ("name", "function", "arguments"),
    [
        ("shared-rmsprop", "shared_rmsprop", {"decay": 0.9, "eps": 0.3}),
        ("rmsprop", "rmsprop", {"decay": 0.9, "eps": 0.3}),
        ("momentum-sgd", "momentum_sgd", {"momentum": 0.8}),
    ],
)
def test_an_optimizers_name_stands_for_its_function_and_settings(
    name, function, arguments, monkeypatch
):
    calls, original = [], getattr(optimizers, function)
    monkeypatch.setattr(
        optimizers, function, lambda *a, **k: calls.append((a, k)) or original(*a, **k)
    )
    settings = {"optimizer": name, "rmsprop_decay": 0.9, "rmsprop_eps": 0.3, "momentum": 0.8}
    rates = {"learning_rate": 0.5, "total_timesteps": 100}
    build("a3c", CARTPOLE, resolve("a3c", CARTPOLE, **settings, **rates))
    (((schedule,), given),) = calls
    assert given == arguments and schedule(50) == 0.25


def test_value_based_settings_reach_their_objective_and_network(monkeypatch):
    calls, original = [], objectives.n_step_q
    monkeypatch.setattr(objectives, "n_step_q", lambda *args: calls.append(args) or original(*args))
    given = {
        "target_update_interval": 7,
        "epsilon_anneal_steps": 11,
        "final_epsilons": (0.3, 0.2),
        "final_epsilon_probabilities": (0.25, 0.75),
        "double_q": True,
        "huber_delta": 2.0,
    }
    build("n-step-q", CARTPOLE, resolve("n-step-q", CARTPOLE, **given, dueling=True))
    ((network, config),) = calls
    assert {name: getattr(config, name) for name in given} == given and network.dueling


def test_the_epsilon_greedy_evaluation_takes_one_action_in_twenty_at_random():
    env = RightAction()
    network = networks.q_network(env, hidden=())
    zeros = np.zeros((1, 1, 2), np.float32)
    params = network.init(jax.random.key(0), (), zeros, np.ones((1, 1), bool))
    params = jax.tree.map(lambda x: x * 0.0, params)
    params["params"]["q"]["bias"] = np.array([0.0, 1.0], np.float32)
    play = evaluator(env, network, num_episodes=20_000, policy="epsilon-greedy")
    wrong = np.mean(play(params, jax.random.key(1)).returns == -1.0)
    assert abs(wrong - 0.05 / 2) < 5 * np.sqrt(0.025 * 0.975 / 20_000)
    with pytest.raises(ValueError, match="policy must be one of greedy, sampled, epsilon-greedy"):
        evaluator(env, network, num_episodes=1, policy="epsilon_greedy")


@pytest.mark.parametrize(("workers", "lock"), [(8, True), (9, True), (9, False)])
def test_more_workers_than_the_interpreter_lock_serves_are_told(
    workers, lock, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: lock, raising=False)
    settings = {"num_workers": workers, "total_timesteps": 200, "eval_episodes": 0}
    train("a3c", CARTPOLE, settings, tmp_path / "run", options=RunOptions(quiet=True))
    warned = "9 workers take turns in Python; more than 8 bring nothing" in capsys.readouterr().err
    assert warned == (workers == 9 and lock)
    assert json.loads((tmp_path / "run" / "env.json").read_text())["interpreter_lock"] == lock


def test_a_run_that_ends_before_its_exploration_says_so(tmp_path, capsys):
    flags = [
        "--total-timesteps",
        "1000",
        "--epsilon-anneal-steps",
        "4000",
        "--quiet",
        "--eval-episodes",
        "2",
    ]
    assert (
        cli.main(["train", "n-step-q", CARTPOLE, *flags, "--run-dir", str(tmp_path / "run")]) == 0
    )
    assert "epsilon falls only 25% of its way" in capsys.readouterr().err


@pytest.mark.parametrize(("method", "env_id"), WITH_PRESETS)
def test_presets_keep_together_what_belongs_together(method, env_id):
    settings = resolve(method, env_id)
    convention = (settings.loss_reduction, settings.max_grad_norm, settings.rmsprop_eps)
    assert convention in {("sum", 40.0, 0.1), ("mean", 0.5, 1e-5)}


@pytest.mark.parametrize(("method", "env_id"), WITH_PRESETS)
def test_every_preset_can_be_built_and_has_a_result(method, env_id):
    build(method, env_id, resolve(method, env_id)).params_like()
    assert any(character.isdigit() for character in preset_of(method, env_id).result)


def test_dry_run_prints_settings_shapes_and_the_parameter_count(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "a3c", CARTPOLE, "--dry-run", "--hidden", "8", "4"]) == 0
    printed = capsys.readouterr().out
    assert "num_steps " in printed and "(4, 8)" in printed
    parameters = 4 * 8 + 8 + 8 * 4 + 4 + 4 * 2 + 2 + 4 + 1
    assert f"{parameters} parameters" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", [["info"], ["presets"], ["envs"]])
def test_commands_that_only_look_things_up(command, capsys):
    assert cli.main(command) == 0
    assert len(capsys.readouterr().out) > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a2c", "gymnax:CartPole-v2"], "did you mean 'gymnax:CartPole-v1'"),
        (["a2d", CARTPOLE], "method must be one of"),
        (["a2c", CARTPOLE, "--num-envs", "0"], "num_envs must be an integer of at least 1, got 0"),
        (["a2c", CARTPOLE, "--num-envs", "1.5"], "1.5 is not an integer"),
        (["a2c", CARTPOLE, "--gamma", "1.5"], "gamma must be a number between 0 and 1, got 1.5"),
        (
            ["a2c", CARTPOLE, "--num-workers", "4"],
            "unknown flag --num-workers of jax-a3c train a2c; these methods have it: a3c, async-",
        ),
        (["a2c", CARTPOLE, "--lock"], "these methods have it: a3c, async-one-step-q"),
        (
            ["a2c", CARTPOLE, "--double-q"],
            "these methods have it: one-step-q, async-one-step-q",
        ),
        (
            ["n-step-q", CARTPOLE, "--ent-coef", "0"],
            "these methods have it: a2c, a3c",
        ),
        (["one-step-sarsa", CARTPOLE, "--double-q"], "double_q must be False for one-step Sarsa"),
        (["n-step-q", "gymnax:Pendulum-v1"], "a Q network needs discrete actions"),
        (
            ["n-step-q", CARTPOLE, "--final-epsilons", "0.1"],
            "final_epsilon_probabilities must be one number",
        ),
        (
            ["n-step-q", CARTPOLE, "--eval-policy", "sampled"],
            "Expected one of ('greedy', 'epsilon-greedy')",
        ),
        (
            ["n-step-q", CARTPOLE, "--target-update-interval", "0"],
            "target_update_interval must be an integer of at least 1, got 0",
        ),
        (
            ["n-step-q", CARTPOLE, "--target-update-interval", "1e10"],
            "target_update_interval must be an integer between 1 and 1000000000, got 10000000000",
        ),
        (
            ["a3c", CARTPOLE, "--max-grad-norm", "-1"],
            "max_grad_norm must be a number above 0, got -1",
        ),
        (
            ["a3c", CARTPOLE, "--learning-rate", "nan"],
            "learning_rate must be a number of at least 0, got nan",
        ),
        (["a3c", CARTPOLE, "--network", "nature"], "Nature needs image observations"),
        (["a2c", CARTPOLE, "--network", "nature"], "Nature needs image observations"),
        (["--seed", "3", "a3c", CARTPOLE], "METHOD and ENV come first"),
        (["a3c", "--seed", "3", CARTPOLE], "METHOD and ENV come first"),
        (["a3c", CARTPOLE, "--num-envs", "few"], "few is not an integer"),
        (
            ["a2c", "gymnax:Breakout-MinAtar", "--num-envs", "2e9", "--num-steps", "1"],
            "num_envs=2000000000 times num_steps=1 observations of 'gymnax:Breakout-MinAtar' need",
        ),
        (
            ["a2c", CARTPOLE, "--num-envs", "1e9", "--num-steps", "1e9"],
            "num_envs times num_steps must be",
        ),
        (
            ["a3c", CARTPOLE, "--num-workers", "1e5"],
            "num_workers must be an integer between 1 and 1024, got",
        ),
        (["a3c", CARTPOLE, "--worker-timeout", "1e10"], "worker_timeout must be a number"),
        (["--resume"], "resume needs the folder of a run"),
        (["a3c", CARTPOLE, "--seed", "1e20"], "seed must be an integer between 0 and"),
        (["a3c", CARTPOLE, "--hidden", "0"], "hidden must be an integer of at least 1, got 0"),
    ],
)
@pytest.mark.parametrize("dry", [["--dry-run"], []])
def test_bad_input_is_refused_before_anything_is_written(
    arguments, message, dry, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", *arguments, *dry]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("a2d", CARTPOLE, A2CSettings(), "run"), "method must be one of"),
        (
            ("a2c", CARTPOLE, 0.9, "run"),
            r"settings must be A2CSettings, as resolve\('a2c', ...\) gives them, got 0.9",
        ),
        (("a2c", None, A2CSettings(), "run"), "env must be an environment, .* got None"),
        (("a2c", CARTPOLE, A2CSettings(), 3), "run_dir must be the path of a folder, got 3"),
        (("a2c", CARTPOLE, A2CSettings(), ""), "run_dir is empty"),
    ],
)
def test_bad_arguments_are_refused_in_python_too(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        train(*arguments, options=RunOptions(quiet=True))
    assert not list(tmp_path.iterdir())


def test_a_run_directory_that_cannot_be_made_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        assert cli.main(["train", "a2c", CARTPOLE, "--run-dir", str(path)]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_outputs_that_cannot_be_written_are_refused(run, tmp_path, capsys):
    for words in (["export", "--output", str(tmp_path)], ["plot", "--output", "x.pdf"]):
        assert cli.main([words[0], str(run.path), *words[1:]]) == 2
        assert "output" in capsys.readouterr().err
    assert cli.main(["export", str(run.path), "--output", ""]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        "jax-a3c: error: Error parsing --output: a path is empty; an unset shell variable may be "
        "the cause"
    )
    assert (
        cli.main(
            ["export", str(run.path), "--output", str(tmp_path / "new" / "params.safetensors")]
        )
        == 0
    )


def test_eval_and_plot_refuse_what_is_no_run(tmp_path, capsys):
    for command in (
        ["eval", str(tmp_path)],
        ["plot", str(tmp_path)],
        ["eval", str(tmp_path / "missing")],
    ):
        assert cli.main(command) == 2
        assert str(tmp_path) in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    program = (
        "import sys, jax_a3c.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('jax' in sys.modules)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    assert printed.strip().endswith("False") and "train" in printed


def test_the_machine_describes_itself():
    described = environment()
    assert described["packages"]["jax"] == jax.__version__
    assert described["cpu_cores"] >= 1 and described["devices"]
