"""The references that our learner is compared with, written plainly from the published algorithms.

R1  `second_pass`: A2C in the structure of PureJaxRL (Lu et al., 2022). Everything runs under one
    jit. The environment's own `step` resets every environment on every step. Keys are split for
    each environment in the loop. Transitions are stored with the episodes' returns and lengths.
    The batch passes the network a second time in the loss. Layers are Flax's, rules are Optax's.
R2  `through_rollout`: the same, but the gradient is taken through the loop of the rollout.
R6  `HostLoop`: one group of envpool's environments and one thread: step, transfer, act, step.

As in PureJaxRL an episode that a time limit cut counts as terminated. This spares the references
the cost of the bootstrap from its last observation, and they do not keep the final observations. R3
and R4, of PyTorch, are in `torch_references.py`; R5 is envpool itself, see `host.py`.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

Array = jax.Array
Params = Any

LAYERS: dict[str, tuple[tuple[tuple[int, int, int], ...], tuple[int, ...]]] = {
    "mlp": ((), (64, 64)),
    "minatar": (((16, 3, 1),), (128,)),
    "mnih2013": (((16, 8, 4), (32, 4, 2)), (256,)),
}
"""Convolutions (channels, size, stride) and dense layers of our networks of the same name."""


class Config(Protocol):
    """The settings of A2C that a reference reads; `jax_a3c.A2CConfig` has them all."""

    num_envs: int
    num_steps: int
    gamma: float
    gae_lambda: float
    vf_coef: float
    ent_coef: float
    max_grad_norm: float | None


class ActorCritic(nn.Module):
    """Policy and value on a shared trunk of Flax's own layers.

    Attributes:
      layers: a name of `LAYERS`.
      num_actions: A.
    """

    layers: str
    num_actions: int

    @nn.compact
    def __call__(self, observations: Array) -> tuple[Array, Array]:
        """Return logits `[M, A]` and values `[M]` of observations; divide uint8 pixels by 255."""
        convolutions, hidden = LAYERS[self.layers]
        activation = nn.relu if convolutions else nn.tanh
        wide = nn.initializers.orthogonal(2.0**0.5)
        x = observations / 255.0 if observations.dtype == jnp.uint8 else observations

        for channels, size, stride in convolutions:
            layer = nn.Conv(
                channels, (size, size), (stride, stride), padding="VALID", kernel_init=wide
            )
            x = activation(layer(x))
        x = x.reshape(len(x), -1)
        for units in hidden:
            x = activation(nn.Dense(units, kernel_init=wide)(x))

        logits = nn.Dense(
            self.num_actions, kernel_init=nn.initializers.orthogonal(0.01), name="logits"
        )(x)
        values = nn.Dense(1, kernel_init=nn.initializers.orthogonal(1.0), name="value")(x)
        return logits, values[..., 0]


class Transition(NamedTuple):
    """One step of all environments, `[N]`; stacked over a rollout `[T, N]`.

    Attributes:
      observation: s_t.
      action: a_t.
      reward: r_t.
      done: the episode ended with this step.
      value: v(s_t), computed while acting.
      log_prob: log pi(a_t | s_t), computed while acting.
      entropy: entropy of pi(. | s_t), computed while acting.
      info: returns and lengths of the episodes, or None.
    """

    observation: Array
    action: Array
    reward: Array
    done: Array
    value: Array
    log_prob: Array
    entropy: Array
    info: dict[str, Array] | None = None


class Episodes(NamedTuple):
    """The state of a logging wrapper: the running episode, and the last one that ended."""

    running_return: Array
    running_length: Array
    last_return: Array
    last_length: Array


class State(NamedTuple):
    """The state of a run."""

    params: Params
    opt_state: Any
    env_state: Any
    observation: Array
    episodes: Episodes
    key: Array


class Reference(NamedTuple):
    """A learner whose whole training is one program.

    Attributes:
      init: `key -> state`.
      train: `(state, num_updates) -> (state, info [num_updates, T, N])`.
    """

    init: Callable[[Array], State]
    train: Callable[[State, int], tuple[State, dict[str, Array]]]


def optimizer(
    learning_rate: float, eps: float, max_grad_norm: float | None, decay: float = 0.99
) -> optax.GradientTransformation:
    """Return the paper's RMSProp, epsilon inside the root, after clipping of the global norm."""
    clip = optax.identity() if max_grad_norm is None else optax.clip_by_global_norm(max_grad_norm)
    return optax.chain(clip, optax.rmsprop(learning_rate, decay=decay, eps=eps, eps_in_sqrt=True))


def second_pass(
    env_name: str, layers: str, rule: optax.GradientTransformation, config: Config
) -> Reference:
    """Return R1.

    Args:
      env_name: name of an environment of gymnax, such as `CartPole-v1`.
      layers: a name of `LAYERS`.
      rule: maps the gradient to a change of the parameters, clipping included.
      config: sizes and weights of the loss.

    Returns:
      The learner.
    """
    env, env_params, network = _parts(env_name, layers)

    def update(state: State, _: None) -> tuple[State, dict[str, Array]]:
        step = functools.partial(_step, env, env_params, network)
        state, transitions = jax.lax.scan(step, state, None, config.num_steps)

        last_value = network.apply(state.params, state.observation)[1]
        params, opt_state = learn(
            network, rule, config, state.params, state.opt_state, transitions, last_value
        )
        return state._replace(params=params, opt_state=opt_state), transitions.info

    return _reference(env, env_params, network, rule, config, update)


def through_rollout(
    env_name: str, layers: str, rule: optax.GradientTransformation, config: Config
) -> Reference:
    """Return R2; see `second_pass` for the arguments."""
    env, env_params, network = _parts(env_name, layers)

    def rollout_loss(params: Params, state: State) -> tuple[Array, tuple[State, dict[str, Array]]]:
        step = functools.partial(_step, env, env_params, network)
        state, transitions = jax.lax.scan(
            step, state._replace(params=params), None, config.num_steps
        )

        # Targets and advantages are constants of the loss.
        last_value = network.apply(params, state.observation)[1]
        fixed, last_value = jax.lax.stop_gradient((transitions, last_value))
        advantages, targets = advantages_and_targets(config, fixed, last_value)
        loss = _total(
            config,
            transitions.log_prob,
            transitions.value,
            transitions.entropy,
            advantages,
            targets,
        )
        return loss, (state, transitions.info)

    def update(state: State, _: None) -> tuple[State, dict[str, Array]]:
        grads, (after, info) = jax.grad(rollout_loss, has_aux=True)(state.params, state)
        # One backward pass through all steps of the rollout.
        changes, opt_state = rule.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, changes)
        return after._replace(params=params, opt_state=opt_state), info

    return _reference(env, env_params, network, rule, config, update)


def learn(
    network: nn.Module,
    rule: optax.GradientTransformation,
    config: Config,
    params: Params,
    opt_state: Any,
    transitions: Transition,
    last_value: Array,
    mask: Array | None = None,
) -> tuple[Params, Any]:
    """Compute one update from a rollout, with a second pass through the network.

    Args:
      network: an `ActorCritic`.
      rule: see `second_pass`.
      config: sizes and weights of the loss.
      params: parameters of the network.
      opt_state: state of the rule.
      transitions: `[T, N]`.
      last_value: `[N]`. v(s_T).
      mask: `[T, N]` bool, False for steps that do not count; None if all count.

    Returns:
      The next parameters and state of the rule.
    """
    advantages, targets = advantages_and_targets(config, transitions, last_value)

    # [T, N] -> [T N]
    actions = transitions.action.reshape(-1)
    where = None if mask is None else mask.reshape(-1)
    observations = transitions.observation.reshape(-1, *transitions.observation.shape[2:])

    def loss(params: Params) -> Array:
        logits, values = network.apply(params, observations)
        log_prob, entropy = _of_policy(logits, actions)
        return _total(
            config,
            log_prob,
            values,
            entropy,
            advantages.reshape(-1),
            targets.reshape(-1),
            where=where,
        )

    changes, opt_state = rule.update(jax.grad(loss)(params), opt_state, params)
    return optax.apply_updates(params, changes), opt_state


def advantages_and_targets(
    config: Config, transitions: Transition, last_value: Array
) -> tuple[Array, Array]:
    """Return generalized advantage estimates and lambda-returns, `[T, N]` each."""

    def step(carry: tuple[Array, Array], row: Transition) -> tuple[tuple[Array, Array], Array]:
        advantage, next_value = carry
        going_on = 1.0 - row.done
        # delta_t = r_t + gamma v(s_{t+1}) - v(s_t)
        error = row.reward + config.gamma * next_value * going_on - row.value
        advantage = error + config.gamma * config.gae_lambda * going_on * advantage
        return (advantage, row.value), advantage

    # Backwards in time, from A = 0 and v(s_T).
    start = (jnp.zeros_like(last_value), last_value)
    _, advantages = jax.lax.scan(step, start, transitions, reverse=True, unroll=16)
    return advantages, advantages + transitions.value


def _total(
    config: Config,
    log_prob: Array,
    values: Array,
    entropy: Array,
    advantages: Array,
    targets: Array,
    where: Array | None = None,
) -> Array:
    """Return the loss of A2C, averaged over steps."""
    # -log pi A + vf_coef (v - G)^2 / 2 - ent_coef H
    policy_loss = -jnp.mean(log_prob * advantages, where=where)
    value_loss = 0.5 * jnp.mean(jnp.square(values - targets), where=where)
    return (
        policy_loss + config.vf_coef * value_loss - config.ent_coef * jnp.mean(entropy, where=where)
    )


def _of_policy(logits: Array, actions: Array) -> tuple[Array, Array]:
    """Return the log-probability of actions, `[M]`, and the entropy, `[M]`, of a softmax policy."""
    log_probs = jax.nn.log_softmax(logits)
    chosen = jnp.take_along_axis(log_probs, actions[:, None], axis=-1)[:, 0]
    return chosen, -jnp.sum(jnp.exp(log_probs) * log_probs, axis=-1)


def _parts(env_name: str, layers: str) -> tuple[Any, Any, ActorCritic]:
    import gymnax  # creates arrays on import, which needs a device

    env, env_params = gymnax.make(env_name)
    return env, env_params, ActorCritic(layers, int(env.action_space(env_params).n))


def _step(
    env: Any, env_params: Any, network: nn.Module, state: State, _: None
) -> tuple[State, Transition]:
    """Step all environments with the environment's own `step`, which resets them."""
    key, action_key, env_key = jax.random.split(state.key, 3)
    logits, value = network.apply(state.params, state.observation)
    action = jax.random.categorical(action_key, logits)
    log_prob, entropy = _of_policy(logits, action)

    keys = jax.random.split(env_key, len(action))
    observation, env_state, reward, terminated, truncated, _ = jax.vmap(
        env.step, in_axes=(0, 0, 0, None)
    )(keys, state.env_state, action, env_params)

    done = terminated | truncated
    episodes, info = _log(state.episodes, reward, done)
    transition = Transition(state.observation, action, reward, done, value, log_prob, entropy, info)
    after = state._replace(env_state=env_state, observation=observation, episodes=episodes, key=key)
    return after, transition


def _log(episodes: Episodes, reward: Array, done: Array) -> tuple[Episodes, dict[str, Array]]:
    total = episodes.running_return + reward
    length = episodes.running_length + 1
    episodes = Episodes(
        jnp.where(done, 0.0, total),
        jnp.where(done, 0, length),
        jnp.where(done, total, episodes.last_return),
        jnp.where(done, length, episodes.last_length),
    )
    names = ("returned_episode_returns", "returned_episode_lengths", "returned_episode")
    return episodes, dict(
        zip(names, (episodes.last_return, episodes.last_length, done), strict=True)
    )


def _reference(
    env: Any,
    env_params: Any,
    network: nn.Module,
    rule: optax.GradientTransformation,
    config: Config,
    update: Callable[[State, None], tuple[State, dict[str, Array]]],
) -> Reference:
    def init(key: Array) -> State:
        # Reset all environments, initialise network and rule.
        params_key, reset_key, key = jax.random.split(key, 3)
        keys = jax.random.split(reset_key, config.num_envs)
        observation, env_state = jax.vmap(env.reset, in_axes=(0, None))(keys, env_params)
        params = network.init(params_key, observation)
        zeros = (jnp.zeros(config.num_envs), jnp.zeros(config.num_envs, jnp.int32))
        return State(
            params, rule.init(params), env_state, observation, Episodes(*zeros, *zeros), key
        )

    def train(state: State, num_updates: int) -> tuple[State, dict[str, Array]]:
        return jax.lax.scan(update, state, None, num_updates)

    return Reference(init, train)


class HostLoop:
    """R6: A2C with the environments of one envpool, on one thread, one thing after the other.

    Attributes:
      params: parameters of the network.
    """

    def __init__(self, pool: Any, layers: str, rule: optax.GradientTransformation, config: Config):
        """Reset the environments and compile.

        Args:
          pool: `envpool.make_gymnasium(...)` with images, channels first.
          layers: a name of `LAYERS`.
          rule: see `second_pass`.
          config: sizes and weights of the loss.
        """
        network = ActorCritic(layers, int(pool.action_space.n))
        self._pool = pool
        self._num_steps = config.num_steps
        self._observation = pool.reset()[0]
        self._ended = np.zeros(config.num_envs, bool)

        init_key, self._key = jax.random.split(jax.random.key(0))
        self.params = network.init(init_key, _channels_last(self._observation))
        self._opt_state = rule.init(self.params)

        # The two compiled programs: one acts, one learns from a rollout.
        @jax.jit
        def act(params: Params, key: Array, observation: Array) -> tuple[Array, Array, Array]:
            key, action_key = jax.random.split(key)
            logits, value = network.apply(params, _channels_last(observation))
            return key, jax.random.categorical(action_key, logits).astype(jnp.int32), value

        @jax.jit
        def update(
            params: Params, opt_state: Any, rows: list[Transition], masks: list[Array], last: Array
        ) -> tuple[Params, Any]:
            # T rows [N, ...] -> [T, N, ...]
            mask = jnp.stack(masks)
            transitions = jax.tree.map(lambda *x: jnp.stack(x), *rows)
            transitions = transitions._replace(observation=_channels_last(transitions.observation))
            last_value = network.apply(params, _channels_last(last))[1]
            return learn(network, rule, config, params, opt_state, transitions, last_value, mask)

        self._act = act
        self._update = update

    def __call__(self, seconds: float) -> int:
        """Train for so long; return the environment steps, without those that only reset."""
        taken = 0
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            rows = []
            masks = []
            for _ in range(self._num_steps):
                self._key, action, value = self._act(self.params, self._key, self._observation)
                action = np.asarray(action)
                observation, reward, terminated, truncated, _ = self._pool.step(action)
                done = terminated | truncated
                nothing = np.zeros(len(action), np.float32)
                rows.append(
                    Transition(self._observation, action, reward, done, value, nothing, nothing)
                )

                # After the end of an episode envpool's next step only resets.
                masks.append(~self._ended)
                taken += int(masks[-1].sum())
                self._observation = observation
                self._ended = done

            self.params, self._opt_state = self._update(
                self.params, self._opt_state, rows, masks, self._observation
            )

        jax.block_until_ready(self.params)
        return taken


def _channels_last(images: Array) -> Array:
    return jnp.moveaxis(images, -3, -1)
