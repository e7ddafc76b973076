"""What each step of the GPU path is worth: `python -m tests.benchmarks.gpu --out gpu.json`.

PPO on each game: the calls of the eager path, as they were; then, one more each time, acting by a captured step, two
halves of the environments in turn, learning that reads nothing between the updates, and a compiled update. IMPALA with
its autoencoder and SimPLe: the eager path and the final one. A rate is the median over iterations after the first, with
all of their collecting and learning. Then the captured path must have learned what the eager one has, over 20 updates.

It takes less than eight minutes on an H100 and writes one JSON. On a CPU it runs too, and its figures mean nothing.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.cpu.cores import usable_cores
from lightning_rl.data.collector import Collector
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.envs.side_by_side import with_statistics
from lightning_rl.modules.acting import ActingModule
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule
from lightning_rl.modules.ppo import PPOModule
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.outer_loop import OuterLoopConfig
from lightning_rl.modules.simple.world_model import WorldModelBatch, WorldModelConfig
from tests.benchmarks import measure
from tests.support.worlds import Batches, fit, make_trainer

TOLERANCE = 1e-2
"""Largest difference of weights after 20 updates, as a share of how far they have moved; bf16 rounds to 2⁻⁹."""
_UPDATES = 20


class Way(NamedTuple):
    """One way to train.

    Args:
        name: of the step that it adds.
        captures: whether acting is captured.
        halves: parts of the environments that take turns.
        waits: whether losses and norms are read after each update.
        compiles: whether the network of the update is compiled.
    """

    name: str
    captures: bool
    halves: int
    waits: bool
    compiles: bool


WAYS = (
    Way("eager", captures=False, halves=1, waits=True, compiles=False),
    Way("captured acting", captures=True, halves=1, waits=True, compiles=False),
    Way("two halves", captures=True, halves=2, waits=True, compiles=False),
    Way("no waiting", captures=True, halves=2, waits=False, compiles=False),
    Way("compiled update", captures=True, halves=2, waits=False, compiles=True),
)
EAGER, FINAL = WAYS[0], WAYS[3]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    result.add_argument("--out", type=Path, help="file for the JSON, which is printed too")
    result.add_argument("--games", nargs="+", default=["starpilot", "bossfight"])
    result.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    result.add_argument("--accelerator", choices=["gpu", "cpu"], default="gpu")
    result.add_argument("--seconds", type=float, default=16.0, help="of measuring for each way, after one iteration")
    result.add_argument("--num-envs", type=measure.positive, default=64)
    result.add_argument("--num-steps", type=measure.positive, default=256)
    result.add_argument("--minibatch-size", type=measure.positive, default=2048)
    result.add_argument("--epochs", type=measure.positive, default=3)
    result.add_argument("--unrolls", type=measure.positive, nargs=2, default=[32, 80], help="of IMPALA: games, steps")
    result.add_argument("--dreams", type=measure.positive, nargs=2, default=[16, 50], help="of SimPLe: games, steps")
    result.add_argument("--updates", type=measure.positive, default=100, help="of the world model")
    result.add_argument("--rollouts", type=measure.positive, default=6, help="imagined ones")
    result.add_argument("--hidden", type=measure.positive, default=96, help="channels of the world model")
    return result


class Watch(Callback):
    """Stops a run after some seconds, and remembers what each iteration took.

    Args:
        seconds: since the end of the first iteration, which loads and captures.
        waits: read losses and norms after each update.
    """

    def __init__(self, seconds: float, *, waits: bool) -> None:
        self._seconds = seconds
        self._waits = waits
        self._end = 0.0
        self.first = 0.0
        self.rows: list[dict[str, float]] = []
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reads, as each update did."""
        if self._waits and isinstance(pl_module, RLModule):
            pl_module.check_finite()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at the clock."""
        now = time.perf_counter()
        if not self._end:
            self.first, self._end = now - self._began, now + self._seconds
        elif now >= self._end and len(self.rows) >= 2:
            trainer.should_stop = True
        self.rows.append({})

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the row of the epoch before."""
        self._take(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the last row."""
        self._take(trainer)

    def _take(self, trainer: Trainer) -> None:
        if self.rows:
            names = ("time/env_steps_per_second", "time/collecting", "time/learning")
            self.rows[-1] = {name: float(trainer.callback_metrics[name]) for name in names}


@contextmanager
def captured(captures: bool) -> Iterator[None]:
    """Lets all modules act in one way."""
    ActingModule.captures = captures
    try:
        yield
    finally:
        ActingModule.captures = False


def trained(module: RLModule, data: ProcgenDataModule, path: Way, options: argparse.Namespace) -> dict[str, Any]:
    """Rate and shares of a run; for a compiled update also what its first iteration took longer."""
    watch = Watch(options.seconds, waits=path.waits)
    if path.compiles:
        module.network.compile()
    with captured(path.captures):
        trainer = make_trainer(
            max_epochs=-1, callbacks=[watch], limit_val_batches=0, num_sanity_val_steps=0, **kind_of(options)
        )
        trainer.fit(module, datamodule=data)
    rows = watch.rows[1:]
    medians = {name: median(row[name] for row in rows) for name in rows[0]}
    return {
        "env_steps_per_second": round(medians["time/env_steps_per_second"], 1),
        "collecting": round(medians["time/collecting"], 3),
        "learning": round(medians["time/learning"], 3),
        "first_iteration_seconds": round(watch.first, 2),
        "iterations": len(rows),
    }


def kind_of(options: argparse.Namespace) -> dict[str, Any]:
    """Options of the Trainer, as the command has them on such a device."""
    if options.accelerator == "cpu":
        return {"accelerator": "cpu"}
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # as the command does
    return {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed", "deterministic": True}


def games(options: argparse.Namespace, game: str, halves: int, **given: Any) -> ProcgenDataModule:
    """Games in so many halves, whose threads share the cores."""
    threads = max(2, int(usable_cores()) // 2 // halves)
    own: dict[str, Any] = {"num_envs": options.num_envs, "num_steps": options.num_steps, "num_threads": threads}
    own |= {"game": game, "seed": 1, "halves": halves, "total_env_steps": 10**12}
    return ProcgenDataModule(**(own | given))


def ppo(options: argparse.Namespace) -> dict[str, Any]:
    """Each step's rate, and its factor over the one before and over the eager path."""
    found: dict[str, Any] = {}
    for game in options.games:
        found[game] = rates = {}
        for path in options.ways:
            torch.manual_seed(1)
            module = PPOModule(epochs=options.epochs, minibatch_size=options.minibatch_size)
            data = games(options, game, path.halves)
            rates[path.name] = tried(partial(trained, module, data, path, options))
        add_factors(rates)
    return found


def impala(options: argparse.Namespace) -> dict[str, Any]:
    """IMPALA with its autoencoder, eager and final."""
    num_envs, num_steps = options.unrolls
    rates: dict[str, Any] = {}
    for path in (EAGER, FINAL):
        torch.manual_seed(1)
        sizes = {"num_envs": num_envs, "num_steps": num_steps, "return_scaling": False, "iterations_per_epoch": 2}
        data = games(options, options.games[0], path.halves, **sizes)
        rates[path.name] = tried(partial(trained, ImpalaVAEModule(), data, path, options))
    return add_factors(rates)


def simple(options: argparse.Namespace) -> dict[str, Any]:
    """SimPLe at the paper's size, eager and final: an update, an imagined step, and days of Algorithm 1."""
    rates: dict[str, Any] = {}
    for path in (EAGER, FINAL):
        rates[path.name] = tried(partial(dreamed, path, options))
    if all("env_steps_per_second" in row for row in rates.values()):
        add_factors(rates)
    return rates


def dreamed(path: Way, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds of the world model's updates and of imagined rollouts, the policy's acting included."""
    torch.manual_seed(1)
    data = games(options, options.games[0], 1, frame_stack=4, return_scaling=False)
    size = WorldModelConfig(hidden=options.hidden, compress_steps=5, pooling="mean_max")
    num_envs, length = options.dreams
    sizes = {"num_imagined_envs": num_envs, "imagined_length": length}
    sizes |= {"minibatch_size": min(320, num_envs * (length - 1))}
    module = SimPLeModule(world_model=size, reward_values=data.reward_values, **sizes)
    with tempfile.TemporaryDirectory() as folder, captured(path.captures):
        replay = played(module, data, Path(folder))
        generator = torch.Generator().manual_seed(1)
        clock = Clock(waits=path.waits)
        draw = partial(replay.sample, size.batch_size, num_targets=size.num_targets, generator=generator)
        windows = [WorldModelBatch(windows=draw(), update=number) for number in range(1, options.updates + 3)]
        trainer = fit(module, Batches(*windows), callbacks=[clock], **kind_of(options))
        module.to(trainer.strategy.root_device)  # which the end of the run has moved
        seconds = []
        for _ in range(1 + options.rollouts):
            began = time.perf_counter()
            module.imagined_rollout(replay, generator)
            synchronize(trainer.strategy.root_device)
            seconds.append(time.perf_counter() - began)
        module.teardown("fit")
    update, rollout = clock.seconds / options.updates, median(seconds[1:])
    loop, steps = OuterLoopConfig(), module.num_imagined_envs * module.imagined_length
    updates = loop.first_world_model_updates + 14 * loop.world_model_updates
    rollouts = sum(loop.rollouts(number, steps) for number in range(15))
    return {
        "seconds_per_update": round(update, 5),
        "seconds_per_imagined_step": round(rollout / module.imagined_length, 5),
        "env_steps_per_second": round(steps / rollout, 1),  # imagined
        "days_of_algorithm_1_without_the_policys_updates": round((updates * update + rollouts * rollout) / 86400, 2),
    }


class Clock(Callback):
    """Times all updates but the first two.

    Args:
        waits: read the losses after each.
    """

    def __init__(self, *, waits: bool) -> None:
        self._waits = waits
        self.seconds = 0.0
        self._began = 0.0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Starts after the second, and looks after the last, when the device is done."""
        if self._waits and isinstance(pl_module, RLModule):
            pl_module.check_finite()
        if batch_idx == 1 or trainer.is_last_batch:
            synchronize(pl_module.device)
        now = time.perf_counter()
        self._began = now if batch_idx == 1 else self._began
        self.seconds = now - self._began


def played(module: SimPLeModule, data: ProcgenDataModule, folder: Path) -> ReplayBuffer:
    """Real play to learn and to start from, on the CPU."""
    replay = ReplayBuffer(folder, game=data.game, num_frames=data.frame_stack)
    env = with_statistics(data.training_games()(16, 0))
    collector = Collector(env, num_steps=64, seed=1)
    replay.append(collector.collect(module).to(torch.device("cpu")))
    collector.close()
    return replay


def equality(options: argparse.Namespace) -> dict[str, Any]:
    """How far captured acting leads PPO from the eager path in 20 updates, as a share of how far the weights moved."""
    weights = {}
    for name, captures in (("before", None), ("eager", False), ("captured", True)):
        torch.manual_seed(1)
        module = PPOModule(epochs=1, minibatch_size=options.num_envs * options.num_steps // 4)
        if captures is not None:
            budget = _UPDATES // 4 * options.num_envs * options.num_steps
            data = games(options, options.games[0], 1, total_env_steps=budget)
            with captured(captures):
                make_trainer(max_epochs=-1, limit_val_batches=0, **kind_of(options)).fit(module, datamodule=data)
        weights[name] = torch.cat([parameter.detach().cpu().flatten() for parameter in module.parameters()])
    moved = float((weights["eager"] - weights["before"]).norm())
    difference = float((weights["captured"] - weights["eager"]).norm()) / moved
    return {
        "updates": _UPDATES,
        "difference": difference,
        "same_bits": bool(torch.equal(weights["captured"], weights["eager"])),
        "tolerance": TOLERANCE,
        "holds": difference <= TOLERANCE,
    }


def tried(measured: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What was measured, or why it could not be: one way that fails leaves the others their figures."""
    try:
        return measured()
    except Exception as error:  # a compiler's, or a driver's
        return {"error": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}


def add_factors(rates: dict[str, Any]) -> dict[str, Any]:
    """Factors over the first way and over the one before, for those that were measured."""
    known = [row for row in rates.values() if "env_steps_per_second" in row]
    for before, row in zip([known[0], *known], known, strict=False):
        row["factor"] = round(row["env_steps_per_second"] / before["env_steps_per_second"], 3)
        row["factor_over_eager"] = round(row["env_steps_per_second"] / known[0]["env_steps_per_second"], 3)
    return rates


def synchronize(device: torch.device) -> None:
    """Waits until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "equality": equality,
    "ppo": ppo,
    "impala_vae": impala,
    "simple": simple,
}


def main(arguments: list[str] | None = None, *, ways: Sequence[Way] = WAYS) -> dict[str, Any]:
    """Measures, prints and writes.

    Args:
        arguments: of the command line.
        ways: in which PPO trains.
    """
    options = parser().parse_args(arguments)
    options.ways = ways
    began = time.perf_counter()
    device = torch.cuda.get_device_name() if options.accelerator == "gpu" else measure.processor()
    found: dict[str, Any] = {"device": device, "cores": usable_cores(), "torch": torch.__version__}
    for part in options.parts:
        found[part] = PARTS[part](options)
        print(json.dumps({part: found[part]}), flush=True)  # what is known, if the time runs out
        found["seconds"] = round(time.perf_counter() - began, 1)
        if options.out is not None:
            options.out.write_text(json.dumps(found, indent=1) + "\n")
    return found


if __name__ == "__main__":
    main()
