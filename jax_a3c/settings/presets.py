"""Presets: tuned settings for a method on an environment, with the result measured with them."""

from dataclasses import dataclass
from typing import Any

from jax_a3c.scores import game_of


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Settings that differ from the method's defaults, and the result they reach.

    Attributes:
      settings: fields of `training.Settings`, by name.
      result: the measured result, as recorded in `benchmarks/results/`.
    """

    settings: dict[str, Any]
    result: str


# Settings that several presets share. Workers of value-based methods have several environments.
# Each environment draws its final epsilon, and with only two draws a run would depend on luck.
SMALL_TASK = {"epsilon_anneal_steps": 100_000, "target_update_interval": 1000}
# Averaged losses need a smaller clipping norm and a smaller epsilon.
MEAN = {
    "loss_reduction": "mean",
    "max_grad_norm": 0.5,
    "rmsprop_eps": 1e-5,
}
TWO_WORKERS = {"num_workers": 2, "num_envs": 8, "stop_at_episode_end": False}

# Classic control: CartPole and Acrobot.
CLASSIC = {**SMALL_TASK, "reward_scale": 0.1, "total_timesteps": 1_000_000}
CLASSIC_ON_THREADS = {**CLASSIC, **TWO_WORKERS, "num_steps": 5, "learning_rate": 5e-3}

CATCH = {**SMALL_TASK, "total_timesteps": 500_000, "learning_rate": 2e-3}
CATCH_ON_THREADS = {**CATCH, **TWO_WORKERS, "num_steps": 5, "learning_rate": 1e-2}

# MemoryChain needs an LSTM.
MEMORY = {
    **SMALL_TASK,
    "target_update_interval": 2000,
    "total_timesteps": 500_000,
    "lstm": True,
    "num_steps": 16,
    "optimizer": "adam",
    "learning_rate": 2e-3,
}
MEMORY_IN_LOCKSTEP = {**MEMORY, "lstm_size": 64, "num_envs": 64}
MEMORY_ON_THREADS = {
    **MEMORY,
    **TWO_WORKERS,
    "lstm_size": 32,
    **MEAN,
}

MINATAR = {
    **TWO_WORKERS,
    "total_timesteps": 3_000_000,
    "network": "minatar",
    "num_envs": 16,
    "num_steps": 8,
    **MEAN,
    "optimizer": "adam",
    "learning_rate": 1e-3,
}
MINATAR_VALUES = {
    **MINATAR,
    "epsilon_anneal_steps": 500_000,
    "target_update_interval": 10_000,
    "eval_policy": "epsilon-greedy",
}

# Atari: preprocessing, clipped rewards and network of the paper. The paper's worker has one
# environment. With 16, a step takes a third less processor time. In batches of more than 80 images
# each image takes longer.
ATARI = "envpool:<an Atari game>-v5"
ATARI_GAME = {
    "total_timesteps": 10_000_000,
    "network": "mnih2013",
    "reward_clip": 1.0,
    "vf_coef": 0.5,
    "gae_lambda": 0.95,
    "optimizer": "adam",
    "learning_rate": 2.5e-4,
    "eval_episodes": 10,
    "eval_policy": "sampled",
}

# Continuous control as in current practice. Sampled actions count, because the mode of a Gaussian
# policy was never trained.
CONTROL = {
    "total_timesteps": 1_000_000,
    "normalize_observations": True,
    "normalize_rewards": True,
    "shared_trunk": False,
    "ent_coef": 0.0,
    "gae_lambda": 0.9,
    "vf_coef": 0.5,
    "num_envs": 8,
    "num_steps": 5,
    "learning_rate": 1e-3,
    "initial_stddev": 0.3,
    "eval_policy": "sampled",
}

# Longer runs or larger steps learn to land but later prefer to hover, as does the greedy policy.
LUNAR_LANDER = {
    "num_envs": 16,
    "num_steps": 16,
    "gae_lambda": 0.95,
    "normalize_rewards": True,
    "normalize_advantages": True,
    "shared_trunk": False,
    "ent_coef": 0.001,
    "vf_coef": 0.25,
    "optimizer": "adam",
    "eval_policy": "sampled",
}

FROM_PIXELS = {
    "network": "mnih2013",
    "gae_lambda": 0.95,
    "vf_coef": 0.5,
    "optimizer": "adam",
    "learning_rate": 5e-4,
    "eval_episodes": 30,
}

# First-person mazes: an LSTM replaces the stack of frames.
MAZE = {
    **FROM_PIXELS,
    "total_timesteps": 1_000_000,
    "env_options": ("stack_num=1",),
    "lstm": True,
    "num_envs": 16,
    "num_steps": 20,
    "eval_policy": "sampled",
}

PRESETS: dict[tuple[str, str], Preset] = {
    ("a2c", "gymnax:CartPole-v1"): Preset(
        settings={"total_timesteps": 500_000, "learning_rate": 5e-3, "reward_scale": 0.1},
        result="500 (500 to 500), greedy, 10 seeds, at most 3 s on 2 cores",
    ),
    ("a3c", "gymnax:CartPole-v1"): Preset(
        settings={
            "total_timesteps": 500_000,
            "num_workers": 2,
            "learning_rate": 5e-3,
            "reward_scale": 0.1,
        },
        result="500 (500 to 500), greedy, 10 seeds, at most 8 s on 2 cores",
    ),
    ("a2c", "gymnax:Acrobot-v1"): Preset(
        settings={"total_timesteps": 1_000_000, "learning_rate": 2e-3, "reward_scale": 0.05},
        result="-83.1 (-83.8 to -82.4), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("a3c", "gymnax:Acrobot-v1"): Preset(
        settings={
            "total_timesteps": 1_000_000,
            "num_workers": 2,
            "learning_rate": 5e-3,
            "reward_scale": 0.05,
        },
        result="-82.7 (-83.5 to -81.7), greedy, 5 seeds, at most 15 s on 2 cores",
    ),
    ("a2c", "gymnax:Catch-bsuite"): Preset(
        settings={"total_timesteps": 500_000, "learning_rate": 2e-3},
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 1 s on 2 cores",
    ),
    ("a3c", "gymnax:Catch-bsuite"): Preset(
        settings={"total_timesteps": 500_000, "num_workers": 2, "learning_rate": 2e-3},
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 11 s on 2 cores",
    ),
    ("a2c", "gymnax:MemoryChain-bsuite"): Preset(
        settings={
            "total_timesteps": 500_000,
            "lstm": True,
            "lstm_size": 64,
            "num_envs": 64,
            "num_steps": 16,
            "gae_lambda": 0.95,
            "normalize_advantages": True,
            "optimizer": "adam",
            "learning_rate": 2e-3,
        },
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 6 s on 2 cores",
    ),
    ("a3c", "gymnax:MemoryChain-bsuite"): Preset(
        settings={
            "total_timesteps": 500_000,
            "num_workers": 2,
            "lstm": True,
            "lstm_size": 32,
            "learning_rate": 5e-3,
        },
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 37 s on 2 cores",
    ),
    ("a2c", "gymnax:Pendulum-v1"): Preset(
        settings={
            "total_timesteps": 5_000_000,
            "num_envs": 32,
            "num_steps": 8,
            "gamma": 0.95,
            "gae_lambda": 0.9,
            "ent_coef": 0.0,
            "reward_scale": 0.1,
            "shared_trunk": False,
            "learning_rate": 1e-3,
        },
        result="-151 (-161 to -142), greedy, 5 seeds, at most 37 s on 2 busy cores",
    ),
    ("a3c", "gymnax:Pendulum-v1"): Preset(
        settings={
            "total_timesteps": 4_000_000,
            "num_workers": 2,
            "num_envs": 8,
            "stop_at_episode_end": False,
            "gamma": 0.95,
            "gae_lambda": 0.9,
            "ent_coef": 1e-4,
            "reward_scale": 0.1,
            "shared_trunk": False,
            "learning_rate": 3e-3,
        },
        result="-150 (-160 to -142), greedy, 5 seeds, at most 33 s on 2 busy cores",
    ),
    ("a2c", "gymnax:Breakout-MinAtar"): Preset(
        settings={
            "total_timesteps": 10_000_000,
            "network": "minatar",
            "num_envs": 64,
            "num_steps": 16,
            "gae_lambda": 0.95,
            "normalize_advantages": True,
            "ent_coef": 0.2,
            "optimizer": "adam",
            "learning_rate": 2e-3,
            "eval_policy": "sampled",
        },
        result="31.5 (27.2 to 39.0), sampled, 3 seeds, at most 112 s on 2 cores",
    ),
    ("n-step-q", "gymnax:CartPole-v1"): Preset(
        settings={**CLASSIC, "num_steps": 10, "learning_rate": 2e-3},
        result="498.4 (493.0 to 500.0), greedy, 5 seeds, at most 2 s on 2 cores",
    ),
    ("one-step-q", "gymnax:CartPole-v1"): Preset(
        settings={
            **CLASSIC,
            "loss_reduction": "sum",
            "max_grad_norm": 40.0,
            "rmsprop_eps": 0.1,
            "learning_rate": 5e-3,
        },
        result="474.6 (441.2 to 492.4), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("one-step-sarsa", "gymnax:CartPole-v1"): Preset(
        settings={**CLASSIC, "learning_rate": 3e-3},
        result="499.9 (499.3 to 500.0), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-n-step-q", "gymnax:CartPole-v1"): Preset(
        settings={**CLASSIC_ON_THREADS, "num_steps": 10, "learning_rate": 3e-3},
        result="500.0 (500.0 to 500.0), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-one-step-q", "gymnax:CartPole-v1"): Preset(
        settings=CLASSIC_ON_THREADS,
        result="498.4 (493.9 to 500.0), greedy, 5 seeds, at most 7 s on 2 cores",
    ),
    ("async-one-step-sarsa", "gymnax:CartPole-v1"): Preset(
        settings=CLASSIC_ON_THREADS,
        result="475.0 (448.1 to 489.7), greedy, 5 seeds, at most 7 s on 2 cores",
    ),
    ("n-step-q", "gymnax:Acrobot-v1"): Preset(
        settings={**CLASSIC, "learning_rate": 2e-3},
        result="-86.3 (-89.1 to -81.9), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("one-step-q", "gymnax:Acrobot-v1"): Preset(
        settings={**CLASSIC, "learning_rate": 4e-3},
        result="-87.2 (-89.5 to -84.6), greedy, 5 seeds, at most 4 s on 2 cores",
    ),
    ("one-step-sarsa", "gymnax:Acrobot-v1"): Preset(
        settings={**CLASSIC, "learning_rate": 4e-3},
        result="-82.9 (-87.9 to -78.2), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-n-step-q", "gymnax:Acrobot-v1"): Preset(
        settings={**CLASSIC_ON_THREADS, "num_steps": 10},
        result="-85.7 (-93.8 to -80.7), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-one-step-q", "gymnax:Acrobot-v1"): Preset(
        settings=CLASSIC_ON_THREADS,
        result="-90.5 (-98.2 to -77.9), greedy, 5 seeds, at most 12 s on 2 cores",
    ),
    ("async-one-step-sarsa", "gymnax:Acrobot-v1"): Preset(
        settings=CLASSIC_ON_THREADS,
        result="-90.5 (-94.4 to -85.4), greedy, 5 seeds, at most 6 s on 2 cores",
    ),
    ("n-step-q", "gymnax:Catch-bsuite"): Preset(
        settings=CATCH,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 2 s on 2 cores",
    ),
    ("one-step-q", "gymnax:Catch-bsuite"): Preset(
        settings=CATCH,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("one-step-sarsa", "gymnax:Catch-bsuite"): Preset(
        settings=CATCH,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-n-step-q", "gymnax:Catch-bsuite"): Preset(
        settings={**CATCH_ON_THREADS, "learning_rate": 5e-3},
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 5 s on 2 cores",
    ),
    ("async-one-step-q", "gymnax:Catch-bsuite"): Preset(
        settings=CATCH_ON_THREADS,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 7 s on 2 cores",
    ),
    ("async-one-step-sarsa", "gymnax:Catch-bsuite"): Preset(
        settings=CATCH_ON_THREADS,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 6 s on 2 cores",
    ),
    ("n-step-q", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_IN_LOCKSTEP,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 4 s on 2 cores",
    ),
    ("one-step-q", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_IN_LOCKSTEP,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 4 s on 2 cores",
    ),
    ("one-step-sarsa", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_IN_LOCKSTEP,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 4 s on 2 cores",
    ),
    ("async-n-step-q", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_ON_THREADS,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 2 s on 2 cores",
    ),
    ("async-one-step-q", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_ON_THREADS,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 3 s on 2 cores",
    ),
    ("async-one-step-sarsa", "gymnax:MemoryChain-bsuite"): Preset(
        settings=MEMORY_ON_THREADS,
        result="1.00 (1.00 to 1.00), greedy, 5 seeds, at most 2 s on 2 cores",
    ),
    ("async-n-step-q", "gymnax:Breakout-MinAtar"): Preset(
        settings=MINATAR_VALUES,
        result="14.5 (13.5 to 15.4), epsilon-greedy, 3 seeds, at most 91 s on 2 cores",
    ),
    ("async-one-step-q", "gymnax:Breakout-MinAtar"): Preset(
        settings=MINATAR_VALUES,
        result="13.6 (12.8 to 14.2), epsilon-greedy, 3 seeds, at most 85 s on 2 cores",
    ),
    ("async-one-step-sarsa", "gymnax:Breakout-MinAtar"): Preset(
        settings=MINATAR_VALUES,
        result="14.0 (10.4 to 17.1), epsilon-greedy, 3 seeds, at most 97 s on 2 cores",
    ),
    ("a3c", "gymnax:Breakout-MinAtar"): Preset(
        settings={
            **MINATAR,
            "gae_lambda": 0.95,
            "normalize_advantages": True,
            "ent_coef": 0.2,
            "eval_policy": "sampled",
        },
        result="19.8 (15.9 to 22.6), sampled, 3 seeds, at most 73 s on 2 cores",
    ),
    ("a2c", ATARI): Preset(
        settings=ATARI_GAME,
        result="Pong: 2.1 greedy, -0.2 sampled, 1 run, stopped at 5.5 M steps, 70 min on 2 cores",
    ),
    ("a3c", ATARI): Preset(
        settings={
            **ATARI_GAME,
            **MEAN,
            "num_workers": 2,
            "num_envs": 16,
            "num_steps": 5,
            "stop_at_episode_end": False,
        },
        result="Pong: 6.7 greedy, 1.7 sampled, 1 run, stopped at 7.8 M steps, 100 min on 2 cores",
    ),
    ("a2c", "envpool:HalfCheetah-v5"): Preset(
        settings=CONTROL,
        result="1,864 (713 to 3,015), sampled, 2 seeds, at most 1,152 s on 2 busy cores",
    ),
    ("a3c", "envpool:HalfCheetah-v5"): Preset(
        settings={**CONTROL, **MEAN, "num_workers": 2, "stop_at_episode_end": False},
        result="2,142 (1,401 to 2,748), sampled, 3 seeds, at most 289 s on 2 busy cores",
    ),
    ("a2c", "envpool:LunarLander-v3"): Preset(
        settings={**LUNAR_LANDER, "total_timesteps": 400_000, "learning_rate": 1e-3},
        result="148 (130 to 179), sampled, 3 seeds, at most 89 s on 2 busy cores",
    ),
    ("a2c", "gymnasium:LunarLander-v3"): Preset(
        settings={**LUNAR_LANDER, "total_timesteps": 800_000, "learning_rate": 5e-4},
        result="108 (78 to 138), sampled, 2 seeds, at most 349 s on 2 busy cores",
    ),
    ("a2c", "envpool:CarRacing-v3"): Preset(
        settings={
            **FROM_PIXELS,
            "total_timesteps": 300_000,
            "env_options": ("continuous=false",),
            "num_envs": 8,
            "num_steps": 10,
            "reward_scale": 0.1,
        },
        result="328 (95 % interval 291 to 359), greedy, 1 run, 30 episodes; random policy -55 "
        "(-57 to -53)",
    ),
    # The only reward is rare. With an entropy weight of 0.01 nothing was learned.
    ("a2c", "envpool:MyWayHome-v1"): Preset(
        settings={**MAZE, "ent_coef": 1e-3},
        result="0.67 (95 % interval 0.50 to 0.83), sampled, 1 run, 30 episodes; random policy 0.07 "
        "(0 to 0.17)",
    ),
    ("a2c", "envpool:HealthGathering-v1"): Preset(
        settings={**MAZE, "total_timesteps": 300_000},
        result="-0.20 (-0.22 to -0.18), sampled, 1 short run, 30 episodes; random policy the same",
    ),
}
"""Presets by method and environment id; `ATARI` serves the games that have none themselves."""

# The same name in two libraries is the same task only if both took it from Gym.
LIBRARIES = ("gymnasium", "envpool", "gymnax")
"""Libraries that share presets by environment name, in the order of the search."""
JAX_ONLY = frozenset({"auto_reset"})
"""Settings that only JAX environments have."""


def preset_of(method: str, env_id: str) -> Preset | None:
    """Return the preset of a method on an environment.

    Args:
      method: a name in `settings.methods.METHODS`.
      env_id: environment id, such as `gymnasium:CartPole-v1`.

    Returns:
      The preset that `preset_id` names, or None. Settings that only JAX environments have are left
      out for other environments.
    """
    found = preset_id(method, env_id)
    if found is None:
        return None

    preset = PRESETS[method, found]
    if library_of(env_id) == "gymnax" or not JAX_ONLY & preset.settings.keys():
        return preset

    settings = {name: value for name, value in preset.settings.items() if name not in JAX_ONLY}
    return Preset(settings=settings, result=preset.result)


def preset_id(method: str, env_id: str) -> str | None:
    """Return the environment id of the preset that serves a method on an environment.

    Args:
      method: a name in `settings.methods.METHODS`.
      env_id: environment id, such as `gymnasium:CartPole-v1`.

    Returns:
      `env_id` if it has a preset; `ATARI` for an Atari game; or the id of the same name and version
      in another library. A preset with `env_options` serves its own library only, because options
      differ between libraries. None if there is no preset.
    """
    if (method, env_id) in PRESETS:
        return env_id
    if game_of(env_id) is not None:
        return ATARI if (method, ATARI) in PRESETS else None

    # Look for the same task in the other libraries.
    library = library_of(env_id)
    name = env_id.partition(":")[2]
    if library not in LIBRARIES:
        return None
    for other in LIBRARIES:
        preset = PRESETS.get((method, f"{other}:{name}"))
        if preset is not None and "env_options" not in preset.settings:
            return f"{other}:{name}"
    return None


def library_of(env_id: str) -> str:
    """Return the part of an environment id before its first colon."""
    return env_id.partition(":")[0]


def preset_line(method: str, env_id: str) -> str | None:
    """Return the line that says which preset a new run uses; None without a preset."""
    found = preset_id(method, env_id)
    return None if found is None else f"settings of the preset for {method} {found}"
