"""Base class of the methods: acting, the training step, gradient clipping and evaluation."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LRSchedulerCallable, OptimizerCallable
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor

from lightning_rl.cpu.micro_batches import MicroBatchConfig, Part, accumulate_gradients
from lightning_rl.data import deciding
from lightning_rl.distributed import collectives
from lightning_rl.modules.acting import ActingModule
from lightning_rl.modules.finite import Unread
from lightning_rl.modules.hyper_parameters import as_plain, constructor_options, from_plain
from lightning_rl.modules.iteration_metrics import IterationMetrics
from lightning_rl.modules.optimizers import (
    check_factories,
    clip_groups,
    configured,
    fuse,
    partial_of_class,
    take_options,
)
from lightning_rl.modules.trainer_checks import check_trainer_for, tell_lightnings_apart
from lightning_rl.modules.validation import returns_with
from lightning_rl.policies.config import NetworkConfig
from lightning_rl.protocols import Policy, Source
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.boundaries import check_boundary
from lightning_rl.runs.checkpoint_files import METADATA
from lightning_rl.runs.lightning_private import attached_trainer, find_unused_parameters, save_at_epoch_ends
from lightning_rl.runs.random_states import RandomStates
from lightning_rl.types import Episodes


@runtime_checkable
class Batch(Protocol):
    """Samples of one optimizer step; a loss is their mean."""

    def __len__(self) -> int: ...

    def split(self, micro_batches: MicroBatchConfig) -> Sequence["Batch"]:
        """The same samples in consecutive parts."""


class Objective(NamedTuple):
    """Means over a batch: unweighted losses by name, and further metrics by their full key."""

    losses: dict[str, Tensor]
    metrics: dict[str, Tensor]


Module = TypeVar("Module", bound="RLModule")  # not `Self`, which the shape checks of tests cannot resolve


class RLModule(ActingModule, ABC):
    """Base class of the methods. Holds networks and optimizers, but no environment, rollout or random stream.

    A subclass sets `network` and `loss_weights` and defines `method`, `batches_per_iteration`, `batches`, `objective`,
    and `parameter_groups` or `configure_optimizers`. It sets `on_policy` to False if it can learn from rollouts of an
    older policy, and `uses_replay` to True if it learns from a replay buffer; `learns` is False for what can only be
    judged, and `of_learning` names options that a policy no longer needs once it teaches others.

    Args:
        micro_batches: cut minibatches into cache-sized parts (CPU); null computes a minibatch at once (GPU).
        max_grad_norm: bound on the norm of the gradient of each parameter group of the optimizer.
        greedy: take the most likely action in `validate`, `test` and `predict`, instead of sampling.
        captured_acting: collect by a step that is captured once, on a GPU as a CUDA graph.
        optimizer: class of the optimizer, with its own options; None for Adam.
        scheduler: class of the learning-rate schedule, with its own options; None for constant rates.

    Attributes:
        validation_returns: mean return per level set, from the last validation since the last epoch end.
        phase: name of the current phase, shown beside the progress bar; empty for methods without phases.
    """

    loss_weights: dict[str, float]
    on_policy = True
    uses_replay = False
    learns = True
    of_learning: tuple[str, ...] = ()
    phase = ""
    _given: dict[str, Any]

    def __new__(cls, *_: Any, **options: Any) -> Any:
        """Keeps the options that the module is built with, for `hparams` and checkpoints."""
        module = super().__new__(cls)
        factories = {name: partial_of_class(value) for name, value in options.items() if callable(value)}
        module.__dict__["_given"] = options | factories
        return module

    def __init__(
        self,
        *,
        micro_batches: MicroBatchConfig | None,
        max_grad_norm: float,
        greedy: bool,
        captured_acting: bool = False,
        optimizer: OptimizerCallable | None = None,
        scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        tell_lightnings_apart()
        defaults = {name: option.default for name, option in constructor_options(type(self)).items()}
        self.save_hyperparameters(defaults | self._given, logger=False)  # W&B gets them from config.yaml
        self.micro_batches = micro_batches
        self.max_grad_norm = max_grad_norm
        self.greedy = greedy
        if captured_acting:
            self.captures = True
        self.optimizer = None if optimizer is None else partial_of_class(optimizer)
        self.scheduler = None if scheduler is None else partial_of_class(scheduler)
        check_factories(self.optimizer, self.scheduler)
        self.validation_returns: dict[str, float] = {}
        self._stops_at_boundary = False
        self._unread = Unread()

    @classmethod
    @abstractmethod
    def method(cls, init_args: dict[str, Any]) -> str:
        """Name of the method in paths and reports, given the arguments of the constructor."""

    @abstractmethod
    def batches_per_iteration(self, num_steps: int, num_envs: int) -> int:
        """Number of batches that one call of `batches` yields for rollouts of this size."""

    @abstractmethod
    def batches(self, source: Source) -> Iterator[Batch]:
        """Collects a rollout and yields the batches of one iteration."""

    @abstractmethod
    def objective(self, batch: Any, generator: torch.Generator) -> Objective:
        """Losses and metrics of a batch; `generator` is the source of all randomness, such as dropout."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Parameter groups of the optimizer, each with its learning rate `lr`, and `eps` for Adam."""
        raise NotImplementedError(f"{type(self).__name__} must define parameter_groups or configure_optimizers")

    def configure_optimizers(self) -> Any:
        """Adam, or what `optimizer` and `scheduler` ask for."""
        return configured(self.parameter_groups(), optimizer=self.optimizer, scheduler=self.scheduler)

    def prepare_for(self, checkpoint: dict[str, Any]) -> None:
        """Builds what only a checkpoint says, before its weights are loaded; nothing by default.

        Raises:
            ValueError: the checkpoint does not say it.
        """

    def yardsticks(self, game: str) -> dict[str, Policy]:
        """Other policies that `test` plays on all levels of a game, by name; none by default."""
        return {}

    def network_config(self) -> NetworkConfig:
        """How the acting network is built, for exported policies.

        Raises:
            ValueError: the method does not say.
        """
        raise ValueError(f"model: {type(self).__name__} cannot be exported: it defines no network_config")

    def setup(self, stage: str) -> None:
        """Checks the Trainer and sets what it leaves open; sets the threads of operators outside micro-batches.

        Raises:
            ValueError: the Trainer would cut iterations short, or compute in a precision that is not supported.
        """
        trainer = attached_trainer(self)
        if trainer is not None:
            check_trainer_for(trainer, fitting=stage == "fit")
        if self.micro_batches is not None:
            torch.set_num_threads(self.micro_batches.num_threads)
        if trainer is not None:
            # A batch may train a part of the parameters only. The option also keeps DDP from rebuilding its buckets
            # after the first step, which would change how a resumed run rounds sums over three or more ranks.
            find_unused_parameters(trainer.strategy)
            save_at_epoch_ends(trainer)

    def teardown(self, stage: str) -> None:
        """Frees the steps that were captured."""
        deciding.forget(self)

    def configure_callbacks(self) -> list[Callback]:
        """What every Trainer gets: the rows of metrics, the end at the budget of env steps, and exact resuming."""
        return [IterationMetrics(), RandomStates()]

    def check_trainer(self, trainer: Trainer) -> None:
        """Raises a ValueError if the method cannot learn with this Trainer; accepts every Trainer by default."""

    def check_continuation(self, checkpoint: dict[str, Any], path: Path) -> None:
        """Raises a ValueError if the method cannot go on learning from this checkpoint, or its schedule is another."""
        saved, own = checkpoint.get(self.CHECKPOINT_HYPER_PARAMS_KEY, {}), as_plain(dict(self.hparams))
        for key in ("scheduler", "learning_rate") if self.scheduler is not None and saved.get("scheduler") else ():
            if saved.get(key) != own.get(key):
                raise ValueError(
                    f"ckpt_path: the schedule of {path} goes on as it began; give model.{key} as it was trained, or"
                    " train anew, if you like by --policy_from"
                )

    def training_step(self, batch: Batch, _batch_idx: int) -> Tensor:
        """Weighted sum of the method's losses on one batch."""
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
        for key, value in logged.items():
            if key.startswith("loss/"):
                self._unread.add(key, value)
        self.log_dict(logged, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(batch))
        return loss

    def weights(self, batch: Any) -> dict[str, float]:
        """Weight of each loss for this batch."""
        return self.loss_weights

    def _part(self, batch: Batch, share: float, seed: int, weights: dict[str, float]) -> Part:
        with torch.enable_grad(), self.precision():  # both are thread-local
            losses, metrics = self.objective(batch, torch.Generator(self.device).manual_seed(seed))
        if losses.keys() != weights.keys():
            raise RuntimeError(f"losses {sorted(losses)} and their weights {sorted(weights)} do not match")
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        logged = {f"loss/{name}": loss.detach() for name, loss in losses.items()} | metrics
        return Part(total * share, {key: value * share for key, value in logged.items()})

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Steps; at an epoch's last batch, before anything is judged or saved, what is not finite ends the run."""
        super().optimizer_step(*args, **kwargs)
        if self.trainer.is_last_batch:
            self.check_finite()

    def check_finite(self) -> None:
        """Raises a FloatingPointError where a loss or gradient norm since the last call was not finite."""
        self._unread.check()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Says in the file which method it is of, and with which options it was built, as plain containers.

        Raises:
            FloatingPointError: a loss or gradient norm was not finite; nothing is saved then, at a boundary or before.
        """
        self.check_finite()
        options = as_plain(dict(self.hparams))
        checkpoint[self.CHECKPOINT_HYPER_PARAMS_KEY] = options
        checkpoint["lr_schedulers"] = as_plain(checkpoint.get("lr_schedulers", []))
        game = getattr(getattr(self.trainer, "datamodule", None), "game", "")
        named = {"method": self.method(options), "game": game, "run_id": "", "precision": str(self.trainer.precision)}
        checkpoint.setdefault(METADATA, named)

    @classmethod
    def load_from_checkpoint(
        cls: type[Module],
        checkpoint_path: str | Path | IO[Any],
        map_location: Any = None,
        hparams_file: Any = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Module:
        """The module with the weights and the options that it was trained with.

        Args:
            checkpoint_path: file of this machine.
            map_location: device of the module; the CPU by default.
            hparams_file: refused: the checkpoint has the options.
            strict: whether all weights must be there; true by default.
            weights_only: refused if false: checkpoints never carry code.
            **kwargs: options that replace the saved ones.

        Raises:
            ValueError: the file cannot be read, is of another method, or holds no options because it is older.
        """
        if hparams_file is not None or weights_only is False:
            raise ValueError(
                "load_from_checkpoint takes the options from the checkpoint, and never executes code in it"
            )
        saved = checkpoint_files.read(Path(str(checkpoint_path)))
        if cls.CHECKPOINT_HYPER_PARAMS_KEY not in saved:
            raise ValueError(f"{checkpoint_path} holds no options of its module: it is older than they are saved")
        options = saved[cls.CHECKPOINT_HYPER_PARAMS_KEY] | kwargs
        method = saved[METADATA]["method"]
        if method != cls.method(options):
            raise ValueError(f"{checkpoint_path} is of method {method}, {cls.__name__} of {cls.method(options)}")
        module = cls(**from_plain(cls, options))
        module.prepare_for(saved)
        module.load_state_dict(saved["state_dict"], strict=strict is not False)
        return module.to(map_location or "cpu")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restores the optimizer's state but keeps this run's hyper-parameters; torch would overwrite them.

        With a learning-rate schedule the saved ones are kept, because the schedule changes them. Adam's `fused` follows
        the device that this run trains on, to which Lightning moves the weights only later.

        Raises:
            ValueError: training would go on from within an epoch.
        """
        trainer = attached_trainer(self)
        if "loops" in checkpoint and trainer is not None and trainer.state.fn == TrainerFn.FITTING:
            check_boundary(checkpoint, Path(trainer.ckpt_path) if trainer.ckpt_path else None)
        if not checkpoint.get("optimizer_states"):
            return
        (saved,) = checkpoint["optimizer_states"]
        optimizer, schedules = checkpoint_files.optimizer_and_schedules(self.configure_optimizers())
        device = self.device if trainer is None else trainer.strategy.root_device
        take_options(saved["param_groups"], optimizer, scheduled=bool(schedules))
        if self.optimizer is None:
            fuse(saved["param_groups"], device.type)

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,  # Lightning's signature
    ) -> None:
        """Clips the gradient norm of each parameter group separately, so that networks do not affect each other.

        A group's own `max_grad_norm` takes precedence over the module's.
        """
        if gradient_clip_val is not None:
            raise ValueError("trainer.gradient_clip_val must be null: model.max_grad_norm clips each parameter group")
        if self._skips_infinite_gradients and getattr(optimizer, "_step_supports_amp_scaling", False):
            raise ValueError(
                "model.optimizer.fused must be false with trainer.precision 16-mixed, whose scaled gradients cannot be"
                " clipped before a fused step"
            )
        norms = clip_groups(optimizer.param_groups, max_norm=self.max_grad_norm)
        if not self._skips_infinite_gradients:
            self._unread.add("the norm of a gradient", *norms)

    @property
    def _skips_infinite_gradients(self) -> bool:
        """Whether the gradient scaler of float16 skips steps with infinite gradients while it adapts its factor."""
        trainer = attached_trainer(self)
        return trainer is not None and getattr(trainer.precision_plugin, "scaler", None) is not None

    @property
    def validation_is_due(self) -> bool | None:
        """Whether `ValidationPace` is to validate after this iteration; None where that is a matter of time."""
        return None

    def validation_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> None:
        """Stores the mean return on one level set."""
        self.validation_returns = returns_with(self.validation_returns, episodes)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Lets an epoch go on where a callback has asked to stop."""
        self._put_off_stop()

    def on_validation_end(self) -> None:
        """Likewise, where validation comes within an epoch."""
        self._put_off_stop()

    def _put_off_stop(self) -> None:
        """A callback, as Lightning's Timer, may ask to stop at any batch; a rollout is learned from to its end."""
        if self.trainer.should_stop and not self.trainer.is_last_batch:
            self.trainer.should_stop, self._stops_at_boundary = False, True

    def on_train_epoch_end(self) -> None:
        """Puts the validation's returns into the row; stops, where a callback has asked for it within the epoch."""
        self.log_dict(collectives.all_reduce_mean(self.validation_returns), sync_dist=True)
        self.validation_returns = {}
        if self._stops_at_boundary:
            self.trainer.should_stop, self._stops_at_boundary = True, False

    def on_validation_epoch_end(self) -> None:
        """Logs the returns; in training for callbacks alone, since loggers get one row at each epoch end."""
        if self.trainer.sanity_checking:
            self.validation_returns = {}
        to_loggers = None if self.trainer.state.fn == TrainerFn.VALIDATING else False
        self.log_dict(self.validation_returns, logger=to_loggers, sync_dist=True)

    def test_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> None:
        """Logs the mean return on one level set; the command's `EvaluationReport` says more."""
        key = "test/return" if episodes.level_set == "full_distribution" else f"test/{episodes.level_set}_return"
        key, returns = f"{key}/{episodes.game}" if episodes.game else key, episodes.returns
        self.log(key, returns.mean(), batch_size=len(returns), add_dataloader_idx=False, sync_dist=True)

    def predict_step(self, episodes: Episodes, _batch_idx: int, dataloader_idx: int = 0) -> Episodes:
        """The episodes, unchanged."""
        return episodes
