"""What every method shares: acting under the trainer's precision, one loss from parts, logging, evaluation."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float32, Int64, UInt8
from numpy.typing import NDArray
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from lightning_rl.cpu.bfloat16 import cpu_has_bf16
from lightning_rl.cpu.micro_batches import MicroBatchConfig, Part, accumulate_gradients, threads
from lightning_rl.modules.optimizers import fused_on
from lightning_rl.protocols import Source
from lightning_rl.runs.lightning_private import attached_trainer, find_unused_parameters
from lightning_rl.types import ActorOutput, Episodes, RecurrentInputs

_STATE_BEFORE = "the newest checkpoint holds the state before it"
VALIDATION_KEYS = {"train_levels": "validation/train_levels_return", "full_distribution": "validation/return"}


@runtime_checkable
class Batch(Protocol):
    """Samples that a loss is the mean of."""

    def __len__(self) -> int: ...

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Batch"]:
        """The same samples in consecutive parts."""


class Objective(NamedTuple):
    """Means over a batch: the losses by name, unweighted, and what else is worth logging by its full key."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


def sample_actions(logits: Float32[Tensor, "B A"], generator: torch.Generator, *, greedy: bool) -> Int64[Tensor, "B"]:
    """The most likely actions, or samples of them that `generator` draws."""
    if greedy:
        return logits.argmax(-1)
    return torch.multinomial(logits.softmax(-1), 1, generator=generator).squeeze(1)


class RLModule(LightningModule, ABC):
    """Base of the methods. Holds networks and optimisers; no environment, no rollout, no random stream of its own.

    A subclass sets `network` and `loss_weights`, `on_policy` to False where it learns from late rollouts too, and
    `uses_replay` to True where it learns from everything that was played; it defines `method`, `batches_per_iteration`,
    `batches` and `objective`.

    Args:
        micro_batches: cut minibatches into cache-sized parts (CPU); null computes a minibatch at once (GPU).
        max_grad_norm: bound on the norm of the gradient of each parameter group of the optimiser.
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.

    Attributes:
        validation_returns: mean return per level set, from the last validation.
        phase: what a person is told of the iteration that runs, for methods that do different things in turns.
    """

    network: nn.Module
    loss_weights: dict[str, float]
    on_policy = True
    uses_replay = False
    phase = ""

    def __init__(self, *, micro_batches: MicroBatchConfig | None, max_grad_norm: float, greedy: bool) -> None:
        super().__init__()
        self.micro_batches = micro_batches
        self.max_grad_norm = max_grad_norm
        self.greedy = greedy
        self.validation_returns: dict[str, float] = {}
        self._autocast: torch.dtype | None = None

    @classmethod
    @abstractmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """The method's name in paths and reports, from the arguments that the module is built with."""

    @abstractmethod
    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """How many batches one call of `batches` yields for rollouts of this size."""

    @abstractmethod
    def batches(self, source: Source) -> Iterator[Batch]:
        """Collects, and yields every batch of one iteration."""

    @abstractmethod
    def objective(self, batch: Any, generator: torch.Generator) -> Objective:
        """Losses and metrics of a batch; all randomness (dropout) comes from `generator`."""

    def act(
        self,
        obs: UInt8[NDArray[Any], "B H W C"],
        generator: torch.Generator,
        *,
        recurrent_inputs: RecurrentInputs | None = None,  # for recurrent networks
        greedy: bool = False,
    ) -> ActorOutput:
        """Runs the network under the trainer's precision, as learning will; samples on the CPU with `generator`."""
        with torch.no_grad(), self.precision():  # Lightning enters autocast around `training_step` only
            outputs = self.network(torch.from_numpy(obs).to(self.device))
        logits, values = (output.cpu() for output in outputs)
        return ActorOutput(actions=sample_actions(logits, generator, greedy=greedy), logits=logits, values=values)

    def map_in_chunks(
        self, function: Callable[[Tensor], tuple[Tensor, ...]], obs: UInt8[Tensor, "N H W C"], *, size: int
    ) -> tuple[Tensor, ...]:
        """`function` of frames, `size` at a time, without gradient; with micro-batches in threads."""

        def outputs(part: Tensor) -> tuple[Tensor, ...]:
            with torch.no_grad(), self.precision():  # both are thread-local
                return function(part)

        parts = obs.split(size)
        spread = map if self.micro_batches is None else threads(self.micro_batches.num_threads).map
        return tuple(torch.cat(column) for column in zip(*spread(outputs, parts), strict=True))

    def setup(self, stage: str) -> None:
        """With micro-batches, operators of this thread use as many cores as its micro-batches do at other times.

        With several ranks, a batch may be about a part of the parameters.
        """
        if self.micro_batches is not None:
            torch.set_num_threads(self.micro_batches.num_threads)
        if (trainer := attached_trainer(self)) is not None:
            # this also keeps DDP from rearranging its buckets after the first step: a resumed run could round sums of
            # three ranks or more otherwise than one that never stopped
            find_unused_parameters(trainer.strategy)

    def check_trainer(self, trainer: Trainer) -> None:
        """Refuses, with a ValueError, a Trainer that the method cannot learn with; by default none."""

    def precision(self) -> AbstractContextManager[Any]:
        """The trainer's autocast; Lightning enters it around `training_step` only, and not in other threads."""
        if (trainer := attached_trainer(self)) is not None:
            return trainer.precision_plugin.forward_context()
        return nullcontext() if self._autocast is None else torch.autocast("cpu", self._autocast)

    def actor(self) -> "RLModule":
        """A copy that acts on the CPU of another process: without the trainer, but with its precision."""
        copy = deepcopy(self).cpu()
        trainer = attached_trainer(self)
        mixed = trainer is not None and trainer.precision == "bf16-mixed"
        copy._autocast = torch.bfloat16 if mixed and cpu_has_bf16() else None
        return copy

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """The weighted sum of the method's losses on one minibatch."""
        parts = [batch] if self.micro_batches is None else batch.split(self.micro_batches)
        shares = [len(part) / len(batch) for part in parts]
        seeds = torch.randint(2**62, (len(parts),)).tolist()
        weights = self.weights(batch)
        jobs = [partial(self._part, *job, weights) for job in zip(parts, shares, seeds, strict=True)]
        if self.micro_batches is None:
            loss, logged = jobs[0]()
        else:
            parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
            loss, logged = accumulate_gradients(jobs, parameters, num_threads=self.micro_batches.num_threads)
        self._require_finite(logged)
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch))
        return loss

    def weights(self, batch: Any) -> dict[str, float]:
        """The factor on each loss of a minibatch."""
        return self.loss_weights

    def _part(self, batch: Batch, share: float, seed: int, weights: dict[str, float]) -> Part:
        with torch.enable_grad(), self.precision():  # both are thread-local
            losses, metrics = self.objective(batch, torch.Generator(self.device).manual_seed(seed))
        if losses.keys() != weights.keys():
            raise RuntimeError(f"losses {sorted(losses)} and their weights {sorted(weights)} do not match")
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        logged = {f"loss/{name}": loss.detach() for name, loss in losses.items()} | metrics
        return Part(total * share, {key: value * share for key, value in logged.items()})

    def _require_finite(self, logged: dict[str, Tensor]) -> None:
        for key, value in logged.items():
            if key.startswith("loss/") and not math.isfinite(value):
                raise FloatingPointError(f"{key} is {float(value)}; {_STATE_BEFORE}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """The optimiser's options are this run's: torch would take the saved ones back, whatever the command says.

        Where a scheduler moves them they are the saved ones. What depends on the device is of the one that trains,
        where the weights are not yet.
        """
        if checkpoint.get("optimizer_states") and not checkpoint.get("lr_schedulers"):
            (saved,) = checkpoint["optimizer_states"]
            optimizer: Any = self.configure_optimizers()
            trainer = attached_trainer(self)
            device = self.device if trainer is None else trainer.strategy.root_device
            for old, new in zip(saved["param_groups"], optimizer.param_groups, strict=True):
                old |= {key: value for key, value in new.items() if key != "params"}
                if "fused" in old:
                    old["fused"] = fused_on(device.type)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # Lightning's signature
    ) -> None:
        """Clips each parameter group by itself, so that one network's gradients never shrink another's step.

        A group's own `max_grad_norm` goes before the module's.
        """
        if gradient_clip_val is not None:
            raise ValueError("trainer.gradient_clip_val must be null: model.max_grad_norm clips each parameter group")
        for group in optimizer.param_groups:
            norm = nn.utils.clip_grad_norm_(group["params"], group.get("max_grad_norm", self.max_grad_norm))
            if not math.isfinite(norm) and not self._skips_infinite_gradients:
                raise FloatingPointError(f"the norm of a gradient is {float(norm)}; {_STATE_BEFORE}")

    @property
    def _skips_infinite_gradients(self) -> bool:
        """Whether steps with such gradients are left out, as float16's scaler does while it looks for its factor."""
        return getattr(self.trainer.precision_plugin, "scaler", None) is not None

    def validation_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> None:
        """Keeps the mean return of one level set."""
        self.validation_returns[VALIDATION_KEYS[episodes.level_set]] = float(episodes.returns.mean())

    def on_validation_epoch_end(self) -> None:
        """Logs the returns; during `fit` they wait for the iteration's one row (`IterationMetrics`)."""
        if self.trainer.state.fn == TrainerFn.VALIDATING:
            self.log_dict(self.validation_returns, sync_dist=True)

    def test_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> None:
        """Episodes are reported by the `EvaluationReport` callback."""

    def predict_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> Episodes:
        """The played episodes themselves."""
        return episodes
