"""PPO with teacher/student network distillation as exploration."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from lightning_rl.distributed import collectives
from lightning_rl.distributed.running_moments import RunningMoments
from lightning_rl.errors import check_option
from lightning_rl.losses.distillation import absolute_prediction_error, prediction_error
from lightning_rl.losses.returns import discounts_from, forward_discounted_sums, generalized_advantages
from lightning_rl.losses.value import value_loss
from lightning_rl.modules.base import Objective
from lightning_rl.modules.ppo import PPOBatch, PPOModule, Trajectories, ppo_objective
from lightning_rl.networks.actor_critic import DistillationNetwork
from lightning_rl.networks.pixel_normalizer import PixelNormalizer
from lightning_rl.types import Rollout


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """Options of teacher, student and the intrinsic reward computed from their difference.

    Args:
        learning_rate: Adam's learning rate for the teacher.
        adam_epsilon: Adam's ε for the teacher, whose gradients are about 1e-7: with PPO's 1e-5 it would hardly learn.
        num_outputs: size of the output of teacher and student; 1 in the paper, 512 in random network distillation.
        dropout: dropout of the teacher while it learns; rewards are computed without.
        normalization: `scale` multiplies |teacher − student| by `scale` and clips it (the paper); `running_std` divides
            the mean squared error by the running standard deviation of its discounted sum (random network
            distillation).
        scale: factor on the error if `normalization` is `scale`.
        max_reward: bound on the intrinsic reward if `normalization` is `scale`.
        gamma: discount of intrinsic rewards.
        episodic: intrinsic returns end with the episode (the paper); otherwise they run on, as in random network
            distillation.
        extrinsic_weight: factor on the extrinsic advantages.
        intrinsic_weight: factor on the intrinsic advantages.
        update_share: share of each minibatch's samples that the teacher learns from.
        warmup_rollouts: rollouts at the beginning that pay no intrinsic reward and do not count in the running standard
            deviation, while the teacher learns. Its first errors are many times the later ones, and an average over all
            rollouts is slow to forget them.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Rullo 2024, Table 1 and section 3.3; Burda et al. 2018, section 2, https://arxiv.org/abs/1810.12894
    """

    learning_rate: float = 2e-4
    adam_epsilon: float = 1e-8
    num_outputs: int = 1
    dropout: float = 0.5
    normalization: Literal["scale", "running_std"] = "scale"
    scale: float = 100.0
    max_reward: float = 10.0
    gamma: float = 0.999
    episodic: bool = True
    extrinsic_weight: float = 1.0
    intrinsic_weight: float = 1.0
    update_share: float = 1.0
    warmup_rollouts: int = 0

    def __post_init__(self) -> None:
        check_option("model.distillation.learning_rate", self.learning_rate, self.learning_rate > 0, "positive")
        check_option("model.distillation.adam_epsilon", self.adam_epsilon, self.adam_epsilon >= 0, "at least 0")
        check_option("model.distillation.num_outputs", self.num_outputs, self.num_outputs >= 1, "at least 1")
        check_option("model.distillation.dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)")
        check_option("model.distillation.gamma", self.gamma, 0 <= self.gamma <= 1, "in [0, 1]")
        check_option("model.distillation.scale", self.scale, self.scale > 0, "positive")
        check_option("model.distillation.max_reward", self.max_reward, self.max_reward > 0, "positive")
        check_option("model.distillation.update_share", self.update_share, 0 < self.update_share <= 1, "in (0, 1]")
        check_option(
            "model.distillation.warmup_rollouts", self.warmup_rollouts, self.warmup_rollouts >= 0, "at least 0"
        )


@dataclass(frozen=True, kw_only=True)
class DistilledBatch(PPOBatch):
    """`N` samples of a rollout with intrinsic rewards; their advantages are of both reward streams."""

    next_obs: UInt8[Tensor, "N H W C"]
    student_outputs: Float32[Tensor, "N D"]
    intrinsic_rewards: Float32[Tensor, "N"]
    intrinsic_shares: Float32[Tensor, "N"]
    intrinsic_behavior_values: Float32[Tensor, "N"]
    intrinsic_returns: Float32[Tensor, "N"]


@dataclass(frozen=True, kw_only=True)
class DistilledTrajectories(Trajectories):
    """A rollout with two reward streams, the game's and the intrinsic one: the paper's memory.

    The advantages are the weighted sum of both streams' estimates, and each critic regresses to the returns of its own
    stream. (The paper's code sums rewards over environments and lets both critics regress to the sum of both streams.)

    Reference:
        Rullo 2024, section 3.3
    """

    intrinsic_rewards: Float32[Tensor, "T B"]
    intrinsic_shares: Float32[Tensor, "T B"]  # of the advantages
    intrinsic_behavior_values: Float32[Tensor, "T B"]
    intrinsic_returns: Float32[Tensor, "T B"]
    student_outputs: Float32[Tensor, "T B D"]

    def minibatch(self, indices: Int64[Tensor, "N"]) -> DistilledBatch:
        """Samples by their index in time-major order."""
        next_obs = self.obs.flatten(0, 1)[indices + self.obs.shape[1]]  # one time step later, same environment
        return DistilledBatch(**self.samples(indices, DistilledBatch), next_obs=next_obs)


class PPODistillModule(PPOModule):
    """PPO, explored by network distillation.

    A teacher network learns to predict the outputs of a frozen random student network; its error on the frame that an
    action led to is the intrinsic reward. The settings beside `distillation` are those of `PPOModule`;
    `configs/ppo_distill.yaml` has Rullo's Table 1.

    Args:
        distillation: teacher, student and intrinsic reward.
        **ppo: options of `PPOModule`.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Rullo 2024, Procgen-Solving agent using PPO and Distillation network strategy
    """

    num_critics = 2
    normalizer: PixelNormalizer
    intrinsic_moments: Tensor

    def __init__(self, *, distillation: DistillationConfig = DistillationConfig(), **ppo: Any) -> None:
        super().__init__(**ppo)
        self.distillation = distillation
        self.teacher = DistillationNetwork(
            self.obs_shape, num_outputs=distillation.num_outputs, dropout=distillation.dropout
        )
        self.student = DistillationNetwork(self.obs_shape, num_outputs=distillation.num_outputs).requires_grad_(False)
        self.normalizer = PixelNormalizer(self.obs_shape)
        self.register_buffer("intrinsic_moments", torch.tensor(RunningMoments(), dtype=torch.float64))
        self.loss_weights |= {"intrinsic_value": self.value_weight, "distill": 1.0}

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`ppo_distill`."""
        return "ppo_distill"

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for the agent and one for the teacher."""
        own = {"lr": self.distillation.learning_rate, "eps": self.distillation.adam_epsilon}
        return [*super().parameter_groups(), {"params": self.teacher.parameters(), **own}]

    def estimates(self, rollout: Rollout, memory: dict[str, Tensor]) -> DistilledTrajectories:
        """The rollout with both reward streams; `memory` carries the rollouts before it, and the rewards' filter."""
        config = self.distillation
        self.normalizer.update(rollout.obs[1:].flatten(0, 1), collectives.all_reduce_sum)
        rollouts = memory.get("intrinsic_rollouts", torch.zeros(rollout.rewards.shape[1], dtype=torch.int64))
        memory["intrinsic_rollouts"] = rollouts + 1
        counts = int(rollouts.min()) >= config.warmup_rollouts
        rewards, student_outputs = self.intrinsic_rewards(rollout.obs[1:], memory, update=counts)
        rewards = rewards * counts
        last_values = self.last_values(rollout)
        game = Trajectories.from_rollout(rollout, gamma=self.gamma, lambda_=self.lambda_, last_values=last_values[:, 0])
        values = rollout.behavior_values[..., 1]
        advantages = generalized_advantages(
            rewards=rewards,
            discounts=discounts_from(rollout.terminated & config.episodic, config.gamma),
            values=values,
            next_values=torch.cat([values[1:], last_values[None, :, 1]]),
            lambda_=self.lambda_,
        )
        extrinsic, intrinsic = config.extrinsic_weight * game.advantages, config.intrinsic_weight * advantages
        own = {
            "advantages": extrinsic + intrinsic,
            "intrinsic_rewards": rewards,
            "intrinsic_shares": _shares(intrinsic, extrinsic),
            "intrinsic_behavior_values": values,
            "intrinsic_returns": advantages + values,
            "student_outputs": student_outputs,
        }
        return DistilledTrajectories(**(vars(game) | own))

    def intrinsic_rewards(
        self, next_obs: UInt8[Tensor, "T B H W C"], memory: dict[str, Tensor], *, update: bool
    ) -> tuple[Float32[Tensor, "T B"], Float32[Tensor, "T B D"]]:
        """Intrinsic rewards, computed from the teacher's error on each next frame, and the student's outputs.

        Where an episode ended, the next frame is the first of the next episode, because Procgen never shows the last.

        Args:
            next_obs: the frames that the actions led to.
            memory: carries the filter of the errors from rollout to rollout.
            update: count the errors in the running standard deviation, which is of training's.
        """
        shape = next_obs.shape[:2]
        teacher, student = self._outputs(next_obs.flatten(0, 1))
        teacher, student = teacher.unflatten(0, shape), student.unflatten(0, shape)
        if self.distillation.normalization == "scale":
            error = absolute_prediction_error(teacher, student) * self.distillation.scale
            return error.clamp(max=self.distillation.max_reward), student
        return self._divided_by_running_std(prediction_error(teacher, student), memory, update=update), student

    def _outputs(self, obs: UInt8[Tensor, "N H W C"]) -> tuple[Tensor, ...]:
        """Outputs of teacher and student, without dropout and without gradient."""

        def outputs(part: Tensor) -> tuple[Tensor, ...]:
            images = self.normalizer(part)
            return self.teacher(images), self.student(images)

        return self.map_in_chunks(outputs, obs, size=256)  # bounds the memory that activations take

    def _divided_by_running_std(
        self, errors: Float32[Tensor, "T B"], memory: dict[str, Tensor], *, update: bool
    ) -> Float32[Tensor, "T B"]:
        """Errors divided by the running standard deviation of their discounted sum.

        The sum runs over time in each environment and is not reset at episode ends.
        """
        start = memory.get("intrinsic_sums", torch.zeros(errors.shape[1])).to(errors.device)
        sums = forward_discounted_sums(errors, start, self.distillation.gamma)
        memory["intrinsic_sums"] = sums[-1].cpu()
        moments = RunningMoments(*self.intrinsic_moments.tolist())
        if update:
            moments = moments.merged(collectives.all_reduce_moments(collectives.moments_of(sums)))
            self.intrinsic_moments.copy_(torch.tensor(moments, dtype=torch.float64))
        return errors / math.sqrt(moments.variance)

    def objective(self, batch: DistilledBatch, generator: torch.Generator) -> Objective:  # type: ignore[override]  # its own
        """PPO's losses, the intrinsic critic's value loss and the teacher's error; means over the samples."""
        logits, values = self.network(batch.obs, generator)
        losses, metrics = ppo_objective(
            batch, logits, values[:, 0], epsilon=self.epsilon, value_epsilon=self.value_epsilon
        )
        intrinsic = (values[:, 1], batch.intrinsic_behavior_values, batch.intrinsic_returns)
        # the frames that the rewards were computed on, with the same normalization; samples come in random order
        learned = math.ceil(self.distillation.update_share * len(batch))
        teacher = self.teacher(self.normalizer(batch.next_obs[:learned]), generator)
        losses["intrinsic_value"] = value_loss(*intrinsic, epsilon=self.value_epsilon).mean()
        losses["distill"] = prediction_error(teacher, batch.student_outputs[:learned]).mean()
        metrics["intrinsic/reward"] = batch.intrinsic_rewards.mean()
        metrics["intrinsic/share"] = batch.intrinsic_shares.mean()
        return Objective(losses, metrics)


def _shares(intrinsic: Float32[Tensor, "T B"], extrinsic: Float32[Tensor, "T B"]) -> Float32[Tensor, "T B"]:
    """The intrinsic advantage's share of each sample's advantage, by magnitude, each less its mean over the rollout."""
    own, other = ((advantages - advantages.mean()).abs() for advantages in (intrinsic, extrinsic))
    return own / (own + other).clamp_min(torch.finfo(own.dtype).tiny)
