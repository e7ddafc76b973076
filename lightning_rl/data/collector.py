"""Collects rollouts from one vector environment, and owns what of it must survive a restart."""

from collections.abc import Sequence
from dataclasses import dataclass
from sys import getrefcount
from typing import Any

import numpy as np
import torch
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.data.replay import ReplayBuffer, ReplayState
from lightning_rl.data.stopwatch import counting_seconds
from lightning_rl.distributed import collectives
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import Policy, ResumableVectorEnv
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import RecurrentInputs, Rollout, State

_OWN_REFERENCES = 2  # the collector's, and the one that counting takes


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """Where the environments stand after a rollout."""

    env: State
    env_steps: int
    mean_raw_reward: float
    recall: RecurrentInputs


@dataclass(frozen=True, kw_only=True)
class CollectorState(Boundary):
    """Everything that a `Collector` saves."""

    generator: torch.Generator
    memory: dict[str, Shaped[Tensor, "B ..."]]
    replay: ReplayState | None = None


class Collector:
    """Steps one vector environment with a policy, and owns what must survive a restart of it.

    Args:
        env: the environments; they go on where the last rollout left them.
        num_steps: steps of one rollout.
        seed: of the generator that samples actions and shuffles minibatches; or that generator.
        replay: the replay buffer, for a method that learns from one; saved with the games.

    Attributes:
        env_steps: decisions taken so far, over all environments of this collector.
        collecting_seconds: spent in `collect` by this process.
        generator: the stream of every random choice made between two updates.
        memory: what the method carries from rollout to rollout, one row per environment.
    """

    def __init__(
        self,
        env: ResumableVectorEnv,
        *,
        num_steps: int,
        seed: int | torch.Generator,
        replay: ReplayBuffer | None = None,
    ) -> None:
        self.env = env
        self.num_steps = num_steps
        self.generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
        self.replay = replay
        self.memory: dict[str, Tensor] = {}
        self.env_steps = 0
        self.mean_raw_reward = 0.0
        self.collecting_seconds = 0.0
        self._obs, _ = env.reset()
        self._recurrent_inputs = RecurrentInputs.initial(env.num_envs)
        self._memory: NDArray[np.uint8] | None = None
        self._snapshot = self._boundary()

    @property
    def num_envs(self) -> int:
        """Number of environments stepped together."""
        return self.env.num_envs

    @counting_seconds
    @torch.no_grad()
    def collect(self, policy: Policy, frames: UInt8[NDArray[Any], "T+1 B H W C"] | None = None) -> Rollout:
        """Runs `policy` for `num_steps` steps, continuing the episodes that the last call left open.

        Args:
            policy: chooses the actions.
            frames: memory for the rollout's frames; by default the collector's own.
        """
        storage = self._unused_memory() if frames is None else frames  # each frame is written once, into the rollout
        storage[0] = self._obs
        outputs, rewards, raw_rewards, ends = [], [], [], []
        recurrent_inputs = self._recurrent_inputs
        for step in range(self.num_steps):
            output = policy.act(self._obs, self.generator, recurrent_inputs=self._recurrent_inputs)
            self._obs, reward, terminated, truncated, info = self.env.step(output.actions.numpy())
            storage[step + 1] = self._obs
            outputs.append(output)
            rewards.append(reward)
            ends.append(terminated | truncated)  # a time limit ends an episode, as in the papers
            if output.state is not None:  # a policy without a state needs none
                # the game's own reward, as in evaluation, where nothing scales it
                self._recurrent_inputs = output.next_inputs(info.get("raw_rewards", reward), ends[-1])
            raw_rewards.append(info.get("raw_rewards", reward))
        self.env_steps += self.num_steps * self.num_envs
        self.mean_raw_reward = float(np.mean(raw_rewards, dtype=np.float64))
        if collectives.world_size() > 1 and isinstance(self.env, ResumableVectorWrapper):
            self.env.sync_statistics(collectives.all_reduce_moments)
        self._snapshot = self._boundary()
        return Rollout(
            actions=torch.stack([output.actions for output in outputs]),
            rewards=torch.from_numpy(np.stack(rewards)),
            raw_rewards=None if outputs[0].state is None else torch.from_numpy(np.stack(raw_rewards)),
            terminated=torch.from_numpy(np.stack(ends)),
            behavior_logits=torch.stack([output.logits for output in outputs]),
            behavior_values=torch.stack([output.values for output in outputs]),
            obs=torch.from_numpy(storage),
            recurrent_inputs=recurrent_inputs,
            behavior_noise=_stacked([output.noise for output in outputs]),
        )

    def _unused_memory(self) -> UInt8[NDArray[Any], "N B H W C"]:
        """An array for the frames: that of the last rollout, where no tensor uses it any more.

        Freeing and allocating hundreds of megabytes for every rollout would fragment the memory, and each fresh page
        costs the kernel time.
        """
        if self._memory is None or getrefcount(self._memory) > _OWN_REFERENCES:
            self._memory = np.empty((self.num_steps + 1, *self._obs.shape), dtype=np.uint8)
        return self._memory

    def metrics(self) -> dict[str, float]:
        """Returns and lengths of recent episodes, in the units of the game, and the last rollout's mean raw reward."""
        episodes = getattr(self.env, "metrics", None)
        return {**(episodes() if episodes else {}), "rollout/reward": self.mean_raw_reward}

    def _boundary(self) -> Boundary:
        return Boundary(
            env=self.env.get_state(),
            env_steps=self.env_steps,
            mean_raw_reward=self.mean_raw_reward,
            recall=self._recurrent_inputs.map_tensors(Tensor.clone),
        )

    def state_dict(self) -> State:
        """The environments as of the last boundary, never in mid-step, and the generator and the memory as they are."""
        replay = None if self.replay is None else self.replay.state
        state = CollectorState(**vars(self._snapshot), generator=self.generator, memory=self.memory, replay=replay)
        return to_plain(state)

    def load_state_dict(self, state: State) -> None:
        """Continues from a saved state.

        Raises:
            ValueError: the state is of other environments, or the replay buffer is not on disk as it was.
        """
        saved = from_plain(CollectorState, state, "collector", B=self.num_envs)
        if self.replay is not None:
            self.replay.load_state(from_plain(ReplayState, state.get("replay"), "collector.replay"))
        self._obs = self.env.set_state(saved.env)
        self.env_steps = saved.env_steps
        self.generator.set_state(saved.generator.get_state())
        self.mean_raw_reward = saved.mean_raw_reward
        self.memory = saved.memory
        self._recurrent_inputs = saved.recall
        self._snapshot = self._boundary()

    def close(self) -> None:
        """Ends the games."""
        self.env.close()


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    known = [row for row in rows if row is not None]
    return torch.stack(known) if known else None
