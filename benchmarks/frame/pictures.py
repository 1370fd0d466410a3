"""Pictures: figures without a display, curves over seeds, files."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


def canvas(columns: int, *, height: float = 4.2, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    """Return a figure with that many axes side by side."""
    figure = Figure(figsize=(max(7.0, width * columns), height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def plot_mean_and_range(
    axis: Axes, runs: list[dict[str, list[float]]], x: str, y: str, colour: str, **style: Any
) -> None:
    """Draw the mean curve of some runs, and shade from the lowest to the highest."""
    grid = np.linspace(0, min(run[x][-1] for run in runs), 200)
    curves = np.array([np.interp(grid, run[x], run[y]) for run in runs])

    axis.plot(grid, curves.mean(axis=0), color=colour, **style)
    low = curves.min(axis=0)
    high = curves.max(axis=0)
    axis.fill_between(grid, low, high, color=colour, alpha=0.15, linewidth=0)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, format="png")
    print(f"wrote {path}")
