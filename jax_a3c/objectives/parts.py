"""Check what a user hands to a runner, before anything compiles: each fault gets one sentence.

The functions of the parts are traced for their shapes (`jax.eval_shape`); nothing is computed.
"""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.checks import InputError, shown
from jax_a3c.envs.base import (
    ActionSpace,
    Box,
    Discrete,
    EnvSpec,
    HostEnvironment,
    HostFactory,
    JaxEnvironment,
)
from jax_a3c.objectives.base import Objective
from jax_a3c.types import Params, TimeStep

LIBRARIES = {"gymnasium": "gymnasium", "gym": "gymnasium", "gymnax": "gymnax", "envpool": "envpool"}
"""Top-level packages whose environments users pass as they are, and the prefix of their ids here."""
POLICY = ("sample(key)", "log_prob(action)", "entropy()", "mode()")
"""What a policy, the second result of a network, must be able to do."""
COLLECTIONS = {"params", "statistics"}
"""Variables of a Flax module that a runner keeps."""


def check_parts(env: Any, network: Any, optimizer: Any, objective: Any) -> Params:
    """Check that four parts make a runner.

    Args:
      env: as `envs.make` gives it, or an environment of the user's own.
      network: as `objectives.Network`.
      optimizer: an Optax transformation.
      objective: an `Objective`.

    Returns:
      As `parameters_like`.

    Raises:
      InputError: if one of them is something else, or they do not fit each other.
    """
    _check_env_kind(env)
    _check_has("network", network, ("init", "apply", "initial_carry"), "networks.actor_critic(env)")
    _check_has("optimizer", optimizer, ("init", "update"), "optimizers.shared_rmsprop(7e-4)")
    _check_has("objective", objective, ("act", "loss"), "objectives.n_step_q(network)")
    _check_declared_actions(network, env.spec)

    if isinstance(env, JaxEnvironment):
        check_environment(env)
    params = check_network(network, env.spec)
    _check_optimizer(optimizer, params)
    _check_act(objective, network, params, env.spec)
    return params


def parameters_like(network: Any, spec: EnvSpec) -> Params:
    """Return the shapes and dtypes of a network's variables, in their tree.

    Args:
      network: as `objectives.Network`.
      spec: of the environment.

    Returns:
      A tree of `jax.ShapeDtypeStruct`; nothing is computed.
    """
    return jax.eval_shape(network.init, jax.random.key(0), *_inputs_like(network, spec))


def check_environment(env: JaxEnvironment) -> None:
    """Check what `reset` and `step` of an environment in JAX return.

    Args:
      env: the environment.

    Raises:
      InputError: if a result has another structure, shape or dtype than it must; the message names it.
    """
    spec, key = env.spec, jax.random.key(0)

    def reset(key: Any) -> Any:
        return _pair(spec, "reset", "(state, observation)", env.reset(key))

    state, first = _shapes_of(spec, "reset", reset, key)
    _check_observation(spec, "reset", first)

    def step(key: Any, state: Any, action: Any) -> Any:
        state, timestep = _pair(spec, "step", "(state, TimeStep)", env.step(key, state, action))
        if not isinstance(timestep, TimeStep):
            raise InputError(
                f"step of {spec.id!r} must return (state, TimeStep(observation, reward, terminated, "
                f"truncated)), its second result is a {type(timestep).__name__}"
            )
        return state, timestep

    following, timestep = _shapes_of(
        spec, "step", step, key, state, _action_like(spec.action_space)
    )
    _check_observation(spec, "step", timestep.observation)
    if timestep.observation.dtype != first.dtype:
        raise InputError(
            f"observation of {spec.id!r} is {first.dtype} from reset and {timestep.observation.dtype} from "
            "step; return one dtype from both"
        )
    for name, kinds, wanted in (
        ("reward", "fiub", "a real number"),
        ("terminated", "b", "bool"),
        ("truncated", "b", "bool"),
    ):
        _check_scalar(spec, name, getattr(timestep, name), kinds, wanted)
    _check_same(f"the state of {spec.id!r}", "reset", state, "step", following)


def check_network(network: Any, spec: EnvSpec) -> Params:
    """Check what a network returns for the observations of an environment.

    Args:
      network: as `objectives.Network`.
      spec: of the environment.

    Returns:
      As `parameters_like`.

    Raises:
      InputError: if it cannot be used; the message says what it returned and what is expected.
    """
    inputs = _inputs_like(network, spec)
    try:
        params = parameters_like(network, spec)
        _check_collections(network, params)
        after, action, mode, numbers, values = jax.eval_shape(
            lambda params, *inputs: _outputs(network.apply(params, *inputs), spec), params, *inputs
        )
    except flax.errors.InvalidRngError as error:
        raise InputError(
            "network draws random numbers in each call, as nn.Dropout does; a runner gives it none: make "
            f"those layers deterministic ({_first_line(error)})"
        ) from error

    _check_same("the network's carry", "initial_carry", inputs[0], "apply", after)
    _check_action("the policy's sample", spec, action)
    _check_action("the policy's mode", spec, mode)
    for name, number in numbers.items():
        if number.shape != (1, 1):
            raise InputError(
                f"the policy's {name} must have the shape [T, *B] of the observations, here (1, 1), got "
                f"{number.shape}"
            )
    _check_values(spec, values)
    return params


def _inputs_like(network: Any, spec: EnvSpec) -> tuple[Any, Any, Any]:
    """Carry, observation and reset of one step of one environment, as shapes."""
    carry = jax.eval_shape(lambda: network.initial_carry((1,)))
    observation = jax.ShapeDtypeStruct((1, 1, *spec.observation_shape), spec.observation_dtype)
    return carry, observation, jax.ShapeDtypeStruct((1, 1), bool)


def _check_env_kind(env: Any) -> None:
    """Refuse what is no environment of this library, with the line to write instead."""
    wanted = f"env must be an environment, as envs.make gives it, got {shown(env)}"
    if isinstance(env, str):
        raise InputError(f"{wanted}; write envs.make({env!r})")
    if isinstance(env, type):
        raise InputError(f"{wanted}, a class; pass an instance: {env.__name__}(...)")

    # Environments of the libraries, which have the same methods as ours.
    one = env[0] if isinstance(env, tuple) and env else env  # gymnax.make returns a pair
    packages = [kind.__module__.split(".")[0] for kind in type(one).__mro__]
    library = next((LIBRARIES[package] for package in packages if package in LIBRARIES), None)
    if library is not None:
        env_id = f"{library}:{_name_of(one)}"
        raise InputError(f"{wanted}, an environment of {library}; write envs.make({env_id!r})")

    if isinstance(env, HostEnvironment):
        raise InputError(
            f"{wanted}, environments that were started already; pass the factory that envs.make returns: a "
            "runner starts groups of its own"
        )
    if not isinstance(env, JaxEnvironment | HostFactory):
        if callable(env):
            raise InputError(f"{wanted}, a function; call it and pass what it returns")
        raise InputError(f"{wanted}; one of your own has a spec, and reset and step, or make")
    if not isinstance(env.spec, EnvSpec):
        raise InputError(f"spec of env must be envs.EnvSpec(...), got {shown(env.spec)}")


def _name_of(env: Any) -> str:
    """The name under which a library made an environment, as far as it tells."""
    spec = getattr(env, "spec", None)
    name = getattr(spec, "id", None) or getattr(env, "name", None)
    return name if isinstance(name, str) else "NAME"


def _check_has(name: str, part: Any, attributes: tuple[str, ...], example: str) -> None:
    if isinstance(part, type) or not all(hasattr(part, attribute) for attribute in attributes):
        article = "an" if name[0] in "aeiou" else "a"
        raise InputError(f"{name} must be {article} {name}, such as {example}, got {shown(part)}")


def _check_declared_actions(network: Any, spec: EnvSpec) -> None:
    """Refuse a network that was built for other actions, where it says for which."""

    def size(space: ActionSpace) -> Any:
        return (space.num_actions,) if isinstance(space, Discrete) else ("reals", space.size)

    space = getattr(network, "action_space", None)
    if isinstance(space, ActionSpace) and size(space) != size(spec.action_space):
        raise InputError(
            f"network has the actions {space}, those of {spec.id} are {spec.action_space}; build it for env"
        )


def _pair(spec: EnvSpec, function: str, wanted: str, result: Any) -> Any:
    if not isinstance(result, tuple) or len(result) != 2:
        what = (
            f"{len(result)} results" if isinstance(result, tuple) else f"a {type(result).__name__}"
        )
        raise InputError(f"{function} of {spec.id!r} must return {wanted}, got {what}")
    return result


def _shapes_of(spec: EnvSpec, name: str, function: Any, *args: Any) -> Any:
    """`jax.eval_shape`; what the environment raises is told to be its own."""
    try:
        return jax.eval_shape(function, *args)
    except InputError:
        raise
    except Exception as error:
        error.add_note(f"raised in {name} of {spec.id!r}, which JAX must be able to trace")
        raise


def _check_observation(spec: EnvSpec, function: str, observation: Any) -> None:
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise InputError(
            f"observation of {spec.id!r} from {function} must be one array, got a "
            f"{type(observation).__name__}; concatenate its parts"
        )
    declared = np.dtype(spec.observation_dtype)
    if observation.shape != spec.observation_shape or _kind(observation.dtype) != _kind(declared):
        raise InputError(
            f"observation of {spec.id!r} from {function} is {_described(observation)}; its spec says "
            f"{declared} of shape {spec.observation_shape}"
        )


def _check_scalar(spec: EnvSpec, name: str, value: Any, kinds: str, wanted: str) -> None:
    if (
        not isinstance(value, jax.ShapeDtypeStruct)
        or value.shape != ()
        or _kind(value.dtype) not in kinds
    ):
        raise InputError(
            f"{name} of {spec.id!r} must be {wanted} of shape (), got {_described(value)}; step is for one "
            "environment, a runner vectorises it"
        )


def _check_same(what: str, before: str, first: Any, after: str, second: Any) -> None:
    """Refuse a state whose structure, shapes or dtypes change from one call to the next."""
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in (first, second)]
    structures: list[Any] = [jax.tree.structure(tree) for tree in (first, second)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{what} has another structure after {after} than after {before}: {shown(second)} instead of "
            f"{shown(first)}"
        )
    for (path, one), (_, other) in zip(*leaves, strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            name = jax.tree_util.keystr(path)
            raise InputError(
                f"{what}{name and f', its part {name},'} is {_described(one)} after {before} and "
                f"{_described(other)} after {after}; keep shape and dtype"
            )


def _check_collections(network: Any, params: Any) -> None:
    """Refuse Flax modules that keep variables of other kinds, which no gradient moves."""
    module = getattr(network, "network", network)  # within NormalizedNetwork
    if not isinstance(module, nn.Module) or not isinstance(params, Mapping):
        return
    others = sorted(set(params) - COLLECTIONS)
    if others:
        raise InputError(
            f"network keeps the variables {', '.join(map(repr, others))}, as nn.BatchNorm does; a runner "
            "keeps 'params' alone: use nn.LayerNorm, nn.GroupNorm, or normalize observations"
        )


def _outputs(result: Any, spec: EnvSpec) -> Any:
    """What a runner makes of the results of a network, while it is traced."""
    if not isinstance(result, tuple) or len(result) != 3:
        what = (
            f"{len(result)} results" if isinstance(result, tuple) else f"a {type(result).__name__}"
        )
        raise InputError(f"apply of the network must return (carry, policy, values), got {what}")
    carry, policy, values = result

    lacking = [
        method for method in POLICY if not callable(getattr(policy, method.partition("(")[0], None))
    ]
    if lacking:
        raise InputError(
            f"the network's policy is a {type(policy).__name__} without {', '.join(lacking)}; return "
            "distributions.Categorical, distributions.DiagonalGaussian or one with these methods"
        )
    _check_logits(policy, spec)
    try:
        action = policy.sample(jax.random.key(0))
        numbers = {"log_prob": policy.log_prob(action), "entropy": policy.entropy()}
        return carry, action, policy.mode(), numbers, values
    except TypeError as error:
        raise InputError(
            f"the network's policy is a {type(policy).__name__} of {type(policy).__module__.split('.')[0]}, "
            f"which is called in another way than {', '.join(POLICY)}: {_first_line(error)}; return "
            "distributions.Categorical or distributions.DiagonalGaussian, or wrap it"
        ) from error


def _check_logits(policy: Any, spec: EnvSpec) -> None:
    logits, space = getattr(policy, "logits", None), spec.action_space
    if logits is None or not isinstance(space, Discrete) or not jnp.ndim(logits):
        return
    if logits.shape[-1] != space.num_actions:
        raise InputError(
            f"the network gives {logits.shape[-1]} logits for the {space.num_actions} actions of {spec.id!r}"
        )


def _action_like(space: ActionSpace, batch: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
    if isinstance(space, Box):
        return jax.ShapeDtypeStruct((*batch, space.size), jnp.float32)
    return jax.ShapeDtypeStruct(batch, jnp.int32)


def _check_action(what: str, spec: EnvSpec, action: Any, batch: tuple[int, ...] = (1, 1)) -> None:
    wanted = _action_like(spec.action_space, batch)
    kinds = "iu" if isinstance(spec.action_space, Discrete) else "f"
    if action.shape != wanted.shape or _kind(action.dtype) not in kinds:
        raise InputError(
            f"{what} is {_described(action)}, and the actions of {spec.id!r} are {spec.action_space}: "
            f"expected {_described(wanted)} for observations {list(batch)}"
        )


def _check_values(spec: EnvSpec, values: Any) -> None:
    space = spec.action_space
    allowed = [(1, 1)] + ([(1, 1, space.num_actions)] if isinstance(space, Discrete) else [])
    if not isinstance(values, jax.ShapeDtypeStruct) or values.shape not in allowed:
        raise InputError(
            f"the network's values must be [T, *B], or [T, *B, A] for a value-based method, here "
            f"{' or '.join(map(str, allowed))}, got {_described(values)}"
        )


def _check_optimizer(optimizer: Any, params: Params) -> None:
    """Refuse a transformation whose update asks for more than a runner gives."""

    def update(params: Params) -> Any:
        rule = optax.with_extra_args_support(optimizer)
        return rule.update(params, rule.init(params), params, env_steps=jnp.float32(0))

    try:
        jax.eval_shape(update, params)
    except TypeError as error:
        raise InputError(
            f"optimizer cannot be used: {_first_line(error)}; a runner gives its update gradients, state and "
            "parameters, and no value of the loss, as optax.contrib.reduce_on_plateau asks for"
        ) from error


def _check_act(objective: Objective, network: Any, params: Params, spec: EnvSpec) -> None:
    """Let the objective refuse a network that it cannot act with."""

    def act(params: Params, key: Any, observation: Any) -> Any:
        exploration = None if objective.explore is None else objective.explore(key, 1)
        carry, reset = network.initial_carry((1,)), jnp.ones(1, bool)
        return objective.act(params, key, carry, observation, reset, exploration, jnp.float32(0))[1]

    observation = jax.ShapeDtypeStruct((1, *spec.observation_shape), spec.observation_dtype)
    action = jax.eval_shape(act, params, jax.random.key(0), observation)
    _check_action("the action of the objective", spec, action, (1,))


def _kind(dtype: Any) -> str:
    """NumPy's letter for a kind of numbers; it has none for bfloat16."""
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind


def _described(value: Any) -> str:
    if hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
