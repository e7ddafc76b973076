"""Policy distillation into a recurrent student, over sequences."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.minibatches import num_minibatches, shuffled
from lightning_rl.errors import check_option
from lightning_rl.modules.base import Batch, Objective
from lightning_rl.modules.policy_distill import PolicyDistillModule
from lightning_rl.networks.impala_cnn import CNNShape
from lightning_rl.networks.recurrent_actor_critic import RecurrentActorCritic
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.protocols import Source
from lightning_rl.types import RecurrentInputs, Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class TaughtSequences(TensorFields):
    """Sequences of `T` steps of `B` environments, with what the teacher says of each frame.

    The inputs of the student are those with which it acted: `state` is its state before the first frame.
    """

    obs: UInt8[Tensor, "T B H W C"]
    previous_actions: Int64[Tensor, "T B"]
    previous_rewards: Float32[Tensor, "T B"]
    starts: Bool[Tensor, "T B"]
    state: Float32[Tensor, "B S"]
    teacher_logits: Float32[Tensor, "T B A"]
    teacher_values: Float32[Tensor, "T B"]

    @classmethod
    def from_rollout(cls, rollout: Rollout, taught: dict[str, Tensor], *, state_size: int) -> "TaughtSequences":
        """The sequences of a rollout.

        Args:
            rollout: its recurrent state begins with the student's.
            taught: the teacher's logits and values.
            state_size: length of the student's state.
        """
        inputs = rollout.recurrent_inputs
        rewards = rollout.rewards if rollout.raw_rewards is None else rollout.raw_rewards
        return cls(
            obs=rollout.obs[:-1],
            previous_actions=torch.cat([inputs.previous_actions[None], rollout.actions[:-1]]),
            previous_rewards=torch.cat([inputs.previous_rewards[None], rewards[:-1]]),
            starts=torch.cat([inputs.starts[None], rollout.terminated[:-1]]),
            state=inputs.state[:, :state_size],
            teacher_logits=taught["teacher_logits"],
            teacher_values=taught["teacher_values"],
        )

    def __len__(self) -> int:
        return self.obs.shape[1]

    def columns(self, which: slice | Int64[Tensor, "N"]) -> "TaughtSequences":
        """The sequences of a part of the environments."""
        steps = {field.name: getattr(self, field.name)[:, which] for field in fields(self) if field.name != "state"}
        return replace(self, state=self.state[which], **steps)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["TaughtSequences"]:
        """The sequences in even parts of at most `size` frames, but at least one sequence each."""
        return [self.columns(part) for part in micro_batches.even_parts(len(self), samples_each=len(self.obs))]


class RecurrentPolicyDistillModule(PolicyDistillModule):
    """Policy distillation into a student with an LSTM: IMPALA's network.

    The divergence is that of `PolicyDistillModule`, over whole sequences of a rollout. A sequence begins with the state
    that the student had when it acted; later passes over a rollout (`epochs`) keep that state.

    Args:
        loss: `divergence`; `proximal` is for students without a memory.
        **options: of `PolicyDistillModule`. `minibatch_size` counts frames and must be a multiple of the steps of a
            rollout; `channels`, `hidden`, `pooling` and `width` are the student's sizes.

    Raises:
        ValueError: a value outside its range, or an option of networks without a memory.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy, section 2.2 and eq. 3; Espeholt
        et al. 2018, IMPALA, figure 3 right, https://arxiv.org/abs/1802.01561, for the network
    """

    network: RecurrentActorCritic

    def __init__(self, *, loss: Literal["divergence"] = "divergence", **options: Any) -> None:
        super().__init__(loss=loss, **options)

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`recurrent_policy_distill`."""
        return "recurrent_policy_distill"

    def built_network(self, name: str, shape: CNNShape, *, dropout: float) -> nn.Module:
        """See `PPOModule`."""
        check_option("model.network", name, name == "three_stack", "three_stack, on which the LSTM stands")
        check_option("model.dropout", dropout, dropout == 0, "0 for a student with an LSTM")
        return RecurrentActorCritic(self.obs_shape, self.num_actions, shape=shape)

    def network_config(self) -> NetworkConfig:
        """See `RLModule`."""
        return replace(super().network_config(), name=RECURRENT)

    @property
    def _state_size(self) -> int:
        return 2 * self.network.lstm.hidden_size

    def decide(
        self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, noise: Float32[Tensor, "B Z"] | None
    ) -> tuple[Tensor, ...]:
        """One step of the network."""
        told = (inputs.previous_actions, inputs.previous_rewards, inputs.starts, inputs.state)
        return tuple(self.network.step(frames, torch.zeros(len(frames), 0, device=frames.device), *told))

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Epochs times minibatches of a rollout's sequences."""
        whole = self.minibatch_size % num_steps == 0
        check_option("model.minibatch_size", self.minibatch_size, whole, f"a multiple of data.num_steps, {num_steps}")
        return self.epochs * num_minibatches(num_steps * num_envs, self.minibatch_size)

    def batches(self, source: Source) -> Iterator[Batch]:  # type: ignore[override]  # sequences
        """One rollout, what the teacher says of it, then sequences of shuffled environments."""
        rollout, taught = self.lesson(source, state_size=self._state_size)
        sequences = TaughtSequences.from_rollout(rollout, taught, state_size=self._state_size)
        passes: dict[str, Any] = {"epochs": self.epochs, "minibatch_size": self.minibatch_size // len(sequences.obs)}
        for environments in shuffled(len(sequences), generator=source.generator, device=self.device, **passes):
            yield sequences.columns(environments)

    def objective(self, batch: TaughtSequences, generator: torch.Generator) -> Objective:  # type: ignore[override]  # its own
        """The divergence from the teacher, and the regression to the teacher's values by option."""
        told = (batch.previous_actions, batch.previous_rewards, batch.starts, batch.state)
        logits, values, _ = self.network(batch.obs, torch.zeros(*batch.obs.shape[:2], 0, device=self.device), *told)
        teachers = batch.teacher_logits.flatten(0, 1), batch.teacher_values.flatten()
        return self.imitation(logits.flatten(0, 1), values.flatten(), *teachers)
