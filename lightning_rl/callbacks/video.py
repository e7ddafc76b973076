"""Videos of the policy playing, and the learning curve."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lightning_rl.callbacks.graceful_stop import is_stopped_by_signal
from lightning_rl.callbacks.iteration_metrics import data_of
from lightning_rl.callbacks.media_output import going_on_without
from lightning_rl.media.figures import draw_learning_curve
from lightning_rl.media.videos import tiled, write_video
from lightning_rl.modules.base import RLModule
from lightning_rl.runs.lightning_private import is_fast_dev_run
from lightning_rl.runs.wandb_run import log_media
from lightning_rl.types import Episodes

_COLUMNS, _SCALE, _FRAMES_PER_SECOND, _MAX_FRAMES = 4, 3, 15, 1000
_RGB = 3  # channels of the newest frame, the last ones of a stack

_RecordedStep = tuple[UInt8[NDArray[Any], "B H W C"], Bool[NDArray[Any], "B"]]
"""Frames of all environments, and which of them still play."""


class RecordMedia(Callback):
    """Writes `media/episodes.mp4` in `predict` and at the end of `fit`.

    `predict` also writes the returns to `media/episodes.json`. `fit` also draws `media/learning_curve.png` and logs
    both to W&B.

    The video shows the newest frame that the policy sees, of all environments side by side. An environment is dimmed
    once its episode is over.

    Args:
        run_dir: the run folder.
        title: title of the learning curve.
    """

    def __init__(self, run_dir: Path, *, title: str) -> None:
        self.video = run_dir / "media" / "episodes.mp4"
        self.learning_curve = run_dir / "media" / "learning_curve.png"
        self._metrics = run_dir / "metrics.csv"
        self._title = title
        self._frames: list[_RecordedStep] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Records the episodes of `predict`."""
        if stage == "predict":
            data_of(trainer).watcher = self._record

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Episodes,
        batch: Episodes,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Writes the video and the returns."""
        if not trainer.is_global_zero:
            return
        self._write()
        played = {"returns": outputs.returns.tolist(), "lengths": outputs.lengths.tolist()}
        returns = self.video.with_suffix(".json")
        returns.write_text(json.dumps(played) + "\n", encoding="utf-8")
        sys.stdout.write(f"returns {played['returns']}\nvideo   {self.video}\nreturns {returns}\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays episodes with the trained policy and draws the curve, unless a signal stopped the run.

        Games and random streams are separate from training's.
        """
        if is_stopped_by_signal(trainer):
            return
        if not trainer.is_global_zero or not isinstance(pl_module, RLModule) or is_fast_dev_run(trainer):
            return
        data = data_of(trainer)
        episodes = data.evaluation(
            "full_distribution",
            pl_module,
            num_envs=data.predict_episodes,
            greedy=pl_module.greedy,
            watcher=self._record,
        )
        videos, pictures = [], []
        for _ in episodes:
            with going_on_without(self.video):
                self._write()
                videos.append(self.video)
        with going_on_without(self.learning_curve):
            if draw_learning_curve(self._metrics, self.learning_curve, title=self._title):
                pictures.append(self.learning_curve)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=data.env_steps, videos=videos, pictures=pictures)

    def _record(self, obs: UInt8[NDArray[Any], "B H W C"], playing: Bool[NDArray[Any], "B"]) -> None:
        if len(self._frames) < _MAX_FRAMES:
            self._frames.append((np.ascontiguousarray(obs[..., -_RGB:]), playing.copy()))

    def _write(self) -> None:
        write_video(self.video, self._tiles(), frames_per_second=_FRAMES_PER_SECOND)
        self._frames = []

    def _tiles(self) -> Iterator[UInt8[NDArray[Any], "H2 W2 C"]]:
        for frames, playing in self._frames:
            yield tiled(frames, columns=_COLUMNS, scale=_SCALE, dimmed=~playing)
