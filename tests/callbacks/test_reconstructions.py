import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer

from lightning_rl.callbacks.graceful_stop import StopAtBoundary
from lightning_rl.callbacks.reconstructions import AutoencoderPictures
from lightning_rl.data.procgen import ProcgenDataModule
from lightning_rl.modules.impala import ImpalaModule
from lightning_rl.modules.impala_vae import ImpalaVAEModule, VAEConfig
from lightning_rl.modules.ppo_distill import PPODistillModule
from tests.support.full_disk import RememberingWandb, leave_no_room_for
from tests.support.runs import load
from tests.support.shared_runs import SharedRuns

LATENT = 3
ROW = 2 * (64 + 2)  # pixels that another row of images adds


class Training:
    """A run of 100 env steps as the callback sees it, in a process of its own: nothing is trained."""

    def __init__(self, run_dir: Path, *, module: Any = None, seed: int = 0, **options: Any) -> None:
        sizes: dict[str, Any] = {"num_actions": 15, "obs_shape": (64, 64, 3)}
        torch.manual_seed(0)
        self.module: Any = module or ImpalaVAEModule(**sizes, vae=VAEConfig(latent_size=LATENT))
        self.data = ProcgenDataModule(game="starpilot", total_env_steps=100, seed=seed)
        self.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, **options)
        self.trainer.datamodule = self.data  # type: ignore[attr-defined]
        self.callback = AutoencoderPictures(run_dir, title="VAE on starpilot")

    def at(self, env_steps: int) -> "Training":
        self.data.load_state_dict({"env_steps": env_steps, "collectors": []})
        return self

    def start(self) -> "Training":
        self.callback.on_train_start(self.trainer, self.module)
        return self

    def epoch_ends(self, *env_steps: int) -> "Training":
        for steps in env_steps:
            self.module.vae.decoder[-1].bias.data += 0.3  # as if it learned
            self.at(steps).callback.on_train_epoch_end(self.trainer, self.module)
        return self

    def end(self) -> "Training":
        self.callback.on_train_end(self.trainer, self.module)
        return self

    def kept(self) -> list[int]:
        steps: list[int] = self.callback.state_dict()["env_steps"]
        return steps

    def height(self) -> int:
        with Image.open(self.callback.reconstructions) as picture:
            return int(picture.height)


def test_a_run_leaves_both_pictures_and_saves_what_they_show(runs: SharedRuns) -> None:
    run_dir = runs.finished("impala_vae")

    sizes = {}
    for name in ("reconstructions", "latent_traversal"):
        with Image.open(run_dir / "media" / f"{name}.png") as picture:
            sizes[name] = picture.size
    assert 8 * ROW < sizes["reconstructions"][0] < 9 * ROW
    assert 5 * ROW < sizes["reconstructions"][1] < 6 * ROW  # frame, input, and 0, 32 and 64 env steps
    assert 7 * ROW < sizes["latent_traversal"][0] < 9 * ROW
    assert 8 * ROW < sizes["latent_traversal"][1] < 9 * ROW
    assert not [name for name in os.listdir(run_dir / "media") if "partial" in name]
    state = load(run_dir)["callbacks"]["AutoencoderPictures"]
    assert state["env_steps"] == [0, 32, 64]
    assert state["frames"].shape == (8, 64, 64, 3)
    first, *_, last = state["reconstructions"]
    assert first.shape == (8, 64, 64, 1)
    assert not torch.equal(first, last)


def test_a_full_disk_costs_pictures_and_is_told_each_time(tmp_path: Path) -> None:
    training, wandb = Training(tmp_path), RememberingWandb()
    training.trainer.loggers = [wandb]
    reconstructions, traversal = training.callback.reconstructions, training.callback.traversal

    leave_no_room_for(reconstructions, traversal)
    with pytest.warns(UserWarning, match="was not written .*No space left") as told:
        training.start()
    assert [str(warning.message).split(" was")[0] for warning in told] == [str(reconstructions), str(traversal)]
    leave_no_room_for(traversal)
    with pytest.warns(UserWarning, match="latent_traversal.png was not written .*No space left"):
        training.epoch_ends(10)
    training.epoch_ends(20)

    assert wandb.logged == [
        ["media/reconstructions", "env_steps"],
        ["media/reconstructions", "media/latent_traversal", "env_steps"],
    ]
    assert training.kept() == [0, 10, 20]


def test_rows_are_added_at_the_start_and_after_each_tenth_of_the_run(tmp_path: Path) -> None:
    training = Training(tmp_path).start()
    short = training.height()

    training.epoch_ends(4, 9, 10, 19, 20, 45, 49, 100)

    assert training.kept() == [0, 10, 20, 45, 100]
    assert training.height() == short + 4 * ROW
    training.end()
    assert training.height() == short + 4 * ROW  # nothing was learned since


def test_a_run_that_ends_within_a_tenth_is_drawn_and_goes_on_without_that_row(tmp_path: Path) -> None:
    training = Training(tmp_path).start()
    before = training.height()

    training.epoch_ends(7).end()

    assert training.height() == before + ROW
    assert training.kept() == [0]


def test_nothing_is_drawn_after_a_signal(tmp_path: Path) -> None:
    stopper = StopAtBoundary()
    training = Training(tmp_path, callbacks=[stopper]).start()
    before = training.height()
    stopper.received = signal.SIGTERM

    training.epoch_ends(7).end()

    assert training.height() == before


def test_a_continued_run_draws_what_an_unbroken_one_does(tmp_path: Path) -> None:
    unbroken = Training(tmp_path / "unbroken").start().epoch_ends(10, 20)
    begun = Training(tmp_path / "begun").start().epoch_ends(10)
    torch.save(begun.callback.state_dict(), tmp_path / "state")

    continued = Training(tmp_path / "continued", module=begun.module, seed=1)  # whose own frames would be others
    continued.callback.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    continued.at(10).start().epoch_ends(20)

    assert continued.kept() == [0, 10, 20]
    for name in ("reconstructions", "traversal"):
        drawn, expected = (getattr(training.callback, name).read_bytes() for training in (continued, unbroken))
        assert drawn == expected


def test_a_run_without_earlier_pictures_begins_them_where_it_goes_on(tmp_path: Path) -> None:
    assert Training(tmp_path).at(30).start().epoch_ends(39, 40).kept() == [30, 40]


def test_drawing_changes_no_random_stream_and_no_module(tmp_path: Path) -> None:
    training = Training(tmp_path)
    training.module.train()
    weights = {name: tensor.clone() for name, tensor in training.module.state_dict().items()}
    streams = (torch.get_rng_state(), np.random.get_state()[1].copy())  # type: ignore[index]  # noqa: NPY002

    training.start().at(5).end()

    assert torch.equal(torch.get_rng_state(), streams[0])
    np.testing.assert_array_equal(np.random.get_state()[1], streams[1])  # type: ignore[index]  # noqa: NPY002
    assert all(part.training for part in training.module.modules())
    assert all(parameter.grad is None for parameter in training.module.parameters())
    assert all(torch.equal(tensor, weights[name]) for name, tensor in training.module.state_dict().items())


@pytest.mark.parametrize("kind", [ImpalaModule, PPODistillModule])
def test_nothing_is_drawn_without_an_autoencoder(kind: Any, tmp_path: Path) -> None:
    training = Training(tmp_path, module=kind(num_actions=15, obs_shape=(64, 64, 3)))

    training.start().at(100)
    training.callback.on_train_epoch_end(training.trainer, training.module)
    training.end()

    assert training.callback.state_dict() == {}
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_drawn_in_a_trial_of_a_few_batches(tmp_path: Path) -> None:
    Training(tmp_path, fast_dev_run=True).start().epoch_ends(100).end()

    assert list(tmp_path.iterdir()) == []
