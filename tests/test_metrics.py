"""What a run reports: how many updates were skipped and why, and when training must stop."""

import pytest

from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.runners.base import Progress
from jax_a3c.settings.run import resolve
from jax_a3c.training.metrics import MAX_NONFINITE, Recorder

ENV = "gymnax:CartPole-v1"


@pytest.fixture
def recorder(tmp_path):
    """Return `recorder(progress)`, which makes the recorder of a run with that progress."""
    run = RunDirectory.create(tmp_path / "run", "a2c", ENV, resolve("a2c", ENV))
    return lambda progress=None: Recorder(run, 10**6, quiet=True, progress=progress)


def at(updates, skipped=0, rewards=0, observations=0):
    """Return the progress of a run after `updates` updates."""
    counts = {"nonfinite_gradients": skipped, "nonfinite_rewards": rewards}
    sums = {"loss": 1.0, **counts, "nonfinite_observations": observations}
    return Progress(10 * updates, updates, 1.0, sums, [updates])


def test_a_run_is_given_up_after_so_many_skipped_updates_in_a_row(recorder):
    record = recorder()
    record(at(50))
    record(at(49 + MAX_NONFINITE, MAX_NONFINITE - 1))
    assert not record.failed
    record(at(50 + MAX_NONFINITE, MAX_NONFINITE))
    assert record.failed and not record.learned_nothing


def test_a_run_learned_nothing_if_no_update_was_accepted(recorder):
    record = recorder()
    assert not record.learned_nothing, "it has not begun"
    record(at(3, 3))
    assert record.learned_nothing and not record.failed
    record(at(4, 3))
    assert not record.learned_nothing


def test_a_resumed_run_counts_what_it_did_before(recorder):
    record = recorder(at(500, 20))
    assert not record.learned_nothing and not record.failed
    record.begin()
    record(at(500 + MAX_NONFINITE, MAX_NONFINITE))  # updates of the whole run, sums of this trainer
    assert record.failed and not record.learned_nothing
    assert record.progress.metric_sums["nonfinite_gradients"] == 20 + MAX_NONFINITE


def test_a_checkpoint_of_an_older_version_has_no_count_of_data(recorder):
    old = at(500, 20)
    del old.metric_sums["nonfinite_rewards"], old.metric_sums["nonfinite_observations"]
    record = recorder(old)
    record.begin()
    record(at(510, 5, rewards=5))
    assert f"{ENV} returned rewards that are not finite in 5 of 510 updates" in record.skipped(ENV)


def test_the_environment_is_blamed_for_what_it_returned_since_the_last_accepted_update(recorder):
    record = recorder()
    record(at(10, 3, rewards=3))  # long before
    record(at(20, 3, rewards=3))
    record(at(30, 3, rewards=3))
    record(at(30 + MAX_NONFINITE, 3 + MAX_NONFINITE, rewards=3))
    told = record.skipped(ENV, recent=True)
    assert "were finite: try a smaller learning_rate" in told and "fix" not in told

    # The report of the last accepted update may also count what made a recurrent state NaN.
    record = recorder()
    record(at(10))
    record(at(30, 1, observations=1))
    record(at(30 + MAX_NONFINITE, 1 + MAX_NONFINITE, observations=1))
    told = record.skipped(ENV, recent=True)
    assert (
        told == f"{ENV} returned observations that are not finite in 1 of 120 updates: "
        "fix the environment"
    )


def test_both_kinds_of_data_are_named(recorder):
    record = recorder()
    record(at(90, 80, rewards=57, observations=70))
    assert record.skipped(ENV) == (
        f"{ENV} returned rewards that are not finite in 57 and observations that are not finite "
        "in 70 of 90 updates: fix the environment"
    )
