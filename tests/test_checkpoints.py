"""Checkpoints: a round trip is exact, damage is refused, a resumed run equals an unbroken one."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from jax_a3c import cli
from jax_a3c.errors import InputError
from jax_a3c.experiment import checkpoints
from jax_a3c.experiment.checkpoints import VARIABLES, Checkpoints, DamagedError, flatten, unflatten
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training.train import resume, train

CARTPOLE = "gymnax:CartPole-v1"
QUIET = RunOptions(quiet=True)
OFTEN = RunOptions(quiet=True, checkpoint_interval=0.02, keep_checkpoints=1000)
TREE = {
    "key": jax.random.key(3),
    "scalar": np.float32(2.5),
    "flag": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
    "device": jax.numpy.arange(4),
}


def stored(folder, env_steps, **arrays):
    return Checkpoints(folder).save(
        env_steps, arrays or flatten(TREE), {"steps": env_steps}, keep=3
    )


def test_arrays_and_facts_come_back(tmp_path):
    checkpoint = checkpoints.read(stored(tmp_path, 7))
    assert checkpoint.facts == {"steps": 7}
    tree = unflatten(TREE, checkpoint.arrays, "", checkpoint.path)
    assert (jax.random.key_data(tree["key"]) == jax.random.key_data(TREE["key"])).all()
    for name in ("scalar", "flag", "empty", "device"):
        np.testing.assert_array_equal(tree[name], TREE[name])
        assert tree[name].dtype == TREE[name].dtype and tree[name].shape == TREE[name].shape
    assert isinstance(tree["device"], jax.Array) and isinstance(tree["flag"], np.ndarray)


@pytest.mark.parametrize(
    ("like", "message"),
    [
        ({"a": np.zeros(3)}, "a should be float64 .3,., found float32 .2,."),
        ({"a": np.zeros(2, np.float32), "b": np.zeros(1)}, "b: array is missing"),
        ({}, "a: unexpected array"),
    ],
)
def test_another_tree_is_refused(like, message, tmp_path):
    path = stored(tmp_path, 1, a=np.zeros(2, np.float32))
    with pytest.raises(InputError, match=message):
        unflatten(like, checkpoints.read(path).arrays, "", path)


def test_the_newest_ones_and_the_best_are_kept(tmp_path):
    folder = Checkpoints(tmp_path)
    for steps in (10, 200, 3000, 40000):
        path = stored(tmp_path, steps)
        if steps == 200:
            folder.keep_as_best(path)
    assert [int(path.stem) for path in folder.paths()] == [40000, 3000, 200]
    stored(tmp_path, 50000)
    assert [int(path.stem) for path in folder.paths()] == [50000, 40000, 3000]
    assert folder.load("best").facts == {"steps": 200} and folder.load("last").facts == {
        "steps": 50000
    }


def test_a_damaged_checkpoint_is_named_and_passed_over(tmp_path, capsys):
    stored(tmp_path, 1)
    newer = stored(tmp_path, 2)
    newer.write_bytes(newer.read_bytes()[:-1])
    assert Checkpoints(tmp_path).newest().facts == {"steps": 1}
    assert str(newer) in capsys.readouterr().err
    Checkpoints(tmp_path).set_aside(tmp_path / "000000000000001.safetensors")
    assert not newer.exists() and newer.with_name(newer.name + ".damaged").exists()
    (tmp_path / "000000000000001.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"no checkpoint in .* is intact: .*is damaged"):
        Checkpoints(tmp_path).newest()
    with pytest.raises(InputError, match="has no checkpoint"):
        Checkpoints(tmp_path / "nowhere").load("last")


def test_a_copy_of_a_checkpoint_is_none(tmp_path):
    folder = Checkpoints(tmp_path)
    path = stored(tmp_path, 1)
    copy = tmp_path / f"{path.stem}_backup.safetensors"
    copy.write_bytes(path.read_bytes())
    assert folder.paths() == [path]
    for steps in range(2, 6):
        stored(tmp_path, steps)
    assert copy.exists() and len(folder.paths()) == 3


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_damaged(tmp_path, monkeypatch):
    stored(tmp_path, 1)
    newest, opened = stored(tmp_path, 2), Path.open

    def denied(path, *args, **kwargs):
        if path == newest:
            raise PermissionError(13, "Permission denied")
        return opened(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(InputError, match=r"cannot be read: .*Permission denied"):
        Checkpoints(tmp_path).newest()


def test_another_format_is_refused(tmp_path, monkeypatch):
    path = stored(tmp_path, 1)
    monkeypatch.setattr(checkpoints, "FORMAT", 2)
    with pytest.raises(DamagedError, match="has the format 1, this version of jax_a3c reads 2"):
        checkpoints.read(path)


def variables(path):
    arrays = RunDirectory(path).checkpoints.load("last").arrays
    return {name: array for name, array in arrays.items() if name.startswith(VARIABLES)}


@pytest.mark.parametrize(
    ("method", "more"),
    [
        (
            "a2c",
            {
                "optimizer": "adam",
                "normalize_observations": True,
                "normalize_rewards": True,
                "lstm": True,
                "lstm_size": 8,
            },
        ),
        ("n-step-q", {"target_update_interval": 512}),
        ("a3c", {"num_workers": 1, "lstm": True, "lstm_size": 8, "optimizer": "adam"}),
        (
            "async-one-step-sarsa",
            {"num_workers": 1, "target_update_interval": 512, "optimizer": "rmsprop"},
        ),
    ],
)
def test_a_resumed_run_is_bit_for_bit_the_undisturbed_one(method, more, tmp_path, monkeypatch):
    monkeypatch.setattr("jax_a3c.training.session.CHECKPOINTS_SHARE", np.inf)  # on a slow disk too
    settings = resolve(
        method, CARTPOLE, total_timesteps=40_000, hidden=(8,), eval_episodes=2, **more
    )
    whole = train(method, CARTPOLE, settings, tmp_path / "whole", options=OFTEN)
    run = RunDirectory(tmp_path / "whole")
    undisturbed, paths = variables(run.path), run.checkpoints.paths()
    assert len(paths) >= 3
    for path in paths[: len(paths) // 2]:  # as if it had been killed half way
        path.unlink()
    summary = resume(run.path, options=QUIET)
    assert summary["status"] == "completed" and summary["resumed"] == 1
    assert {**summary, **dict.fromkeys(NOT_THE_SAME)} == {**whole, **dict.fromkeys(NOT_THE_SAME)}
    for name, array in variables(run.path).items():
        assert array.tobytes() == undisturbed[name].tobytes(), name
    rows = run.metrics()
    steps = [row["env_steps"] for row in rows]
    assert steps == sorted(steps)
    assert sum(row["interval_updates"] for row in rows) == summary["updates"]


NOT_THE_SAME = ("seconds", "compile_seconds", "env_steps_per_second", "resumed", "finished_at")


@pytest.mark.parametrize("method", ["a2c", "a3c"])
def test_many_workers_and_host_environments_go_on(method, tmp_path, monkeypatch):
    monkeypatch.setattr("jax_a3c.training.session.CHECKPOINTS_SHARE", np.inf)
    pytest.importorskip("gymnasium")
    env_id = "gymnasium:CartPole-v1" if method == "a2c" else CARTPOLE
    more = {"num_workers": 3} if method == "a3c" else {"num_envs": 4}
    total = 4_000 if method == "a2c" else 40_000
    settings = resolve(method, env_id, total_timesteps=total, hidden=(8,), eval_episodes=2, **more)
    train(method, env_id, settings, tmp_path / "run", options=OFTEN)
    run = RunDirectory(tmp_path / "run")
    paths = run.checkpoints.paths()
    early = [path for path in paths if int(path.stem) < total][-2:]
    for path in set(paths) - set(early):
        path.unlink()
    start = int(early[0].stem)
    summary = resume(run.path, options=QUIET)
    assert start < total <= summary["env_steps"] < total + 100 and summary["status"] == "completed"
    assert summary["resumed"] == 1


def test_a_run_that_never_saved_starts_from_the_beginning(tmp_path):
    settings = resolve("a2c", CARTPOLE, total_timesteps=2_000, hidden=(8,), eval_episodes=2)
    train("a2c", CARTPOLE, settings, tmp_path / "run", options=QUIET)
    run = RunDirectory(tmp_path / "run")
    before = variables(run.path)
    for path in [*run.checkpoints.paths(), run.path / "metrics.jsonl", run.path / "summary.json"]:
        path.unlink()
    assert resume(run.path, options=QUIET)["resumed"] == 0
    jax.tree.map(np.testing.assert_array_equal, variables(run.path), before)


def test_other_settings_are_refused_unless_forced(tmp_path, capsys):
    path = str(tmp_path / "run")
    flags = ["--total-timesteps", "2000", "--hidden", "8", "--eval-episodes", "2", "--quiet"]
    assert cli.main(["train", "a2c", CARTPOLE, *flags, "--run-dir", path]) == 0
    more = ["train", "--resume", path, "--quiet", "--total-timesteps", "4000"]
    assert cli.main(more) == 2
    assert "total_timesteps was 2000 and is now 4000" in capsys.readouterr().err
    assert cli.main([*more, "--force"]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["env_steps"] == 4000 and summary["resumed"] == 1
    assert RunDirectory(tmp_path / "run").config()[2].total_timesteps == 4000
    assert cli.main([*more, "--force", "--hidden", "9"]) == 2
    told = capsys.readouterr().err
    assert "is of another network or run" in told and "hidden was (8,) and is now (9,)" in told
    assert RunDirectory(tmp_path / "run").config()[2].hidden == (8,)


def test_what_does_not_fit_begins_anew():
    names = [
        "variables/w",
        "state/updates",
        "state/actors/1/key",
        "state/opt_states/1",
        "state/opt_states/10/a",
    ]
    stored = {name: np.ones(2) for name in names} | {"state/shared/updates": np.array([3, 4])}
    stored |= {"state/shared/staleness_max": np.array([5, 6])}
    fresh = {name: np.zeros(2) for name in names} | {"state/opt_states/1": np.zeros(3)}
    fresh |= {f"state/shared/{name}": np.zeros(3, int) for name in ("updates", "staleness_max")}
    fitted = checkpoints.refit(stored, fresh | {"state/actors/1/key": np.zeros(2, int)}, set())
    assert set(fitted) == set(fresh)
    for name in ("variables/w", "state/updates", "state/opt_states/10/a"):
        assert (fitted[name] == 1).all()
    for name in ("state/actors/1/key", "state/opt_states/1"):
        assert fitted[name].shape == fresh[name].shape and not fitted[name].any()
    assert fitted["state/shared/updates"].tolist() == [7, 0, 0]
    assert fitted["state/shared/staleness_max"].tolist() == [6, 0, 0]


@pytest.mark.parametrize(
    ("method", "env", "before", "after"),
    [
        (
            "n-step-q",
            CARTPOLE,
            {"num_envs": 8, "num_steps": 4, "optimizer": "shared-rmsprop"},
            {"num_envs": 3, "num_steps": 9, "optimizer": "adam"},
        ),
        ("a2c", "gymnasium:CartPole-v1", {"num_envs": 2}, {"num_envs": 4}),
        (
            "a3c",
            CARTPOLE,
            {"num_workers": 2, "optimizer": "rmsprop"},
            {"num_workers": 3, "num_envs": 2},
        ),
        ("async-one-step-q", CARTPOLE, {"num_workers": 3}, {"num_workers": 1, "num_envs": 3}),
    ],
)
def test_a_run_goes_on_from_its_step_with_other_settings(method, env, before, after, tmp_path):
    if env.startswith("gymnasium:"):
        pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")
    given = {"hidden": (8,), "total_timesteps": 3_000, "eval_episodes": 1, "num_steps": 5}
    settings = resolve(method, env, **(given | before))
    first = train(method, env, settings, tmp_path / "run", options=QUIET)
    run = RunDirectory(tmp_path / "run")
    settings = resolve(method, env, **(given | before | after | {"total_timesteps": 6_000}))
    second = resume(run.path, settings=settings, force=True, options=QUIET)
    rows = settings.num_steps * settings.num_envs * (settings.num_workers if "a3c" in method else 1)
    assert 6_000 <= second["env_steps"] < 6_000 + 10 * rows
    assert second["updates"] > first["updates"]
    assert run.config()[2] == settings


def test_what_cannot_be_resumed_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = resolve("a2c", CARTPOLE, total_timesteps=100, hidden=(8,), eval_episodes=1)
    train("a2c", CARTPOLE, settings, tmp_path / "RUN", options=QUIET)
    cases = [
        (["a3c", CARTPOLE, "--resume", "RUN"], "is of a2c gymnax:CartPole-v1"),
        (["--resume", "RUN", "--run-dir", "elsewhere"], "run_dir cannot be used with --resume"),
        (["--resume", "nowhere"], "holds no config.json"),
        (["a2c", CARTPOLE, "--force"], "--force works only with --resume"),
        (["a2c", CARTPOLE, "--run-dir", "RUN"], "holds a run already"),
        (
            ["a2c", CARTPOLE, "--checkpoint-interval", "0"],
            "checkpoint_interval must be a number above 0",
        ),
    ]
    for words, message in cases:
        assert cli.main(["train", *words, "--quiet"]) == 2
        assert message in capsys.readouterr().err


def test_two_processes_cannot_train_in_one_folder(tmp_path):
    from jax_a3c.experiment.files import locked

    settings = resolve("a2c", CARTPOLE, total_timesteps=100, hidden=(8,), eval_episodes=1)
    train("a2c", CARTPOLE, settings, tmp_path / "run", options=QUIET)
    with locked(tmp_path / "run"), pytest.raises(InputError, match="another process trains in"):
        resume(tmp_path / "run", options=QUIET)


def test_the_best_by_evaluation_is_kept(tmp_path, monkeypatch):
    returns = iter([3.0, 9.0, 5.0, 4.0, *[1.0] * 100])
    monkeypatch.setattr(
        "jax_a3c.training.session.evaluate", lambda *_, **__: {"eval_return_mean": next(returns)}
    )
    settings = resolve("a2c", CARTPOLE, total_timesteps=20_000, hidden=(8,))
    options = RunOptions(quiet=True, eval_interval=5_000, keep_checkpoints=1)
    train("a2c", CARTPOLE, settings, tmp_path / "run", options=options)
    run = RunDirectory(tmp_path / "run")
    rows = run.evaluations()
    best = max(rows, key=lambda row: row["eval_return_mean"])
    assert best["eval_return_mean"] == 9.0 and 10_000 <= best["env_steps"] < 20_000
    assert run.checkpoints.load("best").facts["progress"]["env_steps"] == best["env_steps"]
    assert run.checkpoints.load("last").facts["progress"]["env_steps"] == 20_000
