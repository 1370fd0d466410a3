"""Does it learn Atari, in the time and on the cores that a reader has?

    python benchmarks/atari.py --game Pong --minutes 100 a2c
    python benchmarks/atari.py --evaluate      play games with what was learned so far, and draw

Trains with the shared preset of Atari games for a number of minutes, all methods named at the same time, each
a process of its own. Writes `results/atari.json` and `results/atari.png`: the return of the games played
while training, against time and against frames, beside the paper's curves for A3C.
So far: on 2 cores that had other work to do A2C went from -20 to 0 in 66 minutes, A3C in 91.
"""

import argparse
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter
from measure import RESULTS, write_result

from jax_a3c.training.results import evaluate_run
from jax_a3c.training.run_directory import RunDirectory

PAPER = Path(__file__).parent / "paper" / "a3c_curves.json"
LABELS = {"a2c": "A2C", "a3c": "A3C, 2 workers"}
FRAMES_PER_STEP = 4
FRAMES_PER_EPOCH = 4_000_000
EPISODES = 30


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("methods", nargs="*", help="a2c, a3c; trained at the same time")
    parser.add_argument("--game", default="Pong")
    parser.add_argument("--minutes", type=float, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--evaluate", action="store_true", help="train nothing")
    parser.add_argument("--runs", type=Path, default=Path("runs/atari"), help="folder of the runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "atari.json")
    arguments = parser.parse_args()
    if arguments.methods and not arguments.evaluate:
        train(arguments.methods, arguments.game, arguments.minutes, arguments.seed, arguments.runs)
    runs = [RunDirectory(path.parent) for path in sorted(arguments.runs.glob("*/summary.json"))]
    rows = [row_of(run) for run in runs if run.summary()["status"] != "failed"]
    write_result(arguments.out, rows, episodes=EPISODES)
    for row in rows:
        print(
            f"{row['method']} {row['env']}: {row['env_steps']:,} steps in {row['seconds'] / 60:.0f} minutes"
        )
        print(f"  {row['evaluation']}")
    plot(rows, arguments.out.with_suffix(".png"))


def train(methods: list[str], game: str, minutes: float, seed: int, runs: Path) -> None:
    """Train all methods at the same time, and end them as Ctrl-C does."""
    processes: list[subprocess.Popen] = []
    try:
        for method in methods:
            folder = runs / f"{game.lower()}-{method}-{seed}"
            command = [sys.executable, "-m", "jax_a3c.cli", "train", method, f"envpool:{game}-v5"]
            flags = ["--seed", str(seed), "--run-dir", str(folder), "--quiet"]
            processes.append(subprocess.Popen([*command, *flags]))
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end and any(process.poll() is None for process in processes):
            time.sleep(1)
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait()


def row_of(run: RunDirectory) -> dict[str, Any]:
    """What a run was, the curve of its training, and an evaluation of its final parameters."""
    method, env_id, settings = run.config()
    summary = run.summary()
    curve = [(row["env_steps"], row["seconds"], row["episode_return"]) for row in run.metrics()]
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


def plot(rows: list[dict], path: Path) -> None:
    """Return against minutes, and against frames with the paper's curves."""
    paper = json.loads(PAPER.read_text())["epochs"]
    games = sorted({row["env"] for row in rows})
    figure = Figure(figsize=(10, 0.8 + 3.4 * len(games)), layout="constrained")
    FigureCanvasAgg(figure)
    for env_id, (time_axis, frame_axis) in zip(
        games, figure.subplots(len(games), 2, squeeze=False), strict=True
    ):
        game = env_id.partition(":")[2].removesuffix("-v5")
        for number, row in enumerate(row for row in rows if row["env"] == env_id):
            x, y = row["training"], row["training"]["return"]
            style = {"color": f"C{number}", "linewidth": 1.8, "label": LABELS[row["method"]]}
            time_axis.plot(np.array(x["seconds"]) / 60, y, **style)
            frame_axis.plot(np.array(x["env_steps"]) * FRAMES_PER_STEP, y, **style)
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
    figure.savefig(path, dpi=130, format="png")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
