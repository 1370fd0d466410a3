"""Draw the learning curves of runs."""

import dataclasses
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jax_a3c.errors import InputError
from jax_a3c.experiment.run_directory import RunDirectory, check_recorded
from jax_a3c.settings.run import Settings

WINDOW = 9
"""Lines of `metrics.jsonl` that a curve averages. A single run also shows them faintly."""
POINTS = 200
"""Points of the grid on which the runs of a set are averaged; a run writes as many lines."""
UNSEEN = frozenset({"seed", "eval_episodes", "eval_max_steps", "eval_policy", "worker_timeout"})
"""Settings that do not distinguish curves: the seed and all that do not affect training."""
LINE = 100
"""Maximum number of characters on one line of the legend."""
SHOWN_SETTINGS = 4
"""Maximum number of settings in a label. The label counts the others."""
SHOWN_CHARACTERS = 24
"""Maximum number of characters of a value in a label."""


class Curve(NamedTuple):
    """The learning curve of one run, or the mean of several.

    Attributes:
      x: environment steps or seconds of training.
      mean: mean return at each x.
      low: smallest return of any run; None for a single run.
      high: largest return of any run; None for a single run.
    """

    x: np.ndarray
    mean: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None


def learning_curves(runs: Sequence[RunDirectory], output: Path) -> Path:
    """Draw the mean return of training episodes against environment steps and against seconds.

    Runs that differ only in the seed form one set. A set of several runs is drawn as the line of
    their mean and a band from the smallest to the largest return. Each set has its own colour and
    a label, see `sets_of`.

    Args:
      runs: at least one run. A run that occurs twice is drawn once.
      output: PNG file to write.

    Returns:
      `output`.

    Raises:
      InputError: if a run has recorded no complete episode, if `output` cannot be written, or if
        matplotlib is not installed.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "plots need matplotlib, which is not installed: pip install 'jax-a3c[plots]'"
        ) from None
    if output.suffix != ".png":
        raise InputError(f"output must end in .png, got {str(output)!r}")

    # Wrap the labels and choose the columns of the legend by the longest one.
    sets = sets_of(runs)
    labels = [textwrap.fill(label, LINE, subsequent_indent="   ") for label in sets]
    columns = max(1, min(3, len(sets), LINE // max(map(len, sets), default=1)))
    rows = -(-sum(label.count("\n") + 1 for label in labels) // columns)

    # Without pyplot there is no global state and no window system.
    figure = Figure(figsize=(9, 3.6 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    colours: Any = [f"C{i}" for i in range(10)]
    if len(sets) > 10:
        colours = colormaps["turbo"](np.linspace(0, 1, len(sets)))

    # Draw each set against steps on the left and against seconds on the right.
    for label, members, colour in zip(labels, sets.values(), colours, strict=False):
        recorded = [_recorded(run) for run in members]
        for axis, x in zip(axes, ("env_steps", "seconds"), strict=True):
            curves = [Curve(columns_of[x], columns_of["episode_return"]) for columns_of in recorded]
            _draw(axis, curves, colour)
        axes[1].plot([], [], color=colour, linewidth=2, label=label)

    # Label the axes; both share the legend.
    for axis, name in zip(axes, ("environment steps", "seconds of training"), strict=True):
        axis.set_xlabel(name)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean return of training episodes")
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)

    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=130, format="png")
    except OSError as error:
        raise InputError(f"output {str(output)!r} cannot be written: {error}") from error
    return output


def sets_of(runs: Sequence[RunDirectory]) -> dict[str, list[RunDirectory]]:
    """Group runs that differ only in the seed.

    Args:
      runs: runs in the order in which their sets are drawn. A folder that occurs twice counts once.

    Returns:
      The runs of each set by its label. A label names the method, the environment and the settings
      in which sets of this method and environment differ. If the set has several runs, the label
      also gives their number.
    """
    # The key of a set holds all that distinguishes its curve.
    found: dict[Any, list[tuple[RunDirectory, int]]] = {}
    paths = set()
    for run in runs:
        method, env_id, settings = run.config()
        path = run.path.resolve()
        if path in paths:
            continue
        paths.add(path)
        found.setdefault((method, env_id, _seen(settings)), []).append((run, settings.seed))

    # Long values are cut, so two sets may get the same label: add a folder to each.
    names = _differing(found)
    labels = [_label(method, env_id, dict(seen), names) for method, env_id, seen in found]
    counts = Counter(labels)
    sets: dict[str, list[RunDirectory]] = {}
    for label, members in zip(labels, found.values(), strict=True):
        if counts[label] > 1:
            label = f"{label} [{members[0][0].path.name}]"
        sets[label + _count([seed for _, seed in members])] = [run for run, _ in members]
    return sets


def averaged(curves: Sequence[Curve]) -> Curve | None:
    """Return the mean and the range of several curves on a grid over their common x.

    Args:
      curves: at least one curve, each with increasing x.

    Returns:
      The mean, smallest and largest value at each point of the grid, interpolated linearly between
      the points of each curve. None if the curves have no common x.
    """
    start = max(curve.x[0] for curve in curves)
    end = min(curve.x[-1] for curve in curves)
    if start >= end:
        return None
    x = np.linspace(start, end, POINTS)
    values = np.stack([np.interp(x, curve.x, curve.mean) for curve in curves])
    return Curve(x, values.mean(0), values.min(0), values.max(0))


def _draw(axis: Any, curves: Sequence[Curve], colour: Any) -> None:
    """Draw one set: a single run with its unsmoothed points, several runs as mean and range."""
    smooth = [Curve(curve.x, _smooth(curve.mean)) for curve in curves]
    faint: dict[str, Any] = {"color": colour, "alpha": 0.25, "linewidth": 1}
    if len(curves) == 1:
        axis.plot(curves[0].x, curves[0].mean, **faint)
        axis.plot(smooth[0].x, smooth[0].mean, color=colour, linewidth=2)
        return

    mean = averaged(smooth)
    end = -np.inf
    if mean is not None:
        axis.fill_between(mean.x, mean.low, mean.high, color=colour, alpha=0.15, linewidth=0)
        axis.plot(mean.x, mean.mean, color=colour, linewidth=2)
        end = mean.x[-1]

    # A mean over fewer runs would jump, so the rest of each longer run is drawn separately.
    for curve in smooth:
        longer = curve.x >= end
        axis.plot(curve.x[longer], curve.mean[longer], **faint)


def _seen(settings: Settings) -> tuple[tuple[str, Any], ...]:
    """Return the names and values of the settings that distinguish curves."""
    return tuple(item for item in dataclasses.asdict(settings).items() if item[0] not in UNSEEN)


def _differing(sets: Iterable[tuple[str, str, tuple[tuple[str, Any], ...]]]) -> list[str]:
    """Return the names of the settings in which sets of one method and environment differ."""
    values: dict[tuple[str, str, str], set[Any]] = {}
    for method, env_id, seen in sets:
        for name, value in seen:
            values.setdefault((method, env_id, name), set()).add(value)
    return list(
        dict.fromkeys(name for (*_, name), different in values.items() if len(different) > 1)
    )


def _label(method: str, env_id: str, settings: dict[str, Any], names: Sequence[str]) -> str:
    """Return the label of a set without the number of its runs."""
    # Leave out the settings that this method does not have.
    named = [name for name in names if name in settings]

    words = [f"{name}={_short(settings[name])}" for name in named[:SHOWN_SETTINGS]]
    if len(named) > SHOWN_SETTINGS:
        words.append(f"{len(named) - SHOWN_SETTINGS} more settings")
    return ", ".join([f"{method} {env_id}", *words])


def _short(value: Any) -> str:
    """Return the text of a value, cut to `SHOWN_CHARACTERS`."""
    if isinstance(value, tuple):
        text = "(" + " ".join(map(_short, value)) + ")"
    elif isinstance(value, float):
        text = f"{value:g}"
    elif isinstance(value, int) and not isinstance(value, bool):
        text = f"{value:,}" if value < 10**6 else f"{value:g}"
    else:
        text = str(value)
    return text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"


def _count(seeds: Sequence[int]) -> str:
    """Return the number of runs in a set, empty for one; it counts seeds if all of them differ."""
    if len(seeds) == 1:
        return ""
    return f" ({len(seeds)} {'seeds' if len(set(seeds)) == len(seeds) else 'runs'})"


def _recorded(run: RunDirectory) -> dict[str, np.ndarray]:
    """Return steps, seconds and mean return of the lines in which an episode ended, by name."""
    rows = [row for row in run.metrics() if row.get("episode_return") is not None]
    if not rows:
        raise InputError(f"{str(run.path)!r} has recorded no complete episode yet")

    # The file may have been edited: check that every value is a number.
    columns = {
        name: [row.get(name) for row in rows] for name in ("env_steps", "seconds", "episode_return")
    }
    for name, column in columns.items():
        for value in column:
            check_recorded(f"{name} in {run.path / 'metrics.jsonl'}", value)
    return {name: np.asarray(column, float) for name, column in columns.items()}


def _smooth(values: np.ndarray) -> np.ndarray:
    """Return the mean of the last `WINDOW` points at each point, of fewer at the start."""
    # The mean of a window is a difference of two cumulative sums.
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
