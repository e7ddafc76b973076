"""What a second rank is worth: `python -m tests.benchmarks.scaling`.

`lightning-rl fit` with one rank of one thread, and with two of them under DDP, one after the other in every round. Each
rank has the same games, rollouts and minibatches in both, so two ranks ought to take twice the env steps in a second.
The number is the share of that which they reach; env steps per second are medians over a run's iterations but the
first, everything included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from lightning_rl.runs.metrics_csv import read_metrics
from tests.benchmarks import measure

WANTED = 0.85
METHODS: dict[str, dict[str, object]] = {
    "ppo": {"data.num_envs": 16, "data.num_steps": 256, "model.epochs": 2, "model.minibatch_size": 1024},
    "impala": {"data.num_envs": 16, "data.num_steps": 32, "data.num_actors": 0, "data.iterations_per_epoch": 2},
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(prog="python -m tests.benchmarks.scaling", description=__doc__)
    result.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    result.add_argument("--rounds", type=measure.positive, default=3, help="how often to compare")
    result.add_argument("--epochs", type=measure.positive, default=6, help="measured, after one that is not")
    result.add_argument("--game", default="starpilot")
    return result


def command(method: str, run_dir: Path, *, num_ranks: int, game: str, epochs: int) -> list[str]:
    """The `fit` of a side."""
    own = METHODS[method]
    options = own | {
        "run_dir": run_dir,
        "trainer.devices": num_ranks,
        "trainer.strategy": "auto" if num_ranks == 1 else "ddp",
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.max_epochs": epochs,
        "trainer.check_val_every_n_epoch": epochs + 1,
        "data.game": game,
        "data.predict_episodes": 1,  # the video at the end is not measured
        "model.micro_batches.num_threads": 1,
    }
    configs = (f"{method}.yaml", "hardware/cpu.yaml")
    named = [part for name in configs for part in ("--config", str(measure.REPOSITORY / "configs" / name))]
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "lightning_rl", "fit", *named, *flags]


def env_steps_per_second(method: str, *, num_ranks: int, game: str, epochs: int) -> float:
    """Of all ranks together, in a run of its own.

    Raises:
        RuntimeError: the run failed; its stderr is in the message.
    """
    with tempfile.TemporaryDirectory() as folder:
        run_dir = Path(folder) / "run"
        done = subprocess.run(
            command(method, run_dir, num_ranks=num_ranks, game=game, epochs=epochs + 1),
            cwd=measure.REPOSITORY,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"{num_ranks} ranks of {method} ended with {done.returncode}:\n{done.stderr}")
        rows = read_metrics(run_dir / "metrics.csv")[1:]
    # the column is the mean over ranks, each of which counts the env steps of all
    return median(float(row["time/env_steps_per_second"]) for row in rows)


def main() -> None:
    """Measures and prints."""
    asked = parser().parse_args()
    sys.stdout.write(f"{measure.processor()}\n")
    for method in asked.methods:
        pairs = []
        for _ in range(asked.rounds):
            one, two = (
                env_steps_per_second(method, num_ranks=number, game=asked.game, epochs=asked.epochs)
                for number in (1, 2)
            )
            pairs.append((two, 2 * one))
            sys.stdout.write(f"{method}: one rank {one:.0f} env steps/s, two {two:.0f}\n")
            sys.stdout.flush()
        sys.stdout.write(
            f"{method}: of twice one rank's speed, two reach {measure.Ratios(pairs=pairs)}; wanted {WANTED}\n"
        )


if __name__ == "__main__":
    main()
