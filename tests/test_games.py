"""Every game of the benchmark, in both of its published modes, from frames to an optimiser step."""

import json
from itertools import product
from pathlib import Path

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_rl import PPOModule, ProcgenDataModule
from lightning_rl.cli.program import main
from lightning_rl.cpu.bfloat16 import cpu_has_bf16
from lightning_rl.envs.procgen_games import GAMES
from tests.support.methods import CONFIGS
from tests.support.runs import ENV_STEPS, load

ALWAYS = [("coinrun", "easy"), ("maze", "hard")]  # tests/envs/test_procgen.py plays all


@pytest.mark.parametrize(
    ("game", "distribution_mode"),
    [
        pytest.param(*setting, marks=[] if setting in ALWAYS else pytest.mark.slow)
        for setting in product(GAMES, ("easy", "hard"))
    ],
)
def test_an_agent_learns_from_a_few_hundred_steps_of(game: str, distribution_mode: str) -> None:
    data = ProcgenDataModule(game=game, distribution_mode=distribution_mode, num_envs=7, num_steps=30)
    module = PPOModule(minibatch_size=210, epochs=1)
    before = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    trainer = Trainer(
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        accelerator="cpu",
        precision="bf16-mixed" if cpu_has_bf16() else "32-true",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    trainer.fit(module, data)

    after = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert data.env_steps == 210
    assert trainer.global_step == 1
    assert not torch.equal(after, before)


@pytest.mark.slow
@pytest.mark.parametrize("num_actors", [0, 2])
@pytest.mark.parametrize("game", ["coinrun", "starpilot", "chaser", "maze"])
@pytest.mark.parametrize("method", ["impala", "impala_vae"])
def test_every_command_of_the_paper_runs_on(method: str, game: str, num_actors: int, tmp_path: Path) -> None:
    small = {"num_envs": 2, "num_steps": 16, "num_actors": num_actors, "iterations_per_epoch": 1}
    episodes = {f"{use}_episodes": 1 for use in ("validation", "test", "predict")}
    budget = {"total_env_steps": 2 * ENV_STEPS}
    data = [text for key, value in (small | budget | episodes).items() for text in (f"--data.{key}", str(value))]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.precision", "bf16-mixed", "--trainer.logger", "false"]
    paper = ["--config", str(CONFIGS / f"{method}.yaml"), "--data.game", game]
    assert main(["fit", *paper, "--run_dir", str(tmp_path), *data, *trainer]) == 0

    checkpoint = str(tmp_path / "last.ckpt")
    (tmp_path / "media" / "episodes.mp4").unlink()
    for command in ("validate", "test", "predict"):
        assert main([command, "--ckpt_path", checkpoint]) == 0

    assert load(tmp_path)["ProcgenDataModule"]["env_steps"] == 2 * ENV_STEPS
    report = json.loads((tmp_path / "test.json").read_text())
    assert (report["method"], report["game"], report["distribution_mode"]) == (method, game, "hard")
    assert report["level_sets"]["train_levels"]["num_levels"] == 500
    assert (tmp_path / "media" / "episodes.mp4").exists()
