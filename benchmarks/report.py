"""What did the benchmarks of speed measure? One page and its pictures, from the result files.

    python benchmarks/report.py [--results benchmarks/results] [--out runs/bench/report.html]

The script writes the pictures next to the results they show, and into the page, which needs no
other file. Below each stand machine, versions and commit of its result. A missing result is named
and does not fail. The scripts print the same tables. `pages.py` writes the tables of the
documentation.
"""

import argparse
import base64
import html
import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, StrMethodFormatter

from benchmarks.frame.pictures import canvas, save
from benchmarks.frame.results import RESULTS, Rows, caption_of, matching, read_result
from benchmarks.frame.summaries import short_id
from benchmarks.frame.tables import as_html
from benchmarks.scaling import paper_speedups
from benchmarks.worker_time import SEGMENT

MODES = {"env": "environment alone", "act": "and acting", "learn": "and learning"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68em; margin: 2em auto; padding: 0 1em; }
body { color: #222; } img { max-width: 100%; } figcaption { color: #666; font-size: 0.85em; }
.missing { color: #a40; } figure { margin: 1em 0; } div { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.8em; margin: 1em 0; }
td, th { padding: 0.15em 0.7em; border-bottom: 1px solid #ddd; text-align: left; }
td, th { white-space: nowrap; }
"""

Draw = Callable[[Rows], Figure | None]
"""Draws the rows of a result; returns None if there is nothing to draw."""


class Section(NamedTuple):
    """One chapter of the page.

    Attributes:
      name: name of the script and of its result.
      title: title of the chapter.
      text: what the pictures show.
      pictures: functions that draw them, by the name of the file.
      without: what to write where there is nothing to draw, by the name of the picture.
    """

    name: str
    title: str
    text: str
    pictures: dict[str, Draw]
    without: dict[str, str] = {}  # noqa: RUF012


def main() -> None:
    """Draw, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result files")
    parser.add_argument("--out", type=Path, default=Path("runs", "bench", "report.html"))
    args = parser.parse_args()

    # Chapters first: they write the pictures.
    parts = [chapter(section, args.results) for section in SECTIONS]
    page = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>jax_a3c: benchmarks</title>
<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>
<h1>jax_a3c: benchmarks</h1>
<p>Steps are environment steps. Lines and bars are medians; ranges are over the rounds.</p>
{"".join(parts)}</body></html>
"""
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page)
    print(f"wrote {args.out}")


def chapter(section: Section, results: Path) -> str:
    """Return a section in HTML; write its pictures next to the result."""
    heading = f"<h2>{html.escape(section.title)}</h2>\n"
    path = results / f"{section.name}.json"
    if not path.exists():
        how = f"There is no {path.name} in {results}: benchmarks/{section.name}.py writes it."
        return f'{heading}<p class="missing">{html.escape(how)}</p>\n'

    result = read_result(path)
    caption = caption_of(result)
    parts = [heading, f"<p>{html.escape(section.text)}</p>\n"]
    for name, draw in section.pictures.items():
        figure = draw(result["rows"])
        if figure is None:
            parts.append(f"<p>{html.escape(section.without[name])}</p>\n")
        else:
            parts.append(picture(figure, results / f"{name}.png", caption))

    # The tables that the script itself prints.
    script = importlib.import_module(f"benchmarks.{section.name}")
    parts += [f"<div>{as_html(table)}</div>\n" for table in script.tables(result["rows"])]
    if not section.pictures:
        parts.append(f"<p><small>{html.escape(caption)}</small></p>\n")
    return "".join(parts)


def picture(figure: Figure, path: Path, caption: str) -> str:
    """Write a picture, and return it as HTML with the file inside."""
    characters = int(17 * figure.get_figwidth())
    figure.supxlabel(textwrap.fill(caption, characters), fontsize=7, color="0.4")
    save(figure, path)

    data = base64.b64encode(path.read_bytes()).decode()
    text = html.escape(caption)
    return f'<figure><img alt="{path.stem}" src="data:image/png;base64,{data}">' + (
        f"<figcaption>{text}</figcaption></figure>\n"
    )


def values_of(rows: Rows, field: str) -> tuple[list[float], list[list[float]]]:
    """Return medians, and the distances to the ends of their ranges, as error bars take them."""
    middle = [row[field]["median"] for row in rows]
    below = [row[field]["median"] - row[field]["min"] for row in rows]
    above = [row[field]["max"] - row[field]["median"] for row in rows]
    return middle, [below, above]


def single(rows: Rows) -> Rows:
    """Return one row per form, of those with one seed and float32."""
    forms = {}
    for row in rows:
        if row.get("seeds", 1) == 1 and row.get("dtype", "float32") == "float32":
            names = ("device", "env", "num_envs", "num_steps", "mode")
            forms.setdefault(tuple(row[name] for name in names), row)
    return sorted(forms.values(), key=lambda row: row["num_envs"])


def draw_throughput(rows: Rows) -> Figure | None:
    """Draw steps per second against the number of environments, for each environment."""
    rows = single(rows)
    if not rows:
        return None

    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure, axes = canvas(len(env_ids))
    for axis, env_id in zip(axes, env_ids, strict=True):
        # A colour per device and T, a line style per mode.
        series: dict[tuple, Rows] = {}
        for row in matching(rows, env=env_id):
            series.setdefault((row["device"], row["num_steps"], row["mode"]), []).append(row)
        colours = {form: n for n, form in enumerate(dict.fromkeys(key[:2] for key in series))}

        for (device, num_steps, mode), points in series.items():
            axis.errorbar(
                [row["num_envs"] for row in points],
                *values_of(points, "env_steps_per_second"),
                linestyle={"env": ":", "act": "--", "learn": "-"}[mode],
                marker="o",
                markersize=3,
                capsize=2,
                color=f"C{colours[device, num_steps]}",
                label=f"{device}, T={num_steps}, {MODES[mode]}",
            )
        axis.set(yscale="log", title=short_id(env_id), xlabel="environments")
        axis.set_xscale("log", base=16)
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axis.yaxis.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.legend(fontsize="x-small", handlelength=4)
    axes[0].set_ylabel("steps per second")
    return figure


def draw_devices(rows: Rows) -> Figure | None:
    """Draw each device's best number of environments for learning; None with one device."""
    best: dict[tuple[str, str], dict[str, Any]] = {}
    for row in single(rows):
        key = row["env"], row["device"]
        if row["mode"] == "learn" and rate(row) > (rate(best[key]) if key in best else 0.0):
            best[key] = row
    devices = sorted({device for _, device in best})
    if len(devices) < 2:
        return None

    # One group of bars per environment, one bar per device.
    env_ids = list(dict.fromkeys(env_id for env_id, _ in best))
    figure, (axis,) = canvas(1, height=3.6)
    number = EngFormatter(places=1, sep="")
    width = 0.8 / len(devices)
    for place, device in enumerate(devices):
        points = [best[env_id, device] for env_id in env_ids if (env_id, device) in best]
        places = [env_ids.index(row["env"]) + place * width for row in points]
        middle, bars = values_of(points, "env_steps_per_second")
        drawn = axis.bar(places, middle, width, yerr=bars, capsize=2, label=device)
        labels = [f"{number(rate(row))}\nN={row['num_envs']:,}" for row in points]
        axis.bar_label(drawn, labels, fontsize=7)

    middles = [i + width * (len(devices) - 1) / 2 for i in range(len(env_ids))]
    axis.set_xticks(middles, [short_id(env_id) for env_id in env_ids])
    axis.set(yscale="log", ylabel="steps per second, learning")
    axis.yaxis.set_major_formatter(EngFormatter(sep=""))
    axis.margins(y=0.25)
    axis.legend()
    return figure


def draw_scaling(rows: Rows) -> Figure | None:
    """Draw speed against workers, with the ideal and the paper's Table 2."""
    speedups = paper_speedups()
    env_ids = list(dict.fromkeys(row["env"] for row in rows))
    figure, axes = canvas(len(env_ids))
    for axis, env_id in zip(axes, env_ids, strict=True):
        ticks = sorted({row["workers"] for row in matching(rows, env=env_id)})
        for lock, label in ((False, "lock-free"), (True, "locked")):
            points = matching(rows, env=env_id, lock=lock)
            workers = [row["workers"] * (1.02 if lock else 0.98) for row in points]
            ratios = values_of(points, "ratio_to_one_worker")
            axis.errorbar(workers, *ratios, marker="o", capsize=3, label=label)

        # What to compare with: the ideal, and the paper's threads.
        axis.plot(ticks, ticks, color="0.6", linestyle=":", label="ideal, a core for each")
        known = [tick for tick in ticks if tick in speedups]
        style = {"color": "0.4", "linestyle": "--", "marker": "s", "markersize": 4}
        label = "paper's Table 2: sooner to a score"
        axis.plot(known, [speedups[tick] for tick in known], **style, label=label)

        # Powers of two on both axes.
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(ticks)
        for numbers in (axis.xaxis, axis.yaxis):
            numbers.set_major_formatter(EngFormatter(sep=""))
        axis.grid(alpha=0.3)
        axis.set(title=short_id(env_id), xlabel="workers of A3C")
        axis.legend(fontsize="small")
    axes[0].set_ylabel("steps/s, to one lock-free worker")
    return figure


def draw_peers(rows: Rows) -> Figure | None:
    """Draw the ratio to each peer, all rounds, with the goal."""
    if not rows:
        return None

    figure, (axis,) = canvas(1, height=1.6 + 0.42 * len(rows), width=9)
    names = []
    for place, row in enumerate(rows):
        axis.plot(row["ratios"], [place] * len(row["ratios"]), ".", color="C0", alpha=0.4)
        label = "" if place else "ours / peer"
        axis.plot(row["ratio"]["median"], place, "o", color="C0", label=label)
        if row["goal"] is not None:
            axis.plot(row["goal"], place, "|", color="C3", markersize=16, markeredgewidth=2)
        device = "" if row.get("device", "cpu") == "cpu" else f", {row['device']}"
        names.append(f"{row['group']}{device}: {row['ours']} / {row['peer']}")

    axis.plot([], [], "|", color="C3", markersize=10, label="goal")
    axis.axvline(1.0, color="0.6", linewidth=1)
    axis.set_yticks(range(len(rows)), names)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="times as many steps per second as the peer; a dot is one round")
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.tick_params(axis="y", labelsize=8)
    axis.legend(fontsize="small")
    return figure


def draw_worker_time(rows: Rows) -> Figure | None:
    """Draw the parts of a segment, for each environment and number of workers."""
    figure, (axis,) = canvas(1, height=1.8 + 0.55 * len(rows), width=10)
    names = list(dict.fromkeys(name for row in rows for name in pieces(row)))
    for place, row in enumerate(rows):
        left = 0.0
        for name, us in pieces(row).items():
            share = us / row["us_per_segment"]
            axis.barh(place, share, left=left, color=f"C{names.index(name)}", height=0.7)
            if share > 0.04:
                at = (left + share / 2, place)
                axis.text(*at, f"{us:,.0f}", ha="center", va="center", fontsize=8)
            left += share

    # Empty bars for the legend.
    for number, name in enumerate(names):
        axis.barh(0, 0, color=f"C{number}", label=name)
    labels = [f"{short_id(row['env'])}, workers: {row['workers']}" for row in rows]
    axis.set_yticks(range(len(rows)), labels)
    axis.invert_yaxis()
    axis.set(xlim=(0, 1), xlabel="share of a segment's time; the numbers are microseconds")
    figure.legend(loc="outside upper center", ncols=4, fontsize="small")
    return figure


def pieces(row: dict[str, Any]) -> dict[str, float]:
    """Return the microseconds of a segment by part.

    A segment that is one program is divided in the proportions of its parts when they run alone.
    """
    parts = {name: numbers["us_per_segment"] for name, numbers in row["parts"].items()}
    if row["segment_alone"] is None:
        return parts

    # The parts alone do not add up to the whole: scale them.
    us = parts.pop(SEGMENT)
    alone = {name: max(0.0, of["us"]) for name, of in row["segment_alone"].items()}
    names = {"call": "call of the program"}
    shares = {
        names.get(name, name): us * part / sum(alone.values()) for name, part in alone.items()
    }
    return {**shares, **parts}


def rate(row: dict[str, Any]) -> float:
    """Return the median of the steps per second."""
    return row["env_steps_per_second"]["median"]


SECTIONS = (
    Section(
        "throughput",
        "Steps per second of A2C",
        "Against the number of environments, for each device: the environment alone, with the "
        "policy that acts, and with learning.",
        {"throughput": draw_throughput, "devices": draw_devices},
        {
            "throughput": "Nothing was measured with one seed and float32.",
            "devices": "The result has one device only, so CPU and GPU are not compared.",
        },
    ),
    Section(
        "peers",
        "Compared with other ways to write it",
        "Ratios of steps per second, each of two windows of one round.",
        {"peers": draw_peers},
        {"peers": "No peer was measured."},
    ),
    Section(
        "scaling",
        "Workers of A3C",
        "With and without a lock, as multiples of one lock-free worker in the same round. The "
        "paper's figure has another meaning: how much sooner more threads reach a score, with a "
        "core for each.",
        {"scaling": draw_scaling},
    ),
    Section(
        "worker_time",
        "Where the time of a worker goes",
        "One core for each worker. The parts of a segment that is one program are divided in the "
        "proportions that they have alone.",
        {"worker_time": draw_worker_time},
    ),
    Section(
        "returns",
        "Return functions",
        "Ours and rlax's, from the same arrays; the time of a call as its caller sees it.",
        {},
    ),
    Section("startup", "Start and memory", "Compilation, cold and from the cache, and memory.", {}),
)


if __name__ == "__main__":
    main()
