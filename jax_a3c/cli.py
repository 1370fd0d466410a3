"""`jax-a3c`: train, evaluate, record, plot and look things up from the command line.

Nothing heavy is imported before a command needs it, so that `--help` answers at once.
"""

import contextlib
import dataclasses
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from jax_a3c.checks import HostEnvironmentError, InputError
from jax_a3c.presets import PRESETS
from jax_a3c.training.settings import Settings, resolve

FAILED = 1
USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit codes: of a run that failed, of a refused command, and after SIGINT or SIGTERM (128 + SIGINT)."""


class Given(Settings):
    __doc__ = Settings.__doc__

    def __post_init__(self) -> None:
        """Check nothing: a refusal inside tyro would lose its sentence in a box. `Settings` checks."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train METHOD on ENV.

    The defaults shown are the preset's where there is one for METHOD and ENV (see `jax-a3c presets`).
    Integers may be written as 1e6.
    """

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")]
    """a2c, one-step-q, one-step-sarsa or n-step-q in lock-step; a3c, async-one-step-q,
    async-one-step-sarsa or async-n-step-q on threads."""
    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """Environment id such as gymnax:CartPole-v1; `jax-a3c envs` lists them."""
    settings: tyro.conf.OmitArgPrefixes[Given]
    run_dir: Path | None = None
    """Folder to write to; runs/METHOD-ENV-TIME if left out."""
    dry_run: bool = False
    """Print settings, shapes and the parameter count, and stop before anything compiles."""
    quiet: bool = False
    """No progress bar."""
    tensorboard: bool = False
    """Write TensorBoard events too."""

    def __call__(self) -> int:
        """Run the command."""
        settings = Settings(**dataclasses.asdict(self.settings))
        if self.dry_run:
            return _describe(self.method, self.env, settings)
        from jax_a3c.training.train import train

        name = f"{self.method}-{self.env.replace(':', '-')}-{time.strftime('%Y%m%d-%H%M%S')}"
        run_dir = self.run_dir or Path("runs", name)
        summary = train(
            self.method, self.env, settings, run_dir, quiet=self.quiet, tensorboard=self.tensorboard
        )
        _print_table([_summary_row(run_dir, summary)])
        return 0 if summary["status"] == "completed" else INTERRUPTED


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluate the final parameters of runs over complete episodes; of several also the aggregate."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    episodes: int = 100
    """Complete episodes, for each policy: greedy, and sampled or epsilon-greedy."""
    seed: int = 1
    """Of start states and sampled actions."""
    quiet: bool = False
    """No progress bar."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.results import evaluate_run, evaluate_runs
        from jax_a3c.training.run_directory import RunDirectory

        paths = list(dict.fromkeys(self.run_dirs))
        if not paths:
            raise InputError("run_dirs must name at least one folder of a run")
        options: Any = {"num_episodes": self.episodes, "seed": self.seed, "quiet": self.quiet}
        if len(paths) == 1:
            results = evaluate_run(RunDirectory(paths[0]), **options)
        else:
            results = evaluate_runs(paths, **options)
        print(json.dumps(results, indent=2))
        return 0


@dataclass(frozen=True, kw_only=True)
class Record:
    """Let the final parameters of a run play, and write a GIF or an MP4 of it."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""
    output: Path | None = None
    """The .gif or .mp4 file to write; RUN_DIR/recording.gif if left out."""
    episodes: int = 1
    """Whole games."""
    policy: str | None = None
    """greedy, sampled (actor-critic) or epsilon-greedy (value-based); the run's eval_policy if left out."""
    seed: int = 1
    """Of start states and sampled actions."""
    max_steps: int = 3000
    """Environment steps altogether, after which the recording ends."""
    fps: int = 30
    """Pictures per second, one for each step."""

    def __call__(self) -> int:
        """Run the command."""
        # pygame draws without a screen or a sound card if it is told so, and complains of neither.
        for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
            os.environ.setdefault(variable, "dummy")
        from jax_a3c.training.record import record
        from jax_a3c.training.run_directory import RunDirectory

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        recording = record(RunDirectory(options.pop("run_dir")), **options)
        for episode_return, length in zip(recording.returns, recording.lengths, strict=True):
            print(f"return {episode_return:g} in {length:,} steps")
        if len(recording.returns) < self.episodes:
            print(f"ended at --max-steps {self.max_steps:,}")
        print(f"wrote {recording.path}, {recording.frames:,} pictures")
        return 0


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the learning curves of runs into one picture and print their summaries."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Folders of runs."""
    output: Path = Path("learning_curve.png")
    """The PNG file to write."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.plots import learning_curves
        from jax_a3c.training.run_directory import RunDirectory

        if not self.run_dirs:
            raise InputError("run_dirs must name at least one folder of a run")
        runs = [RunDirectory(path) for path in self.run_dirs]
        rows = [
            _summary_row(run.path, run.summary())
            for run in runs
            if os.path.exists(run.path / "summary.json")  # a run that goes on has none yet
        ]
        print(f"wrote {learning_curves(runs, self.output)}")
        _print_table(rows)
        return 0


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print versions, devices and processor of this machine."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.training.run_directory import environment

        print(json.dumps(environment(), indent=2))
        return 0


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the tuned settings with their measured results."""

    def __call__(self) -> int:
        """Run the command."""
        for (method, env_id), preset in PRESETS.items():
            settings = " ".join(f"{name}={value}" for name, value in preset.settings.items())
            print(f"{method} {env_id}\n  {settings}\n  {preset.result}")
        return 0


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments that can be made."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c import envs

        rows = []
        for env_id in envs.available():
            spec = envs.make(env_id).spec
            actions = spec.action_space
            rows.append(
                {
                    "id": env_id,
                    "observation": f"{spec.num_categories} categories"
                    if spec.num_categories
                    else f"{spec.observation_shape} {spec.observation_dtype}",
                    "actions": f"{actions.num_actions} discrete"
                    if isinstance(actions, envs.Discrete)
                    else f"{actions.size} continuous",
                    "time limit": spec.max_episode_steps,
                }
            )
        _print_table(rows)
        return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command of `jax-a3c`.

    Args:
      arguments: of the command line, those of the process if None.

    Returns:
      The exit code: 0; 1 if training diverged or an environment broke, 2 if the command was refused, 130 if
      it was interrupted.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        train = tyro.conf.subcommand("train", default=_train_defaults(arguments))
        command: Any = tyro.cli(
            Annotated[Train, train]
            | Annotated[Eval, tyro.conf.subcommand("eval")]
            | Annotated[Record, tyro.conf.subcommand("record")]
            | Annotated[Plot, tyro.conf.subcommand("plot")]
            | Annotated[Info, tyro.conf.subcommand("info")]
            | Annotated[Presets, tyro.conf.subcommand("presets")]
            | Annotated[Envs, tyro.conf.subcommand("envs")],
            prog="jax-a3c",
            description="A3C, A2C and the value-based methods of the same paper, in JAX.",
            args=arguments,
            registry=_integers(),
        )
        return command()
    except InputError as error:
        print(f"jax-a3c: error: {error}", file=sys.stderr)
        return USAGE_ERROR
    except (FloatingPointError, HostEnvironmentError) as error:
        print(f"jax-a3c: error: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:  # the reader of our output has had enough, `jax-a3c envs | head` say
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the interpreter's own flush at exit
        return 0
    except KeyboardInterrupt:
        print("jax-a3c: interrupted", file=sys.stderr)
        return INTERRUPTED


def _train_defaults(arguments: list[str]) -> Train:
    """What `train` starts from: the settings of the method and environment, which must stand first.

    Before them no flag is taken: its value could not be told from the method's name.
    """
    words = arguments[1:] if arguments[:1] == ["train"] else []
    if len(words) >= 2 and not any(word.startswith("-") for word in words[:2]):
        settings = Given(**dataclasses.asdict(resolve(*words[:2])))
        return Train(method=words[0], env=words[1], settings=settings)
    if words and not {"-h", "--help"} & set(words):
        raise InputError("METHOD and ENV come first: jax-a3c train METHOD ENV [--flag value ...]")
    return Train(method=tyro.MISSING, env=tyro.MISSING, settings=Given())


def _integers() -> tyro.constructors.ConstructorRegistry:
    """Let integers be written as `1e6` too."""
    registry = tyro.constructors.ConstructorRegistry()

    def parse(words: list[str]) -> int:
        with contextlib.suppress(ValueError):
            return int(words[0])
        with contextlib.suppress(ValueError, OverflowError):
            if float(words[0]).is_integer():
                return int(float(words[0]))
        raise ValueError(f"{words[0]} is not an integer")

    @registry.primitive_rule
    def rule(info: tyro.constructors.PrimitiveTypeInfo) -> tyro.constructors.PrimitiveConstructorSpec | None:
        if info.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=parse,
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def _describe(method: str, env_id: str, settings: Settings) -> int:
    """What `--dry-run` prints."""
    import math

    from jax_a3c.training.experiment import build
    from jax_a3c.training.run_directory import named_leaves

    experiment = build(method, env_id, settings)
    print(f"{method} on {env_id}")
    for name, value in dataclasses.asdict(settings).items():
        print(f"  {name} = {value}")
    print(experiment.env.spec)
    shapes = {name: leaf.shape for name, leaf in named_leaves(experiment.parameters_like()).items()}
    for name, shape in shapes.items():
        print(f"  {name} {shape}")
    print(f"{sum(math.prod(shape) for shape in shapes.values()):,} parameters")
    return 0


def _summary_row(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a summary that a terminal has room for."""
    row = {name: summary.get(name) for name in ("method", "env", "seed", "status")}
    formats = {"env steps": ("env_steps", ","), "seconds": ("seconds", ".1f")}
    formats |= {"steps/s": ("env_steps_per_second", ",.0f"), "return": ("eval_return_mean", ".1f")}
    for title, (name, form) in formats.items():
        if summary.get(name) is not None:  # a run that failed has not all of them
            row[title] = format(summary[name], form)
    if "return" in row:
        if summary.get("eval_return_std") is not None:
            row["return"] = f"{row['return']} ± {summary['eval_return_std']:.1f}"
        row["evaluated"] = f"{summary.get('eval_episodes')} episodes, {summary.get('eval_policy')}"
    return {**row, "run": run_dir}


def _print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as aligned columns; a row may lack some of them."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip())


if __name__ == "__main__":
    sys.exit(main())
