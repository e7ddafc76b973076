"""What the processes of tests begin with: done by the server that they are forked from, which starts no thread."""

from pathlib import Path

import av
import matplotlib.pyplot
import wandb

from lightning_rl.cli.command import RunCLI
from lightning_rl.envs.procgen import ProcgenVectorEnv
from tests.support.runs import fit_args

__all__ = ["av", "matplotlib", "wandb"]

ProcgenVectorEnv("coinrun", num_envs=1, seed=0, num_threads=0).close()  # reads all pictures of all games
RunCLI(fit_args(Path("absent")))  # reads the docstrings and types of all options
