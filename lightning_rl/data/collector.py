"""Collects rollouts from one vector environment, and owns what of it must survive a restart."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from sys import getrefcount
from typing import Any, cast

import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from gymnasium.vector import AutoresetMode
from jaxtyping import Shaped, UInt8
from numpy.typing import NDArray
from torch import Tensor

from lightning_rl.data.deciding import CapturedDeciding, Deciding, PlainDeciding
from lightning_rl.data.replay import ReplayBuffer, ReplayState
from lightning_rl.data.stopwatch import counting_seconds
from lightning_rl.data.turns import OnDevice, Turns, turns_of
from lightning_rl.distributed import collectives
from lightning_rl.envs.imagined import ImaginedVectorEnv
from lightning_rl.envs.side_by_side import SideBySide
from lightning_rl.envs.wrapper import ResumableVectorWrapper
from lightning_rl.errors import check_option
from lightning_rl.protocols import CapturablePolicy, Policy, ResumableVectorEnv
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import ActorOutput, RecurrentInputs, Rollout, State

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
        check_games(env)
        self.env = env
        self.num_steps = num_steps
        self.generator = torch.Generator().manual_seed(seed) if isinstance(seed, int) else seed
        self.replay = replay
        self.memory: dict[str, Tensor] = {}
        self.env_steps = 0
        self.mean_raw_reward = 0.0
        self.collecting_seconds = 0.0
        self._turns = turns_of(env)
        self._shown = self._parts_of(env.reset()[0])
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
        turns: Turns = self._turns
        deciding = self._deciding(policy, frames)
        if isinstance(deciding, CapturedDeciding) and isinstance(self.env, ImaginedVectorEnv):
            turns, self._shown = OnDevice(self.env), [self.env.frames]
        began = self._recurrent_inputs
        told = [began] if len(turns.rows) == 1 else [began.rows(rows) for rows in turns.rows]
        parts = [_Part(*each) for each in zip(turns.rows, self._shown, told, strict=True)]
        for step in range(self.num_steps):
            for index, part in enumerate(parts):
                if step:
                    part.take(turns.observe(index))
                part.output = deciding.decide(step, part.rows, part.shown, part.told)
                turns.act(index, part.output.actions)
        for index, part in enumerate(parts):
            part.take(turns.observe(index))
            deciding.finished(part.rows, part.shown)
        self._shown = [part.shown for part in parts]
        if parts[0].is_recurrent:
            self._recurrent_inputs = _whole([part.told for part in parts])
        played = [turns.whole(step) for step in zip(*(part.steps for part in parts), strict=True)]
        return self._rollout(played, deciding.decided(), began)

    def _deciding(self, policy: Policy, frames: UInt8[NDArray[Any], "T+1 B H W C"] | None) -> Deciding:
        """Captured, where the policy has such a step and wants it, and no memory is given for the frames."""
        if frames is None and isinstance(policy, CapturablePolicy) and policy.is_captured:
            sizes = {"num_steps": self.num_steps, "num_envs": self.num_envs, "num_actions": num_actions_of(self.env)}
            return CapturedDeciding(policy, self.generator, **sizes)
        return PlainDeciding(policy, self.generator, self._unused_memory() if frames is None else frames)

    def _rollout(self, played: Sequence[Any], decided: dict[str, Tensor | None], began: RecurrentInputs) -> Rollout:
        """Counts the steps that were played, and makes a rollout of them."""
        _, rewards, terminated, truncated, infos = zip(*played, strict=True)
        raw_rewards = [info.get("raw_rewards", reward) for info, reward in zip(infos, rewards, strict=True)]
        self.env_steps += self.num_steps * self.num_envs
        self.mean_raw_reward = _mean(raw_rewards)
        if collectives.world_size() > 1 and isinstance(self.env, ResumableVectorWrapper | SideBySide):
            self.env.sync_statistics(collectives.all_reduce_moments)
        self._snapshot = self._boundary()
        ends = [one | other for one, other in zip(terminated, truncated, strict=True)]  # a time limit ends an episode
        return Rollout(
            rewards=_rows(rewards),
            raw_rewards=None if self._recurrent_inputs is began else _rows(raw_rewards),
            terminated=_rows(ends),
            recurrent_inputs=began,
            **cast(dict[str, Any], decided),
        )

    def _parts_of(self, frames: UInt8[NDArray[Any], "B H W C"]) -> list[Any]:
        """What the policy sees of each part."""
        return [frames[rows] for rows in self._turns.rows]

    def _unused_memory(self) -> UInt8[NDArray[Any], "N B H W C"]:
        """An array for the frames: that of the last rollout, where no tensor uses it any more.

        Freeing and allocating hundreds of megabytes for every rollout would fragment the memory, and each fresh page
        costs the kernel time.
        """
        if self._memory is None or getrefcount(self._memory) > _OWN_REFERENCES:
            shape = (self.num_steps + 1, self.num_envs, *self._shown[0].shape[1:])
            self._memory = np.empty(shape, dtype=np.uint8)
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
        self._shown = self._parts_of(self.env.set_state(saved.env))
        self.env_steps = saved.env_steps
        self.generator.set_state(saved.generator.get_state())
        self.mean_raw_reward = saved.mean_raw_reward
        self.memory = saved.memory
        self._recurrent_inputs = saved.recall
        self._snapshot = self._boundary()

    def take_statistics(self, state: State) -> None:
        """Goes on with the games' running statistics of another collector, of whatever number of environments.

        Args:
            state: its `state_dict`.
        """
        if isinstance(self.env, ResumableVectorWrapper | SideBySide):
            self.env.take_statistics(state["env"])
            self._snapshot = self._boundary()

    def close(self) -> None:
        """Ends the games."""
        self.env.close()


@dataclass
class _Part:
    """A part of the environments within a rollout: its rows, and what the policy is shown and told next."""

    rows: slice
    shown: Any
    told: RecurrentInputs
    output: ActorOutput | None = None
    steps: list[Any] = field(default_factory=list)

    @property
    def is_recurrent(self) -> bool:
        """Whether the policy has a state."""
        return self.output is not None and self.output.state is not None

    def take(self, step: Any) -> None:
        """Takes what the last actions led to."""
        self.shown, rewards, terminated, truncated, info = step
        self.steps.append((None, *step[1:]))  # the frames are overwritten, or would take memory twice
        if self.output is not None and self.is_recurrent:  # a policy without a state needs none
            # the game's own reward, as in evaluation, where nothing scales it
            self.told = self.output.next_inputs(info.get("raw_rewards", rewards), terminated | truncated)


def _whole(parts: Sequence[RecurrentInputs]) -> RecurrentInputs:
    """Inputs of all environments, on the CPU."""
    columns = zip(*(part.tensors() for part in parts), strict=True)
    names = (field.name for field in fields(RecurrentInputs))
    whole = (column[0] if len(column) == 1 else torch.cat(column) for column in columns)
    return RecurrentInputs(**{name: tensor.cpu() for name, tensor in zip(names, whole, strict=True)})


def _rows(steps: Sequence[Any]) -> Tensor:
    """Numbers of all steps; those of imagined steps are tensors."""
    if isinstance(steps[0], Tensor):
        return torch.stack(list(steps))
    return torch.from_numpy(np.stack(steps))


def _mean(rewards: Sequence[Any]) -> float:
    if isinstance(rewards[0], Tensor):
        return float(torch.stack(list(rewards)).double().mean())
    return float(np.mean(rewards, dtype=np.float64))


def check_games(env: ResumableVectorEnv) -> None:
    """Refuses games of another kind than is learned from.

    Raises:
        ValueError: their frames are no images of bytes, their actions are not numbered, or the frame after an episode's
            end is not the first of the next one.
    """
    own = cast(Any, env)
    frames, actions = (getattr(own, f"single_{kind}_space", None) for kind in ("observation", "action"))
    is_image = isinstance(frames, Box) and frames.dtype == np.uint8 and len(frames.shape) == 3
    check_option("games", f"observations {frames}", frames is None or is_image, "of uint8 images [H W C]")
    check_option("games", f"actions {actions}", actions is None or isinstance(actions, Discrete), "of discrete actions")
    mode = (getattr(own, "metadata", None) or {}).get("autoreset_mode", AutoresetMode.SAME_STEP)
    check_option("games", str(mode), mode == AutoresetMode.SAME_STEP, f"in {AutoresetMode.SAME_STEP}")


def num_actions_of(env: ResumableVectorEnv) -> int:
    """Actions to choose from in each environment."""
    return int(cast(Any, env).single_action_space.n)
