"""Folders without a run or with a damaged one are refused in one line that names the file."""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from jax_a3c import cli
from jax_a3c.experiment import checkpoints
from jax_a3c.experiment.checkpoints import VARIABLES
from jax_a3c.settings.run import Settings

CONFIG, METRICS, SUMMARY = "config.json", "metrics.jsonl", "summary.json"
PARAMETERS = "checkpoints/000000000004000.safetensors"
READS = {CONFIG: ("eval", "record", "plot"), METRICS: ("plot",), SUMMARY: ("plot",)}
READS[PARAMETERS] = ("eval", "record")
"""Commands that read each file."""
NO_OBJECT = (
    *(
        b"",
        b"\xff\xfe\x00",
        b"\x00" * 100,
        b"null",
        b"[]",
        b"3",
        b'"x"',
        b"{",
        b"{'a': 1}",
        b"PK\x03\x04",
    ),
    *(
        b"[" * 10**5,
        b'{"a":' * 10**5,
        "\ufeff{}".encode(),
        "{}".encode("utf-16"),
        b"NaN",
        b"9" * 5000,
    ),
)
WRONG = ({"a": 1}, "x", [[1]], [None], "1e400")
"""Values that are invalid for every setting."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Train a short run, which all tests copy."""
    path = tmp_path_factory.mktemp("runs") / "run"
    flags = ["--total-timesteps", "4000", "--hidden", "4", "--eval-episodes", "1", "--quiet"]
    flags += ["--keep-checkpoints", "1"]
    assert cli.main(["train", "a2c", "gymnax:CartPole-v1", *flags, "--run-dir", str(path)]) == 0
    assert cli.main(["plot", str(path), "--output", str(path / "curve.png")]) == 0
    return path


def foreign_config(rng, config):
    """Make one thing in the configuration of a run invalid."""
    names = [field.name for field in dataclasses.fields(Settings)]
    ways = (
        lambda: config.pop(str(rng.choice(["method", "env", "settings"]))),
        lambda: config.update(method=("a2d", None, 3, ["a2c"], "async-a2c")[rng.integers(5)]),
        lambda: config.update(env=(None, 3, ["x"])[rng.integers(3)]),
        lambda: config.update(
            settings=(None, [], 3, "x", [["seed", 1]], list(names))[rng.integers(6)]
        ),
        lambda: config["settings"].update({"of_a_later_version": 1}),
        lambda: config["settings"].update(
            {str(rng.choice(names)): WRONG[rng.integers(len(WRONG))]}
        ),
        lambda: config["settings"].update(double_q=True),
        lambda: config["settings"].update(method="a2c"),
    )
    ways[rng.integers(len(ways))]()
    return json.dumps(config).encode()


def foreign_metrics(rng, text):
    """Make one line of the metrics invalid, or remove a number that is plotted."""
    lines = text.splitlines()
    middle = int(rng.integers(len(lines) - 1))
    row = {**json.loads(lines[middle]), "episode_return": 1.0}
    name = str(rng.choice(["env_steps", "seconds", "episode_return"]))
    wrong = ("x", [1], True, {"a": 1}, float("inf"), float("nan"), 10**400)[rng.integers(7)]
    without = {key: value for key, value in row.items() if key not in ("env_steps", "seconds")}
    ways = (
        json.dumps({**row, name: wrong}).encode(),
        json.dumps(without).encode(),
        b"garbage",
        b"\xff",
        b"[1]",
    )
    return b"\n".join([*lines[:middle], ways[rng.integers(len(ways))], *lines[middle + 1 :]])


def foreign_summary(rng, summary):
    """Replace a number of a summary by something else."""
    names = ["env_steps", "seconds", "env_steps_per_second", "eval_return_mean", "eval_return_std"]
    wrong = ("x", [1], True, {"a": 1}, float("inf"), 10**400)[rng.integers(6)]
    return json.dumps({**summary, str(rng.choice(names)): wrong}).encode()


def foreign_parameters(rng, data):
    """Replace or remove an array of a checkpoint, or flip one bit."""
    arrays = safetensors.numpy.load(data)
    name = str(rng.choice(sorted(name for name in arrays if name.startswith(VARIABLES))))
    array = arrays[name]
    others = (
        *(array.astype(dtype) for dtype in ("float64", "float16", "int32", "bool")),
        *(array[None], array[:-1], array[..., None]),
    )
    way = rng.integers(4)
    if way == 0:
        arrays.pop(name)
    elif way < 3:
        arrays[name] = others[rng.integers(len(others))]
    else:
        place = int(rng.integers(len(data)))
        return data[:place] + bytes([data[place] ^ 1 << int(rng.integers(8))]) + data[place + 1 :]
    return whole_checkpoint(arrays)


def whole_checkpoint(arrays):
    """Return the bytes of a checkpoint with these arrays and correct digests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkpoint")
        checkpoints.write(path, arrays, {})
        return path.read_bytes()


def damaged(rng, name, data):
    """Return damaged bytes of a file, None to remove the file."""
    way = rng.integers(6)
    if way == 0 and name != METRICS:  # its last line may be incomplete, see below
        return data[: rng.integers(len(data) - 2)]
    if way == 1:
        return None if rng.random() < 0.3 else b""
    if (
        way == 2 and name == PARAMETERS
    ):  # a safetensors file of another program, a pickle, an archive
        other = safetensors.numpy.save({"x": np.zeros(3)})
        return (other, b"PK\x05\x06" + bytes(18), b"\x93NUMPY", b"\x80\x04K\x01.")[rng.integers(4)]
    if way == 2:
        return NO_OBJECT[rng.integers(len(NO_OBJECT))] + (b"\n{}" if name == METRICS else b"")
    if name == CONFIG:
        return foreign_config(rng, json.loads(data))
    if name == SUMMARY:
        return foreign_summary(rng, json.loads(data))
    return (foreign_metrics if name == METRICS else foreign_parameters)(rng, data)


def told(words, capsys):
    """Return the error message, one line, of a command that refuses a run."""
    capsys.readouterr()
    assert cli.main(words) == 2, words
    printed = capsys.readouterr()
    assert printed.err.startswith("jax-a3c: error: ") and printed.err.count("\n") == 1, printed.err
    return printed.err


def words_of(command, path, tmp_path):
    """Return the words of a command on a run."""
    return [
        command,
        str(path),
        *(["--output", str(tmp_path / "out.png")] if command == "plot" else []),
    ]


def test_generated_damage_is_refused_by_the_name_of_the_file(run, count, figure, tmp_path, capsys):
    rng = np.random.default_rng(0)
    total = count(40, 600)
    for number in range(total):
        name = str(rng.choice(list(READS)))
        path = tmp_path / "run"
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(run, path)
        content = damaged(rng, name, (run / name).read_bytes())
        (path / name).unlink() if content is None else (path / name).write_bytes(content)
        if name == SUMMARY and content is None:
            continue  # a run in progress has none, and can be plotted
        command = str(rng.choice(READS[name]))
        line = told(words_of(command, path, tmp_path), capsys)
        # An empty or missing file may be reported by the name of its folder.
        gone = ("no complete episode", "has no checkpoint", "holds no")
        named = str(path) in line and (
            Path(name).name in line or any(text in line for text in gone)
        )
        assert named, (number, command, name, content and content[:200], line)
    assert not (tmp_path / "out.png").exists()
    figure(f"{total} damaged runs, every one refused in one line that names the file", cases=total)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"env": "gymnax:CartPole-v2"}, "did you mean 'gymnax:CartPole-v1'"),
        ({"env": "gymnax:Catch-bsuite"}, "is of another network"),
        ({"gamma": 2.0}, "gamma must be a number between 0 and 1, got 2.0"),
        ({"network": "nature"}, "Nature needs image observations"),
        ({"hidden": [5]}, "is of another network or run: variables/params/"),
        ({"hidden": [2**31 - 1] * 2}, "take smaller layers"),
        ({"env_options": ["gravitty=1"]}, "did you mean 'gravity'"),
    ],
)
def test_a_configuration_that_cannot_be_built_is_refused(run, change, message, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((run / CONFIG).read_text())
    (config if "env" in change else config["settings"]).update(change)
    (tmp_path / "run" / CONFIG).write_text(json.dumps(config))
    for command in ("eval", "record"):
        line = told(words_of(command, tmp_path / "run", tmp_path), capsys)
        assert message in line and str(tmp_path / "run") in line


def test_metrics_that_were_cut_off_are_drawn_as_far_as_they_go(run, count, tmp_path, capsys):
    rng = np.random.default_rng(1)
    shutil.copytree(run, tmp_path / "run")
    data = (run / METRICS).read_bytes()
    first = len(b"\n".join(data.splitlines()[:10]))  # an episode of CartPole ends in these lines
    for _ in range(count(3, 30)):
        (tmp_path / "run" / METRICS).write_bytes(data[: rng.integers(first, len(data))])
        assert cli.main(words_of("plot", tmp_path / "run", tmp_path)) == 0


@pytest.mark.parametrize("name", [CONFIG, METRICS, SUMMARY, PARAMETERS])
def test_a_folder_in_place_of_a_file_is_refused(run, name, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / name).unlink()
    (tmp_path / "run" / name).mkdir()
    line = told(words_of(READS[name][-1], tmp_path / "run", tmp_path), capsys)
    assert Path(name).name in line


def test_paths_that_hold_no_run_are_refused(run, tmp_path, capsys):
    paths = [
        tmp_path,
        tmp_path / "missing",
        run / CONFIG,
        run / CONFIG / "below",
        Path("/dev/null"),
    ]
    paths += [tmp_path / ("x" * 300), Path("/proc/self/mem"), tmp_path / "\x00"]
    for path in paths:
        for command in ("eval", "record", "plot"):
            assert repr(str(path)).strip("'") in told(words_of(command, path, tmp_path), capsys)


def test_folders_that_no_run_can_be_written_to_are_refused(run, tmp_path, capsys):
    paths = [run, run / CONFIG, run / CONFIG / "below", Path("/dev/null"), Path("/proc/run")]
    for path in [*paths, tmp_path / ("x" * 300), tmp_path / "\x00"]:
        words = ["train", "a2c", "gymnax:CartPole-v1", "--quiet", "--run-dir", str(path)]
        assert repr(str(path)).strip("'") in told(words, capsys)


def test_a_run_that_failed_is_drawn_with_what_it_has(run, tmp_path, capsys):
    shutil.copytree(run, tmp_path / "run")
    summary = json.loads((run / SUMMARY).read_text())
    for name in ("env_steps_per_second", "eval_return_std", "seconds", "eval_return_mean"):
        summary[name] = None
        (tmp_path / "run" / SUMMARY).write_text(json.dumps(summary))
        assert cli.main(words_of("plot", tmp_path / "run", tmp_path)) == 0
    assert "completed" in capsys.readouterr().out
