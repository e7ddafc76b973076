"""Options of Lightning's Trainer: which a run can have, and what of them follows from the machine."""

import os
import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, cast

import torch
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

from lightning_rl.callbacks.validation_pace import FIRST_EPOCH
from lightning_rl.cpu.bfloat16 import SUPPORTED_PRECISIONS, full_name, on_cpu, supported_precision, uses_cuda
from lightning_rl.errors import UsageError
from lightning_rl.runs.lightning_private import starts_by_multiprocessing


class _Rule(NamedTuple):
    """What an option may be, and why or what to use instead."""

    allows: Callable[[Any], bool]
    allowed: str
    reason: str = ""


def _is_null(value: Any) -> bool:
    return value in (None, "null")


def _null_or_from(least: int) -> Callable[[Any], bool]:
    return lambda value: _is_null(value) or value >= least


def _is_duration(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+(:\d\d){3}", value.strip()) is not None and re.search("[1-9]", value) is not None
    try:
        return value is None or (timedelta(**value) if isinstance(value, dict) else value) > timedelta()
    except TypeError:
        return False


_CUTS = "it would cut iterations short; data.total_env_steps and trainer.max_epochs end a run"
_ENDS = "the run ends at data.total_env_steps, or where a signal asks it to"
_WHOLE = "a level set is one batch; its size is data.{}_episodes"
_CLIPS = "model.max_grad_norm is the bound"
_RULES = {
    "gradient_clip_val": _Rule(_is_null, "null", _CLIPS),
    "gradient_clip_algorithm": _Rule(_is_null, "null", _CLIPS),
    "limit_train_batches": _Rule(_is_null, "null", _CUTS),
    "overfit_batches": _Rule(lambda value: value == 0, "0", _CUTS),
    "max_steps": _Rule(lambda value: value == -1, "-1", _CUTS),
    "min_steps": _Rule(lambda value: not value, "null or 0", _ENDS),
    "min_epochs": _Rule(lambda value: not value, "null or 0", _ENDS),
    "max_epochs": _Rule(lambda value: value in (None, -1) or value >= 1, "-1, null or at least 1"),
    "max_time": _Rule(_is_duration, "DD:HH:MM:SS and positive, or keywords of a timedelta"),
    "accumulate_grad_batches": _Rule(lambda value: value >= 1, "at least 1"),
    "check_val_every_n_epoch": _Rule(_null_or_from(1), "null or at least 1"),
    "limit_val_batches": _Rule(
        lambda value: value == 0 or _null_or_from(1)(value), "null, 0 or at least 1", _WHOLE.format("validation")
    ),
    "limit_test_batches": _Rule(_null_or_from(1), "null or at least 1", _WHOLE.format("test")),
    "limit_predict_batches": _Rule(_null_or_from(1), "null or at least 1", _WHOLE.format("predict")),
    "barebones": _Rule(lambda value: not value, "false", "a run logs and saves"),
    "enable_checkpointing": _Rule(lambda value: value in (None, True), "null or true", "a run is saved at boundaries"),
    "default_root_dir": _Rule(_is_null, "null", "run_dir is the folder"),
    "val_check_interval": _Rule(
        lambda value: not isinstance(value, int | float) or 0 < value <= 1 or (value > 1 and value == int(value)),
        "null, a number of batches, a share of an epoch or a duration",
    ),
}
"""Options that a run cannot have in every way that Lightning has them."""


def check_options(trainer: Namespace, *, subcommand: str) -> None:
    """Refuses what would break a run, or would do nothing.

    Args:
        trainer: the options.
        subcommand: fit, validate, test or predict.

    Raises:
        UsageError: names the option.
    """
    rules = dict(_RULES)
    if subcommand == "validate":
        rules["limit_val_batches"] = rules["limit_test_batches"]._replace(reason=_WHOLE.format("validation"))
    for key, rule in rules.items():
        if not rule.allows(trainer[key]):
            reason = f"; {rule.reason}" if rule.reason else ""
            raise UsageError(f"trainer.{key} must be {rule.allowed}, found {trainer[key]}{reason}")
    _check_precision(trainer)
    if trainer.accelerator in ("gpu", "cuda") and not (torch.cuda.is_available() or torch.backends.mps.is_available()):
        raise UsageError(
            f"trainer.accelerator must be cpu or auto where torch sees no GPU, found {trainer.accelerator};"
            " `lightning-rl doctor` says what there is"
        )


def _check_precision(trainer: Namespace) -> None:
    precision = full_name(trainer.precision)
    if precision not in SUPPORTED_PRECISIONS:
        raise UsageError(f"trainer.precision must be {_either(SUPPORTED_PRECISIONS)}, found {trainer.precision}")
    if precision == "16-mixed" and on_cpu(trainer.accelerator):
        raise UsageError(
            f"trainer.precision must be {_either(SUPPORTED_PRECISIONS[:2])} on a CPU, found {trainer.precision}"
        )


def _either(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def fit_to_machine(trainer: Namespace, *, subcommand: str) -> tuple[str, ...]:
    """Replaces what this machine does not have, or what would be Lightning's guess.

    Args:
        trainer: the options, changed in place.
        subcommand: fit, validate, test or predict.

    Returns:
        What the user should be told.
    """
    if trainer.max_epochs is None:
        trainer.max_epochs = -1  # Lightning would take a thousand
    if subcommand == "predict" and trainer.devices == "auto":
        trainer.devices = 1  # it plays a few episodes into one video
    precision = supported_precision(trainer.precision, trainer.accelerator)
    if precision == trainer.precision:
        return ()
    told = f"this CPU only emulates {trainer.precision}: trainer.precision {precision} is taken"
    trainer.precision = precision
    return (told,)


def pace_validation(trainer: Namespace) -> bool:
    """Fills in how often Lightning validates, where no `check_val_every_n_epoch` is given.

    A number of batches or a duration in `val_check_interval` needs none; a share of an epoch does.

    Args:
        trainer: the options, changed in place.

    Returns:
        Whether a `ValidationPace` is to decide instead, as nothing is given.
    """
    every = trainer.val_check_interval
    if trainer.check_val_every_n_epoch is not None or not (every is None or isinstance(every, float)):
        return False
    trainer.check_val_every_n_epoch = FIRST_EPOCH  # Lightning takes null with a number of batches only
    return every is None


def compute_deterministically(trainer: Namespace) -> None:
    """Asks for kernels that add in one order on GPUs, or resuming would not be exact, unless the user has chosen."""
    if trainer.deterministic is None and uses_cuda(trainer.accelerator):
        trainer.deterministic = True
        cast(Any, torch.utils.deterministic).fill_uninitialized_memory = False  # nobody reads it


def check_built(trainer: Trainer, *, batches: int) -> None:
    """Refuses what shows only once the Trainer is built.

    Strategies that shard parameters, and those that fork processes, which games do not survive; other numbers of
    processes than the cluster has started; plugins that bring another precision; a validation that would never come.

    Args:
        trainer: of `fit`, or of judging.
        batches: of one epoch.

    Raises:
        UsageError: names the option.
    """
    strategy = trainer.strategy
    known = type(strategy) in (DDPStrategy, SingleDeviceStrategy)
    if not known or starts_by_multiprocessing(strategy):
        raise UsageError(f"trainer.strategy must be auto or ddp, found {type(strategy).__name__}")
    if isinstance(strategy, DDPStrategy) and (environment := strategy.cluster_environment) is not None:
        try:
            environment.validate_settings(trainer.num_devices, trainer.num_nodes)
        except ValueError as error:
            raise UsageError(f"trainer.devices and trainer.num_nodes: {error}") from error
    if trainer.precision not in SUPPORTED_PRECISIONS:
        plugin = type(trainer.precision_plugin).__name__
        raise UsageError(f"trainer.plugins must leave trainer.precision as it is, found {plugin}")
    every = getattr(trainer, "val_check_interval", None)  # there is none where it is a duration
    if trainer.check_val_every_n_epoch is not None and isinstance(every, int) and every > batches:
        raise UsageError(
            f"trainer.val_check_interval must be at most {batches}, the batches of an epoch, found {every}; with"
            " trainer.check_val_every_n_epoch null it may be more"
        )


def cluster_environment(given: Sequence[Any]) -> list[ClusterEnvironment]:
    """Slurm's environment without Lightning's requeueing, which the sbatch file does by the exit status.

    Args:
        given: the plugins of the config.

    Raises:
        UsageError: Slurm has room for several tasks, and this process is not one of them.
    """
    if TorchElasticEnvironment.detect() or any(isinstance(plugin, ClusterEnvironment) for plugin in given):
        return []
    if not SLURMEnvironment.detect():
        return []
    tasks = os.environ["SLURM_NTASKS"]
    if not tasks.isdigit():
        raise UsageError(f"SLURM_NTASKS must be a number, found {tasks}")
    if int(tasks) > 1 and not {"SLURM_STEP_ID", "SLURM_STEPID"} & os.environ.keys():  # a batch script has a PROCID, too
        raise UsageError(
            f"SLURM_NTASKS must be 1 without srun, found {tasks}; put srun before the command, or ask for --ntasks=1"
        )
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise UsageError(f"SLURM_NTASKS_PER_NODE is missing; ask for --ntasks-per-node={tasks}") from error
