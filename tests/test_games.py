"""Every game of the benchmark, in both of its published modes, from frames to an optimiser step."""

import pytest
import torch
from pytorch_lightning import Trainer

from lightning_rl import PPODistillModule, ProcgenDataModule
from lightning_rl.envs.procgen import GAMES


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # operators on three frames are too small to share


@pytest.mark.parametrize("distribution_mode", ["easy", "hard"])
@pytest.mark.parametrize("game", GAMES)
def test_an_agent_learns_from_a_few_hundred_steps_of(game: str, distribution_mode: str) -> None:
    data = ProcgenDataModule(game=game, distribution_mode=distribution_mode, num_envs=3, num_steps=100)
    module = PPODistillModule(minibatch_size=300, epochs=1)
    before = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    trainer = Trainer(
        max_epochs=1,
        limit_val_batches=0,
        log_every_n_steps=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    trainer.fit(module, data)

    after = torch.cat([parameter.detach().flatten() for parameter in module.parameters()])
    assert data.env_steps == 300
    assert trainer.global_step == 1
    assert not torch.equal(after, before)
