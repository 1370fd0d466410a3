"""A2C learns bitwise equal parameters from the same seed in many processes."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from reliability.runs import finish, start

from jax_a3c.experiment.checkpoints import VARIABLES
from jax_a3c.experiment.run_directory import RunDirectory


def learned(number, path, total):
    """Train in a child process; return the SHA-256 of the parameters. Checkpoint times differ."""
    flags = [
        "--total-timesteps",
        total,
        "--checkpoint-interval",
        0.1 * (1 + number),
        "--eval-episodes",
        "1",
    ]
    process = start("train", "a2c", "gymnax:CartPole-v1", *flags, "--run-dir", path, "--quiet")
    code, output = finish(process)
    assert code == 0, output
    arrays = RunDirectory(path).checkpoints.load("last").arrays
    names = sorted(name for name in arrays if name.startswith(VARIABLES))
    return hashlib.sha256(b"".join(arrays[name].tobytes() for name in names)).hexdigest()


def test_repeat(tmp_path, count, figure):
    processes, total = count(2, 10), count(100_000, 1_000_000)
    with ThreadPoolExecutor(2) as pool:
        paths = [tmp_path / str(number) for number in range(processes)]
        digests = list(pool.map(learned, range(processes), paths, [total] * processes))
    equal = digests.count(digests[0])
    figure(
        f"{equal} of {processes} processes learned the same bits in {total:,} steps",
        digest=digests[0],
    )
    assert equal == processes
