"""What a Trainer and its callbacks may not do to an iteration."""

from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.types import Episodes
from tests.support.worlds import Batches, draw_rollout, make_module, make_trainer, whole_batch


class Stops(Callback):
    """Asks to stop in the second epoch: after its first batch, or after the validation that follows it."""

    def __init__(self, *, after_validation: bool) -> None:
        self.after_validation = after_validation
        self.learned: list[int] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.learned.append(batch_idx)
        self._stop(trainer, not self.after_validation)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop(trainer, self.after_validation)

    def _stop(self, trainer: Trainer, now: bool) -> None:
        if now and trainer.current_epoch == 1:
            trainer.should_stop = True


EPISODES = Episodes(
    level_set="full_distribution",
    returns=torch.ones(2, dtype=torch.float64),
    lengths=torch.ones(2, dtype=torch.int64),
    level_complete=None,
)


@pytest.mark.parametrize("after_validation", [False, True])
def test_a_stop_that_is_asked_for_within_an_epoch_comes_at_its_end(after_validation: bool) -> None:
    """As Lightning's Timer and EarlyStopping can ask."""
    module = make_module()
    batch = whole_batch(module, draw_rollout(1))
    stops = Stops(after_validation=after_validation)
    trainer = make_trainer(max_epochs=5, callbacks=[stops], num_sanity_val_steps=0, val_check_interval=1)
    trainer.fit(module, Batches(batch, batch, batch), Batches(EPISODES))
    assert stops.learned == [0, 1, 2, 0, 1, 2]


def test_what_a_sanity_check_plays_is_not_logged() -> None:
    module = make_module()
    trainer = make_trainer(num_sanity_val_steps=1, check_val_every_n_epoch=9)
    trainer.fit(module, Batches(whole_batch(module, draw_rollout(1))), Batches(EPISODES))
    assert module.validation_returns == {}
