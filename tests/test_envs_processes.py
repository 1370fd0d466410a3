"""Gymnasium environments that need the main thread, a process or a module of the folder."""

import multiprocessing
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from jax_a3c import cli, envs
from jax_a3c.errors import InputError
from jax_a3c.experiment.run_directory import RunDirectory, new_run_dir

gymnasium = pytest.importorskip("gymnasium", reason="pip install 'jax-a3c[gymnasium]'")

MODULE = """
import asyncio, os, signal, time
import gymnasium
import numpy as np

class Plain(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"]}
    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None, lock=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        return np.zeros(1, np.float32), 1.0, False, False, {}

    def render(self):
        return np.zeros((16, 16, 3), np.uint8)

class Signal(Plain):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        signal.signal(signal.SIGUSR1, lambda *_: None)

class Loop(Plain):
    def __init__(self, render_mode=None):
        super().__init__(render_mode)
        self.loop = asyncio.get_event_loop_policy().get_event_loop()

class Alarm(Plain):
    def step(self, action):
        signal.signal(signal.SIGALRM, lambda *_: None)
        return super().step(action)

class Both(Alarm, Signal):
    pass

class Killed(Plain):
    def __init__(self):
        os.kill(os.getpid(), signal.SIGKILL)

class Hanging(Plain):
    def __init__(self):
        time.sleep(100)

class Raising(Plain):
    def __init__(self):
        raise KeyError("no licence")

for kind in (Plain, Signal, Loop, Alarm, Both, Hanging, Killed, Raising):
    gymnasium.register(f"{kind.__name__}-v0", entry_point=kind, max_episode_steps=5)
gymnasium.register("corner/Grid-v1", entry_point="THIS:Plain", max_episode_steps=5)
"""
SMALL = (
    "--num-envs",
    "1",
    "--total-timesteps",
    "40",
    "--num-steps",
    "5",
    "--eval-episodes",
    "1",
    "--quiet",
)


@pytest.fixture
def module(tmp_path: Path, monkeypatch) -> str:
    """Return the name of a module in the current folder, which is not on the path."""
    name = f"own_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("THIS", name))
    monkeypatch.chdir(tmp_path)
    registered = set(gymnasium.registry)
    yield name
    sys.modules.pop(name, None)
    for added in set(gymnasium.registry) - registered:
        del gymnasium.registry[added]


@pytest.fixture
def on_path(module: str, tmp_path: Path, monkeypatch) -> str:
    """Return the name of a module whose folder is on the path."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return module


# --- The main thread


@pytest.mark.parametrize("method", ["a2c", "a3c"])
@pytest.mark.parametrize(
    ("name", "option"),
    [("Both", "processes=true"), ("Signal", "timeout=null"), ("Loop", "timeout=null")],
)
def test_an_environment_that_needs_the_main_thread_is_trained_and_evaluated(
    method, name, option, module, tmp_path
):
    flags = [
        *SMALL,
        *["--num-workers", "1"] * (method == "a3c"),
        "--env-options",
        option,
        "--run-dir",
        "run",
    ]
    assert cli.main(["train", method, f"gymnasium:{module}:{name}-v0", *flags]) == 0
    assert RunDirectory(tmp_path / "run").summary()["eval_return_mean"] == 5.0


@pytest.mark.parametrize("options", [{"processes": True}, {"timeout": None}])
def test_it_is_drawn_too(options, on_path):
    stage = envs.make(f"gymnasium:{on_path}:Signal-v0", **options).make_rendered()
    stage.reset()
    frame = stage.render()
    stage.close()
    assert (frame.shape, frame.dtype) == ((16, 16, 3), np.uint8)


@pytest.mark.parametrize("name", ["Signal", "Loop"])
def test_one_that_is_made_elsewhere_names_both_ways_out(name, on_path):
    with pytest.raises(envs.HostEnvironmentError) as raised:
        envs.make(f"gymnasium:{on_path}:{name}-v0")
    message = str(raised.value)
    assert f"'gymnasium:{on_path}:{name}-v0' raised" in message and "\n" not in message
    assert "processes=true" in message and "timeout=null" in message


def test_one_whose_steps_need_it_names_them_too(on_path):
    environment = envs.make(f"gymnasium:{on_path}:Alarm-v0", timeout=None).make(1)
    environment.reset()
    environment.step(np.zeros(1, int))  # on this thread, the main thread
    environment.close()
    environment = envs.make(f"gymnasium:{on_path}:Alarm-v0").make(1)
    environment.reset()
    with pytest.raises(
        envs.HostEnvironmentError, match=r"in step: signal only works in main thread.*processes="
    ):
        environment.step(np.zeros(1, int))
    environment.close()


def test_an_error_of_another_kind_names_neither(on_path):
    with pytest.raises(envs.HostEnvironmentError, match=r"raised KeyError in make: 'no licence'$"):
        envs.make(f"gymnasium:{on_path}:Raising-v0")


# --- Processes


def test_what_goes_wrong_in_a_process_is_told(on_path):
    with pytest.raises(envs.HostEnvironmentError, match=r"raised KeyError in make: 'no licence'$"):
        envs.make(f"gymnasium:{on_path}:Raising-v0", processes=True)
    with pytest.raises(envs.HostEnvironmentError, match=r"ended its process in make \(SIGKILL\)$"):
        envs.make(f"gymnasium:{on_path}:Killed-v0", processes=True)


def test_one_that_hangs_in_a_process_is_ended(on_path):
    children = multiprocessing.active_children()
    with pytest.raises(
        envs.HostEnvironmentError,
        match=r"hangs: make did not return within 0.1 seconds in its process",
    ):
        envs.make(f"gymnasium:{on_path}:Hanging-v0", processes=True, timeout=0.1)
    assert multiprocessing.active_children() == children


def test_options_that_cannot_be_sent_to_a_process_are_refused(on_path):
    with pytest.raises(InputError, match="with processes=True must be picklable, with its options"):
        envs.make(f"gymnasium:{on_path}:Plain-v0", processes=True, lock=threading.Lock())


def test_a_process_needs_no_environment_in_this_one(on_path):
    factory = envs.make(f"gymnasium:{on_path}:Signal-v0", processes=True)
    assert factory.spec.max_episode_steps == 5 and factory.spec.observation_shape == (1,)
    environment = factory.make(2)
    environment.reset()
    truncated = [environment.step(np.zeros(2, int)).truncated.tolist() for _ in range(6)]
    environment.close()
    assert truncated == [[False, False]] * 4 + [[True, True], [False, False]]


def test_an_unguarded_program_is_told_what_to_write(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from jax_a3c import envs\n"
        "env = envs.make('gymnasium:CartPole-v1', processes=True)\n"
        "env.make(2).reset()\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.count("Traceback") == 1  # from the program, none from its child processes
    last = done.stderr.strip().splitlines()[-1]
    assert "'gymnasium:CartPole-v1'" in last and 'write `if __name__ == "__main__":`' in last


# --- Modules of the current folder, names, run folders


def test_a_module_of_the_current_folder_is_found_by_all_commands(module, tmp_path, capsys):
    path = list(sys.path)
    env_id = f"gymnasium:{module}:corner/Grid-v1"
    flags = [*SMALL, "--env-options", "timeout=null"]
    assert cli.main(["train", "a2c", env_id, *flags]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert (
        run.name.startswith(f"a2c-gymnasium-{module}-corner-Grid-v1-")
        and (run / "summary.json").exists()
    )
    for command in (
        ["eval", "--episodes", "1", "--quiet"],
        ["record", "--max-steps", "2"],
        ["export"],
    ):
        assert cli.main([command[0], str(run), *command[1:]]) == 0
    assert cli.main(["train", "--resume", str(run), "--dry-run"]) == 0
    assert sys.path == path
    capsys.readouterr()


def test_a_module_that_is_not_found_is_told_where_it_was_looked_for(
    module, tmp_path, monkeypatch, capsys
):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert cli.main(["train", "a2c", f"gymnasium:{module}:Grid-v1", "--dry-run"]) == 2
    told = capsys.readouterr().err
    assert (
        f"needs the module '{module}', which was not found in the current folder "
        "or on Python's path" in told
    )
    with pytest.raises(InputError, match=r"which was not found on Python's path.*without .py"):
        envs.make(f"gymnasium:{module}.py:Grid-v1")


def test_a_module_does_not_stand_before_one_that_is_installed(tmp_path, monkeypatch, capsys):
    (tmp_path / "optax.py").write_text("raise SystemExit('shadowed')")
    monkeypatch.chdir(tmp_path)
    program = (
        "import sys\n"
        "from jax_a3c.cli import supervisor\n"
        "supervisor._run = lambda command: print(*command) or (0, 0, False)\n"
        "from jax_a3c import cli\n"
        "cli.main(['train', 'a2c', 'gymnax:CartPole-v1', '--supervise'])\n"
    )
    script = tmp_path / "scripts" / "start.py"  # like the console script, its folder is on the path
    script.parent.mkdir()
    script.write_text(program)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=100)
    assert " -P -m jax_a3c.cli train " in done.stdout, done.stderr
    command = [
        sys.executable,
        "-P",
        "-m",
        "jax_a3c.cli",
        "train",
        "a2c",
        "gymnax:CartPole-v1",
        "--dry-run",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ("Signal", "Signal-v0"),
        ("signal-v3", "Signal-v0"),
        ("Grid", "corner/Grid-v1"),
        ("corner/Gird-v1", "corner/Grid-v1"),
    ],
)
def test_a_wrong_id_in_a_module_names_the_nearest(wanted, named, on_path):
    with pytest.raises(InputError, match=f"did you mean 'gymnasium:{on_path}:{named}'"):
        envs.make(f"gymnasium:{on_path}:{wanted}")


@pytest.mark.parametrize(
    ("wanted", "named"),
    [("gymnasium:CartPole", "gymnasium:CartPole-v1"), ("envpool:pong", "envpool:Pong-v5")],
)
def test_an_id_without_version_names_those_that_there_are(wanted, named):
    with pytest.raises(InputError, match=f"did you mean .*'{named}'"):
        envs.make(wanted)


def test_a_registered_class_of_the_main_program_does_not_break_the_search():
    gymnasium.register("Main-v0", entry_point="__main__:Env")
    try:
        assert "gymnasium:Main-v0" in envs.available()
        with pytest.raises(InputError, match="did you mean 'gymnasium:Main-v0'"):
            envs.make("gymnasium:Main")
    finally:
        del gymnasium.registry["Main-v0"]


@pytest.mark.parametrize(
    "env_id", ["gymnasium:m:a/b/E-v0", "gymnasium:../../x:E-v0", "gymnasium:" + "x" * 500]
)
def test_the_folder_of_a_run_lies_in_runs(env_id):
    path = new_run_dir("a2c", env_id)
    assert path.parent == Path("runs") and len(path.name) < 200
    assert os.path.normpath(path) == str(path)
