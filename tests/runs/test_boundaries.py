"""Lightning's own callbacks save and stop by the validation's return; runs go on from boundaries only."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from lightning_rl.cli.command import RunCLI
from lightning_rl.cli.program import main
from lightning_rl.runs.boundaries import is_boundary
from lightning_rl.runs.checkpoint_files import read
from tests.support.command_lines import refusal
from tests.support.runs import differences, fit, fit_args, load, rows
from tests.support.worlds import Batches, draw_rollout, make_module, make_trainer, whole_batch

SHORT: dict[str, Any] = {"model__network": "two_conv", "trainer__check_val_every_n_epoch": 1}
SAVING = {
    "every": {"dirpath": "run/every", "filename": "{step}", "save_top_k": -1, "every_n_train_steps": 1},
    "validated": {
        "dirpath": "run/validated",
        "filename": "{step}",
        "save_top_k": -1,
        "save_on_train_epoch_end": False,
        "monitor": "validation/return",
        "mode": "max",
    },
    "epochs": {"dirpath": "run/epochs", "filename": "{step}", "save_top_k": -1, "save_on_train_epoch_end": True},
}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder of a run of two epochs of two batches, saved by Lightning's callbacks, too."""
    folder = tmp_path_factory.mktemp("boundaries")
    callbacks = [
        {"class_path": "pytorch_lightning.callbacks.ModelCheckpoint", "init_args": options}
        for options in SAVING.values()
    ]
    early = {"monitor": "validation/return", "mode": "max", "patience": 9}
    callbacks.append({"class_path": "pytorch_lightning.callbacks.EarlyStopping", "init_args": early})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": callbacks}}))
        fit(Path("run"), "--config", "callbacks.yaml", iterations=2, **SHORT)
    return folder


@pytest.fixture(autouse=True)
def in_its_folder(straight: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(straight)


def args_from(checkpoint: str, run_dir: Path) -> list[str]:
    return fit_args(run_dir, "--ckpt_path", checkpoint, iterations=2, **SHORT)


def test_callbacks_see_the_return_of_the_validation_that_has_just_ended() -> None:
    returns = {float(row["validation/return"]) for row in rows(Path("run"))}
    saved = load(Path("run/validated"), "step=4.ckpt")["callbacks"]
    [monitored] = [state for state in saved.values() if state.get("monitor") == "validation/return"]
    assert {float(value) for value in monitored["best_k_models"].values()} == returns
    [stopping] = [state for key, state in saved.items() if key.startswith("EarlyStopping")]
    assert float(stopping["best_score"]) == max(returns)


def test_which_are_boundaries() -> None:
    found = {str(path.relative_to("run")): is_boundary(read(path)) for path in sorted(Path("run").rglob("*.ckpt"))}
    assert {name for name, boundary in found.items() if boundary} >= {
        "last.ckpt", "previous.ckpt", "best.ckpt", "epochs/step=2.ckpt", "epochs/step=4.ckpt"
    }  # fmt: skip
    assert {name for name, boundary in found.items() if not boundary} == {
        *(f"every/step={step}.ckpt" for step in range(1, 5)),
        *(f"validated/step={step}.ckpt" for step in (2, 4)),
    }


@pytest.mark.parametrize(
    ("checkpoint", "place", "nearest"),
    [
        ("run/every/step=3.ckpt", "epoch 1, after batch 1", {"run/previous.ckpt", "run/last.ckpt"}),
        ("run/every/step=4.ckpt", "epoch 1, after batch 2", {"run/last.ckpt"}),
        ("run/validated/step=2.ckpt", "epoch 0, after batch 2", {"run/previous.ckpt"}),
    ],
)
def test_going_on_from_within_an_epoch_is_refused_and_the_nearest_boundary_is_named(
    checkpoint: str,
    place: str,
    nearest: set[str],
    straight: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    message = refusal(args_from(checkpoint, tmp_path / "on"), capsys)
    assert f"ckpt_path: {checkpoint} must be of an epoch's end, found one saved within {place}; " in message
    named = message.rpartition("the nearest boundary is ")[2].strip()
    assert named in {str(straight / name) for name in nearest} | {str(straight / "run/best.ckpt")}
    assert list(tmp_path.iterdir()) == []


def test_the_nearest_one_counts_wherever_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "some" / "more").mkdir(parents=True)
    shutil.copy("run/every/step=1.ckpt", tmp_path / "some" / "more")
    message = refusal(args_from(str(tmp_path / "some" / "more" / "step=1.ckpt"), tmp_path / "on"), capsys)
    assert "there is no boundary of this run beside it" in message
    shutil.copy("run/epochs/step=2.ckpt", tmp_path / "some")
    shutil.copy("run/epochs/step=4.ckpt", tmp_path / "some")
    message = refusal(args_from(str(tmp_path / "some" / "more" / "step=1.ckpt"), tmp_path / "on"), capsys)
    assert f"the nearest boundary is {tmp_path}/some/step=2.ckpt" in message


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks")
def test_a_boundary_that_a_callback_has_saved_is_gone_on_from_to_the_same_bits(tmp_path: Path) -> None:
    assert main(args_from("run/epochs/step=2.ckpt", tmp_path / "on")) == 0
    straight, resumed = read(Path("run/last.ckpt")), read(tmp_path / "on" / "last.ckpt")
    for key in ("state_dict", "optimizer_states", "ProcgenDataModule", "loops"):
        assert differences(straight[key], resumed[key]) == []


def test_any_can_be_judged() -> None:
    cli = RunCLI(["test", "--config", "run/config.yaml", "--ckpt_path", "run/every/step=3.ckpt"])
    assert cli.checkpoint == Path("run/every/step=3.ckpt")


class Saves(Callback):
    """Saves after the first batch, and at the end of the epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            trainer.save_checkpoint(self.folder / "within.ckpt")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        trainer.save_checkpoint(self.folder / "end.ckpt")


def test_a_trainer_from_python_refuses_it_too(tmp_path: Path) -> None:
    def fit_from(path: Path | None, *, epochs: int) -> None:
        module = make_module()
        batches = Batches(*[whole_batch(module, draw_rollout(1))] * 2)
        trainer = make_trainer(max_epochs=epochs, callbacks=[Saves(tmp_path)], limit_val_batches=0)
        trainer.fit(module, batches, [], ckpt_path=path, weights_only=True)

    fit_from(None, epochs=1)
    with pytest.raises(ValueError, match=r"must be of an epoch's end, found one saved within epoch 0, after batch 1;"):
        fit_from(tmp_path / "within.ckpt", epochs=2)
    fit_from(tmp_path / "end.ckpt", epochs=2)
