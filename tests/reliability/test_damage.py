"""Damaged checkpoints are refused, and the previous one is used."""

import random
import shutil

import pytest

from jax_a3c.experiment.checkpoints import Checkpoints, DamagedError, read
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import RunOptions, resolve
from jax_a3c.training.train import resume, train

CARTPOLE = "gymnax:CartPole-v1"
PAGE = 4096


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Train a short run with several checkpoints."""
    settings = resolve("a2c", CARTPOLE, total_timesteps=60_000, eval_episodes=1)
    path = tmp_path_factory.mktemp("runs") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jax_a3c.training.session.CHECKPOINTS_SHARE", float("inf"))
        train(
            "a2c",
            CARTPOLE,
            settings,
            path,
            options=RunOptions(quiet=True, checkpoint_interval=0.01),
        )
    assert len(RunDirectory(path).checkpoints.paths()) >= 2
    return path


def flipped(rng, content):
    at = rng.randrange(8 * len(content))
    content[at // 8] ^= 1 << at % 8


def flipped_header(rng, content):
    at = rng.randrange(8 * (8 + int.from_bytes(content[:8], "little")))
    content[at // 8] ^= 1 << at % 8


def zeroed(rng, content):
    """Set one page to zeros, as if it never reached the disk; no page is zero before."""
    at = rng.randrange(0, len(content) - PAGE, PAGE)
    before = bytes(content)
    content[at : at + PAGE] = bytes(PAGE)
    if content == before:
        flipped(rng, content)


def swapped(rng, content):
    """Swap two pages."""
    one, other = rng.sample(range(0, len(content) - PAGE, PAGE), 2)
    pages = content[one : one + PAGE], content[other : other + PAGE]
    content[other : other + PAGE], content[one : one + PAGE] = pages
    if pages[0] == pages[1]:
        flipped(rng, content)


def cut(rng, content):
    del content[rng.randrange(len(content)) :]


def grown(rng, content):
    content += rng.randbytes(rng.randint(1, PAGE))


def replaced(rng, content):
    content[:] = rng.randbytes(len(content))


DAMAGES = (flipped, flipped, flipped_header, cut, cut, zeroed, swapped, grown, replaced, None)
"""Kinds of damage; None removes the file."""


def test_damage(trained, tmp_path, capsys, count, figure):
    rng, cases, folder = random.Random(0), count(200, 1000), Checkpoints(tmp_path)
    newest, previous = RunDirectory(trained).checkpoints.paths()[:2]
    whole, found = newest.read_bytes(), dict.fromkeys(("named", "missing"), 0)
    shutil.copy(previous, tmp_path)
    for case in range(cases):
        damage, path = DAMAGES[case % len(DAMAGES)], tmp_path / newest.name
        if damage is not None:
            content = bytearray(whole)
            damage(rng, content)
            assert content != whole
            path.write_bytes(content)
        with pytest.raises(DamagedError, match=newest.name):
            read(path)
        capsys.readouterr()
        assert folder.newest().path.name == previous.name
        named = str(path) in capsys.readouterr().err
        assert named == (damage is not None)
        found["named" if named else "missing"] += 1
        path.unlink(missing_ok=True)
    figure(
        f"{cases:,} of {cases:,} damaged files refused, {found['named']} of them by name on "
        f"stderr; each time the checkpoint before was loaded",
        cases=cases,
        **found,
    )


def test_every_bit_of_the_header(trained, tmp_path, count, figure):
    newest, path = RunDirectory(trained).checkpoints.paths()[0], tmp_path / "1.safetensors"
    whole = newest.read_bytes()
    bits = range(0, 8 * (8 + int.from_bytes(whole[:8], "little")), count(2003, 1))
    for at in bits:
        content = bytearray(whole)
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        with pytest.raises(DamagedError):
            read(path)
    figure(f"{len(bits):,} of {len(bits):,} flipped bits of the header refused", cases=len(bits))


@pytest.mark.parametrize("missing", [False, True])
def test_a_run_whose_newest_checkpoint_is_damaged_ends_the_same(missing, trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    last = run.checkpoints.load("last")
    newest, previous = run.checkpoints.paths()[:2]
    if missing:
        newest.unlink()
    else:
        newest.write_bytes(newest.read_bytes()[:-1])
    assert resume(run.path, options=RunOptions(quiet=True))["status"] == "completed"
    error = capsys.readouterr().err
    assert newest.name in error or f"{last.facts['progress']['env_steps']:,}" in error
    assert previous.exists() or len(run.checkpoints.paths()) == 3
    again = run.checkpoints.load("last")
    assert again.path.name == newest.name
    for name, array in last.arrays.items():
        assert array.tobytes() == again.arrays[name].tobytes(), name
