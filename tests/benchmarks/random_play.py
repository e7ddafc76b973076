"""What uniformly random play returns in every game of Procgen: the baseline that `lightning-rl report` ships.

Played by the package's own evaluation on all levels. The rows that are there already are not measured again, so that
the measurement can be stopped and given again.
"""

import argparse
import csv
from pathlib import Path

from lightning_rl.data.evaluation_dataset import EvaluationDataset, UniformPolicy
from lightning_rl.envs.procgen import ProcgenVectorEnv
from lightning_rl.envs.procgen_games import GAMES, NUM_ACTIONS
from lightning_rl.envs.statistics import EpisodeStatistics

COLUMNS = (
    *("distribution_mode", "game", "run", "episodes", "env_steps"),
    *("return_mean", "return_variance", "return_max", "return_min"),
)
_NUM_ENVS = 32


def measured(game: str, distribution_mode: str, *, run: int, episodes: int) -> tuple[str | int | float, ...]:
    """One row: the mean of so many episodes, with seeds of the run's own."""
    dataset = EvaluationDataset(
        "full_distribution",
        lambda: EpisodeStatistics(
            ProcgenVectorEnv(
                game,
                num_envs=_NUM_ENVS,
                seed=1000 + run,
                distribution_mode=distribution_mode,
                num_levels=0,
                start_level=0,
                num_threads=0,
            )
        ),
        UniformPolicy(NUM_ACTIONS),
        episodes_per_env=max(episodes // _NUM_ENVS, 1),
        seed=2000 + run,
    )
    [played] = dataset
    returns = played.returns
    variance = float(returns.var(correction=0))
    return (
        distribution_mode,
        game,
        run,
        len(returns),
        int(played.lengths.sum()),
        round(float(returns.mean()), 4),
        round(variance, 4),
        round(float(returns.max()), 4),
        round(float(returns.min()), 4),
    )


def main() -> None:
    """Measures what the file lacks, a row at a time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("procgen_random_play.csv"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=256)
    parser.add_argument("--modes", nargs="+", default=["easy", "hard"])
    args = parser.parse_args()
    if not args.out.exists():
        args.out.write_text(",".join(COLUMNS) + "\n")
    with args.out.open() as file:
        known = {(row["distribution_mode"], row["game"], int(row["run"])) for row in csv.DictReader(file)}
    for run in range(args.runs):
        for mode in args.modes:
            for game in GAMES:
                if (mode, game, run) not in known:
                    row = measured(game, mode, run=run, episodes=args.episodes)
                    with args.out.open("a") as file:
                        file.write(",".join(map(str, row)) + "\n")


if __name__ == "__main__":
    main()
