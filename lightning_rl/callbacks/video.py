"""Videos of the policy playing, and the learning curve."""

import json
import sys
from pathlib import Path
from typing import Any

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

    `predict` also writes the returns to `media/episodes.json`, by game where there are several. `fit` also draws
    `media/learning_curve.png` and logs both to W&B.

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
        self._played: dict[str, dict[str, list[Any]]] = {}  # by game, in `predict`

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
        """Writes the video and the returns, once the last game is played."""
        if not trainer.is_global_zero:
            return
        self._recorder.next_game()
        self._played[outputs.game] = {"returns": outputs.returns.tolist(), "lengths": outputs.lengths.tolist()}
        if len(self._played) < len(data_of(trainer).game_names):
            return
        cut = " (its first steps: episodes that go on are cut off)" if self._recorder.is_cut else ""
        self._recorder.write(self.video)
        only = self._played.get("")
        returns = self.video.with_suffix(".json")
        returns.write_text(json.dumps({"games": self._played} if only is None else only) + "\n", encoding="utf-8")
        for game, played in self._played.items():
            sys.stdout.write(f"returns {played['returns']}{game and f' in {game}'}\n")
        sys.stdout.write(f"video   {self.video}{cut}\nreturns {returns}\n")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Plays episodes with the trained policy and draws the curve, unless a signal stopped the run.

        Games and random streams are separate from training's.
        """
        if is_stopped_by_signal(trainer):
            return
        if not trainer.is_global_zero or not isinstance(pl_module, RLModule) or is_fast_dev_run(trainer):
            return
        data = data_of(trainer)
        videos, pictures = [], []
        for episodes in data.shown(pl_module, greedy=pl_module.greedy, watcher=self._recorder):
            list(episodes)
            self._recorder.next_game()
        with going_on_without(self.video):
            self._recorder.write(self.video)
            videos.append(self.video)
        with going_on_without(self.learning_curve):
            if draw_learning_curve(self._metrics, self.learning_curve, title=self._title):
                pictures.append(self.learning_curve)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=data.env_steps, videos=videos, pictures=pictures)
