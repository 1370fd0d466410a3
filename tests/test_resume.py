"""Runs that resume after a failure or with other settings: what is kept, what is refused."""

import contextlib
import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jax_a3c import cli
from jax_a3c.cli import supervisor
from jax_a3c.errors import InputError
from jax_a3c.experiment import checkpoints
from jax_a3c.experiment.build import build
from jax_a3c.experiment.checkpoints import VARIABLES
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.runners.shared_parameters import SharedParameters, Update
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training import session
from jax_a3c.training.session import Session
from jax_a3c.training.train import resume, train

CARTPOLE = "gymnax:CartPole-v1"
QUIET = RunOptions(quiet=True)
SMALL = {"hidden": (8,), "total_timesteps": 2_000, "eval_episodes": 1}


def trained(path, method="a2c", *, options=QUIET, **more):
    train(method, CARTPOLE, resolve(method, CARTPOLE, **(SMALL | more)), path, options=options)
    return RunDirectory(path)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Return a completed run for tests that do not change it."""
    return trained(tmp_path_factory.mktemp("ended") / "run")


class Killed(BaseException):
    """Simulate a kill: only `finally` blocks run."""


@contextlib.contextmanager
def killed_before_it_saves(monkeypatch):
    """Simulate a kill before the checkpoint; no summary is written either."""

    def die(*_, **__):
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Session, "_save", die)
        patch.setattr(RunDirectory, "write_summary", lambda *_: None)
        yield


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hidden", "16", "--force"], "hidden was (8,) and is now (16,)"),
        (["--lstm", "--force"], "lstm was False and is now True"),
        (["--num-envs", "3"], "other settings: num_envs was"),
        (["--num-envs", "3", "--dry-run"], "other settings: num_envs was"),
        (["a3c", CARTPOLE], "is of a2c gymnax:CartPole-v1, not of a3c"),
        (["--supervise", "--run-dir", "other"], "run_dir cannot be used with --resume"),
    ],
)
def test_a_refused_resume_leaves_the_run_as_it_was(words, message, ended, capsys):
    before = contents(ended.path)
    assert cli.main(["train", "--resume", str(ended.path), *words, "--quiet"]) == 2
    assert message in capsys.readouterr().err
    assert contents(ended.path) == before


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("metrics.jsonl", ["{", '{"env_steps": 80}'], "metrics.jsonl is damaged in line 1"),
        ("metrics.jsonl", ['{"a": 1}'], "metrics.jsonl must be an integer of at least 0, got None"),
        ("metrics.jsonl", ['{"env_steps": "80"}'], "must be an integer of at least 0, got '80'"),
        ("evaluations.jsonl", ['{"env_steps": 80, "best": true}'], "must be a number, got None"),
        (
            "evaluations.jsonl",
            ['{"env_steps": 80, "eval_return_mean": "9"}'],
            "must be a number, got '9'",
        ),
    ],
)
def test_a_run_with_foreign_lines_is_refused_and_left_as_it_was(
    name, rows, message, tmp_path, capsys
):
    run = trained(tmp_path / "run")
    (run.path / name).write_text("\n".join(rows) + "\n")
    run.checkpoints.paths()[0].write_bytes(b"")  # a refused resume does not rename it either
    before = contents(run.path)
    assert (
        cli.main(
            ["train", "--resume", str(run.path), "--force", "--learning-rate", "0.5", "--quiet"]
        )
        == 2
    )
    assert message in capsys.readouterr().err
    assert contents(run.path) == before


def test_checkpoints_of_another_run_are_not_joined(ended, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for path in ended.checkpoints.paths():
        (tmp_path / "checkpoints" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match="holds a run already"):
        trained(tmp_path)


def test_a_run_makes_the_folder_of_its_checkpoints_again(ended, tmp_path):
    shutil.copytree(ended.path, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    assert resume(tmp_path / "run", options=QUIET)["status"] == "completed"
    assert RunDirectory(tmp_path / "run").checkpoints.paths()


def test_settings_of_other_types_are_stored_as_those_of_python(tmp_path):
    numbers = {"seed": np.int64(3), "learning_rate": jnp.float32(1e-3), "hidden": [np.int32(8)]}
    run = trained(
        tmp_path / "run", **numbers, options=RunOptions(quiet=True, keep_checkpoints=np.int64(2))
    )
    stored = run.checkpoints.load("last").facts["settings"]
    assert stored["seed"] == 3 and stored["learning_rate"] == float(np.float32(1e-3))
    again = resolve("a2c", CARTPOLE, **(SMALL | numbers))
    assert resume(run.path, settings=again)["status"] == "completed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"settings": 3}, "settings must be A2CSettings"),
        ({"settings": {"seeds": 0}}, "did you mean 'seed'"),
        ({"settings": {"num_workers": 2}}, "num_workers is not a setting of a2c"),
        ({"options": {"quiet": True}}, "options must be RunOptions"),
        ({"options": {}}, "options must be RunOptions"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, ended):
    before = contents(ended.path)
    with pytest.raises(InputError, match=message):
        resume(ended.path, **arguments)
    assert contents(ended.path) == before


def test_a_run_whose_checkpoints_are_gone_is_not_begun_anew(tmp_path):
    run = trained(tmp_path / "run")
    for path in run.checkpoints.paths():
        path.unlink()
    before = contents(run.path)
    with pytest.raises(InputError, match="it has no checkpoint, although it has metrics"):
        resume(run.path, options=QUIET)
    assert contents(run.path) == before


def test_a_run_that_is_killed_while_its_settings_change_goes_on_under_them(tmp_path, monkeypatch):
    run = trained(tmp_path / "run", num_envs=4)
    settings = resolve("a2c", CARTPOLE, **SMALL | {"num_envs": 2, "total_timesteps": 4_000})
    with killed_before_it_saves(monkeypatch):
        resume(run.path, settings=settings, force=True, options=QUIET)
    assert run.config()[2] == settings
    summary = resume(run.path, options=QUIET)
    assert summary["status"] == "completed" and 4_000 <= summary["env_steps"] < 4_100


def test_given_parameters_outlive_a_process_that_dies_before_its_first_checkpoint(
    tmp_path, monkeypatch
):
    settings = resolve("a2c", CARTPOLE, **SMALL, learning_rate=0.0)
    like = build("a2c", CARTPOLE, settings).params_like()
    params = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.25, leaf.dtype), like)
    checkpoints.export_params(params, tmp_path / "params")
    with killed_before_it_saves(monkeypatch):
        train(
            "a2c",
            CARTPOLE,
            settings,
            tmp_path / "run",
            options=QUIET,
            initial_params=tmp_path / "params",
        )
    (tmp_path / "params").unlink()
    resume(tmp_path / "run", options=QUIET)
    for name, array in RunDirectory(tmp_path / "run").checkpoints.load("last").arrays.items():
        assert not name.startswith(VARIABLES) or (array == 0.25).all()


def test_a_run_may_begin_with_the_parameters_of_a_checkpoint(ended, tmp_path, capsys):
    newest = ended.checkpoints.load("last")
    flags = [
        "--hidden",
        "8",
        "--total-timesteps",
        "100",
        "--learning-rate",
        "0",
        "--eval-episodes",
        "1",
        "--quiet",
    ]
    words = [
        "train",
        "a2c",
        CARTPOLE,
        *flags,
        "--run-dir",
        str(tmp_path / "run"),
        "--initial-params",
    ]
    assert cli.main([*words, str(newest.path)]) == 0
    arrays = RunDirectory(tmp_path / "run").checkpoints.load("last").arrays
    for name, array in newest.arrays.items():
        assert not name.startswith(VARIABLES) or (array == arrays[name]).all()
    assert cli.main([*words, str(ended.path)]) == 2
    assert "is a folder; give a file such as `jax-a3c export` writes" in capsys.readouterr().err
    assert cli.main([*words, str(tmp_path / "nothing"), "--dry-run"]) == 2


def test_initial_parameters_of_no_use_are_refused_before_the_run_begins(ended, tmp_path):
    params = ended.load_params(build(*ended.config()).params_like())
    params["params"]["value"]["bias"] = np.full(1, np.nan, np.float32)
    checkpoints.export_params(params, tmp_path / "nan")
    os.mkfifo(tmp_path / "pipe")
    settings = resolve("a2c", CARTPOLE, **SMALL)
    for name, message in {
        tmp_path / "nan": "params/value/bias is not finite",
        str(tmp_path / "pipe"): "not a regular file",
        7: "initial_params must be the path of a file, got 7",
    }.items():
        with pytest.raises(InputError, match=message):
            train("a2c", CARTPOLE, settings, tmp_path / "run", options=QUIET, initial_params=name)
    assert not (tmp_path / "run").exists()


def test_options_go_on_with_the_run(tmp_path, monkeypatch):
    run = trained(
        tmp_path / "run", options=RunOptions(quiet=True, eval_interval=1_000, keep_checkpoints=7)
    )
    assert run.options() == RunOptions(eval_interval=1_000, keep_checkpoints=7)
    steps = [row["env_steps"] for row in run.evaluations()]
    assert len(steps) == 2
    assert cli.main(["train", "--resume", str(run.path), "--quiet"]) == 0
    # The run had ended, so nothing new is evaluated.
    assert [row["env_steps"] for row in run.evaluations()] == steps
    more = ["--total-timesteps", "4000", "--force", "--keep-checkpoints", "6"]
    assert cli.main(["train", "--resume", str(run.path), "--quiet", *more]) == 0
    assert len(run.evaluations()) == 4
    assert run.options() == RunOptions(eval_interval=1_000, keep_checkpoints=6)


def test_what_was_not_saved_is_not_the_best_and_what_is_not_finite_neither(tmp_path, monkeypatch):
    returns = {1_000: 1.0, 2_000: float("nan"), 3_000: 3.0, 4_000: 2.0}

    def evaluate(*_, **__):
        return {"eval_return_mean": returns[steps[-1] // 1_000 * 1_000]}

    steps, save = [], checkpoints.Checkpoints.save

    def saved(self, env_steps, *arguments, **options):
        steps.append(env_steps)
        if 3_000 <= env_steps < 4_000:
            raise OSError("no space left")
        return save(self, env_steps, *arguments, **options)

    monkeypatch.setattr(session, "evaluate", evaluate)
    monkeypatch.setattr(checkpoints.Checkpoints, "save", saved)
    run = trained(
        tmp_path / "run", total_timesteps=4_000, options=RunOptions(quiet=True, eval_interval=1_000)
    )
    rows = run.evaluations()
    assert [row["best"] for row in rows] == [True, False, False, True]
    assert rows[1]["eval_return_mean"] is None
    assert run.checkpoints.load("best").facts["progress"]["env_steps"] == rows[3]["env_steps"]
    resume(run.path, options=QUIET)


@pytest.mark.parametrize("changed", ["optimizer", "seed", "final_epsilons"])
def test_what_other_settings_decide_begins_anew_even_if_it_fits(changed):
    names = ["variables/w", "state/actor/key", "state/opt_state/m", "state/shared/moments"]
    stored, fresh = ({name: np.full(2, value) for name in names} for value in (1.0, 0.0))
    fitted = checkpoints.refit(stored, fresh, {changed, "learning_rate"})
    anew = {name for name, array in fitted.items() if not array.any()}
    assert anew == (
        {"state/opt_state/m", "state/shared/moments"} if changed == "optimizer" else {names[1]}
    )
    assert not [
        name for name in names if not checkpoints.refit(stored, fresh, {"gamma"})[name].all()
    ]


def test_a_target_follows_after_its_interval_became_longer():
    nothing = np.empty(0, np.float32)

    def steps(count):
        return Update(np.zeros(3, np.float32), nothing, count, nothing)

    old = SharedParameters(np.zeros(3, np.float32), 1, target_update_interval=10)
    for _ in range(50):
        old.apply(0, 0, steps(10))
    new = SharedParameters(np.zeros(3, np.float32), 1, target_update_interval=300)
    new.restore(np.ones(3, np.float32), old.snapshot())
    new.apply(0, 0, steps(99))
    assert not new.target.any()  # 599 steps so far
    new.apply(0, 0, steps(1))
    assert new.target.all()


def test_a_moment_later_than_32_bits_has_a_key_of_its_own():
    moments = (5, 2**32, 2**32 + 5, 2**33 + 5, 10**15)
    keys = {
        tuple(jax.random.key_data(session._at(jax.random.key(0), steps)).tolist())
        for steps in moments
    }
    assert len(keys) == len(moments)


def test_steps_beyond_32_bits_are_counted_whatever_an_update_has(ended):
    runner = build(*ended.config()).runner
    tree = runner.save(runner.init(0))
    tree["state"]["env_steps"] = np.int64(4 * 10**9)
    state = runner.restore(tree)
    assert runner.counts(state) == (4 * 10**9, 0)


def test_the_supervisor_forgets_flags_however_they_are_written():
    words = [
        "train",
        "a2c",
        "ENV",
        "--run_dir",
        "a",
        "--initial_params=b",
        "--supervise",
        "--seed",
        "3",
    ]
    kept = supervisor._without(words, "--supervise", "--run-dir", "--initial-params")
    assert kept == ["train", "a2c", "ENV", "--seed", "3"]


@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("from jax_a3c import cli; sys.argv = ['', 'eval', 'nowhere']; sys.exit(cli.run())", [2]),
        ("from jax_a3c.cli import entry; entry.main = lambda: 1 / 0; entry.run()", [1]),
        ("from jax_a3c.cli import entry; entry.main = lambda: 0; entry.run(); os.abort()", [0]),
        (
            "os._exit(1)",
            [None, None, None],
        ),  # like the watchdog for calls that hold the interpreter's lock
        ("os.abort()", [None, None, None]),
    ],
    ids=["refused", "raises", "dies after its end", "watch", "dies"],
)
def test_only_a_process_that_says_nothing_is_started_anew(program, told, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "summary.json").write_text("{}")
    run, ends = supervisor._run, []

    def ended(_):
        ends.append(run([sys.executable, "-c", f"import os, sys; {program}"]))
        return ends[-1]

    monkeypatch.setattr(supervisor, "_run", ended)
    code = supervisor.supervise(["train", "--resume", "x"], tmp_path, resume=True)
    assert [end[1] for end in ends] == told
    assert code == (1 if told[-1] is None else told[-1])
