"""What proximal policy optimisation learns from, and its losses: for every method whose policy learns by it."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float32, Int64, UInt8
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.distributed import collectives
from lightning_rl.losses.policy import approx_kl, clip_fraction, clipped_surrogate_loss, entropy, log_probs_of
from lightning_rl.losses.returns import generalized_advantages, normalized
from lightning_rl.losses.value import clipped_value_loss, squared_value_loss
from lightning_rl.modules.base import Objective
from lightning_rl.types import Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class PPOBatch(TensorFields):
    """Samples of a rollout in no order. `K` critics, the extrinsic first; the last three only with distillation."""

    obs: UInt8[Tensor, "N H W C"]
    actions: Int64[Tensor, "N"]
    behavior_log_probs: Float32[Tensor, "N"]
    behavior_values: Float32[Tensor, "N K"]
    advantages: Float32[Tensor, "N"]
    returns: Float32[Tensor, "N K"]
    next_obs: UInt8[Tensor, "N H W C"] | None = None
    student_outputs: Float32[Tensor, "N D"] | None = None
    intrinsic_rewards: Float32[Tensor, "N"] | None = None

    def __len__(self) -> int:
        return len(self.actions)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["PPOBatch"]:
        """The same samples in consecutive parts, without copying."""
        size = micro_batches.size
        starts = range(0, len(self), size)
        return [self.map_tensors(lambda tensor, start=start: tensor[start : start + size]) for start in starts]  # type: ignore[misc]


@dataclass(frozen=True, kw_only=True)
class DistilledTrajectories(TensorFields):
    """The paper's memory: a rollout with advantages and, for each critic, the reference values that it regresses to.

    The last dimension `K` of rewards, values and returns is the reward stream: extrinsic, then, with distillation,
    intrinsic. `reward_sums` is their sum over streams. The paper's code summed over environments too and let both
    critics regress to the sum of both streams; here each stream has its own returns.

    Reference:
        Rullo 2024, section 3.3
    """

    actions: Int64[Tensor, "T B"]
    rewards: Float32[Tensor, "T B K"]
    reward_sums: Float32[Tensor, "T B"]
    behavior_log_probs: Float32[Tensor, "T B"]
    behavior_values: Float32[Tensor, "T B K"]
    advantages: Float32[Tensor, "T B"]
    returns: Float32[Tensor, "T B K"]
    obs: UInt8[Tensor, "T+1 B H W C"]
    student_outputs: Float32[Tensor, "T B D"] | None = None

    @classmethod
    def from_rollout(
        cls,
        rollout: Rollout,
        *,
        rewards: Float32[Tensor, "T B K"],
        discounts: Float32[Tensor, "T B K"],
        last_values: Float32[Tensor, "B K"],
        weights: Sequence[float],
        lambda_: float,
        student_outputs: Float32[Tensor, "T B D"] | None = None,
    ) -> "DistilledTrajectories":
        """Advantages Σ_k w_k A_k and returns A_k + V_k from generalised advantages A_k of every stream.

        With weights of one and equal discounts this is the paper's equations 5 to 8 on the sums of rewards and values
        (equation 7 with V_ext + V_int where it prints V_ext + V_ext), because those equations are linear in both.
        """
        values = rollout.behavior_values
        next_values = torch.cat([values[1:], last_values.unsqueeze(0)])
        per_stream = torch.stack(
            [
                generalized_advantages(rewards=r, discounts=d, values=v, next_values=n, lambda_=lambda_)
                for r, d, v, n in zip(
                    rewards.unbind(-1), discounts.unbind(-1), values.unbind(-1), next_values.unbind(-1), strict=True
                )
            ],
            dim=-1,
        )
        return cls(
            obs=rollout.obs,
            actions=rollout.actions,
            rewards=rewards,
            reward_sums=rewards.sum(-1),
            behavior_log_probs=log_probs_of(rollout.actions, rollout.behavior_logits),
            behavior_values=values,
            advantages=(per_stream * per_stream.new_tensor(weights)).sum(-1),
            returns=per_stream + values,
            student_outputs=student_outputs,
        )

    def minibatch(self, indices: Int64[Tensor, "N"]) -> PPOBatch:
        """Samples by their index in time-major order."""
        frames = self.obs.flatten(0, 1)
        flat = {
            field.name: getattr(self, field.name).flatten(0, 1)[indices]
            for field in fields(PPOBatch)
            if field.name not in ("obs", "next_obs", "intrinsic_rewards") and getattr(self, field.name) is not None
        }
        if self.student_outputs is None:
            return PPOBatch(obs=frames[indices], **flat)
        intrinsic_rewards = self.rewards[..., 1].flatten()[indices]
        next_obs = frames[indices + self.obs.shape[1]]  # one time step later, same environment
        return PPOBatch(obs=frames[indices], next_obs=next_obs, intrinsic_rewards=intrinsic_rewards, **flat)


def normalized_over_ranks(advantages: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Advantages as `normalized` gives them, over those of all ranks together; a collective call."""
    if collectives.world_size() == 1:
        return normalized(advantages)
    return normalized(advantages, collectives.all_reduce_moments(collectives.moments_of(advantages)))


def policy_objective(batch: PPOBatch, logits: Float32[Tensor, "N A"], *, epsilon: float) -> Objective:
    """The clipped surrogate and the entropy bonus, and what tells how far the policy has moved.

    Args:
        batch: samples of a rollout.
        logits: of the policy as it is now.
        epsilon: clip of the probability ratio.
    """
    log_probs = log_probs_of(batch.actions, logits)
    entropies = entropy(logits)
    ratios = {"log_probs": log_probs, "behavior_log_probs": batch.behavior_log_probs}
    surrogate = clipped_surrogate_loss(**ratios, advantages=batch.advantages, epsilon=epsilon)
    metrics = {
        "policy/entropy": entropies.detach().mean(),
        "policy/approx_kl": approx_kl(**ratios).mean(),
        "policy/clip_fraction": clip_fraction(**ratios, epsilon=epsilon).mean(),
    }
    return Objective({"policy": surrogate.mean(), "entropy": -entropies.mean()}, metrics)


def value_loss(
    batch: PPOBatch, values: Float32[Tensor, "N K"], *, critic: int = 0, epsilon: float | None = None
) -> Tensor:
    """The mean error of one critic, with its change clipped where `epsilon` is given."""
    targets = batch.returns[:, critic]
    if epsilon is None:
        return squared_value_loss(values[:, critic], targets).mean()
    behavior_values = batch.behavior_values[:, critic]
    return clipped_value_loss(
        values=values[:, critic], behavior_values=behavior_values, targets=targets, epsilon=epsilon
    ).mean()
