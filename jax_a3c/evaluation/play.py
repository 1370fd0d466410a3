"""Evaluate a policy on complete episodes, with unclipped and undiscounted rewards."""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import MAX_EPISODES, MAX_STEPS, check_choice, check_integer
from jax_a3c.envs.base import HostFactory, JaxEnvironment, on_device, to_bounds
from jax_a3c.exploration import epsilon_greedy
from jax_a3c.keys import original, unrolled
from jax_a3c.networks.base import Network
from jax_a3c.programs import shared_jit
from jax_a3c.types import Array, Carry, Params

EPSILON = 0.05
"""Epsilon of the epsilon-greedy policy (Mnih et al., 2015)."""
ACTIONS: dict[str, Callable[[Array, Any, Array], Array]] = {
    "greedy": lambda key, distribution, values: distribution.mode(),
    "sampled": lambda key, distribution, values: distribution.sample(key),
    "epsilon-greedy": lambda key, distribution, values: epsilon_greedy(key, values, EPSILON),
}
"""Functions `(key, distribution, values) -> action` by the name of the policy."""
MAX_EPISODE_STEPS = 27_000
"""Step limit for environments without a time limit: 30 minutes of Atari at 4 frames per step."""
MAX_HOST_ENVS = 8
"""Largest number of host environments. Each plays an equal share of the episodes."""
SLICE = 0.25
"""Target duration of one call of the compiled loop, in seconds."""
Act = Callable[[Params, Array, Carry, Any, Any], tuple[Array, Carry, Array]]
"""`(params, key, carry, observation [N, ...], reset [N]) -> (next key, carry, action [N, ...])`."""


class Evaluation(NamedTuple):
    """Results of the episodes of an evaluation.

    Attributes:
      returns: `[episodes]` float32. Undiscounted sums of unclipped rewards.
      lengths: `[episodes]` int32. Lengths in environment steps.
      cut: `[episodes]` bool. The step limit of the evaluation ended the episode. This is False if
        the environment ended it, for example by its time limit.
    """

    returns: np.ndarray
    lengths: np.ndarray
    cut: np.ndarray


class Standing(NamedTuple):
    """Progress of an evaluation.

    Attributes:
      ended: number of episodes that have ended.
      steps: number of steps so far. The environments step together, which counts as one step.
      remaining: estimated number of further steps. An episode is expected to last as long as the
        ended episodes did on average, or until the step limit if none has ended. An episode that is
        already longer is expected to double its length.
    """

    ended: int
    steps: int
    remaining: float


Report = Callable[[Standing], None]


class _Loop(NamedTuple):
    """State of the compiled loop. Each environment plays one episode."""

    key: Array
    env_state: Any
    observation: Array
    carry: Carry
    reset: Array
    running: Array
    returns: Array
    lengths: Array


def evaluator(
    env: JaxEnvironment | HostFactory,
    network: Network,
    *,
    num_episodes: int,
    policy: str,
    progress: Report = lambda standing: None,
    max_episode_steps: int | None = None,
) -> Callable[[Params, Array], Evaluation]:
    """Return a function that plays `num_episodes` complete episodes.

    The first `num_episodes` episodes to end would be biased towards short ones. So each episode has
    its own environment, of which only the first episode counts. Host environments are expensive: at
    most 8 of them play an equal share of the episodes each. A host episode is a whole game, even if
    lost lives terminate episodes for the learner.

    Args:
      env: the environment. Host environments are started in each call and closed at its end.
      network: network of the policy.
      num_episodes: number of episodes, at least 1.
      policy: `"greedy"` takes the mode of the policy, or the action with the largest value.
        `"sampled"` draws from the policy. `"epsilon-greedy"`, for networks of action values, takes
        a random action with probability 0.05.
      progress: called with the progress after each host step, or in JAX about four times a second.
        An exception that it raises ends the evaluation.
      max_episode_steps: step limit of an episode, at least 1. None means the time limit of the
        environment, or `MAX_EPISODE_STEPS` if it has none.

    Returns:
      `(params, key) -> Evaluation`. The key is used for start states and sampled actions. The first
      call compiles.

    Raises:
      InputError: if a number is out of range or the policy is unknown.
    """
    play = evaluator_of_policies(
        env,
        network,
        num_episodes=num_episodes,
        policies=(policy,),
        progress=progress,
        max_episode_steps=max_episode_steps,
    )
    return lambda params, key: play(params, key, policy)


def evaluator_of_policies(
    env: JaxEnvironment | HostFactory,
    network: Network,
    *,
    num_episodes: int,
    policies: Sequence[str],
    progress: Report = lambda standing: None,
    max_episode_steps: int | None = None,
) -> Callable[[Params, Array, str], Evaluation]:
    """Return a function that plays complete episodes with any of several policies.

    See `evaluator` for the arguments. On JAX environments all policies share one program, so that
    only the first call compiles.

    Args:
      env: the environment.
      network: network of the policies.
      num_episodes: number of episodes, at least 1.
      policies: names of the policies.
      progress: called with the progress.
      max_episode_steps: step limit of an episode.

    Returns:
      `(params, key, policy) -> Evaluation`.

    Raises:
      InputError: if a number is out of range or a policy is unknown.
    """
    for policy in policies:
        check_choice("policy", policy, ACTIONS)
    check_integer("num_episodes", num_episodes, 1, MAX_EPISODES)
    limit = env.spec.max_episode_steps or MAX_EPISODE_STEPS
    if max_episode_steps is not None:
        check_integer("max_episode_steps", max_episode_steps, 1, MAX_STEPS)
        limit = min(limit, max_episode_steps)

    if on_device(env):
        return _on_device(env, network, num_episodes, tuple(policies), limit, progress)
    acts = {policy: acting(network, policy) for policy in policies}
    factory = cast("HostFactory", env)
    return lambda params, key, policy: _on_host(
        factory, network, acts[policy], params, key, num_episodes, limit, progress
    )


def acting(network: Network, policy: str) -> Act:
    """Return a compiled function that selects actions for one group of host environments.

    Args:
      network: network of the policy.
      policy: name of the policy, as in `evaluator`.

    Returns:
      The function. It returns the random key for its next call.

    Raises:
      InputError: if the policy is unknown.
    """
    check_choice("policy", policy, ACTIONS)

    def act(
        params: Params, key: Array, carry: Carry, observation: Array, reset: Array
    ) -> tuple[Array, Carry, Array]:
        # The network takes [T, N, ...], here with T = 1.
        key, action_key = jax.random.split(unrolled(key))
        carry, distribution, values = network.apply(params, carry, observation[None], reset[None])
        return original(key), carry, ACTIONS[policy](action_key, distribution, values)[0]

    return shared_jit(act)


def _expected_rest(length: np.ndarray, typical: float, limit: int) -> np.ndarray:
    """Estimate the remaining steps of episodes with the given lengths, see `Standing`."""
    return np.where(length < typical, typical - length, np.minimum(length, limit - length))


def _on_host(
    factory: HostFactory,
    network: Network,
    act: Act,
    params: Params,
    key: Array,
    num_episodes: int,
    limit: int,
    progress: Report,
) -> Evaluation:
    """Play the episodes on host environments."""
    num_envs = min(num_episodes, MAX_HOST_ENVS)
    seed_key, key = jax.random.split(key)
    seed = int(jax.random.randint(seed_key, (), 0, 2**31 - 1 - num_envs))
    env = factory.make(num_envs, seed=seed)
    try:
        # Share the episodes between the environments.
        open_games = np.full(num_envs, num_episodes // num_envs)
        open_games[: num_episodes % num_envs] += 1
        returns: list[float] = []
        lengths: list[int] = []
        cut: list[bool] = []
        score = np.zeros(num_envs)
        length = np.zeros(num_envs, np.int32)
        observation = env.reset()
        reset = np.ones(num_envs, bool)

        # An environment waits if its game was cut, until that game ends.
        waits = np.zeros(num_envs, bool)
        carry = network.initial_carry((num_envs,))
        steps = 0
        typical = float(limit)

        while open_games.any():
            key, carry, action = act(params, key, carry, observation, reset)
            step = env.step(to_bounds(env.spec.action_space, np.asarray(action)))
            observation = step.observation
            reset = step.reset_step
            steps += 1

            # Count the step only where a game is in progress.
            plays = (open_games > 0) & ~waits
            score += np.where(plays, step.raw_reward, 0.0)
            length += plays & ~step.reset_step
            over = plays & (step.game_over | (length >= limit)) & (length > 0)
            waits = (waits | over) & ~step.game_over

            # Store the games that ended.
            if over.any():
                returns += score[over].tolist()
                lengths += length[over].tolist()
                cut += (~step.game_over[over]).tolist()
                score[over] = 0.0
                length[over] = 0
                open_games -= over
                typical = float(np.mean(lengths))

            # The slowest environment determines the remaining time.
            rest = _expected_rest(length, typical, limit) + (open_games - 1) * typical
            remaining = np.max(rest, where=open_games > 0, initial=0.0)
            progress(Standing(len(lengths), steps, float(remaining)))

            # Reset all environments if all wait. A single one cannot be reset.
            if open_games.any() and waits[open_games > 0].all():
                observation = env.reset()
                reset = np.ones(num_envs, bool)
                waits[:] = False
        return Evaluation(np.array(returns, np.float32), np.array(lengths, np.int32), np.array(cut))
    finally:
        env.close()


def _on_device(
    env: JaxEnvironment,
    network: Network,
    num_episodes: int,
    policies: tuple[str, ...],
    limit: int,
    progress: Report,
) -> Callable[[Params, Array, str], Evaluation]:
    """Play the episodes in a compiled loop that returns about every `SLICE` seconds."""
    choices = [ACTIONS[policy] for policy in policies]

    def step(params: Params, loop: _Loop, choice: Array) -> _Loop:
        key, action_key, env_key = jax.random.split(loop.key, 3)
        carry, distribution, values = network.apply(
            params, loop.carry, loop.observation[None], loop.reset[None]
        )
        action = jax.lax.switch(choice, choices, action_key, distribution, values)
        env_keys = jax.random.split(env_key, num_episodes)

        # [T = 1, N, ...] -> [N, ...]
        taken = to_bounds(env.spec.action_space, action[0])
        env_state, timestep = unrolled(jax.vmap(env.step)(env_keys, loop.env_state, taken))

        # Only the first episode of each environment counts.
        return _Loop(
            key,
            env_state,
            timestep.observation,
            carry,
            jnp.zeros_like(loop.reset),
            loop.running & ~(timestep.terminated | timestep.truncated),
            loop.returns + jnp.where(loop.running, timestep.reward, 0.0),
            loop.lengths + loop.running,
        )

    def begin(key: Array) -> _Loop:
        key, reset_key = jax.random.split(unrolled(key))
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))
        true = jnp.ones(num_episodes, bool)
        zeros = jnp.zeros(num_episodes)
        carry = network.initial_carry((num_episodes,))
        lengths = zeros.astype(jnp.int32)
        return original(_Loop(key, env_state, observation, carry, true, true, zeros, lengths))

    def go_on(
        params: Params, loop: _Loop, until: Array, choice: Array
    ) -> tuple[_Loop, Array, Array]:
        def unfinished(loop: _Loop) -> Array:
            return jnp.any(loop.running) & (loop.lengths.max() < until)

        loop = unrolled(loop)
        loop = original(
            jax.lax.while_loop(unfinished, lambda loop: step(params, loop, choice), loop)
        )

        # Return the number of running episodes and the total length of the ended ones too.
        return (
            loop,
            loop.running.sum(),
            jnp.sum(loop.lengths, where=~loop.running, dtype=jnp.float32),
        )

    begin_program = shared_jit(begin)
    go_on_program = shared_jit(go_on, donate_argnums=(1,))

    def play(params: Params, key: Array, policy: str) -> Evaluation:
        choice = np.int32(policies.index(policy))
        loop = begin_program(key)
        steps = 1
        until = 0
        running = num_episodes
        while running and until < limit:
            until = min(until + steps, limit)
            called = time.perf_counter()
            loop, left, lengths = go_on_program(params, loop, np.int32(until), choice)
            running = int(left)

            # Report the progress.
            ended = num_episodes - running
            typical = float(lengths) / ended if ended else limit
            remaining = float(_expected_rest(np.array(until), typical, limit)) if running else 0.0
            progress(Standing(ended, until, remaining))

            # Adapt the number of steps per call to SLICE.
            steps = 2 * steps if time.perf_counter() - called < SLICE / 2 else max(1, steps // 2)

        return Evaluation(*jax.device_get((loop.returns, loop.lengths, loop.running)))

    return play
