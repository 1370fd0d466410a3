"""Check the parts that a user passes to a runner, before anything compiles.

Each error is one sentence. The functions of the parts are traced for shapes (`jax.eval_shape`), not
computed.
"""

from collections.abc import Mapping
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from jax_a3c.acting.actor import init_actor
from jax_a3c.acting.unroll import UnrollConfig, unroll
from jax_a3c.envs.base import (
    ActionSpace,
    Box,
    Discrete,
    EnvSpec,
    HostEnvironment,
    HostFactory,
    JaxEnvironment,
    on_device,
)
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.objectives.base import Objective
from jax_a3c.types import Params, TimeStep

LIBRARIES = {"gymnasium": "gymnasium", "gym": "gymnasium", "gymnax": "gymnax", "envpool": "envpool"}
"""The prefix of our ids for each library, by the top-level package of its environments."""
POLICY = ("sample(key)", "log_prob(action)", "entropy()", "mode()")
"""Methods that a policy, the second result of a network, must have."""
COLLECTIONS = {"params", "statistics"}
"""Collections of Flax variables that a runner keeps."""


def check_parts(env: Any, network: Any, optimizer: Any, objective: Any) -> Params:
    """Check that four parts make a runner.

    Args:
      env: an environment, from `envs.make` or written by the user.
      network: an `objectives.Network`.
      optimizer: an Optax transformation.
      objective: an `Objective`.

    Returns:
      The result of `params_like`.

    Raises:
      InputError: if a part is something else, or if the parts do not fit each other.
    """
    check_env_kind(env)
    if on_device(env):
        check_environment(env)
    params = check_network(network, env.spec)

    _check_has("optimizer", optimizer, ("init", "update"), "optimizers.shared_rmsprop(7e-4)")
    _check_has("objective", objective, ("act", "loss"), "objectives.n_step_q(network)")
    _check_optimizer(optimizer, params)
    _check_act(objective, network, params, env.spec)
    return params


def params_like(network: Any, spec: EnvSpec) -> Params:
    """Return the shapes and dtypes of a network's variables, without computing them.

    Args:
      network: an `objectives.Network`.
      spec: description of the environment.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    return jax.eval_shape(network.init, jax.random.key(0), *_inputs_like(network, spec))


def check_loss(env: JaxEnvironment, network: Any, objective: Objective, params: Params) -> None:
    """Trace the loss of an objective on a rollout of one step.

    Args:
      env: the environment.
      network: the network with which the objective acts.
      objective: the objective.
      params: shapes and dtypes of the network's variables.

    Raises:
      InputError: if the network does not fit the objective.
      Exception: what the loss raises.
    """

    def loss(params: Params, key: Any) -> Any:
        actor = init_actor(env, network.initial_carry((1,)), key, 1, **objective.actor_needs)
        config = UnrollConfig(num_steps=1, discount=objective.discount)
        _, rollout, _ = unroll(env, objective.act, params, actor, config, jnp.float32(0))
        target = None if objective.target_update_interval is None else params
        return objective.loss(params, rollout, target)

    jax.eval_shape(loss, params, jax.random.key(0))


def check_environment(env: JaxEnvironment) -> None:
    """Check the results of `reset` and `step` of a JAX environment.

    Args:
      env: the environment.

    Raises:
      InputError: if a result has a wrong structure, shape or dtype. The message names it.
    """
    spec = env.spec
    key = jax.random.key(0)

    # Trace reset for one environment.
    def reset(key: Any) -> Any:
        return _pair(spec, "reset", "(state, observation)", env.reset(key))

    state, first = _shapes_of(spec, "reset", reset, key)
    _check_observation(spec, "reset", first)

    # Trace step from the state that reset returned.
    def step(key: Any, state: Any, action: Any) -> Any:
        state, timestep = _pair(spec, "step", "(state, TimeStep)", env.step(key, state, action))
        if not isinstance(timestep, TimeStep):
            raise InputError(
                f"step of {spec.id!r} must return (state, TimeStep(observation, reward, "
                f"terminated, truncated)), but its second result is a {type(timestep).__name__}"
            )
        return state, timestep

    following, timestep = _shapes_of(
        spec, "step", step, key, state, _action_like(spec.action_space)
    )
    _check_observation(spec, "step", timestep.observation)
    if timestep.observation.dtype != first.dtype:
        raise InputError(
            f"observation of {spec.id!r} is {first.dtype} from reset and "
            f"{timestep.observation.dtype} from step; return the same dtype from both"
        )

    # NumPy's letters for kinds of dtypes: float, signed, unsigned, bool.
    for name, kinds, wanted in (
        ("reward", "fiub", "a real number"),
        ("terminated", "b", "bool"),
        ("truncated", "b", "bool"),
    ):
        _check_scalar(spec, name, getattr(timestep, name), kinds, wanted)
    _check_same(f"the state of {spec.id!r}", "reset", state, "step", following)


def check_network(network: Any, spec: EnvSpec) -> Params:
    """Check the results of a network for the observations of an environment.

    Args:
      network: an `objectives.Network`.
      spec: description of the environment.

    Returns:
      The result of `params_like`.

    Raises:
      InputError: if the network cannot be used. The message says what it returned and what is
        expected.
    """
    _check_has("network", network, ("init", "apply", "initial_carry"), "networks.actor_critic(env)")
    _check_declared_actions(network, spec)
    inputs = _inputs_like(network, spec)

    # Trace init and apply.
    try:
        params = params_like(network, spec)
        _check_collections(network, params)
        after, action, mode, numbers, values = jax.eval_shape(
            lambda params, *inputs: _outputs(network.apply(params, *inputs), spec), params, *inputs
        )
    except flax.errors.InvalidRngError as error:
        raise InputError(
            "network draws random numbers in each call, as nn.Dropout does, but a runner passes no "
            f"random key to apply; make those layers deterministic ({_first_line(error)})"
        ) from error

    # Compare the results with the forms that runners and objectives expect.
    _check_same("the network's carry", "initial_carry", inputs[0], "apply", after)
    _check_action("the policy's sample", spec, action)
    _check_action("the policy's mode", spec, mode)
    for name, number in numbers.items():
        if number.shape != (1, 1):
            raise InputError(
                f"the policy's {name} must have the shape [T, *B] of the observations, here "
                f"(1, 1), got {number.shape}"
            )
    _check_values(spec, values)
    return params


def _inputs_like(network: Any, spec: EnvSpec) -> tuple[Any, Any, Any]:
    """Return the shapes of carry, observation and reset for one step of one environment."""
    carry = jax.eval_shape(lambda: network.initial_carry((1,)))
    observation = jax.ShapeDtypeStruct((1, 1, *spec.observation_shape), spec.observation_dtype)
    return carry, observation, jax.ShapeDtypeStruct((1, 1), bool)


def check_env_kind(env: Any) -> None:
    """Check that `env` is an environment of this library.

    Args:
      env: what the user passed.

    Raises:
      InputError: if it is something else. The message names the line to write.
    """
    wanted = f"env must be an environment, as envs.make gives it, got {shown(env)}"

    # Refuse an id or a class in place of an environment.
    if isinstance(env, str):
        raise InputError(f"{wanted}; write envs.make({env!r})")
    if isinstance(env, type):
        raise InputError(f"{wanted}, a class; pass an instance: {env.__name__}(...)")

    # Refuse environments of other libraries first: they may have the same methods as ours.
    one = env[0] if isinstance(env, tuple) and env else env  # gymnax.make returns a pair
    packages = [kind.__module__.split(".")[0] for kind in type(one).__mro__]
    library = next((LIBRARIES[package] for package in packages if package in LIBRARIES), None)
    if library is not None:
        env_id = f"{library}:{_name_of(one)}"
        raise InputError(f"{wanted}, an environment of {library}; write envs.make({env_id!r})")

    # Refuse other objects of this library, functions and unknown objects.
    if isinstance(env, HostEnvironment):
        raise InputError(
            f"{wanted}, environments that were started already; pass the factory that envs.make "
            "returns, since a runner starts the environments"
        )
    if not isinstance(env, JaxEnvironment | HostFactory):
        if callable(env):
            raise InputError(f"{wanted}, a function; call it and pass what it returns")
        raise InputError(
            f"{wanted}; a custom environment needs a spec, and either reset and step, or make"
        )
    if not isinstance(env.spec, EnvSpec):
        raise InputError(f"spec of env must be envs.EnvSpec(...), got {shown(env.spec)}")


def _name_of(env: Any) -> str:
    """Return the id of an environment of another library, or NAME if it has none."""
    spec = getattr(env, "spec", None)
    name = getattr(spec, "id", None) or getattr(env, "name", None)
    return name if isinstance(name, str) else "NAME"


def _check_has(name: str, part: Any, attributes: tuple[str, ...], example: str) -> None:
    """Check that a part has the attributes of its kind, and is not a class."""
    if isinstance(part, type) or not all(hasattr(part, attribute) for attribute in attributes):
        article = "an" if name[0] in "aeiou" else "a"
        raise InputError(f"{name} must be {article} {name}, such as {example}, got {shown(part)}")


def _check_declared_actions(network: Any, spec: EnvSpec) -> None:
    """Check that a network that declares its action space was built for these actions."""

    def size(space: ActionSpace) -> Any:
        return (space.num_actions,) if isinstance(space, Discrete) else ("reals", space.size)

    space = getattr(network, "action_space", None)
    if isinstance(space, ActionSpace) and size(space) != size(spec.action_space):
        raise InputError(
            f"network has the actions {space}, but {spec.id} has {spec.action_space}; build the "
            "network for env"
        )


def _pair(spec: EnvSpec, function: str, wanted: str, result: Any) -> Any:
    """Check that the result of a function of the environment is a pair, and return it."""
    if not isinstance(result, tuple) or len(result) != 2:
        what = (
            f"{len(result)} results" if isinstance(result, tuple) else f"a {type(result).__name__}"
        )
        raise InputError(f"{function} of {spec.id!r} must return {wanted}, got {what}")
    return result


def _shapes_of(spec: EnvSpec, name: str, function: Any, *args: Any) -> Any:
    """Return `jax.eval_shape`; add a note to an exception that the environment raises."""
    try:
        return jax.eval_shape(function, *args)
    except InputError:
        raise
    except Exception as error:
        error.add_note(f"raised in {name} of {spec.id!r}, which JAX must be able to trace")
        raise


def _check_observation(spec: EnvSpec, function: str, observation: Any) -> None:
    """Check that an observation is one array with the shape and the kind of dtype of the spec."""
    if not isinstance(observation, jax.ShapeDtypeStruct):
        raise InputError(
            f"observation of {spec.id!r} from {function} must be one array, got a "
            f"{type(observation).__name__}; concatenate its parts"
        )
    declared = np.dtype(spec.observation_dtype)
    if observation.shape != spec.observation_shape or _kind(observation.dtype) != _kind(declared):
        raise InputError(
            f"observation of {spec.id!r} from {function} is {_described(observation)}; its spec "
            f"says {declared} of shape {spec.observation_shape}"
        )


def _check_scalar(spec: EnvSpec, name: str, value: Any, kinds: str, wanted: str) -> None:
    """Check that a field of a time step is a scalar of one of the `kinds` of dtypes."""
    if (
        not isinstance(value, jax.ShapeDtypeStruct)
        or value.shape != ()
        or _kind(value.dtype) not in kinds
    ):
        raise InputError(
            f"{name} of {spec.id!r} must be {wanted} of shape (), got {_described(value)}; write "
            "step for one environment, a runner vectorises it"
        )


def _check_same(what: str, before: str, first: Any, after: str, second: Any) -> None:
    """Check that a state keeps its structure, shapes and dtypes from one call to the next."""
    leaves = [jax.tree_util.tree_leaves_with_path(tree) for tree in (first, second)]
    structures: list[Any] = [jax.tree.structure(tree) for tree in (first, second)]
    if structures[0] != structures[1]:
        raise InputError(
            f"{what} has another structure after {after} than after {before}: {shown(second)} "
            f"instead of {shown(first)}; keep the structure"
        )

    for (path, one), (_, other) in zip(*leaves, strict=True):
        if (one.shape, one.dtype) != (other.shape, other.dtype):
            name = jax.tree_util.keystr(path)
            raise InputError(
                f"{what}{name and f', its part {name},'} is {_described(one)} after {before} and "
                f"{_described(other)} after {after}; keep the shape and the dtype"
            )


def _check_collections(network: Any, params: Any) -> None:
    """Check that a Flax module keeps only parameters and running statistics."""
    module = getattr(network, "network", network)  # inside a NormalizedNetwork
    if not isinstance(module, nn.Module) or not isinstance(params, Mapping):
        return
    others = sorted(set(params) - COLLECTIONS)
    if others:
        raise InputError(
            f"network keeps the variables {', '.join(map(repr, others))}, as nn.BatchNorm does, "
            "but a runner keeps only 'params'; use nn.LayerNorm or nn.GroupNorm, or normalize "
            "observations"
        )


def _outputs(result: Any, spec: EnvSpec) -> Any:
    """Return what a runner computes from the results of a network, while they are traced."""
    if not isinstance(result, tuple) or len(result) != 3:
        what = (
            f"{len(result)} results" if isinstance(result, tuple) else f"a {type(result).__name__}"
        )
        raise InputError(f"apply of the network must return (carry, policy, values), got {what}")
    carry, policy, values = result

    # Check that the policy has the methods of a distribution.
    lacking = [
        method for method in POLICY if not callable(getattr(policy, method.partition("(")[0], None))
    ]
    if lacking:
        raise InputError(
            f"the network's policy is a {type(policy).__name__} without {', '.join(lacking)}; "
            "return distributions.Categorical, distributions.DiagonalGaussian or a distribution "
            "with these methods"
        )
    _check_logits(policy, spec)

    # Call the methods as runners and objectives do.
    try:
        action = policy.sample(jax.random.key(0))
        numbers = {"log_prob": policy.log_prob(action), "entropy": policy.entropy()}
        return carry, action, policy.mode(), numbers, values
    except TypeError as error:
        raise InputError(
            f"the network's policy is a {type(policy).__name__} of "
            f"{type(policy).__module__.split('.')[0]}, which has other arguments than "
            f"{', '.join(POLICY)}: {_first_line(error)}; return distributions.Categorical or "
            "distributions.DiagonalGaussian, or wrap it"
        ) from error


def _check_logits(policy: Any, spec: EnvSpec) -> None:
    """Check that a policy with logits has one for each discrete action."""
    logits = getattr(policy, "logits", None)
    space = spec.action_space
    if logits is None or not isinstance(space, Discrete) or not jnp.ndim(logits):
        return
    if logits.shape[-1] != space.num_actions:
        raise InputError(
            f"the network returns {logits.shape[-1]} logits for the {space.num_actions} actions of "
            f"{spec.id!r}; return one for each action"
        )


def _action_like(space: ActionSpace, batch: tuple[int, ...] = ()) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of a batch of actions."""
    if isinstance(space, Box):
        return jax.ShapeDtypeStruct((*batch, space.size), jnp.float32)
    return jax.ShapeDtypeStruct(batch, jnp.int32)


def _check_action(what: str, spec: EnvSpec, action: Any, batch: tuple[int, ...] = (1, 1)) -> None:
    """Check that actions have the shape and the kind of dtype of the action space."""
    wanted = _action_like(spec.action_space, batch)
    kinds = "iu" if isinstance(spec.action_space, Discrete) else "f"
    if action.shape != wanted.shape or _kind(action.dtype) not in kinds:
        raise InputError(
            f"{what} is {_described(action)}, but the actions of {spec.id!r} are "
            f"{spec.action_space}: expected {_described(wanted)} for observations {list(batch)}"
        )


def _check_values(spec: EnvSpec, values: Any) -> None:
    """Check that there is one value for each state, or for each state and discrete action."""
    space = spec.action_space
    allowed = [(1, 1)] + ([(1, 1, space.num_actions)] if isinstance(space, Discrete) else [])
    if not isinstance(values, jax.ShapeDtypeStruct) or values.shape not in allowed:
        raise InputError(
            "the network's values must be [T, *B], or [T, *B, A] for a value-based method, here "
            f"{' or '.join(map(str, allowed))}, got {_described(values)}"
        )


def _check_optimizer(optimizer: Any, params: Params) -> None:
    """Check that the optimizer's update needs no argument that a runner does not pass."""

    def update(params: Params) -> Any:
        rule = optax.with_extra_args_support(optimizer)
        return rule.update(params, rule.init(params), params, env_steps=jnp.float32(0))

    try:
        jax.eval_shape(update, params)
    except TypeError as error:
        raise InputError(
            f"optimizer cannot be used: {_first_line(error)}; a runner passes gradients, state and "
            "parameters to its update, but not the value of the loss that, for example, "
            "optax.contrib.reduce_on_plateau needs"
        ) from error


def _check_act(objective: Objective, network: Any, params: Params, spec: EnvSpec) -> None:
    """Check that the objective can act with the network."""

    def act(params: Params, key: Any, observation: Any) -> Any:
        exploration = None if objective.explore is None else objective.explore(key, 1)
        carry = network.initial_carry((1,))
        reset = jnp.ones(1, bool)
        return objective.act(params, key, carry, observation, reset, exploration, jnp.float32(0))

    observation = jax.ShapeDtypeStruct((1, *spec.observation_shape), spec.observation_dtype)
    results = jax.eval_shape(act, params, jax.random.key(0), observation)
    if not isinstance(results, tuple) or len(results) != 3:
        count = len(results) if isinstance(results, tuple) else 1
        raise InputError(
            f"objective.act must return (carry, action, extras), got {count} results; return () as "
            "extras if the loss needs none"
        )
    action = results[1]
    _check_action("the action of the objective", spec, action, (1,))


def _kind(dtype: Any) -> str:
    """Return NumPy's letter for a kind of dtype, with "f" for bfloat16, which NumPy lacks."""
    return "f" if jnp.issubdtype(dtype, jnp.floating) else np.dtype(dtype).kind


def _described(value: Any) -> str:
    """Return the dtype and shape of an array, or the type of another value."""
    if hasattr(value, "dtype"):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return f"a {type(value).__name__}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
