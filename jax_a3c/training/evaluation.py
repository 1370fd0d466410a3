"""Evaluation: complete episodes on environments of their own, unclipped and undiscounted."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jax_a3c.checks import MAX_EPISODES, MAX_STEPS, check_choice, check_integer
from jax_a3c.envs.base import HostFactory, JaxEnvironment, to_bounds
from jax_a3c.exploration import epsilon_greedy
from jax_a3c.objectives import Network
from jax_a3c.programs import shared_jit
from jax_a3c.types import Array, Carry, Params

EPSILON = 0.05
"""Of the epsilon-greedy policy (Mnih et al. 2015)."""
ACTIONS: dict[str, Callable[[Array, Any, Array], Array]] = {
    "greedy": lambda key, distribution, values: distribution.mode(),
    "sampled": lambda key, distribution, values: distribution.sample(key),
    "epsilon-greedy": lambda key, distribution, values: epsilon_greedy(key, values, EPSILON),
}
"""From a key and what the network returned, its distribution and values, to actions."""
MAX_EPISODE_STEPS = 27_000
"""Cap on an episode of an environment without a time limit: 30 minutes of Atari at 4 frames a step."""
MAX_HOST_ENVS = 8
"""Environments of the host that step together; each plays its share of the episodes."""
SLICE = 0.25
"""Seconds that a call to the device may take, about."""
Act = Callable[[Params, Array, Carry, Any, Any], tuple[Array, Carry, Array]]
"""`(params, key, carry, observation [N, ...], reset [N]) -> (next key, carry, action [N, ...])`."""


class Evaluation(NamedTuple):
    """Results of episodes.

    Attributes:
      returns: `[episodes]` float32. Undiscounted, in reward units.
      lengths: `[episodes]` int32. In environment steps.
      cut: `[episodes]` bool. The evaluation ended that episode at its own limit of steps, the environment
        did not. A time limit of the environment ends a whole episode.
    """

    returns: np.ndarray
    lengths: np.ndarray
    cut: np.ndarray


class Standing(NamedTuple):
    """How far an evaluation is.

    Attributes:
      ended: episodes that ended so far.
      steps: steps that the environments took together so far.
      remaining: how many more they will take, about: an episode is expected to last as long as those that
        ended did on average; twice as long as it did, where that is past; to its limit while none ended.
    """

    ended: int
    steps: int
    remaining: float


Report = Callable[[Standing], None]


class _Loop(NamedTuple):
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
    """Build the function that plays `num_episodes` complete episodes; it compiles at its first call.

    To take the first `num_episodes` that end would favour short ones. So each episode has an environment of
    its own, of which only the first counts; on the host, where environments are dear, up to 8 of them play
    an equal share each. There an episode is a whole game, whatever lost lives are to the learner, and its
    return is the sum of the unclipped rewards.

    Args:
      env: the environment; those of the host are started at each call and closed at its end.
      network: the policy.
      num_episodes: at least 1.
      policy: `"greedy"` takes the mode of the policy, or the action of the largest value; `"sampled"` draws
        from the policy; `"epsilon-greedy"` takes a random action in 1 of 20 steps, by a network of action
        values.
      progress: told how far the evaluation is, on the host after each step, in JAX about every quarter of a
        second; what it raises ends the evaluation.
      max_episode_steps: steps after which an episode is cut, at least 1; None for the time limit of the
        environment, or `MAX_EPISODE_STEPS` if it has none.

    Returns:
      `(params, key) -> Evaluation`; the key is for start states and sampled actions.

    Raises:
      InputError: if a number is out of range or the policy is unknown.
    """
    check_integer("num_episodes", num_episodes, 1, MAX_EPISODES)
    limit = env.spec.max_episode_steps or MAX_EPISODE_STEPS
    if max_episode_steps is not None:
        check_integer("max_episode_steps", max_episode_steps, 1, MAX_STEPS)
        limit = min(limit, max_episode_steps)
    if isinstance(env, JaxEnvironment):
        return _on_device(env, network, num_episodes, policy, limit, progress)
    act = acting(network, policy)
    return lambda params, key: _on_host(
        env, network, act, params, key, num_episodes, limit, progress
    )


def acting(network: Network, policy: str) -> Act:
    """The compiled function by which a policy acts outside of JAX, from one group of environments.

    Args:
      network: the policy.
      policy: as in `evaluator`.

    Returns:
      The function; it hands on the random key for its next call.
    """
    check_choice("policy", policy, ACTIONS)

    def act(
        params: Params, key: Array, carry: Carry, observation: Array, reset: Array
    ) -> tuple[Array, Carry, Array]:
        key, action_key = jax.random.split(key)
        carry, distribution, values = network.apply(params, carry, observation[None], reset[None])
        return key, carry, ACTIONS[policy](action_key, distribution, values)[0]

    return shared_jit(act)


def _expected_rest(length: np.ndarray, typical: float, limit: int) -> np.ndarray:
    """How much longer episodes may take that lasted so long, see `Standing`."""
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
    """Play on the host."""
    num_envs = min(num_episodes, MAX_HOST_ENVS)
    seed_key, key = jax.random.split(key)
    seed = int(jax.random.randint(seed_key, (), 0, 2**31 - 1 - num_envs))
    env = factory.make(num_envs, seed=seed)
    try:
        open_games = np.full(num_envs, num_episodes // num_envs)
        open_games[: num_episodes % num_envs] += 1
        returns: list[float] = []
        lengths: list[int] = []
        cut: list[bool] = []
        score, length = np.zeros(num_envs), np.zeros(num_envs, np.int32)
        observation, reset = env.reset(), np.ones(num_envs, bool)
        waits = np.zeros(
            num_envs, bool
        )  # its game was cut; the next one waits for the end of this one
        carry = network.initial_carry((num_envs,))
        steps = 0
        typical = float(limit)

        while open_games.any():
            key, carry, action = act(params, key, carry, observation, reset)
            step = env.step(to_bounds(env.spec.action_space, np.asarray(action)))
            observation, reset = step.observation, step.ignored
            steps += 1

            plays = (open_games > 0) & ~waits
            score += np.where(plays, step.score, 0.0)
            length += plays & ~step.ignored
            over = plays & (step.game_over | (length >= limit)) & (length > 0)
            waits = (waits | over) & ~step.game_over
            if over.any():
                returns += score[over].tolist()
                lengths += length[over].tolist()
                cut += (~step.game_over[over]).tolist()
                score[over], length[over] = 0.0, 0
                open_games -= over
                typical = float(np.mean(lengths))

            rest = _expected_rest(length, typical, limit) + (open_games - 1) * typical
            remaining = np.max(rest, where=open_games > 0, initial=0.0)
            progress(Standing(len(lengths), steps, float(remaining)))
            if (
                open_games.any() and waits[open_games > 0].all()
            ):  # an environment alone cannot be reset
                observation, reset = env.reset(), np.ones(num_envs, bool)
                waits[:] = False
        return Evaluation(np.array(returns, np.float32), np.array(lengths, np.int32), np.array(cut))
    finally:
        env.close()


def _on_device(
    env: JaxEnvironment,
    network: Network,
    num_episodes: int,
    policy: str,
    limit: int,
    progress: Report,
) -> Callable[[Params, Array], Evaluation]:
    """Play inside a compiled loop, which comes back after `SLICE` seconds or so and goes on."""
    check_choice("policy", policy, ACTIONS)

    def step(params: Params, loop: _Loop) -> _Loop:
        key, action_key, env_key = jax.random.split(loop.key, 3)
        carry, distribution, values = network.apply(
            params, loop.carry, loop.observation[None], loop.reset[None]
        )
        action = ACTIONS[policy](action_key, distribution, values)
        env_keys = jax.random.split(env_key, num_episodes)
        taken = to_bounds(env.spec.action_space, action[0])
        env_state, timestep = jax.vmap(env.step)(env_keys, loop.env_state, taken)
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
        key, reset_key = jax.random.split(key)
        env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))
        true = jnp.ones(num_episodes, bool)
        zeros = jnp.zeros(num_episodes)
        carry = network.initial_carry((num_episodes,))
        return _Loop(key, env_state, observation, carry, true, true, zeros, zeros.astype(jnp.int32))

    def go_on(params: Params, loop: _Loop, until: Array) -> tuple[_Loop, Array, Array]:
        def unfinished(loop: _Loop) -> Array:
            return jnp.any(loop.running) & (loop.lengths.max() < until)

        loop = jax.lax.while_loop(unfinished, lambda loop: step(params, loop), loop)
        return (
            loop,
            loop.running.sum(),
            jnp.sum(loop.lengths, where=~loop.running, dtype=jnp.float32),
        )

    begin_program = shared_jit(begin)
    go_on_program = shared_jit(go_on, donate_argnums=(1,))

    def play(params: Params, key: Array) -> Evaluation:
        loop, steps, until, running = begin_program(key), 1, 0, num_episodes
        while running and until < limit:
            until, called = min(until + steps, limit), time.perf_counter()
            loop, left, lengths = go_on_program(params, loop, np.int32(until))
            running = int(left)
            ended = num_episodes - running
            typical = float(lengths) / ended if ended else limit
            remaining = float(_expected_rest(np.array(until), typical, limit)) if running else 0.0
            progress(Standing(ended, until, remaining))
            steps = 2 * steps if time.perf_counter() - called < SLICE / 2 else max(1, steps // 2)
        return Evaluation(*jax.device_get((loop.returns, loop.lengths, loop.running)))

    return play
