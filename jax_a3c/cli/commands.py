"""The commands of `jax-a3c` and their flags.

Each command imports JAX and other slow packages only when it runs, so that `--help` is quick.
"""

import contextlib
import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from jax_a3c.cli.tables import print_table, print_values
from jax_a3c.errors import InputError
from jax_a3c.scores import games
from jax_a3c.settings.methods import METHODS
from jax_a3c.settings.presets import ATARI, PRESETS, preset_line
from jax_a3c.settings.run import RunOptions, Settings, check_options
from jax_a3c.training.signals import ExitCode, flush_output

Which = Literal["last", "best"]
"""Names of the checkpoints that a command can read."""


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train METHOD on ENV, or resume a run with: jax-a3c train --resume RUN_DIR.

    With METHOD and ENV, --help shows all flags of METHOD. The defaults shown are the settings of
    the resumed run, or of the preset for METHOD and ENV, or of METHOD. The command
    `jax-a3c presets` lists the presets. Integers may be written as 1e6.
    """

    method: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="METHOD")]
    """name of the method. Synchronous: a2c, one-step-q, one-step-sarsa, n-step-q.
    Asynchronous: a3c, async-one-step-q, async-one-step-sarsa, async-n-step-q."""
    env: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="ENV")]
    """environment id, such as gymnax:CartPole-v1; `jax-a3c envs` lists them."""
    settings: tyro.conf.OmitArgPrefixes[Settings]
    options: tyro.conf.OmitArgPrefixes[RunOptions]
    run_dir: Path | None = None
    """folder to write the run to; runs/METHOD-ENV-TIME if None."""
    resume: Path | None = None
    """folder of a run to resume from its newest intact checkpoint; METHOD and ENV are optional."""
    force: bool = False
    """whether to resume a run even if the settings differ from the settings of the run."""
    initial_params: Path | None = None
    """file with the parameters to start from, written by `jax-a3c export`."""
    supervise: bool = False
    """whether to train in a child process that is restarted if native code kills it."""
    dry_run: bool = False
    """whether to print settings, shapes and the number of parameters instead of training."""

    def __call__(self) -> int:
        """Run the command."""
        self.check()
        settings = METHODS[self.method].settings(**dataclasses.asdict(self.settings))
        options = RunOptions(**dataclasses.asdict(self.options))
        if self.dry_run:
            return self._describe(settings)

        # The imports below load JAX: they wait until the flags are checked.
        from jax_a3c.training.train import resume, train

        run_dir = self.folder()
        if self.resume is not None:
            summary = resume(run_dir, settings=settings, force=self.force, options=options)
        else:
            summary = train(
                self.method,
                self.env,
                dataclasses.asdict(settings),
                run_dir=run_dir,
                options=options,
                initial_params=self.initial_params,
            )

        # The run is complete even if nobody reads the output any more.
        with contextlib.suppress(OSError):
            try:
                print_table([_summary_row(run_dir, summary)])
            finally:
                flush_output()
        return ExitCode.DONE if summary["status"] == "completed" else ExitCode.INTERRUPTED

    def check(self) -> None:
        """Check that the flags do not contradict each other."""
        if self.resume is None:
            if self.force:
                raise InputError(
                    "--force works only with --resume, got no run to resume; leave it out or add "
                    "--resume RUN_DIR"
                )
            return
        for name in ("run_dir", "initial_params"):
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} cannot be used with --resume, because the run has its own; leave it "
                    "out"
                )

        # METHOD and ENV, if given, must be the ones of the run.
        from jax_a3c.experiment.run_directory import RunDirectory

        stored = RunDirectory(self.resume).config()[:2]
        if stored != (self.method, self.env):
            raise InputError(
                f"the run in {str(self.resume)!r} is of {' '.join(stored)}, not of {self.method} "
                f"{self.env}; leave METHOD and ENV out"
            )

    def folder(self) -> Path:
        """Return the folder of the run."""
        from jax_a3c.experiment.run_directory import new_run_dir

        return self.resume or self.run_dir or new_run_dir(self.method, self.env)

    def _describe(self, settings: Settings) -> int:
        """Print what `--dry-run` shows; nothing compiles."""
        import math

        from jax_a3c.experiment.build import build
        from jax_a3c.experiment.checkpoints import import_params, named_leaves
        from jax_a3c.experiment.run_directory import RunDirectory
        from jax_a3c.training.train import stored_run

        # Check what a run would check.
        check_options(settings, RunOptions(**dataclasses.asdict(self.options)))
        if self.resume is not None:
            stored_run(RunDirectory(self.resume), settings, force=self.force)
        experiment = build(self.method, self.env, settings)
        if self.initial_params is not None:
            import_params(self.initial_params, experiment.params_like())

        # Settings of the run.
        print(f"{self.method} on {self.env}")
        if self.resume is None and (line := preset_line(self.method, self.env)) is not None:
            print(line)
        print_values(dataclasses.asdict(settings))
        print()
        print_values(_spaces(experiment.env.spec))
        _print_unbounded_actions(experiment.env.spec.action_space)

        # Shapes and parameter count of the network.
        shapes = {name: leaf.shape for name, leaf in named_leaves(experiment.params_like()).items()}
        print()
        print_values({name: str(shape) for name, shape in shapes.items()})
        print(f"{sum(math.prod(shape) for shape in shapes.values()):,} parameters")
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Eval:
    """Evaluate the parameters of runs over complete episodes, and aggregate over several runs."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of the runs to evaluate."""
    episodes: int = 100
    """complete episodes of the greedy policy, and as many of the sampled or epsilon-greedy one."""
    max_steps: int | None = None
    """environment steps per run, shared equally by the games of all policies; None has no limit."""
    seed: int = 1
    """seed of start states and sampled actions."""
    quiet: bool = False
    """whether to hide the progress bar."""
    checkpoint: Which = "last"
    """checkpoint to evaluate: the last one, or the best one by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.evaluation.score import evaluate_run, evaluate_runs
        from jax_a3c.experiment.run_directory import RunDirectory, without_nan

        # A folder that is named twice counts once.
        paths = list(dict.fromkeys(self.run_dirs))
        if not paths:
            raise InputError("run_dirs must name at least one folder of a run, got none")

        options: Any = {
            "num_episodes": self.episodes,
            "max_steps": self.max_steps,
            "seed": self.seed,
            "quiet": self.quiet,
            "which": self.checkpoint,
        }
        if len(paths) == 1:
            results = evaluate_run(RunDirectory(paths[0]), **options)
        else:
            results = evaluate_runs(paths, **options)
        print(json.dumps(without_nan(results), indent=2))
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Record:
    """Play with the parameters of a run and write a video as GIF or MP4."""

    run_dir: tyro.conf.Positional[Path]
    """folder of the run that plays."""
    output: Path | None = None
    """.gif or .mp4 file to write; RUN_DIR/recording.gif if None."""
    episodes: int = 1
    """number of games in the video."""
    policy: str | None = None
    """policy that acts: greedy, sampled or epsilon-greedy; eval_policy of the run if None."""
    seed: int = 1
    """seed of start states and sampled actions."""
    max_steps: int = 3000
    """environment steps of all games together, after which the video ends."""
    fps: int = 30
    """frames per second of the video, one frame per environment step."""
    checkpoint: Which = "last"
    """checkpoint that plays: the last one, or the best one by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        # Let pygame draw without a screen and a sound card.
        for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
            os.environ.setdefault(variable, "dummy")
        from jax_a3c.evaluation.record import record
        from jax_a3c.experiment.run_directory import RunDirectory

        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        recording = record(RunDirectory(options.pop("run_dir")), **options)

        for episode_return, length in zip(recording.returns, recording.lengths, strict=True):
            print(f"return {episode_return:g} in {length:,} steps")
        if len(recording.returns) < self.episodes:
            print(f"the video ends at --max-steps {self.max_steps:,}")
        print(f"wrote {recording.path}, {recording.frames:,} frames")
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the parameters of a run to a safetensors file, e.g. for train --initial-params."""

    run_dir: tyro.conf.Positional[Path]
    """folder of the run whose parameters are written."""
    output: Path = Path("params.safetensors")
    """safetensors file to write."""
    checkpoint: Which = "last"
    """checkpoint to export: the last one, or the best one by the evaluations of the run."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.evaluation.score import load
        from jax_a3c.experiment.checkpoints import export_params
        from jax_a3c.experiment.run_directory import RunDirectory

        *_, params = load(RunDirectory(self.run_dir), self.checkpoint)
        try:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            export_params(params, self.output)
        except (OSError, ValueError) as error:  # ValueError: not a valid path
            raise InputError(f"output {str(self.output)!r} cannot be written: {error}") from error
        print(f"wrote {self.output}")
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Plot:
    """Draw the learning curves of runs in one figure and print their summaries."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """folders of the runs to draw."""
    output: Path = Path("learning_curve.png")
    """PNG file to write."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.experiment.plots import learning_curves
        from jax_a3c.experiment.run_directory import RunDirectory

        if not self.run_dirs:
            raise InputError("run_dirs must name at least one folder of a run, got none")

        # A run in progress has no summary yet.
        runs = [RunDirectory(path) for path in self.run_dirs]
        rows = [
            _summary_row(run.path, run.summary())
            for run in runs
            if os.path.exists(run.path / "summary.json")
        ]
        print(f"wrote {learning_curves(runs, self.output)}")
        print_table(rows)
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Info:
    """Print package versions, devices and the processor of this machine."""

    json: bool = False
    """whether to print JSON for programs."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c.experiment.run_directory import environment

        found = environment()
        if self.json:
            print(json.dumps(found, indent=2))
        else:
            print_values({**found.pop("packages"), **found})
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Presets:
    """List the presets: tuned settings with their measured results."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """parts of a method or an environment, such as a2c or pong; all of them must match."""
    json: bool = False
    """whether to print JSON for programs."""

    def __call__(self) -> int:
        """Run the command."""
        chosen = {
            (method, env_id): preset
            for (method, env_id), preset in PRESETS.items()
            if _matches(self.words, method, _games() if env_id == ATARI else env_id)
        }
        if self.json:
            rows = [
                {"method": m, "env": e, "settings": preset.settings, "result": preset.result}
                for (m, e), preset in chosen.items()
            ]
            print(json.dumps(rows, indent=2))
            return ExitCode.DONE

        print_table(
            [
                {
                    "method": method,
                    "env": env_id,
                    "settings": " ".join(f"{n}={value}" for n, value in preset.settings.items()),
                    "result": preset.result,
                }
                for (method, env_id), preset in chosen.items()
            ]
        )
        print(
            "An environment without a preset uses the preset of the environment with the same name "
            "in another library: gymnasium:CartPole-v1 uses the preset of gymnax:CartPole-v1. "
            "Presets with env_options are not shared."
        )
        return ExitCode.DONE


@dataclass(frozen=True, kw_only=True)
class Envs:
    """List the environments of the installed libraries."""

    words: tyro.conf.Positional[tuple[str, ...]] = ()
    """parts of an environment id, such as gymnax or pong; all of them must match."""
    json: bool = False
    """whether to print JSON for programs."""

    def __call__(self) -> int:
        """Run the command."""
        from jax_a3c import envs

        # One row per environment.
        rows: list[dict[str, Any]] = []
        for env_id in envs.available():
            if not _matches(self.words, env_id):
                continue
            rows.append({"id": env_id, **_spaces(envs.make(env_id).spec)})

        if self.json:
            print(json.dumps(rows, indent=2))
        else:
            print_table(rows)
        return ExitCode.DONE


def _games() -> str:
    """Return the ids of all Atari games, which share one preset, as one text to search."""
    return " ".join([ATARI, *(f"envpool:{game}-v5" for game in games())])


def _spaces(spec: Any) -> dict[str, Any]:
    """Return the observations, the actions and the time limit of an environment as text."""
    from jax_a3c.envs.base import Discrete

    actions = spec.action_space
    return {
        "observation": f"{spec.num_categories} categories"
        if spec.num_categories
        else f"{spec.observation_shape} {spec.observation_dtype}",
        "actions": f"{actions.num_actions} discrete"
        if isinstance(actions, Discrete)
        else f"{actions.size} continuous",
        "time limit": spec.max_episode_steps,
    }


def _matches(words: tuple[str, ...], *names: str) -> bool:
    """Return whether each word is a method's name, or part of an environment id, in any case."""
    *methods, env_id = names
    return all(word.lower() in env_id.lower() or word.lower() in methods for word in words)


def _print_unbounded_actions(space: Any) -> None:
    """Print which entries of a continuous action have no finite bounds and thus are not scaled."""
    from jax_a3c.envs.base import Box, is_bounded

    # Discrete actions have no bounds.
    if not isinstance(space, Box):
        return

    unbounded = [str(entry) for entry, bounded in enumerate(is_bounded(space)) if not bounded]
    if unbounded:
        print(
            f"action entries {', '.join(unbounded)} have no finite bounds and are not scaled: the "
            "policy acts in the units of the environment"
        )


def _summary_row(run_dir: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a summary that the table of a terminal shows."""
    row = {name: summary.get(name) for name in ("method", "env", "seed", "status")}
    formats = {"env steps": ("env_steps", ","), "seconds": ("seconds", ".1f")}
    formats |= {"steps/s": ("env_steps_per_second", ",.0f"), "return": ("eval_return_mean", ".1f")}
    for title, (name, form) in formats.items():
        if summary.get(name) is not None:  # a failed run lacks some of them
            row[title] = format(summary[name], form)

    # A mean return is shown with its deviation, the number of episodes and the policy.
    if "return" in row:
        if summary.get("eval_return_std") is not None:
            row["return"] = f"{row['return']} ± {summary['eval_return_std']:.1f}"
        cut = f" ({summary['eval_episodes_cut']} cut)" if summary.get("eval_episodes_cut") else ""
        row["evaluated"] = (
            f"{summary.get('eval_episodes')} episodes{cut}, {summary.get('eval_policy')}"
        )
    return {**row, "run": run_dir}
