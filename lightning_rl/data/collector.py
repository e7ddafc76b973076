"""The one owner of everything on the environments' side that must survive a restart."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import fields
from sys import getrefcount
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.distributed import collectives
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.protocols import Policy, ResumableVectorEnv
from lightning_rl.state import validate_state
from lightning_rl.types import RecurrentInputs, Rollout, State

_OWN_REFERENCES = 2  # the collector's, and the one that counting takes


class Collector:
    """Steps one vector environment with a policy, and owns what must survive a restart of it.

    Args:
        env: the environments; they go on where the last rollout left them.
        num_steps: steps of one rollout.
        seed: of the generator that samples actions and shuffles minibatches; or that generator.
        replay: what was played before, for a method that learns from it; saved with the games.

    Attributes:
        env_steps: decisions taken so far, over all environments of this collector.
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
        self._obs, _ = env.reset()
        self._recurrent_inputs = RecurrentInputs.initial(env.num_envs)
        self._memory: NDArray[np.uint8] | None = None
        self._snapshot = self._env_state()

    @property
    def num_envs(self) -> int:
        """Number of environments stepped together."""
        return self.env.num_envs

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
                self._recurrent_inputs = output.next_inputs(reward, ends[-1])
            raw_rewards.append(info.get("raw_rewards", reward))
        self.env_steps += self.num_steps * self.num_envs
        self.mean_raw_reward = float(np.mean(raw_rewards, dtype=np.float64))
        if collectives.world_size() > 1 and isinstance(self.env, ResumableVectorWrapper):
            self.env.sync_statistics(collectives.all_reduce_moments)
        self._snapshot = self._env_state()
        return Rollout(
            actions=torch.stack([output.actions for output in outputs]),
            rewards=torch.from_numpy(np.stack(rewards)),
            terminated=torch.from_numpy(np.stack(ends)),
            behavior_logits=torch.stack([output.logits for output in outputs]),
            behavior_values=torch.stack([output.values for output in outputs]),
            obs=torch.from_numpy(storage),
            recurrent_inputs=recurrent_inputs,
            behavior_noise=_stacked([output.noise for output in outputs]),
        )

    def _unused_memory(self) -> UInt8[NDArray[Any], "N B H W C"]:
        """Memory for frames: the last rollout's, where no tensor holds that any more.

        Hundreds of megabytes that are given back and asked for again would find their place taken by smaller things,
        and every fresh page costs the kernel time.
        """
        if self._memory is None or getrefcount(self._memory) > _OWN_REFERENCES:
            self._memory = np.empty((self.num_steps + 1, *self._obs.shape), dtype=np.uint8)
        return self._memory

    def metrics(self) -> dict[str, float]:
        """Returns and lengths of recent episodes, in the units of the game, and the last rollout's mean raw reward."""
        episodes = getattr(self.env, "metrics", None)
        return {**(episodes() if episodes else {}), "rollout/reward": self.mean_raw_reward}

    def _env_state(self) -> State:
        return {
            "env": self.env.get_state(),
            "env_steps": self.env_steps,
            "mean_raw_reward": self.mean_raw_reward,
            "recall": {
                field.name: getattr(self._recurrent_inputs, field.name).clone()
                for field in fields(self._recurrent_inputs)
            },
        }

    def state_dict(self) -> State:
        """The games of the last boundary, never in mid-step, and the generator as it is; exact when called there."""
        replay = {} if self.replay is None else {"replay": self.replay.state_dict()}
        return {**self._snapshot, "generator": self.generator.get_state(), "memory": deepcopy(self.memory), **replay}

    def load_state_dict(self, state: State) -> None:
        """Continues from a saved state.

        Raises:
            ValueError: the state is of other environments, or what was played before is not on disk as it was.
        """
        if self.replay is not None:
            self.replay.load_state_dict(state["replay"])
        self._obs = self.env.set_state(state["env"])
        self.env_steps = state["env_steps"]
        self.generator.set_state(state["generator"].cpu())
        self.mean_raw_reward = state["mean_raw_reward"]
        self.memory = deepcopy(state["memory"])
        self._recurrent_inputs = RecurrentInputs(**{name: tensor.clone() for name, tensor in state["recall"].items()})
        self._snapshot = self._env_state()

    def close(self) -> None:
        """Ends the games."""
        self.env.close()


def check_collector(state: State, key: str, *, num_envs: int) -> None:
    """Refuses what no collector of so many environments saves, before one is built; `key` is the state's own.

    Raises:
        ValueError: names the key.
    """
    recurrent_inputs = {
        field.name: getattr(RecurrentInputs.initial(num_envs), field.name) for field in fields(RecurrentInputs)
    }
    schema = {
        "env": dict,
        "env_steps": int,
        "mean_raw_reward": float,
        "recall": recurrent_inputs | {"state": Tensor},
        "generator": torch.Generator().get_state(),
        "memory": {str: Tensor},
    }
    validate_state(state, schema, key)
    require_generator(state["generator"], key)
    for name, rows in {"recall.state": state["recall"]["state"], **state["memory"]}.items():
        if rows.shape[:1] != (num_envs,):
            raise ValueError(f"{key}.{name} must have {num_envs} rows, found {tuple(rows.shape)}")


def require_generator(state: Tensor, key: str) -> None:
    """Refuses what is no state of torch's generator.

    Raises:
        ValueError: names the key.
    """
    try:
        torch.Generator().set_state(state)
    except RuntimeError as error:
        raise ValueError(f"{key}.generator must be the state of a generator, found another") from error


def _stacked(rows: Sequence[Tensor | None]) -> Tensor | None:
    known = [row for row in rows if row is not None]
    return torch.stack(known) if known else None
