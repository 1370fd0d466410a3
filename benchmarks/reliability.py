"""What did the tests of reliability count, with full counts?

    python benchmarks/reliability.py

The script measures nothing. It prints the figures that `make test-reliability` writes to
`tests/reliability/figures`.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.frame.results import Rows
from benchmarks.frame.summaries import short_commit
from benchmarks.frame.tables import Column, Table, as_text

FIGURES = Path(__file__).parents[1] / "tests" / "reliability" / "figures"


class Claim(NamedTuple):
    """One row of the table.

    Attributes:
      what: what the test does to a run.
      tests: names of the tests, one file of figures each.
      result: the text of the figures, in the order of the tests.
    """

    what: str
    tests: tuple[str, ...]
    result: Callable[..., str]

    @property
    def figures(self) -> Rows:
        """The figures of the tests."""
        return [json.loads((FIGURES / f"{name}.json").read_text()) for name in self.tests]


def main() -> None:
    """Print the figures."""
    print(as_text(table()))


def _kill(x: dict[str, Any]) -> str:
    inside = sum(x["inside_a_save"].values())
    return (
        f"{x['kills']} kills, {inside} of them at {len(x['inside_a_save'])} stages of a save: "
        f"every run resumed. {x['equal']} of {x['runs']} runs ended with the parameters of an "
        f"undisturbed run (SHA-256). At most {x['longest_loss_seconds']:.2f} s of training were "
        f"lost, {x['mean_loss_seconds']:.2f} s on average, with a checkpoint every "
        f"{x['interval']:g} s."
    )


def _damage(x: dict[str, Any], header: dict[str, Any], runs: dict[str, Any]) -> str:
    return (
        f"{x['cases']:,} of {x['cases']:,} damaged checkpoints were found ({x['missing']} were "
        "missing files), and the checkpoint before was loaded each time. "
        f"{header['cases']:,} of {header['cases']:,} flipped bits of a header were refused. "
        f"{runs['cases']} of {runs['cases']} damaged run directories were refused in one line that "
        "names the file."
    )


def _full_disk(checkpoint: dict[str, Any], other: dict[str, Any]) -> str:
    return (
        f"{checkpoint['cases']:,} refused saves left the checkpoint before and nothing else. "
        f"{other['cases']:,} refused writes of other files left the file as it was."
    )


def _signals(x: dict[str, Any], terminal: dict[str, Any]) -> str:
    return (
        f"{x['cases'] - x['late']} of {x['cases']} runs ended within 5 s with a valid checkpoint, "
        f"exit code 130 and status `interrupted`; median {x['median_seconds']:.1f} s, longest "
        f"{x['longest_seconds']:.1f} s, at a load average of {x['load_average']:.1f}. A closed "
        f"terminal: {terminal['runs']} of {terminal['runs']}, after "
        f"{terminal['slowest_seconds']:.1f} s."
    )


def _crashes(x: dict[str, Any]) -> str:
    return f"{x['runs']} of {x['runs']} runs completed, after {x['crashes']} crashes."


def _exceptions(x: dict[str, Any]) -> str:
    return (
        f"{x['raised']} of {x['raised']} were raised in the main thread, the slowest after "
        f"{1e3 * x['slowest_seconds']:.1f} ms. What was learned was saved, and no thread was left."
    )


def _hangs(envs: dict[str, Any], segments: dict[str, Any], updates: dict[str, Any]) -> str:
    slowest = max(envs["slowest_seconds"].values())
    return (
        f"{envs['cases']} of {envs['cases']} hanging environments were named, at the latest after "
        f"{slowest:.1f} s with time-outs of 2 s; "
        f"{segments['cases']} of {segments['cases']} blocked segments of JAX and "
        f"{updates['cases']} of {updates['cases']} blocked updates under the lock were noticed, at "
        f"the latest after {max(segments['slowest_seconds'], updates['slowest_seconds']):.1f} s."
    )


def _nonfinite(x: dict[str, Any]) -> str:
    refused = sum(x["refused"].values())
    return (
        f"{x['cases']:,} cases in {x['setups']} setups: all parameters and moments stayed finite. "
        f"{refused:,} updates were skipped and counted."
    )


def _unit_updates(lock: dict[str, Any], free: dict[str, Any], torn: dict[str, Any]) -> str:
    return (
        f"{lock['updates']:,} updates of {lock['parameters']:,} parameters by {lock['threads']} "
        f"threads. With the lock {lock['lost']:.0%} were lost; without it {free['lost']:.4%}, and "
        f"{free['lost_of_the_worst_element']:.2%} of the element that lost most. Updates and steps "
        f"were counted exactly. {torn['reads']:,} reads during as many writes without the lock had "
        f"no torn word; {torn['mixed']} of them mixed two versions."
    )


def _settings(python: dict[str, Any], parts: dict[str, Any], words: dict[str, Any]) -> str:
    wrong = sum(x["wrong"] for x in (python, parts, words))
    refused = sum(x["refused"] for x in (python, parts, words))
    cases = sum(x["cases"] for x in (python, parts, words))
    slowest = max(x["slowest_refusal_ms"] for x in (python, parts, words))
    return (
        f"{cases:,} sets in Python, in the parts and on the command line, {wrong:,} of them wrong: "
        f"{refused:,} were refused by name, the slowest after {slowest:.0f} ms."
    )


def _starts(x: dict[str, Any]) -> str:
    ways = ", ".join(f"{count} {way}" for way, count in x["ways"].items())
    return (
        f"{x['cycles']:,} cycles of {x['workers'][0]} to {x['workers'][1]} workers ({ways}) "
        f"without a hang and without a thread left; the slowest took {x['slowest_seconds']:.1f} s."
    )


def _repeat(x: dict[str, Any]) -> str:
    return f"The same bits in all ten (SHA-256 `{x['digest'][:10]}...`)."


def _slow_disk(a2c: dict[str, Any], a3c: dict[str, Any]) -> str:
    return (
        f"Checkpoints took {a2c['share']:.1%} (A2C) and {a3c['share']:.1%} (A3C) of the time, "
        f"{a2c['waiting_for_the_disk']:.1%} and {a3c['waiting_for_the_disk']:.1%} of it in the "
        "wait for the disk."
    )


def _streams(x: dict[str, Any]) -> str:
    return f"{x['runs']} of {x['runs']} runs completed: {', '.join(x['streams'])}."


def _soak(x: dict[str, Any]) -> str:
    texts = []
    for method, run in x["runs"].items():
        texts.append(
            f"{method.upper()}: {run['env_steps'] / 1e6:,.0f} M steps, "
            f"{run['memory_mib'][-1]:.0f} MiB, {run['mib_per_hour']:+.2f} MiB an hour, "
            f"{run['compiled']} programs compiled again, {_span(run['threads'])} threads, "
            f"{_span(run['handles'])} file handles"
        )
    return "; ".join(texts) + "."


def _span(counts: list[int]) -> str:
    return f"{min(counts)} to {max(counts)}" if min(counts) != max(counts) else str(counts[0])


CLAIMS = (
    Claim("SIGKILL at random moments", ("test_kill",), _kill),
    Claim(
        "a flipped bit, a cut, a missing file",
        (
            "test_damage",
            "test_every_bit_of_the_header",
            "test_generated_damage_is_refused_by_the_name_of_the_file",
        ),
        _damage,
    ),
    Claim(
        "the disk is full at every byte",
        (
            "test_full_disk_at_every_byte_of_a_checkpoint",
            "test_full_disk_at_every_byte_of_other_files",
        ),
        _full_disk,
    ),
    Claim(
        "SIGTERM, SIGINT, SIGHUP while training or evaluating",
        ("test_signals", "test_a_terminal_that_is_closed_ends_the_run_with_a_checkpoint"),
        _signals,
    ),
    Claim("native code crashes under `--supervise`", ("test_crashes",), _crashes),
    Claim("an exception in one of 5 workers", ("test_exceptions_in_workers",), _exceptions),
    Claim(
        "environments, segments or updates hang",
        (
            "test_environments_that_hang",
            "test_a_segment_or_an_update_that_blocks[False]",
            "test_a_segment_or_an_update_that_blocks[True]",
        ),
        _hangs,
    ),
    Claim(
        "NaN, infinity or overflow in reward, observation, loss or gradient",
        ("test_what_is_not_finite_at_a_random_update",),
        _nonfinite,
    ),
    Claim(
        "updates of shared parameters by many threads",
        ("test_unit_updates[lock]", "test_unit_updates[lock_free]", "test_no_word_is_torn"),
        _unit_updates,
    ),
    Claim(
        "generated settings",
        (
            "test_generated_settings_in_python",
            "test_generated_settings_of_the_parts",
            "test_generated_words_of_the_command_line",
        ),
        _settings,
    ),
    Claim("workers start and stop", ("test_starts_and_stops",), _starts),
    Claim("the same seed in ten processes, 1,000,000 steps", ("test_repeat",), _repeat),
    Claim(
        "a disk that takes 0.3 s to flush",
        ("test_a_slow_disk[a2c]", "test_a_slow_disk[a3c]"),
        _slow_disk,
    ),
    Claim(
        "output streams that are closed or full",
        ("test_a_run_whose_messages_nobody_takes_completes",),
        _streams,
    ),
    Claim("two hours of each method, side by side", ("test_soak",), _soak),
)


def commits_of(claim: Claim) -> str:
    """Return the commits of the figures of a claim."""
    commits = [x["environment"]["git_commit"] for x in claim.figures]
    return ", ".join(dict.fromkeys(map(short_commit, commits)))


COLUMNS = (
    Column("what happens", lambda claim: claim.what),
    Column("result", lambda claim: claim.result(*claim.figures)),
    Column("commit", commits_of),
)


def table() -> Table:
    """Return the table of all claims."""
    return Table(COLUMNS, CLAIMS)


if __name__ == "__main__":
    main()
