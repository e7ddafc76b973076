"""The studies of RESULTS.md, run by run: `taskset -c 0 python -m tests.benchmarks.studies --runs runs`.

Trains each run by `fit` on one thread, judges it by `test`, and keeps its small files in `.github/results`. What is
kept there already is left out, and what was stopped in `--runs` goes on, so the command is given as often as it takes.
Given twice, each on a core of its own, the two share the list: a run in which the other trains is passed over.
`lightning-rl report .github/results` shows what came out.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from tests.benchmarks import measure

KEPT = measure.REPOSITORY / ".github" / "results"
_SEEDS = (1, 2, 3)


class Study(NamedTuple):
    """Runs that differ in game and seed only.

    Args:
        name: the beginning of the runs' names.
        configs: names of the configs, the method's first.
        games: each with all seeds.
        options: of `fit`, further ones.
        seeds: one run each.
    """

    name: str
    configs: tuple[str, ...]
    games: tuple[str, ...]
    options: tuple[str, ...] = ()
    seeds: tuple[int, ...] = _SEEDS


class Run(NamedTuple):
    """One training.

    Args:
        name: of its folder.
        options: of `fit`, without its folder.
    """

    name: str
    options: tuple[str, ...]


_HALF_A_MILLION = ("--data.total_env_steps", "500000")
_REAL_STEPS = ("--data.total_env_steps", "102400")
_EARLIER_POLICY = (  # SimPLe's policy as it learned while its steps were too large: most of its features died
    "--model.learning_rate", "1e-3", "--model.epsilon", "0.2", "--model.epochs", "8",
    "--model.imagined_outcomes", "likeliest", "--model.outer_loop.imagined_steps", "16000",
)  # fmt: skip
_HARD = ("--data.total_env_steps", "5000000", "--data.num_actors", "0")
STUDIES = (
    Study("ppo", ("ppo",), ("coinrun", "starpilot"), _HALF_A_MILLION),
    Study("impoola", ("ppo", "variants/impoola"), ("starpilot", "coinrun"), _HALF_A_MILLION),
    Study("impala", ("impala_cpu",), ("starpilot",), _HALF_A_MILLION),
    Study("impala_vae", ("impala_vae_cpu",), ("starpilot",), _HALF_A_MILLION),
    Study("surprise", ("impala_vae_cpu", "variants/surprise"), ("starpilot",), _HALF_A_MILLION),
    Study("rnd", ("ppo_distill_rnd",), ("starpilot", "coinrun"), _HALF_A_MILLION),
    # with PPO's ε the teacher hardly learns: how much of the gain is novelty?
    Study(
        "rnd_slow_teacher",
        ("ppo_distill_rnd",),
        ("starpilot",),
        (*_HALF_A_MILLION, "--model.distillation.adam_epsilon", "1e-5"),
    ),
    Study("paper", ("ppo_distill",), ("starpilot",), _HALF_A_MILLION),
    # the second game of IMPALA's is one on which it is above random play after 200 000 env steps
    Study("probe_impala", ("impala_cpu",), ("coinrun", "fruitbot"), ("--data.total_env_steps", "200000"), (1,)),
    Study("simple", ("simple_atari_cpu",), ("ms_pacman",), _REAL_STEPS),
    Study("simple_earlier", ("simple_atari_cpu",), ("ms_pacman",), (*_REAL_STEPS, *_EARLIER_POLICY), (1,)),
    # of two learning rates and two lengths of rollouts, the best by seed 1 is to be PPO's there
    Study("ppo", ("ppo_atari",), ("ms_pacman",), _REAL_STEPS, (1,)),
    Study("probe_rate", ("ppo_atari",), ("ms_pacman",), (*_REAL_STEPS, "--model.learning_rate", "1e-3"), (1,)),
    Study("probe_length", ("ppo_atari",), ("ms_pacman",), (*_REAL_STEPS, "--data.num_steps", "32"), (1,)),
    # for the shape of their figures 4 and 5; no actors, so that a run that was stopped goes on exactly
    Study("hard", ("impala",), ("starpilot",), _HARD, (1,)),
    Study("hard_vae", ("impala_vae",), ("starpilot",), _HARD, (1,)),
)


def runs(studies: tuple[Study, ...] = STUDIES) -> Iterator[Run]:
    """All of them, in the order in which they are trained."""
    for study in studies:
        configs = [part for name in (*study.configs, "hardware/cpu") for part in ("--config", f"configs/{name}.yaml")]
        one_thread = ("--model.micro_batches.num_threads", "1")
        for game in study.games:
            for seed in study.seeds:
                own = ("--data.game", game, "--seed_everything", str(seed))
                yield Run(f"{study.name}_{game}_{seed}", (*configs, *one_thread, *study.options, *own))


def train(run: Run, folder: Path, *, episodes: int) -> bool:
    """Trains and judges a run, or goes on with it.

    Returns:
        Whether it is done; not so where it failed, or where another process trains it.
    """
    program = [sys.executable, "-m", "lightning_rl"]
    fit = [*program, "fit", *run.options, "--run_dir", str(folder), "--ckpt_path", "last"]
    test = [*program, "test", "--ckpt_path", str(folder / "last.ckpt"), "--data.test_episodes", str(episodes)]
    environment = os.environ | {"PYTHONPATH": str(measure.REPOSITORY), "OMP_NUM_THREADS": "1"}
    for command in (fit, test):
        if subprocess.run(command, cwd=measure.REPOSITORY, env=environment, check=False).returncode:
            return False
    return True


def keep(folder: Path, kept: Path) -> None:
    """Copies the small files of a finished run, its config without the paths of this machine."""
    kept.mkdir(parents=True, exist_ok=True)
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    config |= {"run_dir": None, "ckpt_path": None}
    (kept / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    shutil.copyfile(folder / "metrics.csv", kept / "metrics.csv")
    measured = json.loads((folder / "test.json").read_text(encoding="utf-8"))
    measured |= {"checkpoint": Path(measured["checkpoint"]).name}
    (kept / "test.json").write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Trains what is missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.studies", description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="folder for the runs; what is there goes on")
    parser.add_argument("--kept", type=Path, default=KEPT, help="folder for their small files")
    parser.add_argument("--only", nargs="+", default=[""], help="beginnings of the names of runs")
    parser.add_argument("--episodes", type=measure.positive, default=512, help="per level set in `test`")
    parser.add_argument("--list", action="store_true", help="only print what is missing")
    args = parser.parse_args(arguments)
    for run in runs():
        if not run.name.startswith(tuple(args.only)) or (args.kept / run.name / "test.json").exists():
            continue
        if args.list:
            print(run.name, *run.options)
        elif train(run, args.runs.resolve() / run.name, episodes=args.episodes):
            keep(args.runs / run.name, args.kept / run.name)
        else:
            print(f"{run.name} is not done: it failed or was stopped, or another process trains it")


if __name__ == "__main__":
    main()
