"""Speed of SimPLe's world model on a CPU: `python -m tests.benchmarks.world_model`.

Learning is a real `Trainer` with the numbers of `configs/simple_cpu.yaml` and `configs/hardware/cpu.yaml`, which
updates the world model again and again on windows of noise; what counts are predicted frames per second. Imagining is
the module's own rollouts of 16 environments; what counts are imagined steps per second, the policy's acting included.

The peer is the same network with the same losses, gradients and steps written the usual way: float32, images in
PyTorch's default layout, a batch at once, operators spread over both cores. Each side runs in a process of its own, one
after the other, in every round.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch
import yaml
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Callback
from torch import Tensor, nn

from lightning_rl.cpu import allocator
from lightning_rl.cpu.bfloat16 import supported_precision
from lightning_rl.cpu.micro_batches import MicroBatchConfig
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.world_model import WorldModelBatch, WorldModelConfig
from lightning_rl.networks.world_model import next_frame
from lightning_rl.networks.world_model.pixels import standardized
from lightning_rl.types import RecurrentInputs, Rollout
from tests.benchmarks import measure
from tests.support.worlds import Batches, fit

WANTED = 3.0
SIDES = ("ours", "peer")
_SEED = 1
_SHAPE = (64, 64, 12)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.world_model", description=__doc__)
    result.add_argument("--rounds", type=measure.positive, default=3, help="how often to compare")
    result.add_argument("--updates", type=measure.positive, default=6, help="measured, after two that are not")
    result.add_argument("--rollouts", type=measure.positive, default=2, help="measured, after one that is not")
    result.add_argument("--side", choices=SIDES, help="measure one side in this process and print it as JSON")
    return result


def build(side: str) -> SimPLeModule:
    """A module that has learned nothing yet, with the numbers of the configs."""
    torch.manual_seed(_SEED)
    options = _config("simple_cpu.yaml")["model"]["init_args"]["world_model"]
    parts = MicroBatchConfig(**_config("hardware/cpu.yaml")["model"]["init_args"]["micro_batches"])
    module = SimPLeModule(
        obs_shape=_SHAPE,
        world_model=WorldModelConfig(**options),
        micro_batches=parts if side == "ours" else None,
    )
    # ends are as rare as those of a model that has learned: untrained it draws new starts at every step
    assert module.world_model.end is not None
    last = module.world_model.end[-1]
    assert isinstance(last, nn.Linear)
    nn.init.constant_(last.bias, -9.0)
    if side == "peer":
        module.to(memory_format=torch.contiguous_format)
    return module


def _config(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((measure.REPOSITORY / "configs" / name).read_text(encoding="utf-8"))
    return loaded


def noise() -> Rollout:
    """Play of 16 environments, of frames that cost as much as any."""
    generator = torch.Generator().manual_seed(_SEED)
    num_steps, num_envs = 40, 16
    return Rollout(
        actions=torch.randint(15, (num_steps, num_envs), generator=generator),
        rewards=torch.randint(2, (num_steps, num_envs), generator=generator).float(),
        terminated=torch.zeros(num_steps, num_envs, dtype=torch.bool),
        behavior_logits=torch.zeros(num_steps, num_envs, 15),
        behavior_values=torch.zeros(num_steps, num_envs, 1),
        obs=torch.randint(256, (num_steps + 1, num_envs, *_SHAPE), generator=generator, dtype=torch.uint8),
        recurrent_inputs=RecurrentInputs.initial(num_envs),
    )


class _Clock(Callback):
    """When each batch began."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes when the last one ended."""
        self.times.append(time.perf_counter())


def _usual_layout(obs: Tensor) -> Tensor:
    images: Tensor = standardized(obs)
    return images.contiguous()


def measured(side: str, *, updates: int, rollouts: int) -> dict[str, float]:
    """One side, in this process: predicted frames and imagined steps per second."""
    if side == "ours":
        allocator.keep_freed_memory()
    precision = (
        supported_precision(_config("hardware/cpu.yaml")["trainer"]["precision"], "cpu")
        if side == "ours"
        else "32-true"
    )
    module = build(side)
    layout = mock.patch.object(next_frame, "standardized", _usual_layout if side == "peer" else standardized)
    with tempfile.TemporaryDirectory() as folder, layout:
        replay = ReplayBuffer(Path(folder), game="noise", num_frames=4)
        replay.append(noise())
        generator = torch.Generator().manual_seed(_SEED)
        batches = list(_windows(module, replay, generator, updates + 2))
        clock = _Clock()
        fit(module, Batches(*batches), precision=precision, callbacks=[clock])
        frames = len(batches[0]) * module.options.num_targets
        seconds = median(end - start for start, end in zip(clock.times[2:], clock.times[3:], strict=False))
        imagined = [_imagining(module, replay, generator) for _ in range(rollouts + 1)]
    return {"frames_per_second": frames / seconds, "imagined_steps_per_second": median(imagined[1:])}


def _windows(
    module: SimPLeModule, replay: ReplayBuffer, generator: torch.Generator, number: int
) -> Iterator[WorldModelBatch]:
    for update in range(number):
        windows = replay.sample(module.options.batch_size, num_targets=module.options.num_targets, generator=generator)
        yield WorldModelBatch(windows=windows, update=update)


def _imagining(module: SimPLeModule, replay: ReplayBuffer, generator: torch.Generator) -> float:
    start = time.perf_counter()
    rollout = module.imagined_rollout(replay, generator)
    return rollout.actions.numel() / (time.perf_counter() - start)


def main() -> None:
    """Compares, and prints every round."""
    args = parser().parse_args()
    if args.side is not None:
        print(json.dumps(measured(args.side, updates=args.updates, rollouts=args.rollouts)))
        return
    print(measure.processor())
    rows: list[dict[str, dict[str, float]]] = []
    for number in range(args.rounds):
        given = ["--updates", str(args.updates), "--rollouts", str(args.rollouts)]
        rows.append(
            {side: measure.in_fresh_process("tests.benchmarks.world_model", [*given, "--side", side]) for side in SIDES}
        )
        print(f"round {number + 1}: {rows[-1]}")
    for key in rows[0]["ours"]:
        ratios = measure.Ratios(pairs=[(row["ours"][key], row["peer"][key]) for row in rows])
        print(f"{key}: {ratios} times the peer; wanted {WANTED}")


if __name__ == "__main__":
    main()
