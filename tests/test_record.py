"""Videos: the games that are played, the frames of each adapter, and the files."""

import itertools
import subprocess
import sys

import jax
import numpy as np
import pytest
from probes import EitherEnd
from scripted import Games, Spy

from jax_a3c import cli, envs
from jax_a3c.errors import InputError
from jax_a3c.evaluation.play import acting
from jax_a3c.evaluation.record import JaxStage, played, rendered
from jax_a3c.evaluation.video import write_video
from jax_a3c.experiment.build import build
from jax_a3c.experiment.checkpoints import VARIABLES, flatten
from jax_a3c.experiment.run_directory import RunDirectory
from jax_a3c.settings.run import resolve

iio = pytest.importorskip("imageio.v3", reason="pip install 'jax-a3c[video]'")
CARTPOLE = "gymnax:CartPole-v1"
KEY = jax.random.key(0)


@pytest.fixture(autouse=True)
def no_screen(monkeypatch):
    for variable in ("SDL_VIDEODRIVER", "SDL_AUDIODRIVER"):
        monkeypatch.setenv(variable, "dummy")


def frames_of(stage, episodes=1, max_steps=1000):
    network = Spy()
    act = acting(network, "greedy")
    return list(played(stage, network, act, np.float32(0), KEY, episodes, max_steps))


def random_frames(env, num_steps):
    """Return the frames of random actions, including steps that reset."""
    stage, space = rendered(env, seed=3), env.spec.action_space
    random = np.random.default_rng(0)
    stage.reset()
    frames = [stage.render()]
    for _ in range(num_steps):
        if isinstance(space, envs.Discrete):
            action = random.integers(space.num_actions, size=1)
        else:
            action = random.uniform(space.low, space.high, (1, space.size)).astype(np.float32)
        stage.step(action)
        frames.append(stage.render())
    stage.close()
    return frames


# --- The games


def test_every_observation_of_a_game_is_shown_and_its_score_is_the_sum_of_the_rewards():
    factory = Games("..L.T", limit=100)
    frames = frames_of(factory.make_rendered(), episodes=2)
    # 5 steps and one reset after the lost life per game; one reset between the games.
    assert [frame.pixels[0, 0, 0] // 10 for frame in frames] == [
        0,
        1,
        2,
        3,
        0,
        1,
        2,
        0,
        1,
        2,
        3,
        0,
        1,
        2,
    ]
    assert [frame.score for frame in frames if frame.game_over] == [50.0, 50.0]
    assert [frame.length for frame in frames if frame.game_over] == [5, 5]
    assert [frame.length for frame in frames] == [0, 1, 2, 3, 3, 4, 5, 0, 1, 2, 3, 3, 4, 5]


def test_a_recording_ends_after_its_steps():
    frames = frames_of(Games("...T").make_rendered(), episodes=5, max_steps=6)
    assert len(frames) == 1 + 6 + 1 and sum(frame.game_over for frame in frames) == 1
    assert frames[-1].length == 2


class DrawnProbe(EitherEnd):
    """With action 0 an episode has rewards 1, 2 and 3 and is truncated."""

    def renderer(self):
        return lambda state, observation: np.full((2, 2, 3), 10 * int(state.time), np.uint8)


def test_an_environment_in_jax_is_played_like_one_of_the_host():
    frames = frames_of(JaxStage(DrawnProbe(), 0), episodes=2)
    assert [int(frame.pixels[0, 0, 0]) for frame in frames] == [0, 10, 20, 30] * 2
    assert [frame.score for frame in frames if frame.game_over] == [6.0, 6.0]
    stage = JaxStage(DrawnProbe(), 0)
    stage.reset()
    steps = [stage.step(np.zeros(1, np.int32)) for _ in range(4)]
    assert [bool(step.reset_step[0]) for step in steps] == [False, False, False, True]
    assert [bool(step.truncated[0]) for step in steps] == [False, False, True, False]
    assert steps[3].observation[0, 0] == 0.0 and steps[3].reward[0] == 0.0


# --- The frames


@pytest.mark.parametrize(
    ("env_id", "shape"),
    [
        (CARTPOLE, (400, 600, 3)),
        ("gymnax:Acrobot-v1", (500, 500, 3)),
        ("gymnax:Pendulum-v1", (500, 500, 3)),
        ("gymnax:MountainCar-v0", (400, 600, 3)),
        ("gymnax:MountainCarContinuous-v0", (400, 600, 3)),
        ("gymnax:Asterix-MinAtar", (400, 400, 3)),
        ("gymnax:Breakout-MinAtar", (400, 400, 3)),
        ("gymnax:Freeway-MinAtar", (400, 400, 3)),
        ("gymnax:SpaceInvaders-MinAtar", (400, 400, 3)),
        ("gymnax:Catch-bsuite", (400, 200, 3)),
        ("gymnax:FourRooms-misc", (480, 640, 3)),
        ("envpool:Pong-v5", (210, 160, 3)),
        ("envpool:CarRacing-v3", (400, 600, 3)),
        ("envpool:LunarLander-v3", (400, 600, 3)),
        ("envpool:CartPole-v1", (400, 600, 3)),
        ("envpool:MiniGrid-DoorKey-5x5-v0", (160, 160, 3)),
        ("gymnasium:LunarLander-v3", (400, 600, 3)),
        ("gymnasium:CartPole-v1", (400, 600, 3)),
    ],
)
def test_what_is_drawn_changes_as_the_game_goes_on(env_id, shape):
    pytest.importorskip(env_id.partition(":")[0])
    frames = random_frames(envs.make(env_id), 30)
    assert {(frame.shape, frame.dtype) for frame in frames} == {(shape, np.dtype(np.uint8))}
    changed = sum((a != b).any() for a, b in itertools.pairwise(frames))
    assert changed >= 8
    assert len(np.unique(frames[-1].reshape(-1, 3), axis=0)) >= 2


def test_a_grid_shows_each_cell_of_the_observation():
    env = envs.make("gymnax:Breakout-MinAtar")
    state, _ = env.reset(KEY)
    for key in jax.random.split(jax.random.key(1), 3):
        state, timestep = env.step(key, state, 0)
    observation = timestep.observation
    frame = env.renderer()(state, observation)
    cells = frame[20::40, 20::40]  # the centre of each of 10 x 10 cells
    np.testing.assert_array_equal(cells.any(axis=-1), np.asarray(observation).any(axis=-1))
    np.testing.assert_array_equal(frame, cells.repeat(40, axis=0).repeat(40, axis=1))
    assert len(np.unique(cells.reshape(-1, 3), axis=0)) == 5  # empty, paddle, ball, trail, bricks


def test_classic_control_shows_the_state_and_not_that_of_the_drawing():
    env = envs.make(CARTPOLE)
    render = env.renderer()
    state, observation = env.reset(KEY)
    left, right = (render(state.replace(x=x, theta=0.0), observation) for x in (-1.0, 1.0))
    carts = [
        np.argwhere(frame[305].sum(axis=-1) < 30).mean() for frame in (left, right)
    ]  # columns of the cart
    assert carts == pytest.approx(
        [300 - 600 / 4.8, 300 + 600 / 4.8], abs=1
    )  # 600 pixels are 4.8 metres
    again = render(state.replace(x=-1.0, theta=0.0), observation)
    np.testing.assert_array_equal(left, again)


def test_drawing_changes_nothing_in_envpool():
    pytest.importorskip("envpool")
    factory = envs.make("envpool:Breakout-v5")
    plain, drawn = factory.make(1, seed=5), factory.make_rendered(seed=5)
    np.testing.assert_array_equal(plain.reset(), drawn.reset())
    for i in range(60):
        action = np.array([i % 4])
        for a, b in zip(plain.step(action), drawn.step(action), strict=True):
            np.testing.assert_array_equal(a, b)
        drawn.render()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("gymnax:Reacher-misc", "gymnax can draw only"),
        ("gymnax:FrozenLake-misc", "gymnax can draw only"),
        ("envpool:HalfCheetah-v4", "MuJoCo inside envpool"),
        ("envpool:CheetahRun-v1", "MuJoCo inside envpool"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(env_id, message):
    pytest.importorskip(env_id.partition(":")[0])
    with pytest.raises(InputError, match=f"'{env_id}' cannot be drawn: .*{message}"):
        rendered(envs.make(env_id), 0)


def test_an_environment_of_gymnasium_without_pixels_is_refused():
    gymnasium = pytest.importorskip("gymnasium")

    class Blind(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 1, (1,))
        action_space = gymnasium.spaces.Discrete(2)
        metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - as in Gymnasium

        def __init__(self, render_mode=None):
            self.render_mode = render_mode

    gymnasium.register("Blind-v0", lambda **options: Blind(**options))
    try:
        factory = envs.make("gymnasium:Blind-v0")
        with pytest.raises(InputError, match=r"'gymnasium:Blind-v0' cannot be drawn: .*\['ansi'\]"):
            rendered(factory, 0)
    finally:
        del gymnasium.registry["Blind-v0"]


def test_an_environment_of_ones_own_is_told_what_it_lacks():
    with pytest.raises(
        InputError, match=r"'probe:EitherEnd' cannot be drawn: implement `renderer`"
    ):
        rendered(EitherEnd(), 0)

    class Gray(DrawnProbe):
        def renderer(self):
            return lambda state, observation: np.zeros((4, 4), np.uint8)

    with pytest.raises(
        InputError, match=r"must be uint8 of shape \[H, W, 3\], got uint8 of shape \(4, 4\)"
    ):
        frames_of(JaxStage(Gray(), 0))


# --- The files


def moving_squares(count, height=41, width=63):
    frames = np.zeros((count, height, width, 3), np.uint8)
    for i in range(count):
        frames[i, 5:15, i : i + 9] = (200, 100, 10)
    return frames


def test_a_gif_holds_the_frames(tmp_path):
    frames = moving_squares(20)
    assert write_video(tmp_path / "a.gif", iter(frames), fps=25) == 20
    np.testing.assert_array_equal(iio.imread(tmp_path / "a.gif"), frames)
    assert (
        iio.immeta(tmp_path / "a.gif")["duration"] == 40
        and iio.immeta(tmp_path / "a.gif")["loop"] == 0
    )
    assert [path.name for path in tmp_path.iterdir()] == ["a.gif"]


def test_an_mp4_holds_the_frames_of_odd_sizes_too(tmp_path):
    ffmpeg = pytest.importorskip("imageio_ffmpeg")
    frames = moving_squares(20)
    assert write_video(tmp_path / "a.mp4", iter(frames), fps=25) == 20
    command = [ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(tmp_path / "a.mp4")]
    output = subprocess.run(
        [*command, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"], stdout=subprocess.PIPE
    )
    read = np.frombuffer(output.stdout, np.uint8).reshape(20, 42, 64, 3)
    assert np.abs(read[:, :41, :63].astype(int) - frames).mean() < 3
    assert ffmpeg.count_frames_and_secs(str(tmp_path / "a.mp4")) == (20, pytest.approx(0.8))


@pytest.mark.parametrize("suffix", [".gif", ".mp4"])
def test_a_recording_that_fails_leaves_the_file_of_before(suffix, tmp_path):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(b"before")

    def broken():
        yield from moving_squares(3)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        write_video(path, broken(), fps=25)
    assert path.read_bytes() == b"before" and list(tmp_path.iterdir()) == [path]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Return a run whose training ended with its initial parameters."""
    run = RunDirectory(tmp_path_factory.mktemp("runs") / "run")
    settings = resolve("a2c", CARTPOLE, hidden=(4,))
    RunDirectory.create(run.path, "a2c", CARTPOLE, settings)
    network = build("a2c", CARTPOLE, settings).network
    params = network.init(KEY, (), np.zeros((1, 1, 4), np.float32), np.ones((1, 1), bool))
    run.checkpoints.save(0, flatten(params, VARIABLES), {}, keep=1)
    return run.path


def test_the_command_writes_what_it_says(run_dir, capsys):
    assert cli.main(["record", str(run_dir), "--episodes", "2", "--policy", "sampled"]) == 0
    printed = capsys.readouterr().out.splitlines()
    steps = [int(line.split()[3]) for line in printed[:2]]
    assert [line.split()[1] for line in printed[:2]] == [str(n) for n in steps], (
        "CartPole pays 1 a step"
    )
    path = run_dir / "recording.gif"
    assert printed[2] == f"wrote {path}, {sum(steps) + 2} frames"
    durations = iio.immeta(path)["duration"]
    assert path.read_bytes().startswith(b"GIF89a") and durations >= 30
    assert iio.imread(path)[0].shape == (400, 600, 3)


def test_the_command_ends_where_it_was_told(run_dir, tmp_path, capsys):
    command = ["record", str(run_dir), "--max-steps", "3", "--output", str(tmp_path / "a.gif")]
    assert cli.main([*command, "--seed", "7"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == ["the video ends at --max-steps 3", f"wrote {tmp_path / 'a.gif'}, 4 frames"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--output", "a.avi"], "output must end in .gif or .mp4, got 'a.avi'"),
        (["--output", "missing/a.gif"], "a folder that does not exist"),
        (["--output", "/proc/a.gif"], "output '/proc/a.gif' cannot be written"),
        (["--policy", "epsilon-greedy"], "policy of a2c must be one of greedy, sampled"),
        (["--episodes", "0"], "episodes must be an integer of at least 1"),
        (["--max-steps", "0"], "max_steps must be an integer of at least 1"),
        (["--fps", "51"], "fps must be an integer between 1 and 50"),
        (["--seed", "-1"], "seed must be an integer of at least 0"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_played(
    flags, message, run_dir, monkeypatch, capsys
):
    monkeypatch.setattr("jax_a3c.evaluation.record.played", lambda *_: 1 / 0)
    assert cli.main(["record", str(run_dir), *flags]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("suffix", "library"), [("gif", "imageio"), ("mp4", "imageio_ffmpeg")])
def test_a_missing_library_is_named_with_its_extra(suffix, library, run_dir, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, library, None)
    assert cli.main(["record", str(run_dir), "--output", str(run_dir / f"a.{suffix}")]) == 2
    assert f"needs {library}; run pip install 'jax-a3c[video]'" in capsys.readouterr().err


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    for path in (tmp_path, tmp_path / "missing"):
        assert cli.main(["record", str(path)]) == 2
        assert str(path) in capsys.readouterr().err


def test_a_file_that_cannot_be_written_is_refused(run_dir, tmp_path, capsys):
    output = tmp_path / f"{300 * 'a'}.gif"  # too long for any file name, even for root
    assert cli.main(["record", str(run_dir), "--output", str(output), "--max-steps", "2"]) == 2
    assert "cannot be written" in capsys.readouterr().err
