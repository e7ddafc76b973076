"""How SimPLe's policy learns in a world model that is done: `python -m tests.benchmarks.recipes`.

A fresh policy takes passes of Algorithm 1 in the world model of a policy folder, which learns nothing more: a rollout
of real play, then imagined play from its frames. After each pass it plays real episodes. What follows `--` is given to
`fit`, so that recipes can be compared: `-- --model.learning_rate 1e-3 --model.epochs 8`.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

from lightning_rl.cli.command import RunCLI
from lightning_rl.cpu import allocator
from lightning_rl.data.collector import Collector
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.optimizers import clip_groups
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.policies.folder import WORLD_MODEL
from tests.benchmarks import measure

_CONFIGS = ("simple_atari_cpu", "hardware/cpu")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.recipes", description=__doc__)
    folder = measure.REPOSITORY / "checkpoints" / "simple-ms-pacman"
    result.add_argument("--folder", type=Path, default=folder, help="policy folder of SimPLe, with its world model")
    result.add_argument("--passes", type=measure.positive, default=3)
    result.add_argument("--episodes", type=measure.positive, default=32, help="real ones after each pass")
    result.add_argument("fit", nargs="*", help="options of fit")
    return result


def built(folder: Path, options: list[str], run_dir: str) -> tuple[SimPLeModule, RunCLI]:
    """A fresh policy with the folder's world model."""
    configs = [part for name in _CONFIGS for part in ("--config", str(measure.REPOSITORY / f"configs/{name}.yaml"))]
    cli = RunCLI(["fit", *configs, "--model.micro_batches.num_threads", "1", "--run_dir", run_dir, *options])
    module = cli.model
    if not isinstance(module, SimPLeModule):
        raise TypeError(f"expected SimPLeModule, found {type(module).__name__}")
    weights = {name: values.float() for name, values in load_file(folder / WORLD_MODEL).items()}
    module.world_model.load_state_dict(weights)
    module.trainer = cli.trainer
    module.setup("validate")
    return module, cli


def learn(module: SimPLeModule, collector: Collector, optimizer: torch.optim.Optimizer) -> None:
    """One pass's imagined play, and the policy's updates on it."""
    slices = module.outer_loop.slices(int(module.pass_index), module.num_imagined_envs * module.imagined_length)
    module.slice_index.fill_([part.phase for part in slices].index("policy"))
    while module.slice.phase == "policy":
        for batch in module.batches(collector):
            with module.precision():
                losses = module.objective(batch, collector.generator).losses
            optimizer.zero_grad()
            torch.stack([weight * losses[name] for name, weight in module.weights(batch).items()]).sum().backward()
            clip_groups(optimizer.param_groups, max_norm=module.max_grad_norm)
            optimizer.step()


def main() -> None:
    """Learns and prints."""
    args = parser().parse_args()
    allocator.keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        module, cli = built(args.folder, args.fit, folder)
        data, optimizer = cli.datamodule, module.configure_optimizers()
        everything = data.level_sets["full_distribution"]
        replay = ReplayBuffer(Path(folder) / "replay", game=data.game, num_frames=data.frame_stack)
        env = data.games(data.num_envs, everything, 1)
        collector = Collector(env, num_steps=data.num_steps, seed=1, replay=replay)
        for number in range(args.passes):
            replay.append(collector.collect(module if number else UniformPolicy(data.num_actions)))
            learn(module, collector, optimizer)
            (episodes,) = data.evaluation("full_distribution", module, num_envs=args.episodes)
            spread = 1.96 * episodes.returns.std() / len(episodes.returns) ** 0.5
            print(f"pass {number + 1}: return {episodes.returns.mean():.0f} ± {spread:.0f}", flush=True)
        env.close()


if __name__ == "__main__":
    main()
