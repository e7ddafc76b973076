"""What a Trainer must not do to a run, whoever has built it."""

import sys
import warnings
from typing import Any, cast

from pytorch_lightning import Trainer

from lightning_rl.cpu.bfloat16 import SUPPORTED_PRECISIONS


def check_trainer_for(trainer: Trainer, *, fitting: bool) -> None:
    """Refuses a Trainer under which the networks cannot compute, or that would cut iterations short.

    Args:
        trainer: of a module that is set up.
        fitting: it will train.

    Raises:
        ValueError: names its argument.
    """
    if trainer.precision not in SUPPORTED_PRECISIONS:
        *others, last = SUPPORTED_PRECISIONS
        raise ValueError(f"Trainer's precision must be {', '.join(others)} or {last}, found {trainer.precision}")
    known = cast(Any, trainer)  # a connector sets the attributes
    if not fitting or known.fast_dev_run:
        return
    limits = {
        "overfit_batches": (known.overfit_batches == 0, "0", known.overfit_batches),
        "limit_train_batches": (
            isinstance(known.limit_train_batches, float) and known.limit_train_batches == 1,
            "null",
            known.limit_train_batches,
        ),
        "max_steps": (trainer.max_steps == -1, "-1", trainer.max_steps),
    }
    for name, (allowed, wanted, found) in limits.items():
        if not allowed:
            raise ValueError(f"Trainer's {name} must be {wanted}, found {found}; it would cut iterations short")


def tell_lightnings_apart() -> None:
    """Warns where the other package of Lightning is imported: its Trainer only says that this is no LightningModule."""
    if "lightning.pytorch" in sys.modules:
        warnings.warn(
            "lightning_rl is built on pytorch_lightning: take Trainer, callbacks and loggers from there; those of"
            " lightning.pytorch, which is imported here, do not work with it",
            stacklevel=2,
        )
