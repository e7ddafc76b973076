"""Proximal policy optimization: the method, what it learns from, and its losses."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from jaxtyping import Float32, Int64, UInt8
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.minibatches import num_minibatches, shuffled
from lightning_rl.distributed import collectives
from lightning_rl.errors import check_option
from lightning_rl.losses.policy import approx_kl, clip_fraction, clipped_surrogate_loss, entropy, log_probs_of
from lightning_rl.losses.returns import discounts_from, generalized_advantages, normalized
from lightning_rl.losses.value import value_loss
from lightning_rl.modules.base import Objective, RLModule
from lightning_rl.networks.actor_critic import NETWORKS
from lightning_rl.networks.impala_cnn import CNNShape, Pooling
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.protocols import Source
from lightning_rl.types import Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class PPOBatch(TensorFields):
    """`N` samples of a rollout, in random order."""

    obs: UInt8[Tensor, "N H W C"]
    actions: Int64[Tensor, "N"]
    behavior_log_probs: Float32[Tensor, "N"]
    behavior_values: Float32[Tensor, "N"]
    advantages: Float32[Tensor, "N"]
    returns: Float32[Tensor, "N"]

    def __len__(self) -> int:
        return len(self.actions)

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["PPOBatch"]:
        """The same samples in consecutive parts, without copying."""
        return [self._rows(part) for part in micro_batches.even_parts(len(self))]

    def _rows(self, rows: slice) -> "PPOBatch":
        return self.map_tensors(lambda tensor: tensor[rows])


@dataclass(frozen=True, kw_only=True)
class Trajectories(TensorFields):
    """A rollout of `T` steps in `B` environments with advantages and returns."""

    actions: Int64[Tensor, "T B"]
    behavior_log_probs: Float32[Tensor, "T B"]
    behavior_values: Float32[Tensor, "T B"]
    advantages: Float32[Tensor, "T B"]
    returns: Float32[Tensor, "T B"]  # what the critic regresses to
    obs: UInt8[Tensor, "T+1 B H W C"]

    @classmethod
    def from_rollout(
        cls, rollout: Rollout, *, gamma: float, lambda_: float, last_values: Float32[Tensor, "B"]
    ) -> "Trajectories":
        """Generalized advantage estimates A, and returns A + V, of the first critic.

        Args:
            rollout: as collected.
            gamma: γ.
            lambda_: λ.
            last_values: the critic's values of `rollout.obs[T]`.
        """
        values = rollout.behavior_values[..., 0]
        advantages = generalized_advantages(
            rewards=rollout.rewards,
            discounts=discounts_from(rollout.terminated, gamma),
            values=values,
            next_values=torch.cat([values[1:], last_values[None]]),
            lambda_=lambda_,
        )
        return cls(
            obs=rollout.obs,
            actions=rollout.actions,
            behavior_log_probs=log_probs_of(rollout.actions, rollout.behavior_logits),
            behavior_values=values,
            advantages=advantages,
            returns=advantages + values,
        )

    def minibatch(self, indices: Int64[Tensor, "N"]) -> PPOBatch:
        """Samples by their index in time-major order."""
        return PPOBatch(**self.samples(indices, PPOBatch))

    def samples(self, indices: Int64[Tensor, "N"], batch: type[PPOBatch]) -> dict[str, Tensor]:
        """Samples of the fields that the trajectories share with a type of batch."""
        names = {field.name for field in fields(self)} & {field.name for field in fields(batch)}
        return {name: getattr(self, name).flatten(0, 1)[indices] for name in names}


class PPOModule(RLModule):
    """Proximal policy optimization with the settings that OpenAI published for Procgen.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        network: `three_stack`, OpenAI's IMPALA CNN (16, 32, 32) with linear heads; `two_stack`, Rullo's; `two_conv`,
            SimPLe's.
        pooling: what follows the CNN: `flatten` keeps every position (published), `average` takes the mean over
            positions, with a sixth of the weights (Impoola).
        pooling_size: with `average`, rows and columns of parts that are averaged separately.
        width: factor on the channels of the CNN.
        channels: output channels of each stack of the network `three_stack`, at width 1; null for 16, 32 and 32.
        hidden: outputs of its dense layer; null for 256.
        dropout: probability of dropping a feature that the critics see while learning; none is dropped for the policy.
        gamma: γ, discount per env step.
        lambda_: λ of generalized advantage estimation.
        epsilon: ε, clip of the probability ratio.
        value_epsilon: clip of the values' change, in units of the scaled rewards; null for none.
        epochs: passes over a rollout.
        minibatch_size: samples of one optimizer step on each rank; must divide num_steps × num_envs.
        normalize_advantages: over each `minibatch` (OpenAI) or over the whole `rollout` (Rullo, eq. 10), of all ranks.
        value_weight: factor on each critic's loss.
        entropy_weight: factor on the entropy bonus.
        learning_rate: Adam's, for policy and critics.
        adam_epsilon: Adam's ε.
        max_grad_norm: bound on the norm of the gradient of each parameter group.
        micro_batches: cut minibatches into cache-sized parts (CPU); null computes a minibatch at once (GPU).
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.
        captured_acting: collect by a step that is captured once, on a GPU as a CUDA graph.
        optimizer: class of another optimizer than Adam, with its own options; its rates are those named here.
        scheduler: class of a learning-rate schedule, with its own options; it steps at boundaries. Null for none.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Schulman et al. 2017, https://arxiv.org/abs/1707.06347; Cobbe et al. 2020, https://arxiv.org/abs/1912.01588 and
        openai/train-procgen, train_procgen/train.py
    """

    num_critics = 1

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        network: Literal["three_stack", "two_stack", "two_conv"] = "three_stack",
        pooling: Pooling = "flatten",
        pooling_size: int = 1,
        width: int = 1,
        channels: tuple[int, ...] | None = None,
        hidden: int | None = None,
        dropout: float = 0.0,
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
        captured_acting: bool = False,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__(
            micro_batches=micro_batches,
            max_grad_norm=max_grad_norm,
            greedy=greedy,
            captured_acting=captured_acting,
            optimizer=optimizer,
            scheduler=scheduler,
        )
        check_option("model.gamma", gamma, 0 <= gamma <= 1, "in [0, 1]")
        check_option("model.lambda_", lambda_, 0 <= lambda_ <= 1, "in [0, 1]")
        check_option("model.epsilon", epsilon, epsilon > 0, "positive")
        clips = value_epsilon is None or value_epsilon > 0
        check_option("model.value_epsilon", value_epsilon, clips, "positive or null")
        check_option("model.dropout", dropout, 0 <= dropout < 1, "in [0, 1)")
        check_option("model.epochs", epochs, epochs >= 1, "at least 1")
        check_option("model.learning_rate", learning_rate, learning_rate > 0, "positive")
        check_option("model.max_grad_norm", max_grad_norm, max_grad_norm > 0, "positive")
        check_option("model.adam_epsilon", adam_epsilon, adam_epsilon >= 0, "at least 0")
        self.num_actions = num_actions
        self.obs_shape = obs_shape
        self.pooling = pooling
        self.pooling_size = pooling_size
        self.width, self.channels, self.hidden = width, channels, hidden
        self.gamma = gamma
        self.lambda_ = lambda_
        self.epsilon = epsilon
        self.value_epsilon = value_epsilon
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self.normalize_advantages = normalize_advantages
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight
        self.learning_rate = learning_rate
        self.adam_epsilon = adam_epsilon
        shape = CNNShape(pooling=pooling, pooling_size=pooling_size, width=width, channels=channels, hidden=hidden)
        self.network = self.built_network(network, shape, dropout=dropout)
        self.loss_weights = {"policy": 1.0, "value": value_weight, "entropy": entropy_weight}

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`ppo`."""
        return "ppo"

    def built_network(self, name: str, shape: CNNShape, *, dropout: float) -> nn.Module:
        """The acting network; a method may build one that is not among these."""
        return NETWORKS[name](self.obs_shape, self.num_actions, self.num_critics, dropout=dropout, shape=shape)

    def network_config(self) -> NetworkConfig:
        """See `RLModule`."""
        if self.hparams.get("network") not in NETWORKS:
            raise ValueError(f"model: {type(self).__name__} cannot be exported: it defines no network_config")
        return NetworkConfig(
            name=self.hparams["network"],
            num_critics=self.num_critics,
            width=self.width,
            pooling=self.pooling,
            pooling_size=self.pooling_size,
            channels=None if self.channels is None else list(self.channels),
            hidden=self.hidden,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for policy and critics."""
        return [{"params": self.network.parameters(), "lr": self.learning_rate, "eps": self.adam_epsilon}]

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Epochs times minibatches of a rollout."""
        return self.epochs * num_minibatches(num_steps * num_envs, self.minibatch_size)

    def batches(self, source: Source) -> Iterator[PPOBatch]:
        """One rollout, its advantages and returns, then shuffled minibatches of it."""
        rollout = source.collect(self).to(self.device)
        return self.minibatches(self.trajectories(rollout, source.memory), source.generator)

    def minibatches(self, trajectories: Trajectories, generator: torch.Generator) -> Iterator[PPOBatch]:
        """Shuffled minibatches, each sample once in each pass."""
        passes: dict[str, Any] = {"epochs": self.epochs, "minibatch_size": self.minibatch_size}
        order = list(shuffled(trajectories.actions.numel(), generator=generator, device=self.device, **passes))
        for number, indices in enumerate(order, start=1):
            batch = trajectories.minibatch(indices)
            if self.normalize_advantages == "minibatch":
                batch = replace(batch, advantages=normalized_over_ranks(batch.advantages))
            if number == len(order):
                del trajectories  # or this generator would keep the rollout in memory while the next one is collected
            yield batch

    @torch.no_grad()
    def trajectories(self, rollout: Rollout, memory: dict[str, Tensor]) -> Trajectories:
        """The rollout with advantages and returns; the advantages are normalized if that is done over rollouts.

        Args:
            rollout: on the module's device.
            memory: state that a method carries from rollout to rollout.
        """
        trajectories = self.estimates(rollout, memory)
        if self.normalize_advantages == "rollout":
            return replace(trajectories, advantages=normalized_over_ranks(trajectories.advantages))
        return trajectories

    def estimates(self, rollout: Rollout, memory: dict[str, Tensor]) -> Trajectories:
        """The rollout with unnormalized advantages and returns."""
        last_values = self.last_values(rollout)[:, 0]
        return Trajectories.from_rollout(rollout, gamma=self.gamma, lambda_=self.lambda_, last_values=last_values)

    def last_values(self, rollout: Rollout) -> Float32[Tensor, "B K"]:
        """Values of the frames that follow the rollout, one for each of K critics."""
        with self.precision():
            values: Tensor = self.network(rollout.obs[-1]).values
        return values

    def objective(self, batch: PPOBatch, generator: torch.Generator) -> Objective:
        """Clipped surrogate, value loss and entropy bonus; means over the samples."""
        logits, values = self.network(batch.obs, generator)
        return ppo_objective(batch, logits, values[:, 0], epsilon=self.epsilon, value_epsilon=self.value_epsilon)


def normalized_over_ranks(advantages: Float32[Tensor, "*shape"]) -> Float32[Tensor, "*shape"]:
    """Advantages normalized over all ranks; a collective call."""
    if collectives.world_size() == 1:
        return normalized(advantages)
    return normalized(advantages, collectives.all_reduce_moments(collectives.moments_of(advantages)))


def ppo_objective(
    batch: PPOBatch,
    logits: Float32[Tensor, "N A"],
    values: Float32[Tensor, "N"],
    *,
    epsilon: float,
    value_epsilon: float | None,
) -> Objective:
    """PPO's losses, and metrics of how far the policy has moved from the one that acted.

    Args:
        batch: samples of a rollout.
        logits: of the current policy.
        values: of the current critic.
        epsilon: ε, clip of the probability ratio.
        value_epsilon: clip of the values' change; None for none.
    """
    log_probs = log_probs_of(batch.actions, logits)
    entropies = entropy(logits)
    ratios = {"log_probs": log_probs, "behavior_log_probs": batch.behavior_log_probs}
    surrogate = clipped_surrogate_loss(**ratios, advantages=batch.advantages, epsilon=epsilon)
    losses = {
        "policy": surrogate.mean(),
        "entropy": -entropies.mean(),
        "value": value_loss(values, batch.behavior_values, batch.returns, epsilon=value_epsilon).mean(),
    }
    metrics = {
        "policy/entropy": entropies.detach().mean(),
        "policy/approx_kl": approx_kl(**ratios).mean(),
        "policy/clip_fraction": clip_fraction(**ratios, epsilon=epsilon).mean(),
    }
    return Objective(losses, metrics)
