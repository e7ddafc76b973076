"""Videos of the policy playing, and the learning curve."""

import json
import sys
from pathlib import Path

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger

from lightning_rl.callbacks.graceful_stop import is_stopped_by_signal
from lightning_rl.callbacks.media_output import going_on_without
from lightning_rl.media.figures import draw_learning_curve
from lightning_rl.media.recorder import EpisodeRecorder
from lightning_rl.modules.base import RLModule
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.runs.lightning_private import is_fast_dev_run
from lightning_rl.runs.wandb_run import log_media
from lightning_rl.types import Episodes


class RecordMedia(Callback):
    """Writes `media/episodes.mp4` in `predict` and at the end of `fit`.

    `predict` also writes the returns to `media/episodes.json`. `fit` also draws `media/learning_curve.png` and logs
    both to W&B.

    Args:
        run_dir: the run folder.
        title: title of the learning curve.
    """

    def __init__(self, run_dir: Path, *, title: str) -> None:
        self.video = run_dir / "media" / "episodes.mp4"
        self.learning_curve = run_dir / "media" / "learning_curve.png"
        self._metrics = run_dir / "metrics.csv"
        self._title = title
        self._recorder = EpisodeRecorder()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Records the episodes of `predict`."""
        if stage == "predict":
            data_of(trainer).watcher = self._recorder

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
        self._recorder.write(self.video)
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
            watcher=self._recorder,
        )
        videos, pictures = [], []
        for _ in episodes:
            with going_on_without(self.video):
                self._recorder.write(self.video)
                videos.append(self.video)
        with going_on_without(self.learning_curve):
            if draw_learning_curve(self._metrics, self.learning_curve, title=self._title):
                pictures.append(self.learning_curve)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=data.env_steps, videos=videos, pictures=pictures)
