"""IMPALA: V-trace off-policy actor-critic on unrolls, with a recurrent network."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Float32, Int64, UInt8
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.distributed import collectives
from lightning_rl.errors import check_option
from lightning_rl.losses.policy import entropy, log_probs_of, policy_gradient_loss
from lightning_rl.losses.returns import discounts_from
from lightning_rl.losses.value import squared_value_loss
from lightning_rl.losses.vtrace import vtrace
from lightning_rl.modules.base import Batch, Objective, RLModule
from lightning_rl.networks.impala_cnn import CNNShape, Pooling
from lightning_rl.networks.recurrent_actor_critic import RecurrentActorCritic
from lightning_rl.policies.config import RECURRENT, NetworkConfig
from lightning_rl.protocols import Source
from lightning_rl.types import RecurrentInputs, Rollout, TensorFields


@dataclass(frozen=True, kw_only=True)
class Unrolls(TensorFields):
    """A batch of unrolls: `T` steps of `B` environments, and a last frame to bootstrap from. See `Rollout`.

    `rewards` are the clipped rewards that V-trace uses, plus those that a method adds. `env_rewards` are the game's own
    rewards, which the network receives as the previous reward.
    """

    actions: Int64[Tensor, "T B"]
    obs: UInt8[Tensor, "T+1 B H W C"]
    rewards: Float32[Tensor, "T B"]
    env_rewards: Float32[Tensor, "T B"]
    terminated: Bool[Tensor, "T B"]
    behavior_logits: Float32[Tensor, "T B A"]
    recurrent_inputs: RecurrentInputs
    policy_lag: int = 0

    def __len__(self) -> int:
        return self.actions.shape[1]

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Unrolls"]:
        """The unrolls in even parts of at most `size` frames, but at least one unroll each."""
        return [self._columns(part) for part in micro_batches.even_parts(len(self), samples_each=len(self.obs))]

    def _columns(self, columns: slice) -> "Unrolls":
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        tensors: dict[str, Any] = {key: value[:, columns] for key, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **tensors, recurrent_inputs=self.recurrent_inputs.rows(columns))


class ImpalaModule(RLModule):
    """Importance-weighted actor-learner architecture.

    As in the published code, the losses are summed over the batch, not averaged; learning rate and gradient bound are
    meant for such sums. Logged losses are means.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        pooling: what follows the CNN: `flatten` keeps every position (published), `average` takes the mean over
            positions, with about half of the weights (Impoola).
        pooling_size: with `average`, rows and columns of parts that are averaged separately.
        width: factor on the channels of the CNN.
        gamma: γ, discount per env step.
        max_rho: ρ̄ of V-trace; null for none.
        max_c: c̄ of V-trace.
        max_pg_rho: ρ̄ of the policy's gradient; null for none.
        max_abs_reward: bound on the game's rewards while learning; null for none.
        value_weight: factor on the value loss.
        entropy_weight: factor on the entropy bonus.
        learning_rate: Adam's learning rate for policy and value.
        adam_epsilon: Adam's ε for policy and value.
        max_grad_norm: bound on the norm of the gradient of policy and value.
        micro_batches: cut the batch into cache-sized parts (CPU); null computes it at once (GPU).
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.
        captured_acting: collect by a step that is captured once, on a GPU as a CUDA graph.
        optimizer: class of another optimizer than Adam, with its own options; its rates are those named here.
        scheduler: class of a learning-rate schedule, with its own options; it steps at boundaries. Null for none.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Espeholt et al. 2018, IMPALA, https://arxiv.org/abs/1802.01561 and deepmind/scalable_agent; Xu & Kaneko,
        Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark, table A-1
    """

    network: RecurrentActorCritic
    on_policy = False

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        pooling: Pooling = "flatten",
        pooling_size: int = 1,
        width: int = 1,
        gamma: float = 0.99,
        max_rho: float | None = 1.0,
        max_c: float = 1.0,
        max_pg_rho: float | None = 1.0,
        max_abs_reward: float | None = 1.0,
        value_weight: float = 0.5,
        entropy_weight: float = 0.01,
        learning_rate: float = 1e-5,
        adam_epsilon: float = 1e-8,
        max_grad_norm: float = 100.0,
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
        bounds = {"max_rho": max_rho, "max_c": max_c, "max_pg_rho": max_pg_rho, "max_abs_reward": max_abs_reward}
        for name, bound in bounds.items():
            check_option(f"model.{name}", bound, bound is None or bound > 0, "positive or null")
        for name, value in (("learning_rate", learning_rate), ("max_grad_norm", max_grad_norm)):
            check_option(f"model.{name}", value, value > 0, "positive")
        check_option("model.adam_epsilon", adam_epsilon, adam_epsilon >= 0, "at least 0")
        self.num_actions = num_actions
        self.obs_shape = obs_shape
        self.pooling = pooling
        self.pooling_size = pooling_size
        self.width = width
        self.gamma = gamma
        self.max_rho = max_rho
        self.max_c = max_c
        self.max_pg_rho = max_pg_rho
        self.max_abs_reward = max_abs_reward
        self.value_weight = value_weight
        self.entropy_weight = entropy_weight
        self.learning_rate = learning_rate
        self.adam_epsilon = adam_epsilon
        shape = CNNShape(pooling=pooling, pooling_size=pooling_size, width=width)
        self.network = RecurrentActorCritic(obs_shape, num_actions, latent_size=self.latent_size, shape=shape)
        self.loss_weights = {"policy": 1.0, "value": value_weight, "entropy": entropy_weight}

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`impala`."""
        return "impala"

    @property
    def latent_size(self) -> int:
        """Size of the latent that the network receives beside the frame; 0 without an autoencoder."""
        return 0

    def network_config(self) -> NetworkConfig:
        """See `RLModule`."""
        return NetworkConfig(
            name=RECURRENT,
            latent_size=self.latent_size,
            width=self.width,
            pooling=self.pooling,
            pooling_size=self.pooling_size,
        )

    def parameter_groups(self) -> list[dict[str, Any]]:
        """One for policy and value."""
        return [{"params": self.network.parameters(), "lr": self.learning_rate, "eps": self.adam_epsilon}]

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """One batch: an unroll of each environment."""
        return 1

    def batches(self, source: Source) -> Iterator[Batch]:
        """Yields one unroll of each environment."""
        yield self.unrolls(source.collect(self).to(self.device))

    def unrolls(self, rollout: Rollout) -> Unrolls:
        """The rollout with clipped rewards."""
        rewards = rollout.rewards
        if self.max_abs_reward is not None:
            rewards = rewards.clamp(-self.max_abs_reward, self.max_abs_reward)
        return Unrolls(
            obs=rollout.obs,
            actions=rollout.actions,
            rewards=rewards,
            env_rewards=rollout.rewards if rollout.raw_rewards is None else rollout.raw_rewards,
            terminated=rollout.terminated,
            behavior_logits=rollout.behavior_logits,
            recurrent_inputs=rollout.recurrent_inputs,
            policy_lag=rollout.policy_lag,
        )

    def decide(
        self, frames: UInt8[Tensor, "B H W C"], inputs: RecurrentInputs, noise: Float32[Tensor, "B Z"] | None
    ) -> tuple[Tensor, ...]:
        """One step of the network."""
        told = (inputs.previous_actions, inputs.previous_rewards, inputs.starts, inputs.state)
        return tuple(self.network.step(frames, self.latents(frames, noise), *told))

    def latents(self, frames: UInt8[Tensor, "N H W C"], noise: Float32[Tensor, "N Z"] | None) -> Float[Tensor, "N Z"]:
        """Latents of the frames; of size 0 without an autoencoder."""
        return torch.zeros(len(frames), 0, device=frames.device)

    def weights(self, batch: Any) -> dict[str, float]:
        """Loss weights times the number of transitions of all ranks: means become the published code's sums."""
        num_transitions = batch.actions.numel() * collectives.world_size()
        return {name: weight * num_transitions for name, weight in self.loss_weights.items()}

    def objective(self, batch: Any, generator: torch.Generator) -> Objective:
        """Policy-gradient, value and entropy losses; means over the steps."""
        return self.vtrace_objective(batch, self.latents(batch.obs.flatten(0, 1), None))

    def vtrace_objective(self, batch: Unrolls, latents: Float[Tensor, "N Z"]) -> Objective:
        """Policy gradient with V-trace advantages, regression to V-trace targets, and the entropy bonus.

        Args:
            batch: unrolls.
            latents: of all their frames, in time-major order.
        """
        inputs = batch.recurrent_inputs
        logits, values, _ = self.network(
            batch.obs,
            latents.unflatten(0, batch.obs.shape[:2]),
            torch.cat([inputs.previous_actions[None], batch.actions]),
            torch.cat([inputs.previous_rewards[None], batch.env_rewards]),
            torch.cat([inputs.starts[None], batch.terminated]),
            inputs.state,
        )
        logits = logits[:-1]
        log_probs = log_probs_of(batch.actions, logits)
        log_rhos = log_probs.detach() - log_probs_of(batch.actions, batch.behavior_logits)
        targets, advantages = vtrace(
            rewards=batch.rewards,
            discounts=discounts_from(batch.terminated, self.gamma),
            log_rhos=log_rhos,
            values=values[:-1],
            next_values=values[1:],
            max_rho=self.max_rho,
            max_c=self.max_c,
            max_pg_rho=self.max_pg_rho,
        )
        entropies = entropy(logits)
        losses = {
            "policy": policy_gradient_loss(log_probs, advantages).mean(),
            "value": squared_value_loss(values[:-1], targets).mean(),
            "entropy": -entropies.mean(),
        }
        rhos = log_rhos.exp()
        metrics = {
            "policy/entropy": entropies.detach().mean(),
            "vtrace/rho_mean": rhos.mean(),
            "vtrace/clipped_fraction": (rhos > (self.max_rho or torch.inf)).float().mean(),
            "vtrace/policy_lag": rhos.new_full((), batch.policy_lag),
        }
        return Objective(losses, metrics)
