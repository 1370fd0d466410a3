"""Does it learn Atari, in the time and on the cores that a reader has?

    python benchmarks/atari.py --game Pong --minutes 100 a2c
    python benchmarks/atari.py --evaluate      play games with the runs that exist, and draw
    python benchmarks/atari.py --table         print the result that exists

The script trains with the shared preset of Atari games for a number of minutes, all named methods
at the same time, each in its own process. It writes `results/atari.json` and `results/atari.png`:
the return of the games played while training, against time and against frames, next to the paper's
curves for A3C.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from benchmarks.frame.pictures import save
from benchmarks.frame.results import PAPER, Rows, parser_of, print_result, publish, result_path
from benchmarks.frame.summaries import short_commit, short_id
from benchmarks.frame.tables import Column, Table, field
from jax_a3c.evaluation.score import evaluate_run
from jax_a3c.experiment.run_directory import RunDirectory

LABELS = {"a2c": "A2C", "a3c": "A3C, 2 workers"}
FRAMES_PER_STEP = 4
FRAMES_PER_EPOCH = 4_000_000
EPISODES = 30


def main() -> None:
    """Train, evaluate, write the result, draw it and print a table."""
    parser = parser_of(__doc__)
    parser.add_argument("methods", nargs="*", help="a2c, a3c; trained at the same time")
    parser.add_argument("--game", default="Pong", help="name of the game")
    parser.add_argument("--minutes", type=float, default=100, help="length of the training")
    parser.add_argument("--seed", type=int, default=0, help="seed of the runs")
    parser.add_argument("--evaluate", action="store_true", help="train nothing; play and draw")
    parser.add_argument("--runs", type=Path, default=Path("runs/atari"), help="folder of the runs")
    args = parser.parse_args()
    out = result_path("atari", args.out)
    if args.table:
        return print_result(out, tables)

    # Train for the given time, then evaluate all runs of the folder.
    if args.methods and not args.evaluate:
        train(args.methods, args.game, args.minutes, args.seed, args.runs)
    runs = [RunDirectory(path.parent) for path in sorted(args.runs.glob("*/summary.json"))]
    rows = [row_of(run) for run in runs if run.summary()["status"] != "failed"]
    publish(out, rows, tables, episodes=EPISODES)
    plot(rows, out.with_suffix(".png"))


def train(methods: list[str], game: str, minutes: float, seed: int, runs: Path) -> None:
    """Train with all methods at the same time, and interrupt them at the end."""
    processes: list[subprocess.Popen] = []
    try:
        for method in methods:
            folder = runs / f"{game.lower()}-{method}-{seed}"
            command = [sys.executable, "-m", "jax_a3c.cli", "train", method, f"envpool:{game}-v5"]
            flags = ["--seed", str(seed), "--run-dir", str(folder), "--quiet"]
            processes.append(subprocess.Popen([*command, *flags]))

        # Wait for the clock, or for all processes to end.
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            time.sleep(1)
    finally:
        # SIGTERM ends a run with a checkpoint and a summary.
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def row_of(run: RunDirectory) -> dict[str, Any]:
    """Return the counts of a run, its training curve, and an evaluation of its final parameters."""
    method, env_id, settings = run.config()
    summary = run.summary()
    curve = [(row["env_steps"], row["seconds"], row["episode_return"]) for row in run.metrics()]
    # An interval without a finished game has no return.
    curve = [point for point in curve if point[2] is not None]

    environment = json.loads((run.path / "env.json").read_text())
    return {
        "method": method,
        "env": env_id,
        "seed": settings.seed,
        "git_commit": environment["git_commit"],
        "env_steps": summary["env_steps"],
        "seconds": round(summary["seconds"], 1),
        "env_steps_per_second": round(summary["env_steps_per_second"], 1),
        "mean_staleness": summary["mean_staleness"],
        "training": {
            "env_steps": [steps for steps, _, _ in curve],
            "seconds": [round(seconds, 1) for _, seconds, _ in curve],
            "return": [round(value, 3) for _, _, value in curve],
        },
        "evaluation": evaluate_run(run, num_episodes=EPISODES, seed=1),
    }


def first_above_zero(row: dict[str, Any]) -> str:
    """Return when a game of training first brought a mean return above 0."""
    curve = row["training"]
    for steps, seconds, value in zip(
        curve["env_steps"], curve["seconds"], curve["return"], strict=True
    ):
        if value > 0:
            frames = steps * FRAMES_PER_STEP
            return f"{seconds / 60:.0f} min, {steps / 1e6:.1f} M steps, {frames / 1e6:.0f} M frames"
    return "never"


def score_of(policy: str, row: dict[str, Any]) -> str:
    """Return the mean return of an evaluation, its deviation, and the share of a human's score."""
    scores = row["evaluation"]
    mean = scores[f"eval_{policy}_return_mean"]
    deviation = scores[f"eval_{policy}_return_std"]
    human = scores[f"eval_{policy}_human_normalized"]
    return f"{mean:.1f}, deviation {deviation:.1f}, {human:.0f} % of a human"


def interval_of(row: dict[str, Any]) -> str:
    """Return the 95 % interval of the mean return of the sampled policy."""
    low, high = row["evaluation"]["eval_return_interval"]
    return f"{low:.1f} to {high:.1f}"


COLUMNS = (
    Column("run", lambda row: f"{LABELS[row['method']]}, `{row['env']}`"),
    field("seed", "seed"),
    Column(
        "length", lambda row: f"{row['seconds'] / 60:.0f} min, {row['env_steps'] / 1e6:.1f} M steps"
    ),
    Column("training return first above 0", first_above_zero),
    Column(f"greedy, {EPISODES} games", lambda row: score_of("greedy", row)),
    Column(f"sampled, {EPISODES} games", lambda row: score_of("sampled", row)),
    Column("95 % interval, sampled", interval_of),
    field("mean staleness", "mean_staleness", ".1f"),
    Column("commit", lambda row: short_commit(row["git_commit"])),
)


def tables(rows: Rows) -> list[Table]:
    """Return the table of the runs."""
    return [Table(COLUMNS, rows)]


def plot(rows: Rows, path: Path) -> None:
    """Draw return against minutes, and against frames with the paper's curves."""
    paper = json.loads((PAPER / "a3c_curves.json").read_text())["epochs"]
    games = sorted({row["env"] for row in rows})
    figure = Figure(figsize=(10, 0.8 + 3.4 * len(games)), layout="constrained")
    all_axes = figure.subplots(len(games), 2, squeeze=False)

    for env_id, (time_axis, frame_axis) in zip(games, all_axes, strict=True):
        game = short_id(env_id).removesuffix("-v5")
        for number, row in enumerate(row for row in rows if row["env"] == env_id):
            x = row["training"]
            style = {"color": f"C{number}", "linewidth": 1.8, "label": LABELS[row["method"]]}
            time_axis.plot(np.array(x["seconds"]) / 60, x["return"], **style)
            frame_axis.plot(np.array(x["env_steps"]) * FRAMES_PER_STEP, x["return"], **style)

        # The paper's curves, darker with more threads.
        longest = max(row["env_steps"] for row in rows if row["env"] == env_id) * FRAMES_PER_STEP
        for name, points in paper.get(game, {}).items():
            epochs, score = np.array(points).T
            shade = {"color": "0.5", "alpha": 0.35 + 0.1 * name.count("1"), "linewidth": 1}
            frame_axis.plot(epochs * FRAMES_PER_EPOCH, score, **shade, label=f"paper: {name}")

        frame_axis.set_xlim(0, max(longest, 10 * FRAMES_PER_EPOCH))
        frame_axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        time_axis.set(
            xlabel="minutes on 2 cores", ylabel=f"{game}, return of a game", xlim=(0, None)
        )
        frame_axis.set(xlabel="frames")
        for axis in (time_axis, frame_axis):
            axis.grid(alpha=0.3)
        frame_axis.legend(fontsize="small")
    save(figure, path)


if __name__ == "__main__":
    main()
