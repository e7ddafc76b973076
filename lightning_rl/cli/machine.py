"""Options of `fit` that follow from the machine, where neither a config nor the command line gives them."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from jsonargparse import Namespace

from lightning_rl.cli.config_files import config_paths, read_config
from lightning_rl.cpu.bfloat16 import full_name, on_cpu, supported_precision, uses_cuda
from lightning_rl.cpu.cores import usable_cores
from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.errors import UsageError
from lightning_rl.modules.base import RLModule
from lightning_rl.runs.checkpoint_files import METADATA

PRECISION, PARTS, HALVES = "trainer.precision", "model.micro_batches", "data.halves"
_new_group: Any = Namespace  # whose constructor has no annotations
_MAX_THREADS = 8
"""A minibatch of PPO has as many parts; more threads would be idle."""


class Machine(NamedTuple):
    """What a machine makes of the options.

    Args:
        name: what it is, and what decided.
        precision: Lightning's name of it.
        micro_batches: parts and threads; None computes a minibatch at once.
    """

    name: str
    precision: str
    micro_batches: MicroBatchConfig | None


def look(trainer: Namespace) -> Machine | None:
    """This machine, by its processor's flags and its cores, without timing anything; None where neither kind trains.

    Args:
        trainer: the options of the Trainer.
    """
    if uses_cuda(trainer.accelerator):
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(f"this GPU has {'' if bf16 else 'no '}bf16", "bf16-mixed" if bf16 else "32-true", None)
    if not on_cpu(trainer.accelerator) or (trainer.accelerator == "auto" and torch.backends.mps.is_available()):
        return None
    precision = str(supported_precision("bf16-mixed", "cpu"))
    cores = max(1, int(usable_cores()) // _ranks_here(trainer))
    threads = MicroBatchConfig(num_threads=min(cores, _MAX_THREADS))
    has = "bf16" if precision == "bf16-mixed" else "no bf16"
    return Machine(f"this CPU has {has} and {cores} core{'s' if cores > 1 else ''} for a rank", precision, threads)


def _ranks_here(trainer: Namespace) -> int:
    """Ranks that share the cores."""
    launched = os.environ.get("LOCAL_WORLD_SIZE", "")
    if launched.isdigit():
        return max(1, int(launched))
    return trainer.devices if isinstance(trainer.devices, int) and trainer.devices > 0 else 1


def to_judge_on(accelerator: str, precision: str) -> tuple[str, str]:
    """Where, and in which precision, this machine judges an agent that was trained like this.

    Args:
        accelerator: on which it was trained.
        precision: Lightning's name of it.
    """
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator, True):
        return accelerator, precision
    return "cpu", "32-true" if precision == "16-mixed" else precision  # which no CPU computes in


def left_open(args: Sequence[str]) -> frozenset[str]:
    """Which of the three options neither the command line nor one of its configs gives, be it as null.

    Args:
        args: the command line.
    """
    named = {arg.partition("=")[0].removeprefix("--").replace(".init_args", "") for arg in args if arg[:2] == "--"}
    configs = [read_config(path) for path in config_paths(list(args))]
    return frozenset(
        option
        for option in (PRECISION, PARTS, HALVES)
        if not any(f"{name}.".startswith(f"{option}.") for name in named)
        and not any(_gives(config, option.split(".")) for config in configs)
    )


def _gives(config: Any, keys: Sequence[str]) -> bool:
    if not keys:
        return True
    if not isinstance(config, dict):
        return False
    inner = config.get("init_args") if keys[0] not in config and "init_args" in config else config
    return isinstance(inner, dict) and keys[0] in inner and _gives(inner[keys[0]], keys[1:])


def follow(
    configs: Sequence[Namespace],
    left_open: frozenset[str],
    *,
    subcommand: str,
    asked: Any,
    saved: dict[str, Any] | None,
) -> tuple[str, ...]:
    """Fills in what was left open: as this machine decides, or as a continued run was trained.

    Args:
        configs: the options, all alike; changed in place.
        left_open: options to decide about.
        subcommand: only `fit` follows the machine.
        asked: `trainer.precision` as it was given, before it was fitted to the machine.
        saved: the checkpoint that is continued, if any.

    Returns:
        What the user should be told: a line about the machine, for a new run.

    Raises:
        UsageError: the run was trained in a precision that this machine does not have.
    """
    if subcommand != "fit":
        return ()
    config = configs[0]
    wanted = [key for key in sorted(left_open) if _is_unset(config, key)]
    if saved is None:
        chosen, told = _by_machine(config, wanted)
    else:
        chosen = {PRECISION: _saved_precision(saved), PARTS: _saved_parts(saved), HALVES: _saved_halves(saved)}
        told = ()
        if PRECISION in wanted or full_name(asked) == chosen[PRECISION]:
            _check_can(chosen[PRECISION], config.trainer)
    for options in configs:
        if PRECISION in wanted and PRECISION in chosen:
            options.trainer.precision = chosen[PRECISION]
        if PARTS in wanted and chosen.get(PARTS) is not None:
            options.model.init_args.micro_batches = _new_group(**chosen[PARTS])
        if HALVES in wanted:
            options.data.init_args.halves = chosen.get(HALVES, 1)
    return told


def _by_machine(config: Namespace, wanted: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    machine = look(config.trainer)
    if machine is None:
        return {}, ()
    parts = None if machine.micro_batches is None else asdict(machine.micro_batches)
    told = [f"--{PRECISION} {machine.precision}"] * (PRECISION in wanted)
    told += [f"--{PARTS}.{name} {value}" for name, value in (parts or {}).items() if PARTS in wanted]
    chosen = {PRECISION: machine.precision, PARTS: parts}
    return chosen, (f"{machine.name}: {', '.join(told)}",) if told else ()


def _is_unset(config: Namespace, key: str) -> bool:
    """Whether an option is there, which plug-ins' classes need not have, and null."""
    group, _, name = key.partition(".")
    options = config.trainer if group == "trainer" else config[group].get("init_args") or {}
    decided = key == PRECISION and "Precision" in str(config.trainer.plugins)  # by a plugin; Lightning takes one only
    return name in options and options[name] is None and not decided


def _check_can(precision: str, trainer: Namespace) -> None:
    cpu = on_cpu(trainer.accelerator)
    if supported_precision(precision, trainer.accelerator) != precision or (cpu and precision == "16-mixed"):
        raise UsageError(
            f"ckpt_path: the run was trained with trainer.precision {precision}, which this"
            f" {'CPU' if cpu else 'machine'} does not have; give --trainer.precision 32-true to go on without"
        )


def _saved_precision(saved: dict[str, Any]) -> str:
    """Older files do not say it: Lightning's default was taken where nothing was given."""
    return full_name(saved[METADATA].get("precision"))


def _saved_parts(saved: dict[str, Any]) -> dict[str, int] | None:
    found = saved.get(RLModule.CHECKPOINT_HYPER_PARAMS_KEY, {}).get("micro_batches")
    return dict(found) if isinstance(found, dict) else None


def _saved_halves(saved: dict[str, Any]) -> int:
    """Older files do not say it: all environments played at once."""
    games = [state for state in saved.values() if isinstance(state, dict) and "collectors" in state]
    return int(games[0].get("halves", 1)) if games else 1
