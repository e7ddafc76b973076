"""Runs of the command that are small enough for tests, in this process and in one that can be killed."""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_rl.cli.program import main
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.metrics_csv import read_metrics
from lightning_rl.runs.signals import end_at_signals
from tests.support.methods import CONFIGS, tiny

ENV_STEPS = 32
"""Env steps of one iteration."""

PARTS = "micro_batches"
"""What a test says of its own accord, for the machine is not to decide it."""


def fit_args(
    run_dir: Path, *args: str, config: str = "ppo", overlay: str | None = None, iterations: int = 2, **options: object
) -> list[str]:
    """The command line of a tiny `fit`; options may be named with `__` for a dot, None leaves one of `TINY` out."""
    named = {key.replace("__", "."): value for key, value in options.items()}
    given = tiny(config) | {"data.total_env_steps": iterations * ENV_STEPS} | named
    files = [CONFIGS / f"{name}.yaml" for name in (config, overlay) if name]
    if not any(PARTS in text for text in (*given, *(file.read_text() for file in files))):
        given[f"model.{PARTS}"] = "null"  # as is written in the configs, whatever machine it is
    flags = [text for key, value in given.items() if value is not None for text in (f"--{key}", str(value))]
    configs = [text for file in files for text in ("--config", str(file))]
    return ["fit", *configs, "--run_dir", str(run_dir), *flags, *args]


def fit(run_dir: Path, *args: str, **options: Any) -> dict[str, Any]:
    """Trains in this process; the checkpoint that it left."""
    status = main(fit_args(run_dir, *args, **options))
    if status != 0:
        raise RuntimeError(f"expected exit status 0, got {status}")
    return load(run_dir)


def load(run_dir: Path, name: str = "last.ckpt") -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(run_dir / name, map_location="cpu", weights_only=True)
    return checkpoint


def start(args: list[str], output: Path, environment: dict[str, str] | None = None) -> BaseProcess:
    """Runs the command in a process of its own."""
    return started(_run, args, str(output), environment or {})


def started(function: Callable[..., object], *args: object) -> BaseProcess:
    """Calls a function in a process of its own, forked from one that has imported everything and started no thread."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.preloaded"])
    process = context.Process(target=function, args=args)
    process.start()
    return process


def start_ranks(
    args: list[str], output: Path, *, number: int = 2, others: list[str] | None = None
) -> list[BaseProcess]:
    """Starts the ranks of one run as torchrun does, each with an output of its own; all but the first as `others`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(number),
        "LOCAL_WORLD_SIZE": str(number),
        "GROUP_RANK": "0",
        "TORCHELASTIC_RUN_ID": "test",
    }
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    given = [args, *[others or args] * (number - 1)]
    return [
        start(each, output.with_suffix(f".{own['RANK']}"), shared | own) for each, own in zip(given, ranks, strict=True)
    ]


def _run(args: list[str], output: str, environment: dict[str, str]) -> None:
    os.environ |= environment
    print_into(Path(output))
    end_at_signals()  # as lightning_rl.__main__ does: before and after `main`, too
    sys.exit(main(args))


def print_into(path: Path) -> None:
    """Whatever this process prints from now on goes to the end of a file."""
    with path.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def listens(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal; before its first line was run it has none."""
    caught = Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


def wait_until(condition: Callable[[], bool], process: BaseProcess, *, seconds: float = 240.0) -> None:
    """Returns when `condition` holds; raises where the process ends before, or the time does."""
    end = time.monotonic() + seconds
    while not condition():
        if not process.is_alive() or time.monotonic() > end:
            raise TimeoutError(f"the process {process.exitcode} did not get there")
        time.sleep(0.01)


def rows(run_dir: Path) -> list[dict[str, str]]:
    """metrics.csv without what depends on the clock."""
    return [
        {key: value for key, value in row.items() if not key.startswith("time/")}
        for row in read_metrics(run_dir / "metrics.csv")
    ]


def differences(first: Any, second: Any) -> list[str]:
    """Where two checkpoints differ in as much as a bit."""
    one, other = flat(first), flat(second)
    pairs = {path: (one.get(path, "missing"), other.get(path, "missing")) for path in {**one, **other}}
    return [f"{path}: {_shown(a)} and {_shown(b)}" for path, (a, b) in pairs.items() if not _same(a, b)]


def unlike(first: dict[str, Any], second: dict[str, Any]) -> list[str]:
    """Differences of two checkpoints beside the run's own name.

    In this process also beside the position in Python's random stream: the shape checks of tests draw from it.
    """
    ids: dict[str, Any] = {checkpoint_files.METADATA: {}}
    found = differences(first | ids, second | ids)
    return [difference for difference in found if not difference.startswith("/callbacks/RandomStates/python/")]


def flat(value: Any, path: str = "") -> dict[str, Any]:
    """The leaves of nested containers by their path; a container itself by its path and a slash, as its length."""
    if not isinstance(value, dict | list | tuple):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    leaves = {key: leaf for name, inner in items for key, leaf in flat(inner, f"{path}/{name}").items()}
    return {f"{path}/": len(value), **leaves}


def _same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    return type(first) is type(second) and bool(first == second)


def _shown(leaf: Any) -> str:
    return "a tensor" if isinstance(leaf, Tensor) else str(leaf)
