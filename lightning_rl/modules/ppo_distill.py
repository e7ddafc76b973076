"""PPO with teacher/student network distillation as exploration, and PPO alone."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Float32, UInt8
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.minibatches import num_minibatches, shuffled
from lightning_rl.distributed import collectives
from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.errors import check_option
from lightning_rl.losses.distillation import absolute_prediction_error, prediction_error
from lightning_rl.losses.returns import discounts_from, forward_discounted_sums
from lightning_rl.modules.base import Objective, RLModule
from lightning_rl.modules.optimizers import adam
from lightning_rl.modules.ppo import (
    DistilledTrajectories,
    PPOBatch,
    normalized_over_ranks,
    policy_objective,
    value_loss,
)
from lightning_rl.networks.actor_critic import NETWORKS, DistillationNetwork
from lightning_rl.networks.pixel_normalizer import PixelNormalizer
from lightning_rl.protocols import Source
from lightning_rl.types import Rollout


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """The teacher, the student, and the intrinsic reward that their disagreement gives.

    Args:
        learning_rate: Adam's, for the teacher.
        num_outputs: numbers that teacher and student put out; 1 in the paper, 512 in random network distillation.
        dropout: of the teacher while it learns; rewards are computed without.
        normalization: `scale` multiplies |teacher − student| by `scale` and clips it (the paper); `running_std` divides
            the mean squared error by the running standard deviation of its discounted sum (random network
            distillation).
        scale: factor on the error, for `scale`.
        max_reward: bound on the intrinsic reward, for `scale`.
        gamma: discount of intrinsic rewards.
        episodic: intrinsic returns end with the episode (the paper); otherwise they run on, as in random network
            distillation.
        extrinsic_weight: factor on the extrinsic advantages.
        intrinsic_weight: factor on the intrinsic advantages.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Rullo 2024, Table 1 and section 3.3; Burda et al. 2018, section 2, https://arxiv.org/abs/1810.12894
    """

    learning_rate: float = 2e-4
    num_outputs: int = 1
    dropout: float = 0.5
    normalization: Literal["scale", "running_std"] = "scale"
    scale: float = 100.0
    max_reward: float = 10.0
    gamma: float = 0.999
    episodic: bool = True
    extrinsic_weight: float = 1.0
    intrinsic_weight: float = 1.0

    def __post_init__(self) -> None:
        check_option("model.distillation.learning_rate", self.learning_rate, self.learning_rate > 0, "positive")
        check_option("model.distillation.num_outputs", self.num_outputs, self.num_outputs >= 1, "at least 1")
        check_option("model.distillation.dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")
        check_option("model.distillation.gamma", self.gamma, 0 <= self.gamma <= 1, "in [0, 1]")
        check_option("model.distillation.scale", self.scale, self.scale > 0, "positive")
        check_option("model.distillation.max_reward", self.max_reward, self.max_reward > 0, "positive")


class PPODistillModule(RLModule):
    """Proximal policy optimisation, explored by network distillation; `distillation: null` is PPO alone.

    The defaults are OpenAI's for Procgen. `configs/ppo_distill.yaml` has Rullo's Table 1, `configs/ppo.yaml` the
    baseline.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        network: `three_stack`, OpenAI's IMPALA CNN (16, 32, 32) with linear heads; `two_stack`, Rullo's; `two_conv`,
            SimPLe's.
        dropout: on what the critics see while learning; the policy is never dropped out of.
        distillation: teacher, student and intrinsic reward; null for PPO alone.
        gamma: γ, discount per env step.
        lambda_: λ of generalised advantage estimation.
        epsilon: ε, clip of the probability ratio.
        value_epsilon: clip of the values' change, in units of the scaled rewards; null for none.
        epochs: passes over a rollout.
        minibatch_size: samples of one optimiser step on each rank; must divide num_steps × num_envs.
        normalize_advantages: over each `minibatch` (OpenAI) or over the whole `rollout` (Rullo, eq. 10), of all ranks.
        value_weight: factor on each critic's loss.
        entropy_weight: factor on the entropy bonus.
        learning_rate: Adam's, for policy and critics.
        adam_epsilon: Adam's ε.
        max_grad_norm: bound on the gradient's norm, of agent and teacher each by itself.
        micro_batches: cut minibatches into cache-sized parts (CPU); null computes a minibatch at once (GPU).
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Schulman et al. 2017, https://arxiv.org/abs/1707.06347; Cobbe et al. 2020, https://arxiv.org/abs/1912.01588 and
        openai/train-procgen, train_procgen/train.py; Rullo 2024, Procgen-Solving agent using PPO and Distillation
        network strategy
    """

    student: DistillationNetwork
    teacher: DistillationNetwork
    normalizer: PixelNormalizer
    intrinsic_moments: Tensor

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        network: Literal["three_stack", "two_stack", "two_conv"] = "three_stack",
        dropout: float = 0.0,
        distillation: DistillationConfig | None = None,
        gamma: float = 0.999,
        lambda_: float = 0.95,
        epsilon: float = 0.2,
        value_epsilon: float | None = 0.2,
        epochs: int = 3,
        minibatch_size: int = 2048,
        normalize_advantages: Literal["minibatch", "rollout"] = "minibatch",
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        learning_rate: float = 5e-4,
        adam_epsilon: float = 1e-5,
        max_grad_norm: float = 0.5,
        micro_batches: MicroBatchConfig | None = None,
        greedy: bool = False,
    ) -> None:
        super().__init__(micro_batches=micro_batches, max_grad_norm=max_grad_norm, greedy=greedy)
        check_option("model.gamma", gamma, 0 <= gamma <= 1, "in [0, 1]")
        check_option("model.lambda_", lambda_, 0 <= lambda_ <= 1, "in [0, 1]")
        check_option("model.epsilon", epsilon, epsilon > 0, "positive")
        check_option(
            "model.value_epsilon", value_epsilon, value_epsilon is None or value_epsilon > 0, "positive or null"
        )
        check_option("model.dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
        check_option("model.epochs", epochs, epochs >= 1, "at least 1")
        check_option("model.learning_rate", learning_rate, learning_rate > 0, "positive")
        check_option("model.max_grad_norm", max_grad_norm, max_grad_norm > 0, "positive")
        check_option("model.adam_epsilon", adam_epsilon, adam_epsilon >= 0, "at least 0")
        self.distillation = distillation
        self.gamma = gamma
        self.lambda_ = lambda_
        self.epsilon = epsilon
        self.value_epsilon = value_epsilon
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.normalize_advantages = normalize_advantages
        self.learning_rate = learning_rate
        self.adam_epsilon = adam_epsilon
        self.network = NETWORKS[network](obs_shape, num_actions, 1 if distillation is None else 2, dropout=dropout)
        self.loss_weights = {"policy": 1.0, "value": value_weight, "entropy": entropy_weight}
        if distillation is not None:
            self._add_distillation(distillation, obs_shape)
            self.loss_weights |= {"intrinsic_value": value_weight, "distill": 1.0}

    def _add_distillation(self, distillation: DistillationConfig, obs_shape: tuple[int, int, int]) -> None:
        self.teacher = DistillationNetwork(
            obs_shape, num_outputs=distillation.num_outputs, dropout=distillation.dropout
        )
        self.student = DistillationNetwork(obs_shape, num_outputs=distillation.num_outputs).requires_grad_(False)
        self.normalizer = PixelNormalizer(obs_shape)
        self.register_buffer("intrinsic_moments", torch.tensor(RunningMoments(), dtype=torch.float64))

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """`ppo_distill`, or `ppo` without distillation."""
        return "ppo" if init_args.get("distillation") is None else "ppo_distill"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam with one parameter group for the agent and, with distillation, one for the teacher."""
        groups: list[dict[str, Any]] = [{"params": self.network.parameters(), "lr": self.learning_rate}]
        if self.distillation is not None:
            groups.append({"params": self.teacher.parameters(), "lr": self.distillation.learning_rate})
        return adam(groups, eps=self.adam_epsilon)

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Epochs times minibatches of a rollout."""
        return self.epochs * num_minibatches(num_steps * num_envs, self.minibatch_size)

    def batches(self, source: Source) -> Iterator[PPOBatch]:
        """One rollout, its advantages and returns, then shuffled minibatches of it."""
        trajectories = self.trajectories(source.collect(self).to(self.device), source.memory)
        order = list(
            shuffled(
                trajectories.actions.numel(),
                epochs=self.epochs,
                minibatch_size=self.minibatch_size,
                generator=source.generator,
            )
        )
        for number, indices in enumerate(order, start=1):
            batch = trajectories.minibatch(indices.to(self.device))
            if self.normalize_advantages == "minibatch":
                batch = replace(batch, advantages=normalized_over_ranks(batch.advantages))
            if number == len(order):
                del trajectories  # Lightning asks for no more, and would hold the rollout while the next is collected
            yield batch

    @torch.no_grad()
    def trajectories(self, rollout: Rollout, memory: dict[str, Tensor]) -> DistilledTrajectories:
        """The rollout with its reward streams, advantages and returns; `memory` carries the intrinsic filter."""
        extrinsic = rollout.rewards
        rewards, discounts = [extrinsic], [discounts_from(rollout.terminated, self.gamma)]
        weights, student_outputs = [1.0], None
        if self.distillation is not None:
            self.normalizer.update(rollout.obs[1:].flatten(0, 1), collectives.all_reduce_sum)
            intrinsic, student_outputs = self.intrinsic_rewards(rollout.obs[1:], memory)
            rewards.append(intrinsic)
            discounts.append(self._intrinsic_discounts(rollout.terminated))
            weights = [self.distillation.extrinsic_weight, self.distillation.intrinsic_weight]
        with self.precision():
            last_values = self.network(rollout.obs[-1]).values
        trajectories = DistilledTrajectories.from_rollout(
            rollout,
            rewards=torch.stack(rewards, dim=-1),
            discounts=torch.stack(discounts, dim=-1),
            last_values=last_values,
            weights=weights,
            lambda_=self.lambda_,
            student_outputs=student_outputs,
        )
        if self.normalize_advantages == "rollout":
            return replace(trajectories, advantages=normalized_over_ranks(trajectories.advantages))
        return trajectories

    def _intrinsic_discounts(self, terminated: Bool[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        assert self.distillation is not None
        return discounts_from(terminated & self.distillation.episodic, self.distillation.gamma)

    def intrinsic_rewards(
        self, next_obs: UInt8[Tensor, "T B H W C"], memory: dict[str, Tensor]
    ) -> tuple[Float32[Tensor, "T B"], Float32[Tensor, "T B D"]]:
        """The teacher's error on the frames that the actions led to, as a reward; and the student's outputs there.

        Where an episode ended the frame is the first of the next one: Procgen never shows the last.
        """
        assert self.distillation is not None
        shape = next_obs.shape[:2]
        teacher, student = self._compared(next_obs.flatten(0, 1))
        teacher, student = teacher.unflatten(0, shape), student.unflatten(0, shape)
        if self.distillation.normalization == "scale":
            error = absolute_prediction_error(teacher, student) * self.distillation.scale
            return error.clamp(max=self.distillation.max_reward), student
        return self._divided_by_running_std(prediction_error(teacher, student), memory), student

    def _compared(self, obs: UInt8[Tensor, "N H W C"]) -> tuple[Tensor, ...]:
        def outputs(part: Tensor) -> tuple[Tensor, ...]:
            images = self.normalizer(part)
            return self.teacher(images), self.student(images)

        return self.map_in_chunks(outputs, obs, size=256)  # bounds the memory that activations take

    def _divided_by_running_std(
        self, errors: Float32[Tensor, "T B"], memory: dict[str, Tensor]
    ) -> Float32[Tensor, "T B"]:
        """Random network distillation's scaling: the filter runs over time, per environment, through episode ends."""
        assert self.distillation is not None
        start = memory.get("intrinsic_sums", torch.zeros(errors.shape[1])).to(errors.device)
        sums = forward_discounted_sums(errors, start, self.distillation.gamma)
        memory["intrinsic_sums"] = sums[-1].cpu()
        moments = RunningMoments(*self.intrinsic_moments.tolist()).merged(
            collectives.all_reduce_moments(collectives.moments_of(sums))
        )
        self.intrinsic_moments.copy_(torch.tensor(moments, dtype=torch.float64))
        return errors / math.sqrt(moments.variance)

    def objective(self, batch: PPOBatch, generator: torch.Generator) -> Objective:
        """Means over the samples: surrogate, value and entropy losses; with distillation also the teacher's error."""
        logits, values = self.network(batch.obs, generator)
        losses, metrics = policy_objective(batch, logits, epsilon=self.epsilon)
        losses["value"] = self._value_loss(batch, values, critic=0)
        if batch.next_obs is not None and batch.student_outputs is not None and batch.intrinsic_rewards is not None:
            # on the frames that the rewards were computed on, normalised as they were then
            teacher = self.teacher(self.normalizer(batch.next_obs), generator)
            losses["intrinsic_value"] = self._value_loss(batch, values, critic=1)
            losses["distill"] = prediction_error(teacher, batch.student_outputs).mean()
            metrics["intrinsic/reward"] = batch.intrinsic_rewards.mean()
        return Objective(losses, metrics)

    def _value_loss(self, batch: PPOBatch, values: Float32[Tensor, "N K"], *, critic: int) -> Tensor:
        return value_loss(batch, values, critic=critic, epsilon=self.value_epsilon)
