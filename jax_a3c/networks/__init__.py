"""Networks: Flax Linen modules with one signature for feed-forward and recurrent networks.

    params = network.init(key, carry, obs, reset)
    carry, distribution, values = network.apply(params, carry, obs, reset)

Arrays are time-major: `obs` `[T, *B, *obs_shape]`, `reset` `[T, *B]`. The carry is `[*B, H]` in a
recurrent network and `()` in a feed-forward network.
"""

from jax_a3c.networks.convolutions import Conv
from jax_a3c.networks.cores import LSTM
from jax_a3c.networks.heads import CategoricalHead, GaussianHead
from jax_a3c.networks.models import ActorCritic, QNetwork, actor_critic, q_network
from jax_a3c.networks.torsos import MLP, MinAtarConv, Mnih2013, Nature

__all__ = [
    "LSTM",
    "MLP",
    "ActorCritic",
    "CategoricalHead",
    "Conv",
    "GaussianHead",
    "MinAtarConv",
    "Mnih2013",
    "Nature",
    "QNetwork",
    "actor_critic",
    "q_network",
]
