"""A method from outside of lightning_rl: synchronous advantage actor-critic (A2C).

In a package of yours this is `my_lab/a2c.py`, and your `pyproject.toml` has

    [project.entry-points."lightning_rl.plugins"]
    a2c = "my_lab.a2c"
"""

from collections.abc import Iterator
from typing import Any

import torch

from lightning_rl import RLModule
from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.losses.policy import entropy, log_probs_of, policy_gradient_loss
from lightning_rl.losses.value import squared_value_loss
from lightning_rl.modules.base import Objective
from lightning_rl.modules.ppo import PPOBatch, Trajectories
from lightning_rl.networks.actor_critic import NETWORKS
from lightning_rl.protocols import Source


class A2CModule(RLModule):
    """Advantage actor-critic: one update from each rollout.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its frames.
        gamma: γ, discount per env step.
        entropy_weight: factor on the entropy bonus.
        learning_rate: RMSprop's.
        max_grad_norm: bound on the gradient's norm.
        micro_batches: cut rollouts into cache-sized parts (CPU); null computes one at once (GPU).
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.

    Reference:
        Mnih et al. 2016, https://arxiv.org/abs/1602.01783, without the asynchrony
    """

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 3),
        gamma: float = 0.99,
        entropy_weight: float = 0.01,
        learning_rate: float = 7e-4,
        max_grad_norm: float = 0.5,
        micro_batches: MicroBatchConfig | None = None,
        greedy: bool = False,
    ) -> None:
        super().__init__(micro_batches=micro_batches, max_grad_norm=max_grad_norm, greedy=greedy)
        self.gamma = gamma
        self.learning_rate = learning_rate
        self.network = NETWORKS["three_stack"](obs_shape, num_actions, 1)
        self.loss_weights = {"policy": 1.0, "value": 0.5, "entropy": entropy_weight}

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`a2c`."""
        return "a2c"

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """RMSprop."""
        return torch.optim.RMSprop(self.parameters(), lr=self.learning_rate, eps=1e-5)

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """One batch: the rollout."""
        return 1

    def batches(self, source: Source) -> Iterator[PPOBatch]:
        """All samples of one rollout, with returns of as many steps as there are."""
        rollout = source.collect(self).to(self.device)
        with torch.no_grad(), self.precision():
            last_values = self.network(rollout.obs[-1]).values[:, 0]
        trajectories = Trajectories.from_rollout(rollout, gamma=self.gamma, lambda_=1.0, last_values=last_values)
        yield trajectories.minibatch(torch.arange(rollout.actions.numel(), device=self.device))

    def objective(self, batch: PPOBatch, generator: torch.Generator) -> Objective:
        """Policy-gradient and value losses, and the entropy bonus; means over the samples."""
        logits, values = self.network(batch.obs)
        losses = {
            "policy": policy_gradient_loss(log_probs_of(batch.actions, logits), batch.advantages).mean(),
            "value": squared_value_loss(values[:, 0], batch.returns).mean(),
            "entropy": -entropy(logits).mean(),
        }
        return Objective(losses, {"policy/entropy": -losses["entropy"].detach()})
