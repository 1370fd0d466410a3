"""Summaries of numbers: median and range, and how a cell of a table shows them."""

import statistics
from collections.abc import Sequence


def spread(values: Sequence[float], digits: int = 3) -> dict[str, float]:
    """Return median, minimum and maximum."""
    ordered = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in ordered.items()}


def ranged(values: dict[str, float], form: str = ",.0f") -> str:
    """Format a `spread` as `median (min to max)`."""
    return with_range(values["median"], values["min"], values["max"], form)


def with_range(middle: float, low: float, high: float, form: str | None = None) -> str:
    """Format `middle (low to high)`; without a format the size of the numbers chooses it."""
    form = form or form_for(middle, low, high)
    return f"{middle:{form}} ({low:{form}} to {high:{form}})"


def form_for(*values: float) -> str:
    """Return a format that shows about three digits of the largest number."""
    largest = max(abs(value) for value in values)
    return ".2f" if largest < 10 else ".1f" if largest < 100 else ",.0f"


def short_id(env_id: str) -> str:
    """Return an environment's id without its library."""
    return env_id.partition(":")[2]


def short_commit(commit: str | None) -> str:
    """Return the first digits of a commit; say so if the code had changes on top of it."""
    if not commit:
        return "unknown"
    return commit[:10] + (" with local changes" if commit.endswith("-dirty") else "")
