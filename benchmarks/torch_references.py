"""The references that need PyTorch, each in a child process that trains on request.

R3  `a2c`: Stable-Baselines3's A2C on Gymnasium's CartPole, with its own defaults and our network.
R4  `a3c`: A3C as usual in PyTorch: processes; parameters and Shared RMSProp in shared memory
    without a lock; one environment of envpool each.

`peers.py` starts the script and talks to it through pipes, one line per window: seconds go in,
`{"steps": ...}` comes out. When the input ends, the script prints whether the parameters moved and
are finite. It needs the extra `peers`.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Run = Callable[[float], int]


def main() -> None:
    """Build the learner, then answer requests until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("algorithm", choices=["a2c", "a3c"])
    parser.add_argument(
        "settings", type=json.loads, help="as JSON: num_envs or num_workers, weights, rates"
    )
    args = parser.parse_args()

    # More threads only cost time with networks and batches of this size.
    torch.set_num_threads(1)
    learner = {"a2c": StableBaselines, "a3c": Processes}[args.algorithm](args.settings)
    before = weights(learner.network)
    learner.run(1.0)
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps({"steps": learner.run(float(line))}), flush=True)
    learner.close()

    after = weights(learner.network)
    learned = all(
        np.isfinite(b).all() and not np.array_equal(a, b)
        for a, b in zip(before, after, strict=True)
    )
    print(json.dumps({"learned": learned}), flush=True)


def weights(network: nn.Module) -> list[np.ndarray]:
    """Return a copy of all parameters."""
    return [parameter.detach().numpy().copy() for parameter in network.parameters()]


def linear(inputs: int, outputs: int, gain: float) -> nn.Linear:
    """Return a dense layer with orthogonal weights."""
    layer = nn.Linear(inputs, outputs)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


class StableBaselines:
    """R3: A2C of Stable-Baselines3.

    Attributes:
      network: policy and value.
    """

    def __init__(self, settings: dict[str, Any]):
        """Start `num_envs` environments in this process, the fastest way for CartPole."""
        import gymnasium
        from stable_baselines3 import A2C
        from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
        from stable_baselines3.common.vec_env import DummyVecEnv

        class Trunk(BaseFeaturesExtractor):
            """The layers that policy and value share in our default network."""

            def __init__(self, space: Any):
                super().__init__(space, 64)
                gain = 2.0**0.5
                first = linear(space.shape[0], 64, gain)
                second = linear(64, 64, gain)
                self.layers = nn.Sequential(first, nn.Tanh(), second, nn.Tanh())

            def forward(self, observations: Tensor) -> Tensor:
                return self.layers(observations)

        # All environments in this process: the fastest way for CartPole.
        envs = DummyVecEnv([lambda: gymnasium.make("CartPole-v1")] * settings["num_envs"])
        shape = {"features_extractor_class": Trunk, "net_arch": []}
        self._model = A2C(
            "MlpPolicy", envs, ent_coef=0.01, policy_kwargs=shape, device="cpu", seed=0
        )
        self.network = self._model.policy

    def run(self, seconds: float) -> int:
        """Train for so long; return the environment steps."""
        before = self._model.num_timesteps
        end = time.perf_counter() + seconds
        self._model.learn(
            10**12,
            callback=lambda *_: time.perf_counter() < end,  # False stops it
            reset_num_timesteps=False,
        )
        return self._model.num_timesteps - before

    def close(self) -> None:
        """Close the environments."""
        self._model.env.close()


class ActorCritic(nn.Module):
    """The network of Mnih et al. (2013) with two heads; 84x84 pixels, channels first."""

    def __init__(self, num_actions: int):
        super().__init__()
        first = nn.Conv2d(4, 16, 8, 4)
        second = nn.Conv2d(16, 32, 4, 2)
        for layer in (first, second):
            nn.init.orthogonal_(layer.weight, 2.0**0.5)
            nn.init.zeros_(layer.bias)

        hidden = linear(32 * 9 * 9, 256, 2.0**0.5)
        self.trunk = nn.Sequential(
            first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(), hidden, nn.ReLU()
        )
        self.policy = linear(256, num_actions, 0.01)
        self.value = linear(256, 1, 1.0)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[M, A]` and values `[M]` of images `[M, 4, 84, 84]` uint8."""
        features = self.trunk(images.float() / 255.0)
        return self.policy(features), self.value(features)[:, 0]


class Processes:
    """R4: A3C of processes.

    Attributes:
      network: the shared network.
    """

    def __init__(self, settings: dict[str, Any]):
        """Start `num_workers` processes, which wait for `run`."""
        num_workers = settings["num_workers"]
        start = torch.multiprocessing.get_context("spawn")
        self.network = ActorCritic(num_actions_of(settings["env"])).share_memory()
        statistics = [torch.zeros_like(p).share_memory_() for p in self.network.parameters()]
        self._steps = torch.zeros(num_workers, dtype=torch.int64).share_memory_()

        # Events: all train, all end, and one for each process that waits.
        self._going = start.Event()
        self._ending = start.Event()
        self._waiting = [start.Event() for _ in range(num_workers)]

        shared = (self.network, statistics, self._steps, self._going, self._ending)
        self._workers = [
            start.Process(target=work, args=(rank, settings, *shared, waiting), daemon=True)
            for rank, waiting in enumerate(self._waiting)
        ]
        for worker in self._workers:
            worker.start()
        self._wait()

    def run(self, seconds: float) -> int:
        """Let the processes train for so long; return the steps of all."""
        before = int(self._steps.sum())
        for waiting in self._waiting:
            waiting.clear()

        # Let them go, and stop them after the window.
        self._going.set()
        time.sleep(seconds)
        self._going.clear()
        self._wait()
        return int(self._steps.sum()) - before

    def close(self) -> None:
        """End the processes."""
        self._ending.set()
        self._going.set()
        for worker in self._workers:
            worker.join()

    def _wait(self) -> None:
        """Block until all processes have ended their segment and wait."""
        for worker, waiting in zip(self._workers, self._waiting, strict=True):
            while not waiting.wait(1.0):
                if not worker.is_alive():
                    raise RuntimeError("a worker of PyTorch's A3C died; its traceback is above")


def work(
    rank: int,
    settings: dict[str, Any],
    shared: ActorCritic,
    statistics: list[Tensor],
    steps: Tensor,
    going: Any,
    ending: Any,
    waiting: Any,
) -> None:
    """Run a worker: copy the shared parameters, play up to T steps, apply the gradient; repeat."""
    torch.set_num_threads(1)
    torch.manual_seed(rank)
    pool = pool_of(settings["env"], rank)
    network = ActorCritic(int(pool.action_space.n))
    observation = pool.reset()[0]

    while True:
        if not going.is_set():
            waiting.set()
            going.wait()
        if ending.is_set():
            return

        # theta' <- theta
        with torch.no_grad():
            for mine, theirs in zip(network.parameters(), shared.flat_params(), strict=True):
                mine.copy_(theirs)

        observation, taken, loss = segment(pool, network, observation, settings)
        network.zero_grad()
        # d theta, then an update of the shared parameters without a lock.
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings["max_grad_norm"])
        update(network, shared, statistics, settings)
        steps[rank] += taken


def segment(
    pool: Any, network: ActorCritic, observation: np.ndarray, settings: dict[str, Any]
) -> tuple[np.ndarray, int, Tensor]:
    """Play up to T steps of one environment, to the end of the episode at most.

    Returns:
      The next observation, the number of steps, and the loss of Algorithm S3, summed over them.
    """
    log_probs = []
    entropies = []
    values = []
    rewards = []
    done = False
    while len(rewards) < settings["num_steps"] and not done:
        logits, value = network(torch.from_numpy(observation))
        all_log_probs = torch.log_softmax(logits, -1)
        probs = all_log_probs.exp()
        action = torch.multinomial(probs.detach(), 1)

        observation, reward, terminated, truncated, _ = pool.step(
            action[:, 0].numpy().astype(np.int32)
        )
        done = bool(terminated[0] or truncated[0])

        log_probs.append(all_log_probs.gather(1, action)[:, 0])
        entropies.append(-(probs * all_log_probs).sum(-1))
        values.append(value)
        rewards.append(float(reward[0]))

    # R <- 0 at the end of an episode, else V(s_T); then R <- r_t + gamma R backwards.
    target = 0.0
    if done:
        observation = pool.step(np.zeros(1, np.int32))[0]  # envpool's next step only resets
    else:
        with torch.no_grad():
            target = float(network(torch.from_numpy(observation))[1])
    targets = []
    for reward_ in reversed(rewards):
        target = reward_ + settings["gamma"] * target
        targets.append(target)

    value = torch.cat(values)
    returns = torch.tensor(targets[::-1])
    advantages = returns - value
    policy_loss = -(torch.cat(log_probs) * advantages.detach()).sum()
    value_loss = 0.5 * advantages.square().sum()
    entropy = torch.cat(entropies).sum()
    loss = policy_loss + settings["vf_coef"] * value_loss - settings["ent_coef"] * entropy
    return observation, len(rewards), loss


@torch.no_grad()
def update(
    network: ActorCritic, shared: ActorCritic, statistics: list[Tensor], settings: dict[str, Any]
) -> None:
    """Apply Shared RMSProp to the shared tensors, which other processes write at the same time."""
    decay = settings["rmsprop_decay"]
    eps = settings["rmsprop_eps"]
    for mine, theirs, g in zip(network.parameters(), shared.flat_params(), statistics, strict=True):
        g.mul_(decay).addcmul_(mine.grad, mine.grad, value=1.0 - decay)
        theirs.addcdiv_(mine.grad, (g + eps).sqrt_(), value=-settings["learning_rate"])


def pool_of(env_id: str, seed: int) -> Any:
    """Return one environment of envpool with the preprocessing of our adapter."""
    import envpool

    name = env_id.partition(":")[2]
    return envpool.make_gymnasium(name, num_envs=1, num_threads=1, seed=seed, reward_clip=True)


def num_actions_of(env_id: str) -> int:
    """Return the size of the minimal action set."""
    pool = pool_of(env_id, 0)
    try:
        return int(pool.action_space.n)
    finally:
        pool.close()


if __name__ == "__main__":
    main()
