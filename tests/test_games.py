"""Every game of the benchmark, in both of its published modes, through the command itself."""

from pathlib import Path

import pytest

from lightning_rl.cli import main
from lightning_rl.envs.procgen import GAMES


@pytest.mark.parametrize("distribution_mode", ["easy", "hard"])
@pytest.mark.parametrize("game", GAMES)
def test_fit_learns_from_a_few_hundred_steps_of(game: str, distribution_mode: str, tmp_path: Path) -> None:
    overrides = {
        "--data.game": game,
        "--data.distribution_mode": distribution_mode,
        "--data.num_envs": "3",
        "--data.num_steps": "100",
        "--model.minibatch_size": "300",
        "--model.epochs": "1",
        "--trainer.fast_dev_run": "1",
        "--trainer.limit_val_batches": "0",
        "--trainer.accelerator": "cpu",
        "--run_dir": str(tmp_path / "run"),
    }

    status = main(["fit", "--config", "configs/ppo.yaml", *(word for pair in overrides.items() for word in pair)])

    assert status == 0
