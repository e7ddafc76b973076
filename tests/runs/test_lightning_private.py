"""Lightning's private attributes are used in one file of the package, as reading its sources shows."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint, ModelCheckpoint
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.strategies import DDPStrategy, SingleDeviceStrategy

import lightning_rl
from lightning_rl.runs import lightning_private

PACKAGE = Path(lightning_rl.__file__).parent
FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))
ALLOWED = "runs/lightning_private.py"
LIBRARIES = ("pytorch_lightning", "lightning_fabric")


def private_names(source: str) -> set[str]:
    """Private methods, functions and attributes that a source defines."""
    return set(re.findall(r"(?:\bself\.|\bdef |^|^    )(_[a-z]\w*)\b(?=\(| = |: )", source, re.MULTILINE))


@cache
def lightnings_names() -> set[str]:
    """Every private name that Lightning's sources define."""
    folders = [Path(importlib.import_module(library).__path__[0]) for library in LIBRARIES]
    return {name for folder in folders for path in folder.rglob("*.py") for name in private_names(path.read_text())}


def imports(source: str) -> Iterator[str]:
    """Private names that a source imports from Lightning."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(LIBRARIES):
            yield from (alias.name for alias in node.names if alias.name.startswith("_"))
            yield from (part for part in str(node.module).split(".") if part.startswith("_"))


def accesses(source: str) -> Iterator[str]:
    """Lightning's private attributes of objects other than `self` that a source uses and does not define itself."""
    foreign = lightnings_names() - private_names(source)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in foreign and ast.unparse(node.value) not in ("self", "cls"):
            yield f"{ast.unparse(node.value)}.{node.attr}"


def inherited(module: ModuleType) -> Iterator[str]:
    """Private names of Lightning's classes that the classes of a module use or define again."""
    for name, defined in list(vars(module).items()):
        if inspect.isclass(defined) and defined.__module__ == module.__name__:
            own = inspect.getsource(defined)
            names = private_names(own) | set(re.findall(r"\b(?:self|super\(\))\.(_[a-z]\w*)", own))
            bases = [base for base in defined.__mro__ if base.__module__.startswith(LIBRARIES)]
            theirs = {name for base in bases for name in private_names(inspect.getsource(base))}
            yield from (f"{name}.{used}" for used in sorted(names & theirs))


@pytest.mark.parametrize("path", [path for path in FILES if path != ALLOWED])
def test_a_file_uses_nothing_private_of_lightnings(path: str) -> None:
    source = (PACKAGE / path).read_text()
    name = f"lightning_rl/{path}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    module = importlib.import_module(name)

    assert [*imports(source), *accesses(source), *inherited(module)] == []


def test_what_is_private_is_found() -> None:
    source = (PACKAGE / ALLOWED).read_text()

    assert list(imports(source)) == ["_MultiProcessingLauncher"]
    assert {found.rpartition(".")[2] for found in accesses(source)} == {
        "_checkpoint_connector",
        "_ddp_kwargs",
        "_get_loops_state_dict",
        "_logger_connector",
        "_save_on_train_epoch_end",
        "_signal_connector",
        "_trainer",
        "_wandb_init",
    }
    assert {found.rpartition(".")[2] for found in inherited(lightning_private)} == {
        "_parse_ckpt_path",
        "_parser",
        "_run_subcommand",
        "_set_seed",
    }


@pytest.mark.parametrize(
    "source",
    [
        "connector = trainer._signal_connector",
        "def f(trainer):\n    return trainer._checkpoint_connector._get_loops_state_dict()",
        "strategy._ddp_kwargs['find_unused_parameters'] = True",
        "super()._run_subcommand('fit')",
    ],
)
def test_a_private_attribute_is_found(source: str) -> None:
    assert list(accesses(source))


def test_they_were_read_in_the_installed_version() -> None:
    assert f"pytorch-lightning {version('pytorch-lightning')} " in str(lightning_private.__doc__)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    return Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=2,
        limit_train_batches=2,
        limit_val_batches=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )


def test_what_a_trainer_holds_is_told(trainer: Trainer) -> None:
    assert [type(callback) for callback in lightning_private.callbacks_of(trainer) if isinstance(callback, Checkpoint)]
    assert lightning_private.datamodule_of(trainer) is None
    assert not lightning_private.is_fast_dev_run(trainer)
    assert lightning_private.is_fast_dev_run(Trainer(accelerator="cpu", fast_dev_run=2, logger=False))


def test_a_module_is_attached_to_its_trainer_or_to_none(trainer: Trainer) -> None:
    module = LightningModule()
    assert lightning_private.attached_trainer(module) is None
    module.trainer = trainer
    assert lightning_private.attached_trainer(module) is trainer


def test_the_loops_are_those_that_a_checkpoint_holds(trainer: Trainer, tmp_path: Path) -> None:
    trainer.fit(BoringModel())
    trainer.save_checkpoint(tmp_path / "saved.ckpt")

    assert lightning_private.saved_loops(trainer) == torch.load(tmp_path / "saved.ckpt", weights_only=True)["loops"]


def test_only_what_was_logged_in_this_epoch_is_told(trainer: Trainer) -> None:
    seen: list[list[str]] = []

    class Reader(Callback):
        def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
            pl_module.log(f"epoch{trainer.current_epoch}", 1.0)
            seen.append(sorted(lightning_private.logged_this_epoch(trainer)))

    trainer.callbacks.append(Reader())  # type: ignore[attr-defined]
    trainer.fit(BoringModel())

    assert seen == [["epoch0"], ["epoch1"]]


def test_ddp_is_told_of_unused_parameters_and_a_single_device_is_left_alone() -> None:
    strategy = DDPStrategy()
    lightning_private.find_unused_parameters(strategy)
    lightning_private.find_unused_parameters(SingleDeviceStrategy())

    assert strategy._ddp_kwargs == {"find_unused_parameters": True}


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, True), ({"monitor": "validation/return"}, None), ({"save_on_train_epoch_end": False}, False)],
)
def test_a_checkpoint_that_was_told_nothing_is_saved_at_epoch_ends(
    options: dict[str, Any], expected: bool | None
) -> None:
    callback = ModelCheckpoint(**options)
    lightning_private.save_at_epoch_ends(Trainer(accelerator="cpu", logger=False, callbacks=[callback]))

    assert callback._save_on_train_epoch_end is expected


@pytest.mark.parametrize(("strategy", "expected"), [("ddp_spawn", True), ("ddp_fork", True), ("ddp", False)])
def test_multiprocessing_is_told_from_other_launchers(strategy: str, expected: bool) -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy=strategy, logger=False, enable_checkpointing=False)

    assert lightning_private.starts_by_multiprocessing(trainer.strategy) is expected


def test_an_option_is_not_passed_to_wandb(tmp_path: Path) -> None:
    logger = WandbLogger(save_dir=tmp_path, offline=True)
    assert "anonymous" in logger._wandb_init

    lightning_private.drop_wandb_option(logger, "anonymous")
    lightning_private.drop_wandb_option(logger, "anonymous")

    assert "anonymous" not in logger._wandb_init
