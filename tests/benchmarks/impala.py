"""Speed of IMPALA's learner, with the autoencoder and without: `python -m tests.benchmarks.impala`.

The learner is a real `Trainer` with the numbers of `configs/impala_vae.yaml` and `configs/hardware/cpu.yaml`, which
updates again and again on one rollout that a fresh policy played; an update is everything from the batch to the moved
weights. It is compared with the same losses, gradients and steps written the usual way (`impala_peer.py`), and with
itself without the autoencoder. Each runs in a process of its own, one after the other, in every round.

The last line of each unroll length is how much of an update the LSTM takes, which is called once between two episode
ends.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.cpu import allocator
from lightning_rl.cpu.bfloat16 import cpu_has_bf16, supported_precision
from lightning_rl.cpu.micro_batches import MicroBatchConfig, threads
from lightning_rl.data.collector import Collector
from lightning_rl.envs.procgen import ProcgenVectorEnv
from lightning_rl.envs.statistics import EpisodeStatistics
from lightning_rl.modules.impala import ImpalaModule
from lightning_rl.modules.impala_vae import EncodedUnrolls, ImpalaVAEModule
from lightning_rl.networks.recurrent_actor_critic import opening_steps
from tests.benchmarks import measure
from tests.benchmarks.impala_peer import PlainLearner
from tests.support.worlds import Batches, fit

WANTED_SPEED, WANTED_COST = 4.0, 2.0
SIDES = ("with_vae", "without_vae", "peer")
_SEED = 1


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.impala", description=__doc__)
    result.add_argument("--num-steps", nargs="+", type=measure.positive, default=[80, 20], help="unroll lengths")
    result.add_argument("--num-envs", type=measure.positive, default=32)
    result.add_argument("--rounds", type=measure.positive, default=3, help="how often to compare")
    result.add_argument("--updates", type=measure.positive, default=2, help="measured, after one that is not")
    result.add_argument("--game", default="starpilot")
    result.add_argument("--side", choices=SIDES, help="measure one side in this process and print it as JSON")
    result.add_argument("--batch", type=Path, help="what --side learns from")
    return result


def build(side: str, obs_shape: tuple[int, int, int] = (64, 64, 3)) -> ImpalaModule:
    """A module that has learned nothing yet, with the numbers of the configs."""
    torch.manual_seed(_SEED)
    micro_batches = MicroBatchConfig(**_config("hardware/cpu.yaml")["model"]["init_args"]["micro_batches"])
    kind = ImpalaModule if side == "without_vae" else ImpalaVAEModule
    return kind(obs_shape=obs_shape, micro_batches=micro_batches)


def collected(game: str, *, num_envs: int, num_steps: int) -> EncodedUnrolls:
    """The second rollout of a policy that has learned nothing: some episodes go on from the first.

    Args:
        game: on its 500 hard levels.
        num_envs: games.
        num_steps: steps of each.

    Returns:
        The batch.
    """
    env = ProcgenVectorEnv(game, num_envs=num_envs, distribution_mode="hard", num_levels=500, seed=_SEED)
    collector, module = Collector(EpisodeStatistics(env), num_steps=num_steps, seed=_SEED), build("with_vae")
    list(module.batches(collector))
    (batch,) = module.batches(collector)
    env.close()
    assert isinstance(batch, EncodedUnrolls)
    return batch


def measured(side: str, batch: EncodedUnrolls, *, updates: int) -> dict[str, float]:
    """One side, in this process: the median of the seconds of an update, and of the LSTM in it where that is ours.

    Args:
        side: one of `SIDES`.
        batch: to learn from, at every update.
        updates: measured, after one that is not.

    Returns:
        `update`, and `lstm` if the side is not the peer.
    """
    _, _, height, width, channels = batch.obs.shape
    module = build(side, (height, width, channels))
    if side == "peer" and isinstance(module, ImpalaVAEModule):
        learner, seconds = PlainLearner(module, (height, width, channels)), []
        for _ in range(1 + updates):
            start = time.perf_counter()
            learner.update(batch)
            seconds.append(time.perf_counter() - start)
        return {"update": median(seconds[1:])}
    clock = _Clock()
    precision = supported_precision(_config("hardware/cpu.yaml")["trainer"]["precision"], "cpu")
    fit(module, Batches(*[batch] * (1 + updates)), callbacks=[clock], precision=precision)
    lstm = [_lstm_seconds(module, batch) for _ in range(1 + updates)]
    return {"update": median(clock.seconds[1:]), "lstm": median(lstm[1:])}


def main(arguments: list[str] | None = None) -> None:
    """Measures and prints."""
    options = parser().parse_args(arguments)
    if options.side is not None:
        if options.side != "peer":
            allocator.keep_freed_memory()  # as the command does
        batch = torch.load(options.batch, weights_only=False)  # this benchmark's own
        print(json.dumps(measured(options.side, batch, updates=options.updates)))
        return
    print(f"processor  {measure.processor()}")
    if not cpu_has_bf16():
        print("precision  32-true: without bf16 in the processor, the command falls back to float32")
    print(f"setting    {options.game}, hard-500, {options.num_envs} environments, {options.updates} updates measured")
    for num_steps in options.num_steps:
        _compare(options, num_steps)


def _compare(options: argparse.Namespace, num_steps: int) -> None:
    env_steps, frames = options.num_envs * num_steps, options.num_envs * (num_steps + 1)
    rounds: list[dict[str, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "batch.pt"
        torch.save(collected(options.game, num_envs=options.num_envs, num_steps=num_steps), path)
        passed = ["--batch", str(path), "--updates", str(options.updates)]
        for number in range(1, options.rounds + 1):
            found = {side: _in_fresh_process(side, passed) for side in SIDES}
            rounds.append(found)
            rates = ", ".join(f"{side} {env_steps / found[side]['update']:.0f}" for side in SIDES)
            print(f"unroll {num_steps:<3} round {number}: env steps/s {rates}", flush=True)
    seconds = {side: [found[side]["update"] for found in rounds] for side in SIDES}
    ours, without, peers = (median(seconds[side]) for side in SIDES)
    speed = measure.Ratios(pairs=list(zip(seconds["peer"], seconds["with_vae"], strict=True)))
    print(
        f"unroll {num_steps:<3} learner with VAE {env_steps / ours:.0f} env steps/s, written the usual way"
        f" {env_steps / peers:.0f}; ratio {speed}"
        f" ({'at least' if median(speed.each) >= WANTED_SPEED else 'BELOW'} {WANTED_SPEED:g})"
    )
    cost = measure.Ratios(pairs=list(zip(seconds["with_vae"], seconds["without_vae"], strict=True)))
    print(
        f"unroll {num_steps:<3} ms per frame with VAE {1000 * ours / frames:.3f}, without"
        f" {1000 * without / frames:.3f}; ratio {cost}"
        f" ({'at most' if median(cost.each) <= WANTED_COST else 'ABOVE'} {WANTED_COST:g})"
    )
    shares = {side: median(found[side]["lstm"] / found[side]["update"] for found in rounds) for side in SIDES[:2]}
    print(
        f"unroll {num_steps:<3} LSTM, forwards and backwards: {shares['with_vae']:.1%} of an update with VAE,"
        f" {shares['without_vae']:.1%} without",
        flush=True,
    )


def _in_fresh_process(side: str, passed: list[str]) -> dict[str, float]:
    found: dict[str, float] = measure.in_fresh_process("tests.benchmarks.impala", ["--side", side, *passed])
    return found


def _config(name: str) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((measure.REPOSITORY / "configs" / name).read_text(encoding="utf-8"))
    return values


class _Clock(Callback):
    """The seconds of every update."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.seconds.append(time.perf_counter() - self._start)


def _lstm_seconds(module: ImpalaModule, batch: EncodedUnrolls) -> float:
    """The LSTM by itself, forwards and backwards over the parts of an update, in as many threads."""
    network, micro_batches = module.network, module.micro_batches
    assert micro_batches is not None

    def stepped(part: EncodedUnrolls) -> None:
        inputs = torch.ones(*part.obs.shape[:2], network.lstm.input_size, requires_grad=True)
        starts = torch.cat([part.recurrent_inputs.starts[None], part.terminated])
        outputs, _ = network._unroll_lstm(inputs, opening_steps(starts), starts, part.recurrent_inputs.state)
        torch.autograd.grad(outputs.sum(), [inputs, *network.lstm.parameters()])

    start = time.perf_counter()
    list(threads(micro_batches.num_threads).map(stepped, batch.split(micro_batches)))
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
