"""How many steps per second do more workers of A3C make, with and without a lock?

    python benchmarks/scaling.py [--workers 1 2] [--repeats 15] [--timesteps 100000] [--short]

Each round runs every number of workers, lock-free and locked, one after the other; the ratio of a round
compares with one worker, lock-free, of the same round. Compilation is apart. Environment: CartPole, t_max 20,
an MLP of 2 x 64 units, Shared RMSProp, learning on.
"""

import argparse
import statistics
from pathlib import Path

from measure import RESULTS, spread, write_result
from tqdm import tqdm

from jax_a3c.asynchronous import use_worker_threads
from jax_a3c.training.experiment import build
from jax_a3c.training.settings import resolve

ENV = "gymnax:CartPole-v1"


def main() -> None:
    """Measure, print a table and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--timesteps", type=int, default=100_000, help="of each run")
    parser.add_argument("--short", action="store_true", help="1 and 2 workers, three rounds, into runs/bench")
    parser.add_argument("--out", type=Path, default=RESULTS / "scaling.json")
    args = parser.parse_args()
    use_worker_threads()
    if args.short:
        args.workers, args.repeats = [1, 2], 3
        args.out = Path("runs", "bench", "scaling.json")  # the committed result stays
    runs = {}
    for workers in sorted({1, *args.workers}):
        for lock in (False, True):
            settings = resolve("a3c", ENV, num_workers=workers, lock=lock, total_timesteps=args.timesteps)
            runs[workers, lock] = build("a3c", ENV, settings).trainer
    rounds = []
    for round_ in tqdm(range(-1, args.repeats), desc="rounds"):
        results = {key: trainer.run(round_ + 1) for key, trainer in runs.items()}
        if round_ >= 0:  # the first round compiles and warms up
            rounds.append(results)
    rows = []
    for workers, lock in runs:
        of_this = [results[workers, lock] for results in rounds]
        ratios = [
            r.env_steps_per_second / results[1, False].env_steps_per_second
            for r, results in zip(of_this, rounds, strict=True)
        ]
        seconds = [r.progress.seconds for r in of_this]
        rows.append(
            {
                "workers": workers,
                "lock": lock,
                "env_steps_per_second": spread([r.env_steps_per_second for r in of_this], 0),
                "updates_per_second": round(
                    statistics.median(r.progress.updates / s for r, s in zip(of_this, seconds, strict=True))
                ),
                "ratio_to_one_worker": spread(ratios, 2),
                "mean_staleness": round(statistics.median(r.progress.mean_staleness for r in of_this), 2),
                "max_staleness": max(r.progress.max_staleness for r in of_this),
            }
        )
    print("workers  lock   steps/s  updates/s  ratio (min - max)   mean staleness")
    for row in rows:
        ratio = row["ratio_to_one_worker"]
        cells = (
            f"{row['workers']:7d}",
            f"{'yes' if row['lock'] else 'no':4s}",
            f"{row['env_steps_per_second']['median']:9,.0f}",
            f"{row['updates_per_second']:9,d}",
            f"{ratio['median']:.2f} ({ratio['min']:.2f} - {ratio['max']:.2f})",
            f"{row['mean_staleness']:10.2f}",
        )
        print("  ".join(cells))
    write_result(args.out, rows, env=ENV, timesteps=args.timesteps, repeats=args.repeats)


if __name__ == "__main__":
    main()
