"""The end of `fit`: what it tells, and the `test` that may follow."""

import shlex
import sys
from pathlib import Path
from typing import Any

from pytorch_lightning import LightningDataModule, LightningModule, Trainer

from lightning_rl.callbacks.graceful_stop import is_stopped_by_signal
from lightning_rl.callbacks.time_limit import TimeLimit
from lightning_rl.cli.error_messages import say
from lightning_rl.cli.notices import notices_held_back
from lightning_rl.distributed import collectives
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.runs import checkpoint_files
from lightning_rl.runs.lightning_private import callbacks_of


def print_files(run_dir: Path, *, tested: bool) -> None:
    """Prints where the results are, and what to do next.

    Args:
        run_dir: the run's folder.
        tested: whether `test` has run already, so that watching the agent is next.
    """
    last = run_dir / checkpoint_files.LAST
    found = {
        "checkpoint": last,
        "video": run_dir / "media" / "episodes.mp4",
        "metrics": run_dir / "metrics.csv",
        "picture": run_dir / "media" / "learning_curve.png",
        "vae": run_dir / "media" / "reconstructions.png",
    }
    lines = [f"{what:<11}{path}" for what, path in found.items() if path.exists()]
    lines += [f"next:      lightning-rl {'play' if tested else 'test'} --ckpt_path {shlex.quote(str(last))}"]
    sys.stdout.write("\n".join(lines) + "\n")


def tell_what_ended_it(trainer: Trainer, *, run_dir: Path, max_time: Any) -> None:
    """Says what has ended a run before its budget.

    Args:
        trainer: of the run.
        run_dir: the run's folder.
        max_time: the time limit as given.
    """
    done, budget = data_of(trainer).env_steps, data_of(trainer).total_env_steps
    if done >= budget:
        return
    most = trainer.max_epochs
    limits = [callback for callback in callbacks_of(trainer) if isinstance(callback, TimeLimit)]
    cause, remedy = "a callback", f"--run_dir {shlex.quote(str(run_dir))} --ckpt_path last goes on"
    if most is not None and 0 <= most <= trainer.current_epoch:
        cause, remedy = f"trainer.max_epochs {most}", "give more to continue"
    elif any(limit.is_reached for limit in limits):
        cause = f"trainer.max_time {max_time}"
        remedy += ", for as long again"
    say(f"{cause} ended the run at {done} of data.total_env_steps {budget}; {remedy}")


def test(trainer: Trainer, model: LightningModule, data: LightningDataModule, *, checkpoint: Path | None) -> None:
    """Tests the checkpoint as `lightning-rl test` does, unless a signal has stopped the run; on all ranks.

    Args:
        trainer: of the run, which has ended.
        model: its module.
        data: its data module.
        checkpoint: what the run has left.
    """
    if any(collectives.all_gather(is_stopped_by_signal(trainer))):
        return
    trainer.loggers = []  # a finished W&B run would start again
    with notices_held_back():  # that the callbacks of `configure_callbacks` are there already
        trainer.test(model, datamodule=data, ckpt_path=str(checkpoint), verbose=False)
