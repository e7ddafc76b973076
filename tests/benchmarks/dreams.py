"""How well a run's world model predicts play that it never saw: `python -m tests.benchmarks.dreams RUN_DIR`.

The run's own policy, or uniformly random actions, play anew on all levels of the game (on Atari: from another seed).
The model predicts each next frame and reward, and imagines 50 steps along the real actions. Its squared error stands
beside that of copying the last frame seen, its balanced reward accuracy beside that of always saying the most frequent
reward, and the likeliest and the expected reward of its steps, which pay a policy, beside the game's. Intervals are
95 % bootstrap intervals over windows.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from jaxtyping import Float64
from torch import Tensor

from lightning_rl.callbacks.world_model_report import imagination
from lightning_rl.cli.command import RunCLI
from lightning_rl.cpu import allocator
from lightning_rl.data.collector import Collector
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.world_model import reward_classes
from lightning_rl.runs import checkpoint_files
from lightning_rl.types import Windows
from tests.benchmarks import measure

_NUM_ENVS, _NUM_STEPS, _LENGTH = 32, 150, 50
_SEED = 12345
_RESAMPLES = 2000
_SHOWN = (1, 2, 5, 10, 20, 30, 40, 50)
_STRETCHES = ((1, 1), (2, 3), (4, 6), (7, 10), (11, 20), (21, 50))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.dreams", description=__doc__)
    result.add_argument("run_dir", type=Path, help="folder of a SimPLe run")
    result.add_argument("--policy", choices=["own", "random"], default="own", help="who plays")
    result.add_argument("--steps", type=measure.positive, default=2048, help="single steps to predict")
    result.add_argument("--rollouts", type=measure.positive, default=64, help="of 50 steps to imagine")
    return result


def interval(values: Float64[Tensor, "R"]) -> str:
    """Ends of the middle 95 % of resampled values."""
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return f"[{low:.3f}, {high:.3f}]"


def resampled(count: int) -> Tensor:
    """Which of so many windows each resample holds."""
    return torch.randint(count, (_RESAMPLES, count), generator=torch.Generator().manual_seed(_SEED))


def loaded(run_dir: Path) -> tuple[SimPLeModule, RunCLI]:
    """The run's module with its last weights, acting in the precision that it learned in."""
    checkpoint = run_dir / checkpoint_files.LAST
    cli = RunCLI(["validate", "--config", str(run_dir / "config.yaml"), "--ckpt_path", str(checkpoint)])
    module = cli.model
    if not isinstance(module, SimPLeModule):
        raise TypeError(f"expected a run of SimPLeModule, {run_dir} is one of {type(module).__name__}")
    module.load_state_dict(checkpoint_files.read(checkpoint)["state_dict"])
    module.trainer = cli.trainer
    module.setup("validate")
    return module, cli


def played(module: SimPLeModule, cli: RunCLI, folder: Path, *, policy: str) -> ReplayBuffer:
    """Play on all levels."""
    data = cli.datamodule
    env = data.games(_NUM_ENVS, data.level_sets["full_distribution"], _SEED)
    replay = ReplayBuffer(folder, game=data.game, num_frames=data.frame_stack)
    collector = Collector(env, num_steps=_NUM_STEPS, seed=_SEED)
    replay.append(collector.collect(module if policy == "own" else UniformPolicy(data.num_actions)))
    env.close()
    return replay


def tell_of_steps(module: SimPLeModule, windows: Windows) -> None:
    """Prints errors of next frames, and accuracies of rewards."""
    first = module.num_frames - 1
    said = imagination(module, windows, torch.Generator().manual_seed(_SEED))
    goes_on = ~windows.ended[:, first]
    before, after = windows.frames[goes_on, first].double(), windows.frames[goes_on, first + 1].double()
    errors, copied = (
        (frames - after).square().mean((1, 2, 3)) for frames in (said.frames[goes_on, 0].double(), before)
    )
    picks = resampled(len(errors))
    ratios = errors[picks].mean(1) / copied[picks].mean(1)
    print(f"next frame, {len(errors)} steps: squared error {errors.mean():.2f}, copying {copied.mean():.2f}")
    print(f"  ratio {errors.mean() / copied.mean():.3f} {interval(ratios)}")
    values = module.reward_values.cpu()
    real = reward_classes(windows.rewards[:, first], values)
    right = (reward_classes(said.rewards[:, 0], values) == real).double()
    classes = real.unique()
    picks = resampled(len(real))
    recalls = torch.stack(
        [
            (right[picks] * (real[picks] == number)).sum(1) / (real[picks] == number).sum(1).clamp(min=1)
            for number in classes
        ]
    )
    counts = {f"{float(values[number]):g}": int((real == number).sum()) for number in classes}
    each = [f"{float(right[real == number].mean()):.3f}" for number in classes]
    mean = torch.stack([right[real == number].mean() for number in classes]).mean()
    print(f"rewards {counts}, right: {', '.join(each)}")
    print(f"  balanced accuracy {mean:.3f} {interval(recalls.mean(0))}, majority {1 / len(classes):.3f}")


def tell_of_rollouts(module: SimPLeModule, windows: Windows) -> None:
    """Prints errors along imagined play."""
    said = imagination(module, windows, torch.Generator().manual_seed(_SEED))
    first = module.num_frames - 1
    valid = (windows.valid & ~windows.ended)[:, first:].cummin(1).values  # frames of the same episode
    start = windows.frames[:, first : first + 1].double()
    real = windows.frames[:, first + 1 :].double()
    print("imagined play: step, squared error, of copying the first frame, pieces")
    for step in _SHOWN:
        rows = valid[:, step - 1]
        error = (said.frames[rows, step - 1].double() - real[rows, step - 1]).square().mean()
        copied = (start[rows, 0] - real[rows, step - 1]).square().mean()
        print(f"  {step:2d}  {error:8.2f}  {copied:8.2f}  {int(rows.sum())}")
    print("reward of a step: steps, the game's, the likeliest, the expected one")
    for begin, end in _STRETCHES:
        steps = slice(begin - 1, end)
        rows = valid[:, steps]
        paid = (windows.rewards[:, first:][:, steps], said.rewards[:, steps], said.expected_rewards[:, steps])
        means = "  ".join(f"{rewards[rows].mean():8.4f}" for rewards in paid)
        print(f"  {begin:2d} to {end:2d}  {means}")


def main() -> None:
    """Measures and prints."""
    args = parser().parse_args()
    allocator.keep_freed_memory()
    module, cli = loaded(args.run_dir)
    with tempfile.TemporaryDirectory() as folder:
        replay = played(module, cli, Path(folder), policy=args.policy)
        generator = torch.Generator().manual_seed(_SEED)
        tell_of_steps(module, replay.sample(args.steps, num_targets=1, generator=generator))
        tell_of_rollouts(module, replay.sample(args.rollouts, num_targets=_LENGTH, generator=generator))


if __name__ == "__main__":
    main()
