"""The specification of returns, losses and distributions: plain NumPy loops in float64.

The loops share no code with the package and use no backward recursion. They split the rollout of
one environment into episodes and compute each episode separately, forwards, from the definition in
the cited source. Returns that leak a reward or value between episodes cannot equal these numbers.

A `[T]` array is the stream of one environment. `per_stream` lifts a function to `[T, *B]`.
"""

from collections.abc import Callable, Iterator

import numpy as np


def per_stream(
    function: Callable[..., np.ndarray], *arrays: np.ndarray, **settings: object
) -> np.ndarray:
    """Apply a function of `[T]` streams to every batch element of `[T, *B]` arrays."""
    shape = arrays[0].shape
    columns = [array.reshape(shape[0], -1) for array in arrays]
    streams = [
        function(*(c[:, i] for c in columns), **settings) for i in range(columns[0].shape[1])
    ]
    return np.stack(streams, axis=1).reshape(shape)


def episodes(terminated: np.ndarray, truncated: np.ndarray) -> Iterator[slice]:
    """Yield the steps of each episode of a stream; the last one may be unfinished."""
    start = 0
    for t in range(len(terminated)):
        if terminated[t] or truncated[t] or t == len(terminated) - 1:
            yield slice(start, t + 1)
            start = t + 1


def n_step_return(rewards, gamma, next_values, terminated, t: int, n: int) -> float:
    """Sutton & Barto eq. 7.1 in one episode: n rewards, then the value unless it terminated."""
    total = sum(gamma**k * rewards[t + k] for k in range(n))
    return total if terminated[t + n - 1] else total + gamma**n * next_values[t + n - 1]


def n_step_returns(
    rewards, next_values, terminated, truncated, *, gamma: float, n: int
) -> np.ndarray:
    """n-step returns of a stream, with fewer steps at the end of an episode or of the rollout."""
    result = np.zeros(len(rewards))
    for episode in episodes(terminated, truncated):
        r, v, done = rewards[episode], next_values[episode], terminated[episode]
        result[episode] = [
            n_step_return(r, gamma, v, done, t, min(n, len(r) - t)) for t in range(len(r))
        ]
    return result


def lambda_returns(
    rewards, next_values, terminated, truncated, *, gamma: float, lambda_: float
) -> np.ndarray:
    """Sutton & Barto eq. 12.3 in each episode: a weighted mean of all n-step returns."""
    result = np.zeros(len(rewards))
    for episode in episodes(terminated, truncated):
        r, v, done = rewards[episode], next_values[episode], terminated[episode]
        for t in range(len(r)):
            longest = len(r) - t
            returns = [n_step_return(r, gamma, v, done, t, n) for n in range(1, longest + 1)]
            weights = [(1 - lambda_) * lambda_ ** (n - 1) for n in range(1, longest)] + [
                lambda_ ** (longest - 1)
            ]
            result[episode.start + t] = np.dot(weights, returns)
    return result


def td_errors(rewards, values, next_values, terminated, *, gamma: float) -> np.ndarray:
    """One-step errors; the value after a terminated step is 0."""
    return np.array(
        [
            r + (0.0 if done else gamma * after) - before
            for r, before, after, done in zip(rewards, values, next_values, terminated, strict=True)
        ]
    )


def generalized_advantages(
    rewards, values, next_values, terminated, truncated, *, gamma: float, lambda_: float
) -> np.ndarray:
    """Schulman et al. (2016), eq. 16, in each episode: sum_k (gamma lambda)^k delta_{t+k}."""
    result = np.zeros(len(rewards))
    errors = td_errors(rewards, values, next_values, terminated, gamma=gamma)
    for episode in episodes(terminated, truncated):
        delta = errors[episode]
        for t in range(len(delta)):
            result[episode.start + t] = sum(
                (gamma * lambda_) ** k * delta[t + k] for k in range(len(delta) - t)
            )
    return result


def vtrace_targets(
    rewards, values, next_values, ratios, terminated, truncated, *, gamma, lambda_, clip_rho
) -> np.ndarray:
    """Espeholt et al. (2018), eq. 1, in each episode, with remark 2's lambda and c-bar = 1."""
    result = np.zeros(len(rewards))
    errors = td_errors(rewards, values, next_values, terminated, gamma=gamma)
    for episode in episodes(terminated, truncated):
        delta = errors[episode] * np.minimum(clip_rho, ratios[episode])
        c = lambda_ * np.minimum(1.0, ratios[episode])
        for t in range(len(delta)):
            corrections = [
                gamma**k * np.prod(c[t : t + k]) * delta[t + k] for k in range(len(delta) - t)
            ]
            result[episode.start + t] = values[episode][t] + sum(corrections)
    return result


def vtrace_advantages(
    rewards,
    values,
    next_values,
    ratios,
    terminated,
    truncated,
    *,
    gamma,
    lambda_,
    clip_rho,
    clip_pg_rho,
) -> np.ndarray:
    """Espeholt et al. (2018), section 4.2; an episode's last step bootstraps with the value."""
    targets = vtrace_targets(
        rewards,
        values,
        next_values,
        ratios,
        terminated,
        truncated,
        gamma=gamma,
        lambda_=lambda_,
        clip_rho=clip_rho,
    )
    result = np.zeros(len(rewards))
    for episode in episodes(terminated, truncated):
        for t in range(episode.start, episode.stop):
            after = next_values[t]
            if t + 1 < episode.stop:
                after = (1 - lambda_) * next_values[t] + lambda_ * targets[t + 1]
            target = rewards[t] if terminated[t] else rewards[t] + gamma * after
            result[t] = min(clip_pg_rho, ratios[t]) * (target - values[t])
    return result


def retrace(
    rewards, q_values, next_state_values, ratios, terminated, truncated, *, gamma, lambda_
) -> np.ndarray:
    """Munos et al. (2016), section 3, by episode: Q + sum_k gamma^k (prod_1^k c) delta_{t+k}."""
    result = np.zeros(len(rewards))
    errors = td_errors(rewards, q_values, next_state_values, terminated, gamma=gamma)
    for episode in episodes(terminated, truncated):
        delta, c = errors[episode], lambda_ * np.minimum(1.0, ratios[episode])
        for t in range(len(delta)):
            corrections = [
                gamma**k * np.prod(c[t + 1 : t + 1 + k]) * delta[t + k]
                for k in range(len(delta) - t)
            ]
            result[episode.start + t] = q_values[episode][t] + sum(corrections)
    return result


def huber(error: float, delta: float) -> float:
    """Huber (1964)."""
    return 0.5 * error**2 if abs(error) <= delta else delta * (abs(error) - 0.5 * delta)


def q_loss(q_tm1, a_tm1, r_t, discount_t, next_value) -> np.ndarray:
    """0.5 (r + gamma v' - Q(s, a))^2 per batch element; `next_value(index)` is v'."""
    result = np.zeros(r_t.shape)
    for index in np.ndindex(r_t.shape):
        target = r_t[index] + discount_t[index] * next_value(index)
        result[index] = 0.5 * (target - q_tm1[index][a_tm1[index]]) ** 2
    return result


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities of one row of logits; exactly 0 for -inf."""
    weights = np.array([np.exp(x - max(logits)) for x in logits])
    return weights / weights.sum()


def categorical_entropy(logits: np.ndarray) -> float:
    """- sum p log p over the actions with p > 0."""
    return -sum(p * np.log(p) for p in softmax(logits) if p > 0)


def categorical_kl(logits: np.ndarray, other: np.ndarray) -> float:
    """sum p (log p - log q) over the actions with p > 0."""
    return sum(
        p * np.log(p / q) for p, q in zip(softmax(logits), softmax(other), strict=True) if p > 0
    )


def normal_log_density(x: float, mean: float, stddev: float) -> float:
    """log N(x; mean, stddev^2)."""
    return -0.5 * ((x - mean) / stddev) ** 2 - np.log(stddev * np.sqrt(2 * np.pi))


def normal_entropy(stddev: float) -> float:
    """Entropy of one normal distribution."""
    return 0.5 * (np.log(2 * np.pi * stddev**2) + 1)


def normal_kl(mean: float, stddev: float, other_mean: float, other_stddev: float) -> float:
    """KL divergence between two normal distributions."""
    return (
        np.log(other_stddev / stddev)
        + (stddev**2 + (mean - other_mean) ** 2) / (2 * other_stddev**2)
        - 0.5
    )
