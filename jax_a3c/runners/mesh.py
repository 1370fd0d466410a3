"""Spread a synchronous run over the devices of a mesh.

Each device is a shard: it steps a part of the environments, with random keys of its own, and takes
the gradient on its own rollout. `objectives.gradients.average` joins the gradients. Parameters and
optimizer state are the same on all devices.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jax_a3c.acting.actor import ActorState
from jax_a3c.errors import InputError
from jax_a3c.messages import shown
from jax_a3c.rollouts import Rollout
from jax_a3c.shards import SHARDS, on_first

EVERYWHERE: Any = P()
"""Partition of an array that each device holds as a whole."""
BY_ENVIRONMENT: Any = P(SHARDS)
"""Partition of an array `[N, ...]` of which each device holds the rows of its environments."""
STEPS: Any = P(None, SHARDS)
"""Partition of an array `[T, N, ...]`."""
ROLLOUT = Rollout(BY_ENVIRONMENT, STEPS, BY_ENVIRONMENT, BY_ENVIRONMENT)
"""Partition of a rollout `[T, N]`."""


def mesh_of(devices: Sequence[jax.Device]) -> Mesh:
    """Return a mesh of these devices with the one axis that the runner uses."""
    return Mesh(np.array(devices), (SHARDS,))


def check_mesh(mesh: Any, num_envs: int) -> Mesh | None:
    """Return a mesh with the runner's axis for a mesh of any axes; None for None.

    Args:
      mesh: `jax.sharding.Mesh`, or None for one device.
      num_envs: number of environments of the run.

    Raises:
      InputError: if `mesh` is something else, or if the environments cannot be shared equally.
    """
    if mesh is None:
        return None
    if not isinstance(mesh, Mesh):
        raise InputError(
            "mesh must be a jax.sharding.Mesh, such as jax.make_mesh((2,), ('devices',)), got "
            f"{shown(mesh)}"
        )
    if num_envs % mesh.size:
        raise InputError(
            f"num_envs must be a multiple of the number of devices, {mesh.size}, got {num_envs}"
        )
    return mesh_of(mesh.devices.flatten().tolist())


def spread_start(start: Callable[[Any], ActorState], mesh: Mesh) -> Callable[[Any], ActorState]:
    """Return `key -> actor` for all shards, from the function for the environments of one.

    The result has the rows of all environments, and a key for each shard.
    """

    def one(key: Any) -> ActorState:
        return _packed(start(jax.random.fold_in(key, jax.lax.axis_index(SHARDS))))

    return _spread(one, mesh, EVERYWHERE, BY_ENVIRONMENT)


def spread_step(step: Callable, mesh: Mesh, state: Any) -> Callable:
    """Return `state -> (state, metrics)` for all shards, from the function for one.

    Args:
      step: step of one shard; its metrics are the same on all.
      mesh: the devices.
      state: partition of the state, a tree of `PartitionSpec`.
    """

    def one(state: Any) -> tuple[Any, Any]:
        key = state.actor.key[0]
        state, metrics = step(state._replace(actor=state.actor._replace(key=key)))
        return state._replace(actor=_packed(state.actor)), metrics

    return _spread(one, mesh, (state,), (state, EVERYWHERE))


def spread_learn(learn: Callable, mesh: Mesh, state: Any) -> Callable:
    """Return `(state, rollout, sums) -> (state, metrics)` for all shards.

    The function gets the rollout of all environments, and sums over all of them.
    """

    def one(state: Any, rollout: Rollout, sums: Any) -> tuple[Any, Any]:
        return learn(state, rollout, on_first(sums))

    return _spread(one, mesh, (state, ROLLOUT, EVERYWHERE), (state, EVERYWHERE))


def put(tree: Any, mesh: Mesh | None, partition: Any = EVERYWHERE) -> Any:
    """Place the arrays of a tree on the devices; return `tree` itself without a mesh."""
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, partition))


def one_copy(tree: Any, mesh: Mesh | None) -> Any:
    """Return the copy of a tree that this process's first device holds."""
    return tree if mesh is None else jax.tree.map(lambda x: x.addressable_data(0), tree)


def _packed(actor: ActorState) -> ActorState:
    """Return the actor of one shard with its key as `[1]`, so that all keys are `[shards]`."""
    return actor._replace(key=actor.key[None])


def _spread(function: Callable, mesh: Mesh, in_specs: Any, out_specs: Any) -> Callable:
    """Return a function that runs on each shard with its part of the arguments."""
    # The loops of a rollout begin with constants, which the check of replication refuses.
    return jax.shard_map(
        function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
