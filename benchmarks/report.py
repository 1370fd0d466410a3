"""What did the benchmarks measure? One page and its pictures, from the result files.

    python benchmarks/report.py [--results benchmarks/results] [--out runs/bench/report.html]

Pictures go next to the results they show, and into the page itself, which needs no other file. Below each
stand machine, versions and commit of its result. A result that is missing is named, and no error. The tables
are those that the scripts print.
"""

import argparse
import base64
import html
import importlib
import io
import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter
from measure import RESULTS
from worker_time import SEGMENT

TABLE_2 = Path(__file__).parent / "paper" / "table2.json"
MODES = {"env": "environment alone", "act": "and acting", "learn": "and learning"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68em; margin: 2em auto; padding: 0 1em; color: #222; }
img { max-width: 100%; } figcaption { color: #666; font-size: 0.85em; } .missing { color: #a40; }
figure { margin: 1em 0; } div { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8em; margin: 1em 0; }
td, th { padding: 0.15em 0.7em; border-bottom: 1px solid #ddd; text-align: left; white-space: nowrap; }
"""

Rows = list[dict[str, Any]]
Draw = Callable[[Rows], Figure | None]
"""Draws the rows of a result; None if they hold nothing to draw."""


class Section(NamedTuple):
    """One chapter of the page.

    Attributes:
      name: of the script and of its result.
      title: of the chapter.
      text: what the picture shows.
      pictures: by name; one that is not of the script's own is `<name>_<picture>.png`.
      without: by picture, what to say where there is nothing to draw.
    """

    name: str
    title: str
    text: str
    pictures: dict[str, Draw]
    without: dict[str, str] = {}  # noqa: RUF012


def main() -> None:
    """Draw, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the result files are")
    parser.add_argument("--out", type=Path, default=Path("runs", "bench", "report.html"))
    args = parser.parse_args()
    parts = [chapter(section, args.results) for section in SECTIONS]
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>jax_a3c: benchmarks</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>jax_a3c: benchmarks</h1>
<p>Steps are environment steps. Lines and bars are medians, ranges those over the rounds.</p>
{"".join(parts)}</body></html>
"""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    print(f"wrote {args.out}")


def chapter(section: Section, results: Path) -> str:
    """A section in HTML; its pictures are written beside the result."""
    heading = f"<h2>{html.escape(section.title)}</h2>\n"
    path = results / f"{section.name}.json"
    if not path.exists():
        how = f"There is no {path.name} in {results}: benchmarks/{section.name}.py writes it."
        return f'{heading}<p class="missing">{html.escape(how)}</p>\n'
    result = json.loads(path.read_text())
    caption = caption_of(result)
    parts = [heading, f"<p>{html.escape(section.text)}</p>\n"]
    for name, draw in section.pictures.items():
        figure = draw(result["rows"])
        if figure is None:
            parts.append(f"<p>{html.escape(section.without[name])}</p>\n")
        else:
            parts.append(picture(figure, results / f"{name}.png", caption))
    table = importlib.import_module(section.name).markdown(result["rows"])
    parts.append(f"<div>{table_in_html(table)}</div>\n")
    if not section.pictures:
        parts.append(f"<p><small>{html.escape(caption)}</small></p>\n")
    return "".join(parts)


def caption_of(result: dict[str, Any]) -> str:
    """Machine, versions and commit of a result."""
    made = result["environment"]
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items())
    devices = sorted({row["device_kind"] for row in result["rows"] if "device_kind" in row})
    machine = ", ".join([f"{made['cpu']}, {made['cpu_cores']} cores", *devices])
    load = result["load_average"][0]
    commit = (made.get("git_commit") or "unknown")[:10]
    return (
        f"{machine}; Python {made['python']}, {versions}; commit {commit}; load average {load:.1f}"
    )


def picture(figure: Figure, path: Path, caption: str) -> str:
    """Write a picture, and give it as HTML with the file inside."""
    characters = int(17 * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(caption, characters), fontsize=7, color="0.4")
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format="png")
    path.write_bytes(buffer.getvalue())
    print(f"wrote {path}")
    data = base64.b64encode(buffer.getvalue()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{path.stem}" src="data:image/png;base64,{data}">' + (
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def table_in_html(table: str) -> str:
    """A Markdown table in HTML; text before and after it stays text."""
    lines, rows = [], []
    for line in table.splitlines():
        if not line.startswith("|"):
            lines.append(f"<p>{html.escape(line)}</p>" if line else "")
        elif set(line) - set("|-: "):
            cell = "td" if rows else "th"
            cells = (html.escape(text.strip()) for text in line.strip().strip("|").split("|"))
            rows.append("<tr>" + "".join(f"<{cell}>{text}</{cell}>" for text in cells) + "</tr>")
    return "\n".join(["<table>", *rows, "</table>", *lines])


def canvas(columns: int, *, height: float = 4.2, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    """A figure with so many axes side by side."""
    figure = Figure(figsize=(max(7.0, width * columns), height), layout="constrained")
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def values_of(rows: Rows, field: str) -> tuple[list[float], list[list[float]]]:
    """Medians, and the ranges around them as Matplotlib's error bars take them."""
    middle = [row[field]["median"] for row in rows]
    below = [row[field]["median"] - row[field]["min"] for row in rows]
    above = [row[field]["max"] - row[field]["median"] for row in rows]
    return middle, [below, above]


def single(rows: Rows) -> Rows:
    """The rows of one run each with the usual arithmetic, one for each form."""
    forms = {}
    for row in rows:
        if row.get("seeds", 1) == 1 and row.get("dtype", "float32") == "float32":
            names = ("device", "env", "num_envs", "num_steps", "mode")
            forms.setdefault(tuple(row[name] for name in names), row)
    return sorted(forms.values(), key=lambda row: row["num_envs"])


def draw_throughput(rows: Rows) -> Figure | None:
    """Steps per second against the number of environments, for each environment."""
    rows = single(rows)
    if not rows:
        return None
    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure, axes = canvas(len(env_ids))
    for axis, env_id in zip(axes, env_ids, strict=True):
        series: dict[tuple, Rows] = {}
        for row in rows:
            if row["env"] == env_id:
                series.setdefault((row["device"], row["num_steps"], row["mode"]), []).append(row)
        steps = {
            key[:2]: number for number, key in enumerate(dict.fromkeys(key[:2] for key in series))
        }
        for (device, num_steps, mode), points in series.items():
            style = {"env": ":", "act": "--", "learn": "-"}[mode]
            axis.errorbar(
                [row["num_envs"] for row in points],
                *values_of(points, "env_steps_per_second"),
                linestyle=style,
                marker="o",
                markersize=3,
                capsize=2,
                color=f"C{steps[device, num_steps]}",
                label=f"{device}, T={num_steps}, {MODES[mode]}",
            )
        axis.set(yscale="log", title=short(env_id), xlabel="environments")
        axis.set_xscale("log", base=16)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small", handlelength=4)
    axes[0].set_ylabel("steps per second")
    return figure


def draw_devices(rows: Rows) -> Figure | None:
    """Each device's best number of environments for learning, where one machine has two devices."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in single(rows):
        key = row["env"], row["device"]
        if row["mode"] == "learn" and rate(row) > (rate(best[key]) if key in best else 0.0):
            best[key] = row
    devices = sorted({device for _, device in best})
    if len(devices) < 2:
        return None
    env_ids = list(dict.fromkeys(env_id for env_id, _ in best))
    figure, (axis,) = canvas(1, height=3.6)
    number = EngFormatter(places=1, sep="")
    width = 0.8 / len(devices)
    for place, device in enumerate(devices):
        points = [best[env_id, device] for env_id in env_ids if (env_id, device) in best]
        places = [env_ids.index(row["env"]) + place * width for row in points]
        middle, bars = values_of(points, "env_steps_per_second")
        drawn = axis.bar(places, middle, width, yerr=bars, capsize=2, label=device)
        axis.bar_label(
            drawn, [f"{number(rate(row))}\nN={row['num_envs']:,}" for row in points], fontsize=7
        )
    axis.set_xticks(
        [i + width * (len(devices) - 1) / 2 for i in range(len(env_ids))],
        [short(e) for e in env_ids],
    )
    axis.set(yscale="log", ylabel="steps per second, learning")
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.margins(y=0.25)
    axis.legend()
    return figure


def draw_scaling(rows: Rows) -> Figure | None:
    """Speed against workers, beside the ideal and the paper's Table 2."""
    paper = json.loads(TABLE_2.read_text())
    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure, axes = canvas(len(env_ids))
    for axis, env_id in zip(axes, env_ids, strict=True):
        ticks = sorted({row["workers"] for row in rows if row["env"] == env_id})
        for lock, label in ((False, "lock-free"), (True, "locked")):
            points = [row for row in rows if row["env"] == env_id and row["lock"] is lock]
            workers = [row["workers"] * (1.02 if lock else 0.98) for row in points]
            axis.errorbar(
                workers,
                *values_of(points, "ratio_to_one_worker"),
                marker="o",
                capsize=3,
                label=label,
            )
        axis.plot(ticks, ticks, color="0.6", linestyle=":", label="ideal, a core for each")
        known = [
            (n, s)
            for n, s in zip(paper["threads"], paper["speedups"]["A3C"], strict=True)
            if n in ticks
        ]
        style = {"color": "0.4", "linestyle": "--", "marker": "s", "markersize": 4}
        axis.plot(*zip(*known, strict=True), **style, label="paper's Table 2: sooner to a score")
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(ticks)
        for numbers in (axis.xaxis, axis.yaxis):
            numbers.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.set(title=short(env_id), xlabel="workers of A3C")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("steps/s, to one lock-free worker")
    return figure


def draw_peers(rows: Rows) -> Figure | None:
    """Ratio to each peer, all rounds, with the goal."""
    if not rows:
        return None
    figure, (axis,) = canvas(1, height=1.6 + 0.42 * len(rows), width=9)
    for place, row in enumerate(rows):
        axis.plot(row["ratios"], [place] * len(row["ratios"]), ".", color="C0", alpha=0.4)
        axis.plot(
            row["ratio"]["median"], place, "o", color="C0", label="" if place else "ours / peer"
        )
        if row["goal"] is not None:
            axis.plot(row["goal"], place, "|", color="C3", markersize=16, markeredgewidth=2)
    axis.plot([], [], "|", color="C3", markersize=10, label="goal")
    axis.axvline(1.0, color="0.6", linewidth=1)
    groups = [
        row["group"] + ("" if row.get("device", "cpu") == "cpu" else f", {row['device']}")
        for row in rows
    ]
    names = [
        f"{group}: {row['ours']} / {row['peer']}" for group, row in zip(groups, rows, strict=True)
    ]
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="times as many steps per second as the peer; a dot is one round")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(fontsize="small")
    return figure


def draw_worker_time(rows: Rows) -> Figure | None:
    """The parts of a segment, for each environment and number of workers."""
    figure, (axis,) = canvas(1, height=1.8 + 0.55 * len(rows), width=10)
    names = list(dict.fromkeys(name for row in rows for name in pieces(row)))
    for place, row in enumerate(rows):
        left = 0.0
        for name, us in pieces(row).items():
            share = us / row["us_per_segment"]
            axis.barh(place, share, left=left, color=f"C{names.index(name)}", height=0.7)
            if share > 0.04:
                axis.text(
                    left + share / 2, place, f"{us:,.0f}", ha="center", va="center", fontsize=8
                )
            left += share
    for number, name in enumerate(names):
        axis.barh(0, 0, color=f"C{number}", label=name)
    labels = [f"{short(row['env'])}, workers: {row['workers']}" for row in rows]
    axis.set_yticks(range(len(rows)), labels)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of a segment's time; the numbers are microseconds")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    return figure


def pieces(row: dict[str, Any]) -> dict[str, float]:
    """Microseconds of a segment by part; that of one program divided as its parts are when they run alone."""
    parts = {name: numbers["us_per_segment"] for name, numbers in row["parts"].items()}
    if row["segment_alone"] is None:
        return parts
    us = parts.pop(SEGMENT)
    alone = {name: max(0.0, of["us"]) for name, of in row["segment_alone"].items()}
    names = {"call": "call of the program"}
    shares = {
        names.get(name, name): us * part / sum(alone.values()) for name, part in alone.items()
    }
    return {**shares, **parts}


def rate(row: dict[str, Any]) -> float:
    """Median of the steps per second."""
    return row["env_steps_per_second"]["median"]


def short(env_id: str) -> str:
    """An id without its library."""
    return env_id.partition(":")[2]


SECTIONS = (
    Section(
        "throughput",
        "Steps per second of A2C",
        "Against the number of environments, for each device: the environment alone, with the policy that "
        "acts, and with learning.",
        {"throughput": draw_throughput, "devices": draw_devices},
        {
            "throughput": "Nothing was measured with one seed and float32.",
            "devices": "The result has one device only, so there is no comparison of CPU and GPU.",
        },
    ),
    Section(
        "peers",
        "Beside other ways to write it",
        "Ratios of steps per second, each of two windows of one round.",
        {"peers": draw_peers},
        {"peers": "No peer was measured."},
    ),
    Section(
        "scaling",
        "Workers of A3C",
        "With a lock and without, as multiples of one lock-free worker in the same round. The paper's figure "
        "is another one: how much sooner more threads reach a score, with a core for each.",
        {"scaling": draw_scaling},
    ),
    Section(
        "worker_time",
        "Where the time of a worker goes",
        "One core for each worker. The parts of a segment that is one program are divided as they are alone.",
        {"worker_time": draw_worker_time},
    ),
    Section(
        "returns",
        "Return functions",
        "Ours beside those of rlax, from the same arrays; a call as its caller sees it.",
        {},
    ),
    Section("startup", "Start and memory", "Compilation, cold and from the cache, and memory.", {}),
)


if __name__ == "__main__":
    main()
