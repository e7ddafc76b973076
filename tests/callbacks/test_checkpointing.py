from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer
from torch import Tensor, nn

from lightning_rl.callbacks.checkpointing import RunCheckpoint
from lightning_rl.runs.checkpoint_files import METADATA, AtomicCheckpointIO
from tests.support.runs import fit, rows
from tests.support.worlds import Batches

MINE = {"method": "ppo", "game": "maze", "run_id": "one", "version": "0"}


class Returns(LightningModule):
    """Gets the given validation returns, one at each validation."""

    def __init__(self, returns: list[float]) -> None:
        super().__init__()
        self.returns = iter(returns)
        self.newest: float | None = None
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, _batch: Tensor, _batch_idx: int) -> Tensor:
        return self.weight * 1.0

    def validation_step(self, _batch: Tensor, _batch_idx: int) -> None:
        self.newest = next(self.returns)

    def on_train_epoch_end(self) -> None:
        if self.newest is not None:
            self.log("validation/return", torch.tensor(self.newest))
            self.newest = None

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


def train(
    folder: Path, returns: list[float], *, epochs: int, batches: int = 1, ckpt_path: Path | None = None, **options: Any
) -> None:
    trainer = Trainer(
        max_epochs=epochs,
        check_val_every_n_epoch=options.pop("check_val_every_n_epoch", 1),
        val_check_interval=options.pop("val_check_interval", None),
        num_sanity_val_steps=0,
        log_every_n_steps=1,
        callbacks=[RunCheckpoint(folder, MINE, **options)],
        plugins=[AtomicCheckpointIO()],
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    batch = torch.zeros(1)
    trainer.fit(Returns(returns), Batches(*[batch] * batches), Batches(batch), ckpt_path=ckpt_path, weights_only=True)


def epoch_of(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


def test_last_is_the_newest_and_best_the_first_of_the_highest_returns(tmp_path: Path) -> None:
    train(tmp_path, [1.0, 3.0, 2.0, 3.0], epochs=4)
    epochs = {path.name: epoch_of(path) for path in tmp_path.iterdir()}
    assert epochs == {"last.ckpt": 3, "previous.ckpt": 2, "best.ckpt": 1}
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)[METADATA] == MINE


def test_the_best_is_searched_where_validation_happened(tmp_path: Path) -> None:
    train(tmp_path, [5.0], epochs=3, check_val_every_n_epoch=2)
    assert epoch_of(tmp_path / "best.ckpt") == 1


@pytest.mark.parametrize(
    ("returns", "epochs", "best"),
    [
        ([5.0], 2, 1),  # after the third batch, in the second epoch
        ([5.0, 6.0], 3, 2),
        ([6.0, 5.0], 3, 1),
        ([], 1, None),
    ],
)
def test_the_best_is_the_boundary_after_a_validation_whenever_that_comes(
    returns: list[float], epochs: int, best: int | None, tmp_path: Path
) -> None:
    train(tmp_path, returns, epochs=epochs, batches=2, check_val_every_n_epoch=None, val_check_interval=3)
    path = tmp_path / "best.ckpt"
    assert (epoch_of(path) if path.exists() else None) == best


def test_the_newest_of_several_validations_in_an_epoch_counts(tmp_path: Path) -> None:
    train(tmp_path, [9.0, 1.0, 2.0, 3.0], epochs=2, batches=2, val_check_interval=1)
    assert epoch_of(tmp_path / "best.ckpt") == 1


def test_an_epoch_without_a_validation_is_not_judged_by_the_last_one(tmp_path: Path) -> None:
    train(tmp_path, [5.0], epochs=4, check_val_every_n_epoch=3)
    assert epoch_of(tmp_path / "best.ckpt") == 2


def test_a_resumed_run_remembers_its_best(tmp_path: Path) -> None:
    train(tmp_path, [5.0], epochs=1)
    train(tmp_path, [4.0, 6.0], epochs=2, ckpt_path=tmp_path / "last.ckpt")
    assert epoch_of(tmp_path / "best.ckpt") == 0
    train(tmp_path, [6.0], epochs=3, ckpt_path=tmp_path / "last.ckpt")
    assert epoch_of(tmp_path / "best.ckpt") == 2


def test_a_best_that_did_not_get_to_the_disk_is_none(tmp_path: Path) -> None:
    (tmp_path / "best.ckpt").mkdir()  # in whose place no file can be put
    with pytest.warns(UserWarning, match="best.ckpt was not saved"):
        train(tmp_path, [5.0], epochs=1)
    (tmp_path / "best.ckpt").rmdir()

    train(tmp_path, [4.0], epochs=2, ckpt_path=tmp_path / "last.ckpt")

    assert epoch_of(tmp_path / "best.ckpt") == 1


@pytest.mark.slow
def test_a_run_that_validates_by_batches_writes_its_best(tmp_path: Path) -> None:
    every = {"trainer__check_val_every_n_epoch": "null", "trainer__val_check_interval": 3}
    fit(tmp_path, model__network="two_conv", **every)
    assert ["validation/return" in row for row in rows(tmp_path)] == [False, True]
    assert epoch_of(tmp_path / "best.ckpt") == 1
