"""Learning curves: which runs form a set, its label, and what is drawn."""

import json

import numpy as np
import pytest

from jax_a3c.errors import InputError
from jax_a3c.experiment import plots
from jax_a3c.experiment.plots import Curve, averaged, learning_curves, sets_of
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.run import resolve

CARTPOLE = "gymnax:CartPole-v1"
STEPS = np.arange(1, 21) * 1_000


@pytest.fixture
def make(tmp_path):
    """Return a function that writes a run with 20 lines of metrics."""

    def write(method="a2c", env_id=CARTPOLE, *, returns=None, steps=STEPS, **settings):
        path = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        run = RunDirectory.create(path, method, env_id, resolve(method, env_id, **settings))
        for env_steps, value in zip(
            steps, np.full(len(steps), 10.0) if returns is None else returns, strict=True
        ):
            run.append_metrics(
                {"env_steps": env_steps, "seconds": env_steps / 1e3, "episode_return": value}
            )
        return run

    return write


@pytest.fixture
def figure(monkeypatch, tmp_path):
    """Return `figure(runs)`, which draws runs and returns the Matplotlib figure."""
    matplotlib_figure = pytest.importorskip("matplotlib.figure")
    drawn = []
    monkeypatch.setattr(
        matplotlib_figure.Figure, "savefig", lambda self, *_, **__: drawn.append(self)
    )
    return lambda runs: learning_curves(runs, tmp_path / "curves.png") and drawn[-1]


def legend(figure):
    return [" ".join(text.get_text().split()) for text in figure.legends[0].texts]


def colours(axis):
    """Return the colours of the thick lines, which are the means in the legend."""
    return [
        str(line.get_color())
        for line in axis.lines
        if line.get_linewidth() == 2 and len(line.get_xdata())
    ]


def test_one_run_is_drawn_with_its_single_lines(make, figure):
    returns = np.arange(20.0)
    axis = figure([make(returns=returns)]).axes[0]
    single, smooth = axis.lines
    np.testing.assert_array_equal(single.get_ydata(), returns)
    np.testing.assert_array_equal(single.get_xdata(), STEPS)
    assert (
        smooth.get_ydata()[-1] == returns[-plots.WINDOW :].mean() and smooth.get_ydata()[0] == 0.0
    )
    assert not axis.collections, "one run has no range"
    assert legend(axis.figure) == ["a2c gymnax:CartPole-v1"]


def test_runs_that_differ_in_the_seed_are_averaged_with_their_range(make, figure):
    runs = [make(seed=seed, returns=np.full(20, 10.0 * seed)) for seed in range(3)]
    runs += [make("a3c", seed=seed, returns=np.full(20, 100.0)) for seed in range(2)]
    drawn = figure(runs)
    assert legend(drawn) == ["a2c gymnax:CartPole-v1 (3 seeds)", "a3c gymnax:CartPole-v1 (2 seeds)"]
    for axis in drawn.axes:
        assert colours(axis) == ["C0", "C1"]
        means = [
            line.get_ydata()
            for line in axis.lines
            if line.get_linewidth() == 2 and len(line.get_xdata())
        ]
        np.testing.assert_allclose(
            means, [np.full(plots.POINTS, 10.0), np.full(plots.POINTS, 100.0)]
        )
        low, high = (f(axis.collections[0].get_paths()[0].vertices[:, 1]) for f in (np.min, np.max))
        assert (low, high) == (0.0, 20.0)


def test_a_mean_is_over_the_steps_that_all_runs_have():
    long = Curve(np.array([0.0, 10.0]), np.array([0.0, 10.0]))
    short = Curve(np.array([2.0, 6.0]), np.array([8.0, 8.0]))
    mean = averaged([long, short])
    assert (mean.x[0], mean.x[-1]) == (2.0, 6.0) and len(mean.x) == plots.POINTS
    np.testing.assert_allclose(mean.mean, (mean.x + 8.0) / 2)
    np.testing.assert_allclose(mean.low, mean.x)
    np.testing.assert_allclose(mean.high, 8.0)
    assert averaged([long, Curve(np.array([11.0, 12.0]), np.zeros(2))]) is None


def test_what_a_longer_run_did_is_drawn_too(make, figure):
    axis = figure([make(seed=0), make(seed=1, steps=STEPS[:5])]).axes[0]
    (faint,) = [
        line for line in axis.lines if line.get_linewidth() == 1 and len(line.get_xdata()) > 1
    ]
    np.testing.assert_array_equal(faint.get_xdata(), STEPS[4:])


def test_a_label_names_the_settings_that_differ_and_no_other(make):
    rates = [make(learning_rate=rate, seed=seed) for rate in (1e-3, 3e-3) for seed in range(2)]
    other = make("a3c", num_workers=4)
    assert list(sets_of([*rates, other])) == [
        "a2c gymnax:CartPole-v1, learning_rate=0.001 (2 seeds)",
        "a2c gymnax:CartPole-v1, learning_rate=0.003 (2 seeds)",
        "a3c gymnax:CartPole-v1, learning_rate=0.005",
    ]
    assert list(sets_of([*rates[:2], other])) == [
        "a2c gymnax:CartPole-v1 (2 seeds)",
        "a3c gymnax:CartPole-v1",
    ], "methods differ in many defaults, which their names stand for"


def test_what_training_does_not_depend_on_makes_no_other_set(make):
    runs = [make(seed=3), make(seed=3, eval_episodes=0), make(seed=4, eval_max_steps=900)]
    assert {label: len(found) for label, found in sets_of(runs).items()} == {
        "a2c gymnax:CartPole-v1 (3 runs)": 3  # two seeds only
    }
    assert {label: len(found) for label, found in sets_of([*runs[:1] * 3]).items()} == {
        "a2c gymnax:CartPole-v1": 1  # the same run three times
    }
    assert set(METHODS["a3c"].fields) > plots.UNSEEN


def test_long_labels_are_shortened_and_still_tell_sets_apart(make):
    hidden = [(64,) * 9 + (width,) for width in (8, 16)]
    labels = list(sets_of([make(hidden=widths) for widths in hidden]))
    assert labels == [
        "a2c gymnax:CartPole-v1, hidden=(64 64 64 64 64 64 64 6… [run0]",
        "a2c gymnax:CartPole-v1, hidden=(64 64 64 64 64 64 64 6… [run1]",
    ]
    different = {
        "num_envs": 8,
        "num_steps": 9,
        "learning_rate": 0.1,
        "gamma": 0.5,
        "ent_coef": 0.2,
        "lstm": True,
    }
    first, second = sets_of([make(), make(**different)])
    words = "gamma=0.99, ent_coef=0.01, num_envs=16, num_steps=5, 2 more settings"
    assert first == f"a2c gymnax:CartPole-v1, {words}"
    words = "gamma=0.5, ent_coef=0.2, num_envs=8, num_steps=9, 2 more settings"
    assert second == f"a2c gymnax:CartPole-v1, {words}"


def test_a_run_of_an_older_version_is_of_the_set_of_the_defaults(make):
    old, new = make(seed=0), make(seed=1)
    content = json.loads((old.path / "config.json").read_text())
    del content["settings"]["eval_max_steps"]
    (old.path / "config.json").write_text(json.dumps(content))
    assert list(sets_of([old, new])) == ["a2c gymnax:CartPole-v1 (2 seeds)"]


def test_a_plot_of_many_sets_keeps_its_curves_free(make, figure):
    """The legend is below the axes, and each set has exactly one colour."""
    env_id = "gymnasium:some_long.module_of_environments:Env-v0"
    drawn = figure(
        [make(env_id=env_id, learning_rate=1e-3 * (1 + i % 12), seed=i) for i in range(24)]
    )
    assert len(set(colours(drawn.axes[0]))) == 12 == len(legend(drawn))
    drawn.canvas.draw()
    below = drawn.legends[0].get_window_extent().y1
    assert all(axis.get_tightbbox().y0 >= below and axis.bbox.width > 200 for axis in drawn.axes)


def test_a_legend_of_long_lines_fits_the_picture(make, figure):
    env_id = "gymnasium:some_long.module_of_environments.with_many_parts:Env-v0"
    more = {"num_envs": 8, "num_steps": 9, "learning_rate": 0.1, "optimizer": "momentum-sgd"}
    drawn = figure([make(env_id=env_id), make(env_id=env_id, **more)])
    drawn.canvas.draw()
    box = drawn.legends[0].get_window_extent()
    assert box.x0 >= 0 and box.x1 <= drawn.bbox.width


def test_a_run_without_an_episode_is_refused(make, tmp_path):
    with pytest.raises(InputError, match="has recorded no complete episode yet"):
        learning_curves([make(returns=[None] * 20)], tmp_path / "x.png")
