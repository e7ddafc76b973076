"""Validation takes about a tenth of the work, counted in env steps; an interval given by hand is obeyed."""

from pathlib import Path
from typing import Any

import pytest
from jsonargparse import Namespace
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.callbacks.validation_pace import FIRST_EPOCH, PLAYED_PER_TRAINED, ValidationPace
from lightning_rl.cli.trainer_options import pace_validation
from lightning_rl.modules.ppo import PPOModule
from tests.support.runs import fit, fit_args, load, rows, start_ranks
from tests.support.toys import CountingVectorEnv
from tests.support.worlds import NUM_ACTIONS, NUM_ENVS, NUM_STEPS, OBS_SHAPE, ToyData, make_module, make_trainer

ITERATION = NUM_STEPS * NUM_ENVS
SHORT: dict[str, Any] = {"model__network": "two_conv", "data__num_steps": 4, "model__minibatch_size": 8}
group: Any = Namespace  # whose constructor has no annotations


class LongData(ToyData):
    """Training levels whose episodes have the given length, and others of 10 steps."""

    length = 10

    def games(self, num_envs: int, levels: tuple[int, int], seed: int) -> Any:
        lengths = [10] if levels == self.level_sets["full_distribution"] else [self.length]
        return CountingVectorEnv(num_envs, lengths, obs_shape=OBS_SHAPE, num_actions=NUM_ACTIONS)


class Validated(Callback):
    """Epochs, from one on, at whose end a validation came."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self.epochs.append(trainer.current_epoch + 1)


def validated(
    *, epochs: int, length: int = 10, save: Path | None = None, start: Path | None = None, **options: Any
) -> list[int]:
    """Where a run validates that plays two episodes of each level set."""
    sizes: dict[str, Any] = {"num_envs": NUM_ENVS, "num_steps": NUM_STEPS, "validation_episodes": 2}
    data = LongData(**sizes, return_scaling=False, total_env_steps=epochs * ITERATION)
    data.length = length
    seen = Validated()
    pace = ValidationPace(**{key: options.pop(key) for key in ("decides",) if key in options})
    trainer = make_trainer(max_epochs=-1, callbacks=[pace, seen], **options)
    module = make_module(num_actions=NUM_ACTIONS, network="two_conv", epochs=1)
    trainer.fit(module, data, ckpt_path=start, weights_only=True)
    if save is not None:
        trainer.save_checkpoint(save)
    return seen.epochs


def expected(played: int, *, until: int) -> list[int]:
    """The definition: played steps are at most a tenth of all work since the last validation."""
    found, trained_until = [FIRST_EPOCH], FIRST_EPOCH
    for epoch in range(FIRST_EPOCH + 1, until + 1):
        trained = (epoch - trained_until) * ITERATION * PLAYED_PER_TRAINED
        if 10 * played <= played + trained:
            found.append(epoch)
            trained_until = epoch
    return found


def test_the_longer_its_episodes_the_rarer_is_validation() -> None:
    assert validated(epochs=22) == expected(2 * 10 + 2 * 10, until=22) == [10, 16, 22]
    assert validated(epochs=18, length=3) == expected(2 * 10 + 2 * 3, until=18) == [10, 14, 18]


def test_a_resumed_run_validates_where_an_unbroken_one_does(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    assert validated(epochs=13, save=path) == [10]
    assert validated(epochs=17, start=path) == [16]


def test_other_validations_count_for_nothing(tmp_path: Path) -> None:
    """Those of the sanity check and of `validate`."""
    assert validated(epochs=10, num_sanity_val_steps=2) == [10]
    pace = ValidationPace()
    trainer = make_trainer(callbacks=[pace])
    data = ToyData(num_envs=NUM_ENVS, num_steps=NUM_STEPS, validation_episodes=2, total_env_steps=ITERATION)
    trainer.validate(make_module(num_actions=NUM_ACTIONS), data, verbose=False)
    assert pace.state_dict()["played"] is None


def test_a_method_may_say_itself_when_it_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([False, True, False, False, True, *[False] * 8])
    monkeypatch.setattr(PPOModule, "validation_is_due", property(lambda _: next(ends)))

    assert validated(epochs=13) == [2, 5]  # neither the first 10 are waited for nor is the tenth one


def test_an_interval_given_by_hand_is_obeyed_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    by_hand: dict[str, Any] = {"decides": False, "check_val_every_n_epoch": 4}
    assert validated(epochs=9, save=path, **by_hand) == [4, 8]
    assert validated(epochs=15, start=path) == [14]  # six epochs after the last


@pytest.mark.parametrize(
    ("given", "paced", "built"),
    [
        ({}, True, FIRST_EPOCH),
        ({"check_val_every_n_epoch": 3}, False, 3),
        ({"val_check_interval": 7}, False, None),
        ({"val_check_interval": "00:01:00:00"}, False, None),
        ({"val_check_interval": 0.5}, False, FIRST_EPOCH),
        ({"val_check_interval": 0.5, "check_val_every_n_epoch": 2}, False, 2),
    ],
)
def test_only_where_nothing_is_given_it_decides(given: dict[str, Any], paced: bool, built: int | None) -> None:
    trainer = group(**({"check_val_every_n_epoch": None, "val_check_interval": None} | given))
    assert pace_validation(trainer) == paced
    assert trainer.check_val_every_n_epoch == built
    Trainer(**trainer.as_dict(), logger=False, accelerator="cpu", enable_checkpointing=False)


def test_the_command_paces_by_default_and_best_is_the_highest_return(tmp_path: Path) -> None:
    run = tmp_path / "run"
    checkpoint = fit(run, iterations=3, **SHORT)  # four boundaries of eight env steps each
    table = rows(run)
    [tenth] = [row for row in table if row.get("validation/return")]
    assert table.index(tenth) == FIRST_EPOCH - 1
    assert load(run, "best.ckpt")["epoch"] == FIRST_EPOCH - 1
    assert checkpoint["callbacks"]["ValidationPace"]["trained"] == FIRST_EPOCH * 8


@pytest.mark.slow
def test_ranks_validate_together_and_count_all_that_they_play(tmp_path: Path) -> None:
    args = fit_args(tmp_path / "run", iterations=20, trainer__devices=2, trainer__strategy="ddp", **SHORT)
    for process in start_ranks(args, tmp_path / "out"):
        process.join(200)
        assert process.exitcode == 0
    assert load(tmp_path / "run")["callbacks"]["ValidationPace"]["played"] > 0
