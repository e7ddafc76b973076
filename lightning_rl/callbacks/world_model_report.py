"""How good a world model is, in numbers and beside the game."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float32, UInt8
from numpy.typing import NDArray
from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import WandbLogger
from torch import Tensor
from torch.nn import functional

from lightning_rl.callbacks.iteration_metrics import data_of
from lightning_rl.callbacks.media_output import going_on_without
from lightning_rl.data.replay import ReplayBuffer
from lightning_rl.media.figures import draw_image_rows
from lightning_rl.media.videos import captioned, tiled, write_video
from lightning_rl.modules.simple.module import SimPLeModule
from lightning_rl.modules.simple.world_model import reward_classes
from lightning_rl.runs.wandb_run import log_media
from lightning_rl.types import Windows

_ROLLOUT_LENGTH, _NUM_SHOWN = 50, 4
_HORIZONS = (12, 50)  # steps after which the paper compares summed rewards
_PART = 64  # windows at a time
_DRAWN_STEPS = (0, 1, 2, 5, 10, 20, 30, 40, 50)
_SCALE, _FRAMES_PER_SECOND = 3, 10


class Imagination(NamedTuple):
    """What a world model makes of the actions of real play, from the same frames on."""

    frames: UInt8[Tensor, "N P H W C"]
    rewards: Float32[Tensor, "N P"]


def imagination(module: SimPLeModule, windows: Windows, generator: torch.Generator) -> Imagination:
    """Imagined frames and likeliest rewards along the actions of windows, whose frames are seen at the start only."""
    first = module.num_frames
    imagined = Imagination(
        torch.empty_like(windows.frames[:, first:]), torch.empty_like(windows.rewards[:, first - 1 :])
    )
    simulator = module.simulator()
    for start in range(0, len(windows), _PART):
        rows = slice(start, start + _PART)
        stack = rearrange(windows.frames[rows, :first], "n k h w c -> n h w (k c)")
        state = simulator.begin(stack)
        for number, actions in enumerate(windows.actions[rows, first - 1 :].unbind(1)):
            step = simulator.imagine(stack, actions, generator, state).to(torch.device("cpu"))
            stack = torch.cat([stack[..., step.frames.shape[-1] :], step.frames], dim=-1)
            state = step.state
            imagined.frames[rows, number], imagined.rewards[rows, number] = step.frames, step.rewards
    return imagined


def world_model_metrics(
    module: SimPLeModule,
    replay: ReplayBuffer,
    *,
    num_steps: int = 512,
    num_rollouts: int = 64,
    seed: int = 0,
) -> dict[str, float]:
    """`world_model/*` of interface.md, on play that was held out; nothing where none is.

    Errors are mean squared differences of sub-pixels in 0..255; accuracies of single rewards are means over the
    classes that occur, so that always saying the most frequent one has a share of one by their number. Frames that open
    another episode are no prediction and do not count.

    Args:
        module: the world model.
        replay: play, some of it held out.
        num_steps: single steps to predict.
        num_rollouts: pieces of 50 steps to imagine.
        seed: of what is drawn.
    """
    generator = torch.Generator().manual_seed(seed)
    windows = replay.sample(num_steps, num_targets=1, generator=generator, held_out=True)
    imagined = imagination(module, windows, generator)
    metrics = _frame_errors(windows, imagined, module.num_frames) | _reward_accuracies(windows, imagined, module)
    del windows, imagined  # before as many frames come again
    rollouts = replay.sample(num_rollouts, num_targets=_ROLLOUT_LENGTH, generator=generator, held_out=True)
    imagined = imagination(module, rollouts, generator)
    for horizon in _HORIZONS:
        accuracy = summed_reward_accuracy(rollouts, imagined, module, horizon)
        metrics[f"world_model/reward_accuracy_{horizon}"] = accuracy
    return metrics


def _frame_errors(windows: Windows, imagined: Imagination, num_frames: int) -> dict[str, float]:
    counts = ~windows.ended[:, num_frames - 1]
    before, after = (windows.frames[counts, number] for number in (num_frames - 1, num_frames))
    errors = {"frame_error": imagined.frames[counts, 0], "copy_frame_error": before}
    return {f"world_model/{name}": _squared_error(frames, after) for name, frames in errors.items()}


def _squared_error(one: UInt8[Tensor, "N H W C"], other: UInt8[Tensor, "N H W C"]) -> float:
    """The mean over sub-pixels, a frame at a time: as floating-point numbers all would take four times the memory."""
    errors = [float(functional.mse_loss(frame.float(), its.float())) for frame, its in zip(one, other, strict=True)]
    return float(torch.tensor(errors).mean())


def _reward_accuracies(windows: Windows, imagined: Imagination, module: SimPLeModule) -> dict[str, float]:
    values = module.reward_values.cpu()
    real = reward_classes(windows.rewards[:, module.num_frames - 1], values)
    said = reward_classes(imagined.rewards[:, 0], values)
    classes = real.unique()
    recalls = torch.stack([(said[real == number] == number).double().mean() for number in classes])
    return {
        "world_model/reward_accuracy": float(recalls.mean()),
        "world_model/majority_reward_accuracy": 1 / len(classes),
    }


def summed_reward_accuracy(windows: Windows, imagined: Imagination, module: SimPLeModule, num_steps: int) -> float:
    """The share of rollouts whose rewards, over the steps that the real episode lasted, have the right sum.

    Reference:
        tensor2tensor, rl/rl_utils.py and rl/evaluator.py, `reward_accuracy`
    """
    first = module.num_frames - 1
    real = slice(first, first + num_steps)
    valid = windows.valid[:, real]
    given, said = (
        (rewards * valid).double().sum(1) for rewards in (windows.rewards[:, real], imagined.rewards[:, :num_steps])
    )
    return float(torch.isclose(said, given, atol=1e-6).double().mean())


class WorldModelReport(Callback):
    """After each training of a world model: `world_model/*` into the row, and its play beside the game's.

    `media/imagined_<env steps>.mp4` shows four pieces of held-out play, each beside what the model makes of the same
    first frames and the same actions, with the rewards so far; `media/imagined.png` the first of them, step by step.
    Both are put into W&B too. Random numbers are its own: training does not notice.

    Args:
        run_dir: the run folder.
        title: stands above the picture.
    """

    def __init__(self, run_dir: Path, *, title: str) -> None:
        self._media = run_dir / "media"
        self._title = title

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measures, where the world model has just been trained."""
        if not isinstance(pl_module, SimPLeModule) or not pl_module.world_model_is_trained:
            return
        data = data_of(trainer)
        replay = data.collector.replay
        if not isinstance(replay, ReplayBuffer) or not replay.num_held_out:
            return
        pl_module.log_dict(world_model_metrics(pl_module, replay), sync_dist=True)
        if trainer.is_global_zero:
            self._show(trainer, pl_module, replay, data.env_steps)

    def _show(self, trainer: Trainer, module: SimPLeModule, replay: ReplayBuffer, env_steps: int) -> None:
        generator = torch.Generator().manual_seed(1)
        windows = replay.sample(_NUM_SHOWN, num_targets=_ROLLOUT_LENGTH, generator=generator, held_out=True)
        imagined = imagination(module, windows, generator)
        video = self._media / f"imagined_{env_steps}.mp4"
        picture = self._media / "imagined.png"
        videos, pictures = [], []
        with going_on_without(video):
            write_video(video, pairs(windows, imagined, module.num_frames), frames_per_second=_FRAMES_PER_SECOND)
            videos.append(video)
        shown = [step for step in _DRAWN_STEPS if step <= int(windows.valid[0, module.num_frames - 1 :].sum())]
        real = windows.frames[0, module.num_frames - 1 :]
        dreamt = torch.cat([real[:1], imagined.frames[0]])
        with going_on_without(picture):
            draw_image_rows(
                picture,
                [("game", real[shown].numpy()), ("world model", dreamt[shown].numpy())],
                columns=[f"step {step}" for step in shown],
                title=f"{self._title}: held-out play and the world model's, same start and actions",
            )
            pictures.append(picture)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                log_media(logger, env_steps=env_steps, videos=videos, pictures=pictures)


def pairs(windows: Windows, imagined: Imagination, num_frames: int) -> Iterator[UInt8[NDArray[Any], "H2 W2 3"]]:
    """A video of games and what a world model makes of them, side by side, with the rewards so far.

    A game whose real episode is over is darkened, and so is the model's.
    """
    real = windows.frames[:, num_frames:]
    valid = windows.valid[:, num_frames - 1 :]
    sums = [(rewards * valid).cumsum(1) for rewards in (windows.rewards[:, num_frames - 1 :], imagined.rewards)]
    for step in range(real.shape[1]):
        both = torch.stack([real[:, step], imagined.frames[:, step]], 1).flatten(0, 1)
        rewards = torch.stack([total[:, step] for total in sums], 1).flatten().tolist()
        names = ["game", "world model"] * len(real)
        captions = [f"{name} {reward:+g}" for name, reward in zip(names, rewards, strict=True)]
        over = (~valid[:, step]).repeat_interleave(2).numpy()
        yield tiled(captioned(both.numpy(), captions, scale=_SCALE), columns=4, scale=1, dimmed=over)
