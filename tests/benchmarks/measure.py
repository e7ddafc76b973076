"""What the benchmarks share: fresh processes, ratios of interleaved pairs, features of the CPU, the program's `fit`."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lightning_rl.cli.program import main
from lightning_rl.runs.metrics_csv import read_metrics

REPOSITORY = Path(__file__).parents[2]
CPUINFO = Path("/proc/cpuinfo")
_BF16 = ("amx_bf16", "avx512_bf16")
_ACTING, _LEARNING = 61e6, 184e6
"""Operations for a frame of 64×64: IMPALA's CNN (16, 32, 32) forwards; and forwards and backwards."""


@dataclass(frozen=True, kw_only=True)
class Ratios:
    """How many times as much the first of each pair has.

    Args:
        pairs: what was measured side by side, as `(first, second)`.

    Raises:
        ValueError: there is no pair.
    """

    pairs: Sequence[tuple[float, float]]

    def __post_init__(self) -> None:
        if not self.pairs:
            raise ValueError("pairs must hold at least one pair, found none")

    @property
    def each(self) -> list[float]:
        """One ratio per pair, in their order."""
        return [first / second for first, second in self.pairs]

    def __str__(self) -> str:
        return f"median {median(self.each):.2f}, min {min(self.each):.2f}, max {max(self.each):.2f}"


def bf16_features(cpuinfo: str) -> list[str]:
    """The instructions for bfloat16 that the first processor of a `/proc/cpuinfo` lists."""
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "").split()
    return [feature for feature in _BF16 if feature in flags]


def processor() -> str:
    """One line about this machine's processor and what it has for bfloat16."""
    text = CPUINFO.read_text(encoding="utf-8") if CPUINFO.exists() else ""
    names = [line.split(":", 1)[1].strip() for line in text.splitlines() if line.startswith("model name")]
    found = ", ".join(bf16_features(text)) or f"neither of {', '.join(_BF16)}: bf16 is emulated and gains little"
    return f"{names[0] if names else 'unknown processor'}, {len(names)} logical cores; {found}"


def bf16_product(*, size: int = 2048, seconds: float = 2.0) -> float:
    """Floating-point operations per second of this machine's bf16 matrix product, all threads together; the fastest.

    Args:
        size: of the square matrices.
        seconds: how long to try.
    """
    first, second = (torch.randn(size, size).bfloat16() for _ in range(2))
    fastest, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end or fastest == float("inf"):
        began = time.perf_counter()
        torch.mm(first, second)
        fastest = min(fastest, time.perf_counter() - began)
    return 2 * size**3 / fastest


def limit_of_ppo(product: float, *, epochs: int) -> float:
    """Env steps per second of PPO with the published network, if it did nothing but such products.

    Args:
        product: operations per second.
        epochs: passes over a rollout.
    """
    return product / (_ACTING + epochs * _LEARNING)


def positive(text: str) -> int:
    """An argument that counts something.

    Raises:
        ValueError: it is not an integer of at least 1.
    """
    value = int(text)
    if value < 1:
        raise ValueError(f"must be at least 1, found {value}")
    return value


def in_fresh_process(module: str, arguments: Sequence[str]) -> Any:
    """What `python -m module` prints as its last line, as JSON.

    Its allocator, threads and memory are its own: nothing of one measurement is left for the next.

    Args:
        module: with its packages' names.
        arguments: of the command line.

    Returns:
        The value.

    Raises:
        RuntimeError: the process failed; its stderr is in the message.
    """
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def fit(
    run_dir: Path, *, game: str, num_envs: int, num_steps: int, minibatch_size: int, epochs: int, iterations: int
) -> list[float]:
    """Trains PPO with the CPU's overlay in this process, as the command does, without a logger and validation.

    Args:
        run_dir: a folder that holds no run.
        game: on its 200 easy levels.
        num_envs: environments.
        num_steps: steps of each in a rollout.
        minibatch_size: samples of one optimiser step.
        epochs: passes over a rollout.
        iterations: rollouts.

    Returns:
        Env steps per second of each iteration: collecting, learning, logging, and saving the iteration before.

    Raises:
        RuntimeError: the command refused.
    """
    options = {
        "run_dir": run_dir,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.check_val_every_n_epoch": iterations + 1,
        "data.game": game,
        "data.num_envs": num_envs,
        "data.num_steps": num_steps,
        "data.total_env_steps": iterations * num_envs * num_steps,
        "data.predict_episodes": 1,  # the video at the end is not measured
        "model.network": "three_stack",
        "model.epochs": epochs,
        "model.minibatch_size": minibatch_size,
    }
    configs = [REPOSITORY / "configs" / "ppo.yaml", REPOSITORY / "configs" / "hardware" / "cpu.yaml"]
    arguments = ["fit", *(part for config in configs for part in ("--config", str(config)))]
    status = main([*arguments, *(part for key, value in options.items() for part in (f"--{key}", str(value)))])
    if status != 0:
        raise RuntimeError(f"lightning-rl fit ended with {status}")
    return [float(row["time/env_steps_per_second"]) for row in read_metrics(run_dir / "metrics.csv")]
