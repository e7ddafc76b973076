"""SimPLe: a world model learned from real play, and a policy that learns in it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float32
from pytorch_lightning import Trainer
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.collector import Collector
from lightning_rl.envs.imagined import ImaginedVectorEnv, Outcomes
from lightning_rl.errors import check_option
from lightning_rl.modules.adafactor import Adafactor
from lightning_rl.modules.base import Objective, RLModule
from lightning_rl.modules.optimizers import JointOptimizer, adam
from lightning_rl.modules.ppo import PPOBatch, Trajectories, normalized_over_ranks, ppo_objective
from lightning_rl.modules.simple.outer_loop import OuterLoopConfig, Slice
from lightning_rl.modules.simple.simulator import Simulator, forget
from lightning_rl.modules.simple.world_model import (
    COLORS,
    REWARD_CUTOFF,
    WorldModelBatch,
    WorldModelConfig,
    window_losses,
)
from lightning_rl.networks.actor_critic import NETWORKS
from lightning_rl.networks.stacked_linear import StackedLinear
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.protocols import Replay, Source
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.types import Rollout, moved

RECIPE = 2
"""How the world model learns from play; kept in checkpoints. Those without a number are of recipe 1."""


class SimPLeModule(RLModule):
    """Simulated policy learning (SimPLe): learn a world model from real play, train the policy inside it.

    One run is Algorithm 1, cut into slices; an iteration is a slice: either updates of the world model (the first slice
    of a pass collects real play before them), or imagined rollouts and the policy's updates on them. Slices differ in
    length, so `trainer.reload_dataloaders_every_n_epochs` must be 1, which is the command's default.

    Args:
        num_actions: actions of the environment.
        obs_shape: height, width and channels of its stacks of frames.
        reward_values: the possible rewards of a step, the classes of the world model's reward head.
        world_model: size of the world model, and how it learns.
        outer_loop: how much the world model and the policy learn in each pass.
        network: the policy's: `two_conv` (the paper) or `three_stack` (IMPALA's).
        num_imagined_envs: environments imagined together.
        imagined_length: steps of an imagined rollout; the value at the last one is the bootstrap.
        imagined_outcomes: `likeliest`: each imagined step pays the most likely reward, and the episode ends if that is
            more likely than not (the paper). `expected`: it pays the expected reward, and the episode ends at random,
            for uncertain games; then nothing is forgiven to the rewards' probabilities, which are paid at every step.
        learn_from_real: let the policy also learn from each collected rollout, as the published code does.
        gamma: γ, discount per env step.
        lambda_: λ of generalised advantage estimation.
        epsilon: ε, clip of the probability ratio.
        epochs: passes over a rollout.
        minibatch_size: samples of one update, a multiple of the environments; steps left over are not learned from.
        value_weight: factor on the value loss, which is ½ · error² here and error² in the published code.
        entropy_weight: factor on the entropy bonus.
        learning_rate: Adam's learning rate for the policy.
        max_grad_norm: bound on the norm of the policy's gradient.
        micro_batches: cut minibatches into cache-sized parts (CPU); null computes a minibatch at once (GPU).
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.
        captured_acting: collect by a step that is captured once, on a GPU as a CUDA graph.

    Raises:
        ValueError: a value outside its range.

    Reference:
        Kaiser et al. 2020, Model-based reinforcement learning for Atari, https://arxiv.org/abs/1903.00374;
        tensor2tensor, rl/trainer_model_based.py, rl/ppo_learner.py, models/research/rl.py `ppo_original_params`
    """

    uses_replay = True
    reward_values: Tensor
    pass_index: Tensor
    slice_index: Tensor
    world_model_updates: Tensor
    imagined_steps: Tensor
    _updates: int | None = None  # of the world model, as the CPU counts them while a slice runs

    def __init__(
        self,
        *,
        num_actions: int = 15,
        obs_shape: tuple[int, int, int] = (64, 64, 12),
        reward_values: Sequence[float] | None = (-1.0, 0.0, 1.0),
        world_model: WorldModelConfig = WorldModelConfig(),  # noqa: B008  # frozen
        outer_loop: OuterLoopConfig = OuterLoopConfig(),  # noqa: B008  # frozen
        network: Literal["two_conv", "three_stack"] = "two_conv",
        num_imagined_envs: int = 16,
        imagined_length: int = 50,
        imagined_outcomes: Outcomes = "likeliest",
        learn_from_real: bool = False,
        gamma: float = 0.99,
        lambda_: float = 0.95,
        epsilon: float = 0.1,
        epochs: int = 3,
        minibatch_size: int = 320,
        value_weight: float = 2.0,
        entropy_weight: float = 0.01,
        learning_rate: float = 1e-4,
        max_grad_norm: float = 0.5,
        micro_batches: MicroBatchConfig | None = None,
        greedy: bool = False,
        captured_acting: bool = False,
    ) -> None:
        super().__init__(
            micro_batches=micro_batches, max_grad_norm=max_grad_norm, greedy=greedy, captured_acting=captured_acting
        )
        for name, share in (("gamma", gamma), ("lambda_", lambda_)):
            check_option(f"model.{name}", share, 0 <= share <= 1, "in [0, 1]")
        for name, size in (("epsilon", epsilon), ("learning_rate", learning_rate), ("max_grad_norm", max_grad_norm)):
            check_option(f"model.{name}", size, size > 0, "positive")
        least = {"epochs": 1, "num_imagined_envs": 1, "imagined_length": 2}
        for name, number in zip(least, (epochs, num_imagined_envs, imagined_length), strict=True):
            check_option(f"model.{name}", number, number >= least[name], f"at least {least[name]}")
        if reward_values is None or 0.0 not in reward_values:
            raise ValueError(
                "model.reward_values must be the few rewards that a step can give, 0 among them, found"
                f" {reward_values}; give --data.return_scaling false (Procgen) or --data.reward_clipping true (Atari)"
            )
        self.options = world_model
        self.outer_loop = outer_loop
        self.num_actions = num_actions
        self.num_frames = obs_shape[-1] // COLORS
        self.num_imagined_envs = num_imagined_envs
        self.imagined_length = imagined_length
        self.imagined_outcomes = imagined_outcomes
        default_cutoff = 0.0 if imagined_outcomes == "expected" else REWARD_CUTOFF
        self.reward_cutoff = default_cutoff if world_model.reward_cutoff is None else world_model.reward_cutoff
        self.learn_from_real = learn_from_real
        self.gamma = gamma
        self.lambda_ = lambda_
        self.epsilon = epsilon
        self.epochs = epochs
        self.minibatch_size = minibatch_size
        self._updates_per_rollout(imagined_length - 1, num_imagined_envs)  # refuses a size that does not fit
        self.learning_rate = learning_rate
        self.network = NETWORKS[network](obs_shape, num_actions, 1)
        self.world_model = world_model.build(obs_shape, num_actions, num_rewards=len(reward_values))
        self.loss_weights = {"policy": 1.0, "value": value_weight, "entropy": entropy_weight}
        self.register_buffer("reward_values", torch.tensor(list(reward_values), dtype=torch.float32))
        self._imagined_rewards: list[Tensor] = []  # of the rollouts of this slice
        for counter in ("pass_index", "slice_index", "world_model_updates", "imagined_steps"):
            self.register_buffer(counter, torch.tensor(0))

    @classmethod
    def method(cls, init_args: dict[str, Any]) -> str:  # noqa: ARG003  # the same for all
        """`simple`."""
        return "simple"

    def setup(self, stage: str) -> None:
        """See `RLModule`.

        Raises:
            ValueError: this could not learn as it is meant to; see `check_trainer`.
        """
        super().setup(stage)
        if stage == "fit":
            self.check_trainer(self.trainer)

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuses a Trainer that would not reload or count on the length of each slice, and a cutoff paid for.

        A cutoff under expected rewards is refused here and not on construction, so that policies that learned with one
        can still be judged.

        Raises:
            ValueError: names the option.
        """
        honest = self.imagined_outcomes == "likeliest" or self.reward_cutoff == 0
        allowed = "0 with model.imagined_outcomes expected, which pays for the probability that a cutoff forgives"
        check_option("model.world_model.reward_cutoff", self.reward_cutoff, honest, allowed)
        found = cast(Any, trainer).reload_dataloaders_every_n_epochs  # set by a connector
        if found != 1:
            raise ValueError(
                f"trainer.reload_dataloaders_every_n_epochs must be 1 for SimPLeModule, whose iterations differ in"
                f" length, found {found}"
            )
        every = getattr(trainer, "val_check_interval", None)  # there is none where it is a duration
        if isinstance(every, int) and trainer.check_val_every_n_epoch is not None:
            raise ValueError(
                "trainer.val_check_interval must be a share of an epoch for SimPLeModule, whose iterations differ in"
                f" length, found {every}; with trainer.check_val_every_n_epoch null it may be a number of batches"
            )

    def network_config(self) -> NetworkConfig:
        """See `RLModule`."""
        return NetworkConfig(name=self.hparams["network"])

    def check_continuation(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Refuses a world model that learned by another recipe, which would not be the same model afterwards.

        A model without latent and recurrent state that learns with Adam goes on: nothing of it has changed.

        Raises:
            ValueError: says what has changed.
        """
        names = self.options.changed_since_recipe_1
        found = checkpoint[METADATA].get("recipe", 1)
        if names and found != RECIPE:
            raise ValueError(
                f"ckpt_path: the world model of {path} learned by recipe {found}, this version's by {RECIPE}, which"
                f" differs in {', '.join(names)}; train anew, or go on with its policy alone by --policy_from"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says in the file by which recipe the world model learned, too."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[METADATA]["recipe"] = RECIPE

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adafactor (or Adam) for the world model and Adam for the policy, joined in one optimizer."""
        options = self.options
        model: list[dict[str, Any]] = [
            {"params": list(self.world_model.parameters()), "max_grad_norm": options.max_grad_norm}
        ]
        policy: list[dict[str, Any]] = [{"params": list(self.network.parameters())}]
        optimizer: torch.optim.Optimizer
        if options.optimizer == "adam":
            optimizer = adam(model, lr=options.learning_rate)
        else:
            stacks = [layer for layer in self.world_model.modules() if isinstance(layer, StackedLinear)]
            stacked: dict[Tensor, int] = {
                parameter: layer.count for layer in stacks for parameter in layer.parameters()
            }
            optimizer = Adafactor(model, lr=options.learning_rate, stacked=stacked)
        return JointOptimizer([optimizer, adam(policy, lr=self.learning_rate, betas=(0.85, 0.997), eps=1e-6)])

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Warms up the world model's learning rate over its own updates."""
        updates = int(self.world_model_updates) if self._updates is None else self._updates
        share = min(1.0, updates / self.options.warm_up)
        optimizer.param_groups[0]["lr"] = self.options.learning_rate * share

    @property
    def slice(self) -> Slice:
        """The slice that the next iteration runs."""
        return self._slices()[int(self.slice_index)]

    def _slices(self) -> list[Slice]:
        return self.outer_loop.slices(int(self.pass_index), self.num_imagined_envs * self.imagined_length)

    @property
    def world_model_is_trained(self) -> bool:
        """Whether the world model has just finished learning in this pass."""
        slices, index = self._slices(), int(self.slice_index)
        return slices[index].phase == "policy" and slices[index - 1].phase == "world model"

    @property
    def validation_is_due(self) -> bool:
        """After the last slice of each pass, when `_advance` has begun to count anew."""
        return int(self.slice_index) == 0

    def _advance(self) -> None:
        """Counts the slice as done when it starts, because no code runs after the last batch of an epoch."""
        slices = self._slices()
        index = int(self.slice_index)
        self.phase = f"pass {int(self.pass_index) + 1}: {slices[index].phase} {100 * index // len(slices)}%"
        self.slice_index.add_(1)
        if index + 1 == len(slices):
            self.slice_index.zero_()
            self.pass_index.add_(1)

    def _updates_per_rollout(self, num_steps: int, num_envs: int) -> int:
        steps, rest = divmod(self.minibatch_size, num_envs)
        most = self.epochs * num_steps
        valid = rest == 0 and 1 <= steps <= most
        allowed = f"a multiple of {num_envs} environments, from {num_envs} to {num_envs * most}"
        check_option("model.minibatch_size", self.minibatch_size, valid, allowed)
        return most // steps

    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Batches of the next slice: updates of the world model, or minibatches of imagined rollouts."""
        size = self.slice.size
        if self.slice.phase == "policy":
            return size * self._updates_per_rollout(self.imagined_length - 1, self.num_imagined_envs)
        if not self.learn_from_real:
            return size
        real = self._updates_per_rollout(num_steps, num_envs)
        return real + size if self.slice.collects else size

    def batches(self, source: Source) -> Iterator[WorldModelBatch | PPOBatch]:
        """One slice of Algorithm 1."""
        if source.replay is None:
            raise RuntimeError("SimPLeModule learns from a replay buffer, and its source has none")
        now = self.slice
        self._advance()
        self._updates = int(self.world_model_updates)
        if now.collects:
            rollout = source.collect(self)
            source.replay.append(rollout.to(torch.device("cpu")))
            if self.learn_from_real:
                last_values = self.act(rollout.obs[-1].cpu().numpy(), source.generator).values
                yield from self._minibatches(rollout.to(self.device), last_values.to(self.device), source.generator)
        if now.phase == "world model":
            yield from self._real_windows(source.replay, source.generator, now.size)
        else:
            yield from self._imagined_minibatches(source.replay, source.generator, now.size)

    def _real_windows(self, replay: Replay, generator: torch.Generator, number: int) -> Iterator[WorldModelBatch]:
        first = int(self.world_model_updates) + 1
        for update in range(first, first + number):
            windows = replay.sample(self.options.batch_size, num_targets=self.options.num_targets, generator=generator)
            self.world_model_updates.add_(1)
            self._updates = update
            yield WorldModelBatch(windows=windows.to(self.device), update=update)

    def _imagined_minibatches(self, replay: Replay, generator: torch.Generator, number: int) -> Iterator[PPOBatch]:
        self._imagined_rewards = []
        for _ in range(number):
            rollout = self.imagined_rollout(replay, generator)
            self.imagined_steps.add_(rollout.actions.numel())
            self._imagined_rewards.append(rollout.rewards.mean())
            kept = rollout.first(self.imagined_length - 1)  # the last step's value is the bootstrap
            last_values = rollout.behavior_values[-1]
            yield from self._minibatches(kept.to(self.device), last_values.to(self.device), generator)

    def simulator(self) -> Simulator:
        """The current world model as an environment that can be stepped."""
        options: dict[str, Any] = {"micro_batches": self.micro_batches, "precision": self.precision}
        return Simulator(self.world_model, self.reward_values, is_captured=self.is_captured, **options)

    def teardown(self, stage: str) -> None:
        """Frees what was captured."""
        super().teardown(stage)
        forget(self.world_model)

    def imagined_rollout(self, replay: Replay, generator: torch.Generator) -> Rollout:
        """A rollout of the policy in the world model, starting from real frames of the newest real rollout."""
        device = self.device if self.is_captured else torch.device("cpu")  # where frames wait for the policy
        env = ImaginedVectorEnv(
            self.simulator(),
            lambda number, stream: moved(replay.starts(number, generator=stream), device),
            num_envs=self.num_imagined_envs,
            num_actions=self.num_actions,
            generator=generator,
            outcomes=self.imagined_outcomes,
        )
        collector = Collector(env, num_steps=self.imagined_length, seed=generator)
        return collector.collect(self)

    def _minibatches(
        self, rollout: Rollout, last_values: Float32[Tensor, "B 1"], generator: torch.Generator
    ) -> Iterator[PPOBatch]:
        """Minibatches of whole time steps (all environments of a step together) in random order, `epochs` times."""
        trajectories = self.trajectories(rollout, last_values)
        num_steps, num_envs = rollout.actions.shape
        order = torch.cat([torch.randperm(num_steps, generator=generator) for _ in range(self.epochs)])
        order, environments = moved(order, self.device), torch.arange(num_envs, device=self.device)
        for steps in order.split(self.minibatch_size // num_envs)[: self._updates_per_rollout(num_steps, num_envs)]:
            indices = (steps[:, None] * num_envs + environments).flatten()
            yield trajectories.minibatch(indices)

    @torch.no_grad()
    def trajectories(self, rollout: Rollout, last_values: Float32[Tensor, "B 1"]) -> Trajectories:
        """The rollout with returns and advantages, which are normalized over the whole rollout."""
        trajectories = Trajectories.from_rollout(
            rollout, gamma=self.gamma, lambda_=self.lambda_, last_values=last_values[:, 0]
        )
        return replace(trajectories, advantages=normalized_over_ranks(trajectories.advantages))

    def on_train_epoch_end(self) -> None:
        """Logs imagined steps, their mean reward, and updates of the world model."""
        super().on_train_epoch_end()
        self.log_dict(
            {"imagined_steps": self.imagined_steps.double(), "world_model/updates": self.world_model_updates.double()}
        )
        if self._imagined_rewards:
            rewards = torch.stack(self._imagined_rewards).tolist()
            self.log("imagined/reward", sum(rewards) / len(rewards), sync_dist=True)
            self._imagined_rewards = []

    def weights(self, batch: WorldModelBatch | PPOBatch) -> dict[str, float]:
        """Loss weights of the network that the batch is for."""
        return self.options.loss_weights if isinstance(batch, WorldModelBatch) else self.loss_weights

    def objective(self, batch: WorldModelBatch | PPOBatch, generator: torch.Generator) -> Objective:
        """The world model's losses on windows of real play, or the policy's on samples of imagined play."""
        if isinstance(batch, WorldModelBatch):
            losses = window_losses(
                self.world_model,
                batch,
                self.options,
                reward_values=self.reward_values,
                reward_cutoff=self.reward_cutoff,
                generator=generator,
            )
            return Objective(losses, {})
        logits, values = self.network(batch.obs)
        return ppo_objective(batch, logits, values[:, 0], epsilon=self.epsilon, value_epsilon=None)
