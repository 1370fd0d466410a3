"""Networks as Flax Linen modules with one signature, feed-forward or recurrent.

    params = network.init(key, carry, obs, reset)
    carry, distribution, values = network.apply(params, carry, obs, reset)

Always time-major: observations `[T, *B, *obs_shape]`, resets `[T, *B]`, carry `[*B, H]`, or `()`.
"""

from jax_a3c.networks.convolutions import Conv
from jax_a3c.networks.heads import CategoricalHead, GaussianHead
from jax_a3c.networks.models import ActorCritic, QNetwork, actor_critic, q_network
from jax_a3c.networks.recurrent import LSTM
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
