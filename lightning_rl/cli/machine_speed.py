"""`lightning-rl doctor --benchmark`: what PPO reaches on this machine, and which of its stages is the bound."""

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from lightning_rl.cli.finding import Finding
from lightning_rl.cli.program import main
from lightning_rl.data.collector import Collector
from lightning_rl.data.evaluation_dataset import UniformPolicy
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.envs.side_by_side import with_statistics
from lightning_rl.runs.metrics_csv import read_metrics

_ADVICE = {
    "games": "more cores would play more games at once; --data.halves 2 lets them play while the policy decides",
    "acting": "more environments (--data.num_envs) let one call of the network decide for more of them",
    "learning": "a smaller network (--model.width, --model.channels) or fewer --model.epochs would learn faster",
}


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What is measured.

    Args:
        game: on its 200 easy levels.
        num_envs: environments.
        num_steps: steps of each in a rollout.
        minibatch_size: samples of an update.
        iterations: rollouts, the first of which is not measured.
        accelerator: Lightning's `trainer.accelerator`.
    """

    game: str = "starpilot"
    num_envs: int = 64
    num_steps: int = 32
    minibatch_size: int = 1024
    iterations: int = 3
    accelerator: str = "auto"


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Seconds that each stage takes for an env step.

    Args:
        games: playing, without a policy.
        acting: what collecting takes beyond that.
        learning: all passes over the rollout.
    """

    games: float
    acting: float
    learning: float

    @property
    def bound(self) -> str:
        """The stage that takes longest."""
        return max(vars(self), key=lambda name: float(getattr(self, name)))

    @property
    def shares(self) -> dict[str, float]:
        """Of the whole."""
        return {name: seconds / sum(vars(self).values()) for name, seconds in vars(self).items()}


def usual_sizes() -> Sizes:
    """About a minute's work: a GPU learns in seconds from a rollout that takes a CPU a minute."""
    if torch.cuda.is_available():
        return Sizes(num_steps=256, minibatch_size=2048, iterations=5)
    return Sizes()


def findings(sizes: Sizes) -> Iterator[Finding]:
    """The speed of the whole and of its stages, and the bound.

    Args:
        sizes: what to measure.
    """
    rate, stages = measured(sizes)
    what = f"{sizes.game}, {sizes.num_envs} × {sizes.num_steps}, 3 epochs"
    yield Finding("ok", "PPO", f"{rate:.0f} env steps/s ({what})")
    for name, seconds in vars(stages).items():
        found = f"{1 / seconds:.0f} env steps/s alone" if seconds > 0 else "takes no time beside the games"
        yield Finding("ok", name, f"{found}, {stages.shares[name]:.0%} of the time")
    yield Finding("note", "bound", stages.bound, _ADVICE[stages.bound])


def measured(sizes: Sizes) -> tuple[float, Stages]:
    """Env steps per second of training, everything included but validation and saving, and what its stages take."""
    games = 1 / _rate_of_games(sizes)
    with tempfile.TemporaryDirectory() as folder:
        rows = _trained(sizes, Path(folder) / "run")[1:]
    rate = median(row["time/env_steps_per_second"] for row in rows)
    collecting, learning = (
        median(row[f"time/{stage}"] / (row["time/collecting"] + row["time/learning"]) for row in rows) / rate
        for stage in ("collecting", "learning")
    )
    return rate, Stages(games=games, acting=max(0.0, collecting - games), learning=learning)


def _rate_of_games(sizes: Sizes) -> float:
    """Env steps per second of the games as training plays them, with random actions."""
    data = ProcgenDataModule(game=sizes.game, num_envs=sizes.num_envs, num_steps=sizes.num_steps, halves=1)
    env = with_statistics(data.training_games()(sizes.num_envs, 0))
    collector, policy = Collector(env, num_steps=sizes.num_steps, seed=0), UniformPolicy(data.num_actions)
    seconds = []
    for _ in range(sizes.iterations):
        began = time.perf_counter()
        collector.collect(policy)
        seconds.append(time.perf_counter() - began)
    collector.close()
    return sizes.num_envs * sizes.num_steps / min(seconds)


def _trained(sizes: Sizes, run_dir: Path) -> list[dict[str, float]]:
    """The rows of metrics of a run, as the command trains it on this machine."""
    options = {
        "run_dir": run_dir,
        "trainer.accelerator": sizes.accelerator,
        "trainer.devices": 1,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.check_val_every_n_epoch": sizes.iterations + 1,
        "data.game": sizes.game,
        "data.num_envs": sizes.num_envs,
        "data.num_steps": sizes.num_steps,
        "data.total_env_steps": sizes.iterations * sizes.num_envs * sizes.num_steps,
        "data.predict_episodes": 1,  # shown at the end, which is not measured
        "seed_everything": 6,
        "model.minibatch_size": sizes.minibatch_size,
    }
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    arguments = ["fit", "--config", "ppo", *flags]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        status = main(arguments)
    if status != 0:
        raise RuntimeError(f"training ended with {status}: {said.getvalue().strip().splitlines()[-1]}")
    rows = read_metrics(run_dir / "metrics.csv")
    return [{key: float(value) for key, value in row.items() if key.startswith("time/")} for row in rows]
