"""Learning curves of runs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jax_a3c.checks import InputError
from jax_a3c.training.run_directory import RunDirectory, check_recorded

WINDOW = 9
"""Lines of `metrics.jsonl` over which a curve is averaged; the single lines are shown faintly."""


def learning_curves(runs: Sequence[RunDirectory], output: Path) -> Path:
    """Draw the mean return of training episodes against environment steps and against seconds.

    Args:
      runs: at least one; runs of the same method and environment get the same colour.
      output: the PNG file to write.

    Returns:
      `output`.

    Raises:
      InputError: if a run has recorded no episode, `output` cannot be written, or matplotlib is missing.
    """
    try:
        from matplotlib import colormaps
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need the extra of that name: pip install 'jax-a3c[plots]'") from None
    if output.suffix != ".png":
        raise InputError(f"output must end in .png, got {str(output)!r}")
    names = list(dict.fromkeys(" ".join(run.config()[:2]) for run in runs))
    columns = max(1, min(3, len(names), 100 // max(map(len, names), default=1)))
    rows = -(-len(names) // columns)
    # Figure and canvas without pyplot: no global state, no choice of a window system.
    figure = Figure(figsize=(9, 3.6 + 0.25 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, sharey=True)
    cycle = (
        [f"C{i}" for i in range(10)]
        if len(names) <= 10
        else colormaps["turbo"](np.linspace(0, 1, len(names)))
    )
    colours = dict(zip(names, cycle, strict=False))
    for run in runs:
        colour = colours[" ".join(run.config()[:2])]
        steps, seconds, returns = _curve(run)
        for axis, x in zip(axes, (steps, seconds), strict=True):
            axis.plot(x, returns, color=colour, alpha=0.25, linewidth=1)
            axis.plot(x, _smooth(returns), color=colour, linewidth=2)
    for axis, name in zip(axes, ("environment steps", "seconds of training"), strict=True):
        axis.set_xlabel(name)
        axis.set_xlim(left=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("mean return of training episodes")
    for name, colour in colours.items():
        axes[1].plot([], [], color=colour, linewidth=2, label=name)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=130, format="png")
    except OSError as error:
        raise InputError(f"output {str(output)!r} cannot be written: {error}") from error
    return output


def _curve(run: RunDirectory) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Steps, seconds and mean return of the lines in which an episode ended."""
    rows = [row for row in run.metrics() if row.get("episode_return") is not None]
    if not rows:
        raise InputError(f"{str(run.path)!r} has recorded no complete episode yet")
    columns = {name: [row.get(name) for row in rows] for name in ("env_steps", "seconds", "episode_return")}
    for name, column in columns.items():
        for value in column:
            check_recorded(f"{name} in {run.path / 'metrics.jsonl'}", value)
    steps, seconds, returns = (np.asarray(column, float) for column in columns.values())
    return steps, seconds, returns


def _smooth(values: np.ndarray) -> np.ndarray:
    """Mean over the last `WINDOW` points, at the start over those that there are: no look ahead."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - WINDOW, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)
