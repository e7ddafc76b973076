"""Pictures of an autoencoder's reconstructions and of its latent dimensions."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from matplotlib.ticker import EngFormatter
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor

from lightning_rl.callbacks.graceful_stop import is_stopped_by_signal
from lightning_rl.callbacks.media_output import going_on_without
from lightning_rl.media.figures import draw_image_rows
from lightning_rl.modules.impala_vae import ImpalaVAEModule
from lightning_rl.modules.iteration_metrics import data_of
from lightning_rl.runs.lightning_private import is_fast_dev_run
from lightning_rl.runs.wandb_run import log_media
from lightning_rl.state import from_plain, to_plain
from lightning_rl.types import State

_NUM_FRAMES, _NUM_DIMENSIONS, _NUM_PARTS = 8, 8, 10
_VALUES = (-3, -2, -1, 0, 1, 2, 3)


class _Row(NamedTuple):
    env_steps: int
    images: UInt8[Tensor, "N H W K"]


@dataclass(frozen=True, kw_only=True)
class PicturesState:
    """The frames, and what was made of them after which numbers of env steps."""

    frames: UInt8[Tensor, "N H W C"]
    env_steps: Annotated[list[int], "R"]
    reconstructions: Annotated[list[UInt8[Tensor, "N H W K"]], "R"]


class AutoencoderPictures(Callback):
    """Draws `media/reconstructions.png` and `media/latent_traversal.png` while a module with an autoencoder trains.

    The first has a column for each of eight frames, taken once: the frame, what the autoencoder is shown of it, and
    its reconstruction at the start, after each tenth of the run and at the end. The second shows the first frame,
    decoded while one latent dimension moves from −3 to 3 standard deviations of the prior, with a row for each of the
    dimensions that have the highest divergence. Both are put into W&B too.

    Frames and reconstructions are saved with the run, so that a continued one draws what an unbroken one does.

    Args:
        run_dir: the run folder.
        title: begins what stands above the pictures.

    Reference:
        Xu & Kaneko, Combining reinforcement learning and VAE to improve generalization in Procgen Benchmark, figure 3
    """

    saved_as = PicturesState

    def __init__(self, run_dir: Path, *, title: str) -> None:
        self.reconstructions = run_dir / "media" / "reconstructions.png"
        self.traversal = run_dir / "media" / "latent_traversal.png"
        self._title = title
        self._frames: UInt8[Tensor, "N H W C"] = torch.empty(0, 0, 0, 3, dtype=torch.uint8)
        self._rows: list[_Row] = []

    def state_dict(self) -> State:
        """The frames and their reconstructions so far; nothing where none are drawn."""
        if not self._rows:
            return {}
        env_steps, images = map(list, zip(*self._rows, strict=True))
        return to_plain(self.saved_as(frames=self._frames, env_steps=env_steps, reconstructions=images))

    def load_state_dict(self, state_dict: State) -> None:
        """Continues the pictures."""
        saved = from_plain(self.saved_as, state_dict, self.state_key)
        self._frames = saved.frames
        self._rows = [_Row(*row) for row in zip(saved.env_steps, saved.reconstructions, strict=True)]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Takes the frames and draws them before anything is learned, unless the run is continued."""
        module = _drawn(trainer, pl_module)
        if module is not None and not self._rows:
            data = data_of(trainer)
            self._frames = torch.from_numpy(data.example_frames(_NUM_FRAMES))
            self._rows = [self._row(module, data.env_steps)]
            self._draw(trainer, module, self._rows)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a row once another tenth of the run is done; the checkpoint, saved after this, has it."""
        module = _drawn(trainer, pl_module)
        if module is None:
            return
        data = data_of(trainer)
        drawn, done = (_NUM_PARTS * n // data.total_env_steps for n in (self._rows[-1].env_steps, data.env_steps))
        if drawn < done:
            self._rows.append(self._row(module, data.env_steps))
            self._draw(trainer, module, self._rows)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adds a row if the run ends within a tenth; it is not saved, since the run may be continued.

        Not after a signal.
        """
        module = _drawn(trainer, pl_module)
        if module is None or is_stopped_by_signal(trainer):
            return
        env_steps = data_of(trainer).env_steps
        if self._rows[-1].env_steps < env_steps:
            self._draw(trainer, module, [*self._rows, self._row(module, env_steps)])

    def _row(self, module: ImpalaVAEModule, env_steps: int) -> _Row:
        return _Row(env_steps, _pixels(module.reconstructed(self._frames)[1]))

    def _draw(self, trainer: Trainer, module: ImpalaVAEModule, rows: list[_Row]) -> None:
        shown, env_steps = EngFormatter(sep=""), rows[-1].env_steps
        inputs, _ = module.reconstructed(self._frames)
        images = [
            ("frame", self._frames),
            ("input", _pixels(inputs)),
            *((shown(row.env_steps), row.images) for row in rows),
        ]
        pictures = []
        with going_on_without(self.reconstructions):
            draw_image_rows(
                self.reconstructions,
                [(label, row.numpy()) for label, row in images],
                title=f"{self._title}: reconstructions after so many env steps",
            )
            pictures.append(self.reconstructions)
        values = torch.tensor(_VALUES, dtype=torch.float32)
        traversal = module.traversed(self._frames, values, num_dimensions=_NUM_DIMENSIONS)
        with going_on_without(self.traversal):
            draw_image_rows(
                self.traversal,
                [
                    (f"dimension {dimension}: {kl:.2f} nats", _pixels(row).numpy())
                    for dimension, kl, row in zip(*traversal, strict=True)
                ],
                columns=[str(value) for value in _VALUES],
                title=f"{self._title}: parts of the code after {shown(env_steps)} env steps",
            )
            pictures.append(self.traversal)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=env_steps, videos=[], pictures=pictures)


def _drawn(trainer: Trainer, module: LightningModule) -> ImpalaVAEModule | None:
    """The module, if it has an autoencoder and this process is the one that draws."""
    if not trainer.is_global_zero or is_fast_dev_run(trainer):
        return None
    return module if isinstance(module, ImpalaVAEModule) else None


def _pixels(images: Float32[Tensor, "N K H W"]) -> UInt8[Tensor, "N H W K"]:
    return (rearrange(images, "n k h w -> n h w k") * 255).round().to(torch.uint8).contiguous()
