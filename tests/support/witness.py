"""Callbacks that write down what a test wants to know of a run."""

import os
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer


class Witness(Callback):
    """Saves, per rank and step: the weights before it, the batch, and the gradients that the optimiser was given.

    Args:
        folder: where the files go.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._seen: dict[str, Any] = {}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        weights = {name: tensor.clone() for name, tensor in pl_module.state_dict().items()}
        self._seen = {"batch": batch, "weights": weights}

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        self._seen["gradients"] = {
            name: None if parameter.grad is None else parameter.grad.clone()
            for name, parameter in pl_module.named_parameters()
        }

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._folder.mkdir(exist_ok=True)
        torch.save(self._seen, self._folder / f"{trainer.global_rank}-{trainer.global_step}.pt")


class Usage(Callback):
    """Writes a line now and then: kilobytes of memory, threads, open files of the process.

    Pages of files that it has read, such as real play, are the kernel's to take back and do not count.

    Args:
        path: of the file.
        epochs: from one line to the next.
    """

    def __init__(self, path: str, epochs: int) -> None:
        self._path = Path(path)
        self._epochs = epochs

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks, when it is time."""
        if (trainer.current_epoch + 1) % self._epochs:
            return
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        numbers = (int(status["RssAnon"].split()[0]), int(status["Threads"]), len(os.listdir("/proc/self/fd")))
        with self._path.open("a") as file:
            file.write(",".join(str(number) for number in numbers) + "\n")
