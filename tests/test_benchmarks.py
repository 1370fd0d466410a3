"""What the benchmarks compute besides times: operation counts, comparisons, tables."""

import argparse
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rlax

from benchmarks import (
    kernels,
    learning,
    limits,
    on_gpu,
    pages,
    peers,
    returns,
    startup,
    throughput,
    time_to_score,
)
from benchmarks.frame.learners import check_learned
from benchmarks.frame.processes import require_device
from benchmarks.frame.results import rows_that_hold
from benchmarks.frame.summaries import ranged, spread, with_range
from benchmarks.frame.tables import Table, as_html, as_markdown, as_text, field, spread_field
from benchmarks.frame.timing import fitting_count
from benchmarks.operations import (
    counted_cost,
    forward_flops,
    gradient_flops,
    layers_of,
    update_flops,
)
from jax_a3c import envs, networks
from jax_a3c.runners.base import Progress
from jax_a3c.settings.methods import A2CSettings

BATCH = 32


def network_and_inputs(env_id):
    env = envs.make(env_id)
    network = networks.actor_critic(env, torso=throughput.NETWORKS[env_id])
    observation = jnp.zeros((1, BATCH, *env.spec.observation_shape))
    reset = jnp.zeros((1, BATCH), bool)
    params = jax.eval_shape(network.init, jax.random.key(0), (), observation, reset)
    return layers_of(network, env.spec), network, params, observation, reset


def test_the_layers_of_an_mlp_are_counted_from_its_shapes():
    layers = network_and_inputs("gymnax:CartPole-v1")[0]
    products = [4 * 64, 64 * 64, 64 * 2, 64 * 1]
    assert sorted(layer.flops for layer in layers) == sorted(2 * product for product in products)
    assert [layer.is_first for layer in layers] == [True, False, False, False]
    assert update_flops(layers, 5) == pytest.approx(
        1.2 * forward_flops(layers) + gradient_flops(layers)
    )


@pytest.mark.parametrize("env_id", throughput.NETWORKS)
def test_counted_products_are_most_of_what_xla_counts(env_id):
    layers, network, params, observation, reset = network_and_inputs(env_id)

    def forward(params):
        _, policy, values = network.apply(params, (), observation, reset)
        return policy.logits.sum() + values.sum()

    for needed, program in (
        (forward_flops(layers), forward),
        (gradient_flops(layers), jax.grad(forward)),
    ):
        xla = counted_cost(program, params).flops / BATCH
        assert needed <= xla <= 1.1 * needed


def test_the_body_of_a_loop_is_counted_as_often_as_it_runs():
    size, length = 16, 7

    def loop(x, unroll):
        return jax.lax.scan(lambda x, _: (x @ x, None), x, length=length, unroll=unroll)[0]

    x = jnp.zeros((size, size))
    for unroll in (1, length):
        counted = counted_cost(
            lambda x, unroll=unroll: jax.jit(loop, static_argnums=1)(x, unroll), x
        )
        assert counted.flops == pytest.approx(length * 2 * size**3, rel=0.01)
        assert counted.bytes >= length * 2 * x.nbytes


@pytest.mark.parametrize("mode", throughput.MODES)
@pytest.mark.parametrize("seeds", [1, 2])
def test_each_mode_steps_and_only_learning_changes_the_parameters(mode, seeds):
    case = throughput.Case("float32", seeds, mode)
    step, state = throughput.program(throughput.Group("gymnax:CartPole-v1", 4, 3, [case]), case)
    after, sums = jax.jit(step)(state)
    params = [s.params if mode == "learn" else s[0] for s in (state, after)]
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, params), strict=True)]
    assert all(moved) if mode == "learn" else not any(moved)
    assert sums["episodes"].shape == (() if seeds == 1 else (seeds,))


def test_groups_are_the_forms_of_one_seed_and_then_the_seeds():
    args = argparse.Namespace(
        env=["gymnax:CartPole-v1"], num_envs=None, num_steps=16, dtype=None, seeds=[1, 3]
    )
    groups = throughput.groups_of("cpu", args)
    assert [(group.num_envs, group.num_steps) for group in groups[:2]] == [
        throughput.SMALL,
        (16, 16),
    ]
    assert {case.seeds for case in groups[-1].cases} == {1, 3}
    assert {case.seeds for group in groups[:-1] for case in group.cases} == {1}


@pytest.mark.parametrize("name", returns.PAIRS)
def test_both_sides_of_a_comparison_of_returns_agree(name):
    pair, data = returns.PAIRS[name], returns.make_data(7, 3)
    theirs = jax.vmap(lambda x: pair.theirs(rlax, x), in_axes=1, out_axes=1)(data)
    returns.largest_difference(pair.ours(data), theirs)


def test_results_that_differ_are_no_comparison():
    with pytest.raises(AssertionError, match="differ"):
        returns.largest_difference(jnp.zeros(3), jnp.ones(3))


def test_a_run_replaces_its_own_row_and_no_other():
    case = {"method": "a2c", "env": "gymnax:X-v1", "variant": {}, "seed": 0}
    others = [{**case, "seed": 1}, {**case, "variant": {"lstm": True}}, {**case, "method": "a3c"}]
    new = {**case, "eval_return_mean": 2.0}
    assert learning.with_run([{**case, "eval_return_mean": 1.0}, *others], new) == [*others, new]
    assert learning.with_run(others, new) == [*others, new]


def test_what_did_not_move_or_is_not_finite_did_not_learn():
    zeros, ones = [np.zeros(2)], [np.ones(2)]
    check_learned("it", zeros, ones)
    for after in (zeros, [np.array([1.0, np.nan])]):
        with pytest.raises(RuntimeError, match="it did not learn"):
            check_learned("it", zeros, after)


def test_a_count_fills_a_window():
    calls = []
    count = fitting_count(lambda count: [calls.append(count) for _ in range(1000 * count)], 0.002)
    assert count >= 1 and calls[0] == 1


@pytest.mark.parametrize(
    "error", [RuntimeError("Unable to initialize backend 'cuda'\n..."), AssertionError()]
)
def test_a_missing_device_is_a_message(monkeypatch, capsys, error):
    def refuse():
        raise error

    monkeypatch.setattr(jax, "devices", refuse)
    with pytest.raises(SystemExit):
        require_device("gpu")
    assert capsys.readouterr().err.startswith("no gpu here")


@pytest.mark.parametrize(("device", "goal", "met"), [("cpu", 2.2, True), ("gpu", None, None)])
def test_goals_of_peers_are_those_of_the_cpu(device, goal, met):
    (row,) = peers.rows_of("cartpole-16", {"ours": [3.0], "R1": [1.0]}, device)
    assert (row["device"], row["goal"], row["met"]) == (device, goal, met)
    (table,) = peers.tables([row])
    assert table.lines[1][:2] == [device, "cartpole-16"]


def test_a_row_holds_while_its_settings_do():
    case = {"method": "a2c", "env": "gymnax:X-v1"}
    new, old = ({**case, "seed": seed, "settings": {"num_envs": n}} for seed, n in ((0, 1), (1, 2)))
    other = {**new, "method": "a3c", "settings": {"num_envs": 2}}
    old_version = {**case, "seed": 2, "settings": {"num_envs": 1, "num_workers": 1}}
    rows, seeds = rows_that_hold([new, old, other, old_version], case, A2CSettings(num_envs=1))
    assert rows == [new, other, old_version] and seeds == {0, 2}


ROWS = [{"name": "a", "rate": spread([1.0, 2.0, 4.0])}, {"name": "<b>"}]
TABLE = Table((field("name", "name"), spread_field("steps/s", "rate", ".1f")), ROWS)


def test_one_declaration_of_a_table_is_text_markdown_and_html():
    assert as_text(TABLE).splitlines() == [
        "name  steps/s",
        "----  ----------------",
        "a     2.0 (1.0 to 4.0)",
        "<b>",
    ]
    assert as_markdown(TABLE) == (
        "| name | steps/s |\n| --- | --- |\n| a | 2.0 (1.0 to 4.0) |\n| <b> |  |"
    )
    assert "<tr><td>&lt;b&gt;</td><td></td></tr>" in as_html(TABLE)


def test_a_range_shows_about_three_digits():
    assert ranged(spread([1.0, 2.0, 4.0]), ".1f") == "2.0 (1.0 to 4.0)"
    assert with_range(1234.5, 1.0, 2000.0) == "1,234 (1 to 2,000)"
    assert with_range(0.5, 0.25, 1.0) == "0.50 (0.25 to 1.00)"


def test_rows_of_one_form_are_one_line_of_throughput():
    row = {
        "device": "cpu",
        "env": "gymnax:X-v1",
        "num_envs": 16,
        "num_steps": 5,
        "dtype": "float32",
    }
    some = spread([1.0, 2.0])
    rows = [
        {**row, "seeds": 1, "mode": mode, "env_steps_per_second": some, "ratio_to_first": some}
        for mode in throughput.MODES
    ]
    (table,) = throughput.tables(rows)
    assert table.lines[1][:6] == ["cpu", "X-v1", "16, 5", "float32", "1", "2 (1 to 2)"]

    # A form of one seed is measured again with several seeds.
    (table,) = throughput.tables([*rows, *rows])
    assert len(table.lines) == 3


def test_each_part_of_startup_has_its_table():
    some = spread([1.0, 2.0])
    rows = [
        {"part": "imports", "what": "nothing", "seconds": some},
        {"part": "memory", "what": "a2c", "updates": 1, "peak_mib": some},
    ]
    assert [table.lines[0][0] for table in startup.tables(rows)] == ["process", "method"]


def test_a_script_runs_from_any_folder(tmp_path):
    script = Path(learning.__file__)
    result = subprocess.run(
        [sys.executable, str(script), "--table"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "mean return" in result.stdout


def test_kernels_are_counted_by_loop():
    text = """HloModule a
%body (p: (s32[], f32[2])) -> (s32[], f32[2]) {
  %p = (s32[], f32[2]{0}) parameter(0)
  %x = f32[2]{0} get-tuple-element((s32[], f32[2]{0}) %p), index=1
  %c = f32[2]{0} copy(f32[2]{0} %x)
  %f = f32[2]{0} fusion(f32[2]{0} %c), kind=kLoop, calls=%fused
  ROOT %t = (s32[], f32[2]{0}) tuple(%i, %f)
}

%cond (p: (s32[], f32[2])) -> pred[] {
  ROOT %l = pred[] fusion(s32[] %i), kind=kLoop, calls=%less
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %d = f32[2]{0} dot(f32[2]{0} %x, f32[2]{0} %x)
  %w = (s32[], /*index=1*/f32[2]{0}) while(%t), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"7"}}
}
"""
    program = kernels.program_of(text)
    assert program.kernels == {"dot": 1} and program.launches == 1 + 7 * 2
    (loop,) = program.loops
    assert loop.trips == 7 and loop.kernels == {"copy": 1, "fusion": 1} and not loop.loops


@pytest.mark.parametrize("name", ["command", "kernels", "returns", "scaling", "worker_time"])
def test_a_short_form_writes_its_result_and_prints_its_table(name, tmp_path):
    short = [] if name == "kernels" else ["--short"]
    small = ["--env", "gymnax:CartPole-v1"] * (name in ("kernels", "scaling", "worker_time"))
    out = tmp_path / "result.json"
    command = [sys.executable, f"benchmarks/{name}.py", *short, *small, "--out", str(out)]
    root = Path(__file__).parents[1]
    ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    table = subprocess.run([*command, "--table"], cwd=root, capture_output=True, text=True)
    assert table.returncode == 0 and table.stdout.strip() in ended.stdout


def test_a_score_counts_once_as_many_games_of_training_have_it():
    case = time_to_score.Case(score=18.0, within=60.0, every=None, seeds=1)
    reports = [(10 * n, 100 * n, 20.0 * n) for n in range(1, 100)]  # seconds, games, returns
    sums = 0.0
    heard = []

    class Runner:
        def run(self, seed, *, until, callback):
            nonlocal sums
            for seconds, games, mean in reports:
                sums += 100 * min(mean / 10, 21.0)
                heard.append(seconds)
                metrics = {"episodes": float(games), "episode_return": sums}
                progress = Progress(1000 * games, games, float(seconds), metrics, [games])
                if callback(progress):
                    break
            return SimpleNamespace(progress=progress, state=None)

        def close(self, state):
            pass

    seconds, env_steps, curve = time_to_score.by_training_games(
        SimpleNamespace(runner=Runner()), SimpleNamespace(total_timesteps=10**9), case, 0
    )
    # The means of a hundred games are 2, 4, 6 and so on.
    assert seconds == heard[-1] == 90 and env_steps == 900_000
    assert curve[-1] == (90.0, 18.0)


def test_runs_in_time_are_counted_apart_from_those_that_reach_the_score():
    run = {"method": "a2c", "env": "gymnax:CartPole-v1", "variant": {}, "commit": None}
    run |= {"env_steps": 10**6, "best": 500.0}
    rows = [
        {**run, "reached": reached, "seconds": seconds}
        for reached, seconds in ((True, 0.5), (True, 1.5), (False, 0.5))
    ]
    presets, tried = time_to_score.tables(rows)
    assert presets.lines[1][4:7] == ["1 of 3", "2 of 3", "1.00 (0.50 to 1.50)"]
    assert not tried.rows
    assert time_to_score.setting_of("learning_rate=1e-3") == ("learning_rate", 1e-3)
    assert time_to_score.setting_of("optimizer=adam") == ("optimizer", "adam")


def test_scripts_for_a_gpu_run_until_the_time_is_over(tmp_path):
    quick = on_gpu.Job("kernels", "kernels.py", "--table", "--help")
    wrong = on_gpu.Job("wrong", "kernels.py", "--no-such-flag", "--no-such-flag")
    found = on_gpu.run((quick, wrong), tmp_path, 60.0, rehearse=True)
    assert found == ["wrong"]
    assert on_gpu.run((quick,), tmp_path, 0.0, rehearse=True) == ["kernels"]


def test_a_page_says_that_no_gpu_was_at_hand(monkeypatch, tmp_path):
    monkeypatch.setattr(pages, "RESULTS", tmp_path)
    assert "no GPU" in pages.TABLES["gpu-kernels"]()


def test_the_bounds_of_a_step_are_in_the_same_unit_as_its_time():
    case = limits.CASES[3]
    needs = limits.Needs(flops=2e6, bytes=1e3, launches=4.0)
    # A flop, a byte and a launch in microseconds, and raw envpool in steps per second.
    row = limits.row_of(case, needs, [2_000.0], [(1e-4, 1e-2, 0.5, 5_000.0)])
    medians = {name: row[name]["median"] for name in ("arithmetic", "memory", "launches")}
    assert medians == {"arithmetic": 200.0, "memory": 10.0, "launches": 1.0}
    assert row["environment"]["median"] == 200.0 and row["step"]["median"] == 500.0
    assert row["over_sum"]["median"] == round(500 / 411, 4)
