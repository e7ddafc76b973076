"""A plain Trainer with a module and a data module keeps what the documents promise of the command."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import EarlyStopping, ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger

from lightning_rl.modules.base import RLModule
from tests.support.runs import differences
from tests.support.worlds import NUM_ACTIONS, NUM_ENVS, NUM_STEPS, make_distilled, make_module, toy_data

ITERATION = NUM_STEPS * NUM_ENVS


def plain_trainer(folder: Path, *callbacks: Callback, **options: Any) -> Trainer:
    """As a user builds one, but silent."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    given: dict[str, Any] = {"max_epochs": -1, "accelerator": "cpu", "logger": False, "default_root_dir": folder}
    return Trainer(callbacks=list(callbacks), **(given | quiet | options))


def drawing_module(*, seed: int = 0) -> RLModule:
    """One whose teacher drops out, by the random stream that a checkpoint of Lightning's does not hold."""
    module = make_distilled(distillation={"dropout": 0.5}, num_actions=NUM_ACTIONS)
    torch.manual_seed(seed)
    return module


def saved(path: Path) -> dict[str, Any]:
    checkpoint: dict[str, Any] = torch.load(path, weights_only=True)
    return checkpoint


def unlike(first: Path, second: Path) -> list[str]:
    """How two checkpoints differ in what training goes on from."""
    one, other = saved(first), saved(second)
    keys = ("state_dict", "optimizer_states", "ToyData", "epoch", "global_step")
    found = differences({key: one[key] for key in keys}, {key: other[key] for key in keys})
    streams = [checkpoint["callbacks"]["RandomStates"]["torch"] for checkpoint in (one, other)]
    return found + ([] if torch.equal(*streams) else ["the random stream"])


def test_it_ends_at_its_budget_and_logs_returns_and_env_steps(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, logger=CSVLogger(tmp_path, name="", version=""))
    trainer.fit(make_module(num_actions=NUM_ACTIONS), toy_data(total_env_steps=2 * ITERATION))

    table = read_csv(tmp_path / "metrics.csv")
    assert [float(row["env_steps"]) for row in table] == [ITERATION, 2 * ITERATION]
    assert all(300 <= float(row["episode/return"]) <= 318 for row in table)
    assert all(100 <= float(row["validation/return"]) <= 112 for row in table)


def read_csv(path: Path) -> list[dict[str, str]]:
    header, *lines = path.read_text().splitlines()
    return [dict(zip(header.split(","), line.split(","), strict=True)) for line in lines]


def test_callbacks_monitor_the_return_of_the_validation_that_has_just_ended(tmp_path: Path) -> None:
    """Also where validation comes within an epoch, or not in each."""
    places: list[dict[str, Any]] = [{"val_check_interval": 0.5}, {"check_val_every_n_epoch": 2}]
    for place in places:
        keeps = ModelCheckpoint(tmp_path / str(place), monitor="validation/return", mode="max", save_top_k=-1)
        stops = EarlyStopping("validation/return", mode="max", stopping_threshold=0.0)
        trainer = plain_trainer(tmp_path, keeps, stops, **place)
        module = make_module(num_actions=NUM_ACTIONS, epochs=2)
        trainer.fit(module, toy_data(total_env_steps=9 * ITERATION))
        assert 100 <= float(keeps.best_model_score or 0) <= 112
        assert trainer.current_epoch == place.get("check_val_every_n_epoch", 1)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_it_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def keeps(name: str) -> ModelCheckpoint:
        return ModelCheckpoint(tmp_path / name, filename="{epoch}", save_top_k=-1)

    straight = plain_trainer(tmp_path, keeps("all"))
    straight.fit(drawing_module(), toy_data(total_env_steps=3 * ITERATION))
    straight.save_checkpoint(tmp_path / "straight.ckpt")

    for start in ("epoch=0.ckpt", "epoch=1.ckpt"):
        resumed = plain_trainer(tmp_path, keeps(f"after {start}"))
        path = tmp_path / "all" / start
        resumed.fit(drawing_module(seed=7), toy_data(total_env_steps=3 * ITERATION), ckpt_path=path, weights_only=True)
        resumed.save_checkpoint(tmp_path / "resumed.ckpt")
        assert unlike(tmp_path / "straight.ckpt", tmp_path / "resumed.ckpt") == []


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_it_goes_on_from_what_lightnings_own_callback_saves_where_few_epochs_are_validated(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path, check_val_every_n_epoch=2)
    trainer.fit(make_module(num_actions=NUM_ACTIONS), toy_data(total_env_steps=2 * ITERATION))

    (path,) = tmp_path.glob("checkpoints/*.ckpt")
    resumed = plain_trainer(tmp_path / "resumed", check_val_every_n_epoch=2)
    data = toy_data(total_env_steps=3 * ITERATION)
    resumed.fit(make_module(num_actions=NUM_ACTIONS), data, ckpt_path=path, weights_only=True)
    assert data.env_steps == 3 * ITERATION


def test_it_goes_on_from_what_is_saved_after_fit_to_the_same_bits(tmp_path: Path) -> None:
    for name, parts in (("straight", (3,)), ("resumed", (1, 3))):
        path = None
        for iterations in parts:
            trainer = plain_trainer(tmp_path, enable_checkpointing=False)
            trainer.fit(
                drawing_module(seed=0 if path is None else 7),
                toy_data(total_env_steps=iterations * ITERATION),
                ckpt_path=path,
                weights_only=True,
            )
            path = tmp_path / f"{name}.ckpt"
            trainer.save_checkpoint(path)
    assert unlike(tmp_path / "straight.ckpt", tmp_path / "resumed.ckpt") == []


def test_nothing_is_saved_before_there_are_games(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path)
    trainer.validate(make_module(num_actions=NUM_ACTIONS), toy_data(), verbose=False)
    with pytest.raises(RuntimeError, match="ToyData has a collector only between setup"):
        trainer.save_checkpoint(tmp_path / "none.ckpt")


class Keeps(Callback):
    """Keeps the games that a `fit` starts from, and raises at will."""

    def __init__(self) -> None:
        self.games: list[Any] = []
        self.error: Exception | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        self.games.append(data.collector.state_dict())

    def on_train_batch_end(self, *_: Any) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("same_trainer", [False, True])
def test_a_second_fit_goes_on(same_trainer: bool, tmp_path: Path) -> None:
    keeps = Keeps()
    module, data = make_module(num_actions=NUM_ACTIONS), toy_data(total_env_steps=ITERATION)
    trainer = plain_trainer(tmp_path, keeps, enable_checkpointing=False)
    trainer.fit(module, data)
    left = data.state_dict()
    data.total_env_steps = 3 * ITERATION
    trainer = trainer if same_trainer else plain_trainer(tmp_path, keeps, enable_checkpointing=False)
    trainer.fit(module, data)

    assert differences(keeps.games[1], left["collectors"][0]) == []
    assert data.env_steps == 3 * ITERATION
    assert float(trainer.callback_metrics["env_steps"]) == 3 * ITERATION


def test_after_an_error_fit_goes_on_from_the_last_rollout(tmp_path: Path) -> None:
    keeps = Keeps()
    module, data = make_module(num_actions=NUM_ACTIONS), toy_data(total_env_steps=3 * ITERATION)
    keeps.error = OSError("in the middle")
    with pytest.raises(OSError, match="in the middle"):
        plain_trainer(tmp_path, keeps, enable_checkpointing=False).fit(module, data)
    keeps.error = None
    plain_trainer(tmp_path, keeps, enable_checkpointing=False).fit(module, data)
    assert keeps.games[1]["env_steps"] == ITERATION
    assert data.env_steps == 3 * ITERATION


def test_test_returns_the_mean_return_of_each_level_set(tmp_path: Path) -> None:
    trainer = plain_trainer(tmp_path)
    found = trainer.test(make_module(num_actions=NUM_ACTIONS), toy_data(), verbose=False)
    assert [list(one) for one in found] == [
        ["test/train_levels_return"],
        ["test/return"],
        ["test/random_policy_return"],
    ]
    assert 300 <= found[0]["test/train_levels_return"] <= 318
    assert 100 <= found[1]["test/return"] <= 112
    assert 100 <= found[2]["test/random_policy_return"] <= 112
